//! `pillion.json`: how far the upload of one block has come. Pure.
//!
//! The state saves work and is never believed without the bucket: before meta.json is written, the bucket is asked for
//! everything that was sent. So a state that cannot be read is as good as none.

use std::collections::BTreeMap;

use crate::json::{self, Json, Object};
use pillion_bucket::{Attributes, Part, Parts};

/// The version of the file that is written and understood.
const VERSION: &str = "1";

/// How far one object has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sent {
    /// All of it is stored, with these attributes.
    Done(Attributes),
    /// Some of its parts are stored.
    Parts(Parts),
}

/// How far the objects of a block have come, by their names inside the block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Objects that are stored, whole or in part.
    pub(crate) objects: BTreeMap<String, Sent>,
    /// SHA-256 of files, in hexadecimal, so that a large file is hashed once and not at every attempt.
    pub(crate) sha256: BTreeMap<String, String>,
}

impl Progress {
    /// Bytes that the bucket has.
    pub(crate) fn stored_bytes(&self) -> u64 {
        let bytes = |sent: &Sent| match sent {
            Sent::Done(attributes) => attributes.size_bytes,
            Sent::Parts(parts) => parts.part_bytes.saturating_mul(parts.sent.len() as u64).min(parts.size_bytes),
        };
        self.objects.values().map(bytes).fold(0, u64::saturating_add)
    }

    /// The uploads in parts that are under way.
    pub(crate) fn open_parts(&self) -> Vec<(String, Parts)> {
        let open = self.objects.iter().filter_map(|(name, sent)| match sent {
            Sent::Parts(parts) => Some((name.clone(), parts.clone())),
            Sent::Done(_) => None,
        });
        open.collect()
    }

    /// The state file; `bucket` is the name of the bucket that it is about.
    pub fn write(&self, bucket: &str) -> Vec<u8> {
        let objects = self.objects.iter().map(|(name, sent)| (name.clone(), sent_json(sent))).collect();
        let hashes = self.sha256.iter().map(|(name, hash)| (name.clone(), Json::text(hash))).collect();
        let root = object([
            ("version", Json::number(VERSION)),
            ("bucket", Json::text(bucket)),
            ("objects", Json::Object(Object(objects))),
            ("sha256", Json::Object(Object(hashes))),
        ]);
        json::write(&root).into_bytes()
    }

    /// Reads a state file; `None` if it is none, or is about another bucket.
    pub fn parse(bytes: &[u8], bucket: &str) -> Option<Progress> {
        let Ok(Json::Object(root)) = json::parse(bytes) else { return None };
        let is_ours = matches!(root.value("version"), Some(Json::Number(version)) if version == VERSION)
            && text(&root, "bucket")? == bucket;
        if !is_ours {
            return None;
        }
        let mut progress = Progress::default();
        for (name, value) in &members(&root, "objects")?.0 {
            progress.objects.insert(name.clone(), parse_sent(value)?);
        }
        for (name, value) in &members(&root, "sha256")?.0 {
            let Json::Text(hash) = value else { return None };
            progress.sha256.insert(name.clone(), hash.clone());
        }
        Some(progress)
    }
}

fn object<const N: usize>(pairs: [(&str, Json); N]) -> Json {
    Json::Object(Object(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()))
}

fn sent_json(sent: &Sent) -> Json {
    match sent {
        Sent::Done(Attributes { size_bytes, tag }) => {
            object([("size_bytes", Json::number(size_bytes)), ("tag", Json::text(tag))])
        }
        Sent::Parts(Parts { upload_id, part_bytes, size_bytes, sent }) => {
            let sent = sent.iter().map(|part| object([("tag", Json::text(&part.tag)), ("md5", Json::text(&part.md5))]));
            object([
                ("upload_id", Json::text(upload_id)),
                ("part_bytes", Json::number(part_bytes)),
                ("size_bytes", Json::number(size_bytes)),
                ("parts", Json::Array(sent.collect())),
            ])
        }
    }
}

fn parse_sent(value: &Json) -> Option<Sent> {
    let Json::Object(object) = value else { return None };
    let size_bytes = number(object, "size_bytes")?;
    let Some(upload_id) = text(object, "upload_id") else {
        return Some(Sent::Done(Attributes { size_bytes, tag: text(object, "tag")?.to_owned() }));
    };
    let Some(Json::Array(items)) = object.value("parts") else { return None };
    let part = |item: &Json| match item {
        Json::Object(part) => Some(Part { tag: text(part, "tag")?.to_owned(), md5: text(part, "md5")?.to_owned() }),
        _ => None,
    };
    let (upload_id, part_bytes) = (upload_id.to_owned(), number(object, "part_bytes")?);
    Some(Sent::Parts(Parts { upload_id, part_bytes, size_bytes, sent: items.iter().map(part).collect::<Option<_>>()? }))
}

fn members<'a>(object: &'a Object, key: &str) -> Option<&'a Object> {
    match object.value(key) {
        Some(Json::Object(inner)) => Some(inner),
        _ => None,
    }
}

fn text<'a>(object: &'a Object, key: &str) -> Option<&'a str> {
    match object.value(key) {
        Some(Json::Text(text)) => Some(text),
        _ => None,
    }
}

fn number(object: &Object, key: &str) -> Option<u64> {
    match object.value(key) {
        Some(Json::Number(number)) => number.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Progress {
        let part = |n: u32| Part { tag: format!("t{n}"), md5: format!("m{n}") };
        let parts =
            Parts { upload_id: "a \"b\"".into(), part_bytes: 5, size_bytes: u64::MAX, sent: vec![part(1), part(2)] };
        let done = Attributes { size_bytes: 7, tag: String::new() };
        Progress {
            objects: BTreeMap::from([
                ("chunks/000001".to_owned(), Sent::Parts(parts)),
                ("index".to_owned(), Sent::Done(done)),
            ]),
            sha256: BTreeMap::from([("index".to_owned(), "ab".to_owned())]),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for progress in [Progress::default(), full()] {
            assert_eq!(Progress::parse(&progress.write("b"), "b"), Some(progress));
        }
        assert_eq!(full().open_parts().len(), 1);
        assert_eq!(full().stored_bytes(), 2 * 5 + 7);
    }

    #[test]
    fn what_is_no_state_or_not_of_this_bucket_is_none() {
        let text = String::from_utf8(full().write("b")).unwrap();
        let check = |text: &str| assert_eq!(Progress::parse(text.as_bytes(), "b"), None, "{text}");
        for cut in 0..text.len() - 2 {
            check(&text[..cut]);
        }
        check(&text.replace("\"version\": 1", "\"version\": 2"));
        check(&text.replace("\"bucket\": \"b\"", "\"bucket\": \"c\""));
        check(&text.replace("\"size_bytes\": 7", "\"size_bytes\": -7"));
        check(&text.replace("\"part_bytes\": 5", "\"part_bytes\": \"5\""));
        check(&text.replace("\"t1\"", "1"));
        check(&text.replace("\"ab\"", "null"));
        check("");
        check("[]");
    }
}
