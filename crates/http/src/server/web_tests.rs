//! The web configuration as clients see it, over real sockets: passwords, limits, headers, TLS, and a file that changes.
//! Certificates are made by openssl(1), which is the TLS client too.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine};
use crossbeam_channel::{Receiver, Sender, unbounded};
use pillion_base::error::Result;
use pillion_base::stop::{Stopper, stop_pair};
use pillion_base::threads::spawn_thread;

use super::{Response, Server};
use crate::limits;
use crate::web::{Check, Reload, Web, WebMetrics};

const PATIENCE: Duration = Duration::from_secs(30);

struct Rig {
    dir: tempfile::TempDir,
    address: SocketAddr,
    reload: Reload,
    metrics: WebMetrics,
    stopper: Stopper,
    thread: JoinHandle<Result<()>>,
}

/// A hash of the least cost.
fn hash(password: &str) -> String {
    bcrypt::hash(password, 4).unwrap()
}

fn users(pairs: &[(&str, &str)]) -> String {
    let lines: Vec<String> = pairs.iter().map(|(user, hash)| format!("  {user}: {hash}\n")).collect();
    format!("basic_auth_users:\n{}", lines.concat())
}

/// Takes `secret` for right.
fn plain_check() -> Check {
    Arc::new(|_, password| password == b"secret")
}

/// Takes `secret` for right, tells which password it has, and waits for leave until the other end is dropped.
fn gated_check() -> (Check, Receiver<Vec<u8>>, Sender<()>) {
    let (asked, passwords) = unbounded();
    let (gate, leave) = unbounded::<()>();
    let check: Check = Arc::new(move |_, password| {
        assert_eq!(std::thread::current().name(), Some("http-auth"));
        let _ = asked.send(password.to_vec());
        let _ = leave.recv();
        password == b"secret"
    });
    (check, passwords, gate)
}

fn bcrypt_check() -> Check {
    Arc::new(|hash, password| bcrypt::verify(password, hash).unwrap())
}

impl Rig {
    fn start(config: &str, check: Check) -> Rig {
        Rig::start_in(tempfile::tempdir().unwrap(), config, check, |server| server)
    }

    fn start_in(dir: tempfile::TempDir, config: &str, check: Check, configure: impl FnOnce(Server) -> Server) -> Rig {
        let path = dir.path().join("web.yml");
        std::fs::write(&path, config).unwrap();
        let metrics = WebMetrics::default();
        let web = Web::load_with(&path, metrics.clone(), check).unwrap();
        let reload = web.reloader();
        let server = Server::bind(&"127.0.0.1:0".parse().unwrap(), "--x").unwrap().with_web(Some(web));
        let server = configure(server);
        let address = server.local_addr().unwrap();
        let (stopper, stop) = stop_pair().unwrap();
        let routes = |head: &super::request::Head| match head.path.as_str() {
            "/ok" => Response::text("OK"),
            "/large" => Response::ok("text/plain", vec![b'x'; 32 << 20]),
            _ => Response::error(404, "404 page not found"),
        };
        let thread = spawn_thread("admin", None, move || server.run(&stop, &routes)).unwrap();
        Rig { dir, address, reload, metrics, stopper, thread }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("web.yml")
    }

    /// Replaces the file whole, as a careful editor does.
    fn replace(&self, config: &str) {
        let beside = self.dir.path().join("beside");
        std::fs::write(&beside, config).unwrap();
        std::fs::rename(beside, self.path()).unwrap();
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A client that has asked and has not read the answer.
    fn asked(&self, login: Option<&str>) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(request("GET", "/ok", login).as_bytes()).unwrap();
        stream
    }

    fn get(&self, path: &str, login: Option<&str>) -> String {
        let mut stream = self.connect();
        stream.write_all(request("GET", path, login).as_bytes()).unwrap();
        read_to_end(&mut stream)
    }

    fn status(&self, login: Option<&str>) -> u16 {
        status(&self.get("/ok", login))
    }

    fn refused(&self, reason: &str) -> u64 {
        self.metrics.refused.with_label_values(&[reason]).get()
    }

