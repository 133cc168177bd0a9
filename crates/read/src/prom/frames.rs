//! The framing of streamed remote read: uvarint length, CRC-32C (big-endian) of the payload, payload. Pure: it reads from
//! whatever `Read` it is given.
//!
//! `Source:` prometheus `storage/remote/chunked.go`.

use std::io::Read;

use pillion_base::error::{Error, Kind, Result};

/// Memory for a payload of up to this size is reserved before its bytes arrive.
const TRUSTED_BYTES: usize = 64 * 1024;

/// Reads frames into buffers that are handed in.
pub struct FrameReader<R> {
    source: R,
    frame_bytes_max: usize,
}

impl<R: Read> FrameReader<R> {
    /// A reader that refuses payloads above `frame_bytes_max`.
    pub fn new(source: R, frame_bytes_max: usize) -> Self {
        FrameReader { source, frame_bytes_max }
    }

    /// Replaces `payload` with the next frame's; false when the stream ended between two frames.
    ///
    /// `Errors:` `Corrupt` for a frame that is cut short, too long or does not match its checksum; `Retry` when the
    /// connection broke.
    pub fn read_frame(&mut self, payload: &mut Vec<u8>) -> Result<bool> {
        payload.clear();
        let Some(len) = self.length()? else { return Ok(false) };
        let mut crc = [0; 4];
        self.fill(&mut crc)?;
        let len = match usize::try_from(len) {
            Ok(len) if len <= self.frame_bytes_max => len,
            _ => {
                let text = format!(
                    "chunkedReader: message size exceeded the limit {} bytes; got: {len} bytes",
                    self.frame_bytes_max
                );
                return Err(Error::new(Kind::Corrupt, text));
            }
        };
        // A small frame gets its memory at once; a larger buffer grows with what arrives, not with what the length claims.
        payload.reserve(len.min(TRUSTED_BYTES));
        let n_read = Read::take(&mut self.source, len as u64).read_to_end(payload).map_err(|err| broken(&err))?;
        if n_read < len {
            return Err(Error::new(Kind::Corrupt, format!("stream ended inside a frame: {n_read} of {len} bytes")));
        }
        if crc32c::crc32c(payload) != u32::from_be_bytes(crc) {
            return Err(Error::new(Kind::Corrupt, "chunkedReader: corrupted frame; checksum mismatch"));
        }
        Ok(true)
    }

    /// The uvarint in front of a frame; `None` at a clean end.
    fn length(&mut self) -> Result<Option<u64>> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let mut byte = [0; 1];
            if read_some(&mut self.source, &mut byte)? == 0 {
                return match shift {
                    0 => Ok(None),
                    _ => Err(Error::new(Kind::Corrupt, "stream ended inside a frame's length")),
                };
            }
            let bits = u64::from(byte[0] & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(Some(value));
            }
        }
        Err(Error::new(Kind::Corrupt, "frame length is not a varint"))
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<()> {
        let mut n_filled = 0;
        while n_filled < buf.len() {
            match read_some(&mut self.source, &mut buf[n_filled..])? {
                0 => return Err(Error::new(Kind::Corrupt, "stream ended inside a frame's checksum")),
                n => n_filled += n,
            }
        }
        Ok(())
    }
}

fn read_some(source: &mut impl Read, buf: &mut [u8]) -> Result<usize> {
    loop {
        match source.read(buf) {
            Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
            done => return done.map_err(|err| broken(&err)),
        }
    }
}

/// A read error of the stream: the connection broke, and a later call may succeed.
fn broken(err: &std::io::Error) -> Error {
    Error::new(Kind::Retry, format!("read from Prometheus: {err}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut len = payload.len();
        while len >= 0x80 {
            out.push(u8::try_from(len & 0x7f).unwrap() | 0x80);
            len >>= 7;
        }
        out.push(u8::try_from(len).unwrap());
        out.extend(crc32c::crc32c(payload).to_be_bytes());
        out.extend(payload);
        out
    }

    fn read_all(bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut reader = FrameReader::new(bytes, 1000);
        let (mut frames, mut payload) = (Vec::new(), Vec::new());
        while reader.read_frame(&mut payload)? {
            frames.push(payload.clone());
        }
        Ok(frames)
    }

    #[test]
    fn frames_come_out_whole() {
        let (a, b) = (vec![1; 3], vec![2; 300]);
        let bytes = [frame(&a), frame(&[]), frame(&b)].concat();
        assert_eq!(read_all(&bytes).unwrap(), [a, vec![], b]);
        assert_eq!(read_all(&[]).unwrap(), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn every_cut_inside_a_frame_is_an_error() {
        let bytes = frame(&[7; 200]);
        for len in 1..bytes.len() {
            let err = read_all(&bytes[..len]).unwrap_err();
            assert_eq!(err.kind(), Kind::Corrupt, "cut at {len}: {err}");
        }
    }

    #[test]
    fn every_flipped_bit_is_an_error() {
        let good = frame(b"payload of a frame");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            read_all(&bad).expect_err("flipped bit was not noticed");
        }
    }

    #[test]
    fn an_oversized_frame_is_refused_before_it_is_read() {
        let err = read_all(&[0xe9, 0x07, 0, 0, 0, 0]).unwrap_err();
        assert_eq!(err.to_string(), "chunkedReader: message size exceeded the limit 1000 bytes; got: 1001 bytes");
        let err = read_all(&[0xff; 12]).unwrap_err();
        assert_eq!(err.to_string(), "frame length is not a varint");
    }
}
