//! What several test files need: real servers as child processes.

pub mod prometheus;
pub mod server;