    fn stop(self) {
        self.stopper.stop();
        self.thread.join().unwrap().unwrap();
    }
}

fn request(method: &str, path: &str, login: Option<&str>) -> String {
    let login =
        login.map_or_else(String::new, |login| format!("Authorization: Basic {}\r\n", BASE64_STANDARD.encode(login)));
    format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{login}Connection: close\r\n\r\n")
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no status: {answer}"))
}

fn read_to_end(stream: &mut TcpStream) -> String {
    let mut out = Vec::new();
    stream.read_to_end(&mut out).expect("the server must end the connection");
    String::from_utf8(out).unwrap()
}

/// Asks until `is_so`, for what takes effect a moment later.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn every_page_asks_for_a_password() {
    let rig = Rig::start(&users(&[("alice", &hash("secret")), ("bob", &hash("other"))]), bcrypt_check());
    for path in ["/ok", "/nothing"] {
        let answer = rig.get(path, None);
        assert!(answer.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{answer}");
        assert!(answer.contains("\r\nWWW-Authenticate: Basic\r\n"), "{answer}");
        assert!(answer.contains("\r\nX-Content-Type-Options: nosniff\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nUnauthorized\n"), "{answer}");
    }
    for (login, expected) in [
        ("alice:secret", 200),
        ("bob:other", 200),
        ("alice:other", 401),
        ("bob:secret", 401),
        ("carol:secret", 401),
        ("alice:", 401),
        (":", 401),
        ("alice", 401),
        ("alice:secret", 200),
    ] {
        assert_eq!(rig.status(Some(login)), expected, "{login}");
    }
    assert_eq!(rig.metrics.password_checks.get(), 7);
    assert!(rig.get("/nothing", Some("alice:secret")).ends_with("\r\n\r\n404 page not found\n"));
    let mut stream = rig.connect();
    stream.write_all(request("HEAD", "/ok", None).as_bytes()).unwrap();
    assert!(read_to_end(&mut stream).ends_with("\r\nConnection: close\r\n\r\n"));
    // Requests in a row on one connection are judged one by one.
    let mut stream = rig.connect();
    let kept = |login| request("GET", "/ok", login).replace("Connection: close\r\n", "");
    let ahead = [kept(Some("alice:secret")), kept(None), kept(Some("bob:other")), request("GET", "/ok", None)].concat();
    stream.write_all(ahead.as_bytes()).unwrap();
    let answers = read_to_end(&mut stream);
    let statuses: Vec<u16> = answers.split("HTTP/1.1").skip(1).map(status).collect();
    assert_eq!(statuses, [200, 401, 200, 401]);
    rig.stop();
}

#[test]
fn a_flood_of_wrong_passwords_holds_up_nobody_whose_password_is_known() {
    let (check, passwords, gate) = gated_check();
    let rig = Rig::start(&users(&[("alice", &hash("secret"))]), check);
    let mut alice = rig.asked(Some("alice:secret"));
    assert_eq!(passwords.recv_timeout(PATIENCE).unwrap(), b"secret");
    gate.send(()).unwrap();
    assert_eq!(status(&read_to_end(&mut alice)), 200);
    // The worker holds the first wrong one until the end of this test, so whatever is answered now is answered without it.
    let mut first = rig.asked(Some("alice:wrong"));
    assert_eq!(passwords.recv_timeout(PATIENCE).unwrap(), b"wrong");
    let waiting: Vec<TcpStream> =
        (0..limits::PASSWORDS_WAITING_SAME_MAX).map(|n| rig.asked(Some(&format!("alice:{n}")))).collect();
    until("the queue is full", || rig.status(Some("alice:one more")) == 503);
    for n in 0..200 {
        assert_eq!(rig.status(Some(&format!("alice:guess {n}"))), 503);
        assert_eq!(rig.status(Some("alice:secret")), 200);
        assert_eq!(rig.status(None), 401);
    }
    assert!(passwords.is_empty(), "one password is checked at a time");
    drop(gate);
    assert_eq!(status(&read_to_end(&mut first)), 401);
    for mut stream in waiting {
        assert_eq!(status(&read_to_end(&mut stream)), 401);
    }
    rig.stop();
}

