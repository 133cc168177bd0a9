//! Which members of meta.json Thanos knows, in which order it writes them, and which it leaves out. Pure.

use super::json::{Json, Object};
use crate::error::{Error, Kind, Result};

/// `upload_time` of a block that was not uploaded: Go's zero time.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// How a member is written.
#[derive(Clone, Copy)]
enum Rule {
    /// Always; when missing or null, as this.
    Always(Form),
    /// Only if it has content.
    IfContent(Form),
    /// Unless it is missing or null: a Go `any` with `omitempty`.
    IfSet,
}

/// What a member holds.
#[derive(Clone, Copy)]
enum Form {
    Number,
    Text,
    /// A text with this value when it is missing.
    TextOr(&'static str),
    /// Anything, passed on as it is.
    Any,
    /// A map: members sorted, null when missing.
    Map,
    /// An object of known members.
    Struct(Shape),
    /// An array of such objects.
    Structs(Shape),
}

type Shape = &'static [(&'static str, Rule)];

use Form::{Any, Map, Number, Struct, Structs, Text, TextOr};
use Rule::{Always, IfContent, IfSet};

/// `Source:` Thanos pkg/block/metadata/meta.go over Prometheus tsdb/block.go.
const META: Shape = &[
    ("ulid", Always(Text)),
    ("minTime", Always(Number)),
    ("maxTime", Always(Number)),
    ("stats", Always(Struct(STATS))),
    ("compaction", Always(Struct(COMPACTION))),
    ("version", Always(Number)),
    ("thanos", Always(Struct(THANOS))),
];
const STATS: Shape = &[
    ("numSamples", IfContent(Number)),
    ("numFloatSamples", IfContent(Number)),
    ("numHistogramSamples", IfContent(Number)),
    ("numSeries", IfContent(Number)),
    ("numChunks", IfContent(Number)),
    ("numTombstones", IfContent(Number)),
];
const COMPACTION: Shape = &[
    ("level", Always(Number)),
    ("sources", IfContent(Any)),
    ("deletable", IfContent(Any)),
    ("parents", IfContent(Structs(PARENT))),
    ("failed", IfContent(Any)),
    ("hints", IfContent(Any)),
];
const PARENT: Shape = &[("ulid", Always(Text)), ("minTime", Always(Number)), ("maxTime", Always(Number))];
const THANOS: Shape = &[
    ("version", IfContent(Number)),
    ("labels", Always(Map)),
    ("downsample", Always(Struct(&[("resolution", Always(Number))]))),
    ("source", Always(Text)),
    ("segment_files", IfContent(Any)),
    ("files", IfContent(Structs(FILE))),
    ("rewrites", IfContent(Any)),
    ("index_stats", Always(Struct(&[("series_max_size", IfContent(Number)), ("chunk_max_size", IfContent(Number))]))),
    ("extensions", IfSet),
    ("upload_time", Always(TextOr(NEVER))),
];
const FILE: Shape = &[("rel_path", Always(Text)), ("size_bytes", IfContent(Number)), ("hash", IfSet)];

/// The members of a meta.json as they are written: the known ones in Thanos's order, then the others in theirs.
pub fn written(root: &Object) -> Result<Object> {
    shaped(root, META)
}

/// The members of `shape` in its order, then the others.
fn shaped(object: &Object, shape: Shape) -> Result<Object> {
    let mut members = Vec::with_capacity(object.0.len());
    for (key, rule) in shape {
        let value = object.value(key).unwrap_or(&Json::Null);
        let kept = match rule {
            IfSet => (*value != Json::Null).then(|| formed(value, Any)).transpose()?.map(|mut value| {
                value.sort_members();
                value
            }),
            IfContent(form) => (!value.is_empty()).then(|| formed(value, *form)).transpose()?,
            Always(form) => Some(formed(value, *form)?),
        };
        members.extend(kept.map(|value| ((*key).to_owned(), value)));
    }
    let unknown = object.0.iter().filter(|(key, _)| !shape.iter().any(|(known, _)| known == key));
    members.extend(unknown.cloned());
    Ok(Object(members))
}

fn formed(value: &Json, form: Form) -> Result<Json> {
    Ok(match (form, value) {
        (Number, Json::Null) => Json::number(0),
        (Text, Json::Null) => Json::text(""),
        (TextOr(missing), Json::Null) => Json::text(missing),
        (Struct(shape), Json::Null) => Json::Object(shaped(&Object::default(), shape)?),
        (Struct(shape), Json::Object(object)) => Json::Object(shaped(object, shape)?),
        (Structs(shape), Json::Array(items)) => {
            Json::Array(items.iter().map(|item| formed(item, Struct(shape))).collect::<Result<_>>()?)
        }
        (Map, Json::Object(_)) => {
            let mut map = value.clone();
            map.sort_members();
            map
        }
        (Map, Json::Null) | (Any, _) | (Number, Json::Number(_)) | (Text | TextOr(_), Json::Text(_)) => value.clone(),
        _ => return Err(corrupt("a member is of the wrong type")),
    })
}

/// What is wrong with the bytes of a meta.json.
pub fn corrupt(text: impl Into<String>) -> Error {
    Error::new(Kind::Corrupt, text)
}
