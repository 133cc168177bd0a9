//! To come.

mod brake;
mod bucket;
pub mod front;
pub mod guard;
mod relay;
mod walker;
