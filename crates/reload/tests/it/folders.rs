//! Rule dirs: which changes are seen, and which are none.

use std::time::Duration;

use crate::rig::{NEVER, Rig};

/// A rule dir `rules` that is watched, after its first reload.
fn watched(rule_dir: &str) -> Rig {
    let mut rig = Rig::with("", "", &[rule_dir]);
    rig.mkdir("rules");
    rig.mkdir("elsewhere");
    rig.start_watching();
    assert_eq!(rig.metrics.reloads.get(), 0);
    rig.write("rules/first.yml", "first");
    rig.wait_loaded();
    rig
}

/// P-RL-03.
#[test]
fn files_and_links_that_come_and_change() {
    let rig = watched("rules");
    rig.write("elsewhere/b.yml", "b");
    let steps: [(&str, &dyn Fn()); 7] = [
        ("created", &|| rig.write("rules/a.yml", "a")),
        ("renamed over", &|| rig.write("rules/a.yml", "a2")),
        ("a link", &|| rig.symlink("../elsewhere/b.yml", "rules/b.yml")),
        ("a link that is replaced", &|| {
            rig.write("elsewhere/c.yml", "c");
            rig.symlink("../elsewhere/c.yml", "elsewhere/link");
            std::fs::rename(rig.path("elsewhere/link"), rig.path("rules/b.yml")).unwrap();
        }),
        // Thanos finds this at the next check.
        ("what a link leads to", &|| rig.write("elsewhere/c.yml", "c2")),
        ("a name", &|| std::fs::rename(rig.path("rules/a.yml"), rig.path("rules/z.yml")).unwrap()),
        ("removed", &|| std::fs::remove_file(rig.path("rules/z.yml")).unwrap()),
    ];
    for (what, step) in steps {
        let before = rig.metrics.reloads.get();
        step();
        rig.wait_loaded();
        assert!(rig.metrics.reloads.get() > before, "{what}");
    }
    assert_eq!((rig.metrics.reloads_failed.get(), rig.metrics.watch_errors.get()), (0, 0));
    assert!(rig.metrics.watch_events.get() >= 7);
}

#[test]
fn rules_alone_are_loaded_at_the_first_check() {
    let mut rig = Rig::with("", "", &["rules"]);
    rig.config.watch_interval = Some(Duration::from_millis(50));
    rig.mkdir("rules");
    rig.start_watching();
    rig.wait_loaded();
    rig.until("checked", |metrics| metrics.config_apply_operations.get() > 3);
    assert_eq!((rig.metrics.reloads.get(), rig.metrics.watch_events.get()), (1, 0));
}

/// D-31.
#[test]
fn a_slash_at_the_end_and_folders_below() {
    for rule_dir in ["rules/", "elsewhere/../rules/", "rules//."] {
        let rig = watched(rule_dir);
        rig.mkdir("rules/x/y");
        rig.write("rules/x/y/a.yml", "a");
        rig.wait_loaded();
        rig.write("rules/x/y/a.yml", "b");
        rig.wait_loaded();
        std::fs::rename(rig.path("rules/x"), rig.path("rules/z")).unwrap();
        rig.wait_loaded();
        rig.write("rules/z/y/a.yml", "c");
        rig.wait_loaded();
        assert_eq!(rig.metrics.reloads_failed.get(), 0);
    }
}

/// D-33.
#[test]
fn a_link_that_leads_nowhere_stops_nobody() {
    let rig = watched("rules");
    rig.no_reload(|| {
        rig.symlink("nowhere", "rules/dangling.yml");
        rig.symlink("loop.yml", "rules/loop.yml");
        let made = std::process::Command::new("mkfifo").arg(rig.path("rules/pipe.yml")).status().unwrap();
        assert!(made.success());
    });
    rig.write("rules/a.yml", "a");
    rig.wait_loaded();
    assert_eq!(rig.metrics.config_apply_operations_failed.get(), 0);
    rig.write("rules/nowhere", "now it is there");
    rig.wait_loaded();
    // No event tells where it leads but the watch on its target's folder.
    rig.write("rules/nowhere", "and changes");
    rig.wait_loaded();
}

#[test]
fn rules_in_a_config_map() {
    let mut rig = Rig::with("", "", &["map"]);
    rig.config_map("map", "..1", &[("a.yml", "a"), ("b.yml", "b")]);
    rig.start_watching();
    rig.config_map("map", "..2", &[("a.yml", "a2"), ("b.yml", "b")]);
    rig.wait_loaded();
    // A resync.
    rig.no_reload(|| rig.config_map("map", "..3", &[("a.yml", "a2"), ("b.yml", "b")]));
    rig.config_map("map", "..4", &[("a.yml", "a3"), ("b.yml", "b")]);
    rig.wait_loaded();
    rig.config_map("map", "..5", &[("a.yml", "a3"), ("b.yml", "b2"), ("c.yml", "c")]);
    rig.wait_loaded();
    assert_eq!((rig.metrics.config_apply_operations_failed.get(), rig.metrics.watch_errors.get()), (0, 0));
}

