//! Requests of clients that compress with snappy: the core resets every call whose headers name a compression that it does
//! not know. Under another name of the same length it takes the header for one that it need not understand, and hands the
//! message on as it is. Works across any division of the bytes into reads. Pure.
//!
//! `Source:` RFC 7541, sections 5.2, 6.2 and appendix B: a name and a value that are sent for the first time are literals,
//! as they are or in Huffman's code; later they are known by a number.

use super::walker::{CONTINUATION, HEADERS, Step, Walker};

/// `grpc-encoding` and `snappy`, each with its length: in Huffman's code, and plain.
const NEEDLES: [&[u8]; 2] =
    [b"\x8a\x9a\xca\xc8\xb1\x6a\x21\xe4\x35\x53\x7f\x85\x45\x43\xae\xbf\x5f", b"\x0dgrpc-encoding\x06snappy"];
/// What takes the place of the second byte: the first letter becomes an `l`, whose code is as long as that of a `g`.
const RENAMED: [u8; 2] = [0xa2, b'l'];
/// Where in a needle that byte is.
const PLACE: usize = 1;

/// Renames the header in what a client sends after its preface.
#[derive(Debug, Default)]
pub struct Compression {
    walker: Walker,
    /// The end of the last bytes, which may begin a needle.
    held: Vec<u8>,
}

impl Compression {
    /// Takes the next bytes of a client and leaves those that may pass: without an end that may begin a header to be renamed,
    /// which comes in front of the next ones.
    pub fn pass(&mut self, bytes: &mut Vec<u8>) {
        let n_seen = self.held.len();
        if n_seen > 0 {
            bytes.splice(0..0, self.held.drain(..));
        }
        let mut at = n_seen;
        let mut renames = Vec::new();
        let mut n_held = 0;
        let mut rest = bytes.get(n_seen..).unwrap_or_default();
        let all = bytes.len();
        while let Some(step) = self.walker.step(&mut rest) {
            let end = all - rest.len();
            if let Step::Payload(frame, piece) = step
                && matches!(frame.kind, HEADERS | CONTINUATION)
            {
                // What was held is of this frame, too.
                let start = if at == n_seen { 0 } else { end - piece.len() };
                let piece = bytes.get(start..end).unwrap_or_default();
                renames.extend(found(piece).map(|(place, byte)| (start + place, byte)));
                // Within a frame more will come, so that nobody waits for what is held.
                n_held = if self.walker.is_in_payload() { n_begun(piece) } else { 0 };
            }
            at = end;
        }
        for (place, byte) in renames {
            if let Some(old) = bytes.get_mut(place) {
                *old = byte;
            }
        }
        self.held.extend(bytes.drain(all - n_held..));
    }
}

/// Where in a header block which byte is to be put.
fn found(block: &[u8]) -> impl Iterator<Item = (usize, u8)> + '_ {
    NEEDLES.iter().zip(RENAMED).flat_map(|(needle, byte)| {
        let places = block.windows(needle.len()).enumerate().filter(move |(_, window)| window == needle);
        places.map(move |(start, _)| (start + PLACE, byte))
    })
}

/// How many bytes at the end may be the beginning of a needle.
fn n_begun(block: &[u8]) -> usize {
    let begun =
        |needle: &&[u8]| (1..needle.len()).rev().find(|n| block.ends_with(needle.get(..*n).unwrap_or_default()));
    NEEDLES.iter().filter_map(begun).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h2::walker::DATA;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let len = u8::try_from(payload.len()).unwrap();
        [&[0, 0, len, kind, 4, 0, 0, 0, 1], payload].concat()
    }

    /// What passes of frames, and that it is the same at every division into two and into single bytes.
    fn pass(sent: &[u8]) -> Vec<u8> {
        let through = |parts: &mut dyn Iterator<Item = &[u8]>| {
            let mut compression = Compression::default();
            let mut out = Vec::new();
            for part in parts {
                let mut bytes = part.to_vec();
                compression.pass(&mut bytes);
                out.extend(bytes);
            }
            assert!(compression.held.is_empty());
            out
        };
        let whole = through(&mut std::iter::once(sent));
        for split in 0..=sent.len() {
            let (a, b) = sent.split_at(split);
            assert_eq!(through(&mut [a, b].into_iter()), whole, "at {split}");
        }
        assert_eq!(through(&mut sent.chunks(1)), whole);
        whole
    }

    #[test]
    fn the_header_is_renamed_wherever_it_stands() {
        for (needle, byte) in NEEDLES.into_iter().zip(RENAMED) {
            let mut renamed = needle.to_vec();
            renamed[PLACE] = byte;
            for (before, behind) in
                [(&b""[..], &b""[..]), (b"abc", b"xyz"), (&needle[..5], &needle[..4]), (b"\x8a", b"\x8a")]
            {
                let sent = |needle: &[u8]| {
                    let block = [before, needle, behind].concat();
                    [frame(HEADERS, &block), frame(DATA, &block), frame(CONTINUATION, &block)].concat()
                };
                let expected = [
                    frame(HEADERS, &[before, &renamed, behind].concat()),
                    frame(DATA, &[before, needle, behind].concat()),
                    frame(CONTINUATION, &[before, &renamed, behind].concat()),
                ]
                .concat();
                assert_eq!(pass(&sent(needle)), expected);
            }
        }
    }

    #[test]
    fn everything_else_passes_as_it_is() {
        let plain = b"\x0dgrpc-encoding\x04gzip";
        let sent =
            [frame(HEADERS, plain), frame(DATA, NEEDLES[0]), frame(HEADERS, &NEEDLES[0][..9]), frame(HEADERS, b"")];
        assert_eq!(pass(&sent.concat()), sent.concat());
    }
}
