//! Complaints of the gRPC core as lines of the log. It complains of whatever a client sends that it cannot read, once for each
//! call, so that only one line a second is printed; all are counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::Level;

use super::{Field, Line};

/// Time between two lines.
const EVERY: Duration = Duration::from_secs(1);

/// All complaints of this process: the core has one ear for it.
static N_COMPLAINTS: AtomicU64 = AtomicU64::new(0);

/// How often the core has complained.
pub(crate) fn n_complaints() -> u64 {
    N_COMPLAINTS.load(Ordering::Relaxed)
}

/// What was printed last.
#[derive(Default)]
pub(super) struct Heard(Mutex<Last>);

#[derive(Default)]
struct Last {
    at: Option<Instant>,
    n_left_out: u64,
}

impl Heard {
    /// Counts a complaint and says in our words what it is; false when it is not to be printed.
    pub(super) fn passes(&self, line: &mut Line, now: Instant) -> bool {
        if line.level <= Level::Warn {
            N_COMPLAINTS.fetch_add(1, Ordering::Relaxed);
        }
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.at.is_some_and(|at| now.saturating_duration_since(at) < EVERY) {
            last.n_left_out += 1;
            return false;
        }
        last.at = Some(now);
        let n_left_out = std::mem::take(&mut last.n_left_out);
        // Almost always a client's fault, which is no error of this process.
        line.level = line.level.max(Level::Warn);
        let said = std::mem::replace(&mut line.msg, "the gRPC core cannot go on with what it was sent".to_owned());
        line.fields.push(("err".to_owned(), Field::Text(said)));
        if n_left_out > 0 {
            line.fields.push(("left_out".to_owned(), Field::Number(n_left_out.to_string())));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_says_how_many_others_there_were() {
        let heard = Heard::default();
        let begun = Instant::now();
        let at = |ms: u64| {
            let mut line = Line {
                ts: String::new(),
                caller: "x.cc:1".into(),
                level: Level::Error,
                context: Vec::new(),
                msg: "bad".into(),
                fields: Vec::new(),
            };
            heard.passes(&mut line, begun + Duration::from_millis(ms)).then(|| line.logfmt(false))
        };
        let before = n_complaints();
        let said = "caller=x.cc:1 level=warn msg=\"the gRPC core cannot go on with what it was sent\" err=bad";
        assert_eq!(at(0), Some(format!("{said}\n")));
        assert_eq!((at(10), at(999)), (None, None));
        assert_eq!(at(1000), Some(format!("{said} left_out=2\n")));
        assert_eq!(at(1500), None);
        assert_eq!(at(2000), Some(format!("{said} left_out=1\n")));
        assert!(n_complaints() >= before + 6);
    }
}