#[test]
fn wrong_passwords_are_limited_and_right_ones_known_are_not() {
    let rig = Rig::start(&users(&[("alice", &hash("secret"))]), plain_check());
    assert_eq!(rig.status(Some("alice:secret")), 200);
    let statuses: Vec<u16> = (0..200).map(|n| rig.status(Some(&format!("alice:{n}")))).collect();
    let n_refused = statuses.iter().filter(|status| **status == 401).count();
    // A slow machine gets one more for each interval.
    assert!((10..40).contains(&n_refused) && statuses.iter().all(|status| [401, 429].contains(status)), "{statuses:?}");
    let answer = rig.get("/ok", Some("alice:again"));
    if status(&answer) == 429 {
        assert!(
            answer.contains("\r\nRetry-After: 6\r\n") && answer.ends_with("\r\n\r\nToo Many Requests\n"),
            "{answer}"
        );
    }
    assert_eq!(rig.status(Some("alice:secret")), 200);
    assert!(rig.refused("wrong_passwords") >= 160);
    rig.stop();
}

#[test]
fn a_password_that_waits_too_long_and_a_client_that_goes_away() {
    let (check, passwords, gate) = gated_check();
    let dir = tempfile::tempdir().unwrap();
    let config = users(&[("alice", &hash("secret"))]);
    let rig = Rig::start_in(dir, &config, check, |server| server.with_verdict_time(Duration::from_millis(50)));
    let answer = rig.get("/ok", Some("alice:secret"));
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    assert_eq!(passwords.recv_timeout(PATIENCE).unwrap(), b"secret");
    // It goes on waiting behind the one that is still being checked, and then nobody waits for it.
    assert_eq!(rig.status(Some("alice:wrong")), 503);
    drop(gate);
    until("the verdict is known", || rig.status(Some("alice:secret")) == 200);
    assert!(!passwords.try_iter().any(|password| password == b"wrong"), "nobody waited for it");
    rig.stop();
}

