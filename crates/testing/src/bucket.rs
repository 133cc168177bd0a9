//! Buckets for tests: a wrapper that fails on demand and records its calls, a bucket in memory, and the suite that
//! every kind of bucket has to pass. Never talks to a network.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use pillion_base::error::{Error, Kind, Result};
use pillion_base::files::{Disk, Source};
use pillion_base::limits;
use pillion_base::stop::{Stop, stop_pair};
use pillion_bucket::{Attributes, Bucket, Compared, Journal, NoJournal, Part, Parts, Stored};

/// A bucket that can be made to fail.
pub struct Faulty {
    inner: Arc<dyn Bucket>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    calls: Vec<String>,
    fault: Option<(String, Kind)>,
    /// Part of the name of objects that are acknowledged but not kept, and how many more times.
    lost: Option<(String, usize)>,
    /// Part of the name of objects that lose their last byte on the way, without an error.
    shortened: Option<String>,
}

impl Faulty {
    /// A wrapper that passes everything on.
    pub fn new(inner: Arc<dyn Bucket>) -> Arc<Self> {
        Arc::new(Faulty { inner, state: Mutex::default() })
    }

    /// From now on a call whose text (`upload <object>`) contains `text` fails.
    pub fn fail(&self, text: &str, kind: Kind) {
        self.state.lock().unwrap().fault = Some((text.to_owned(), kind));
    }

    /// From now on a file whose object name contains `text` arrives one byte short. Only the size that the upload
    /// returns shows it.
    pub fn shorten(&self, text: &str) {
        self.state.lock().unwrap().shortened = Some(text.to_owned());
    }

    /// The next `n_times` uploads of an object whose name contains `text` are acknowledged, but the object is not kept.
    pub fn lose(&self, text: &str, n_times: usize) {
        self.state.lock().unwrap().lost = Some((text.to_owned(), n_times));
    }

    fn is_lost(&self, object: &str) -> bool {
        let mut state = self.state.lock().unwrap();
        match &mut state.lost {
            Some((text, n_left)) if *n_left > 0 && object.contains(text.as_str()) => {
                *n_left -= 1;
                true
            }
            _ => false,
        }
    }

    /// From now on nothing fails.
    pub fn heal(&self) {
        let mut state = self.state.lock().unwrap();
        (state.fault, state.shortened, state.lost) = (None, None, None);
    }

    /// The calls since this was last called, such as `exists 01J…/meta.json`.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().calls)
    }

    fn ask(&self, operation: &str, object: &str) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        let call = format!("{operation} {object}");
        let fault = state.fault.as_ref().filter(|(text, _)| call.contains(text)).map(|(_, kind)| *kind);
        state.calls.push(call);
        fault.map_or(Ok(()), |kind| Err(Error::new(kind, "on purpose")))
    }
}

impl Bucket for Faulty {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn check_place(&self, known: Option<&str>, stop: &Stop) -> Result<Option<String>> {
        self.inner.check_place(known, stop)
    }

    fn exists(&self, object: &str, stop: &Stop) -> Result<bool> {
        self.ask("exists", object)?;
        self.inner.exists(object, stop)
    }

    fn get(&self, object: &str, stop: &Stop) -> Result<Vec<u8>> {
        self.ask("get", object)?;
        self.inner.get(object, stop)
    }

    fn read(&self, object: &str, each: &mut dyn FnMut(&[u8]) -> Result<()>, stop: &Stop) -> Result<()> {
        self.ask("read", object)?;
        self.inner.read(object, each, stop)
    }

    fn iter(&self, dir: &str, each: &mut dyn FnMut(&str) -> Result<()>, stop: &Stop) -> Result<()> {
        self.ask("iter", dir)?;
        self.inner.iter(dir, each, stop)
    }

    fn attributes(&self, object: &str, stop: &Stop) -> Result<Attributes> {
        self.ask("attributes", object)?;
        self.inner.attributes(object, stop)
    }

