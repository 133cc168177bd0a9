//! Reading a large object of a store that is reached over HTTP: piece by piece, and on from where a connection broke. Knows
//! no store, and never has more than a piece in memory.

use crate::{Attributes, Bucket, limits};
use pillion_base::error::{Error, Kind, Result};
use pillion_base::files::Source;
use pillion_base::stop::Stop;

/// A store that can be asked for an object from an offset on.
pub(crate) trait Ranged: Bucket {
    /// Asks once for the object from the byte `from` on, for all of it if that is 0, and passes on what arrives with the
    /// status of the answer. A status other than 206 says that all of it comes.
    fn get_from(
        &self,
        object: &str,
        from: u64,
        each: &mut dyn FnMut(u16, &[u8]) -> Result<()>,
        stop: &Stop,
    ) -> Result<()>;

    /// How often it is asked in succession without a byte more.
    fn read_attempts(&self) -> u32;

    /// Waits before another attempt. `Errors:` `Stopped`.
    fn rest(&self, n_failed: u32, stop: &Stop) -> Result<()>;

    /// [`Bucket::read`] of such a store.
    fn read_whole(&self, object: &str, each: &mut dyn FnMut(&[u8]) -> Result<()>, stop: &Stop) -> Result<()> {
        let before = self.attributes(object, stop)?;
        let read = read_on(self, object, before.size_bytes, each, stop)?;
        // Between two answers it may have become another one of the same size.
        let is_same = |after: Attributes| after == before;
        if read.n_bytes == before.size_bytes && (!read.has_resumed || is_same(self.attributes(object, stop)?)) {
            return Ok(());
        }
        Err(Error::new(Kind::Retry, format!("{}/{object} was replaced while it was read", self.name())))
    }

    /// Reads the object and says whether it has the bytes of the file, whose size it has.
    fn has_content_of(&self, object: &str, source: &Source, stop: &Stop) -> Result<bool> {
        let mut local = vec![0; limits::HTTP_CLIENT_BUFFER_BYTES];
        let (mut offset, mut is_same) = (0, true);
        let mut each = |piece: &[u8]| {
            let mut piece = piece;
            while !piece.is_empty() && is_same {
                let want = piece.len().min(local.len());
                let n_read = source.read_at(offset, local.get_mut(..want).unwrap_or_default())?;
                let (these, rest) = piece.split_at(n_read.min(piece.len()));
                is_same = n_read > 0 && local.get(..n_read) == Some(these);
                offset += n_read as u64;
                piece = rest;
            }
            // One difference is enough: the rest is not read.
            if is_same { Ok(()) } else { Err(Error::new(Kind::Corrupt, "other bytes")) }
        };
        let read = read_on(self, object, source.size_bytes(), &mut each, stop);
        if is_same { Ok(read?.n_bytes == source.size_bytes()) } else { Ok(false) }
    }
}

/// What has been read.
struct Read {
    n_bytes: u64,
    /// It came with more than one answer.
    has_resumed: bool,
}

/// Passes every byte to `each`, once and in order.
fn read_on<B: Ranged + ?Sized>(
    bucket: &B,
    object: &str,
    size_bytes: u64,
    each: &mut dyn FnMut(&[u8]) -> Result<()>,
    stop: &Stop,
) -> Result<Read> {
    let (mut n_bytes, mut n_failed, mut has_resumed) = (0, 0, false);
    while n_bytes < size_bytes {
        let begun_at: u64 = n_bytes;
        let (mut offset, mut is_first, mut is_refused) = (begun_at, true, false);
        let mut pass = |status: u16, piece: &[u8]| {
            stop.check()?;
            if std::mem::take(&mut is_first) && status != 206 {
                // The store, or something in between, does not support ranges.
                offset = 0;
            }
            let n_known = usize::try_from(n_bytes - offset).unwrap_or(usize::MAX).min(piece.len());
            offset += piece.len() as u64;
            let fresh = piece.get(n_known..).unwrap_or_default();
            if fresh.is_empty() {
                return Ok(());
            }
            n_bytes = offset;
            each(fresh).inspect_err(|_| is_refused = true)
        };
        match bucket.get_from(object, begun_at, &mut pass, stop) {
            Ok(()) => break,
            Err(err) if err.kind() != Kind::Retry || is_refused => return Err(err),
            Err(err) => {
                // Only a byte that was never reached before is progress.
                n_failed = if n_bytes > begun_at { 1 } else { n_failed + 1 };
                has_resumed |= n_bytes > 0;
                if n_failed >= bucket.read_attempts() {
                    return Err(err);
                }
                bucket.rest(n_failed, stop)?;
            }
        }
    }
    Ok(Read { n_bytes, has_resumed })
}
