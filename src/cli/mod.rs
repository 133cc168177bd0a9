//! The command line: one table of flags, the parser it drives, and the configuration that is made from it once.

pub mod address;
pub mod args;
pub mod bucket;
pub mod config;
pub mod content;
pub mod flags;
pub mod help;
pub mod parse;
pub mod token;
pub mod upload_limits;
pub mod values;

pub use args::{InfoFlags, SeriesFlags, SidecarFlags, VerifyFlags};
pub use config::Config;
pub use parse::{Invocation, parse};
