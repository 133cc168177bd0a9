//! What an operator sees of a running daemon: the endpoint, the page in a real browser, and `pillion status`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::support::browser::{Browser, Looked};
use crate::support::certificates::Certificates;
use crate::support::fake_prometheus::FakePrometheus;
use crate::support::sidecar::{PATIENCE, Sidecar, binary, free_address, get, pause};
use pillion::inside::page_of;
use pillion_base::stop::{Stopper, stop_pair};
use pillion_base::threads::spawn_thread;
use pillion_http::server::{Response, Server};
use pillion_testing::fake_s3::{ACCESS_KEY, BUCKET, FakeS3, REGION, SECRET_KEY};
use pillion_testing::tsdb::{Block, Tsdb, age, ulid};
use serde_json::{Value, json};

const EXAMPLE: &str = include_str!("../data/status.json");
const EVIL: &str = "<script>alert(1)</script>";
/// bcrypt of "secret" at the least cost.
const HASH: &str = "$2b$04$5619t7kf944.Vkq5NGrQ4.bYSRJlC8qBWrnI2WDrJOzKx.HPdJw.i";

/// A sidecar with a folder of blocks and a folder as its bucket.
struct Rig {
    prometheus: FakePrometheus,
    tsdb: Tsdb,
    bucket: tempfile::TempDir,
}

impl Rig {
    fn new() -> Rig {
        Rig { prometheus: FakePrometheus::start(), tsdb: Tsdb::new(), bucket: tempfile::tempdir().unwrap() }
    }

    fn start(&self, more: &[&str]) -> Sidecar {
        let own = [
            format!("--prometheus.url=http://user:hunter2@{}/?token=hunter3", self.prometheus.addr),
            format!("--tsdb.path={}", self.tsdb.path().display()),
            format!("--objstore.config=type: FILESYSTEM\nconfig:\n  directory: {}\n", self.bucket.path().display()),
        ];
        let args: Vec<&str> = own.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let sidecar = Sidecar::start(&args);
        sidecar.wait_line("listening for requests and metrics");
        sidecar
    }
}

fn status(sidecar: &Sidecar) -> Value {
    let (code, body) = sidecar.get("/api/v1/status").expect("the endpoint answers");
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn wait_for(sidecar: &Sidecar, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = status(sidecar);
        if wanted(&now) {
            return now;
        }
        assert!(Instant::now() < deadline, "{what}: {now:#}\n{}", sidecar.log());
        pause();
    }
}

fn pillion(args: &[&str]) -> Output {
    Command::new(binary()).arg("status").args(args).output().unwrap()
}