    fn upload(&self, object: &str, source: &Source, journal: &dyn Journal, stop: &Stop) -> Result<Stored> {
        self.ask("upload", object)?;
        if self.state.lock().unwrap().shortened.as_ref().is_some_and(|text| object.contains(text)) {
            let bytes = std::fs::read(source.path())?;
            let short = bytes.split_last().map(|(_, short)| short).unwrap_or_default();
            self.inner.upload_bytes(object, short, stop)?;
            let attributes = Attributes { size_bytes: short.len() as u64, tag: String::new() };
            return Ok(Stored { attributes, resumed_bytes: 0 });
        }
        let stored = self.inner.upload(object, source, journal, stop)?;
        if self.is_lost(object) {
            self.inner.delete(object, stop)?;
        }
        Ok(stored)
    }

    fn compare(&self, object: &str, source: &Source, stop: &Stop) -> Result<Compared> {
        self.ask("compare", object)?;
        self.inner.compare(object, source, stop)
    }

    fn abandon(&self, object: &str, parts: &Parts, stop: &Stop) -> Result<()> {
        self.ask("abandon", object)?;
        self.inner.abandon(object, parts, stop)
    }

    fn upload_bytes(&self, object: &str, bytes: &[u8], stop: &Stop) -> Result<()> {
        self.ask("upload", object)?;
        self.inner.upload_bytes(object, bytes, stop)?;
        if self.is_lost(object) { self.inner.delete(object, stop) } else { Ok(()) }
    }

    fn delete(&self, object: &str, stop: &Stop) -> Result<()> {
        self.ask("delete", object)?;
        self.inner.delete(object, stop)
    }
}

/// What becomes of a request to a [`PartsBucket`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is done.
    Done,
    /// It is not done, and the answer is an error.
    Refused,
    /// It is done, but the answer is lost.
    Unanswered,
    /// It is acknowledged, but its object is not kept.
    Lost,
}

type Judge = dyn Fn(&str) -> Fate + Send + Sync;

/// A bucket in memory that takes every file in parts of [`PART_BYTES`], as S3 takes large ones.
pub struct PartsBucket {
    judge: Box<Judge>,
    stored: Arc<Mutex<PartsStore>>,
}

/// The content of such a bucket; it outlives the process that a test plays.
#[derive(Default)]
pub struct PartsStore {
    /// Whole objects.
    pub objects: BTreeMap<String, Vec<u8>>,
    /// Uploads that are under way: the object and its parts.
    pub uploads: BTreeMap<String, (String, Vec<Vec<u8>>)>,
    n_uploads: usize,
    /// Bytes of parts that were sent.
    pub sent_bytes: u64,
}

/// Size of a part.
pub const PART_BYTES: u64 = 1024;

impl PartsBucket {
    /// A bucket with this content. `judge` decides the fate of each request, such as `part 01J…/index`.
    pub fn new(stored: &Arc<Mutex<PartsStore>>, judge: impl Fn(&str) -> Fate + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(PartsBucket { judge: Box::new(judge), stored: Arc::clone(stored) })
    }

    fn request<T>(
        &self,
        operation: &str,
        object: &str,
        stop: &Stop,
        work: impl FnOnce(&mut PartsStore) -> Result<T>,
    ) -> Result<T> {
        stop.check()?;
        pillion_bucket::check_name(object)?;
        let fate = (self.judge)(&format!("{operation} {object}"));
        let refused = || Error::new(Kind::Retry, "on purpose");
        if fate == Fate::Refused {
            return Err(refused());
        }
        let mut stored = self.stored.lock().unwrap();
        let value = work(&mut stored)?;
        match fate {
            Fate::Unanswered => Err(refused()),
            Fate::Lost if ["complete", "put"].contains(&operation) => {
                stored.objects.remove(object);
                Ok(value)
            }
            _ => Ok(value),
        }
    }
}

/// A number that changes with the content.
fn tag(bytes: &[u8]) -> String {
    let mix = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
    format!("{:016x}", bytes.iter().fold(0xCBF2_9CE4_8422_2325, mix))
}

fn missing(object: &str) -> Error {
    Error::new(Kind::NotFound, format!("{object} does not exist"))
}

impl Bucket for PartsBucket {
    fn name(&self) -> &str {
        "parts"
    }

    fn exists(&self, object: &str, stop: &Stop) -> Result<bool> {
        self.request("exists", object, stop, |stored| Ok(stored.objects.contains_key(object)))
    }

    fn get(&self, object: &str, stop: &Stop) -> Result<Vec<u8>> {
        self.request("get", object, stop, |stored| stored.objects.get(object).cloned().ok_or_else(|| missing(object)))
    }

