//! What was built, from what, and by which compiler. Pure.

/// Pillion's version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit it was built from, or `unknown`.
pub(crate) const REVISION: &str = env!("PILLION_REVISION");
/// The compiler it was built with.
pub(crate) const RUSTC_VERSION: &str = env!("PILLION_RUSTC");
