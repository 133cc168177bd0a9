//! What the environment says about a run. Pure but for reading it.

use std::path::PathBuf;

/// How the generator writes a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// One write for each series, as Prometheus flushes.
    Flushed,
    /// All at once, as no Prometheus does: what is left is the sidecar's own.
    Whole,
}

pub struct Options {
    /// Share of the full size of each workload.
    pub scale: f64,
    only: String,
    skip: String,
    /// The real thing, if it is to be measured too.
    pub thanos: Option<PathBuf>,
    pub replay: Replay,
    pub json: PathBuf,
}

fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Options {
    pub fn read() -> Self {
        let thanos = text("BENCH_THANOS").map(PathBuf::from);
        if let Some(path) = &thanos {
            assert!(path.is_file(), "BENCH_THANOS is no file: {}", path.display());
        }
        Options {
            scale: text("BENCH_SCALE").map_or(1.0, |scale| scale.parse().expect("BENCH_SCALE is a number")),
            only: text("BENCH_ONLY").unwrap_or_default(),
            skip: text("BENCH_SKIP").unwrap_or_default(),
            thanos,
            replay: match text("BENCH_REPLAY").as_deref() {
                None | Some("flushed") => Replay::Flushed,
                Some("whole") => Replay::Whole,
                Some(other) => panic!("BENCH_REPLAY is flushed or whole, not {other}"),
            },
            json: text("BENCH_JSON").unwrap_or_else(|| "target/bench.json".into()).into(),
        }
    }

    /// Whether a measurement of this description is wanted.
    pub fn wants(&self, words: &str) -> bool {
        words.contains(&self.only) && (self.skip.is_empty() || !words.contains(&self.skip))
    }

    /// Whether anything of a group may be wanted, before it is known what there is.
    pub fn may_want(&self, group: &str) -> bool {
        (self.only.is_empty() || self.only.starts_with(group)) && self.skip != group
    }

    /// A share of a number.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    pub fn scaled(&self, n: usize, least: usize) -> usize {
        ((n as f64 * self.scale) as usize).max(least)
    }
}