fn texts(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn blocks_that_wait_and_blocks_that_are_set_aside_with_their_reasons() {
    let rig = Rig::new();
    for n in [1, 2, 3] {
        rig.tsdb.add(&Block::new(n));
    }
    std::fs::write(rig.tsdb.block_dir(1).join("meta.json"), "{").unwrap();
    age(&rig.tsdb.block_dir(1));
    // No folder can be made where a file is.
    std::fs::write(rig.bucket.path().join(ulid(2).as_str()), "in the way").unwrap();
    rig.prometheus.set(|state| {
        state.flags.push(("storage.tsdb.retention.time".into(), "15d".into()));
    });
    let sidecar = rig.start(&["--store.limits.request-series=7", "--shipper.upload-rate-limit=5MB"]);
    let now = wait_for(&sidecar, "a look that failed", |now| !now["uploads"]["last_look_error"].is_null());
    let uploads = &now["uploads"];
    assert_eq!(uploads["pending"]["blocks"], 2, "{now:#}");
    let listed = uploads["pending"]["list"].as_array().unwrap();
    let names: Vec<&str> = listed.iter().map(|block| block["ulid"].as_str().unwrap()).collect();
    assert_eq!(names, [ulid(2).as_str(), ulid(3).as_str()]);
    assert_eq!((&listed[0]["since"], &listed[0]["claimed"]), (&json!("1970-01-01T06:00:00Z"), &json!(true)));
    assert!(listed[0]["bytes"].as_u64().unwrap() > 3500, "{now:#}");
    // The blocks are of 1970.
    assert!(listed[0]["retention_left_seconds"].as_f64().unwrap() < 0.0, "{now:#}");
    assert_eq!(uploads["set_aside"]["blocks"], 1);
    assert_eq!(uploads["set_aside"]["list"][0]["block"], ulid(1).as_str());
    assert!(uploads["set_aside"]["list"][0]["reason"].as_str().unwrap().contains("unexpected end of JSON"), "{now:#}");
    assert!(uploads["last_look_error"].as_str().unwrap().contains(ulid(2).as_str()), "{now:#}");
    assert_eq!(uploads["limits"]["bytes_per_second"], 5_000_000);
    assert_eq!(now["limits"]["request_series"], 7);
    assert_eq!(now["prometheus"]["url"], json!(format!("http://{}", rig.prometheus.addr)));
    let logged = now["recent_log"].as_array().unwrap();
    let is_there = |text: &str| logged.iter().any(|line| line["message"].as_str().unwrap().contains(text));
    assert!(is_there("block is corrupted") && is_there("syncing blocks failed"), "{now:#}");

    // The rest arrives, and so does the text for people.
    std::fs::remove_file(rig.bucket.path().join(ulid(2).as_str())).unwrap();
    drop(sidecar);
    let sidecar = rig.start(&[]);
    sidecar.wait_ready(true);
    let now = wait_for(&sidecar, "no block waits", |now| {
        now["uploads"]["pending"]["blocks"] == 0 && !now["uploads"]["last_look"].is_null()
    });
    assert!(!now["uploads"]["last_upload"].is_null(), "{now:#}");
    let (code, out, err) = texts(&pillion(&[&format!("--http={}", sidecar.http)]));
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.starts_with("Ready. No block waits.\n! 1 block cannot be shipped as it is"), "{out}");
    assert!(out.contains("External labels  region=\"eu-west\", replica=\"a\"\n"), "{out}");
    for secret in ["hunter2", "hunter3"] {
        let (_, page) = sidecar.get("/").unwrap();
        assert!(!out.contains(secret) && !now.to_string().contains(secret) && !page.contains(secret));
    }
}

/// The members of each object of the example, by the path to it; lists are one level deeper, maps with free names are left
/// alone.
fn members(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) if !path.ends_with(".external_labels") && !path.ends_with(".fields") => {
            for (name, value) in object {
                found.insert(format!("{path}.{name}"));
                members(value, &format!("{path}.{name}"), found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| members(item, &format!("{path}[]"), found)),
        _ => {}
    }
}

#[test]
fn the_endpoint_has_the_members_of_the_documents_example_and_the_documents_name_them() {
    let mut example = BTreeSet::new();
    members(&serde_json::from_str(EXAMPLE).unwrap(), "", &mut example);
    let (prometheus, tsdb) = (FakePrometheus::start(), Tsdb::new());
    let args = [
        format!("--tsdb.path={}", tsdb.path().display()),
        "--objstore.config={type: FILESYSTEM, config: {directory: /nowhere}}".into(),
    ];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let sidecar = Sidecar::ready(&prometheus.url(), &args);
    let mut found = BTreeSet::new();
    let now = status(&sidecar);
    members(&now, "", &mut found);
    // What is a list, or null when nothing happens, has no members here.
    let is_nothing_now = |path: &str| ["[]", ".uploading."].iter().any(|part| path.contains(part));
    let expected: BTreeSet<String> = example.iter().filter(|path| !is_nothing_now(path)).cloned().collect();
    let found: BTreeSet<String> = found.into_iter().filter(|path| !is_nothing_now(path)).collect();
    assert_eq!(found, expected);
    let doc = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/status-api.md")).unwrap();
    for path in &example {
        let name = path.rsplit_once('.').unwrap().1;
        assert!(doc.contains(&format!("`{name}`")), "docs/status-api.md does not name {path}");
    }
}

