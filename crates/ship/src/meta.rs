//! meta.json: reads and checks what Prometheus wrote, and writes it with the Thanos section, as Thanos does. Pure.
//!
//! Known members come first, in Thanos's order, and are left out where Thanos leaves them out. `Differs:` members that
//! Thanos does not know are kept at every level, in their order, after the known ones. Numbers keep their spelling
//! (D-29).

use std::collections::BTreeMap;

use crate::json::{self, Json, Object};
use crate::meta_schema::{canonical, corrupt};
use crate::ulid::Ulid;
use pillion_base::error::{Context, Result};
use pillion_base::labels::Labels;

/// The member that makes a folder with this meta.json a claim; never uploaded.
const CLAIM: &str = "pillion_claim";
/// Its values: labels not known yet, and labels pinned.
const CLAIM_WORDS: [&str; 2] = ["unpinned", "pinned"];

/// A block's meta.json.
#[derive(Debug, Clone)]
pub struct Meta {
    root: Object,
    /// The block's name.
    pub(crate) ulid: Ulid,
    /// Time of the first sample. `Units:` ms.
    pub(crate) min_time_ms: i64,
    /// Time after the last sample. `Units:` ms.
    pub(crate) max_time_ms: i64,
    /// Samples in the block; 0 for one that is empty.
    pub(crate) n_samples: u64,
    /// Chunks in the block.
    pub(crate) n_chunks: u64,
    /// Compaction level; 1 for a block that was cut from the head.
    pub(crate) level: i64,
    /// The blocks of level 1 that it was made of. What is no list of names is no list.
    sources: Vec<Ulid>,
    /// `thanos.labels`, empty values kept.
    pub(crate) labels: BTreeMap<String, String>,
}

/// A file of the block, for `thanos.files`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BlockFile {
    /// Its name inside the block, such as `chunks/000001`.
    pub(crate) rel_path: String,
    /// Its size; `None` for meta.json, which cannot state its own size.
    pub(crate) size_bytes: Option<u64>,
    /// SHA-256 of its content in hexadecimal, if asked for.
    pub(crate) sha256: Option<String>,
}

impl Meta {
    /// Reads a meta.json.
    ///
    /// `Errors:` `Corrupt`, if it is not JSON, not of version 1, or has a member that is missing or of the wrong type.
    pub fn parse(bytes: &[u8]) -> Result<Meta> {
        let Json::Object(root) = json::parse(bytes)? else { return Err(corrupt("meta.json is not an object")) };
        let version = integer(&root, "version")?;
        if version != 1 {
            return Err(corrupt(format!("unexpected meta file version {version}")));
        }
        let nothing = Object::default();
        let thanos = object(&root, "thanos")?.unwrap_or(&nothing);
        match integer(thanos, "version")? {
            0 | 1 => {}
            other => return Err(corrupt(format!("unexpected meta file Thanos section version {other}"))),
        }
        let stats = object(&root, "stats")?.unwrap_or(&nothing);
        let compaction = object(&root, "compaction")?.unwrap_or(&nothing);
        let ulid = match root.value("ulid") {
            Some(Json::Text(text)) => {
                Ulid::parse(text).ok_or_else(|| corrupt(format!("ulid {text:?} is not a ULID")))?
            }
            _ => return Err(corrupt("ulid is missing")),
        };
        let meta = Meta {
            ulid,
            min_time_ms: integer(&root, "minTime")?,
            max_time_ms: integer(&root, "maxTime")?,
            n_samples: count(stats, "numSamples")?,
            n_chunks: count(stats, "numChunks")?,
            level: integer(compaction, "level")?,
            sources: sources(compaction),
            labels: labels(thanos)?,
            root,
        };
        // A member that cannot be written is found here, before anything is uploaded.
        canonical(&meta.root)?;
        Ok(meta)
    }

