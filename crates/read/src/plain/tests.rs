//! Tests of the plain chunks: Prometheus's own golden files, and bytes that are no chunks.

use super::*;
use crate::xor::{self, STALE_NAN_BITS};

/// A chunk in a newer encoding, and the plain ones that Prometheus's own code makes of what it holds.
struct Golden {
    name: String,
    chunk: Chunk,
    plain: Vec<Chunk>,
}

#[derive(Debug, PartialEq)]
struct Chunk {
    encoding: u64,
    times_ms: (i64, i64),
    data: Vec<u8>,
}

/// The chunks of a golden file; README.txt beside them says how they were made.
fn golden(file: &str) -> Vec<Golden> {
    let path = format!("{}/../../tests/data/chunks/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let mut all: Vec<Golden> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [.., encoding, min, max, hex] = words[..] else { panic!("{line}") };
        let data = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        let times_ms = (min.parse().unwrap(), max.parse().unwrap());
        let chunk = Chunk { encoding: encoding.parse().unwrap(), times_ms, data };
        match words[0] {
            "chunk" => all.push(Golden { name: words[1].to_owned(), chunk, plain: Vec::new() }),
            "plain" => all.last_mut().unwrap().plain.push(chunk),
            other => panic!("{other}"),
        }
    }
    all
}

fn converted(encoding: u64, data: &[u8]) -> Result<Vec<(Piece, Vec<u8>)>> {
    let (mut plain, mut pieces) = (Plain::default(), Vec::new());
    plain.add(encoding, data, &mut |piece, data| pieces.push((piece, data.to_vec())))?;
    assert!(pieces.iter().all(|(piece, data)| plain.bytes()[piece.range.clone()] == *data));
    Ok(pieces)
}

fn check(file: &str, n_min: usize) {
    let all = golden(file);
    assert!(all.len() >= n_min, "{}", all.len());
    for Golden { name, chunk, plain } in &all {
        let pieces = converted(chunk.encoding, &chunk.data).unwrap_or_else(|err| panic!("{name}: {err}"));
        // Prometheus may give a chunk that is still open a later end than its last sample.
        let (first, last) = (plain[0].times_ms.0, plain[plain.len() - 1].times_ms.1);
        let got: Vec<Chunk> = pieces
            .into_iter()
            .map(|(piece, data)| Chunk {
                encoding: piece.encoding,
                times_ms: (piece.min_ms.unwrap_or(first), piece.max_ms.unwrap_or(last)),
                data,
            })
            .collect();
        assert!(got == *plain, "{name}:\n{got:?}\n{plain:?}");
        if chunk.encoding != XOR2 {
            continue;
        }
        let mut times_ms = Vec::new();
        for piece in &got {
            let mut samples = Vec::new();
            xor::decode(&piece.data, &mut samples).unwrap();
            assert_eq!((samples[0].time_ms, samples[samples.len() - 1].time_ms), piece.times_ms, "{name}");
            times_ms.extend(samples.iter().map(|sample| sample.time_ms));
        }
        assert!(times_ms.is_sorted(), "{name}");
        assert_eq!(times_ms.len(), usize::from(xor::n_samples(&chunk.data).unwrap()), "{name}");
    }
}

#[test]
fn made_up_chunks_become_what_prometheus_makes_of_them() {
    check("made.txt", 250);
}

#[test]
fn chunks_of_a_real_prometheus_become_what_prometheus_makes_of_them() {
    check("real.txt", 40);
}

#[test]
fn values_keep_every_bit() {
    let all = golden("made.txt");
    let of = |name: &str| all.iter().find(|golden| golden.name == name).unwrap();
    let pieces = converted(XOR2, &of("float-special-wild").chunk.data).unwrap();
    let mut samples = Vec::new();
    xor::decode(&pieces[0].1, &mut samples).unwrap();
    let bits: Vec<u64> = samples.iter().map(|sample| sample.value.to_bits()).collect();
    let expected = [
        0x7ff8_0000_0000_0001,
        f64::INFINITY.to_bits(),
        f64::NEG_INFINITY.to_bits(),
        0,
        1 << 63,
        STALE_NAN_BITS,
        f64::MAX.to_bits(),
        1,
        0xfff4_0000_dead_beef,
        STALE_NAN_BITS,
        STALE_NAN_BITS,
        1.0_f64.to_bits(),
    ];
    assert_eq!(bits[..12], expected);
    assert_eq!(bits[12..24], expected);
}

#[test]
fn headers_of_histograms_are_moved() {
    let all = golden("made.txt");
    let mut seen = std::collections::BTreeSet::new();
    for golden in all.iter().filter(|golden| golden.chunk.encoding != XOR2) {
        let (header, n_samples) = (golden.chunk.data[0] & 0xc0, golden.chunk.data[1]);
        let pieces = converted(golden.chunk.encoding, &golden.chunk.data).unwrap();
        assert_eq!(pieces[0].1[..3], [0, n_samples, header], "{}", golden.name);
        seen.insert(header);
    }
    assert!(seen.contains(&0xc0) && seen.contains(&0x80) && seen.len() > 2, "{seen:?}");
}

