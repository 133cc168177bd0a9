//! HTTP/2 as a guard in front of a server sees it: frame headers, and budgets for what costs the server work. Never looks
//! into header blocks or messages, but for one header. Pure: time is an argument.

mod compression;
mod frames;
mod guard;
mod rate;
mod walker;

pub use crate::limits::STREAMS_MAX;
pub use compression::Compression;
pub use frames::{cancel, exhausted, goaway, ping};
pub use guard::{Guard, PREFACE, Refused, Rules, Verdict};
pub use rate::{Rate, TokenBucket};
