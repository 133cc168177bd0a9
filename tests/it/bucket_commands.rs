//! What a user sees of `pillion bucket ls` and `pillion bucket cat`, over a folder and over an S3 store in this process.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};

use crate::support::terminal::on_a_terminal;
use pillion_base::limits::META_BYTES_MAX;
use pillion_testing::fake_s3::{ACCESS_KEY, BUCKET, FakeS3, Fault, Object, REGION, SECRET_KEY};

const MIB: usize = 1024 * 1024;

/// What is in both stores, below the prefix.
const OBJECTS: [(&str, &str); 5] = [
    ("01A/chunks/000001", "chunk"),
    ("01A/index", "the index"),
    ("01A/meta.json", "{}"),
    ("01A-x", ""),
    ("debug/metas/01A.json", "{\"version\":1}"),
];

/// A store and the text of its configuration.
enum Store {
    Folder(tempfile::TempDir),
    S3(FakeS3),
}

struct Rig {
    store: Store,
    prefix: &'static str,
}

impl Rig {
    fn new(store: Store, prefix: &'static str) -> Rig {
        let rig = Rig { store, prefix };
        for (name, content) in OBJECTS {
            rig.put(name, content.as_bytes());
        }
        rig
    }

    /// A folder and an S3 store, without a prefix and with one.
    fn all() -> Vec<Rig> {
        let both = |prefix| {
            [
                Rig::new(Store::Folder(tempfile::tempdir().unwrap()), prefix),
                Rig::new(Store::S3(FakeS3::start()), prefix),
            ]
        };
        ["", "some/where"].into_iter().flat_map(both).collect()
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        let name = if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) };
        match &self.store {
            Store::Folder(dir) => {
                let path = dir.path().join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, bytes).unwrap();
            }
            Store::S3(fake) => {
                let object =
                    Object { bytes: bytes.to_vec(), tag: format!("{:032x}", bytes.len()), ..Object::default() };
                fake.with(|state| state.objects.insert(name, object));
            }
        }
    }

    fn config(&self) -> String {
        let prefix = self.prefix;
        match &self.store {
            Store::Folder(dir) => {
                format!("{{type: FILESYSTEM, prefix: {prefix:?}, config: {{directory: {:?}}}}}", dir.path())
            }
            Store::S3(fake) => format!(
                "{{type: S3, prefix: {prefix:?}, config: {{bucket: {BUCKET}, endpoint: 127.0.0.1:{}, region: {REGION}, \
                 access_key: {ACCESS_KEY}, secret_key: {SECRET_KEY}, insecure: true}}}}",
                fake.port
            ),
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
        command.arg("bucket").args(args).arg(format!("--objstore.config={}", self.config()));
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        let out = self.command(args).output().unwrap();
        let told = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(!told.contains(SECRET_KEY), "{told}");
        out
    }

    /// Standard output; nothing may have gone wrong.
    #[track_caller]
    fn text(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert_eq!((out.status.code(), String::from_utf8_lossy(&out.stderr).as_ref()), (Some(0), ""), "{args:?}");
        String::from_utf8(out.stdout).unwrap()
    }

    /// The error of a command that writes nothing else.
    #[track_caller]
    fn error(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert_eq!((out.status.code(), out.stdout.len()), (Some(1), 0), "{args:?}");
        let text = String::from_utf8(out.stderr).unwrap();
        text.strip_prefix("pillion: error: ").unwrap_or_else(|| panic!("{text}")).to_owned()
    }

    fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

fn lines(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_folder_is_listed_with_names_that_the_other_commands_take() {
    for rig in Rig::all() {
        assert_eq!(rig.text(&["ls"]), lines(&["01A-x", "01A/", "debug/"]));
        assert_eq!(rig.text(&["ls", "/"]), rig.text(&["ls"]));
        for folder in ["01A", "01A/"] {
            assert_eq!(rig.text(&["ls", folder]), lines(&["01A/chunks/", "01A/index", "01A/meta.json"]));
        }
        assert_eq!(rig.text(&["ls", "missing"]), "");
        assert_eq!(
            rig.text(&["ls", "--recursive"]),
            lines(&["01A-x", "01A/chunks/000001", "01A/index", "01A/meta.json", "debug/metas/01A.json"])
        );
        assert_eq!(rig.text(&["ls", "--recursive", "debug"]), lines(&["debug/metas/01A.json"]));
        for (name, content) in OBJECTS {
            assert_eq!(rig.text(&["cat", name]), content);
        }
    }
}

#[test]
fn sizes_and_json_are_for_scripts() {
    for rig in Rig::all() {
        assert_eq!(
            rig.text(&["ls", "--long", "01A"]),
            lines(&["             - 01A/chunks/", "             9 01A/index", "             2 01A/meta.json"])
        );
        assert_eq!(
            rig.text(&["ls", "--json"]),
            lines(&[r#"{"name":"01A-x"}"#, r#"{"name":"01A/"}"#, r#"{"name":"debug/"}"#])
        );
        assert_eq!(
            rig.text(&["ls", "--json", "--long", "--recursive", "01A"]),
            lines(&[
                r#"{"name":"01A/chunks/000001","size_bytes":5}"#,
                r#"{"name":"01A/index","size_bytes":9}"#,
                r#"{"name":"01A/meta.json","size_bytes":2}"#,
            ])
        );
    }
}

#[test]
fn a_listing_of_many_pages_comes_whole() {
    let fake = FakeS3::start();
    fake.with(|state| state.page_names = 2);
    let rig = Rig::new(Store::S3(fake), "p");
    let mut names: Vec<String> = (0..7).map(|n| format!("many/{n}/x")).collect();
    for name in &names {
        rig.put(name, b"x");
    }
    names.push(String::new());
    assert_eq!(rig.text(&["ls", "--recursive", "many"]), names.join("\n"));
}

#[test]
fn names_of_other_tools_are_passed_over_and_do_not_hide_the_rest() {
    let rig = Rig::new(Store::S3(FakeS3::start()), "");
    rig.put("a//b", b"x");
    rig.put("a/\u{1b}[2J", b"x");
    rig.put("a/z", b"x");
    assert_eq!(rig.text(&["ls", "a"]), lines(&["a/\\u{1b}[2J", "a//", "a/z"]));
    let out = rig.run(&["ls", "--recursive", "--long", "a"]);
    assert_eq!(String::from_utf8(out.stdout).unwrap(), lines(&["             1 a/z"]));
    let told = String::from_utf8(out.stderr).unwrap();
    assert_eq!((out.status.code(), told.lines().count()), (Some(1), 2), "{told}");
    assert!(told.contains("pillion: \"a//\" is passed over: "), "{told}");
}

#[test]
fn what_is_missing_or_wrong_is_said_and_ends_with_1() {
    for rig in Rig::all() {
        let err = rig.error(&["cat", "01A/nothing"]);
        assert!(err.starts_with("read \"01A/nothing\": "), "{err}");
        // A folder is no object, and neither is a name that leads out of the bucket.
        for odd in ["01A", "01A/", "../x", "/01A/index", ""] {
            rig.error(&["cat", odd]);
        }
        rig.error(&["ls", ".."]);
        assert_eq!(rig.error(&["cat"]), "required argument <object> not provided\n");
        assert_eq!(rig.error(&["ls", "a", "b"]), "unexpected b\n");
    }
    for command in [&["ls"] as &[&str], &["cat", "x"]] {
        let out = Command::new(env!("CARGO_BIN_EXE_pillion")).arg("bucket").args(command).output().unwrap();
        assert_eq!(out.status.code(), Some(1));
        assert!(String::from_utf8(out.stderr).unwrap().contains("give --objstore.config-file or --objstore.config"));
    }
}

#[test]
fn a_store_that_refuses_says_why_without_secrets() {
    let rig = Rig::new(Store::S3(FakeS3::start()), "");
    let Store::S3(fake) = &rig.store else { return };
    fake.rule("", "", 0, 100, Fault::Refuse(403, "AccessDenied"));
    for args in [&["ls"] as &[&str], &["cat", "01A/index"]] {
        let err = rig.error(args);
        assert!(err.contains("s3:"), "the permission is named: {err}");
    }
    fake.with(|state| state.heal());
    fake.with(|state| state.has_bucket = false);
    for args in [&["ls"] as &[&str], &["cat", "01A/index"]] {
        let err = rig.error(args);
        assert!(err.contains(BUCKET), "{err}");
    }
}

/// Bytes that say where they are.
fn content(n_bytes: usize) -> Vec<u8> {
    (0..n_bytes / 4).flat_map(|idx| u32::try_from(idx).unwrap().to_le_bytes()).collect()
}

#[test]
fn a_large_object_comes_whole_in_little_memory() {
    let bytes = content(usize::try_from(META_BYTES_MAX).unwrap() + 2 * MIB);
    for rig in Rig::all().into_iter().take(2) {
        rig.put("large", &bytes);
        if let Store::S3(fake) = &rig.store {
            fake.rule("GetObject", "large", 0, 1, Fault::TruncateAt(40 * MIB));
        }
        let mut child = rig.spawn(&["cat", "large"]);
        let mut stdout = child.stdout.take().unwrap();
        // Before the last of it, it cannot end: a pipe holds less than that.
        let mut got = vec![0; bytes.len() - MIB];
        stdout.read_exact(&mut got).unwrap();
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak_kib: usize = peak.trim().trim_end_matches(" kB").parse().unwrap();
        stdout.read_to_end(&mut got).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(got == bytes, "other bytes");
        assert!(peak_kib < 32 * 1024, "{peak_kib} KiB");
    }
}

#[test]
fn on_a_terminal_there_is_a_line_about_what_takes_long() {
    let bytes = content(6 * MIB);
    let rig = Rig::new(Store::S3(FakeS3::start()), "");
    rig.put("large", &bytes);
    let Store::S3(fake) = &rig.store else { return };
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy");
    let config = dir.path().join("bucket.yml");
    std::fs::write(&config, rig.config()).unwrap();
    let cat = format!("{} bucket cat --objstore.config-file={} large", env!("CARGO_BIN_EXE_pillion"), config.display());
    let to_a_file = format!("{cat} > {}", copy.display());
    // It waits a while before it goes on.
    let slowly = || fake.rule("GetObject", "large", 0, 3, Fault::TruncateAt(MIB));
    slowly();
    let text = on_a_terminal(&to_a_file, &[]);
    let last = text.rsplit("\r\u{1b}[K").collect::<Vec<_>>();
    assert!(last[0].is_empty() && last[1].starts_with("reading  ") && last[1].contains(" of 6.0 MiB ("), "{text:?}");
    assert!(std::fs::read(&copy).unwrap() == bytes, "other bytes");
    slowly();
    assert_eq!(on_a_terminal(&to_a_file, &[("TERM", "dumb")]), "");
    slowly();
    let errors = dir.path().join("errors");
    assert_eq!(on_a_terminal(&format!("{to_a_file} 2> {}", errors.display()), &[]), "");
    assert_eq!(std::fs::read(&errors).unwrap(), b"");
    // Where the object itself comes to the terminal, nothing else does.
    slowly();
    assert!(!on_a_terminal(&cat, &[]).contains("reading  "));
}

#[test]
fn it_ends_quietly_when_nobody_reads_and_at_once_at_a_signal() {
    for rig in Rig::all().into_iter().take(2) {
        rig.put("large", &content(8 * MIB));
        for is_signalled in [false, true] {
            let mut child = rig.spawn(&["cat", "large"]);
            let mut stdout = child.stdout.take().unwrap();
            stdout.read_exact(&mut [0; 1000]).unwrap();
            if is_signalled {
                let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
                assert!(sent.success());
            } else {
                drop(stdout);
            }
            let out = child.wait_with_output().unwrap();
            assert_eq!(out.status.signal().is_some(), is_signalled, "{out:?}");
            assert!(out.stderr.is_empty() && (is_signalled || out.status.success()), "{out:?}");
        }
    }
    let rig = Rig::new(Store::Folder(tempfile::tempdir().unwrap()), "");
    for n in 0..3000 {
        rig.put(&format!("many/{n}-{}", "x".repeat(100)), b"");
    }
    let mut child = rig.spawn(&["ls", "--recursive"]);
    child.stdout.take().unwrap().read_exact(&mut [0; 10]).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
}