#[test]
fn a_long_chunk_is_cut_and_an_empty_one_stays_empty() {
    // 65,535 times the same value, a second apart: a bit each.
    let mut chunk = vec![0xff, 0xff, 0, 0];
    chunk.extend(1.0_f64.to_bits().to_be_bytes());
    chunk.extend([0xe8, 0x07, 0]);
    chunk.resize(chunk.len() + 65_535 / 8, 0);
    let pieces = converted(XOR2, &chunk).unwrap();
    assert_eq!(pieces.len(), 65_535_usize.div_ceil(240));
    let times: Vec<_> = pieces.iter().map(|(piece, _)| (piece.min_ms, piece.max_ms)).collect();
    assert_eq!(times[0], (None, Some(239_000)));
    assert_eq!(times[1], (Some(240_000), Some(479_000)));
    assert_eq!(times[273], (Some(65_520_000), None));
    let mut samples = Vec::new();
    pieces.iter().for_each(|(_, data)| xor::decode(data, &mut samples).unwrap());
    assert!((0..65_535).map(|idx| idx * 1000).eq(samples.iter().map(|sample| sample.time_ms)));
    assert!(samples.iter().all(|sample| sample.value.to_bits() == 1.0_f64.to_bits()));

    let one = |encoding: u64, chunk: &[u8]| {
        let pieces = converted(encoding, chunk).unwrap();
        assert_eq!(pieces.len(), 1);
        pieces[0].1.clone()
    };
    assert_eq!(one(4, &[0, 0, 0]), [0, 0]);
    assert_eq!(one(5, &[0xc0, 0, 0]), [0, 0, 0xc0]);
    assert_eq!(one(6, &[0x40, 0, 0x80]), [0, 0, 0x40]);
}

#[test]
fn hostile_chunks_are_corrupt() {
    let check = |encoding: u64, chunk: &[u8], text: &str| {
        let err = converted(encoding, chunk).unwrap_err();
        assert_eq!(err.kind(), Kind::Corrupt, "{err}");
        assert!(err.to_string().contains(text), "{err}");
    };
    for encoding in NEWER_ENCODINGS {
        for len in 0..3 {
            check(encoding, &vec![0; len], "shorter than its header");
        }
    }
    // A count of which nothing follows.
    check(4, &[0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0], "ends within");
    check(5, &[0x3f, 0xff, 0x81, 0, 0, 0, 0, 0, 0, 0], "ends within");
    check(6, &[0x3f, 0xff, 0x81, 0, 0, 0, 0, 0, 0, 0], "ends within");
    // Endless numbers.
    check(4, &[0, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "too long");
    // 2^64 - 1 spans; one span of as many buckets; as many bounds.
    let layout = |parts: &[(u64, u32)]| {
        let mut writer = Writer::default();
        writer.begin(&[0, 1, 0x80]);
        for (value, n_bits) in [(0, 8)].iter().chain(parts) {
            writer.write(*value, *n_bits);
        }
        for _ in 0..8 {
            writer.write(u64::MAX, 64);
        }
        writer.finish().to_vec()
    };
    for encoding in [5, 6] {
        check(encoding, &layout(&[(0, 1), (0xff, 8), (u64::MAX, 64)]), "");
        check(encoding, &layout(&[(0, 1), (0b10001, 5), (0xff, 8), (u64::MAX, 64)]), "more buckets than");
        // 2^32 buckets in a span, twice.
        let span = (1 << 32, 56);
        let two = [(0, 1), (0b10010, 5), (0xfe, 8), span, (0, 1), (0xfe, 8), span];
        check(encoding, &layout(&two), "more buckets than");
        // Schema -53, no spans.
        check(encoding, &layout(&[(0b1110 << 9 | 459, 13), (0, 2), (0xff, 8), (u64::MAX, 64)]), "");
    }
    // Floats: more buckets than there are numbers.
    check(6, &layout(&[(0, 1), (0b10001, 5), (0b1110 << 9 | 40, 13), (0, 1), (0, 1)]), "first histogram");
    // Samples that step back in time.
    let mut back = vec![0, 3, 0, 2];
    back.extend([0; 8]);
    back.extend([1, 0b0110_1111, 0b1111_1100, 0]);
    check(4, &back, "out of order");
}

#[test]
fn cut_and_changed_chunks_never_panic() {
    let mut plain = Plain::default();
    let (mut n_good, mut n_bad) = (0_u64, 0_u64);
    let mut given = |encoding: u64, data: &[u8]| {
        plain.clear();
        let mut n_bytes = 0;
        match plain.add(encoding, data, &mut |piece, _| n_bytes += piece.range.len()) {
            Ok(()) => n_good += 1,
            Err(err) => {
                assert_eq!(err.kind(), Kind::Corrupt, "{err}");
                n_bad += 1;
            }
        }
        // A sample takes a bit at least, and makes less than 20 bytes.
        assert!(n_bytes <= 40 + data.len() * 8 * 20);
    };
    for golden in golden("made.txt").iter().filter(|golden| golden.chunk.data.len() < 400) {
        let data = &golden.chunk.data;
        for len in 0..data.len() {
            given(golden.chunk.encoding, &data[..len]);
        }
        let mut bad = data.clone();
        for bit in (0..data.len() * 8).step_by(3) {
            bad[bit / 8] ^= 1 << (bit % 8);
            given(golden.chunk.encoding, &bad);
            // Bytes of one kind read as another.
            given(4 + (golden.chunk.encoding - 3) % 3, &bad);
            bad[bit / 8] ^= 1 << (bit % 8);
        }
    }
    assert!(n_good > 1000 && n_bad > 1000, "{n_good} {n_bad}");
}
