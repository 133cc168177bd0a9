//! The HTTP server as clients see it, polite ones and others, over real sockets.

// A failed step of a helper fails the test that called it.
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine};

use crate::support::fake_prometheus::FakePrometheus;
use crate::support::sidecar::{Sidecar, pause};
use pillion::inside::Metrics;
use pillion::inside::Probes;
use pillion::inside::Status;
use pillion::inside::routes;
use pillion_base::stop::{Stopper, stop_pair};
use pillion_base::threads::spawn_thread;
use pillion_http::server::request::Head;
use pillion_http::server::{Response, Server};

const PATIENCE: Duration = Duration::from_secs(20);
const LARGE_BYTES: usize = 32 << 20;

struct Rig {
    address: SocketAddr,
    probes: Probes,
    stopper: Stopper,
    thread: std::thread::JoinHandle<pillion_base::error::Result<()>>,
}

impl Rig {
    fn start() -> Self {
        Self::configured(|admin| admin)
    }

    fn configured(configure: impl FnOnce(Server) -> Server) -> Self {
        let metrics = Metrics::new();
        let probes = Probes::new(metrics.status.clone());
        let pages = routes(metrics, probes.clone(), Status::new(probes.clone()), None);
        let pages = move |head: &Head| match head.path.as_str() {
            "/large" => Response::ok("application/octet-stream", vec![b'x'; LARGE_BYTES]),
            _ => pages(head),
        };
        let admin = configure(Server::bind(&"127.0.0.1:0".parse().unwrap(), "--http-address").unwrap());
        let address = admin.local_addr().unwrap();
        let (stopper, stop) = stop_pair().unwrap();
        let thread = spawn_thread("admin", None, move || admin.run(&stop, &pages)).unwrap();
        Rig { address, probes, stopper, thread }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends `input` and returns everything up to the end of the connection.
    fn exchange(&self, input: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(input.as_bytes()).unwrap();
        read_to_end(&mut stream)
    }

    fn get(&self, path: &str) -> String {
        self.exchange(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    }

    fn stop(self) -> Duration {
        let begun = Instant::now();
        self.stopper.stop();
        self.thread.join().unwrap().unwrap();
        begun.elapsed()
    }
}

fn read_to_end(stream: &mut TcpStream) -> String {
    let mut out = Vec::new();
    stream.read_to_end(&mut out).expect("the server must end the connection");
    String::from_utf8(out).unwrap()
}

/// Reads exactly one response.
fn read_response(stream: &mut TcpStream) -> String {
    let mut out = String::new();
    let mut byte = [0];
    while !out.ends_with("\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        out.push(byte[0].into());
    }
    let length = out.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    out + &String::from_utf8(body).unwrap()
}

/// Whether the server has ended the connection, by FIN or by reset, as far as a read within its time-out shows.
fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(n) => n == 0,
        Err(err) => !matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

#[test]
fn pages_and_probes() {
    let server = Rig::start();
    let healthy = server.get("/-/healthy");
    assert!(healthy.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{healthy}");
    assert!(healthy.contains("\r\nX-Content-Type-Options: nosniff\r\n"), "{healthy}");
    assert!(healthy.ends_with("\r\n\r\nNOT OK\n"), "{healthy}");
    server.probes.healthy();
    server.probes.serving();
    for path in ["/-/healthy", "/-/ready", "/-/ready?verbose=1"] {
        let page = server.get(path);
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("\r\n\r\nOK"), "{page}");
        assert!(page.contains("\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 2\r\n"), "{page}");
        assert!(page.contains(" GMT\r\n"), "{page}");
    }
    server.probes.not_ready("gone");
    assert!(server.get("/-/ready").ends_with("\r\n\r\nNOT OK\n"));
    let metrics = server.get("/metrics");
    assert!(metrics.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{metrics}");
    assert!(metrics.contains("\nthanos_status{check=\"healthy\",component=\"sidecar\"} 1\n"), "{metrics}");
    for path in ["//", "/index.html", "/api/v1/status/", "/metrics/", "/-/", "*"] {
        let page = server.get(path);
        assert!(page.starts_with("HTTP/1.1 404 Not Found\r\n"), "{page}");
        assert!(page.ends_with("\r\n\r\n404 page not found\n"), "{page}");
    }
}

#[test]
fn head_has_no_body_and_any_method_is_served() {
    let server = Rig::start();
    server.probes.healthy();
    let head = server.exchange("HEAD /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(head.contains("\r\nContent-Length: 2\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    let post = "POST /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 7\r\n\r\nignored";
    assert!(server.exchange(post).ends_with("\r\n\r\nOK"));
}

#[test]
fn connections_are_kept_and_requests_may_be_sent_ahead() {
    let server = Rig::start();
    server.probes.healthy();
    let mut stream = server.connect();
    for _ in 0..3 {
        stream.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert!(read_response(&mut stream).ends_with("\r\n\r\nOK"));
    }
    // More than fits into the server's buffer at once.
    let ahead = "GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    stream.write_all(ahead.as_bytes()).unwrap();
    for _ in 0..1000 {
        assert!(read_response(&mut stream).ends_with("\r\n\r\nOK"));
    }
    let old = server.exchange("GET /-/healthy HTTP/1.0\r\n\r\n");
    assert!(old.starts_with("HTTP/1.0 200 OK\r\n") && old.contains("\r\nConnection: close\r\n"), "{old}");
    let mut half = server.connect();
    half.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    half.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(read_to_end(&mut half).ends_with("\r\n\r\nOK"), "a client with nothing more to say is still answered");
}

#[test]
fn bad_requests_get_an_answer_and_the_end() {
    let server = Rig::start();
    let large = "a".repeat(100_000);
    let cases = [
        ("\x16\x03\x01\x02\x01\r\n\r\n".to_owned(), "400 Bad Request"),
        ("GET /-/healthy HTTP/1.1\r\n\r\n".to_owned(), "400 Bad Request"),
        (format!("GET / HTTP/1.1\r\nHost: x\r\nA: {large}\r\n\r\n"), "431 Request Header Fields Too Large"),
        ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), "411 Length Required"),
        (
            format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{large}"),
            "413 Request Entity Too Large",
        ),
    ];
    for (input, status) in cases {
        let answer = server.exchange(&input);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
    }
}

#[test]
fn a_dripping_client_and_an_idle_one_are_closed_at_the_deadline() {
    let head = Duration::from_millis(400);
    let server = Rig::configured(|admin| admin.with_times(head, PATIENCE));
    let begun = Instant::now();
    let mut idle = server.connect();
    let mut drip = server.connect();
    // Each look for the end waits up to 50 ms, so a byte is sent about that often.
    drip.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    while begun.elapsed() < PATIENCE && drip.write_all(b"G").is_ok() && !is_closed(&mut drip) {}
    let closed_after = begun.elapsed();
    assert!(closed_after >= head && closed_after < Duration::from_secs(5), "{closed_after:?}");
    assert!(is_closed(&mut idle));
}

#[test]
fn three_hundred_half_open_clients_do_not_keep_a_scrape_out() {
    let server = Rig::start();
    let half_open: Vec<TcpStream> = (0..300)
        .map(|n| {
            let mut stream = server.connect();
            if n % 2 == 0 {
                stream.write_all(b"GET /metrics HTTP/1.1\r\nHo").unwrap();
            }
            stream
        })
        .collect();
    let begun = Instant::now();
    let metrics = server.get("/metrics");
    assert!(metrics.contains("\nthanos_status{"), "{metrics}");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    drop(half_open);
}

#[test]
fn a_kept_connection_outlives_half_open_ones() {
    let server = Rig::configured(|admin| admin.with_connections_max(8));
    let mut kept = server.connect();
    kept.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    read_response(&mut kept);
    let half_open: Vec<TcpStream> = (0..50).map(|_| server.connect()).collect();
    kept.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(read_response(&mut kept).starts_with("HTTP/1.1 200 OK\r\n"));
    drop(half_open);
}

#[test]
fn slow_readers_are_cut_off_and_harm_nobody() {
    let server = Rig::configured(|admin| admin.with_times(Duration::from_secs(2), Duration::from_millis(500)));
    let mut slow: Vec<TcpStream> = (0..4).map(|_| server.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
    }
    let begun = Instant::now();
    assert!(server.get("/metrics").starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    // An idle client is given more time than a slow reader: when it is closed, they are.
    assert!(is_closed(&mut server.connect()));
    for stream in &mut slow {
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest);
        assert!(end.is_err() || rest.len() < LARGE_BYTES, "a slow reader got the whole page");
    }
}

#[test]
fn a_large_page_arrives_whole() {
    let server = Rig::start();
    let page = server.get("/large");
    assert_eq!(page.find("\r\n\r\n").map(|at| page.len() - at - 4), Some(LARGE_BYTES));
}

#[test]
fn a_port_in_use_is_said_plainly() {
    let server = Rig::start();
    let address = server.address;
    let err = Server::bind(&address.to_string().parse().unwrap(), "--http-address").unwrap_err();
    let reason = "address already in use; stop the other process or change --http-address";
    assert_eq!(err.to_string(), format!("listen on {address}: {reason}"));
}

#[test]
fn the_stop_takes_at_most_a_second_whatever_clients_do() {
    let server = Rig::start();
    let address = server.address;
    let mut idle = server.connect();
    let mut half_open = server.connect();
    half_open.write_all(b"GET /").unwrap();
    let mut slow = server.connect();
    slow.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    slow.read_exact(&mut [0; 1]).unwrap();
    let took = server.stop();
    assert!(took < Duration::from_millis(1900), "{took:?}");
    assert!(is_closed(&mut idle) && is_closed(&mut half_open));
    assert!(TcpStream::connect(address).is_err());
    let quiet = Rig::start().stop();
    assert!(quiet < Duration::from_millis(500), "{quiet:?}");
}

/// Of `secret` and of `other`, at the least cost.
const SECRET: &str = "$2b$04$5619t7kf944.Vkq5NGrQ4.bYSRJlC8qBWrnI2WDrJOzKx.HPdJw.i";
const OTHER: &str = "$2b$04$mPnLGnQwp58mgE2Vgfn.V.wx31Kx/mruTVqxK/po5ch9g5DVxE7DC";

/// Status and body of a page of the daemon, for who gives this login.
fn get_as(sidecar: &Sidecar, path: &str, login: Option<&str>) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(sidecar.http).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(page_request(path, login).as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

fn page_request(path: &str, login: Option<&str>) -> String {
    let login = login.map(|login| format!("Authorization: Basic {}\r\n", BASE64_STANDARD.encode(login)));
    let login = login.unwrap_or_default();
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n{login}Connection: close\r\n\r\n")
}

/// Looks until it is so: another process needs its time.
fn wait(sidecar: &Sidecar, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}\n{}", sidecar.log());
        pause();
    }
}

#[test]
fn the_daemon_asks_for_passwords_as_its_web_configuration_says() {
    let prometheus = FakePrometheus::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("web.yml");
    std::fs::write(&file, format!("basic_auth_users:\n  alice: {SECRET}\n")).unwrap();
    let url = format!("--prometheus.url={}", prometheus.url());
    let sidecar = Sidecar::start(&[&url, &format!("--http.config={}", file.display())]);
    let status = |login| get_as(&sidecar, "/-/healthy", login).map(|(status, _)| status);
    wait(&sidecar, "HTTP listens", || status(None).is_some());
    let line = sidecar.wait_line("TLS is disabled.");
    assert!(line.contains("http2=false") && line.contains(&format!("address={}", sidecar.http)), "{line}");
    let unauthorized = Some((401, "Unauthorized\n".to_owned()));
    for path in ["/-/healthy", "/-/ready", "/metrics", "/nothing"] {
        assert_eq!(get_as(&sidecar, path, None), unauthorized);
        assert_eq!(get_as(&sidecar, path, Some("alice:wrong")), unauthorized);
    }
    let alice = Some("alice:secret");
    assert_eq!(get_as(&sidecar, "/-/healthy", alice), Some((200, "OK".into())));
    wait(&sidecar, "ready", || get_as(&sidecar, "/-/ready", alice) == Some((200, "OK".into())));
    let (_, page) = get_as(&sidecar, "/metrics", alice).unwrap();
    for sample in [
        "pillion_http_config_last_reload_successful 1",
        "pillion_http_requests_refused_total{reason=\"wrong_passwords\"} 0",
        "pillion_http_requests_refused_total{reason=\"rate_limit\"} 0",
        "pillion_http_requests_refused_total{reason=\"busy\"} 0",
        // The wrong one and the right one, once each.
        "pillion_http_password_checks_total 2",
        "pillion_tls_handshakes_total{server=\"http\"} 0",
    ] {
        assert!(page.lines().any(|line| line == sample), "no {sample} in:\n{page}");
    }
    // A broken file changes nothing; a good one counts from the next request on.
    std::fs::write(&file, "basic_auth_users: {bob: x}\n").unwrap();
    assert_eq!((status(None), status(alice)), (Some(401), Some(200)));
    let line = sidecar.wait_line("cannot use the new web configuration");
    assert!(line.contains("web.yml (--http.config): line 1: basic_auth_users: not a bcrypt hash"), "{line}");
    std::fs::write(&file, format!("basic_auth_users: {{bob: {OTHER}}}\n")).unwrap();
    assert_eq!((status(alice), status(Some("bob:other"))), (Some(401), Some(200)));
    sidecar.signal("HUP");
    sidecar.wait_line("the web configuration is as before");
    assert!(!sidecar.log().contains(OTHER) && !sidecar.log().contains("secret"), "{}", sidecar.log());
    assert_eq!(sidecar.stop().code(), Some(0));
}

#[test]
fn wrong_passwords_do_not_hold_up_the_probes_of_the_daemon() {
    let prometheus = FakePrometheus::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("web.yml");
    // A cost at which one check takes seconds.
    let dear = SECRET.replace("$04", "$15");
    std::fs::write(&file, format!("basic_auth_users:\n  alice: {SECRET}\n  eve: {dear}\n")).unwrap();
    let url = format!("--prometheus.url={}", prometheus.url());
    let sidecar = Sidecar::start(&[&url, &format!("--http.config={}", file.display())]);
    let status = |login| get_as(&sidecar, "/-/healthy", login).map(|(status, _)| status);
    wait(&sidecar, "alice is let in", || status(Some("alice:secret")) == Some(200));
    let flood: Vec<TcpStream> = (0..100)
        .map(|n| {
            let mut stream = TcpStream::connect(sidecar.http).unwrap();
            stream.write_all(page_request("/-/healthy", Some(&format!("eve:{n}"))).as_bytes()).unwrap();
            stream
        })
        .collect();
    let begun = Instant::now();
    assert_eq!(status(Some("alice:secret")), Some(200));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let (_, page) = get_as(&sidecar, "/metrics", Some("alice:secret")).unwrap();
    let is_busy = page.lines().any(|line| {
        line.strip_prefix("pillion_http_requests_refused_total{reason=\"busy\"} ").is_some_and(|n| n != "0")
    });
    assert!(is_busy, "the worker must be at work meanwhile:\n{page}");
    drop(flood);
    assert_eq!(sidecar.stop().code(), Some(0));
}

fn openssl(dir: &Path, args: &str) {
    let out = Command::new("openssl")
        .args(args.split(' '))
        .current_dir(dir)
        .output()
        .expect("this test needs the program openssl (package openssl)");
    assert!(out.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn the_daemon_speaks_tls_and_knows_its_clients() {
    let prometheus = FakePrometheus::start();
    let dir = tempfile::tempdir().unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(dir.path(), &format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=ca -days 2"));
    std::fs::write(dir.path().join("ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    for name in ["server", "client"] {
        openssl(dir.path(), &format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        let sign = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext";
        openssl(dir.path(), &format!("x509 -req -in {name}.csr {sign} -out {name}.pem"));
    }
    // Paths are below the file's folder.
    let config = "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n  client_ca_file: ca.pem\n  \
                  client_auth_type: RequireAndVerifyClientCert\n";
    let file = dir.path().join("web.yml");
    std::fs::write(&file, config).unwrap();
    let url = format!("--prometheus.url={}", prometheus.url());
    let sidecar = Sidecar::start(&[&url, &format!("--http.config={}", file.display())]);
    let line = sidecar.wait_line("TLS is enabled.");
    assert!(line.contains("http2=false"), "{line}");
    let ask = |path: &str, args: &[&str]| {
        let mut child = Command::new("openssl")
            .args(["s_client", "-connect", &sidecar.http.to_string(), "-CAfile", "ca.pem", "-verify_return_error"])
            .args(["-ign_eof", "-quiet"])
            .args(args)
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It may have ended already.
        let _ = child.stdin.take().unwrap().write_all(page_request(path, None).as_bytes());
        String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
    };
    let known = ["-cert", "client.pem", "-key", "client.key"];
    let page = ask("/-/healthy", &known);
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("\r\n\r\nOK"), "{page}\n{}", sidecar.log());
    assert_eq!(ask("/-/healthy", &[]), "");
    let page = ask("/metrics", &known);
    for metric in
        ["pillion_tls_handshakes_total{server=\"http\"} 2", "pillion_tls_handshake_failures_total{server=\"http\"} 1"]
    {
        assert!(page.contains(&format!("\n{metric}\n")), "{page}");
    }
    let mut plain = TcpStream::connect(sidecar.http).unwrap();
    plain.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let told = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    assert_eq!(read_to_end(&mut plain), told);
    assert_eq!(sidecar.stop().code(), Some(0));
}

#[test]
fn metrics_come_in_the_format_and_as_small_as_a_scraper_takes_them() {
    let rig = Rig::start();
    let page = |headers: &str| {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{headers}Connection: close\r\n\r\n");
        let mut stream = rig.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        (String::from_utf8(bytes[..end].to_vec()).unwrap(), bytes[end + 4..].to_vec())
    };
    let (head, plain) = page("");
    assert!(head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    let (head, open) = page("Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5\r\n");
    assert!(head.contains("Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{head}");
    let text = String::from_utf8(open).unwrap();
    assert!(text.ends_with("# EOF\n") && text.contains("# TYPE grpc_server_started counter\n"), "{text}");
    let (head, small) = page("Accept-Encoding: gzip, deflate\r\n");
    assert!(head.contains("Content-Encoding: gzip") && small.len() * 4 < plain.len(), "{head} {}", small.len());
    let mut unpacked = String::new();
    flate2::read::GzDecoder::new(small.as_slice()).read_to_string(&mut unpacked).unwrap();
    assert!(unpacked.contains("# TYPE grpc_server_started_total counter\n"), "{unpacked}");
    rig.stop();
}