    fn read(&self, object: &str, each: &mut dyn FnMut(&[u8]) -> Result<()>, stop: &Stop) -> Result<()> {
        each(&self.get(object, stop)?)
    }

    fn iter(&self, _: &str, _: &mut dyn FnMut(&str) -> Result<()>, _: &Stop) -> Result<()> {
        Err(Error::new(Kind::Permanent, "this bucket is not listed"))
    }

    fn attributes(&self, object: &str, stop: &Stop) -> Result<Attributes> {
        self.request("attributes", object, stop, |stored| {
            let bytes = stored.objects.get(object).ok_or_else(|| missing(object))?;
            Ok(Attributes { size_bytes: bytes.len() as u64, tag: tag(bytes) })
        })
    }

    fn upload(&self, object: &str, source: &Source, journal: &dyn Journal, stop: &Stop) -> Result<Stored> {
        let size_bytes = source.size_bytes();
        let known = journal.parts().filter(|parts| {
            let is_same = (parts.part_bytes, parts.size_bytes) == (PART_BYTES, size_bytes);
            is_same && self.stored.lock().unwrap().uploads.contains_key(&parts.upload_id)
        });
        let mut parts = match known {
            Some(parts) => parts,
            None => {
                // A process that dies here leaves an upload whose ID nobody knows; the next one removes it.
                let unnamed = Parts { size_bytes, part_bytes: PART_BYTES, ..Parts::default() };
                let is_known = journal.parts().is_some();
                journal.record(Some(&unnamed))?;
                let upload_id = self.request("begin", object, stop, |stored| {
                    stored.uploads.retain(|_, (other, _)| !is_known || other != object);
                    stored.n_uploads += 1;
                    let id = format!("upload-{}", stored.n_uploads);
                    stored.uploads.insert(id.clone(), (object.to_owned(), Vec::new()));
                    Ok(id)
                })?;
                let parts = Parts { upload_id, part_bytes: PART_BYTES, size_bytes, sent: Vec::new() };
                journal.record(Some(&parts))?;
                parts
            }
        };
        let resumed_bytes = size_bytes.min(parts.sent.len() as u64 * PART_BYTES);
        while parts.sent.len() as u64 * PART_BYTES < size_bytes {
            let from = parts.sent.len() as u64 * PART_BYTES;
            let mut bytes = Vec::new();
            source.for_each(from..size_bytes.min(from + PART_BYTES), |buffer| {
                bytes.extend_from_slice(buffer);
                Ok(())
            })?;
            let part = Part { tag: tag(&bytes), md5: String::new() };
            self.request("part", object, stop, |stored| {
                stored.sent_bytes += bytes.len() as u64;
                let (_, kept) = stored.uploads.get_mut(&parts.upload_id).ok_or_else(|| missing(object))?;
                kept.truncate(parts.sent.len());
                kept.push(bytes);
                Ok(())
            })?;
            parts.sent.push(part);
            journal.record(Some(&parts))?;
        }
        let attributes = self.request("complete", object, stop, |stored| {
            let (_, kept) = stored.uploads.remove(&parts.upload_id).ok_or_else(|| missing(object))?;
            let bytes = kept.concat();
            let attributes = Attributes { size_bytes: bytes.len() as u64, tag: tag(&bytes) };
            stored.objects.insert(object.to_owned(), bytes);
            Ok(attributes)
        })?;
        journal.record(None)?;
        Ok(Stored { attributes, resumed_bytes })
    }

    fn compare(&self, object: &str, source: &Source, stop: &Stop) -> Result<Compared> {
        self.request("compare", object, stop, |stored| {
            let Some(bytes) = stored.objects.get(object) else { return Ok(Compared::Missing) };
            let stored_bytes = bytes.len() as u64;
            if stored_bytes != source.size_bytes() {
                return Ok(Compared::Size { stored_bytes });
            }
            let mut local = Vec::new();
            source.for_each(0..source.size_bytes(), |buffer| {
                local.extend_from_slice(buffer);
                Ok(())
            })?;
            Ok(if local == *bytes { Compared::Same } else { Compared::Content })
        })
    }

