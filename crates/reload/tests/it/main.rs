//! The reloader on real folders, with a Prometheus that is asked by a function.

#![allow(clippy::unwrap_used)]

mod config;
mod folders;
mod rig;
mod signal;
mod storms;
