//! Tests of the XOR decoder, against golden bytes and an encoder of their own.

use super::*;
use pillion_base::error::Kind;

/// An encoder, for tests only.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    n_bits: usize,
}

impl Writer {
    fn write(&mut self, value: u64, n_bits: u32) {
        for idx in (0..n_bits).rev() {
            if self.n_bits.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let bit = u8::try_from(value >> idx & 1).unwrap();
            *self.bytes.last_mut().unwrap() |= bit << (7 - self.n_bits % 8);
            self.n_bits += 1;
        }
    }

    fn uvarint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.write(value & 0x7f | 0x80, 8);
            value >>= 7;
        }
        self.write(value, 8);
    }
}

/// Encodes samples as Prometheus does. Time steps must not be negative between the first two.
pub(crate) fn encode(samples: &[(i64, f64)]) -> Vec<u8> {
    let mut out = Writer::default();
    out.write(u64::try_from(samples.len()).unwrap(), 16);
    let (mut time, mut delta, mut bits) = (0_i64, 0_i64, 0_u64);
    let mut window: Option<(u32, u32)> = None;
    for (idx, (next_time, value)) in samples.iter().enumerate() {
        match idx {
            0 => {
                out.uvarint(((next_time << 1) ^ (next_time >> 63)).cast_unsigned());
                out.write(value.to_bits(), 64);
                (time, bits) = (*next_time, value.to_bits());
                continue;
            }
            1 => {
                delta = next_time - time;
                out.uvarint(u64::try_from(delta).unwrap());
            }
            _ => {
                let change = next_time - time - delta;
                delta = next_time - time;
                match change {
                    0 => out.write(0, 1),
                    -8191..=8192 => {
                        out.write(0b10, 2);
                        out.write(change.cast_unsigned(), 14);
                    }
                    -65535..=65536 => {
                        out.write(0b110, 3);
                        out.write(change.cast_unsigned(), 17);
                    }
                    -524_287..=524_288 => {
                        out.write(0b1110, 4);
                        out.write(change.cast_unsigned(), 20);
                    }
                    _ => {
                        out.write(0b1111, 4);
                        out.write(change.cast_unsigned(), 64);
                    }
                }
            }
        }
        time = *next_time;
        let changed = bits ^ value.to_bits();
        bits = value.to_bits();
        if changed == 0 {
            out.write(0, 1);
            continue;
        }
        out.write(1, 1);
        let (leading, trailing) = (changed.leading_zeros().min(31), changed.trailing_zeros());
        match window {
            Some((l, t)) if leading >= l && trailing >= t => {
                out.write(0, 1);
                out.write(changed >> t, 64 - l - t);
            }
            _ => {
                let n_significant = 64 - leading - trailing;
                out.write(1, 1);
                out.write(u64::from(leading), 5);
                out.write(u64::from(n_significant % 64), 6);
                out.write(changed >> trailing, n_significant);
                window = Some((leading, trailing));
            }
        }
    }
    out.bytes
}

fn decoded(chunk: &[u8]) -> Result<Vec<(i64, u64)>> {
    let mut samples = Vec::new();
    decode(chunk, &mut samples)?;
    Ok(samples.iter().map(|s| (s.time_ms, s.value.to_bits())).collect())
}

fn check(samples: &[(i64, f64)]) {
    let expected: Vec<_> = samples.iter().map(|(t, v)| (*t, v.to_bits())).collect();
    assert_eq!(decoded(&encode(samples)).unwrap(), expected);
}

/// A small generator (xorshift), so that a failing seed can be tried again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