#[test]
fn a_daemon_that_is_not_ready_says_why_everywhere() {
    let rig = Rig::new();
    rig.prometheus.go_down();
    let sidecar = rig.start(&[]);
    let now = wait_for(&sidecar, "a first failure", |now| now["prometheus"]["up"] == false);
    assert_eq!((&now["ready"], &now["prometheus"]["version"]), (&json!(false), &Value::Null));
    let reason = now["reason"].as_str().unwrap();
    assert!(reason.contains("buildinfo") || reason.contains("flags"), "{reason}");
    assert!(sidecar.get("/").unwrap().1.contains("Not ready: "), "the page says so");
    let (code, out, err) = texts(&pillion(&[&format!("--http=http://{}/", sidecar.http)]));
    assert!(code == Some(1) && out.starts_with("Not ready: ") && err.is_empty(), "{code:?} {out} {err}");
    let (code, out, _) = texts(&pillion(&[&format!("--http={}", sidecar.http), "--json"]));
    let printed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &printed["schema"], &printed["ready"]), (Some(1), &json!(1), &json!(false)));

    rig.prometheus.up();
    sidecar.wait_ready(true);
    let now = wait_for(&sidecar, "up", |now| now["prometheus"]["up"] == true && now["ready"] == true);
    assert_eq!((&now["prometheus"]["version"], &now["reason"]), (&json!("2.53.0"), &Value::Null));
    assert!(now["prometheus"]["last_error"].is_string(), "the last error stays: {now:#}");
    assert_eq!((&now["time_range"]["min_ms"], &now["time_range"]["max"]), (&json!(1_000_000), &Value::Null));
}

#[test]
fn an_upload_is_seen_with_its_rate_and_what_is_left() {
    let (prometheus, tsdb, store) = (FakePrometheus::start(), Tsdb::new(), FakeS3::start());
    tsdb.add(&Block { chunk_bytes: vec![4 << 20], ..Block::new(1) });
    let config = format!(
        "--objstore.config={{type: S3, config: {{bucket: {BUCKET}, endpoint: \"127.0.0.1:{}\", region: {REGION}, insecure: true, access_key: {ACCESS_KEY}, \
         secret_key: {SECRET_KEY}}}}}",
        store.port
    );
    let args = [format!("--tsdb.path={}", tsdb.path().display()), config, "--shipper.upload-rate-limit=200KB".into()];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let sidecar = Sidecar::ready(&prometheus.url(), &args);
    let now = wait_for(&sidecar, "an upload with a rate", |now| {
        now["uploads"]["uploading"]["bytes_per_second"].as_f64().is_some_and(|rate| rate > 0.0)
    });
    let uploading = &now["uploads"]["uploading"];
    assert_eq!(uploading["ulid"], ulid(1).as_str());
    assert!(uploading["bytes"].as_u64().unwrap() > 4 << 20, "{now:#}");
    assert!(uploading["left_seconds"].as_f64().unwrap() > 0.0, "{now:#}");
    let (_, out, _) = texts(&pillion(&[&format!("--http={}", sidecar.http)]));
    assert!(out.contains(&format!("Uploading    {}: ", ulid(1))), "{out}");
}

#[test]
fn lists_are_bounded_and_say_how_many_more() {
    let rig = Rig::new();
    for n in 1..=60 {
        rig.tsdb.add(&Block::new(n));
    }
    std::fs::write(rig.bucket.path().join(ulid(1).as_str()), "in the way").unwrap();
    let sidecar = rig.start(&[]);
    let now = wait_for(&sidecar, "60 blocks", |now| now["uploads"]["pending"]["blocks"] == 60);
    let pending = &now["uploads"]["pending"];
    assert_eq!((pending["list"].as_array().unwrap().len(), &pending["more"]), (50, &json!(10)));
    let (_, page) = sidecar.get("/").unwrap();
    assert!(page.contains("and 10 more"), "{page}");
}

