//! The command line: the tables of flags, the parser that they drive, and the configuration that is made of the result.

pub(crate) mod config;
mod flag;
mod flags;
mod help;
mod parse;
pub(crate) mod store_limits;
mod token;
mod values;

pub(crate) use config::Config;
pub use flags::markdown_table;
pub(crate) use flags::{CheckFlags, SidecarFlags, VerifyFlags};
pub(crate) use parse::{Invocation, parse};
pub(crate) use values::HashFunc;
