//! meta.json and the JSON below it: any bytes are one or an error; what is written of one is read back as it was, and the
//! library serde_json finds the same in it as in what was read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_base::error::Kind;
use pillion_ship::Meta;
use serde_json::Value;

/// Words of serde_json for what is taken here as Go takes it: halves of surrogate pairs, and numbers past a double.
const GO_ONLY: [&str; 3] = ["surrogate", "number out of range", "unexpected end of hex escape"];

/// What is written of it, which stays when it is read and written again.
fn written(meta: &Meta) -> String {
    let written = meta.write().expect("what was read can be written");
    let again = Meta::parse(&written).unwrap_or_else(|err| panic!("{err}: {}", String::from_utf8_lossy(&written)));
    let twice = again.write().expect("what was read can be written");
    assert_eq!(String::from_utf8_lossy(&twice), String::from_utf8_lossy(&written));
    String::from_utf8(twice).expect("it is text")
}

fn check(bytes: &[u8]) -> Option<String> {
    let meta = Meta::parse(bytes).inspect_err(|err| assert_eq!(err.kind(), Kind::Corrupt)).ok()?;
    let written = written(&meta);
    let Ok(theirs) = serde_json::from_str::<Value>(&String::from_utf8_lossy(bytes)) else { return Some(written) };
    let ours: Value = serde_json::from_str(&written).expect("what is written is JSON");
    for name in ["ulid", "minTime", "maxTime", "version"] {
        assert!(theirs.get(name).is_none_or(|value| value.is_null() || ours.get(name) == Some(value)), "{name}");
    }
    for place in ["/stats/numSamples", "/compaction/sources", "/thanos/labels", "/thanos/segment_files"] {
        let (ours, theirs) = (ours.pointer(place), theirs.pointer(place));
        // Go leaves out what is empty.
        let is_empty = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(members) => members.is_empty(),
            Value::Bool(true) => false,
        };
        assert!(ours == theirs || theirs.is_none_or(is_empty), "{place}: {ours:?} {theirs:?}");
    }
    Some(written)
}

/// The input as a member that nobody knows, which is passed on as it is.
fn check_member(bytes: &[u8]) {
    let text =
        format!("{{\"version\":1,\"ulid\":\"01ARZ3NDEKTSV4RRFFQ69G5FAV\",\"x\":{}}}", String::from_utf8_lossy(bytes));
    let theirs = serde_json::from_str::<Value>(&text);
    match (Meta::parse(text.as_bytes()), theirs) {
        (Ok(meta), Ok(theirs)) => {
            let ours: Value = serde_json::from_str(&written(&meta)).expect("what is written is JSON");
            assert_eq!(ours.get("x"), theirs.get("x"), "{text}");
        }
        (Ok(_), Err(err)) => {
            assert!(GO_ONLY.iter().any(|words| err.to_string().contains(words)), "{err}: {text}");
        }
        // Deeper than ours reads, or the input went on with members that are known.
        (Err(err), Ok(theirs)) => {
            let is_only_x = theirs.as_object().is_some_and(|members| members.len() == 3)
                && theirs["version"] == 1
                && theirs["ulid"] == "01ARZ3NDEKTSV4RRFFQ69G5FAV";
            assert!(!is_only_x || err.to_string() == "exceeded max depth", "{err}: {text}");
        }
        (Err(_), Err(_)) => {}
    }
}

fuzz_target!(|data: &[u8]| {
    check(data);
    check_member(data);
});
