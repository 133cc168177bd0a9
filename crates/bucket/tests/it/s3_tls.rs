//! What a user sees of certificates between Pillion and an S3 store: openssl(1) serves, with certificates that are made
//! here for a day.

use pillion_testing::fake_s3;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pillion_base::error::{Error, Kind, Result};
use pillion_base::stop::{Stop, stop_pair};
use pillion_base::threads::spawn_thread;
use pillion_bucket::s3::{CredentialsProvider, HttpConfig, Keys, S3Bucket, S3Config, Waits};
use pillion_bucket::{Bucket, NoJournal};

struct Nobody;

struct Somebody;

impl CredentialsProvider for Somebody {
    fn keys(&self, _: &Stop) -> Result<Option<Keys>> {
        Ok(Some(super::s3::keys("")))
    }

    fn renew(&self, _: &Keys, _: &Stop) -> Result<Option<Keys>> {
        Ok(None)
    }
}

impl CredentialsProvider for Nobody {
    fn keys(&self, _: &Stop) -> Result<Option<Keys>> {
        Ok(None)
    }

    fn renew(&self, _: &Keys, _: &Stop) -> Result<Option<Keys>> {
        Ok(None)
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

/// `ca.pem`, `other.pem`, and certificates of `ca` for this host, for another name, and for a client.
fn certificates() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for ca in ["ca", "other"] {
        openssl(dir.path(), &format!("req -x509 {key} -keyout {ca}.key -out {ca}.pem -subj /CN={ca} -days 1"));
    }
    for (name, alt) in [("here", "IP:127.0.0.1"), ("elsewhere", "DNS:store.test"), ("client", "DNS:client.test")] {
        std::fs::write(dir.path().join("ext"), format!("subjectAltName={alt}\n")).unwrap();
        openssl(dir.path(), &format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        let sign = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 1 -extfile ext";
        openssl(dir.path(), &format!("x509 -req -in {name}.csr {sign} -out {name}.pem"));
    }
    dir
}

/// `openssl s_server`, which answers every GET with a page, behind a relay that counts connections.
struct Server {
    child: Child,
    port: u16,
    n_connections: Arc<AtomicUsize>,
}

impl Server {
    fn start(dir: &Path, name: &str, more: &[&str]) -> Server {
        let inner = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("openssl")
            .args(["s_server", "-quiet", "-www", "-accept", &format!("127.0.0.1:{inner}")])
            .args(["-cert", &format!("{name}.pem"), "-key", &format!("{name}.key")])
            .args(more)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", inner)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(30), "openssl s_server does not listen");
            std::thread::yield_now();
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let n_connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&n_connections);
        spawn_thread("relay", None, move || {
            for client in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(("127.0.0.1", inner))) else { return };
                for (mut from, mut to) in [
                    (client.try_clone().unwrap(), server.try_clone().unwrap()),
                    (server.try_clone().unwrap(), client.try_clone().unwrap()),
                ] {
                    spawn_thread("relay-copy", None, move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.flush();
                        let _ = to.shutdown(std::net::Shutdown::Write);
                    })
                    .unwrap();
                }
            }
        })
        .unwrap();
        Server { child, port, n_connections }
    }

    /// Gets an object; the number of connections that took.
    fn get(&self, change: impl FnOnce(&mut HttpConfig)) -> (Result<Vec<u8>>, usize) {
        let before = self.n_connections.load(Ordering::SeqCst);
        let mut http = HttpConfig::default();
        change(&mut http);
        let got = get(self.port, false, http);
        (got, self.n_connections.load(Ordering::SeqCst) - before)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(port: u16, insecure: bool, http: HttpConfig) -> Result<Vec<u8>> {
    let config = S3Config {
        bucket: "fake-bucket".into(),
        endpoint: format!("127.0.0.1:{port}"),
        region: "r".into(),
        insecure,
        http,
        max_attempts: 3,
        ..S3Config::default()
    };
    let (_stopper, stop) = stop_pair().unwrap();
    let short = Duration::from_millis(1);
    let waits = Waits { step: short, step_max: short, rest: short, rest_max: short };
    let env = |name: &str| (name == "NO_PROXY").then(|| "*".to_owned());
    S3Bucket::open(config, Box::new(Nobody), "pillion-test", &env)?.with_waits(waits).get("x", &stop)
}

fn refused((got, n_connections): (Result<Vec<u8>>, usize), part: &str) {
    let err: Error = got.unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Permanent, "certificate"), "{err}");
    assert!(err.to_string().contains(part), "{err} lacks {part}");
    assert_eq!(n_connections, 1, "not tried again: {err}");
}

