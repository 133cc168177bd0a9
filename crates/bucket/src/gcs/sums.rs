//! The sums of a file that Google compares: CRC-32C always, MD5 where it costs little.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use crc32c::{crc32c_append, crc32c_combine};
use md5::{Digest, Md5};

use super::json::Object;
use pillion_base::error::Result;
use pillion_base::files::Source;
use pillion_base::stop::Stop;

/// The sums of one file, or of some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sums {
    /// How many bytes there are.
    pub size_bytes: u64,
    /// Their CRC-32C.
    pub crc32c: u32,
    /// Their MD5, if it was computed.
    pub md5: Option<[u8; 16]>,
}

impl Sums {
    /// Those of bytes.
    pub(super) fn of_bytes(bytes: &[u8]) -> Sums {
        let md5 = Some(Md5::digest(bytes).into());
        Sums { size_bytes: bytes.len() as u64, crc32c: crc32c::crc32c(bytes), md5 }
    }

    /// Those of a file, with the MD5 if `has_md5`.
    pub(super) fn of_file(source: &Source, has_md5: bool, stop: &Stop) -> Result<Sums> {
        let (mut crc32c, mut md5) = (0, has_md5.then(Md5::new));
        source.for_each(0..source.size_bytes(), |buffer| {
            stop.check()?;
            crc32c = crc32c_append(crc32c, buffer);
            if let Some(md5) = &mut md5 {
                md5.update(buffer);
            }
            Ok(())
        })?;
        Ok(Sums { size_bytes: source.size_bytes(), crc32c, md5: md5.map(|md5| md5.finalize().into()) })
    }

    /// Those of a file, and the CRC-32C of each of its chunks.
    pub(super) fn of_chunks(source: &Source, chunk_bytes: u64, stop: &Stop) -> Result<(Sums, Vec<u32>)> {
        let (size_bytes, mut whole, mut chunks) = (source.size_bytes(), 0, Vec::new());
        let mut start = 0;
        while start < size_bytes {
            let (end, mut chunk) = (size_bytes.min(start.saturating_add(chunk_bytes.max(1))), 0);
            source.for_each(start..end, |buffer| {
                stop.check()?;
                chunk = crc32c_append(chunk, buffer);
                Ok(())
            })?;
            whole = crc32c_combine(whole, chunk, usize::try_from(end - start).unwrap_or(usize::MAX));
            chunks.push(chunk);
            start = end;
        }
        Ok((Sums { size_bytes, crc32c: whole, md5: None }, chunks))
    }

    /// What differs between these and what the store has; `None` if it has the same. A sum that the store does not say, or
    /// that is not known here, does not count.
    pub(super) fn difference(&self, object: &Object) -> Option<String> {
        if self.size_bytes != object.size_bytes {
            return Some(format!("{} bytes were sent and the store has {}", self.size_bytes, object.size_bytes));
        }
        let other = |name: &str| Some(format!("the store has another {name} than that of what was sent"));
        if object.crc32c.is_some_and(|crc32c| crc32c != self.crc32c) {
            return other("CRC-32C");
        }
        match (self.md5, object.md5) {
            (Some(ours), Some(theirs)) if ours != theirs => other("MD5"),
            _ => None,
        }
    }

    /// The value of `x-goog-hash`.
    pub(super) fn header(&self) -> String {
        let crc32c = format!("crc32c={}", base64_of(self.crc32c));
        match self.md5 {
            Some(md5) => format!("{crc32c},md5={}", BASE64_STANDARD.encode(md5)),
            None => crc32c,
        }
    }
}

/// A CRC-32C as Google writes it.
pub(super) fn base64_of(crc32c: u32) -> String {
    BASE64_STANDARD.encode(crc32c.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::files::Disk;
    use pillion_base::stop::stop_pair;

    #[test]
    fn chunks_make_the_sum_of_the_file() {
        let (_stopper, stop) = stop_pair().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let bytes: Vec<u8> = (0..10_007u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        std::fs::write(&file, &bytes).unwrap();
        let source = Disk::real().open_source(&file).unwrap();
        let whole = Sums::of_bytes(&bytes);
        assert_eq!(Sums::of_file(&source, true, &stop).unwrap(), whole);
        for chunk_bytes in [1000, 10_006, 10_007, 20_000] {
            let (sums, chunks) = Sums::of_chunks(&source, chunk_bytes, &stop).unwrap();
            assert_eq!(sums, Sums { md5: None, ..whole.clone() });
            assert_eq!(chunks.len() as u64, 10_007u64.div_ceil(chunk_bytes));
        }
    }

    #[test]
    fn what_differs_is_named() {
        let sums = Sums::of_bytes(b"hello");
        assert_eq!(sums.header(), "crc32c=mnG7TA==,md5=XUFAKrxLKna5cZ2REBfFkg==");
        let same = Object { size_bytes: 5, crc32c: Some(sums.crc32c), md5: sums.md5, generation: String::new() };
        let check = |object: Object, part: Option<&str>| match (sums.difference(&object), part) {
            (None, None) => {}
            (Some(text), Some(part)) => assert!(text.contains(part), "{text}"),
            (got, _) => panic!("{object:?}: {got:?}"),
        };
        check(same.clone(), None);
        check(Object { crc32c: None, md5: None, ..same.clone() }, None);
        check(Object { size_bytes: 4, ..same.clone() }, Some("the store has 4"));
        check(Object { crc32c: Some(1), ..same.clone() }, Some("another CRC-32C"));
        check(Object { md5: Some([0; 16]), ..same }, Some("another MD5"));
    }
}
