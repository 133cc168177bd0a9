//! Packs series into `SeriesResponse` messages: one each, or as many as the client asked for, but never far above
//! [`limits::MESSAGE_BYTES_TARGET`](crate::limits::MESSAGE_BYTES_TARGET). A series is written once, straight into its
//! message. Pure.

use crate::store::wire;
use pillion_base::error::Result;

/// Field numbers of `SeriesResponse`'s result.
const SERIES: u8 = 1;
const WARNING: u8 = 2;
const BATCH: u8 = 4;
/// Room for the header of a batch, whose length is known only at its end: a tag and five bytes of length.
const ROOM: usize = 6;

/// An encoded message. It need not begin at the start of its buffer, so that a header can be put in front later.
#[derive(Debug, Default)]
pub struct EncodedMessage {
    /// The bytes, from `start` on.
    pub buffer: Vec<u8>,
    /// Where the message begins.
    pub start: usize,
}

impl EncodedMessage {
    /// A message that fills its buffer.
    pub fn whole(buffer: Vec<u8>) -> Self {
        EncodedMessage { buffer, start: 0 }
    }

    /// The message.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }
}

/// Where messages go, and where their buffers come from.
pub trait MessageSink {
    /// An empty buffer with room for `bytes`.
    fn buffer(&self, bytes: usize) -> Vec<u8>;
    /// How large the next message may be at present; a single series may take more.
    fn message_bytes_max(&self) -> usize {
        usize::MAX
    }
    /// Sends one message.
    fn send(&self, message: EncodedMessage) -> Result<()>;
}

/// Packs the series of one call.
pub(super) struct Batcher<'a, M: ?Sized> {
    batch_size: usize,
    message_bytes_target: usize,
    /// The most that the open batch may have.
    batch_bytes_max: usize,
    /// The open batch: room for its header, then each series with its header.
    batch: Vec<u8>,
    n_batched: usize,
    messages: &'a M,
}

impl<'a, M: MessageSink + ?Sized> Batcher<'a, M> {
    /// With `batch_size` 0 or 1 every series is a message of its own.
    pub(super) fn new(batch_size: usize, message_bytes_target: usize, messages: &'a M) -> Self {
        Batcher { batch_size, message_bytes_target, batch_bytes_max: 0, batch: Vec::new(), n_batched: 0, messages }
    }

    /// Adds one series of `len` encoded bytes, which `encode` appends.
    pub(super) fn push(&mut self, len: usize, encode: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let with_header = wire::header_len(len) + len;
        if self.batch_size <= 1 {
            let mut buffer = self.messages.buffer(with_header);
            wire::put_header(SERIES, len, &mut buffer);
            encode(&mut buffer);
            return self.messages.send(EncodedMessage::whole(buffer));
        }
        // A series that would take the batch far past its target begins another.
        if self.n_batched > 0 && self.batch.len() + with_header > self.batch_bytes_max {
            self.flush()?;
        }
        if self.n_batched == 0 {
            self.batch_bytes_max = self.message_bytes_target.min(self.messages.message_bytes_max());
            self.batch = self.messages.buffer(self.batch_bytes_max.max(with_header + ROOM));
            self.batch.resize(ROOM, 0);
        }
        wire::put_header(1, len, &mut self.batch);
        encode(&mut self.batch);
        self.n_batched += 1;
        if self.n_batched >= self.batch_size { self.flush() } else { Ok(()) }
    }

    /// Sends a warning, after what was pushed before it.
    pub(super) fn warn(&mut self, text: &str) -> Result<()> {
        self.flush()?;
        let mut buffer = self.messages.buffer(wire::header_len(text.len()) + text.len());
        wire::put_header(WARNING, text.len(), &mut buffer);
        buffer.extend_from_slice(text.as_bytes());
        self.messages.send(EncodedMessage::whole(buffer))
    }

    /// Sends what is left.
    pub(super) fn flush(&mut self) -> Result<()> {
        if self.n_batched == 0 {
            return Ok(());
        }
        self.n_batched = 0;
        let mut buffer = std::mem::take(&mut self.batch);
        let len = buffer.len() - ROOM;
        let start = ROOM - wire::header_len(len);
        let mut header = Vec::with_capacity(ROOM);
        wire::put_header(BATCH, len, &mut header);
        buffer[start..ROOM].copy_from_slice(&header);
        self.messages.send(EncodedMessage { buffer, start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_proto::thanos_store::SeriesResponse;
    use pillion_proto::thanos_store::series_response::Result as Answer;
    use protobuf::Message as _;
    use std::cell::RefCell;

    #[derive(Default)]
    struct Sizes(RefCell<Vec<usize>>);

    impl MessageSink for Sizes {
        fn buffer(&self, bytes: usize) -> Vec<u8> {
            Vec::with_capacity(bytes)
        }

        fn send(&self, message: EncodedMessage) -> Result<()> {
            self.0.borrow_mut().push(
                match SeriesResponse::parse_from_bytes(message.bytes()).unwrap().result.unwrap() {
                    Answer::Series(series) => {
                        assert_eq!(series.labels[0].value.len(), 1);
                        0
                    }
                    Answer::Batch(batch) => batch.series.len(),
                    Answer::Warning(text) => 1000 + text.len(),
                    other => panic!("{other:?}"),
                },
            );
            Ok(())
        }
    }

    /// The sizes of the messages that five series become; 0 stands for a single series.
    fn check(batch_size: usize, bytes_target: usize, expected: &[usize]) {
        let sizes = Sizes::default();
        let mut batcher = Batcher::new(batch_size, bytes_target, &sizes);
        // A series of one label a="b".
        let series = [10, 6, 10, 1, b'a', 18, 1, b'b'];
        for _ in 0..5 {
            batcher.push(series.len(), |out| out.extend_from_slice(&series)).unwrap();
        }
        batcher.warn("so").unwrap();
        let expected: Vec<_> = expected.iter().copied().chain([1002]).collect();
        assert_eq!(*sizes.0.borrow(), expected, "{batch_size} {bytes_target}");
    }

    #[test]
    fn batches() {
        check(0, 1000, &[0, 0, 0, 0, 0]);
        check(1, 1000, &[0, 0, 0, 0, 0]);
        check(3, 1000, &[3, 2]);
        check(5, 1000, &[5]);
        check(usize::MAX, 1000, &[5]);
        check(usize::MAX, 30, &[2, 2, 1]);
        check(3, 1, &[1, 1, 1, 1, 1]);
    }
}
