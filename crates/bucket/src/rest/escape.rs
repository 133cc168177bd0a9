//! What is escaped in URLs, and so signed. Pure.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

/// What SigV4 escapes in a query: everything but the unreserved characters of RFC 3986.
pub(crate) const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// As [`RESERVED`], for a path.
pub(crate) const RESERVED_IN_PATH: &AsciiSet = &RESERVED.remove(b'/');
