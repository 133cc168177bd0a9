//! The streaming order against a full sort.

use super::*;
use pillion_base::labels::Labels;
use pillion_proto::prometheus_remote as remote;
use protobuf::Message;

type Set = Vec<(String, String)>;

fn bytes(set: &Set, frame: i64) -> Vec<u8> {
    remote::ChunkedSeries {
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
    .unwrap()
}

fn entry(set: &Set, frame: i64, rules: &LabelRules) -> Entry {
    let (mut entry, bytes) = (Entry::default(), bytes(set, frame));
    entry.copy(&bytes);
    assert!(entry.parse(0..bytes.len(), rules).unwrap());
    entry
}

fn label_set(entry: &Entry, rules: &LabelRules) -> Labels {
    Labels::new(entry.labels(rules).map(|(n, v)| (String::from_utf8_lossy(n), String::from_utf8_lossy(v))))
}

const NO_BOUNDS: Bounds = Bounds { memory_max: usize::MAX, spill_max: u64::MAX, reuse_max: usize::MAX };

/// Streams the sets in Prometheus's order, each split into `n_frames`, and compares with a stable full sort.
fn check(sets: &[Set], external: &[(&str, &str)], n_frames: i64) -> usize {
    check_within(sets, external, n_frames, NO_BOUNDS)
}

fn check_within(sets: &[Set], external: &[(&str, &str)], n_frames: i64, bounds: Bounds) -> usize {
    let external = Labels::new(external.iter().copied());
    let rules = LabelRules::new(&external, &[], None);
    let mut local: Vec<Labels> = sets.iter().map(|set| Labels::new(set.iter().cloned())).collect();
    local.sort();
    local.dedup();
    let mut expected: Vec<(Labels, i64)> =
        local.iter().flat_map(|l| (0..n_frames).map(|n| (l.overlaid(&external), n))).collect();
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    let mut order = ReorderBuffer::new(bounds);
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
            // As the caller does, so that what a series shares with the one before is used.
            let (mut entry, bytes) = (order.fresh(), bytes(&sent, frame));
            entry.copy(&bytes);
            assert!(order.parse(&mut entry, 0..bytes.len(), &rules).unwrap());
            order.push(entry, &rules, &mut emit).unwrap();
            deepest = deepest.max(order.stack.len());
        }
    }
    order.finish(&rules, &mut emit).unwrap();
    assert_eq!(got, expected, "{sets:?} with {external}");
    assert_eq!(order.held_bytes, 0);
    assert_eq!(order.spill.as_ref().map_or(0, Spill::len), 0);
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
    let mut order = ReorderBuffer::new(NO_BOUNDS);
    order.push(entry(&set(&[("a", "2")]), 0, &rules), &rules, |_| Ok(())).unwrap();
    let err = order.push(entry(&set(&[("a", "1")]), 0, &rules), &rules, |_| Ok(())).unwrap_err();
    assert_eq!(err.kind(), Kind::Retry);
    assert!(order.stepped_back());
}

#[test]
fn a_step_back_is_seen_before_what_waits_has_left() {
    let rules = LabelRules::new(&Labels::new([("z", "x")]), &[], None);
    let mut order = ReorderBuffer::new(NO_BOUNDS);
    let mut emit = |_: &Entry| panic!("nothing may leave");
    order.push(entry(&set(&[("a", "2")]), 0, &rules), &rules, &mut emit).unwrap();
    order.push(entry(&set(&[("a", "1")]), 0, &rules), &rules, &mut emit).unwrap_err();
    assert!(order.stepped_back());
}

#[test]
fn nothing_waits_that_cannot_move() {
    let rules = LabelRules::new(&Labels::new([("b", "x")]), &[], None);
    let mut order = ReorderBuffer::new(Bounds { memory_max: 0, spill_max: 0, reuse_max: 0 });
    for value in ["1", "2", "3"] {
        // The last local name sorts behind every external one, so nothing is held at all.
        order.push(entry(&set(&[("a", value), ("c", "1")]), 0, &rules), &rules, |_| Ok(())).unwrap();
    }
    let err = order.push(entry(&set(&[("a", "4")]), 0, &rules), &rules, |_| Ok(())).unwrap_err();
    assert_eq!(err.kind(), Kind::Limit);
}

#[test]
fn what_does_not_fit_in_memory_is_put_aside_and_comes_back_in_order() {
    let names = ["a", "c", "e", "g"];
    let sets: Vec<Set> = (1..=names.len())
        .flat_map(|n| ["1", "2"].map(|last| (n, last)))
        .map(|(n, last)| {
            names[..n]
                .iter()
                .map(|name| ((*name).to_owned(), if *name == names[n - 1] { last } else { "1" }.into()))
                .collect()
        })
        .collect();
    // From everything aside to nothing, by way of frames that come before and after the budget is reached.
    for memory_max in (0..4000).step_by(97) {
        for external in EXTERNALS {
            let bounds = Bounds { memory_max, ..NO_BOUNDS };
            assert!(check_within(&sets, external, 3, bounds) <= names.len());
        }
    }
}

#[test]
fn a_series_of_any_length_waits_in_little_memory() {
    let rules = LabelRules::new(&Labels::new([("z", "x")]), &[], None);
    let bounds = Bounds { memory_max: 100_000, spill_max: u64::MAX, reuse_max: 50_000 };
    let mut order = ReorderBuffer::new(bounds);
    let (long, behind) = (set(&[("a", "1")]), set(&[("a", "1"), ("b", "1")]));
    let bytes = remote::ChunkedSeries {
        labels: vec![remote::Label { name: "a".into(), value: "1".into(), ..Default::default() }],
        chunks: vec![remote::Chunk {
            type_: protobuf::EnumOrUnknown::from_i32(1),
            data: vec![7; 30_000],
            ..Default::default()
        }],
        ..Default::default()
    }
    .write_to_bytes()
    .unwrap();
    let mut got = Vec::new();
    let mut emit = |entry: &Entry| {
        got.push((label_set(entry, &rules).to_string(), entry.encoded_len() > 30_000));
        Ok(())
    };
    for _ in 0..1000 {
        let mut frame = order.fresh();
        frame.copy(&bytes);
        frame.parse(0..bytes.len(), &rules).unwrap();
        order.push(frame, &rules, &mut emit).unwrap();
        let kept: usize = order.free.iter().map(Entry::held_bytes).sum();
        assert!(order.held_bytes() + kept < 400_000, "{} and {kept}", order.held_bytes());
    }
    // The extension leaves at once, while the other lies on the disk.
    order.push(entry(&behind, 0, &rules), &rules, &mut emit).unwrap();
    order.push(entry(&behind, 1, &rules), &rules, &mut emit).unwrap();
    order.finish(&rules, &mut emit).unwrap();
    let expected: Vec<_> = [
        (label_set(&entry(&behind, 0, &rules), &rules), false, 2),
        (label_set(&entry(&long, 0, &rules), &rules), true, 1000),
    ]
    .into_iter()
    .flat_map(|(labels, long, n)| std::iter::repeat_n((labels.to_string(), long), n))
    .collect();
    assert!(got == expected, "{} series", got.len());
}