#[test]
fn a_rule_dir_that_goes_and_comes() {
    let rig = watched("rules");
    for n in 0..3 {
        std::fs::remove_dir_all(rig.path("rules")).unwrap();
        rig.until("missing", |metrics| metrics.missing_paths.get() == 1);
        rig.until("shown", |_| rig.failing("files") == 1);
        rig.mkdir("rules");
        rig.write("rules/a.yml", &format!("new {n}"));
        rig.wait_loaded();
        rig.write("rules/a.yml", &format!("newer {n}"));
        rig.wait_loaded();
        rig.until("no failure is shown", |_| rig.failing("files") == 0);
    }
    // Swapped for another.
    rig.mkdir("next");
    rig.write("next/b.yml", "b");
    std::fs::rename(rig.path("rules"), rig.path("last")).unwrap();
    std::fs::rename(rig.path("next"), rig.path("rules")).unwrap();
    rig.wait_loaded();
    rig.write("rules/b.yml", "b2");
    rig.wait_loaded();
}

#[test]
fn a_rule_dir_that_is_a_link_to_another() {
    let mut rig = Rig::with("", "", &["releases/current/rules"]);
    for release in ["1", "2"] {
        rig.mkdir(&format!("releases/{release}/rules"));
        rig.write(&format!("releases/{release}/rules/a.yml"), release);
    }
    rig.symlink("1", "releases/current");
    rig.start_watching();
    rig.symlink("2", "releases/next");
    std::fs::rename(rig.path("releases/next"), rig.path("releases/current")).unwrap();
    rig.wait_loaded();
    rig.write("releases/2/rules/a.yml", "2b");
    rig.wait_loaded();
    let events = rig.metrics.watch_events.get();
    // Nobody cares about the old one any more.
    rig.write("releases/1/rules/a.yml", "1b");
    rig.no_reload(|| rig.write("releases/2/rules/a.yml", "2b"));
    assert!(rig.metrics.watch_events.get() > events);
}

#[test]
fn rule_dirs_and_configuration_are_one() {
    let mut rig = Rig::with("in.yml", "", &["one", "two"]);
    rig.config.debounce = Duration::from_millis(300);
    rig.write("in.yml", "1");
    rig.mkdir("one");
    rig.mkdir("two");
    rig.start();
    rig.wait_loaded();
    rig.write("in.yml", "2");
    rig.write("one/a.yml", "a");
    rig.write("two/b.yml", "b");
    rig.wait_loaded();
    rig.no_reload(|| rig.write("one/a.yml", "a"));
    assert_eq!(rig.metrics.reloads.get(), 2);
}

/// Somebody has all in one folder.
#[test]
fn what_is_written_is_no_rule() {
    let mut rig = Rig::with("all/in.yml", "all/out.yml", &["all"]);
    rig.mkdir("all");
    rig.write("all/in.yml", "1");
    rig.start();
    rig.wait_loaded();
    rig.write("all/in.yml", "2");
    rig.wait_loaded();
    assert_eq!(rig.read("all/out.yml"), b"2");
    rig.no_reload(|| rig.write("all/in.yml", "2"));
    assert_eq!(rig.metrics.reloads.get(), 2);
    // It cannot be written, which makes a temporary file come and go, and is not tried because of that.
    std::fs::remove_file(rig.path("all/out.yml")).unwrap();
    rig.mkdir("all/out.yml/in the way");
    rig.write("all/in.yml", "3");
    rig.until("shown", |_| rig.failing("files") == 1);
    let looks = rig.metrics.config_apply_operations.get();
    rig.write("all/in.yml", "4");
    rig.until("looked", |metrics| metrics.config_apply_operations.get() > looks);
    assert!(rig.metrics.config_apply_operations.get() <= looks + 2);
    std::fs::remove_dir_all(rig.path("all/out.yml")).unwrap();
    rig.write("all/in.yml", "5");
    rig.until("written", |_| std::fs::read(rig.path("all/out.yml")).is_ok_and(|output| output == b"5"));
}

#[test]
fn a_missing_rule_dir_is_waited_for() {
    let mut rig = Rig::with("", "", &["rules", "other"]);
    rig.config.watch_interval = Some(NEVER);
    rig.mkdir("other");
    rig.start_watching();
    rig.until("missing", |metrics| metrics.missing_paths.get() == 1);
    rig.write("other/a.yml", "a");
    rig.until("shown", |_| rig.failing("files") == 1);
    assert_eq!(rig.metrics.reloads.get(), 0);
    rig.mkdir("rules");
    rig.wait_loaded();
    rig.write("rules/a.yml", "a");
    rig.wait_loaded();
    rig.until("no failure is shown", |_| rig.failing("files") == 0);
}
