//! Configurations of the reloader: a text without references stays as it is, one with them changes there only, and a compressed
//! one means what it was.

#![no_main]

use std::cell::RefCell;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use libfuzzer_sys::fuzz_target;
use pillion_reload::render;

fuzz_target!(|data: &[u8]| {
    // A compressed input is anything at all: it must only end.
    let _ = render(data, &|_| None);
    if data.starts_with(&[0x1f, 0x8b, 0x08]) {
        return;
    }
    let names = RefCell::new(Vec::new());
    // A variable that holds the reference to itself leaves everything as it is.
    let same = |name: &str| {
        assert!(!name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_'), "{name:?}");
        names.borrow_mut().push(name.to_owned());
        Some(format!("$({name})").into_bytes())
    };
    assert_eq!(render(data, &same).unwrap(), data);
    let names = names.into_inner();
    let n_bytes: usize = names.iter().map(|name| name.len() + 3).sum();
    let plain = render(data, &|_| Some(Vec::new())).unwrap();
    assert_eq!(plain.len(), data.len() - n_bytes);
    // Without variables the first reference is named, if there is one.
    match (render(data, &|_| None), names.first()) {
        (Ok(same), None) => assert_eq!(same, data),
        (Err(err), Some(name)) => assert!(err.to_string().contains(name.as_str()), "{err}"),
        (result, name) => panic!("{result:?}, {name:?}"),
    }
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(data).unwrap();
    assert_eq!(render(&gzip.finish().unwrap(), &|_| Some(Vec::new())).unwrap(), plain);
});
