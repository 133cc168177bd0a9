//! What a configuration and its rules come to: one number, which changes with their content and with the names of rule files.
//! Pure.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

/// A SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Digest([u8; 32]);

/// A SHA-256 that grows.
#[derive(Default)]
pub(crate) struct Digesting(Sha256);

impl Digesting {
    /// Adds bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The sum.
    pub(crate) fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// A file of rules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RuleFile {
    /// Which of the rule dirs it is in.
    pub(crate) dir: usize,
    /// Its path there, so that a folder that is swapped for an equal one changes nothing.
    pub(crate) name: PathBuf,
    /// The sum of its content.
    pub(crate) content: Digest,
}

/// The digest of all that Prometheus is to load.
///
/// `Differs:` Thanos hashes the whole paths, links resolved, so that each resync of a ConfigMap is a reload (D-33).
pub(crate) fn of(config: Option<&[u8]>, rules: &[RuleFile]) -> Digest {
    let mut all = Digesting::default();
    if let Some(config) = config {
        all.update(b"config");
        all.update(&Sha256::digest(config));
    }
    let mut rules: Vec<&RuleFile> = rules.iter().collect();
    rules.sort();
    for rule in rules {
        let name = rule.name.as_os_str().as_bytes();
        all.update(b"rules");
        // Lengths first, so that no name looks like what follows it.
        all.update(&(rule.dir as u64).to_be_bytes());
        all.update(&(name.len() as u64).to_be_bytes());
        all.update(name);
        all.update(&rule.content.0);
    }
    all.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn rule(dir: usize, name: &str, content: &[u8]) -> RuleFile {
        let mut sum = Digesting::default();
        sum.update(content);
        RuleFile { dir, name: name.into(), content: sum.finish() }
    }

    #[test]
    fn whatever_matters_changes_it() {
        let (a, b) = (rule(0, "a.yml", b"1"), rule(0, "b.yml", b"2"));
        let all = [
            of(None, &[]),
            of(Some(b""), &[]),
            of(Some(b"x"), &[]),
            of(Some(b"x"), std::slice::from_ref(&a)),
            of(None, std::slice::from_ref(&a)),
            of(None, &[a.clone(), b.clone()]),
            of(None, &[rule(1, "a.yml", b"1")]),
            of(None, &[rule(0, "a.yml", b"2")]),
            of(None, &[rule(0, "c/a.yml", b"1")]),
            of(None, &[rule(0, "a.yml", b"2"), rule(0, "b.yml", b"1")]),
        ];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        assert_eq!(of(None, &[b.clone(), a.clone()]), of(None, &[a, b]));
    }
}
