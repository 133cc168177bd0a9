//! The StoreAPI's work: what a request means, how a remote-read stream becomes StoreAPI messages, in which order.

mod batch;
mod conflicts;
mod label_walk;
mod labels_only;
pub(crate) mod matcher;
mod metrics;
mod names;
mod order;
mod query;
mod quota;
pub mod samples;
mod series;
mod shard;
mod slots;
mod sort;
mod spill;
mod strings;
pub mod transcode;
pub mod wire;

pub use batch::{EncodedMessage, MessageSink};
pub use matcher::selector;
pub use metrics::StoreMetrics;
pub use names::{label_names, label_values};
pub use quota::PerCall;
pub use series::{Outlet, SeriesShared, client_gone, series};
pub use shard::Shard;
pub use slots::{Client, Holder};
pub use spill::{check_temporary_folder, try_temporary_folder};
