//! HTTP/2 as a guard in front of a server sees it: frame headers, and budgets for what costs the server work. Never looks
//! into header blocks or messages. Pure: time is an argument.

mod guard;
mod rate;
mod walker;

pub use crate::limits::{HANDSHAKE_TIMEOUT, STREAMS_MAX};
pub use guard::{Guard, PREFACE, Rules, Verdict};
pub use rate::{Rate, TokenBucket};
pub use walker::GOAWAY;
