//! Label conflicts: which of the labels that the sidecar sets or drops do some series carry themselves? Those series
//! cannot be streamed in Prometheus's order. Prometheus answers from its index, and the answer is kept for a while.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::prom::Call;
use crate::prom::request;
use pillion_base::error::{Kind, Result};

/// How long an answer is trusted. If a label appears meanwhile, the guard of the reorder buffer notices.
const TRUSTED_FOR: Duration = Duration::from_secs(30);
/// How many names are remembered at most; requests choose some of them.
const NAMES_MAX: usize = 256;

/// What is known, shared by all calls.
#[derive(Default)]
pub(super) struct LabelConflicts(Mutex<HashMap<String, (bool, Instant)>>);

impl LabelConflicts {
    /// Those of `names` that some series in Prometheus carries.
    ///
    /// `Errors:` `Stopped` when the client went away meanwhile. Where Prometheus does not say, the answer is yes: that
    /// costs a second read and is never wrong.
    pub(super) fn among<'a>(&self, names: impl Iterator<Item = &'a str>, call: &Call) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for name in names {
            if self.has(name, call)? {
                found.push(name.to_owned());
            }
        }
        Ok(found)
    }

    /// Forgets everything, after an answer that turned out to be too old.
    pub(super) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn has(&self, name: &str, call: &Call) -> Result<bool> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied();
        if let Some((has, asked)) = known
            && asked.elapsed() < TRUSTED_FOR
        {
            return Ok(has);
        }
        let path = format!("/api/v1/label/{}/values", request::label_path_segment(name));
        let has = match call.json::<Vec<String>>(&path, &[("limit", "1".to_owned())]) {
            Ok(answer) => !answer.data.is_empty(),
            Err(err) if err.kind() == Kind::Stopped => return Err(err),
            Err(err) => {
                log::debug!(label = name, err = err.to_string(); "cannot tell whether series carry a label; taking it that they do");
                return Ok(true);
            }
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= NAMES_MAX {
            known.clear();
        }
        known.insert(name.to_owned(), (has, Instant::now()));
        Ok(has)
    }
}
