//! The StoreAPI's work: what a request means, how a remote-read stream becomes StoreAPI messages, in which order.

pub mod batch;
pub mod matcher;
pub mod names;
pub mod order;
pub mod query;
pub mod quota;
pub mod samples;
pub mod series;
pub mod shard;
pub mod sort;
pub mod transcode;
pub mod twins;
pub mod wire;
pub mod xor;