/// Head and body of an answer.
fn exchange(address: SocketAddr, request: &str) -> (String, String) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[test]
fn the_page_is_not_kept_and_lets_nothing_in() {
    let prometheus = FakePrometheus::start();
    prometheus.set(|state| state.external_labels = vec![("region".into(), EVIL.into())]);
    let sidecar = Sidecar::ready(&prometheus.url(), &[]);
    let (head, body) = exchange(sidecar.http, "GET / HTTP/1.0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.0 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n"), "{head}");
    assert!(head.contains("\r\nContent-Security-Policy: default-src 'none'; style-src 'sha256-"), "{head}");
    assert!(head.contains("\r\nCache-Control: no-store"), "{head}");
    assert!(!body.contains("<script"), "{body}");
    assert!(body.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{body}");
    let (head, nothing) = exchange(sidecar.http, "HEAD / HTTP/1.0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.0 200 OK\r\n") && nothing.is_empty(), "{head}");
    let (head, nothing) = exchange(sidecar.http, "HEAD /api/v1/status HTTP/1.0\r\n\r\n");
    assert!(head.contains("\r\nContent-Type: application/json") && nothing.is_empty(), "{head}");
    assert!(head.contains("\r\nCache-Control: no-store"), "{head}");
    for path in ["/index.html", "/api/v1/status/x", "/api/v1", "//", "/favicon.ico"] {
        assert_eq!(sidecar.get(path).unwrap().0, 404, "{path}");
    }
}

#[test]
fn the_command_gets_through_tls_and_a_password_and_says_what_is_missing() {
    let (prometheus, dir) = (FakePrometheus::start(), tempfile::tempdir().unwrap());
    let certificates = Certificates::new();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let config = format!(
        "tls_server_config:\n  cert_file: {}\n  key_file: {}\nbasic_auth_users:\n  op: {HASH}\n",
        certificates.path("here.pem").display(),
        certificates.path("here.key").display()
    );
    let config = format!("--http.config={}", file("web.yml", &config));
    let url = format!("--prometheus.url={}", prometheus.url());
    let sidecar = Sidecar::start(&[&url, &config]);
    sidecar.wait_line("changing probe status\" status=ready");
    let http = format!("--http=localhost:{}", sidecar.http.port());
    let ca = certificates.arg("tls-ca", "ca.pem");
    let check = |args: &[&str], expected_code: i32, expected: &str| {
        let (code, out, err) = texts(&pillion(&[&[http.as_str()], args].concat()));
        assert_eq!(code, Some(expected_code), "{args:?}: {out}{err}");
        assert!(format!("{out}{err}").contains(expected), "{args:?}: {out}{err}");
    };
    check(&[], 1, "--tls");
    check(&["--tls"], 1, "authority that is trusted here");
    check(&[&ca], 1, "it wants user and password; give --basic-auth-file");
    let wrong = format!("--basic-auth-file={}", file("wrong", "op:hunter2\n"));
    check(&[&ca, &wrong], 1, "it does not take this user and password");
    let right = format!("--basic-auth-file={}", file("right", "op:secret\n"));
    check(&[&ca, &right], 0, "Ready.");
    let (code, out, err) =
        texts(&pillion(&[&format!("--http=https://op:s%65cret@localhost:{}", sidecar.http.port()), &ca]));
    assert_eq!(code, Some(0), "{out}{err}");
}

#[test]
fn without_the_password_nothing_is_said() {
    let (prometheus, dir) = (FakePrometheus::start(), tempfile::tempdir().unwrap());
    let file = dir.path().join("web.yml");
    std::fs::write(&file, format!("basic_auth_users:\n  op: {HASH}\n")).unwrap();
    let args = [format!("--prometheus.url={}", prometheus.url()), format!("--http.config={}", file.display())];
    let sidecar = Sidecar::start(&args.each_ref().map(String::as_str));
    sidecar.wait_line("changing probe status\" status=ready");
    for path in ["/", "/api/v1/status"] {
        assert_eq!(sidecar.get(path), Some((401, "Unauthorized\n".to_owned())), "{path}");
    }
}

