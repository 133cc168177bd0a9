//! The configuration: what is written, when, and what Prometheus is asked.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use pillion_base::error::{Error, Kind};

use crate::rig::{NEVER, Rig};

/// P-RL-01.
#[test]
fn a_configuration_is_written_and_loaded_whenever_it_changes() {
    let mut rig = Rig::with("in.yml", "out.yml", &[]);
    rig.start();
    rig.until("files are missing", |metrics| metrics.missing_paths.get() == 1);
    rig.until("shown", |_| rig.failing("files") == 1);
    rig.write("in.yml", "a: $(UNSET)\n");
    rig.until("a variable is missing", |metrics| metrics.config_environment_variable_expansion_errors.get() == 1);
    rig.until("shown", |_| rig.failing("variable") == 1 && rig.failing("files") == 0);
    assert!(!rig.path("out.yml").exists());
    assert_eq!(rig.metrics.reloads.get(), 0);

    rig.write("in.yml", "a: $(SET)\nb: $SET ${SET}\n");
    rig.wait_loaded();
    assert_eq!(rig.read("out.yml"), b"a: value\nb: $SET ${SET}\n");
    assert_eq!(rig.metrics.config_environment_variable_expansion_errors.get(), 0);
    assert_eq!((rig.failing("variable"), rig.metrics.missing_paths.get()), (0, 0));

    // The old output stays where the new one cannot be made.
    rig.no_reload(|| rig.write("in.yml", "a: $(UNSET)\n"));
    assert_eq!(rig.read("out.yml"), b"a: value\nb: $SET ${SET}\n");
    rig.until("shown", |_| rig.failing("variable") == 1);
    assert!(rig.metrics.config_apply_operations_failed.get() >= 2);

    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(b"c: $(SET)").unwrap();
    std::fs::write(rig.path("in.yml"), gzip.finish().unwrap()).unwrap();
    rig.wait_loaded();
    assert_eq!(rig.read("out.yml"), b"c: value");
    rig.stop();
}

#[test]
fn every_second_reload_fails_and_is_tried_again() {
    let mut rig = Rig::with("in.yml", "", &[]);
    rig.config.retry_interval = Duration::from_millis(20);
    let mut n = 0;
    rig.answer(move || {
        n += 1;
        if n % 2 == 1 { Err(Error::new(Kind::Retry, "503")) } else { Ok(()) }
    });
    rig.write("in.yml", "1");
    rig.start();
    for n in 1..=3 {
        rig.wait_asked();
        rig.wait_loaded();
        assert_eq!((rig.metrics.reloads.get(), rig.metrics.reloads_failed.get()), (2 * n, n));
        rig.write("in.yml", &format!("{n}{n}"));
    }
}

/// P-RL-02, and D-32: nobody waits for a retry to roll back.
#[test]
fn a_rollback_counts_at_once_while_reloads_fail() {
    let mut rig = Rig::with("in.yml", "out.yml", &["rules"]);
    rig.mkdir("rules");
    rig.write("in.yml", "good");
    rig.write("rules/a.yml", "good");
    rig.start();
    rig.wait_loaded();

    rig.refuse();
    rig.write("rules/a.yml", "broken");
    rig.wait_asked();
    rig.until("refused", |metrics| metrics.reloads_failed.get() == 1);
    rig.until("shown", |_| rig.failing("refused") == 1);
    assert_eq!(rig.metrics.last_reload_successful.get(), 0);

    rig.accept();
    // What Prometheus had before, and is told again because nobody knows what it has.
    rig.write("rules/a.yml", "good");
    rig.wait_loaded();
    assert_eq!(rig.failing("refused"), 0);
    assert_eq!(rig.metrics.reloads.get(), 3);
    rig.no_reload(|| rig.write("rules/a.yml", "good"));
}

#[test]
fn files_are_read_again_at_each_retry() {
    let mut rig = Rig::with("in.yml", "out.yml", &[]);
    rig.config.retry_interval = Duration::from_millis(20);
    rig.refuse();
    rig.write("in.yml", "1");
    // Written through another name, so that the folder tells nothing.
    std::fs::create_dir(rig.path("elsewhere")).unwrap();
    std::fs::hard_link(rig.path("in.yml"), rig.path("elsewhere/x")).unwrap();
    rig.start();
    rig.wait_asked();
    rig.write_in_place("elsewhere/x", "2");
    rig.until("read again", |_| rig.read("out.yml") == b"2");
    assert_eq!(rig.metrics.watch_events.get(), 0);
}

/// P-RL-04: what no event tells is found by the check.
#[test]
fn a_change_without_an_event_is_found_by_the_check() {
    let mut rig = Rig::with("in.yml", "", &["rules"]);
    rig.config.watch_interval = Some(Duration::from_millis(20));
    rig.mkdir("rules");
    rig.mkdir("elsewhere");
    rig.write("in.yml", "1");
    rig.write("rules/a.yml", "1");
    std::fs::hard_link(rig.path("rules/a.yml"), rig.path("elsewhere/x")).unwrap();
    rig.start();
    rig.wait_loaded();
    rig.write_in_place("elsewhere/x", "2");
    rig.wait_asked();
    let looks = rig.metrics.config_apply_operations.get();
    rig.until("looked again", |metrics| metrics.config_apply_operations.get() > looks + 2);
    // An empty file was there for a moment.
    assert!((2..=3).contains(&rig.metrics.reloads.get()));
    assert_eq!(rig.metrics.watch_events.get(), 0);
}

