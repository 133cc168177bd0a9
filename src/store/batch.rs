//! Packs series into `SeriesResponse` messages: one each, or as many as the client asked for, but never far above
//! [`limits::MESSAGE_BYTES_TARGET`](crate::limits::MESSAGE_BYTES_TARGET). Pure.

use crate::error::Result;
use crate::store::wire;

/// Field numbers of `SeriesResponse`'s result.
const SERIES: u8 = 1;
const WARNING: u8 = 2;
const BATCH: u8 = 4;

/// Packs the series of one call; `send` gets each finished message.
pub struct Batcher<S> {
    batch_size: usize,
    message_bytes_target: usize,
    /// The series of the open batch, each with its header.
    batch: Vec<u8>,
    n_batched: usize,
    send: S,
}

impl<S: FnMut(Vec<u8>) -> Result<()>> Batcher<S> {
    /// With `batch_size` 0 or 1 every series is a message of its own.
    pub fn new(batch_size: usize, message_bytes_target: usize, send: S) -> Self {
        Batcher { batch_size, message_bytes_target, batch: Vec::new(), n_batched: 0, send }
    }

    /// Adds one encoded `Series`.
    pub fn push(&mut self, series: &[u8]) -> Result<()> {
        if self.batch_size <= 1 {
            let mut message = Vec::with_capacity(wire::header_len(series.len()) + series.len());
            wire::put_header(SERIES, series.len(), &mut message);
            message.extend_from_slice(series);
            return (self.send)(message);
        }
        wire::put_header(1, series.len(), &mut self.batch);
        self.batch.extend_from_slice(series);
        self.n_batched += 1;
        if self.n_batched >= self.batch_size || self.batch.len() >= self.message_bytes_target {
            return self.flush();
        }
        Ok(())
    }

    /// Sends a warning, after what was pushed before it.
    pub fn warn(&mut self, text: &str) -> Result<()> {
        self.flush()?;
        let mut message = Vec::new();
        wire::put_header(WARNING, text.len(), &mut message);
        message.extend_from_slice(text.as_bytes());
        (self.send)(message)
    }

    /// Sends what is left.
    pub fn flush(&mut self) -> Result<()> {
        if self.n_batched == 0 {
            return Ok(());
        }
        let mut message = Vec::with_capacity(wire::header_len(self.batch.len()) + self.batch.len());
        wire::put_header(BATCH, self.batch.len(), &mut message);
        message.append(&mut self.batch);
        self.n_batched = 0;
        (self.send)(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::thanos_store::{SeriesResponse, series_response::Result as Answer};
    use protobuf::Message;

    /// The sizes of the messages that five series become; 0 stands for a single series.
    fn check(batch_size: usize, bytes_target: usize, expected: &[usize]) {
        let mut sizes = Vec::new();
        let mut batcher = Batcher::new(batch_size, bytes_target, |message: Vec<u8>| {
            match SeriesResponse::parse_from_bytes(&message).unwrap().result.unwrap() {
                Answer::Series(_) => sizes.push(0),
                Answer::Batch(batch) => sizes.push(batch.series.len()),
                other => panic!("{other:?}"),
            }
            Ok(())
        });
        for _ in 0..5 {
            // A series of one label a="b".
            batcher.push(&[10, 6, 10, 1, b'a', 18, 1, b'b']).unwrap();
        }
        batcher.flush().unwrap();
        assert_eq!(sizes, expected, "{batch_size} {bytes_target}");
    }

    #[test]
    fn batches() {
        check(0, 1000, &[0, 0, 0, 0, 0]);
        check(1, 1000, &[0, 0, 0, 0, 0]);
        check(3, 1000, &[3, 2]);
        check(5, 1000, &[5]);
        check(usize::MAX, 1000, &[5]);
        check(usize::MAX, 20, &[2, 2, 1]);
    }
}