#[test]
fn the_command_says_why_there_is_no_status() {
    let nobody = free_address();
    let check = |args: &[&str], expected_code: i32, expected: &str| {
        let (code, out, err) = texts(&pillion(args));
        assert_eq!((code, out.as_str()), (Some(expected_code), ""), "{err}");
        assert!(err.contains(expected), "{args:?}: {err}");
    };
    let refused = format!("pillion: error: status from http://{nobody}: Connection refused");
    check(&[&format!("--http={nobody}")], 1, &refused);
    check(&["--http=localhost"], 2, "--http: the port is missing; give host:port or a URL");
    let other = Pages::serve(|_| Response::error(404, "no"));
    check(
        &[&format!("--http={}", other.address)],
        1,
        "it has no /api/v1/status; is it the --http-address of a Pillion",
    );
    let other = Pages::serve(|_| Response::text("hello"));
    check(&[&format!("--http={}", other.address)], 1, "the answer is not the status of a Pillion");
    let other = Pages::serve(|_| Response::text(&"x".repeat(5 << 20)));
    check(&[&format!("--http={}", other.address)], 1, "the answer is larger than");
    // Members of a later build are left alone.
    let later = EXAMPLE.replacen("\"ready\": true", "\"ready\": true, \"later\": {\"x\": [1]}", 1);
    let other = Pages::serve(move |_| Response::text(&later));
    let (code, out, err) = texts(&pillion(&[&format!("--http={}", other.address)]));
    assert_eq!(code, Some(0), "{err}");
    let first = "Ready. 3 blocks wait, the oldest for 3 h 12 min; retention takes it in 14 days.\n! The file of the upload limits cannot be used";
    assert!(out.starts_with(first), "{out}");
    assert!(out.contains("job=\"<script>alert(2)</script>\""), "{out}");
}

/// An HTTP server of this process.
struct Pages {
    address: SocketAddr,
    stopper: Stopper,
}

impl Pages {
    fn serve(page: impl Fn(&str) -> Response + Send + 'static) -> Pages {
        let server = Server::bind(&"127.0.0.1:0".parse().unwrap(), "--http-address").unwrap();
        let address = server.local_addr().unwrap();
        let (stopper, stop) = stop_pair().unwrap();
        spawn_thread("pages", None, move || server.run(&stop, &|head| page(&head.path))).unwrap();
        Pages { address, stopper }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.stopper.stop();
    }
}

/// Where the pictures go, for people.
fn picture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("status-{name}.png"))
}

/// What a browser must say of the page, whatever it shows.
fn check_look(looked: &Looked, url: &str, width: u32, dark: bool) {
    assert_eq!(looked.complaints, [] as [String; 0]);
    let foreign: Vec<_> = looked.requests.iter().filter(|asked| *asked != url && !asked.starts_with("data:")).collect();
    assert!(foreign.is_empty(), "the page asks for {foreign:?}");
    let [n_active, page_width, background, ..] = looked.values.as_slice() else { panic!("{:?}", looked.values) };
    assert_eq!(n_active, 0, "scripts, images and frames");
    assert!(page_width.as_f64().unwrap() <= f64::from(width), "{page_width} is wider than {width}");
    // rgb(r, g, b): the stylesheet is in force, light or dark.
    let shades = background.as_str().unwrap().trim_start_matches("rgb(").trim_end_matches(')').split(", ");
    let shades: Vec<u32> = shades.map(|shade| shade.parse().unwrap()).collect();
    assert!(shades.iter().all(|shade| if dark { *shade < 64 } else { *shade > 200 }), "{background} ({dark})");
}

const LOOKS: [&str; 4] = [
    "document.querySelectorAll('script, img, iframe, object, embed').length",
    "document.documentElement.scrollWidth",
    "getComputedStyle(document.body).backgroundColor",
    "document.body.innerText",
];

