//! Block names: ULIDs, strictly. Pure.

use std::fmt;

/// The name of a block: 26 characters of Crockford's alphabet in capitals, the first at most `7`.
///
/// `Differs:` Thanos takes any 26 bytes whose first is at most `7`; Prometheus writes only names from the alphabet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ulid([u8; 26]);

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl Ulid {
    /// Reads a name; `None` if it is not a ULID.
    pub fn parse(text: &str) -> Option<Ulid> {
        let bytes: [u8; 26] = text.as_bytes().try_into().ok()?;
        let fits =
            bytes.iter().all(|byte| ALPHABET.contains(byte)) && bytes.first().is_some_and(|first| *first <= b'7');
        fits.then_some(Ulid(bytes))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("the alphabet is ASCII")
    }

    /// When the block was named. `Units:` ms since 1970.
    pub(crate) fn time_ms(&self) -> i64 {
        self.0.iter().take(10).fold(0, |time, byte| {
            let digit = ALPHABET.iter().position(|letter| letter == byte).unwrap_or(0);
            time << 5 | i64::try_from(digit).unwrap_or(0)
        })
    }
}

impl fmt::Display for Ulid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Ulid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_strict_names_are_blocks() {
        assert!(Ulid::parse("01ARZ3NDEKTSV4RRFFQ69G5FAV").is_some());
        assert!(Ulid::parse("7ZZZZZZZZZZZZZZZZZZZZZZZZZ").is_some());
        for odd in [
            "",
            "wal",
            "01ARZ3NDEKTSV4RRFFQ69G5FA",
            "01ARZ3NDEKTSV4RRFFQ69G5FAVV",
            "81ARZ3NDEKTSV4RRFFQ69G5FAV",
            "01arz3ndektsv4rrffq69g5fav",
            "01ARZ3NDEKTSV4RRFFQ69G5FAI",
            "01ARZ3NDEKTSV4RRFFQ69G5FAU",
            "01ARZ3NDEKTSV4RRFFQ69G5FA.",
            "01ARZ3NDEKTSV4RRFFQ69G5Fü",
            "01ARZ3NDEKTSV4RRFFQ69G5FAV.tmp-for-creation",
        ] {
            assert!(Ulid::parse(odd).is_none(), "{odd}");
        }
    }

    #[test]
    fn the_time_is_in_the_first_ten_characters() {
        assert_eq!(Ulid::parse("01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap().time_ms(), 1_469_922_850_259);
        assert_eq!(Ulid::parse("00000000010000000000000000").unwrap().time_ms(), 1);
        assert_eq!(Ulid::parse("7ZZZZZZZZZ0000000000000000").unwrap().time_ms(), (1 << 48) - 1);
    }
}