    fn abandon(&self, object: &str, parts: &Parts, stop: &Stop) -> Result<()> {
        self.request("abandon", object, stop, |stored| {
            stored
                .uploads
                .retain(|id, (other, _)| *id != parts.upload_id && !(parts.upload_id.is_empty() && other == object));
            Ok(())
        })
    }

    fn upload_bytes(&self, object: &str, bytes: &[u8], stop: &Stop) -> Result<()> {
        self.request("put", object, stop, |stored| {
            stored.objects.insert(object.to_owned(), bytes.to_vec());
            Ok(())
        })
    }

    fn delete(&self, object: &str, stop: &Stop) -> Result<()> {
        self.request("delete", object, stop, |stored| {
            stored.objects.remove(object).map(drop).ok_or_else(|| missing(object))
        })
    }
}

/// What every bucket must do; `bucket` is empty at first and at the end.
pub fn suite(bucket: &dyn Bucket) {
    let (stopper, stop) = stop_pair().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let listing = |of: &str| {
        let mut names = Vec::new();
        bucket
            .iter(
                of,
                &mut |name| {
                    names.push(name.to_owned());
                    Ok(())
                },
                &stop,
            )
            .unwrap();
        names
    };

    let read = |object: &str| {
        let mut bytes = Vec::new();
        let mut each = |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            Ok(())
        };
        bucket.read(object, &mut each, &stop).map(|()| bytes)
    };

    // Nothing is there.
    assert!(listing("").is_empty());
    assert!(!bucket.exists("a/x", &stop).unwrap());
    assert_eq!(bucket.get("a/x", &stop).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(read("a/x").unwrap_err().kind(), Kind::NotFound);
    assert_eq!(bucket.delete("a/x", &stop).unwrap_err().kind(), Kind::NotFound);

    // Files of all sizes around that of the buffer, and an empty one, come back as they were.
    let file = dir.path().join("file");
    let open = || Disk::real().open_source(&file).unwrap();
    let upload = |object: &str| bucket.upload(object, &open(), &NoJournal, &stop);
    let buffer = limits::COPY_BUFFER_BYTES;
    for size in [0, 1, buffer - 1, buffer, buffer + 1, 3 * buffer + 7] {
        let bytes: Vec<u8> = (0..size).map(|i| u8::try_from(i % 251).unwrap()).collect();
        std::fs::write(&file, &bytes).unwrap();
        let stored = upload("a/file").unwrap();
        assert_eq!((stored.attributes.size_bytes, stored.resumed_bytes), (size as u64, 0));
        assert_eq!(bucket.get("a/file", &stop).unwrap(), bytes);
        assert!(read("a/file").unwrap() == bytes);
        assert_eq!(bucket.attributes("a/file", &stop).unwrap(), stored.attributes);
        assert_eq!(bucket.compare("a/file", &open(), &stop).unwrap(), Compared::Same);
    }

    // Who has enough of an object gets no more of it, whatever the kind of the error.
    for kind in [Kind::Limit, Kind::Retry] {
        let mut n_pieces = 0;
        let mut give_up = |_: &[u8]| {
            n_pieces += 1;
            Err(Error::new(kind, "enough"))
        };
        let err = bucket.read("a/file", &mut give_up, &stop).unwrap_err();
        assert_eq!((err.kind(), n_pieces), (kind, 1), "{err}");
    }

    // A comparison says what is wrong; it compares every byte.
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    assert_eq!(bucket.compare("a/file", &open(), &stop).unwrap(), Compared::Content);
    bytes.pop();
    std::fs::write(&file, &bytes).unwrap();
    let stored_bytes = bytes.len() as u64 + 1;
    assert_eq!(bucket.compare("a/file", &open(), &stop).unwrap(), Compared::Size { stored_bytes });
    assert_eq!(bucket.compare("a/missing", &open(), &stop).unwrap(), Compared::Missing);
    assert_eq!(bucket.attributes("a/missing", &stop).unwrap_err().kind(), Kind::NotFound);

    // To abandon an upload that the bucket does not know is no error.
    let unknown = Parts { upload_id: "unknown".into(), part_bytes: 1, size_bytes: 1, sent: Vec::<Part>::new() };
    bucket.abandon("a/file", &unknown, &stop).unwrap();

    // An object is replaced whole, by a shorter one too.
    bucket.upload_bytes("a/x", b"longer", &stop).unwrap();
    bucket.upload_bytes("a/x", b"x", &stop).unwrap();
    assert_eq!(bucket.get("a/x", &stop).unwrap(), b"x");

    // A folder is not an object, and neither is what is below an object.
    assert!(bucket.exists("a/x", &stop).unwrap());
    assert!(!bucket.exists("a", &stop).unwrap());
    assert_eq!(read("a").unwrap_err().kind(), Kind::NotFound);
    assert!(!bucket.exists("a/x/y", &stop).unwrap());

    // Listings go one level deep, sorted, folders with a slash.
    for object in ["top", "b/c/d", "a-b"] {
        bucket.upload_bytes(object, object.as_bytes(), &stop).unwrap();
    }
    assert_eq!(listing(""), ["a-b", "a/", "b/", "top"]);
    assert_eq!(listing("a"), ["a/file", "a/x"]);
    assert_eq!(listing("a/"), ["a/file", "a/x"]);
    assert_eq!(listing("b"), ["b/c/"]);
    assert!(listing("missing").is_empty());
    let mut n_seen = 0;
    let mut give_up = |_: &str| {
        n_seen += 1;
        Err(Error::new(Kind::Limit, "enough"))
    };
    let err = bucket.iter("", &mut give_up, &stop).unwrap_err();
    assert_eq!((err.kind(), n_seen), (Kind::Limit, 1));

    // Odd names never reach the store; only a prefix may have an empty part, as in `a//b`.
    for odd in ["", "/", "/a", "a/", "..", "../x", "a/../x", ".", "a/./b", "a\nb"] {
        assert_eq!(bucket.exists(odd, &stop).unwrap_err().kind(), Kind::BadRequest, "{odd:?}");
        assert_eq!(bucket.get(odd, &stop).unwrap_err().kind(), Kind::BadRequest, "{odd:?}");
        assert_eq!(read(odd).unwrap_err().kind(), Kind::BadRequest, "{odd:?}");
        assert_eq!(upload(odd).unwrap_err().kind(), Kind::BadRequest, "{odd:?}");
        assert_eq!(bucket.upload_bytes(odd, b"x", &stop).unwrap_err().kind(), Kind::BadRequest, "{odd:?}");
        assert_eq!(bucket.delete(odd, &stop).unwrap_err().kind(), Kind::BadRequest, "{odd:?}");
    }

    // A file that becomes shorter while it is read makes no object.
    let shrunk = open();
    std::fs::write(&file, b"short").unwrap();
    bucket.upload("a/y", &shrunk, &NoJournal, &stop).unwrap_err();
    assert!(!bucket.exists("a/y", &stop).unwrap());

    // Many uploads at once.
    std::thread::scope(|scope| {
        for i in 0..8 {
            let stop = &stop;
            scope.spawn(move || bucket.upload_bytes(&format!("many/{i}"), &[i; 1000], stop).unwrap());
        }
    });
    for i in 0..8 {
        assert_eq!(bucket.get(&format!("many/{i}"), &stop).unwrap(), [i; 1000]);
        bucket.delete(&format!("many/{i}"), &stop).unwrap();
    }

    for object in ["top", "b/c/d", "a-b", "a/file"] {
        bucket.delete(object, &stop).unwrap();
        assert!(!bucket.exists(object, &stop).unwrap());
    }
    assert_eq!(listing(""), ["a/"]);

    // After the stop nothing is done.
    stopper.stop();
    assert_eq!(bucket.exists("a/x", &stop).unwrap_err().kind(), Kind::Stopped);
    assert_eq!(bucket.get("a/x", &stop).unwrap_err().kind(), Kind::Stopped);
    assert_eq!(read("a/x").unwrap_err().kind(), Kind::Stopped);
    assert_eq!(upload("a/z").unwrap_err().kind(), Kind::Stopped);
    assert_eq!(bucket.upload_bytes("a/z", b"z", &stop).unwrap_err().kind(), Kind::Stopped);
    assert_eq!(bucket.delete("a/x", &stop).unwrap_err().kind(), Kind::Stopped);
    let (_stopper, stop) = stop_pair().unwrap();
    assert!(!bucket.exists("a/z", &stop).unwrap());
    bucket.delete("a/x", &stop).unwrap();
    bucket.iter("", &mut |name| panic!("{name} is left"), &stop).unwrap();
}