#[test]
fn only_the_configured_authorities_are_trusted() {
    let dir = certificates();
    let file = |name: &str| Some(dir.path().join(name));
    let server = Server::start(dir.path(), "here", &[]);
    let page = server.get(|http| http.ca_file = file("ca.pem")).0.unwrap();
    assert!(!page.is_empty());
    refused(server.get(|http| http.ca_file = file("other.pem")), "http_config.tls_config.ca_file");
    server
        .get(|http| {
            http.ca_file = file("other.pem");
            http.insecure_skip_verify = true;
        })
        .0
        .unwrap();
    server.get(|http| http.insecure_skip_verify = true).0.unwrap();
}

#[test]
fn a_certificate_for_another_name_is_accepted_under_that_name_only() {
    let dir = certificates();
    let ca: PathBuf = dir.path().join("ca.pem");
    let server = Server::start(dir.path(), "elsewhere", &[]);
    refused(server.get(|http| http.ca_file = Some(ca.clone())), "http_config.tls_config.server_name");
    server
        .get(|http| {
            http.ca_file = Some(ca.clone());
            http.server_name = "store.test".into();
        })
        .0
        .unwrap();
    let wrong = server.get(|http| {
        http.ca_file = Some(ca.clone());
        http.server_name = "other.test".into();
    });
    refused(wrong, "http_config.tls_config.server_name");
}

#[test]
fn a_client_certificate_is_shown() {
    let dir = certificates();
    let file = |name: &str| dir.path().join(name);
    let server = Server::start(dir.path(), "here", &["-Verify", "1", "-verify_return_error", "-CAfile", "ca.pem"]);
    server
        .get(|http| {
            http.ca_file = Some(file("ca.pem"));
            http.client_cert = Some((file("client.pem"), file("client.key")));
        })
        .0
        .unwrap();
    refused(server.get(|http| http.ca_file = Some(file("ca.pem"))), "cert_file");
}

#[test]
fn a_client_certificate_with_the_key_of_another_is_refused_at_the_start() {
    let dir = certificates();
    let file = |name: &str| dir.path().join(name);
    let http = HttpConfig { client_cert: Some((file("client.pem"), file("here.key"))), ..HttpConfig::default() };
    let err = get(1, false, http).unwrap_err();
    assert_eq!(err.kind(), Kind::Permanent);
    assert!(err.to_string().contains("do not belong together"), "{err}");
}

#[test]
fn tls_with_a_server_that_speaks_none_is_named() {
    let fake = fake_s3::FakeS3::start();
    let http = HttpConfig { insecure_skip_verify: true, ..HttpConfig::default() };
    let err = get(fake.port, false, http).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Permanent, "certificate"), "{err}");
    assert!(err.to_string().contains("insecure: true"), "{err}");
}

