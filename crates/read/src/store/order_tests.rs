//! The streaming order against a full sort.

use super::*;
use pillion_base::labels::Labels;
use pillion_proto::prometheus_remote as remote;
use protobuf::Message;

type Set = Vec<(String, String)>;

fn entry(set: &Set, frame: i64, rules: &LabelRules) -> Entry {
    let bytes = remote::ChunkedSeries {
        labels: set
            .iter()
            .map(|(n, v)| remote::Label { name: n.clone(), value: v.clone(), ..Default::default() })
            .collect(),
        chunks: vec![remote::Chunk {
            min_time_ms: frame,
            type_: protobuf::EnumOrUnknown::from_i32(1),
            ..Default::default()
        }],
        ..Default::default()
    }
    .write_to_bytes()
    .unwrap();
    let mut entry = Entry::default();
    entry.copy(&bytes);
    assert!(entry.parse(0..bytes.len(), rules).unwrap());
    entry
}

fn label_set(entry: &Entry, rules: &LabelRules) -> Labels {
    Labels::new(entry.labels(rules).map(|(n, v)| (String::from_utf8_lossy(n), String::from_utf8_lossy(v))))
}

/// Streams the sets in Prometheus's order, each split into `n_frames`, and compares with a stable full sort.
fn check(sets: &[Set], external: &[(&str, &str)], n_frames: i64) -> usize {
    let external = Labels::new(external.iter().copied());
    let rules = LabelRules::new(&external, &[], None);
    let mut local: Vec<Labels> = sets.iter().map(|set| Labels::new(set.iter().cloned())).collect();
    local.sort();
    local.dedup();
    let mut expected: Vec<(Labels, i64)> =
        local.iter().flat_map(|l| (0..n_frames).map(|n| (l.overlaid(&external), n))).collect();
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    let mut order = ReorderBuffer::new(usize::MAX, usize::MAX);
    let mut got = Vec::new();
    let mut deepest = 0;
    let mut emit = |entry: &Entry| {
        got.push((label_set(entry, &rules), entry.chunk_start()));
        Ok(())
    };
    for labels in &local {
        // As Prometheus does: its external labels are merged into what it sends.
        let sent: Set = labels.overlaid(&external).iter().map(|(n, v)| (n.into(), v.into())).collect();
        for frame in 0..n_frames {
            order.push(entry(&sent, frame, &rules), &rules, &mut emit).unwrap();
            deepest = deepest.max(order.groups.len());
        }
    }
    order.finish(&rules, &mut emit).unwrap();
    assert_eq!(got, expected, "{sets:?} with {external}");
    assert_eq!(order.held_bytes(), 0);
    deepest
}

fn set(pairs: &[(&str, &str)]) -> Set {
    pairs.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect()
}

const EXTERNALS: [&[(&str, &str)]; 8] = [
    &[],
    &[("b", "x")],
    &[("d", "x")],
    &[("f", "x")],
    &[("b", "x"), ("d", "y")],
    &[("d", "a"), ("f", "z")],
    &[("b", "1"), ("d", "2"), ("f", "3")],
    &[("B", "1"), ("b", "2"), ("d", "3"), ("f", "4")],
];

#[test]
fn every_small_family_of_label_sets() {
    // All subsets of four labels with two values each, all families of up to three of them.
    let mut all: Vec<Set> = Vec::new();
    for mask in 0..81_u32 {
        let names = ["a", "c", "e", "g"];
        let digits = (0..4).map(|place| (mask / 3_u32.pow(place)) % 3);
        let pairs = names.iter().zip(digits).filter(|(_, digit)| *digit > 0);
        all.push(pairs.map(|(n, digit)| ((*n).to_owned(), digit.to_string())).collect());
    }
    for external in EXTERNALS {
        check(&all, external, 1);
        check(&all, external, 3);
        for a in 0..all.len() {
            for b in a + 1..all.len() {
                check(&[all[a].clone(), all[b].clone()], external, 1);
            }
        }
    }
}

#[test]
fn seeded_large_families() {
    let seed = 20_261_123_u64;
    let mut state = seed;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    eprintln!("seed {seed}");
    for round in 0..300 {
        let names = ["a", "aa", "c", "ca", "e", "é", "g", "z"];
        let sets: Vec<Set> = (0..random(200))
            .map(|_| {
                names
                    .iter()
                    .map(|n| {
                        (
                            (*n).to_owned(),
                            ["1", "2", "", "é", "zz", "", ""][usize::try_from(random(7)).unwrap()].to_owned(),
                        )
                    })
                    .filter(|(_, value)| !value.is_empty())
                    .collect()
            })
            .collect();
        let deepest = check(&sets, EXTERNALS[round % EXTERNALS.len()], 1 + i64::try_from(random(3)).unwrap());
        assert!(deepest <= names.len() + 1, "{deepest}");
    }
}

#[test]
fn a_stream_that_steps_back_is_an_error() {
    let rules = LabelRules::new(&Labels::default(), &[], None);
    let mut order = ReorderBuffer::new(usize::MAX, usize::MAX);
    order.push(entry(&set(&[("a", "2")]), 0, &rules), &rules, |_| Ok(())).unwrap();
    let err = order.push(entry(&set(&[("a", "1")]), 0, &rules), &rules, |_| Ok(())).unwrap_err();
    assert_eq!(err.kind(), Kind::Retry);
}

#[test]
fn nothing_waits_that_cannot_move() {
    let rules = LabelRules::new(&Labels::new([("b", "x")]), &[], None);
    let mut order = ReorderBuffer::new(0, 0);
    for value in ["1", "2", "3"] {
        // The last local name sorts behind every external one, so nothing is held at all.
        order.push(entry(&set(&[("a", value), ("c", "1")]), 0, &rules), &rules, |_| Ok(())).unwrap();
    }
    let err = order.push(entry(&set(&[("a", "4")]), 0, &rules), &rules, |_| Ok(())).unwrap_err();
    assert_eq!(err.kind(), Kind::Limit);
}
