//! How fast a bucket may be written to: bytes per second over all connections together, changeable while bytes flow.

use crate::error::Result;
use crate::supervisor::Stop;

/// A shared allowance of bytes. Cheap to clone; clones share the allowance. The default has no limit.
#[derive(Clone, Default)]
pub struct Pace {}

impl Pace {
    /// Takes `bytes` from the allowance. `Blocks:` until there is enough of it. `Errors:` `Stopped`.
    pub fn take(&self, _bytes: usize, stop: &Stop) -> Result<()> {
        stop.check()
    }
}
