//! Two things of an X.509 certificate that the TLS library does not tell: when it is valid, and the names in it. Pure.
//!
//! A strict walk over DER that never checks a signature: what it reads is trusted for logs and metrics, or was verified
//! before. Anything unexpected is `None`.

use core::net::{Ipv4Addr, Ipv6Addr};

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0]`, the certificate's version.
const VERSION: u8 = 0xa0;
/// `[3]`, the extensions.
const EXTENSIONS: u8 = 0xa3;
/// 2.5.29.17, the alternative names of the subject.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// The kinds of alternative names that are read: e-mail, DNS, URI, IP address.
const EMAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const URI: u8 = 0x86;
const IP: u8 = 0x87;

/// When a certificate is valid. `Units:` seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before: i64,
    /// The last second.
    pub not_after: i64,
}

/// When a certificate is valid; `None` if it is none.
pub fn validity(certificate: &[u8]) -> Option<Validity> {
    let mut fields = after_issuer(certificate)?;
    let mut times = Walk(fields.expect(SEQUENCE)?);
    let validity = Validity { not_before: times.time()?, not_after: times.time()? };
    times.0.is_empty().then_some(validity)
}

/// The DNS names, IP addresses, e-mail addresses and URIs that a certificate is for; `None` if it is none.
pub fn subject_alt_names(certificate: &[u8]) -> Option<Vec<String>> {
    let mut fields = after_issuer(certificate)?;
    for _validity_subject_key in 0..3 {
        fields.expect(SEQUENCE)?;
    }
    let mut names = Vec::new();
    while !fields.0.is_empty() {
        // Before the extensions there may be unique identifiers, which nobody uses.
        let (EXTENSIONS, inside) = fields.any()? else { continue };
        let mut extensions = Walk(Walk(inside).expect(SEQUENCE)?);
        while !extensions.0.is_empty() {
            let mut extension = Walk(extensions.expect(SEQUENCE)?);
            let is_names = extension.expect(OBJECT_IDENTIFIER)? == SUBJECT_ALT_NAME;
            extension.optional(BOOLEAN)?;
            let value = extension.expect(OCTET_STRING)?;
            if is_names {
                alt_names(value, &mut names)?;
            }
        }
    }
    Some(names)
}

fn alt_names(value: &[u8], names: &mut Vec<String>) -> Option<()> {
    let mut list = Walk(Walk(value).expect(SEQUENCE)?);
    while !list.0.is_empty() {
        match list.any()? {
            (EMAIL | DNS | URI, text) => names.push(std::str::from_utf8(text).ok()?.to_owned()),
            (IP, bytes) => names.push(match bytes.len() {
                4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).to_string(),
                _ => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical().to_string(),
            }),
            _ => {}
        }
    }
    Some(())
}

/// The fields of a certificate from its validity on.
fn after_issuer(certificate: &[u8]) -> Option<Walk<'_>> {
    let mut whole = Walk(certificate);
    let mut parts = Walk(whole.expect(SEQUENCE)?);
    if !whole.0.is_empty() {
        return None;
    }
    let mut fields = Walk(parts.expect(SEQUENCE)?);
    fields.optional(VERSION)?;
    fields.expect(INTEGER)?;
    for _signature_issuer in 0..2 {
        fields.expect(SEQUENCE)?;
    }
    Some(fields)
}

/// What is left of a list of values, each a tag, a length and that many bytes.
struct Walk<'a>(&'a [u8]);

impl<'a> Walk<'a> {
    fn any(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        // Longer tags do not occur in certificates.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = bytes.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte));
                // DER knows one form of each length: the shortest.
                if bytes.first() == Some(&0) || length < 0x80 {
                    return None;
                }
                (length, rest)
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, value))
    }

    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.any().and_then(|(found, value)| (found == tag).then_some(value))
    }

    /// Steps over a value that may be missing.
    fn optional(&mut self, tag: u8) -> Option<()> {
        if self.0.first() == Some(&tag) {
            self.any()?;
        }
        Some(())
    }

    fn time(&mut self) -> Option<i64> {
        let (tag, text) = self.any()?;
        let (year, rest) = match tag {
            UTC_TIME => {
                let (year, rest) = digits(text, 2)?;
                // `Source:` RFC 5280, 4.1.2.5.1.
                (if year < 50 { year + 2000 } else { year + 1900 }, rest)
            }
            GENERALIZED_TIME => digits(text, 4)?,
            _ => return None,
        };
        let (month, rest) = digits(rest, 2)?;
        let (day, rest) = digits(rest, 2)?;
        let (hour, rest) = digits(rest, 2)?;
        let (minute, rest) = digits(rest, 2)?;
        let (second, rest) = digits(rest, 2)?;
        let is_time = (1..=12).contains(&month)
            && (1..=days_in(year, month)).contains(&day)
            && hour < 24
            && minute < 60
            && second < 60
            && rest == b"Z";
        is_time.then(|| days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
    }
}

fn digits(text: &[u8], n_digits: usize) -> Option<(i64, &[u8])> {
    let (digits, rest) = text.split_at_checked(n_digits)?;
    let mut number = 0;
    for digit in digits {
        number = number * 10 + i64::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    Some((number, rest))
}

fn is_leap(year: i64) -> bool {
    (year % 4 == 0 && year % 100 != 0) || year % 400 == 0
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(is_leap(year)),
        _ => 31,
    }
}

/// Own arithmetic, because the time library ends a day before 9999-12-31, the date of certificates without an end.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March have their leap day at the end.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
        let [.., high, low] = value.len().to_be_bytes();
        let mut out = match (high, low) {
            (0, 0..=0x7f) => vec![tag, low],
            (0, _) => vec![tag, 0x81, low],
            _ => vec![tag, 0x82, high, low],
        };
        out.extend_from_slice(value);
        out
    }

    fn certificate(tag: u8, end: &str) -> Vec<u8> {
        let nothing = tlv(SEQUENCE, &[]);
        let times = [tlv(UTC_TIME, b"700101000000Z"), tlv(tag, end.as_bytes())].concat();
        let fields =
            [tlv(VERSION, &tlv(INTEGER, &[2])), tlv(INTEGER, &[1]), nothing.clone(), nothing, tlv(SEQUENCE, &times)];
        tlv(SEQUENCE, &tlv(SEQUENCE, &fields.concat()))
    }

    #[track_caller]
    fn check(tag: u8, end: &str, expected: Option<i64>) {
        let found = validity(&certificate(tag, end));
        assert_eq!(found, expected.map(|not_after| Validity { not_before: 0, not_after }), "{end}");
    }

    #[test]
    fn ends() {
        check(UTC_TIME, "700101000001Z", Some(1));
        check(UTC_TIME, "260228235959Z", Some(1_772_323_199));
        check(UTC_TIME, "491231235959Z", Some(2_524_607_999));
        check(UTC_TIME, "500101000000Z", Some(-631_152_000));
        check(GENERALIZED_TIME, "20500101000000Z", Some(2_524_608_000));
        check(GENERALIZED_TIME, "20240229120000Z", Some(1_709_208_000));
        check(GENERALIZED_TIME, "21000228000000Z", Some(4_107_456_000));
        // The date of certificates without an end.
        check(GENERALIZED_TIME, "99991231235959Z", Some(253_402_300_799));
        check(GENERALIZED_TIME, "00000101000000Z", Some(-62_167_219_200));
    }

    #[test]
    fn what_is_no_time() {
        for end in ["", "Z", "2602282359Z", "260228235959", "260228235959+0000", "26022823595 Z", "260229000000Z"] {
            check(UTC_TIME, end, None);
        }
        for end in ["20261301000000Z", "20260001000000Z", "20260100000000Z", "20260432000000Z", "21000229000000Z"] {
            check(GENERALIZED_TIME, end, None);
        }
        for end in ["20260101240000Z", "20260101006000Z", "20260101000060Z", "20260101000000.5Z"] {
            check(GENERALIZED_TIME, end, None);
        }
        check(OCTET_STRING, "20260101000000Z", None);
    }

    #[test]
    fn lengths_have_one_form() {
        let check = |bytes: &[u8], expected: Option<usize>| {
            assert_eq!(Walk(bytes).any().map(|(_, value)| value.len()), expected, "{bytes:?}");
        };
        check(&[4, 0], Some(0));
        check(&[4, 1, 9], Some(1));
        check(&[4, 1], None);
        check(&[4, 0x80], None);
        check(&[4, 0x81, 1, 9], None);
        check(&[4, 0x82, 0, 0x80], None);
        check(&[4, 0x84, 0xff, 0xff, 0xff, 0xff], None);
        check(&[4, 0x88, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], None);
        check(&[0x1f, 1, 1], None);
        check(&[4], None);
        check(&[], None);
        check(&tlv(4, &[0; 200]), Some(200));
        check(&tlv(4, &[0; 300]), Some(300));
    }
}
