//! XOR chunks: any bytes end in samples or an error, and samples that were decoded survive another round.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_read::xor::{self, Encoder};

fn decoded(chunk: &[u8]) -> Option<Vec<(i64, u64)>> {
    let mut samples = Vec::new();
    xor::decode(chunk, &mut samples).ok()?;
    Some(samples.iter().map(|sample| (sample.time_ms, sample.value.to_bits())).collect())
}

fuzz_target!(|data: &[u8]| {
    let Some(samples) = decoded(data) else { return };
    let mut encoder = Encoder::default();
    for (time_ms, bits) in &samples {
        if encoder.push(*time_ms, f64::from_bits(*bits)).is_err() {
            // Chunks from outside may step backwards in time, ours may not.
            assert!(!samples.is_sorted_by_key(|(time_ms, _)| *time_ms));
            return;
        }
    }
    if !samples.is_empty() {
        assert_eq!(decoded(encoder.finish()), Some(samples));
    }
});
