//! Transcoding of a frame: any bytes end in series or an error, and a series that comes out is well formed: its labels
//! sorted, none of them empty or dropped, the external ones there, each chunk with the hash of its data.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_base::labels::Labels;
use pillion_proto::thanos_store::ShardInfo;
use pillion_read::store::Shard;
use pillion_read::store::transcode::{Entry, LabelRules, each_series};
use pillion_read::store::wire::Fields;

const EXTERNAL: [&[(&str, &str)]; 4] =
    [&[], &[("a", "ext")], &[("b", "ext"), ("zz", "1")], &[("a", "1"), ("m", "2"), ("é", "ü")]];
const WITHOUT: [&[&str]; 4] = [&[], &["a"], &["b", "m"], &["job", "zz"]];

fn part<'a>(message: &'a [u8], wanted: u32) -> &'a [u8] {
    let mut fields = Fields::new(message);
    let mut found: &[u8] = &[];
    while let Some((number, field)) = fields.next_field().expect("what comes out is protobuf") {
        if number == wanted {
            found = field.bytes().expect("a length-delimited field");
        }
    }
    found
}

fn number(message: &[u8], wanted: u32) -> u64 {
    let mut fields = Fields::new(message);
    let mut found = 0;
    while let Some((number, field)) = fields.next_field().expect("what comes out is protobuf") {
        if number == wanted {
            found = field.varint().expect("a number");
        }
    }
    found
}

fn check(series: &[u8], external: &[(&str, &str)], without: &[&str], n_chunks_told: u64) {
    let (mut last, mut n_chunks, mut n_external): (&[u8], _, _) = (&[], 0, 0);
    let mut fields = Fields::new(series);
    while let Some((field_number, field)) = fields.next_field().expect("what comes out is protobuf") {
        let message = field.bytes().expect("labels and chunks are messages");
        match field_number {
            1 => {
                let (name, value) = (part(message, 1), part(message, 2));
                assert!(last <= name, "labels are not sorted");
                assert!(!value.is_empty(), "a label is empty");
                assert!(without.iter().all(|without| without.as_bytes() != name), "a label was not dropped");
                if let Some((_, wanted)) = external.iter().find(|(external, _)| external.as_bytes() == name) {
                    assert_eq!(wanted.as_bytes(), value, "an external label was not set");
                    n_external += 1;
                }
                last = name;
            }
            2 => {
                let raw = part(message, 3);
                assert!(number(raw, 1) <= 2, "an encoding is unknown");
                assert_eq!(number(raw, 3), twox_hash::XxHash64::oneshot(0, part(raw, 2)), "a hash is wrong");
                n_chunks += 1;
            }
            _ => panic!("field {field_number} of a series"),
        }
    }
    let n_wanted = external.iter().filter(|(name, _)| !without.contains(name)).count();
    assert_eq!((n_external, n_chunks), (n_wanted, n_chunks_told));
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, frame)) = data.split_first() else { return };
    let external = EXTERNAL[usize::from(mode & 3)];
    let without = WITHOUT[usize::from(mode >> 2 & 3)];
    let shard = Shard::new(&ShardInfo {
        shard_index: 1,
        total_shards: i64::from(mode >> 4 & 3),
        by: mode & 64 == 0,
        labels: vec!["a".into(), "job".into()],
        ..ShardInfo::default()
    });
    let names: Vec<String> = without.iter().map(ToString::to_string).collect();
    let rules = LabelRules::new(&Labels::new(external.iter().copied()), &names, shard);
    let (mut entry, mut copied) = (Entry::default(), Entry::default());
    entry.copy(frame);
    let mut ranges = Vec::new();
    let _ = each_series(frame, |range| {
        ranges.push(range);
        Ok(())
    });
    let (mut out, mut out_copied) = (Vec::new(), Vec::new());
    for range in ranges {
        copied.copy(&frame[range.clone()]);
        let len = range.len();
        // A series that cannot be read must not disturb the next one.
        let kept = entry.parse(range, &rules);
        let kept_copied = copied.parse(0..len, &rules);
        assert_eq!(kept, kept_copied, "the place in the frame matters");
        if kept != Ok(true) {
            continue;
        }
        out.clear();
        out_copied.clear();
        entry.encode(&rules, &mut out);
        copied.encode(&rules, &mut out_copied);
        assert_eq!(out, out_copied);
        assert_eq!(out.len(), entry.encoded_len());
        check(&out, external, without, entry.n_chunks());
    }
});
