//! In which encodings Prometheus writes chunks, from its running configuration and its flags. Pure.
//!
//! `Source:` Prometheus 3.14 `cmd/prometheus/main.go`, `config/config.go`: `storage.tsdb.chunk_encoding.floats` decides for
//! floats, and where it is absent the feature `xor2-encoding`; for histograms the feature `histograms-st-encoding` does.

use crate::prom::checks::Flags;

const FEATURES: &str = "enable-feature";
const XOR2_FEATURE: &str = "xor2-encoding";
const HISTOGRAMS_FEATURE: &str = "histograms-st-encoding";

/// The encodings of the chunks that Prometheus writes, and what decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChunkEncodings {
    /// What makes it write XOR2.
    xor2: Option<&'static str>,
    /// Whether histograms have start timestamps.
    has_histogram_starts: bool,
}

impl ChunkEncodings {
    /// From the configuration's `storage.tsdb.chunk_encoding.floats`, where it is set, and the flags.
    pub fn new(configured_floats: Option<&str>, flags: &Flags) -> Self {
        let features = flags.get(FEATURES).map_or("", String::as_str);
        let has = |feature: &str| features.split(',').any(|name| name.trim() == feature);
        let xor2 = match configured_floats {
            Some("xor2") => Some("storage.tsdb.chunk_encoding.floats: xor2 in its configuration"),
            None | Some("") if has(XOR2_FEATURE) => Some("--enable-feature=xor2-encoding"),
            _ => None,
        };
        ChunkEncodings { xor2, has_histogram_starts: has(HISTOGRAMS_FEATURE) }
    }

    /// `xor` or `xor2`.
    pub fn floats(&self) -> &'static str {
        if self.xor2.is_some() { "xor2" } else { "xor" }
    }

    /// `plain` or `st`.
    pub fn histograms(&self) -> &'static str {
        if self.has_histogram_starts { "st" } else { "plain" }
    }

    /// What is to be turned off for chunks that every Thanos can read; `None` where nothing is.
    pub fn switches(&self) -> Option<String> {
        let histograms = self.has_histogram_starts.then_some("--enable-feature=histograms-st-encoding");
        let switches: Vec<&str> = self.xor2.into_iter().chain(histograms).collect();
        if switches.is_empty() { None } else { Some(switches.join(" and ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_and_features_decide() {
        let check = |floats: Option<&str>, features: &str, expected: (&str, &str), switches: Option<&str>| {
            let flags = Flags::from([(FEATURES.to_owned(), features.to_owned())]);
            let got = ChunkEncodings::new(floats, &flags);
            assert_eq!((got.floats(), got.histograms()), expected, "{floats:?} {features}");
            assert_eq!(got.switches().as_deref(), switches);
        };
        let key = "storage.tsdb.chunk_encoding.floats: xor2 in its configuration";
        let feature = "--enable-feature=xor2-encoding";
        let histograms = "--enable-feature=histograms-st-encoding";
        check(None, "", ("xor", "plain"), None);
        check(None, "st-storage,exemplar-storage", ("xor", "plain"), None);
        check(Some("xor"), "", ("xor", "plain"), None);
        check(Some("xor2"), "", ("xor2", "plain"), Some(key));
        check(None, "xor2-encoding", ("xor2", "plain"), Some(feature));
        check(Some(""), "a, xor2-encoding", ("xor2", "plain"), Some(feature));
        // The configuration wins.
        check(Some("xor"), "xor2-encoding", ("xor", "plain"), None);
        check(Some("xor2"), "xor2-encoding", ("xor2", "plain"), Some(key));
        check(None, "histograms-st-encoding", ("xor", "st"), Some(histograms));
        check(
            Some("xor2"),
            "st-storage,histograms-st-encoding",
            ("xor2", "st"),
            Some(&format!("{key} and {histograms}")),
        );
        check(None, "not-xor2-encoding", ("xor", "plain"), None);
        assert_eq!(ChunkEncodings::new(None, &Flags::new()), ChunkEncodings::default());
    }
}
