//! Looks in a bucket for blocks that another sidecar has shipped with our external labels: then the labels are not unique,
//! and queriers and the compactor take two Prometheus servers for one. Only reads.

use crate::meta::Meta;
use crate::outlook::Outlook;
use crate::ulid::Ulid;
use pillion_base::error::{Kind, Result};
use pillion_base::labels::Labels;
use pillion_base::stop::Stop;
use pillion_bucket::Bucket;

/// So many blocks are looked at, the newest first: each is a request.
const LOOKED_AT_MAX: usize = 20;

/// Names of blocks in the bucket that have our labels and are none of ours: cut from a head since our oldest block, and
/// known neither to the data folder nor to the ledger. With no block here nothing can be said, and none is named.
///
/// `Errors:` those of the bucket.
pub fn strangers(bucket: &dyn Bucket, labels: &Labels, ours: &Outlook, stop: &Stop) -> Result<Vec<String>> {
    let Some(oldest) = ours.known.first().copied().filter(|_| !labels.is_empty()) else { return Ok(Vec::new()) };
    let mut suspects: Vec<Ulid> = Vec::new();
    let mut each = |name: &str| {
        let ulid = Ulid::parse(name.trim_end_matches('/'));
        suspects.extend(ulid.filter(|ulid| *ulid > oldest && !ours.known.contains(ulid)));
        Ok(())
    };
    bucket.iter("", &mut each, stop)?;
    let mut found = Vec::new();
    for ulid in suspects.into_iter().rev().take(LOOKED_AT_MAX) {
        let meta = match bucket.get(&format!("{ulid}/meta.json"), stop) {
            // It is being uploaded or removed.
            Err(err) if matches!(err.kind(), Kind::NotFound | Kind::Limit) => continue,
            other => Meta::parse(&other?),
        };
        if meta.is_ok_and(|meta| meta.level == 1 && Labels::new(meta.labels) == *labels) {
            found.push(ulid.to_string());
        }
    }
    Ok(found)
}