#[test]
fn a_browser_shows_the_page_narrow_and_wide_dark_and_light() {
    let Some(mut browser) = Browser::start() else { return };
    // All that a page can have, on a server that sends it as the daemon does.
    let example = Pages::serve(|path| match path {
        "/" => page_of(EXAMPLE).unwrap(),
        _ => Response::error(404, "404 page not found"),
    });
    let url = format!("http://{}/", example.address);
    for (width, name) in [(400, "400"), (1200, "1200")] {
        for dark in [false, true] {
            let looked = browser.look(&url, width, dark, &LOOKS);
            let shade = if dark { "dark" } else { "light" };
            std::fs::write(picture(&format!("{name}-{shade}")), &looked.picture).unwrap();
            check_look(&looked, &url, width, dark);
            let text = looked.values[3].as_str().unwrap();
            assert!(text.contains("3 blocks wait, the oldest for 3 h 12 min"), "{text}");
            assert!(text.contains("cluster=<script>alert(1)</script>"), "{text}");
            assert!(text.contains("job=\"<script>alert(2)</script>\""), "{text}");
            assert!(text.contains("<img src=x onerror=alert(3)>"), "{text}");
        }
    }
    // And the daemon's own.
    let prometheus = FakePrometheus::start();
    prometheus.set(|state| state.external_labels = vec![("region".into(), EVIL.into())]);
    let sidecar = Sidecar::ready(&prometheus.url(), &[]);
    let url = format!("http://{}/", sidecar.http);
    let looked = browser.look(&url, 400, true, &LOOKS);
    std::fs::write(picture("daemon"), &looked.picture).unwrap();
    check_look(&looked, &url, 400, true);
    assert!(looked.values[3].as_str().unwrap().contains(EVIL), "{:?}", looked.values);
}

#[test]
fn a_browser_finds_what_is_wrong_with_a_page() {
    let Some(mut browser) = Browser::start() else { return };
    let page = |body: &'static str, headers: Vec<(&'static str, &'static str)>| {
        let page = Pages::serve(move |_| Response { headers: headers.clone(), ..Response::ok("text/html", body) });
        let url = format!("http://{}/", page.address);
        (page, url)
    };
    let (_page, url) = page("<p>x<script>console.error('oh')</script>", Vec::new());
    let looked = browser.look(&url, 400, false, &LOOKS);
    assert!(looked.complaints.iter().any(|text| text.contains("\"oh\"")), "{:?}", looked.complaints);
    assert_eq!(looked.values[0], 1);
    let policy = vec![("Content-Security-Policy", "default-src 'none'")];
    let (_page, url) = page("<p>x<script>console.error('oh')</script>", policy);
    let looked = browser.look(&url, 400, false, &LOOKS);
    let text = looked.complaints.join("\n");
    assert!(text.contains("Content Security Policy") && !text.contains("\"oh\""), "{text}");
}

/// Nobody who asks keeps the daemon from its work, or from answering others.
#[test]
fn asking_all_the_time_disturbs_nobody() {
    let rig = Rig::new();
    for n in 1..=20 {
        rig.tsdb.add(&Block::new(n));
    }
    let sidecar = rig.start(&[]);
    let http = sidecar.http;
    let (stopper, stop) = stop_pair().unwrap();
    let askers: Vec<_> = (0..4)
        .map(|_| {
            let stop = stop.clone();
            spawn_thread("asker", None, move || {
                let (mut longest, mut n_failed) = (Duration::ZERO, 0);
                while !stop.is_stopped() && n_failed == 0 {
                    let begun = Instant::now();
                    n_failed += u32::from(get(http, "/api/v1/status").map(|(code, _)| code) != Some(200));
                    longest = longest.max(begun.elapsed());
                }
                (longest, n_failed)
            })
            .unwrap()
        })
        .collect();
    let deadline = Instant::now() + PATIENCE;
    let is_done = |n: u32| rig.bucket.path().join(ulid(n).as_str()).join("meta.json").exists();
    while !(1..=20).all(is_done) {
        assert!(Instant::now() < deadline, "blocks are missing:\n{}", sidecar.log());
        pause();
    }
    stopper.stop();
    for asker in askers {
        let (longest, n_failed) = asker.join().unwrap();
        assert!(longest < Duration::from_secs(10) && n_failed == 0, "{longest:?} {n_failed}:\n{}", sidecar.log());
    }
}
