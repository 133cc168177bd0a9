//! Spans on their way to a collector in this process.

#![allow(clippy::unwrap_used, clippy::dbg_macro)]

mod delivery;
mod spans;
mod stage;
