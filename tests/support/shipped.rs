//! Whether a block is in a bucket as it was on disk.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::rgw::Bucket;

/// Every file of a block that goes into a bucket, by its path in the block.
pub fn files(block: &Path) -> BTreeMap<String, Vec<u8>> {
    let segments = std::fs::read_dir(block.join("chunks")).unwrap();
    let segments = segments.map(|entry| format!("chunks/{}", entry.unwrap().file_name().to_str().unwrap()));
    let names = segments.chain(["index".to_owned()]);
    names.map(|name| (name.clone(), std::fs::read(block.join(&name)).unwrap())).collect()
}

/// Panics unless the bucket has exactly this block under its name: each byte, nothing else, and a meta.json that
/// states Prometheus's members, these labels and every file with its size.
pub fn expect_whole(bucket: &Bucket, block: &Path, labels: &[(&str, &str)]) {
    let name = block.file_name().unwrap().to_str().unwrap();
    let files = files(block);
    let listed = bucket.list(&format!("{name}/"));
    let mut expected: Vec<String> = files.keys().map(|file| format!("{name}/{file}")).collect();
    expected.push(format!("{name}/meta.json"));
    expected.sort();
    assert_eq!(listed.keys().cloned().collect::<Vec<_>>(), expected);
    for (file, bytes) in &files {
        let stored = bucket.get(&format!("{name}/{file}"));
        assert_eq!(stored.len(), bytes.len(), "{name}/{file}");
        let differs = stored.iter().zip(bytes).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{name}/{file} differs at this byte");
    }
    let mut meta: Value = serde_json::from_slice(&bucket.get(&format!("{name}/meta.json"))).unwrap();
    let thanos = meta.as_object_mut().unwrap().remove("thanos").expect("meta.json has a Thanos section");
    let local: Value = serde_json::from_slice(&std::fs::read(block.join("meta.json")).unwrap()).unwrap();
    assert_eq!(meta, local, "{name}: Prometheus's part of meta.json");
    let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
    assert_eq!((&thanos["labels"], &thanos["source"]), (&json!(labels), &json!("sidecar")), "{name}");
    let stated: BTreeMap<&str, u64> = thanos["files"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|file| Some((file["rel_path"].as_str()?, file["size_bytes"].as_u64()?)))
        .collect();
    let sizes: BTreeMap<&str, u64> = files.iter().map(|(file, bytes)| (file.as_str(), bytes.len() as u64)).collect();
    assert_eq!(stated, sizes, "{name}: files in meta.json");
}

/// The blocks of which the bucket has a meta.json, so that they exist for everybody who reads it.
pub fn blocks(bucket: &Bucket) -> Vec<String> {
    let listed = bucket.list("");
    listed.keys().filter_map(|name| name.strip_suffix("/meta.json").map(str::to_owned)).collect()
}
