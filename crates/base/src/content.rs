//! Pairs of flags: one names a file, the other holds the content itself (Thanos's `PathOrContent`). Errors never quote the
//! content, which may hold secrets.

use crate::error::{Context, Error, Kind, Result};

/// The content of such a pair, and where it came from.
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    /// The file's path, or the flag; for errors.
    pub origin: String,
    /// The text.
    pub text: String,
}

/// Returns the content of `--<name>-file` or `--<name>`; `None` when both are empty, or the content is.
pub fn load(name: &str, file: &str, content: &str) -> Result<Option<Content>> {
    if !file.is_empty() && !content.is_empty() {
        return Err(Error::new(Kind::Permanent, format!("both {name}-file and {name} flags set.")));
    }
    let loaded = if file.is_empty() {
        Content { origin: format!("--{name}"), text: content.to_owned() }
    } else {
        let bytes = std::fs::read(file).context(|| format!("loading file {file} for {name}-file"))?;
        let text = String::from_utf8(bytes).map_err(|_| {
            Error::new(Kind::Corrupt, "not UTF-8").context(format!("loading file {file} for {name}-file"))
        })?;
        Content { origin: file.to_owned(), text }
    };
    Ok(Some(loaded).filter(|loaded| !loaded.text.is_empty()))
}

/// Replaces each `$(NAME)` with the environment variable of that name; an empty one is fine, a missing one is not.
pub fn substitute(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String> {
    let bytes = substitute_bytes(text.as_bytes(), &|name| env(name).map(String::into_bytes))?;
    String::from_utf8(bytes).map_err(|_| Error::new(Kind::Corrupt, "not UTF-8"))
}

/// The same for content that need not be text.
pub fn substitute_bytes(content: &[u8], env: &dyn Fn(&str) -> Option<Vec<u8>>) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(content.len());
    let mut rest = content;
    while let Some((dollar, after)) = rest.split_first() {
        let Some((name, after)) = reference(rest) else {
            out.push(*dollar);
            rest = after;
            continue;
        };
        let value = env(name).ok_or_else(|| {
            Error::new(Kind::Permanent, format!("found reference to unset environment variable {name:?}"))
        })?;
        out.extend_from_slice(&value);
        rest = after;
    }
    Ok(out)
}

/// The name in the `$(NAME)` with which `content` begins, and what follows it.
fn reference(content: &[u8]) -> Option<(&str, &[u8])> {
    let inside = content.strip_prefix(b"$(")?;
    let (name, after) = inside.split_at(inside.iter().position(|c| !c.is_ascii_alphanumeric() && *c != b'_')?);
    let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty())?;
    Some((name, after.strip_prefix(b")")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_the_two() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bucket.yml").display().to_string();
        std::fs::write(&path, "type: X").unwrap();
        let of_file = Content { origin: path.clone(), text: "type: X".into() };
        let of_flag = Content { origin: "--objstore.config".into(), text: "a: b".into() };
        assert!(load("objstore.config", &path, "").unwrap() == Some(of_file));
        assert!(load("objstore.config", "", "a: b").unwrap() == Some(of_flag));
        assert!(load("objstore.config", "", "").unwrap().is_none());
        std::fs::write(&path, "").unwrap();
        assert!(load("objstore.config", &path, "").unwrap().is_none());
    }

    #[test]
    fn both_or_unreadable() {
        let err = |file, content| load("objstore.config", file, content).err().unwrap().to_string();
        assert_eq!(err("x", "secret"), "both objstore.config-file and objstore.config flags set.");
        let unreadable = err("/nonexistent/x.yml", "");
        assert!(unreadable.starts_with("loading file /nonexistent/x.yml for objstore.config-file: "), "{unreadable}");
    }

    #[test]
    fn environment_variables() {
        let env = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "EMPTY_2" => Some(String::new()),
            "NESTED" => Some("$(A)".to_owned()),
            _ => None,
        };
        for (text, want) in [
            ("plain", Ok("plain")),
            ("x: $(A)$(A)-$(EMPTY_2).", Ok("x: 11-.")),
            ("$(NESTED)", Ok("$(A)")),
            ("$$(A)", Ok("$1")),
            ("$($(A))", Ok("$(1)")),
            ("$A ${A} $() $( A) $(A-B) $(A", Ok("$A ${A} $() $( A) $(A-B) $(A")),
            ("ü$(A)ü", Ok("ü1ü")),
            ("$(MISSING)", Err("found reference to unset environment variable \"MISSING\"")),
        ] {
            let got = substitute(text, &env).map_err(|err| err.to_string());
            assert_eq!(got.as_deref().map_err(String::as_str), want, "{text}");
        }
    }
}
