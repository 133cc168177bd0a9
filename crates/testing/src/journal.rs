//! For uploads in parts: a journal that outlives a bucket and can be told to fail as a killed process does, and the
//! content of a file.

use std::sync::Mutex;

use pillion_base::error::{Error, Kind, Result};
use pillion_bucket::{Journal, Parts};

/// Remembers the last record.
#[derive(Default)]
pub struct Kept {
    parts: Mutex<Option<Parts>>,
    /// Records that are allowed before they fail.
    left: Mutex<Option<usize>>,
}

impl Kept {
    /// After so many records every further one fails.
    pub fn fail_after(&self, n_records: usize) {
        *self.left.lock().unwrap() = Some(n_records);
    }

    /// Records succeed again.
    pub fn recover(&self) {
        *self.left.lock().unwrap() = None;
    }
}

impl Journal for Kept {
    fn parts(&self) -> Option<Parts> {
        self.parts.lock().unwrap().clone()
    }

    fn record(&self, parts: Option<&Parts>) -> Result<()> {
        if let Some(left) = &mut *self.left.lock().unwrap() {
            *left = left.checked_sub(1).ok_or_else(|| Error::new(Kind::Retry, "killed"))?;
        }
        *self.parts.lock().unwrap() = parts.cloned();
        Ok(())
    }
}

/// Bytes of which no two parts are the same.
pub fn content(size: usize) -> Vec<u8> {
    const PAGE_BYTES: usize = 65_536;
    const CYCLE_BYTES: usize = 251 * 7;
    // Copied in pages, for a test without optimisation makes hundreds of MiB.
    let cycles: Vec<u8> = (0..PAGE_BYTES + CYCLE_BYTES).map(|i| u8::try_from(i / 7 % 251).unwrap()).collect();
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        let start = (bytes.len() + bytes.len() / PAGE_BYTES * 217) % CYCLE_BYTES;
        bytes.extend_from_slice(&cycles[start..start + PAGE_BYTES.min(size - bytes.len())]);
    }
    bytes
}