    /// The part of a meta.json that a tick needs of a shipped block. Must not be written.
    pub(crate) fn stub(&self) -> Meta {
        let (root, labels) = (Object::default(), BTreeMap::new());
        let sources = if self.level > 1 { self.sources.clone() } else { Vec::new() };
        Meta { root, labels, sources, level: 0, n_samples: 0, n_chunks: 0, ..*self }
    }

    /// The blocks of level 1 whose samples it has; itself if it does not say.
    pub(crate) fn covered(&self) -> impl Iterator<Item = Ulid> + '_ {
        let own = Some(self.ulid).filter(|_| self.sources.is_empty());
        self.sources.iter().copied().chain(own)
    }

    /// Sets the Thanos section of a block that this sidecar ships: its source, its segment files, and its labels. The
    /// labels `external` win over those that are there.
    pub(crate) fn ship_as(&mut self, external: &Labels, segment_files: &[String]) {
        self.labels.extend(external.iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
        let labels = self.labels.iter().map(|(name, value)| (name.clone(), Json::text(value))).collect();
        self.set("labels", Json::Object(Object(labels)));
        self.set("source", Json::text("sidecar"));
        self.set("segment_files", Json::Array(segment_files.iter().map(Json::text).collect()));
    }

    /// Sets the list of uploaded files and the time of the upload, in RFC 3339.
    pub(crate) fn uploaded(&mut self, files: &[BlockFile], upload_time: &str) {
        let mut files: Vec<&BlockFile> = files.iter().collect();
        files.sort_by(|a, b| a.rel_path.cmp(&b.rel_path));
        self.set("files", Json::Array(files.into_iter().map(file_json).collect()));
        self.set("upload_time", Json::text(upload_time));
    }

    /// The meta.json of a claim: this one with the mark that says whether the labels are pinned.
    pub(crate) fn claimed(&self, is_pinned: bool) -> Meta {
        let mut meta = self.clone();
        let [unpinned, pinned] = CLAIM_WORDS;
        meta.root.set(CLAIM, Json::text(if is_pinned { pinned } else { unpinned }));
        meta
    }

    /// Removes the mark of a claim. Returns whether the labels are pinned, or `None` if there is no such mark.
    pub(crate) fn take_claim(&mut self) -> Option<bool> {
        let Some(Json::Text(word)) = self.root.take(CLAIM) else { return None };
        let [unpinned, pinned] = CLAIM_WORDS;
        [(unpinned, false), (pinned, true)]
            .into_iter()
            .find(|(known, _)| word == *known)
            .map(|(_, is_pinned)| is_pinned)
    }

    /// The sizes in `thanos.files`; empty if there is no such list.
    pub(crate) fn stated_sizes(&self) -> BTreeMap<String, u64> {
        let Some(Json::Object(thanos)) = self.root.value("thanos") else { return BTreeMap::new() };
        let Some(Json::Array(files)) = thanos.value("files") else { return BTreeMap::new() };
        let stated = files.iter().filter_map(|file| match file {
            Json::Object(file) => match (file.value("rel_path"), file.value("size_bytes")) {
                (Some(Json::Text(name)), Some(Json::Number(size))) => Some((name.clone(), size.parse().ok()?)),
                _ => None,
            },
            _ => None,
        });
        stated.collect()
    }

    fn set(&mut self, member: &str, value: Json) {
        let mut thanos = match self.root.take("thanos") {
            Some(Json::Object(thanos)) => thanos,
            _ => Object::default(),
        };
        thanos.set(member, value);
        self.root.set("thanos", Json::Object(thanos));
    }

    /// The file as Thanos writes it.
    pub fn write(&self) -> Result<Vec<u8>> {
        Ok(json::write(&Json::Object(canonical(&self.root)?)).into_bytes())
    }
}

