//! Prometheus's XOR chunks of floats, read and written. Pure.

mod decode;
mod encode;

pub(crate) use decode::Value;
pub use decode::{STALE_NAN_BITS, Sample, decode, n_samples};
pub use encode::Encoder;
pub(crate) use encode::in_order;

#[cfg(test)]
pub(crate) use decode::tests::encode as encoded;
