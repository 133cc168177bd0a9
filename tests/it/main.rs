//! Every test of the daemon from outside, as one program: a module for each thing that a user sees. What measures a whole
//! process stands in programs of its own, `budgets` and `descriptors`.

// Helpers of tests unwrap and print as tests do.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod admin;
mod alerts;
mod apis;
mod attacks;
mod bucket_commands;
mod check;
mod cli;
mod client;
mod compression;
mod conformance;
mod dry_run;
mod e2e;
mod e2e_apis;
mod e2e_s3;
mod e2e_secure;
mod edge;
mod encodings;
mod faults;
mod front;
mod kills;
mod laboratory;
mod lifecycle;
mod limits;
mod map;
mod metrics;
mod reloader;
mod reloads;
mod request_log;
mod sampled;
mod series;
mod stalled;
mod status;
#[path = "../support/mod.rs"]
mod support;
mod tidy;
mod tls;
mod tracing;
mod verify;
