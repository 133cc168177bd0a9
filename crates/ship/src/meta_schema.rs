//! Which members of meta.json Thanos knows, in which order it writes them, and which it leaves out. Pure.

use crate::json::{Json, Object};
use pillion_base::error::{Error, Kind, Result};

/// `upload_time` of a block that was not uploaded: Go's zero time.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// When a member is written.
#[derive(Clone, Copy)]
enum Presence {
    /// Always. If it is missing or null, the empty value of this type is written.
    Always(ValueType),
    /// Only if it has content.
    IfContent(ValueType),
    /// Only if it is neither missing nor null: a Go `any` with `omitempty`.
    IfSet,
}

/// What a member holds.
#[derive(Clone, Copy)]
enum ValueType {
    Number,
    Text,
    /// A text; this one if it is missing.
    TextOr(&'static str),
    /// Anything, kept as it is.
    Any,
    /// A map with sorted members; null if it is missing.
    Map,
    /// An object of known members.
    Struct(Schema),
    /// An array of such objects.
    Structs(Schema),
}

type Schema = &'static [(&'static str, Presence)];

use Presence::{Always, IfContent, IfSet};
use ValueType::{Any, Map, Number, Struct, Structs, Text, TextOr};

/// `Source:` Thanos pkg/block/metadata/meta.go over Prometheus tsdb/block.go.
const META: Schema = &[
    ("ulid", Always(Text)),
    ("minTime", Always(Number)),
    ("maxTime", Always(Number)),
    ("stats", Always(Struct(STATS))),
    ("compaction", Always(Struct(COMPACTION))),
    ("version", Always(Number)),
    ("thanos", Always(Struct(THANOS))),
];
const STATS: Schema = &[
    ("numSamples", IfContent(Number)),
    ("numFloatSamples", IfContent(Number)),
    ("numHistogramSamples", IfContent(Number)),
    ("numSeries", IfContent(Number)),
    ("numChunks", IfContent(Number)),
    ("numTombstones", IfContent(Number)),
];
const COMPACTION: Schema = &[
    ("level", Always(Number)),
    ("sources", IfContent(Any)),
    ("deletable", IfContent(Any)),
    ("parents", IfContent(Structs(PARENT))),
    ("failed", IfContent(Any)),
    ("hints", IfContent(Any)),
];
const PARENT: Schema = &[("ulid", Always(Text)), ("minTime", Always(Number)), ("maxTime", Always(Number))];
const THANOS: Schema = &[
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
const FILE: Schema = &[("rel_path", Always(Text)), ("size_bytes", IfContent(Number)), ("hash", IfSet)];

/// The members of a meta.json as they are written: the known ones in Thanos's order, then the others in theirs.
pub(crate) fn canonical(root: &Object) -> Result<Object> {
    canonical_members(root, META)
}

/// The members of `schema` in its order, then the others.
fn canonical_members(object: &Object, schema: Schema) -> Result<Object> {
    let mut members = Vec::with_capacity(object.0.len());
    for (key, presence) in schema {
        let value = object.value(key).unwrap_or(&Json::Null);
        let kept = match presence {
            IfSet => (*value != Json::Null).then(|| canonical_value(value, Any)).transpose()?.map(|mut value| {
                value.sort_members();
                value
            }),
            IfContent(value_type) => (!value.is_empty()).then(|| canonical_value(value, *value_type)).transpose()?,
            Always(value_type) => Some(canonical_value(value, *value_type)?),
        };
        members.extend(kept.map(|value| ((*key).to_owned(), value)));
    }
    let unknown = object.0.iter().filter(|(key, _)| !schema.iter().any(|(known, _)| known == key));
    members.extend(unknown.cloned());
    Ok(Object(members))
}

fn canonical_value(value: &Json, value_type: ValueType) -> Result<Json> {
    Ok(match (value_type, value) {
        (Number, Json::Null) => Json::number(0),
        (Text, Json::Null) => Json::text(""),
        (TextOr(missing), Json::Null) => Json::text(missing),
        (Struct(schema), Json::Null) => Json::Object(canonical_members(&Object::default(), schema)?),
        (Struct(schema), Json::Object(object)) => Json::Object(canonical_members(object, schema)?),
        (Structs(schema), Json::Array(items)) => {
            Json::Array(items.iter().map(|item| canonical_value(item, Struct(schema))).collect::<Result<_>>()?)
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

/// The error of a meta.json that is not what it must be.
pub(crate) fn corrupt(text: impl Into<String>) -> Error {
    Error::new(Kind::Corrupt, text)
}