#[test]
fn the_stop_does_not_wait_for_passwords() {
    let (check, passwords, _gate) = gated_check();
    let rig = Rig::start(&users(&[("alice", &hash("secret"))]), check);
    let _waiting = rig.asked(Some("alice:secret"));
    passwords.recv_timeout(PATIENCE).unwrap();
    let begun = Instant::now();
    rig.stop();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn a_changed_file_counts_from_the_next_request_on() {
    let rig = Rig::start(&users(&[("alice", &hash("one"))]), bcrypt_check());
    assert_eq!(rig.status(Some("alice:one")), 200);
    let two = hash("two");
    rig.replace(&users(&[("alice", &two)]));
    assert_eq!((rig.status(Some("alice:one")), rig.status(Some("alice:two"))), (401, 200));
    rig.replace(&users(&[("bob", &two)]));
    assert_eq!((rig.status(Some("alice:two")), rig.status(Some("bob:two"))), (401, 200));
    // In place, and of the same size, so that only the times may tell, or not even they.
    for n in 0..20 {
        let name = ["eve", "bob"][n % 2];
        std::fs::write(rig.path(), users(&[(name, &two)])).unwrap();
        assert_eq!(rig.status(Some(&format!("{name}:two"))), 200, "{n}");
    }
    std::fs::write(rig.path(), "basic_auth_users: {}\n").unwrap();
    assert_eq!(rig.status(None), 200, "the file says that no passwords are wanted");
    rig.stop();
}

#[test]
fn a_broken_file_changes_nothing() {
    let good = users(&[("alice", &hash("secret"))]);
    let rig = Rig::start(&good, bcrypt_check());
    let state = || rig.metrics.config_reload_successful.get();
    assert_eq!((rig.status(Some("alice:secret")), state()), (200, 1));
    for broken in
        ["", "basic_auth_users:", "basic_auth_users: {alice: x}", "x", &good[..good.len() - 2], "a: [", "\u{0}"]
    {
        std::fs::write(rig.path(), broken).unwrap();
        assert_eq!((rig.status(None), rig.status(Some("alice:secret")), state()), (401, 200, 0), "{broken}");
        rig.replace(&good);
        assert_eq!((rig.status(None), rig.status(Some("alice:secret")), state()), (401, 200, 1), "{broken}");
    }
    std::fs::write(rig.path(), b"basic_auth_users: {a: \xff}").unwrap();
    assert_eq!((rig.status(None), rig.status(Some("alice:secret")), state()), (401, 200, 0));
    std::fs::remove_file(rig.path()).unwrap();
    assert_eq!((rig.status(None), rig.status(Some("alice:secret")), state()), (401, 200, 0));
    std::fs::create_dir(rig.path()).unwrap();
    assert_eq!((rig.status(None), rig.status(Some("alice:secret")), state()), (401, 200, 0));
    std::fs::remove_dir(rig.path()).unwrap();
    rig.replace(&good);
    rig.reload.reload();
    until("the file is good again", || state() == 1);
    rig.stop();
}

#[test]
fn headers_stand_on_every_answer() {
    let config = "http_server_config:\n  headers:\n    X-Frame-Options: sameorigin\n    X-Content-Type-Options: nosniff\n    \
                  Content-Security-Policy: default-src 'self'\n";
    let rig = Rig::start(&format!("{config}{}", users(&[("alice", &hash("secret"))])), plain_check());
    let check = |answer: &str| {
        for header in ["X-Frame-Options: sameorigin", "Content-Security-Policy: default-src 'self'"] {
            assert!(answer.contains(&format!("\r\n{header}\r\n")), "{answer}");
        }
        assert_eq!(answer.matches("X-Content-Type-Options").count(), 1, "{answer}");
    };
    check(&rig.get("/ok", Some("alice:secret")));
    check(&rig.get("/nothing", Some("alice:secret")));
    check(&rig.get("/ok", None));
    check(&rig.get("/ok", Some("alice:wrong")));
    let mut stream = rig.connect();
    stream.write_all(b"nonsense\r\n\r\n").unwrap();
    check(&read_to_end(&mut stream));
    rig.stop();
}

#[test]
fn requests_are_limited() {
    let limited = "rate_limit: {interval: 1h, burst: 3}";
    let rig = Rig::start(limited, plain_check());
    assert_eq!([(); 5].map(|()| rig.status(None)), [200, 200, 200, 429, 429]);
    let answer = rig.get("/ok", None);
    assert!(answer.ends_with("\r\n\r\nToo Many Requests\n"), "{answer}");
    assert_eq!(rig.refused("rate_limit"), 3);
    // Another limit begins full; the same one does not.
    rig.replace(&format!("# the same\n{limited}"));
    assert_eq!(rig.status(None), 429);
    rig.replace("rate_limit: {interval: 2h, burst: 1}");
    assert_eq!([(); 2].map(|()| rig.status(None)), [200, 429]);
    rig.replace("rate_limit: {interval: 0}");
    assert_eq!([(); 5].map(|()| rig.status(None)), [200; 5]);
    rig.stop();
}

#[test]
fn the_first_file_must_be_good() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web.yml");
    let shown = path.display();
    let load = || Web::load(&path, WebMetrics::default()).unwrap_err().to_string();
    let missing = load();
    assert!(missing.starts_with(&format!("web configuration {shown} (--http.config): No such file")), "{missing}");
    for (text, expected) in [
        ("\nbasic_auth_users: {a: b}", "line 2: basic_auth_users: not a bcrypt hash"),
        ("tls_server_config: {cert_file: no.pem, key_file: no.key}", "tls_server_config.cert_file: read "),
        ("other: 1", "line 1: field other not found in the web configuration"),
    ] {
        std::fs::write(&path, text).unwrap();
        let err = load();
        assert!(err.starts_with(&format!("web configuration {shown} (--http.config): {expected}")), "{err}");
    }
}

fn openssl(dir: &Path, args: &str) {
    let out = Command::new("openssl")
        .args(args.split(' '))
        .current_dir(dir)
        .output()
        .expect("this test needs the program openssl (package openssl)");
    assert!(out.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&out.stderr));
}

