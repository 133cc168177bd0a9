//! The StoreAPI's work: what a request means, how a remote-read stream becomes StoreAPI messages, in which order.

mod batch;
mod conflicts;
pub(crate) mod matcher;
mod metrics;
mod names;
mod order;
mod query;
mod quota;
pub mod samples;
mod series;
mod shard;
mod sort;
mod spill;
pub mod transcode;
pub mod wire;

pub use batch::{EncodedMessage, MessageSink};
pub use metrics::StoreMetrics;
pub use names::{label_names, label_values};
pub use quota::PerCall;
pub use series::{Outlet, SeriesShared, client_gone, series};
pub use shard::Shard;
pub use spill::check_temporary_folder;
