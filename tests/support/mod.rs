//! What several test files need: real servers as child processes.

mod ports;
pub mod prometheus;
pub mod server;
