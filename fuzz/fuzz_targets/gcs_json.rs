//! Answers of Google Cloud Storage: any bytes are an answer or an error that is worth another attempt, texts are no longer than
//! what they were read from, and what the store says is read as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_base::error::{Kind, Result};
use pillion_bucket::gcs::json as gcs;
use pillion_fuzz::Dice;
use serde_json::{Value, json};

fn checked<T>(answer: Result<T>) -> Option<T> {
    answer.inspect_err(|err| assert_eq!(err.kind(), Kind::Retry, "{err}")).ok()
}

fn check_any(body: &[u8]) {
    if let Some(page) = checked(gcs::listing(body)) {
        assert!(page.names.iter().map(String::len).sum::<usize>() <= body.len());
        assert!(page.next.is_none_or(|next| !next.is_empty() && next.len() <= body.len()));
    }
    if let Some(object) = checked(gcs::object(body)) {
        assert!(object.generation.bytes().all(|c| c.is_ascii_digit()), "{object:?}");
    }
    if let Some(error) = gcs::error(body) {
        assert!(error.reason.len() + error.message.len() <= body.len());
    }
}

fn check_round_trip(mut dice: Dice<'_>) {
    let size_bytes = u64::from_le_bytes([dice.byte(), dice.byte(), dice.byte(), dice.byte(), dice.byte(), 0, 0, 0]);
    let object = json!({ "kind": "storage#object", "size": size_bytes.to_string() }).to_string();
    assert_eq!(gcs::object(object.as_bytes()).expect("it is an object").size_bytes, size_bytes);
    let (mut items, mut prefixes, mut names) = (Vec::new(), Vec::new(), Vec::new());
    while !dice.0.is_empty() {
        let step = dice.byte();
        let text = dice.text(usize::from(step >> 1));
        names.push(text.clone());
        match step & 1 {
            0 => items.push(json!({ "name": text })),
            _ => prefixes.push(Value::from(text)),
        }
    }
    let body = json!({ "kind": "storage#objects", "items": items, "prefixes": prefixes }).to_string();
    let mut page = gcs::listing(body.as_bytes()).unwrap_or_else(|err| panic!("{body}: {err}"));
    page.names.sort_unstable();
    names.sort_unstable();
    assert_eq!((page.names, page.next), (names, None));
}

fuzz_target!(|data: &[u8]| {
    check_any(data);
    check_round_trip(Dice(data));
});