fn sources(compaction: &Object) -> Vec<Ulid> {
    let Some(Json::Array(items)) = compaction.value("sources") else { return Vec::new() };
    let name = |item: &Json| match item {
        Json::Text(text) => Ulid::parse(text),
        _ => None,
    };
    items.iter().map(name).collect::<Option<Vec<Ulid>>>().unwrap_or_default()
}

fn file_json(file: &BlockFile) -> Json {
    let mut object = Object::default();
    object.set("rel_path", Json::text(&file.rel_path));
    if let Some(size) = file.size_bytes {
        object.set("size_bytes", Json::number(size));
    }
    if let Some(sha256) = &file.sha256 {
        let hash = vec![("hashFunc".to_owned(), Json::text("SHA256")), ("value".to_owned(), Json::text(sha256))];
        object.set("hash", Json::Object(Object(hash)));
    }
    Json::Object(object)
}

fn object<'a>(parent: &'a Object, key: &str) -> Result<Option<&'a Object>> {
    match parent.value(key) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Object(object)) => Ok(Some(object)),
        Some(_) => Err(corrupt(format!("{key} is not an object"))),
    }
}

fn integer(parent: &Object, key: &str) -> Result<i64> {
    match parent.value(key) {
        None | Some(Json::Null) => Ok(0),
        Some(Json::Number(number)) => {
            number.parse().map_err(|_| corrupt(format!("{number} is no 64-bit integer"))).context(|| key)
        }
        Some(_) => Err(corrupt(format!("{key} is not a number"))),
    }
}

fn count(parent: &Object, key: &str) -> Result<u64> {
    u64::try_from(integer(parent, key)?).map_err(|_| corrupt(format!("{key} is negative")))
}