/// What a SIGHUP does, as where the files lie on a network and nothing tells of their changes.
#[test]
fn a_change_without_an_event_is_found_by_whoever_asks() {
    let mut rig = Rig::with("in.yml", "", &["rules"]);
    rig.mkdir("rules");
    rig.mkdir("elsewhere");
    rig.write("in.yml", "1");
    rig.write("rules/a.yml", "1");
    std::fs::hard_link(rig.path("rules/a.yml"), rig.path("elsewhere/x")).unwrap();
    rig.start();
    rig.wait_loaded();
    rig.write_in_place("elsewhere/x", "2");
    rig.look();
    rig.wait_loaded();
    let looks = rig.metrics.config_apply_operations.get();
    rig.look();
    rig.until("looked again", |metrics| metrics.config_apply_operations.get() > looks);
    assert_eq!((rig.metrics.reloads.get(), rig.metrics.watch_events.get()), (2, 0));
}

/// P-RL-05. `Differs:` Thanos writes the output and ends.
#[test]
fn without_a_watch_interval_changes_are_still_seen() {
    let mut rig = Rig::with("in.yml", "out.yml", &[]);
    assert_eq!(rig.config.watch_interval, None);
    rig.write("in.yml", "1");
    rig.start();
    rig.wait_loaded();
    assert_eq!(rig.read("out.yml"), b"1");
    rig.write("in.yml", "2");
    rig.wait_loaded();
    assert_eq!(rig.read("out.yml"), b"2");
    rig.stop();
}

#[test]
fn the_output_is_written_when_it_changes_and_keeps_its_mode() {
    let mut rig = Rig::with("in.yml", "out.yml", &[]);
    rig.write("in.yml", "1");
    rig.write("out.yml", "older");
    std::fs::set_permissions(rig.path("out.yml"), std::fs::Permissions::from_mode(0o640)).unwrap();
    rig.start();
    rig.wait_loaded();
    let output = || std::fs::metadata(rig.path("out.yml")).unwrap();
    assert_eq!((output().mode() & 0o777, rig.read("out.yml")), (0o640, b"1".to_vec()));
    let inode = output().ino();
    rig.no_reload(|| rig.write("in.yml", "1"));
    assert_eq!(output().ino(), inode);
    assert!(!rig.path("out.yml.tmp").exists());
    // What somebody else has made of it is mended, and Prometheus told, at the next look.
    rig.write("out.yml", "vandal");
    std::fs::set_permissions(rig.path("in.yml"), std::fs::Permissions::from_mode(0o600)).unwrap();
    rig.wait_loaded();
    assert_eq!((rig.read("out.yml"), rig.metrics.reloads.get()), (b"1".to_vec(), 2));
}

#[test]
fn renamed_over_and_written_in_place_again_and_again() {
    let mut rig = Rig::with("in.yml", "out.yml", &[]);
    rig.write("in.yml", "0");
    rig.start();
    rig.wait_loaded();
    for n in 1..=3 {
        rig.write("in.yml", &n.to_string());
        rig.wait_loaded();
        assert_eq!(rig.read("out.yml"), n.to_string().into_bytes());
    }
    assert_eq!(rig.metrics.reloads.get(), 4);
    for n in 4..=6 {
        rig.write_in_place("in.yml", &n.to_string());
        rig.until("written", |_| rig.read("out.yml") == n.to_string().into_bytes());
    }
}

#[test]
fn the_configuration_in_a_config_map() {
    let mut rig = Rig::with("map/prometheus.yml", "out.yml", &[]);
    rig.config_map("map", "..1", &[("prometheus.yml", "1"), ("other", "x")]);
    rig.start();
    rig.wait_loaded();
    for n in 2..=4 {
        rig.config_map("map", &format!("..{n}"), &[("prometheus.yml", &n.to_string()), ("other", "x")]);
        rig.wait_loaded();
        assert_eq!(rig.read("out.yml"), n.to_string().into_bytes());
    }
    rig.no_reload(|| rig.config_map("map", "..5", &[("prometheus.yml", "4"), ("other", "y")]));
    assert_eq!(rig.metrics.watch_errors.get(), 0);
}

/// The configuration is written although rules are missing, because a Prometheus that is to make them may wait for it.
#[test]
fn a_missing_rule_dir_keeps_only_the_reload_waiting() {
    let mut rig = Rig::with("in.yml", "out.yml", &["a/b/rules"]);
    rig.config.watch_interval = Some(NEVER);
    rig.write("in.yml", "1");
    rig.start();
    rig.until("shown", |_| rig.failing("files") == 1);
    assert_eq!(rig.read("out.yml"), b"1");
    assert_eq!((rig.metrics.missing_paths.get(), rig.metrics.reloads.get()), (1, 0));
    rig.mkdir("a/b/rules");
    rig.wait_loaded();
    assert_eq!((rig.metrics.missing_paths.get(), rig.failing("files")), (0, 0));
}
