//! Chunks in newer encodings: any bytes end in plain chunks or an error, and what is made of them is bounded by them. Floats
//! can be decoded and lie within the times that are told; a histogram keeps its count and its counter-reset header.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_read::plain::{NEWER_ENCODINGS, Plain};
use pillion_read::xor;

fuzz_target!(|data: &[u8]| {
    let Some((mode, chunk)) = data.split_first() else { return };
    let encoding = NEWER_ENCODINGS.start() + u64::from(mode % 3);
    let mut plain = Plain::default();
    let mut pieces = Vec::new();
    if plain.add(encoding, chunk, &mut |piece, bytes| pieces.push((piece, bytes.to_vec()))).is_err() {
        return;
    }
    // A sample takes a bit at least, and makes less than 20 bytes.
    assert!(plain.bytes().len() <= 40 + chunk.len() * 8 * 20);
    let n_samples = u16::from_be_bytes([chunk[0], chunk[1]]);
    if encoding > 4 {
        let [(piece, bytes)] = pieces.as_slice() else { panic!("{} pieces", pieces.len()) };
        assert_eq!((piece.encoding, piece.min_ms, piece.max_ms), (encoding - 3, None, None));
        assert_eq!(xor::n_samples(bytes), Ok(n_samples & 0x3fff));
        assert_eq!(bytes[2], chunk[0] & 0xc0);
        assert!(bytes.len() <= chunk.len());
        return;
    }
    let mut n_decoded = 0;
    let mut last_ms = i64::MIN;
    for (piece, bytes) in &pieces {
        assert_eq!(plain.bytes()[piece.range.clone()], *bytes);
        let mut samples = Vec::new();
        xor::decode(bytes, &mut samples).expect("a chunk of ours can be decoded");
        assert!(samples.is_sorted_by_key(|sample| sample.time_ms));
        n_decoded += samples.len();
        if let (Some(first), Some(last)) = (samples.first(), samples.last()) {
            assert!(piece.min_ms.is_none_or(|min_ms| min_ms == first.time_ms));
            assert!(piece.max_ms.is_none_or(|max_ms| max_ms == last.time_ms));
            assert!(last_ms <= first.time_ms);
            last_ms = last.time_ms;
        }
    }
    assert_eq!(n_decoded, usize::from(n_samples));
});
