//! From a Prometheus data folder to a bucket: the sidecar's shipper, and the audit of what it shipped.

#![forbid(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]

mod background;
mod backlog;
mod claim;
mod claims;
mod dry_run;
mod encodings;
mod history;
mod json;
mod lag;
mod ledger;
mod limits;
mod meta;
mod meta_schema;
pub mod metrics;
mod next_bucket;
mod outlook;
mod place;
mod plan;
mod progress;
mod remote;
mod scan;
mod schedule;
mod shipper;
mod spool;
mod standing;
mod strangers;
mod ulid;
mod upload;
mod upload_limits;
pub mod verify;
mod whole;
mod window;

pub use backlog::{Backlog, PendingBlock};
pub use claims::claim_room;
pub use dry_run::{DryReport, DryRun};
pub use next_bucket::NextBucket;
pub use outlook::{DataFolder, Foreseen, Outlook, Verdict, outlook};
pub use place::check_place;
pub use scan::{DirWarning, check_data_dir, look_at_data_dir};
pub use schedule::Schedule;
pub use shipper::{ShipConfig, Shipper, TickReport};
pub use standing::{Pending, Stand, Standing, Uploading};
pub use strangers::strangers;
pub use ulid::Ulid;
pub use upload::UploadGate;
pub use upload_limits::UploadLimits;
pub use window::Window;

/// Where the lines of this crate's log go: the part that they name as their `component`.
const LOG_TARGET: &str = "pillion/shipper";

// The readers of the files that others may have written, each with its writer: what fuzz targets need.
pub use ledger::LedgerFile;
pub use meta::Meta;
pub use progress::Progress;
