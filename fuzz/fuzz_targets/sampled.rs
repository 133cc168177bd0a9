//! The sampled answer, as a snappy block and as the bytes within one: any bytes end in series or an error, and every chunk
//! that comes out can be decoded, holds at most 120 samples in order, and tells its own first and last time.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_fuzz::client::xor;
use pillion_fuzz::store::samples;
use pillion_fuzz::store::wire::Fields;

fn check_chunk(chunk: &[u8]) {
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
}

fn check(body: &[u8]) {
    let _ = samples::chunked_series(body, &mut |series| {
        let mut n_chunks = 0;
        let mut fields = Fields::new(series);
        while let Some((number, field)) = fields.next_field().expect("what comes out is protobuf") {
            if number == 2 {
                check_chunk(field.bytes().expect("a chunk is a message"));
                n_chunks += 1;
            }
        }
        assert!(n_chunks > 0, "a series without chunks");
        Ok(())
    });
}

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&snap::raw::Encoder::new().compress_vec(data).expect("inputs are small"));
});