fn labels(thanos: &Object) -> Result<BTreeMap<String, String>> {
    let pair = |(name, value): &(String, Json)| match value {
        Json::Text(value) => Ok((name.clone(), value.clone())),
        _ => Err(corrupt(format!("label {name} is not a text"))),
    };
    object(thanos, "labels")?.map_or(Ok(BTreeMap::new()), |labels| labels.0.iter().map(pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ULID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

    fn check(input: &str, expected: &str) {
        let written = Meta::parse(input.as_bytes()).and_then(|meta| meta.write());
        match written {
            Ok(bytes) => assert_eq!(String::from_utf8(bytes).unwrap(), expected, "{input}"),
            Err(err) => assert_eq!(err.to_string(), expected, "{input}"),
        }
    }

    /// Golden texts are written with four spaces here and compared with tabs.
    fn tabs(text: &str) -> String {
        text.trim_start_matches('\n').replace("    ", "\t")
    }

    #[test]
    fn the_smallest_block() {
        check(
            &format!(r#"{{"version":1,"ulid":"{ULID}"}}"#),
            &tabs(
                r#"
{
    "ulid": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
    "minTime": 0,
    "maxTime": 0,
    "stats": {},
    "compaction": {
        "level": 0
    },
    "version": 1,
    "thanos": {
        "labels": null,
        "downsample": {
            "resolution": 0
        },
        "source": "",
        "index_stats": {},
        "upload_time": "0001-01-01T00:00:00Z"
    }
}
"#,
            ),
        );
    }

    #[test]
    fn a_full_block_is_written_as_it_was_with_its_extensions_sorted() {
        let full = tabs(
            r#"
{
    "ulid": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
    "minTime": -7200000,
    "maxTime": 7200000,
    "stats": {
        "numSamples": 12,
        "numFloatSamples": 10,
        "numHistogramSamples": 2,
        "numSeries": 3,
        "numChunks": 4,
        "numTombstones": 1
    },
    "compaction": {
        "level": 2,
        "sources": [
            "01ARZ3NDEKTSV4RRFFQ69G5FAW"
        ],
        "deletable": true,
        "parents": [
            {
                "ulid": "01ARZ3NDEKTSV4RRFFQ69G5FAW",
                "minTime": -7200000,
                "maxTime": 0
            }
        ],
        "failed": true,
        "hints": [
            "from-out-of-order"
        ]
    },
    "version": 1,
    "thanos": {
        "version": 1,
        "labels": {
            "a": "\u003c1\u003e \u0026 \u2028",
            "empty": "",
            "ext": "lset1"
        },
        "downsample": {
            "resolution": 300000
        },
        "source": "compactor",
        "segment_files": [
            "000001"
        ],
        "files": [
            {
                "rel_path": "chunks/000001",
                "size_bytes": 3751,
                "hash": {
                    "hashFunc": "SHA256",
                    "value": "9f86"
                }
            },
            {
                "rel_path": "meta.json"
            }
        ],
        "rewrites": [
            {
                "sources": [
                    "01ARZ3NDEKTSV4RRFFQ69G5FAW"
                ]
            }
        ],
        "index_stats": {
            "series_max_size": 10,
            "chunk_max_size": 20
        },
        "extensions": {
            "a": 1.50,
            "z": {
                "b": [],
                "c": null
            }
        },
        "upload_time": "2026-01-02T03:04:05.123456789Z"
    }
}
"#,
        );
        check(&full, &full);
        let shuffled = full
            .replace("\"a\": 1.50,\n\t\t\t\"z\"", "\"z\"")
            .replace("\"c\": null\n\t\t\t}", "\"c\": null\n\t\t\t}, \"a\": 1.50");
        assert_ne!(full, shuffled);
        check(&shuffled, &full);
    }

    #[test]
    fn members_without_content_are_left_out_and_unknown_ones_follow_the_known() {
        check(
            &format!(
                r#"{{"zeta":{{"q":1,"b":2}},"version":1,"ulid":"{ULID}","alpha":1e2,
                "stats":{{"numSamples":0,"numFresh":12345678901234567890,"numSeries":2}},
                "compaction":{{"level":1,"sources":[],"parents":null,"failed":false,"why":"x"}},
                "thanos":{{"labels":{{}},"files":[],"extensions":{{}},"new":[1],"index_stats":{{"other":0}},
                "downsample":{{"more":true}}}}}}"#
            ),
            &tabs(
                r#"
{
    "ulid": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
    "minTime": 0,
    "maxTime": 0,
    "stats": {
        "numSeries": 2,
        "numFresh": 12345678901234567890
    },
    "compaction": {
        "level": 1,
        "why": "x"
    },
    "version": 1,
    "thanos": {
        "labels": {},
        "downsample": {
            "resolution": 0,
            "more": true
        },
        "source": "",
        "index_stats": {
            "other": 0
        },
        "extensions": {},
        "upload_time": "0001-01-01T00:00:00Z",
        "new": [
            1
        ]
    },
    "zeta": {
        "q": 1,
        "b": 2
    },
    "alpha": 1e2
}
"#,
            ),
        );
    }

    #[test]
    fn a_shipped_block_says_where_it_comes_from() {
        let input = format!(
            r#"{{"version":1,"ulid":"{ULID}","minTime":1,"maxTime":2,"stats":{{"numSamples":3,"numChunks":1}},
            "compaction":{{"level":1}},"thanos":{{"labels":{{"region":"old","kept":""}},"source":"x"}}}}"#
        );
        let mut meta = Meta::parse(input.as_bytes()).unwrap();
        assert_eq!((meta.min_time_ms, meta.max_time_ms, meta.n_samples, meta.n_chunks, meta.level), (1, 2, 3, 1, 1));
        meta.ship_as(&Labels::new([("region", "eu"), ("az", "1")]), &["000001".to_owned()]);
        let file = |rel_path: &str, size_bytes, sha256: Option<&str>| BlockFile {
            rel_path: rel_path.to_owned(),
            size_bytes,
            sha256: sha256.map(str::to_owned),
        };
        let files =
            [file("index", Some(9), None), file("meta.json", None, None), file("chunks/000001", Some(5), Some("ab"))];
        meta.uploaded(&files, "2026-01-02T03:04:05Z");
        let expected = tabs(
            r#"
    "thanos": {
        "labels": {
            "az": "1",
            "kept": "",
            "region": "eu"
        },
        "downsample": {
            "resolution": 0
        },
        "source": "sidecar",
        "segment_files": [
            "000001"
        ],
        "files": [
            {
                "rel_path": "chunks/000001",
                "size_bytes": 5,
                "hash": {
                    "hashFunc": "SHA256",
                    "value": "ab"
                }
            },
            {
                "rel_path": "index",
                "size_bytes": 9
            },
            {
                "rel_path": "meta.json"
            }
        ],
        "index_stats": {},
        "upload_time": "2026-01-02T03:04:05Z"
    }
}
"#,
        );
        let written = String::from_utf8(meta.write().unwrap()).unwrap();
        assert!(written.ends_with(&expected), "{written}");
        let again = Meta::parse(written.as_bytes()).unwrap();
        assert_eq!(again.write().unwrap(), written.into_bytes());
    }

    #[test]
    fn a_claim_is_marked_and_the_mark_never_leaves() {
        let meta = Meta::parse(format!(r#"{{"version":1,"ulid":"{ULID}","x":1}}"#).as_bytes()).unwrap();
        for is_pinned in [true, false] {
            let mut again = Meta::parse(&meta.claimed(is_pinned).write().unwrap()).unwrap();
            assert_eq!(again.take_claim(), Some(is_pinned));
            assert_eq!(again.take_claim(), None);
            assert_eq!(again.write().unwrap(), meta.write().unwrap());
        }
        let other = format!(r#"{{"version":1,"ulid":"{ULID}","pillion_claim":"x"}}"#);
        assert_eq!(Meta::parse(other.as_bytes()).unwrap().take_claim(), None);
    }

    #[test]
    fn the_sizes_that_a_meta_states() {
        let files =
            r#"[{"rel_path":"index","size_bytes":9},{"rel_path":"meta.json"},{"rel_path":"x","size_bytes":-1},7]"#;
        let text = format!(r#"{{"version":1,"ulid":"{ULID}","thanos":{{"files":{files}}}}}"#);
        // A list that Thanos could not read makes no meta.json.
        assert!(Meta::parse(text.as_bytes()).is_err());
        let meta = Meta::parse(text.replace(",7]", "]").as_bytes()).unwrap();
        assert_eq!(meta.stated_sizes(), BTreeMap::from([("index".to_owned(), 9)]));
        assert!(
            Meta::parse(format!(r#"{{"version":1,"ulid":"{ULID}"}}"#).as_bytes()).unwrap().stated_sizes().is_empty()
        );
    }

    #[test]
    fn what_is_not_a_meta_is_refused_with_a_reason() {
        check("{", "unexpected end of JSON input");
        check("[]", "meta.json is not an object");
        check(r#"{"version":2}"#, "unexpected meta file version 2");
        check("{}", "unexpected meta file version 0");
        check(r#"{"version":1,"thanos":{"version":2}}"#, "unexpected meta file Thanos section version 2");
        check(r#"{"version":1}"#, "ulid is missing");
        check(r#"{"version":1,"ulid":"x"}"#, "ulid \"x\" is not a ULID");
        let with = |members: &str| format!(r#"{{"version":1,"ulid":"{ULID}",{members}}}"#);
        check(&with(r#""minTime":1.5"#), "minTime: 1.5 is no 64-bit integer");
        check(&with(r#""minTime":"1""#), "minTime is not a number");
        check(&with(r#""stats":[]"#), "stats is not an object");
        check(&with(r#""stats":{"numSamples":-1}"#), "numSamples is negative");
        check(&with(r#""thanos":{"labels":{"a":1}}"#), "label a is not a text");
        check(&with(r#""thanos":{"source":1}"#), "a member is of the wrong type");
    }
}
