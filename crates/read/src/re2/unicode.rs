//! Which characters belong to a class, and which differ in case only. Pure.

use super::tables::{CLASSES, FOLDS};

/// A set of characters that does not change.
#[derive(Clone, Copy)]
pub(super) enum Set {
    /// Every character.
    Any,
    /// First and last of each range.
    Ranges(&'static [(u32, u32)]),
    /// A table in the form of `tables.rs`.
    Table(&'static [u32]),
}

impl Set {
    pub(super) fn has(self, c: u32) -> bool {
        match self {
            Set::Any => true,
            Set::Ranges(ranges) => ranges.iter().any(|(first, last)| (*first..=*last).contains(&c)),
            Set::Table(table) => {
                let idx = table.partition_point(|range| range >> 11 <= c);
                idx > 0 && c - (table[idx - 1] >> 11) <= table[idx - 1] & 0x7ff
            }
        }
    }
}

/// A general category, a script, or `Any`, by the name that Go gives it.
pub(super) fn class(name: &str) -> Option<Set> {
    if name == "Any" {
        return Some(Set::Any);
    }
    let idx = CLASSES.binary_search_by_key(&name, |(name, _)| name).ok()?;
    Some(Set::Table(CLASSES[idx].1))
}

/// The next of the characters that differ from this one in case only; they form a ring, mostly of one.
pub(super) fn next_case(c: u32) -> u32 {
    let idx = FOLDS.partition_point(|(first, ..)| *first <= c);
    // Runs of capital and small letters may interleave, so the one that counts is among the last two.
    for (first, last, step, delta) in FOLDS[idx.saturating_sub(2)..idx].iter().rev() {
        if c <= *last && (c - first).is_multiple_of(*step) {
            return c.checked_add_signed(*delta).expect("the tables lead to characters");
        }
    }
    c
}

/// This character, and those that differ from it in case only.
pub(super) fn cases(c: u32) -> impl Iterator<Item = u32> {
    let mut next = Some(c);
    std::iter::from_fn(move || {
        let this = next?;
        next = Some(next_case(this)).filter(|other| *other != c);
        Some(this)
    })
}

/// The lowest of the characters that differ from this one in case only.
pub(super) fn lowest_case(c: u32) -> u32 {
    cases(c).min().unwrap_or(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_of_cases() {
        let check = |c: char, expected: &str| {
            let mut ring: Vec<char> = cases(u32::from(c)).map(|c| char::from_u32(c).unwrap()).collect();
            ring.sort_unstable();
            assert_eq!(ring.into_iter().collect::<String>(), expected, "{c}");
        };
        check('a', "Aa");
        check('Z', "Zz");
        check('7', "7");
        check('k', "Kk\u{212a}");
        check('s', "Ss\u{17f}");
        check('ü', "Üü");
        check('ß', "ß\u{1e9e}");
        check('Σ', "Σςσ");
        check('Ǆ', "ǄǅǆǄ".chars().take(3).collect::<String>().as_str());
        check('Ā', "Āā");
        check('ÿ', "ÿŸ");
        check('𞤀', "𞤀𞤢");
        check('漢', "漢");
    }

    /// Every ring closes, and is the same from each of its members.
    #[test]
    fn rings_are_closed() {
        for c in 0..=0x10_ffff {
            assert!(cases(c).take(5).count() < 5, "{c:x}");
            for other in cases(c) {
                assert_eq!(lowest_case(other), lowest_case(c), "{c:x}");
            }
        }
    }

    #[test]
    fn classes_by_name() {
        let check = |name: &str, c: char, expected: bool| {
            assert_eq!(class(name).unwrap().has(u32::from(c)), expected, "{name} {c}");
        };
        check("L", 'ü', true);
        check("L", '漢', true);
        check("L", '1', false);
        check("Lu", 'Ü', true);
        check("Lu", 'ü', false);
        check("Greek", 'λ', true);
        check("Greek", 'l', false);
        check("Any", '\u{10ffff}', true);
        check("Co", '\u{10fffd}', true);
        check("Cc", '\0', true);
        check("Old_Italic", '\u{10300}', true);
        assert!(class("greek").is_none() && class("").is_none() && class("Letter").is_none());
    }
}
