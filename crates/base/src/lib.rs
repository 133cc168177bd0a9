//! What every part of Pillion uses. It touches no network and holds no process-wide state.

#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![warn(unreachable_pub)]

pub mod content;
pub mod error;
pub mod files;
pub mod labels;
pub mod limits;
pub mod matcher;
pub mod notify;
pub mod secret;
pub mod size;
pub mod stamp;
pub mod state;
pub mod stop;
pub mod threads;
pub mod time;
pub mod wake;
pub mod yaml;
