//! Which traces are recorded. Pure.

use crate::ids::TraceId;

/// Names in the configuration, as Thanos knows them. Case does not count.
const NAMES: [(&str, Rule, bool); 6] = [
    ("alwayssample", Rule::Always, false),
    ("neversample", Rule::Never, false),
    ("traceidratiobased", Rule::Ratio(0), false),
    ("parentbasedalwayssample", Rule::Always, true),
    ("parentbasedneversample", Rule::Never, true),
    ("parentbasedtraceidratiobased", Rule::Ratio(0), true),
];

/// Decides about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sampler {
    rule: Rule,
    /// Whether the caller's decision counts where there is one.
    follows_parent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Always,
    Never,
    /// Ids whose lower half is below this, of 2^63.
    Ratio(u64),
}

/// The caller's decision, and else all: Thanos's choice too.
impl Default for Sampler {
    fn default() -> Self {
        Sampler { rule: Rule::Always, follows_parent: true }
    }
}

impl Sampler {
    /// The sampler of a `sampler_type` with its `sampler_param`; empty is the default.
    ///
    /// `Errors:` what is to be changed, and in which of the two. `Differs:` Thanos records everything when it does not
    /// understand them.
    pub(crate) fn parse(name: &str, param: &str) -> Result<Self, (&'static str, String)> {
        if name.is_empty() {
            return Ok(Sampler::default());
        }
        let lower = name.to_ascii_lowercase();
        let Some((_, rule, follows_parent)) = NAMES.into_iter().find(|(known, ..)| *known == lower) else {
            let known = NAMES.map(|(known, ..)| known).join(", ");
            return Err(("sampler_type", format!("there is no sampler of this name; there are {known}")));
        };
        let rule = match rule {
            Rule::Ratio(_) => Rule::Ratio(ratio(param).ok_or_else(|| {
                ("sampler_param", "this sampler needs the share of traces, a number from 0 to 1".to_owned())
            })?),
            other => other,
        };
        Ok(Sampler { rule, follows_parent })
    }

    /// Whether a trace is recorded of which the caller has decided so.
    pub(crate) fn samples(&self, trace: &TraceId, parent: Option<bool>) -> bool {
        match (self.follows_parent, parent, self.rule) {
            (true, Some(decided), _) => decided,
            (_, _, Rule::Always) => true,
            (_, _, Rule::Never) => false,
            // As OpenTelemetry does it, so that every part of a system picks the same traces.
            (_, _, Rule::Ratio(below)) => trace.low() >> 1 < below,
        }
    }
}

fn ratio(text: &str) -> Option<u64> {
    let share: f64 = text.trim().parse().ok()?;
    if !(0.0..=1.0).contains(&share) {
        return None;
    }
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let below = (share * (1_u64 << 63) as f64) as u64;
    Some(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(low: u64) -> TraceId {
        let mut bytes = [1; 16];
        bytes[8..].copy_from_slice(&low.to_be_bytes());
        TraceId::new(bytes).unwrap()
    }

    #[test]
    fn who_is_sampled() {
        // Name, share; then without a parent: the smallest id, one at half, the largest; with a parent that is not sampled,
        // and one that is.
        for (name, param, expected) in [
            ("", "", [true, true, true, false, true]),
            ("AlwaysSample", "", [true, true, true, true, true]),
            ("neversample", "x", [false, false, false, false, false]),
            ("traceidratiobased", "0.5", [true, false, false, true, true]),
            ("traceidratiobased", "1", [true, true, true, true, true]),
            ("traceidratiobased", "0", [false, false, false, false, false]),
            ("parentbasedalwayssample", "", [true, true, true, false, true]),
            ("parentbasedneversample", "", [false, false, false, false, true]),
            ("ParentBasedTraceIDRatioBased", "0.5", [true, false, false, false, true]),
            ("parentbasedtraceidratiobased", "5e-1", [true, false, false, false, true]),
        ] {
            let sampler = Sampler::parse(name, param).unwrap();
            let found = [
                sampler.samples(&trace(0), None),
                sampler.samples(&trace(1 << 63), None),
                sampler.samples(&trace(u64::MAX), None),
                sampler.samples(&trace(0), Some(false)),
                sampler.samples(&trace(0), Some(true)),
            ];
            assert_eq!(found, expected, "{name} {param}");
        }
    }

    #[test]
    fn what_is_refused() {
        for (name, param, key, text) in [
            ("always", "", "sampler_type", "there are alwayssample, neversample, traceidratiobased, parentbased"),
            ("traceidratiobased", "", "sampler_param", "a number from 0 to 1"),
            ("traceidratiobased", "all", "sampler_param", "a number from 0 to 1"),
            ("parentbasedtraceidratiobased", "1.5", "sampler_param", "a number from 0 to 1"),
            ("traceidratiobased", "-1", "sampler_param", "a number from 0 to 1"),
            ("traceidratiobased", "NaN", "sampler_param", "a number from 0 to 1"),
        ] {
            let (found, why) = Sampler::parse(name, param).unwrap_err();
            assert!(found == key && why.contains(text), "{name} {param}: {found}: {why}");
        }
    }
}