#[test]
fn a_proxy_is_asked_for_a_tunnel_with_its_credentials() {
    let fake = fake_s3::FakeS3::start();
    fake.with(|state| state.checks_signatures = false);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let to = fake.port;
    let proxy = spawn_thread("proxy", None, move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            std::io::Read::read_exact(&mut client, &mut byte).unwrap();
            head.push(byte[0]);
        }
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let server = TcpStream::connect(("127.0.0.1", to)).unwrap();
        let (mut from, mut into) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        spawn_thread("proxy-copy", None, move || {
            let _ = std::io::copy(&mut from, &mut into);
            let _ = into.shutdown(std::net::Shutdown::Write);
        })
        .unwrap();
        let _ = std::io::copy(&mut { server }, &mut client);
        String::from_utf8(head).unwrap()
    })
    .unwrap();
    let config = S3Config {
        bucket: "fake-bucket".into(),
        endpoint: "s3.behind.test:9000".into(),
        region: "r".into(),
        insecure: true,
        max_attempts: 1,
        ..S3Config::default()
    };
    let (_stopper, stop) = stop_pair().unwrap();
    let env = move |name: &str| (name == "HTTP_PROXY").then(|| format!("http://user:pa%20ss@127.0.0.1:{port}"));
    let bucket = S3Bucket::open(config, Box::new(Nobody), "pillion-test", &env).unwrap();
    bucket.upload_bytes("x", b"1", &stop).unwrap();
    drop(bucket);
    let head = proxy.join().unwrap();
    assert!(head.starts_with("CONNECT s3.behind.test:9000 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("Proxy-Authorization: Basic dXNlcjpwYSBzcw==\r\n"), "{head}");
    assert_eq!(fake.seen()[0].headers["host"], "s3.behind.test:9000");
}

/// `openssl s_server` between one connection and a store without TLS.
struct Terminator {
    child: Child,
    port: u16,
}

impl Terminator {
    fn start(dir: &Path, store: u16) -> Terminator {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut child = Command::new("openssl")
            .args(["s_server", "-quiet", "-accept", &format!("127.0.0.1:{port}")])
            .args(["-cert", "here.pem", "-key", "here.key"])
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (mut requests, mut answers) = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
        let to_store = TcpStream::connect(("127.0.0.1", store)).unwrap();
        let mut from_store = to_store.try_clone().unwrap();
        spawn_thread("requests", None, move || {
            let (mut buffer, mut to_store) = ([0; 64 * 1024], to_store);
            while let Ok(n @ 1..) = requests.read(&mut buffer) {
                to_store.write_all(&buffer[..n]).unwrap();
            }
        })
        .unwrap();
        spawn_thread("answers", None, move || {
            let mut buffer = [0; 64 * 1024];
            while let Ok(n @ 1..) = from_store.read(&mut buffer) {
                if answers.write_all(&buffer[..n]).and_then(|()| answers.flush()).is_err() {
                    return;
                }
            }
        })
        .unwrap();
        Terminator { child, port }
    }

    /// The bucket behind it. It is tried until openssl listens.
    fn open(&self, dir: &Path) -> S3Bucket {
        let config = S3Config {
            bucket: fake_s3::BUCKET.into(),
            endpoint: format!("127.0.0.1:{}", self.port),
            region: fake_s3::REGION.into(),
            part_size: 5 << 20,
            http: HttpConfig { ca_file: Some(dir.join("ca.pem")), ..HttpConfig::default() },
            max_attempts: 200,
            ..S3Config::default()
        };
        let short = Duration::from_millis(50);
        let waits = Waits { step: short, step_max: short, rest: short, rest_max: short };
        let env = |name: &str| (name == "NO_PROXY").then(|| "*".to_owned());
        S3Bucket::open(config, Box::new(Somebody), "pillion-test", &env).unwrap().with_waits(waits)
    }
}

impl Drop for Terminator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn with_tls_files_go_unsigned_unless_the_bucket_forbids_it() {
    let dir = certificates();
    let (_stopper, stop) = stop_pair().unwrap();
    let file = dir.path().join("file");
    for (forbids, size) in [(false, 1000), (true, 1000), (false, 11 << 20), (true, 11 << 20)] {
        std::fs::write(&file, vec![b'x'; size]).unwrap();
        let source = pillion_base::files::Disk::real().open_source(&file).unwrap();
        let fake = fake_s3::FakeS3::start();
        fake.with(|state| state.forbids_unsigned = forbids);
        let server = Terminator::start(dir.path(), fake.port);
        let bucket = server.open(dir.path());
        for _ in 0..2 {
            bucket.upload("01A/index", &source, &NoJournal, &stop).unwrap();
        }
        let seen = fake.seen();
        let puts = seen.iter().filter(|seen| ["PutObject", "UploadPart"].contains(&seen.operation));
        let unsigned: Vec<bool> = puts.map(|put| put.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD").collect();
        let n_unsigned = unsigned.iter().filter(|is_unsigned| **is_unsigned).count();
        // One refusal tells, and no other body goes twice.
        let n_puts = if size > 5 << 20 { 6 } else { 2 };
        let expected = if forbids { (n_puts + 1, 1) } else { (n_puts, n_puts) };
        assert_eq!((unsigned.len(), n_unsigned), expected, "{size}");
    }
    // Whoever may not upload at all sends one body more, once.
    std::fs::write(&file, b"x").unwrap();
    let source = pillion_base::files::Disk::real().open_source(&file).unwrap();
    let fake = fake_s3::FakeS3::start();
    fake.rule("PutObject", "", 0, 99, fake_s3::Fault::Refuse(403, "AccessDenied"));
    let server = Terminator::start(dir.path(), fake.port);
    let bucket = server.open(dir.path());
    for n in [2, 3] {
        let err = bucket.upload("01A/index", &source, &NoJournal, &stop).unwrap_err();
        assert_eq!(err.class(), "denied", "{err}");
        assert_eq!(fake.with(|state| state.seen.len()), n);
    }
}
