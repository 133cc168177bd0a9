//! Everything about Prometheus: what is asked of it, how its answers are read, and the one client that talks to it.

pub mod answers;
pub mod checks;
pub mod client;
pub mod frames;
pub mod listing;
pub mod paths;
pub mod request;
