//! Everything about Prometheus: what is asked of it, how its answers are read, and the one client that talks to it.

mod advice;
pub(crate) mod answers;
mod checks;
mod client;
mod encodings;
mod frames;
pub(crate) mod listing;
mod paths;
mod redirect;
pub(crate) mod request;
mod send;

pub use answers::{Answer, Configuration, RuntimeInfo};
pub use checks::{FlagCheck, FlagWarning, Flags, is_agent, remote_reads_max, retention_ms};
pub use client::{Call, PromClient, PromUrl, ReadAnswer};
pub use encodings::ChunkEncodings;
pub use frames::FrameReader;
pub use paths::check_flags;
pub use request::{read_request_body, selector};