#[test]
fn golden_bytes() {
    // Worked out by hand from the format: 3 samples, 1000 ms and 15 s apart, 1.0, 1.0, 2.0.
    // 1.0 = 3ff0…, 2.0 = 4000…: the XOR is 7ff0…, 1 leading zero, 11 significant bits.
    // After the raw value: uvarint 15000 = 98 75; '0' same value; '0' same step;
    // '1' '1' 00001 001011 11111111111 → 0011 0000 1001 0111 1111 1111 11 and padding.
    let chunk = [
        0x00,
        0x03,
        0xd0,
        0x0f,
        0x3f,
        0xf0,
        0,
        0,
        0,
        0,
        0,
        0,
        0x98,
        0x75,
        0b0011_0000,
        0b1001_0111,
        0b1111_1111,
        0b1100_0000,
    ];
    let expected = [(1000, 1.0_f64.to_bits()), (16000, 1.0_f64.to_bits()), (31000, 2.0_f64.to_bits())];
    assert_eq!(decoded(&chunk).unwrap(), expected);
    assert_eq!(encode(&[(1000, 1.0), (16000, 1.0), (31000, 2.0)]), chunk);
    assert_eq!(decoded(&[0, 0]).unwrap(), []);
}

#[test]
fn edges_of_the_time_step_buckets() {
    for change in [0, 1, -1, 8192, 8193, -8191, -8192, 65536, 65537, -65535, -65536, 524_288, 524_289, -524_287] {
        let delta = 1_000_000;
        check(&[(0, 0.0), (delta, 0.5), (2 * delta + change, 0.25), (3 * delta + change, -7.0)]);
    }
    check(&[(i64::MIN / 4, 1.0), (0, 1.0), (i64::MAX / 4, 1.0)]);
}

#[test]
fn special_values() {
    let stale = f64::from_bits(STALE_NAN_BITS);
    check(&[(0, f64::NAN), (1, stale), (2, f64::INFINITY), (3, -0.0), (4, f64::MIN_POSITIVE), (5, stale)]);
    assert!(Sample { time_ms: 0, value: stale }.is_stale());
    assert!(!Sample { time_ms: 0, value: f64::NAN }.is_stale());
}

#[test]
fn random_samples_survive() {
    for seed in 1..400 {
        let mut random = Random(seed);
        let mut time = i64::try_from(random.below(1 << 42)).unwrap();
        let mut value = 0.0;
        let samples: Vec<_> = (0..random.below(300))
            .map(|_| {
                let size = random.below(24);
                time += i64::try_from(random.below(1 << size)).unwrap();
                value = match random.below(4) {
                    0 => value,
                    1 => value + 1.0,
                    2 => f64::from_bits(random.next()),
                    _ => (value + 0.1) * 1.5,
                };
                (time, value)
            })
            .collect();
        println!("seed {seed}");
        check(&samples);
    }
}

#[test]
fn garbage_is_an_error_or_samples_but_never_a_panic() {
    let good = encode(&[(0, 1.5), (15_000, 2.5), (31_000, f64::NAN), (800_000, 9e99), (900_000, 9e99)]);
    for length in 0..good.len() - 1 {
        assert_eq!(decoded(&good[..length]).unwrap_err().kind(), Kind::Corrupt, "{length}");
    }
    for seed in 1..20_000 {
        let mut random = Random(seed);
        let mut bytes: Vec<u8> = (0..random.below(64)).map(|_| random.next().to_le_bytes()[0]).collect();
        if seed % 2 == 0 {
            bytes = good.clone();
            let idx = usize::try_from(random.below(good.len() as u64)).unwrap();
            bytes[idx] ^= random.next().to_le_bytes()[0];
        }
        if let Err(err) = decoded(&bytes) {
            assert_eq!(err.kind(), Kind::Corrupt, "seed {seed}");
        }
    }
}

#[test]
fn values_that_cannot_be_are_corrupt() {
    // 31 leading zeros and 63 significant bits.
    let mut out = Writer::default();
    out.write(2, 16);
    out.uvarint(0);
    out.write(0, 64);
    out.uvarint(1);
    out.write(0b1_1111_1111_1111, 13);
    out.write(0, 64);
    let err = decoded(&out.bytes).unwrap_err();
    assert!(err.to_string().contains("do not fit"), "{err}");
    // A varint of eleven bytes.
    let err = decoded(&[0, 1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0]).unwrap_err();
    assert!(err.to_string().contains("too long"), "{err}");
    assert_eq!(n_samples(&[1]).unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(n_samples(&[1, 2, 3]).unwrap(), 258);
}
