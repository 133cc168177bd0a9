//! The way of a path through folders and symbolic links, each of which may be swapped for another. Reads links only.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use crate::limits;

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Trail {
    /// The folders on the way, without links in their paths, each with the name that is looked up in it. Whatever makes the
    /// path lead elsewhere happens to one of these names.
    pub(crate) steps: Vec<(PathBuf, OsString)>,
    /// The end of the way, if there is one; otherwise the last step is the one that is missing.
    pub(crate) end: Option<PathBuf>,
}

/// Follows `path`, which is absolute.
pub(crate) fn follow(path: &Path) -> Trail {
    let (mut steps, mut at, mut n_links) = (Vec::new(), PathBuf::from("/"), 0);
    let mut rest: VecDeque<OsString> = names(path).collect();
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        steps.push((at.clone(), name.clone()));
        let next = at.join(&name);
        let target = match std::fs::symlink_metadata(&next) {
            Ok(found) if found.is_symlink() => std::fs::read_link(&next).ok(),
            Ok(_) => {
                at = next;
                continue;
            }
            Err(_) => None,
        };
        n_links += 1;
        let Some(target) = target.filter(|_| n_links <= limits::LINKS_MAX) else {
            return Trail { steps, end: None };
        };
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
            rest.push_front(name);
        }
    }
    Trail { steps, end: Some(at) }
}

/// The names in a path; `..` stays, because what it means depends on the links before it.
fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_way_of_a_file_in_a_config_map() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("..2026")).unwrap();
        std::fs::write(root.join("..2026/a.yml"), "x").unwrap();
        symlink("..2026", root.join("..data")).unwrap();
        symlink("..data/a.yml", root.join("a.yml")).unwrap();
        symlink(root.join("..2026"), root.join("absolute")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let n_above = root.components().count() - 1;
        let check = |path: &str, steps: &[(&str, &str)], end: Option<&str>| {
            let trail = follow(&root.join(path));
            let expected: Vec<_> = steps.iter().map(|(dir, name)| (root.join(dir), OsString::from(name))).collect();
            let expected: Vec<_> = expected.iter().map(|(dir, name)| (dir.components().as_path(), name)).collect();
            let got: Vec<_> = trail.steps.iter().skip(n_above).filter(|(dir, _)| dir.starts_with(&root)).collect();
            let got: Vec<_> = got.iter().map(|(dir, name)| (dir.as_path(), name)).collect();
            assert_eq!(got, expected, "{path}");
            assert_eq!(trail.end, end.map(|end| root.join(end)), "{path}");
        };
        check("..2026/a.yml", &[("", "..2026"), ("..2026", "a.yml")], Some("..2026/a.yml"));
        check("a.yml", &[("", "a.yml"), ("", "..data"), ("", "..2026"), ("..2026", "a.yml")], Some("..2026/a.yml"));
        check("absolute", &[("", "absolute"), ("", "..2026")], Some("..2026"));
        check("..data/../..2026", &[("", "..data"), ("", "..2026"), ("", "..2026")], Some("..2026"));
        check("gone/a.yml", &[("", "gone")], None);
        assert_eq!(follow(&root.join("loop")).end, None);
        assert_eq!(follow(Path::new("/")), Trail { steps: Vec::new(), end: Some("/".into()) });
    }
}
