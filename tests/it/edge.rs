//! A day at the edge, compressed into two minutes: a real Prometheus that finishes a block every five seconds and keeps
//! blocks for forty, a real S3 server behind a link that is slow for longer than that, goes down and flaps, a sidecar
//! that is killed and a Prometheus that is restarted and killed. In the end every block that Prometheus ever finished is
//! in the bucket, byte for byte.
use crate::support;
use crate::support::shipped;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::fault_proxy::{FaultProxy, Link};
use crate::support::rgw::{Bucket, Rgw};
use crate::support::sidecar::{Sidecar, pause};
use support::prometheus::{EXTERNAL_LABELS, Prometheus, Setup, releases};

/// The shipper looks every half minute, and after a failure it waits for its next look.
const PATIENCE: Duration = Duration::from_secs(120);
const FLAGS: [&str; 3] = [
    "--storage.tsdb.min-block-duration=5s",
    "--storage.tsdb.max-block-duration=5s",
    // Longer than the shipper's interval: what nobody has seen while it existed cannot be kept.
    "--storage.tsdb.retention.time=40s",
];

struct Day<'a> {
    begun: Instant,
    prometheus: Prometheus,
    bucket: &'a Bucket<'a>,
    proxy: FaultProxy,
    sidecar: Option<Sidecar>,
    config: PathBuf,
    /// Every block that was ever seen in the data folder, linked here.
    aside: PathBuf,
    /// Blocks that Prometheus said it wrote.
    written: BTreeSet<String>,
}

impl Day<'_> {
    fn say(&self, what: &str) {
        println!("{:>6.1} s  {what}", self.begun.elapsed().as_secs_f64());
    }

    /// Waits, and meanwhile puts every new block aside.
    fn wait(&mut self, what: &str, at_most: Duration, mut is_so: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        loop {
            self.look();
            if is_so(self) {
                return self.say(what);
            }
            if begun.elapsed() >= at_most {
                let log = self.sidecar.as_ref().map_or_else(String::new, Sidecar::log);
                panic!("no {what} within {at_most:?}; pillion's log:\n{log}");
            }
            for _ in 0..10 {
                pause();
            }
        }
    }

    fn wait_seconds(&mut self, seconds: u64) {
        let begun = Instant::now();
        self.wait(&format!("{seconds} s later"), PATIENCE, |_| begun.elapsed().as_secs() >= seconds);
    }

    fn look(&mut self) {
        for block in self.prometheus.blocks() {
            let name = block.file_name().unwrap().to_str().unwrap();
            // Folders that are being made or deleted have a longer name.
            if name.len() == 26 && !self.aside.join(name).exists() {
                link(&block, &self.aside.join(name));
            }
        }
        let log = self.prometheus.log();
        let lines = log.lines().filter(|line| line.contains("write block") && line.contains("ulid="));
        self.written.extend(lines.filter_map(|line| Some(line.split("ulid=").nth(1)?.get(..26)?.to_owned())));
    }

    fn aside(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(&self.aside).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn in_bucket(&self) -> BTreeSet<String> {
        shipped::blocks(self.bucket).into_iter().collect()
    }

    /// Blocks that are neither with Prometheus nor in the bucket.
    fn only_claimed(&self) -> BTreeSet<String> {
        let in_bucket = self.in_bucket();
        let is_there = |name: &String| self.prometheus.data().join(name).exists();
        self.aside().into_iter().filter(|name| !is_there(name) && !in_bucket.contains(name)).collect()
    }

    fn start_sidecar(&mut self) {
        let args = [
            format!("--prometheus.url={}", self.prometheus.url()),
            format!("--tsdb.path={}", self.prometheus.data().display()),
            format!("--objstore.config-file={}", self.config.display()),
            "--shipper.upload-jitter=0s".to_owned(),
        ];
        self.sidecar = Some(Sidecar::start(&args.iter().map(String::as_str).collect::<Vec<_>>()));
        self.say("sidecar started");
    }

    fn kill_sidecar(&mut self) {
        let mut sidecar = self.sidecar.take().unwrap();
        sidecar.signal("KILL");
        sidecar.wait_exit();
        self.say("sidecar killed");
    }
}