/// `ca.pem`, and certificates of it: `here` and `new` for this host, `client` and `stranger` for clients; `self` is signed
/// by nobody else.
fn certificates() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for ca in ["ca", "self"] {
        openssl(dir.path(), &format!("req -x509 {key} -keyout {ca}.key -out {ca}.pem -subj /CN={ca} -days 2"));
    }
    for (name, alt) in
        [("here", "IP:127.0.0.1"), ("new", "IP:127.0.0.1"), ("client", "DNS:client.test"), ("stranger", "DNS:x.test")]
    {
        std::fs::write(dir.path().join("ext"), format!("subjectAltName={alt}\n")).unwrap();
        openssl(dir.path(), &format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        let sign = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext";
        openssl(dir.path(), &format!("x509 -req -in {name}.csr {sign} -out {name}.pem"));
    }
    dir
}

const TLS: &str = "tls_server_config:\n  cert_file: here.pem\n  key_file: here.key\n";

impl Rig {
    fn start_tls(more: &str) -> Rig {
        Rig::start_in(certificates(), &format!("{TLS}{more}"), plain_check(), |server| server)
    }

    /// Asks over TLS; what came, and what openssl said.
    fn tls(&self, request: &str, args: &str) -> (String, String) {
        let mut child = Command::new("openssl")
            .args(["s_client", "-connect", &self.address.to_string()])
            .args("-CAfile ca.pem -verify_return_error -verify_ip 127.0.0.1 -ign_eof -quiet".split(' '))
            .args(args.split_whitespace())
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("this test needs the program openssl (package openssl)");
        // It may have ended already.
        let _ = child.stdin.take().unwrap().write_all(request.as_bytes());
        let out = child.wait_with_output().unwrap();
        (String::from_utf8_lossy(&out.stdout).into_owned(), String::from_utf8_lossy(&out.stderr).into_owned())
    }

    /// Whether a client with these arguments gets the page.
    fn is_served(&self, args: &str) -> bool {
        self.tls(&request("GET", "/ok", None), args).0.ends_with("\r\n\r\nOK")
    }
}

