//! What is read of Swift's JSON: listings, manifests of large objects, what the store can do. Pure.

use serde::Deserialize;

use crate::limits;
use pillion_base::error::{Error, Kind, Result};

/// An entry of a listing or a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Entry {
    /// The object's name; in a manifest `/container/name`.
    pub name: String,
    /// A folder, with its slash, instead of a name.
    pub subdir: String,
    /// The object's size.
    pub bytes: u64,
    /// Its ETag: the MD5 in hex.
    pub hash: String,
    /// A part of the segment only.
    range: Option<serde_json::Value>,
    /// The segment is a large object itself.
    sub_slo: Option<bool>,
}

impl Entry {
    /// The name, or the folder's.
    pub(super) fn any_name(&self) -> &str {
        if self.subdir.is_empty() { &self.name } else { &self.subdir }
    }

    /// Whether `bytes` and `hash` are those of what the large object has of it.
    pub(super) fn is_whole(&self) -> bool {
        self.range.is_none() && !self.sub_slo.unwrap_or(false)
    }
}

/// Reads a listing or a manifest. `Errors:` `Retry` when it is none, as the page of a proxy.
pub(super) fn entries(body: &[u8]) -> Result<Vec<Entry>> {
    // Some stores have an empty body for an empty listing.
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Vec::new());
    }
    serde_json::from_slice(body)
        .map_err(|_| Error::new(Kind::Retry, "the answer is not the expected JSON").classed("network"))
}

/// What a store says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Abilities {
    /// It has static large objects.
    pub has_static: bool,
    /// Most segments of one of them.
    pub segments_max: u64,
    /// Smallest segment but the last.
    pub segment_bytes_min: u64,
    /// Largest object that is sent with one request.
    pub object_bytes_max: u64,
}

impl Default for Abilities {
    fn default() -> Self {
        Abilities {
            has_static: true,
            segments_max: limits::SWIFT_SEGMENTS_MAX,
            segment_bytes_min: 1,
            object_bytes_max: limits::PART_BYTES_MAX,
        }
    }
}

/// Reads `/info`; `None` if it is not that.
pub(super) fn abilities(body: &[u8]) -> Option<Abilities> {
    #[derive(Deserialize)]
    struct Info {
        swift: Swift,
        slo: Option<Slo>,
    }
    #[derive(Deserialize)]
    struct Swift {
        max_file_size: Option<u64>,
    }
    #[derive(Deserialize)]
    struct Slo {
        max_manifest_segments: Option<u64>,
        min_segment_size: Option<u64>,
    }
    let info: Info = serde_json::from_slice(body).ok()?;
    let default = Abilities::default();
    let object_bytes_max =
        info.swift.max_file_size.unwrap_or(default.object_bytes_max).clamp(1, limits::PART_BYTES_MAX);
    let slo = info.slo.as_ref();
    Some(Abilities {
        has_static: slo.is_some(),
        segments_max: slo.and_then(|slo| slo.max_manifest_segments).unwrap_or(default.segments_max).max(1),
        segment_bytes_min: slo.and_then(|slo| slo.min_segment_size).unwrap_or(1).min(object_bytes_max),
        object_bytes_max,
    })
}

/// The status of a request that removed many objects; `None` if the answer does not say one, as that for a single object.
pub(super) fn bulk_status(body: &[u8]) -> Option<(u16, String)> {
    #[derive(Deserialize)]
    struct Said {
        #[serde(rename = "Response Status")]
        status: String,
        #[serde(rename = "Errors", default)]
        errors: Vec<(String, String)>,
    }
    let said: Said = serde_json::from_slice(body).ok()?;
    let first = said.errors.first().map(|(name, status)| format!("{name}: {status}"));
    let status = said.status.split_whitespace().next()?.parse().ok()?;
    Some((status, first.unwrap_or(said.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stores_say_of_themselves() {
        let swift = br#"{"swift":{"max_file_size":5368709122,"version":"2.30.1"},
            "slo":{"max_manifest_segments":500,"min_segment_size":1048576,"max_manifest_size":8388608}}"#;
        let want = Abilities {
            has_static: true,
            segments_max: 500,
            segment_bytes_min: 1 << 20,
            object_bytes_max: limits::PART_BYTES_MAX,
        };
        assert_eq!(abilities(swift), Some(want));
        let bare = abilities(br#"{"swift":{"max_file_size":1000},"slo":{"min_segment_size":9999}}"#).unwrap();
        assert_eq!((bare.object_bytes_max, bare.segment_bytes_min, bare.segments_max), (1000, 1000, 1000));
        assert!(!abilities(br#"{"swift":{}}"#).unwrap().has_static);
        assert_eq!((abilities(b"<html>"), abilities(b"{}")), (None, None));
    }

    #[test]
    fn listings_and_manifests() {
        let got = entries(br#"[{"subdir":"a/"},{"name":"b","bytes":3,"hash":"ff","content_type":"x"}]"#).unwrap();
        let names: Vec<&str> = got.iter().map(Entry::any_name).collect();
        assert_eq!((names, got[1].bytes, got[1].hash.as_str()), (vec!["a/", "b"], 3, "ff"));
        let got =
            entries(br#"[{"name":"/c/a","range":"0-1"},{"name":"/c/b","sub_slo":true},{"name":"/c/d"}]"#).unwrap();
        assert_eq!(got.iter().map(Entry::is_whole).collect::<Vec<_>>(), [false, false, true]);
        assert!(entries(b" \n").unwrap().is_empty());
        assert_eq!(entries(b"<html>").unwrap_err().kind(), Kind::Retry);
    }

    #[test]
    fn the_outcome_of_removing_many() {
        let done = br#"{"Number Deleted":2,"Response Status":"200 OK","Errors":[],"Number Not Found":1}"#;
        assert_eq!(bulk_status(done), Some((200, "200 OK".into())));
        let failed = br#"{"Response Status":"400 Bad Request","Errors":[["/c/a","403 Forbidden"]]}"#;
        assert_eq!(bulk_status(failed), Some((400, "/c/a: 403 Forbidden".into())));
        assert_eq!(bulk_status(b""), None);
    }
}
