//! Limits that several crates share: each with its number, its unit and its reason. Pure.

/// Stack of a relay thread and other small threads, in bytes. No recursion happens on them.
pub const SMALL_STACK_BYTES: usize = 256 * 1024;
/// Largest meta.json that is read.
pub const META_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Buffer of a file copy, in bytes.
pub const COPY_BUFFER_BYTES: usize = 128 * 1024;
