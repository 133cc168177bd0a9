//! The sampled answer, as a snappy block and as the bytes within one: any bytes end in series or an error, and every chunk
//! that comes out can be decoded, holds at most 120 samples in order, and tells its own first and last time. Samples that were
//! dressed for it come out as they were.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_fuzz::Dice;
use pillion_read::store::samples;
use pillion_read::store::wire::{self, Fields};
use pillion_read::xor;

/// Changes of the time step around the edges of the encoder's sizes.
const CHANGES_MS: [i64; 16] =
    [0, 0, 1, -1, 8_191, 8_192, 8_193, -8_191, -8_192, 65_536, 65_537, -65_535, -65_536, 524_288, 524_289, -524_288];

/// Checks one chunk and adds its samples to `all`.
fn check_chunk(chunk: &[u8], all: &mut Vec<(i64, u64)>) {
    let (mut min, mut max, mut encoding, mut data): (_, _, _, &[u8]) = (0, 0, 0, &[]);
    let mut fields = Fields::new(chunk);
    while let Some((number, field)) = fields.next_field().expect("what comes out is protobuf") {
        match number {
            1 => min = field.varint().expect("a number").cast_signed(),
            2 => max = field.varint().expect("a number").cast_signed(),
            3 => encoding = field.varint().expect("a number"),
            4 => data = field.bytes().expect("bytes"),
            _ => panic!("field {number} of a chunk"),
        }
    }
    assert_eq!(encoding, 1);
    let mut decoded = Vec::new();
    xor::decode(data, &mut decoded).expect("a chunk of ours can be decoded");
    assert!(decoded.len() <= usize::from(samples::CHUNK_SAMPLES));
    assert!(decoded.is_sorted_by_key(|sample| sample.time_ms));
    let ends = (decoded.first().map(|s| s.time_ms), decoded.last().map(|s| s.time_ms));
    assert_eq!(ends, (Some(min), Some(max)));
    all.extend(decoded.iter().map(|sample| (sample.time_ms, sample.value.to_bits())));
}

/// The samples of all series, or nothing when the answer was refused.
fn check(body: &[u8]) -> Option<Vec<(i64, u64)>> {
    let mut all = Vec::new();
    samples::chunked_series(body, &mut |series| {
        let mut n_chunks = 0;
        let mut fields = Fields::new(series);
        while let Some((number, field)) = fields.next_field().expect("what comes out is protobuf") {
            if number == 2 {
                check_chunk(field.bytes().expect("a chunk is a message"), &mut all);
                n_chunks += 1;
            }
        }
        assert!(n_chunks > 0, "a series without chunks");
        Ok(())
    })
    .ok()?;
    Some(all)
}

fn snappy(plain: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(plain).expect("inputs are small")
}

/// Reads the input as steps of time and value, and expects them back.
fn check_round_trip(mut dice: Dice<'_>) {
    let (mut time_ms, mut delta_ms, mut bits) = (i64::from(dice.byte()) - 128, 100_000_i64, 0_u64);
    let (mut given, mut series) = (Vec::new(), Vec::new());
    while !dice.0.is_empty() {
        let step = dice.byte();
        delta_ms = (delta_ms + CHANGES_MS[usize::from(step & 15)]).max(0);
        time_ms += delta_ms;
        if step & 0x30 == 0 {
            bits = dice.bytes(8).iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        }
        bits = bits.rotate_left(u32::from(step >> 6));
        let mut sample = vec![0x09];
        sample.extend(bits.to_le_bytes());
        wire::put_number(2, time_ms.cast_unsigned(), &mut sample);
        wire::put_bytes(2, &sample, &mut series);
        given.push((time_ms, bits));
    }
    let (mut result, mut response) = (Vec::new(), Vec::new());
    wire::put_header(1, series.len(), &mut result);
    result.extend(series);
    wire::put_bytes(1, &result, &mut response);
    assert_eq!(check(&snappy(&response)), Some(given));
}

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&snappy(data));
    check_round_trip(Dice(data));
});
