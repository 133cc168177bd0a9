//! Sizes as operators write them. Pure.

use std::str::FromStr;

/// A number of bytes with an optional unit, decimal (`10MB`) or binary (`2.5GiB`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(pub u64);

/// The units and the bytes in one of each.
const BYTE_UNITS: [(&str, u64); 8] = [
    ("", 1),
    ("B", 1),
    ("KB", 1000),
    ("KiB", 1 << 10),
    ("MB", 1000 * 1000),
    ("MiB", 1 << 20),
    ("GB", 1000 * 1000 * 1000),
    ("GiB", 1 << 30),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "not a number of bytes: {text:?}; expected a number with one of the units B, KB, KiB, MB, MiB, GB, GiB, such as 10MB"
            )
        };
        let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(at);
        let (_, unit) = BYTE_UNITS.iter().find(|(name, _)| *name == unit.trim_start()).ok_or_else(wrong)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        // Digits past the ninth are worth less than two bytes of any unit.
        let fraction = fraction.get(..9).unwrap_or(fraction);
        let scale = 10_u64.pow(u32::try_from(fraction.len()).map_err(|_| wrong())?);
        let parse = |digits: &str| digits.parse::<u64>().map_err(|_| wrong());
        let bytes = u128::from(parse(whole)?) * u128::from(*unit)
            + u128::from(parse(fraction)?) * u128::from(*unit) / u128::from(scale);
        u64::try_from(bytes).map(ByteSize).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_with_units() {
        for (text, want) in [
            ("0", 0),
            ("1234", 1234),
            ("1B", 1),
            ("10KB", 10_000),
            ("10KiB", 10_240),
            ("10 MB", 10_000_000),
            ("2.5MiB", 2_621_440),
            ("1.000000000000001GB", 1_000_000_000),
            ("0.5GiB", 1 << 29),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(want)), "{text}");
        }
        let wrong = [
            "",
            "MB",
            "-1",
            "+1",
            "1.",
            ".5MB",
            "1.5.5MB",
            "1kb",
            "1Mb",
            "1Mbit",
            "10MB/s",
            "1e6",
            "20000000000GiB",
            "1TB",
        ];
        for text in wrong {
            let err = text.parse::<ByteSize>().expect_err(text);
            assert!(err.starts_with(&format!("not a number of bytes: {text:?}; expected")), "{err}");
        }
    }
}
