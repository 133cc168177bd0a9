//! What all stores share that are reached over HTTP: one exchange and its connections, the waits between exchanges, small
//! questions for credentials, tokens that are kept, and the words of errors. It knows no store, never signs, and never asks twice.

mod ask;
mod config;
mod environment;
mod escape;
mod exchange;
mod proxy;
#[cfg(test)]
pub(crate) mod test_server;
mod tokens;
mod wait;
pub(crate) mod wire;
mod words;

pub(crate) use ask::{Failure, HttpAnswer, ask, ask_present, kind};
pub use config::HttpConfig;
pub(crate) use environment::{Env, read_bytes, read_text};
pub(crate) use escape::{RESERVED, RESERVED_IN_PATH};
pub use exchange::{Answer, early_answer};
pub(crate) use exchange::{Body, BodySink, ConnectionPool, ExchangeError, Permit, SignedRequest, authority, proxy};
pub(crate) use tokens::{Clock, Token, TokenCache};
pub use wait::Waits;
pub(crate) use wait::{Gate, rest_after, wait_after};
pub(crate) use words::{Cause, certificate_hint, duration, millis, plain_words, quoted, skew};
