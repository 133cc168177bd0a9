//! The list of shipped blocks: any bytes are one or an error, and what is written of one is read back as it was, by us and
//! by Thanos.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use pillion_base::error::Kind;
use pillion_ship::LedgerFile;
use serde_json::Value;

/// The blocks in a member, as Thanos reads them.
fn blocks(bytes: &[u8], member: &str) -> Option<Vec<String>> {
    let root: Value = serde_json::from_slice(bytes).ok()?;
    let items = root.get(member).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Some(items.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect())
}

fuzz_target!(|data: &[u8]| {
    let path = Path::new("/data/thanos.shipper.json");
    let ledger = match LedgerFile::parse(data, path) {
        Ok(ledger) => ledger,
        Err(err) => {
            assert_eq!(err.kind(), Kind::Corrupt);
            return;
        }
    };
    let written = ledger.write();
    assert_eq!(LedgerFile::parse(&written, path).as_ref(), Ok(&ledger));
    let uploaded = blocks(&written, "uploaded").expect("what is written is JSON");
    assert!(uploaded.iter().all(|id| id.len() == 26));
    assert!(blocks(data, "uploaded").is_none_or(|read| read == uploaded));
    assert!(blocks(&written, "pillion_unshipped").is_some_and(|not| not.iter().all(|id| uploaded.contains(id))));
});
