//! The shipper over real folders and buckets, and with every step failed.

#![allow(clippy::unwrap_used)] // Helpers of tests unwrap as tests do.

mod crash;
mod dry_run;
mod lost;
mod model;
mod next_bucket;
mod rig;
mod ship;
mod standing;
mod unsynced;