#[test]
fn tls_with_passwords_and_headers() {
    let more = format!(
        "http_server_config:\n  headers:\n    Strict-Transport-Security: max-age=1\n{}",
        users(&[("alice", &hash("secret"))])
    );
    let rig = Rig::start_tls(&more);
    let (answer, said) = rig.tls(&request("GET", "/ok", Some("alice:secret")), "");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nOK"), "{answer}{said}");
    assert!(answer.contains("\r\nStrict-Transport-Security: max-age=1\r\n"), "{answer}");
    assert_eq!(status(&rig.tls(&request("GET", "/ok", None), "").0), 401);
    assert_eq!(status(&rig.tls(&request("GET", "/ok", Some("alice:wrong")), "-tls1_2").0), 401);
    let (page, _) = rig.tls(&request("GET", "/large", Some("alice:secret")), "");
    assert_eq!(page.len() - page.find("\r\n\r\n").unwrap() - 4, 32 << 20);
    // Whoever forgets the s of https is told so.
    let plain = rig.get("/ok", Some("alice:secret"));
    assert_eq!(plain, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n");
    let (_, said) = rig.tls("", "-alpn h2,http/1.1 -no_ign_eof");
    assert!(!said.contains("alert"), "{said}");
    assert!(rig.metrics.tls.handshakes.get() >= 5);
    rig.stop();
}

#[test]
fn versions_of_tls() {
    let rig = Rig::start_tls("  min_version: TLS13\n");
    assert!(rig.is_served("-tls1_3") && !rig.is_served("-tls1_2"));
    rig.replace(&format!("{TLS}  max_version: TLS12\n  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]\n"));
    assert!(rig.is_served("-tls1_2") && !rig.is_served("-tls1_3"));
    assert!(rig.is_served("-cipher ECDHE-ECDSA-AES256-GCM-SHA384"));
    assert!(!rig.is_served("-cipher ECDHE-ECDSA-AES128-GCM-SHA256"));
    rig.replace(&format!("{TLS}  curve_preferences: [CurveP384]\n"));
    assert!(rig.is_served("-curves P-384") && !rig.is_served("-curves X25519"));
    rig.stop();
}

#[test]
fn certificates_of_clients() {
    let ca = "  client_ca_file: ca.pem\n";
    let (client, stranger, own) =
        ("-cert client.pem -key client.key", "-cert stranger.pem -key stranger.key", "-cert self.pem -key self.key");
    let rig = Rig::start_tls(&format!("{ca}  client_auth_type: RequireAndVerifyClientCert\n"));
    let served = || ["", client, stranger, own].map(|args| rig.is_served(args));
    assert_eq!(served(), [false, true, true, false]);
    // Each takes effect with the next connection.
    for (more, expected) in [
        ("  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.pem\n", [true, true, true, false]),
        ("  client_auth_type: RequireAnyClientCert\n", [false, true, true, true]),
        ("  client_auth_type: RequestClientCert\n", [true; 4]),
        (
            "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n  client_allowed_sans: [client.test]\n",
            [false, true, false, false],
        ),
        // The rest of the file may be missing: nothing changes.
        ("", [false, true, false, false]),
        ("  client_auth_type: NoClientCert\n", [true; 4]),
    ] {
        rig.replace(&format!("{TLS}{more}"));
        assert_eq!(served(), expected, "{more}");
    }
    rig.stop();
}

#[test]
fn a_new_certificate_needs_no_restart() {
    let rig = Rig::start_tls("");
    let serial = |name: &str| {
        let mut args = vec!["x509", "-noout", "-serial", "-in"];
        args.push(name);
        let out = Command::new("openssl").args(args).current_dir(rig.dir.path()).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let shown = || {
        let out = Command::new("openssl")
            .args(["s_client", "-connect", &rig.address.to_string(), "-CAfile", "ca.pem"])
            .current_dir(rig.dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let beside = rig.dir.path().join("shown.pem");
        std::fs::write(beside, out.stdout).unwrap();
        serial("shown.pem")
    };
    assert_eq!(shown(), serial("here.pem"));
    let new = serial("new.pem");
    for kind in ["pem", "key"] {
        std::fs::rename(rig.dir.path().join(format!("new.{kind}")), rig.dir.path().join(format!("here.{kind}")))
            .unwrap();
    }
    until("the new certificate is shown", || shown() == new);
    // TLS can be neither turned off nor lost.
    rig.replace("basic_auth_users: {}");
    assert!(rig.is_served(""));
    assert_eq!(rig.metrics.config_reload_successful.get(), 0);
    rig.stop();
}

#[test]
fn a_client_that_does_not_read_is_cut_off_over_tls_too() {
    let write = Duration::from_millis(300);
    let rig = Rig::start_in(certificates(), TLS, plain_check(), |server| server.with_times(PATIENCE, write));
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &rig.address.to_string(), "-CAfile", "ca.pem", "-ign_eof", "-quiet"])
        .current_dir(rig.dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(request("GET", "/large", None).as_bytes()).unwrap();
    let mut page = child.stdout.take().unwrap();
    page.read_exact(&mut [0; 1]).unwrap();
    // Others are served while the first one's pipe and socket are full.
    let begun = Instant::now();
    while begun.elapsed() < write * 2 {
        assert!(rig.is_served(""));
    }
    let mut rest = Vec::new();
    let _ = page.read_to_end(&mut rest);
    assert!(rest.len() < 32 << 20, "a client that did not read got the whole page");
    child.wait().unwrap();
    rig.stop();
}

#[test]
fn clients_that_do_not_shake_hands_keep_nobody_out_and_are_closed() {
    let head = Duration::from_millis(300);
    let rig = Rig::start_in(certificates(), TLS, plain_check(), |server| server.with_times(head, PATIENCE));
    let mut half_open: Vec<TcpStream> = (0..limits::TLS_HANDSHAKES_MAX * 3)
        .map(|n| {
            let mut stream = rig.connect();
            if n % 2 == 0 {
                stream.write_all(b"\x16\x03\x01\x02\x00\x01").unwrap();
            }
            stream
        })
        .collect();
    assert!(rig.is_served(""));
    for stream in &mut half_open {
        // By FIN or by reset.
        assert!(!matches!(stream.read(&mut [0; 64]), Ok(n) if n > 0));
    }
    rig.stop();
}