fn link(block: &Path, aside: &Path) {
    let unfinished = aside.with_extension("unfinished");
    let _ = std::fs::remove_dir_all(&unfinished);
    std::fs::create_dir_all(unfinished.join("chunks")).unwrap();
    let segments = std::fs::read_dir(block.join("chunks")).unwrap().map(|entry| entry.unwrap().file_name());
    let names = segments.map(|name| Path::new("chunks").join(name)).chain(["index".into(), "meta.json".into()]);
    for name in names {
        std::fs::hard_link(block.join(&name), unfinished.join(&name)).unwrap();
    }
    std::fs::rename(unfinished, aside).unwrap();
}

#[test]
fn every_block_that_prometheus_finished_is_in_the_bucket_at_the_end_of_the_day() {
    let Some(rgw) = Rgw::shared() else { return };
    let release = releases().pop().unwrap();
    let bucket = rgw.bucket();
    let proxy = FaultProxy::start(rgw.endpoint());
    let prometheus = Prometheus::new(&release, Setup { scrape: true, ..Setup::default() }, &FLAGS);
    let (config, aside) = (prometheus.scratch().join("bucket.yml"), prometheus.scratch().join("aside"));
    std::fs::write(&config, bucket.config(&proxy.endpoint(), "")).unwrap();
    std::fs::create_dir(&aside).unwrap();
    let (begun, written) = (Instant::now(), BTreeSet::new());
    let mut day = Day { begun, prometheus, bucket: &bucket, proxy, sidecar: None, config, aside, written };

    day.prometheus.start_again();
    day.wait("two blocks", PATIENCE, |day| day.aside().len() >= 2);
    day.start_sidecar();
    day.wait("both in the bucket", PATIENCE, |day| day.in_bucket().len() >= 2);

    // The link is so slow that a block takes a minute, which is longer than Prometheus keeps those that wait.
    day.proxy.set_rate(1500);
    day.wait_seconds(60);
    day.kill_sidecar();
    day.start_sidecar();

    // And then there is none, and both programs of the host are restarted.
    day.proxy.set_link(Link::Down);
    day.say("link down");
    day.wait("blocks that are only claimed", PATIENCE, |day| day.only_claimed().len() >= 5);
    day.prometheus.stop();
    day.look();
    day.prometheus.start_again();
    day.say("Prometheus restarted");
    day.kill_sidecar();
    day.start_sidecar();
    let only_claimed = day.only_claimed();

    // It comes back, but not for long.
    day.proxy.set_rate(100_000);
    for _ in 0..3 {
        day.proxy.set_link(Link::Up);
        day.wait_seconds(2);
        day.proxy.set_link(Link::Down);
        day.wait_seconds(1);
    }
    day.prometheus.kill();
    day.prometheus.start_again();
    day.say("Prometheus killed and started again");
    day.proxy.set_link(Link::Up);
    day.say("link up");
    day.wait("what Prometheus had deleted", PATIENCE, |day| only_claimed.is_subset(&day.in_bucket()));

    day.wait_seconds(5);
    day.prometheus.stop();
    day.look();
    day.wait("end of the backlog", PATIENCE, |day| day.in_bucket() == day.aside());
    let seen = day.aside();
    assert!(day.written.is_subset(&seen), "written and not seen: {:?}", day.written.difference(&seen));
    assert!(!day.written.is_empty());
    for name in &seen {
        shipped::expect_whole(&bucket, &day.aside.join(name), &EXTERNAL_LABELS);
    }
    assert_eq!(bucket.uploads(), []);
    let sidecar = day.sidecar.take().unwrap();
    assert!(sidecar.stop().success());
    println!("{} blocks, {} of them deleted by Prometheus before they were shipped", seen.len(), only_claimed.len());
}
