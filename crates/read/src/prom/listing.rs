//! Reads a JSON answer whose data is a long list without ever holding the list. Pure: the reader is handed in.

use std::fmt;
use std::io::Read;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use pillion_base::error::{Context, Error, Kind, Result};

/// Name and value of each label of one series, in the order in which they came.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct LabelPairs(pub Vec<(String, String)>);

impl<'de> Deserialize<'de> for LabelPairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct LabelPairsVisitor;
        impl<'de> Visitor<'de> for LabelPairsVisitor {
            type Value = LabelPairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<LabelPairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(LabelPairs(pairs))
            }
        }
        deserializer.deserialize_map(LabelPairsVisitor)
    }
}

/// Calls `each` with every item of the envelope's `data`; returns Prometheus's warnings.
///
/// `Errors:` `Corrupt` for anything that is not that JSON, `Permanent` when the envelope says `error`, and whatever `each`
/// returns.
pub(crate) fn for_each_item<T: for<'de> Deserialize<'de>>(
    body: impl Read,
    each: &mut dyn FnMut(T) -> Result<()>,
) -> Result<Vec<String>> {
    let mut stopped = None;
    let mut json = serde_json::Deserializer::from_reader(body);
    let envelope = Envelope { each, stopped: &mut stopped, item: PhantomData };
    let read = envelope.deserialize(&mut json).and_then(|tail| json.end().map(|()| tail));
    if let Some(err) = stopped {
        return Err(err);
    }
    let tail = read
        .map_err(|err| Error::new(if err.is_io() { Kind::Retry } else { Kind::Corrupt }, err.to_string()))
        .context(|| "decode Prometheus's answer as JSON")?;
    if tail.status != "success" {
        return Err(Error::new(Kind::Permanent, format!("Prometheus answered {:?}: {}", tail.status, tail.error)));
    }
    Ok(tail.warnings)
}

/// What the envelope says beside its data.
#[derive(Default)]
struct Tail {
    status: String,
    error: String,
    warnings: Vec<String>,
}

struct Envelope<'a, T> {
    each: &'a mut dyn FnMut(T) -> Result<()>,
    stopped: &'a mut Option<Error>,
    item: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Envelope<'_, T> {
    type Value = Tail;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Tail, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Envelope<'_, T> {
    type Value = Tail;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an answer of Prometheus's API")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Tail, A::Error> {
        let mut tail = Tail::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "status" => tail.status = map.next_value()?,
                "error" => tail.error = map.next_value()?,
                "warnings" => tail.warnings = map.next_value::<Option<Vec<String>>>()?.unwrap_or_default(),
                "data" => {
                    let items = Items { each: &mut *self.each, stopped: &mut *self.stopped, item: PhantomData };
                    map.next_value_seed(items)?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(tail)
    }
}

struct Items<'a, T> {
    each: &'a mut dyn FnMut(T) -> Result<()>,
    stopped: &'a mut Option<Error>,
    item: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Items<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    /// `null` is an empty list.
    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<(), A::Error> {
        while let Some(item) = items.next_element()? {
            if let Err(err) = (self.each)(item) {
                *self.stopped = Some(err);
                return Err(A::Error::custom("given up"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: std::result::Result<(&str, &[&str]), &str>) {
        let mut got = String::new();
        let outcome = for_each_item(body.as_bytes(), &mut |pairs: LabelPairs| {
            got.push_str(&format!("{:?}", pairs.0));
            Ok(())
        });
        match (outcome, expected) {
            (Ok(warnings), Ok((items, expected))) => {
                assert_eq!((got.as_str(), warnings.len()), (items, expected.len()), "{body}");
            }
            (Err(err), Err(text)) => assert!(err.to_string().contains(text), "{err}"),
            (outcome, expected) => panic!("{body}: {outcome:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn lists_are_read_item_by_item() {
        check(
            r#"{"status":"success","data":[{"a":"1","b":"é"},{}],"warnings":["w"]}"#,
            Ok((r#"[("a", "1"), ("b", "é")][]"#, &["w"])),
        );
        check(r#"{"data":[],"infos":[{"x":[1]}],"status":"success"}"#, Ok(("", &[])));
        check(r#"{"status":"success","data":null,"warnings":null}"#, Ok(("", &[])));
        check(r#"{"status":"success"}"#, Ok(("", &[])));
        check(r#"{"status":"error","error":"boom"}"#, Err("boom"));
        check(r#"{"status":"success","data":[{"a":1}]}"#, Err("decode Prometheus's answer"));
        check(r#"{"status":"success","data":[{"a":"1"}"#, Err("decode Prometheus's answer"));
        check("<html>", Err("decode Prometheus's answer"));
        check("{}", Err("Prometheus answered"));
    }

    #[test]
    fn the_receiver_can_end_the_reading() {
        let body = r#"{"status":"success","data":[{"a":"1"},{"a":"2"}, this is never read"#;
        let mut n = 0;
        let err = for_each_item(body.as_bytes(), &mut |_: LabelPairs| {
            n += 1;
            if n == 2 { Err(Error::new(Kind::Limit, "enough")) } else { Ok(()) }
        })
        .unwrap_err();
        assert_eq!((err.kind(), err.to_string(), n), (Kind::Limit, "enough".to_owned(), 2));
    }
}
