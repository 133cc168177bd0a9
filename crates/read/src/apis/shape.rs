//! What Prometheus's JSON has in common, read as Go reads it: a field that is missing or `null` is zero, an unknown one is
//! ignored, names of states are in any case. Pure.

use std::collections::BTreeMap;

use protobuf::MessageField;
use protobuf::well_known_types::timestamp::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use pillion_base::labels::Labels;
use pillion_base::time;
use pillion_proto::thanos_types::{Label, ZLabelSet};

/// Go's zero time, `0001-01-01T00:00:00Z`, which is sent where Prometheus gives none. `Units:` seconds.
pub(super) const ZERO_SECONDS: i64 = -62_135_596_800;

/// Declares the shape of a JSON object: camel-case keys, every field with a default that also stands for `null`.
macro_rules! shape {
    ($(#[$doc:meta])* $vis:vis $name:ident { $($(#[$meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default, serde::Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        $vis struct $name {
            $($(#[$meta])* #[serde(deserialize_with = "crate::apis::shape::or_default")] $field: $type,)*
        }
    };
}
pub(super) use shape;

/// A value, or the default for `null`.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// One of a few values, by its name in any case.
///
/// `Errors:` with Thanos's words, for an empty name too.
pub(super) fn by_name<'de, D: Deserializer<'de>, T: Copy>(
    from: D,
    what: &str,
    names: &[(&str, T)],
) -> Result<T, D::Error> {
    let text = String::deserialize(from)?;
    if text.is_empty() {
        return Err(D::Error::custom(format!("empty {what}")));
    }
    let found = names.iter().find(|(name, _)| name.eq_ignore_ascii_case(&text));
    found.map(|(_, value)| *value).ok_or_else(|| D::Error::custom(format!("unknown {what}: {text:?}")))
}

/// A time in RFC 3339, or none.
#[derive(Debug, Default)]
pub(super) struct Time(Option<(i64, i32)>);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        time::parse_rfc3339(&String::deserialize(from)?).map(|time| Time(Some(time))).map_err(D::Error::custom)
    }
}

impl Time {
    /// The time, absent where Prometheus gave none.
    pub(super) fn optional(&self) -> MessageField<Timestamp> {
        let message = |(seconds, nanos)| Timestamp { seconds, nanos, ..Default::default() };
        MessageField::from_option(self.0.map(message))
    }

    /// The time, Go's zero time where Prometheus gave none.
    pub(super) fn required(&self) -> MessageField<Timestamp> {
        Time(Some(self.0.unwrap_or((ZERO_SECONDS, 0)))).optional()
    }
}

/// A JSON object of strings.
pub(super) type Map = BTreeMap<String, String>;

/// A label set as it came, empty values too. Present even without a label.
pub(super) fn label_set<N: Into<String>, V: Into<String>>(
    pairs: impl IntoIterator<Item = (N, V)>,
) -> MessageField<ZLabelSet> {
    let label = |(name, value): (N, V)| Label { name: name.into(), value: value.into(), ..Default::default() };
    MessageField::some(ZLabelSet { labels: pairs.into_iter().map(label).collect(), ..Default::default() })
}

/// A label set with the external labels set on top.
pub(super) fn extended(local: Map, external: &Labels) -> MessageField<ZLabelSet> {
    label_set(Labels::new(local).overlaid(external).iter())
}

/// For tests of the modules beside this one: the messages that an API makes of an answer's `data`, and their text.
#[cfg(test)]
pub(super) mod testing {
    use super::Labels;
    use crate::apis::Api;
    use crate::prom::answers;

    /// An external label, which overrides a local one of the same name.
    pub(crate) fn external() -> Labels {
        Labels::new([("region", "eu")])
    }

    /// What is sent for an answer with this `data`, or why it is not understood.
    pub(crate) fn responses<A: Api>(request: &A::Request, data: &str) -> Result<Vec<A::Response>, String> {
        let body = format!("{{\"status\":\"success\",\"data\":{data}}}");
        let answer = answers::json::<A::Data>(body.as_bytes()).map_err(|err| err.to_string())?;
        Ok(A::responses(request, answer.data, &external()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    shape! {
        Shape { some_text: String, n: i64, when: Time, labels: Map, }
    }

    fn read(json: &str) -> Result<Shape, String> {
        serde_json::from_str(json).map_err(|err| err.to_string())
    }

    #[test]
    fn missing_null_and_unknown_fields() {
        let check = |json: &str| {
            let shape = read(json).unwrap();
            assert_eq!((shape.some_text.as_str(), shape.n, shape.labels.len()), ("", 0, 0), "{json}");
            assert!(shape.when.optional().is_none());
            assert_eq!(shape.when.required().seconds, ZERO_SECONDS);
        };
        check("{}");
        check(r#"{"someText":null,"n":null,"when":null,"labels":null}"#);
        check(r#"{"other":{"a":[1]}}"#);
        assert!(read(r#"{"n":"1"}"#).unwrap_err().contains("invalid type"));
    }

    #[test]
    fn times() {
        let shape = read(r#"{"when":"2024-02-29T12:00:00.123456789+02:00"}"#).unwrap();
        let time = shape.when.optional().unwrap();
        assert_eq!((time.seconds, time.nanos), (1_709_200_800, 123_456_789));
        let zero = read(r#"{"when":"0001-01-01T00:00:00Z"}"#).unwrap();
        assert_eq!(zero.when.optional().seconds, ZERO_SECONDS);
        assert!(read(r#"{"when":"yesterday"}"#).unwrap_err().contains("not an RFC 3339 time"));
        assert!(read(r#"{"when":""}"#).is_err());
    }

    #[test]
    fn external_labels_go_on_top_and_an_empty_set_is_present() {
        let local =
            Map::from([("region".into(), "local".into()), ("a".into(), "1".into()), ("b".into(), String::new())]);
        let text = |set: &MessageField<ZLabelSet>| {
            set.labels.iter().map(|l| format!("{}={}", l.name, l.value)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(text(&extended(local.clone(), &testing::external())), "a=1 region=eu");
        assert_eq!(text(&label_set(local)), "a=1 b= region=local");
        assert!(label_set(Map::new()).is_some());
    }
}
