//! Remote-read framing: any bytes end in frames or an error, and what was framed comes out as it went in, however the
//! connection divides it.

#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use pillion_fuzz::Dice;
use pillion_read::prom::FrameReader;
use pillion_read::store::wire;

const FRAME_BYTES_MAX: usize = 4096;

/// Gives at most `step` bytes at a time.
struct Dribble<'a> {
    bytes: &'a [u8],
    step: usize,
}

impl Read for Dribble<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let len = self.step.min(buf.len());
        self.bytes.read(&mut buf[..len])
    }
}

/// Payloads up to the end or the first error, and whether there was one.
fn read_all(bytes: &[u8], step: usize) -> (Vec<Vec<u8>>, bool) {
    let mut reader = FrameReader::new(Dribble { bytes, step }, FRAME_BYTES_MAX);
    let (mut payloads, mut payload) = (Vec::new(), Vec::new());
    loop {
        match reader.read_frame(&mut payload) {
            Ok(true) => {
                assert!(payload.len() <= FRAME_BYTES_MAX);
                payloads.push(payload.clone());
            }
            Ok(false) => break (payloads, false),
            Err(err) => {
                assert!(!err.to_string().is_empty());
                break (payloads, true);
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    assert_eq!(read_all(data, usize::MAX), read_all(data, 1));

    let mut dice = Dice(data);
    let step = usize::from(dice.byte()).max(1);
    let (mut payloads, mut framed) = (Vec::new(), Vec::new());
    while !dice.0.is_empty() {
        let len = usize::from(dice.byte()) * 9;
        let payload = dice.bytes(len).to_vec();
        wire::put_varint(payload.len() as u64, &mut framed);
        framed.extend(crc32c::crc32c(&payload).to_be_bytes());
        framed.extend(&payload);
        payloads.push(payload);
    }
    assert_eq!(read_all(&framed, step), (payloads, false));
});
