//! The real binary is killed at random moments, again and again, while it ships blocks in parts to a real S3 server. No
//! block is ever promised that is not there; in the end all are there byte for byte, nothing is left over, and no kill
//! has cost more than one part.
//!
//! `PILLION_SEED` repeats a run's moments; `PILLION_KILLS` is how often each of the four hosts is killed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::fault_proxy::Seen;
use crate::support::outpost::Outpost;
use crate::support::random::Random;
use crate::support::rgw::Rgw;
use pillion_testing::tsdb::Block;

const N_HOSTS: u32 = 4;
/// Of each host, unless `PILLION_KILLS` says otherwise.
const N_KILLS: u32 = 13;
const PART_BYTES: u64 = 5 << 20;
/// Slow enough that most kills come in the middle of a part.
const RATE_BYTES: u64 = 24 << 20;

/// Two chunk files, of five parts (the last a short one) and of one PUT.
fn block(n: u32) -> Block {
    let bytes = |n: u64| usize::try_from(n).unwrap();
    Block { chunk_bytes: vec![bytes(4 * PART_BYTES + 100_000), bytes(PART_BYTES / 4)], ..Block::new(n) }
}

#[test]
fn nothing_is_lost_and_little_is_sent_twice_however_often_the_process_is_killed() {
    let Some(rgw) = Rgw::shared() else { return };
    let mut random = Random::seeded();
    // Several hosts side by side, for each spends most of its time starting.
    let seeds: Vec<u64> = (0..N_HOSTS).map(|_| random.below(u64::from(u32::MAX))).collect();
    std::thread::scope(|scope| {
        for seed in seeds {
            scope.spawn(move || kill_again_and_again(rgw, Random(seed)));
        }
    });
}

fn kill_again_and_again(rgw: &'static Rgw, mut random: Random) {
    let mut outpost = Outpost::new(rgw, &format!("part_size: {PART_BYTES}"), &["--hash-func=SHA256"]);
    outpost.proxy.set_rate(RATE_BYTES);
    let n_kills = std::env::var("PILLION_KILLS").map_or(N_KILLS, |n| n.parse().expect("PILLION_KILLS is a number"));
    let mut seen = Vec::new();
    let mut n_blocks = 0;
    for kill in 1..=n_kills {
        // There is always something to be shipped, but sometimes little.
        if outpost.is_done() || n_blocks == 0 {
            n_blocks += 1;
            outpost.add(&block(n_blocks));
        }
        let mut sidecar = outpost.start();
        let (kind, begin) = (random.below(10), outpost.proxy.up_bytes());
        let patience = Duration::from_secs(5);
        let _whether = match kind {
            // So and so many bytes later.
            0..=5 => outpost.proxy.wait_up_bytes(begin + 1 + random.below(3 * PART_BYTES), patience),
            // After an answer: the next step was perhaps not taken yet.
            6 | 7 => outpost.proxy.wait_requests(1 + usize::try_from(random.below(6)).unwrap(), patience),
            // At any time, that of the start included.
            _ => outpost.proxy.wait_up_bytes(u64::MAX, Duration::from_millis(random.below(3500))),
        };
        sidecar.signal("KILL");
        sidecar.wait_exit();
        outpost.expect_no_false_promise();
        let uploads = outpost.bucket.uploads();
        assert!(uploads.len() <= 1, "after kill {kill}, several uploads in parts: {uploads:?}");
        seen.extend(outpost.proxy.seen());
    }

    outpost.proxy.set_rate(0);
    let sidecar = outpost.start();
    outpost.wait_done(&sidecar);
    // All may have been there before it could be told to stop.
    sidecar.wait_ready(true);
    assert!(sidecar.stop().success());
    outpost.expect_all();
    seen.extend(outpost.proxy.seen());
    let (n_again, at_most) = (sent_again(&seen), u64::from(n_kills) * PART_BYTES);
    println!("{n_blocks} blocks, {n_kills} kills: {n_again} bytes of parts sent again, of at most {at_most}");
    assert!(n_again <= at_most, "{n_again} bytes were sent again, more than {at_most}");
}

/// Bytes of parts that came to the server beyond what the files have.
fn sent_again(seen: &[Seen]) -> u64 {
    let mut parts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut sizes: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for request in seen.iter().filter(|seen| seen.method == "PUT") {
        let Some(number) = request.query.split('&').find_map(|pair| pair.strip_prefix("partNumber=")) else { continue };
        let key = (request.path.as_str(), number);
        *parts.entry(key).or_default() += request.body_bytes;
        if request.status == Some(200) {
            sizes.insert(key, request.body_bytes);
        }
    }
    parts.iter().map(|(key, bytes)| bytes - sizes.get(key).unwrap_or_else(|| panic!("{key:?} never arrived"))).sum()
}
