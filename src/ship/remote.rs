//! What the bucket already holds, for the overlap check of compacted blocks.

use super::meta;
use super::plan::BucketBlock;
use super::ulid::Ulid;
use crate::error::{Error, Kind, Result};
use crate::objstore::Bucket;
use crate::supervisor::Stop;

/// All whole blocks of the bucket; `ulid` is the block for which they are wanted. A folder without meta.json is a
/// block that somebody is uploading, or gave up on; it cannot overlap anything (D-28).
pub fn blocks(bucket: &dyn Bucket, ulid: Ulid, stop: &Stop) -> Result<Vec<BucketBlock>> {
    log::info!(id = ulid.as_str(); "gathering all existing blocks from the remote bucket for check");
    let mut blocks = Vec::new();
    let mut read = |name: &str| {
        let Some(block) = name.strip_suffix('/').and_then(Ulid::parse) else { return Ok(()) };
        match bucket.get(&format!("{block}/meta.json"), stop) {
            Err(err) if err.kind() == Kind::NotFound => {}
            Err(err) => return Err(err.context(format!("meta.json bkt get for {block}"))),
            Ok(bytes) => match meta::parse(&bytes) {
                Ok(meta) => blocks.push(BucketBlock::from(&meta)),
                Err(err) => log::warn!(block = block.as_str(), err = err.to_string();
                    "block in the bucket is left out of the overlap check"),
            },
        }
        Ok(())
    };
    bucket.iter("", &mut read, stop).map_err(|err| fault(err).context("get all block meta."))?;
    Ok(blocks)
}

/// An error of the bucket, of which no local block can be at fault.
pub fn fault(err: Error) -> Error {
    if err.kind() == Kind::Corrupt { err.with_kind(Kind::Retry) } else { err }
}
