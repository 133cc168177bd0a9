//! Certificates that are replaced while clients come and go: no call fails, whatever lies in the files meanwhile, and what
//! is new is in use afterwards, without a restart.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::{Done, pillion, prometheus, serve};
use crate::support::attackers::{Running, repeat};
use crate::support::certificates::{Certificates, HERE};
use crate::support::go_client::GoClient;
use crate::support::raw::{DATA, HEADERS, PING, Raw, WINDOW_MAX, WINDOW_UPDATE, frame, message, open_call};
use crate::support::sidecar::{PATIENCE, Sidecar, pause};
use crate::support::tls_stream::TlsStream;

/// A client that makes one call after the other over one connection.
struct Held {
    raw: Raw<TlsStream>,
    n_calls: u32,
}

impl Held {
    fn open(server: SocketAddr, made: &Certificates, name: &str) -> Self {
        let mut raw = Raw(TlsStream::connect(server, made, Some(name)).unwrap());
        raw.shake_hands(&[]).unwrap();
        raw.send(&frame(WINDOW_UPDATE, 0, 0, &(WINDOW_MAX - 65_535).to_be_bytes()));
        Held { raw, n_calls: 0 }
    }

    /// Asks what the store is.
    fn call(&mut self) -> Result<(), String> {
        let stream = 2 * self.n_calls + 1;
        self.n_calls += 1;
        self.raw.send(&[open_call(stream, "/thanos.info.Info/Info"), message(stream, &[])].concat());
        let mut n_bytes = 0;
        loop {
            let (kind, flags, on, payload) = self.raw.receive_on().ok_or("the connection was cut")?;
            match (kind, flags) {
                (PING, 0) => self.raw.send(&frame(PING, 1, 0, &payload)),
                (DATA, _) if on == stream => n_bytes += payload.len(),
                // A call that fails has no message.
                (HEADERS, flags) if on == stream && flags & 1 == 1 => {
                    return if n_bytes > 5 { Ok(()) } else { Err("no answer".into()) };
                }
                _ => {}
            }
        }
    }
}

/// Clients of all kinds, until it is concluded.
struct Load {
    running: Vec<Running>,
    failed: Arc<Mutex<Vec<String>>>,
    go: Option<GoClient>,
}

impl Load {
    fn begin(sidecar: &Sidecar, made: &Certificates) -> Self {
        let failed = Arc::<Mutex<Vec<String>>>::default();
        let server = sidecar.grpc;
        let mut held = Held::open(server, made, "client");
        let (args, told) = (made.client_args("client"), Arc::clone(&failed));
        let mut running = vec![repeat(50, 0, move || {
            held.call().map_err(|err| told.lock().unwrap().push(format!("the old connection: {err}"))).ok()
        })];
        for command in ["info", "series"] {
            let args = if command == "series" { [&args[..], &["--match=up".into()]].concat() } else { args.clone() };
            let told = Arc::clone(&failed);
            running.push(repeat(20, 0, move || match pillion(command, server, &args) {
                Done { code: Some(0), .. } => Some(()),
                done => {
                    told.lock().unwrap().push(format!("{command}: {done:?}"));
                    None
                }
            }));
        }
        let file = |flag: &str, file: &str| format!("-{flag}={}", made.path(file).display());
        let args = ["-mode=steady".into(), file("ca", "ca.pem"), file("cert", "client.pem"), file("key", "client.key")];
        let mut go = GoClient::start(server, &args.each_ref().map(String::as_str));
        go.iter_mut().for_each(GoClient::wait_begun);
        let load = Load { running, failed, go };
        load.goes_on();
        load
    }

    /// Waits until each client has made some calls more, and none has failed.
    #[track_caller]
    fn goes_on(&self) {
        let deadline = Instant::now() + PATIENCE;
        let wanted: Vec<u64> = self.running.iter().map(|running| running.n_rounds() + 3).collect();
        while self.running.iter().zip(&wanted).any(|(running, wanted)| running.n_rounds() < *wanted) {
            assert!(Instant::now() < deadline, "clients stand still");
            pause();
        }
        let failed = self.failed.lock().unwrap();
        assert!(failed.is_empty(), "{} calls failed: {:#?}", failed.len(), failed.first());
    }

    #[track_caller]
    fn conclude(mut self, what: &str) {
        self.goes_on();
        let counts: Vec<u64> = self.running.iter().map(Running::n_rounds).collect();
        self.running.clear();
        let mut report = None;
        if let Some(mut go) = self.go.take() {
            go.go_on();
            report = Some(go.report());
        }
        eprintln!("tls: {what}: calls on the old connection, info, series: {counts:?}; grpc-go: {report:?}");
        let failed = self.failed.lock().unwrap();
        assert!(failed.is_empty(), "{} calls failed: {:#?}", failed.len(), failed);
        if let Some(report) = report {
            let n_ok = report["codes"]["OK"].as_u64().unwrap();
            assert_eq!(report["codes"], serde_json::json!({ "OK": n_ok }), "{report}");
            // One connection for each call but those of the first, which are over one.
            let n_held = report["held"].as_u64().unwrap();
            assert!(n_held > 0 && report["connections"].as_u64().unwrap() == n_ok - n_held + 1, "{report}");
        }
    }
}

/// `one` to `five`, whose days of life differ.
fn versions() -> Certificates {
    let made = Certificates::new();
    for (name, days) in [("one", 1), ("two", 2), ("three", 3), ("four", 4), ("five", 5)] {
        made.leaf_of_days(name, "ca", HERE, days);
    }
    made
}

fn metric(name: &str) -> String {
    format!("pillion_tls_{name}{{server=\"grpc\"}}")
}

/// Waits until the files are in use, and looks at all that tells of it.
#[track_caller]
fn is_in_use(sidecar: &Sidecar, made: &Certificates, name: &str) {
    let file = format!("{name}.pem");
    let (wanted, deadline) = (made.serial(&file), Instant::now() + PATIENCE);
    while made.served_serial(sidecar.grpc) != wanted {
        assert!(Instant::now() < deadline, "{name} is not in use:\n{}", sidecar.log());
        pause();
    }
    assert_eq!(sidecar.metric(&metric("certificate_not_after_timestamp_seconds")), made.not_after(&file));
    // Where the files were bad and are now as before, the next look says so.
    sidecar.wait_metric(&metric("last_reload_successful"), |is_good| is_good == 1.0);
}

/// Waits until the files were found bad, of which the log says this.
#[track_caller]
fn are_bad(sidecar: &Sidecar, made: &Certificates, in_use: &str, text: &str) {
    let line = sidecar.wait_line("cannot use the new TLS files; still using the certificate that ends on 2");
    assert!(line.contains("level=error") && line.contains(text), "{line}");
    // While nothing changes it stays so.
    assert_eq!(sidecar.metric(&metric("last_reload_successful")), 0.0);
    assert_eq!(made.served_serial(sidecar.grpc), made.serial(&format!("{in_use}.pem")));
}

const CHANGED: &str = "the TLS files of --grpc-server-tls-cert have changed and are in use; the certificate ends on 2";

#[test]
fn files_are_replaced_under_load() {
    let (made, prometheus) = (versions(), prometheus());
    made.replace("one.pem", "cert.pem");
    made.replace("one.key", "cert.key");
    let sidecar = serve(&prometheus, &made, "cert", &[&made.arg("grpc-server-tls-client-ca", "ca.pem")]);
    is_in_use(&sidecar, &made, "one");
    let load = Load::begin(&sidecar, &made);

    // By renaming: the certificate, and the key only when somebody has seen it alone.
    made.replace("two.pem", "cert.pem");
    are_bad(&sidecar, &made, "one", "do not belong together");
    load.goes_on();
    assert_eq!(sidecar.metric(&metric("reload_failures_total")), 1.0);
    made.replace("two.key", "cert.key");
    sidecar.wait_line(CHANGED);
    is_in_use(&sidecar, &made, "two");
    load.goes_on();

    // Half a file, as long as it takes; then the whole of it, with a key that is not its own; then another key.
    let whole = made.read("three.pem");
    made.put("cert.pem", &whole[..whole.len() / 2]);
    are_bad(
        &sidecar,
        &made,
        "two",
        "breaks off: a -----BEGIN line has no -----END line; it may still be being written",
    );
    load.goes_on();
    made.put("cert.pem", &whole);
    are_bad(&sidecar, &made, "two", "do not belong together");
    made.put("cert.key", "");
    are_bad(&sidecar, &made, "two", "is empty: it holds no private key (PEM)");
    load.goes_on();
    assert_eq!(sidecar.metric(&metric("reload_failures_total")), 4.0);
    made.put("cert.key", made.read("three.key"));
    sidecar.wait_line(CHANGED);
    is_in_use(&sidecar, &made, "three");
    load.goes_on();

    // At SIGHUP, with both in place. A client may have led to a look between the two.
    made.replace("four.pem", "cert.pem");
    made.replace("four.key", "cert.key");
    sidecar.signal("HUP");
    sidecar.wait_line(CHANGED);
    is_in_use(&sidecar, &made, "four");
    load.conclude("files replaced");
}

#[test]
fn a_mounted_secret_is_switched_under_load() {
    let (made, prometheus) = (versions(), prometheus());
    // As Kubernetes mounts secrets: cert.pem -> ..data/cert.pem, ..data -> a folder.
    let folder = |name: &str| {
        std::fs::create_dir(made.path(&format!("..{name}"))).unwrap();
        for ending in ["pem", "key"] {
            made.write(&format!("..{name}/cert.{ending}"), made.read(&format!("{name}.{ending}")));
        }
    };
    folder("one");
    symlink("..one", made.path("..data")).unwrap();
    for file in ["cert.pem", "cert.key"] {
        symlink(format!("..data/{file}"), made.path(file)).unwrap();
    }
    let sidecar = serve(&prometheus, &made, "cert", &[&made.arg("grpc-server-tls-client-ca", "ca.pem")]);
    is_in_use(&sidecar, &made, "one");
    let load = Load::begin(&sidecar, &made);
    for (before, name) in [("one", "two"), ("two", "three"), ("three", "four")] {
        folder(name);
        symlink(format!("..{name}"), made.path("..data_tmp")).unwrap();
        std::fs::rename(made.path("..data_tmp"), made.path("..data")).unwrap();
        std::fs::remove_dir_all(made.path(&format!("..{before}"))).unwrap();
        sidecar.wait_line(CHANGED);
        is_in_use(&sidecar, &made, name);
        load.goes_on();
    }
    // Both files are switched at once, and so nobody ever sees two that do not belong together.
    assert_eq!(sidecar.metric(&metric("reload_failures_total")), 0.0, "{}", sidecar.log());
    load.conclude("a mounted secret switched");
}

#[test]
fn a_hang_up_needs_no_client() {
    let (made, prometheus) = (versions(), prometheus());
    made.replace("one.pem", "cert.pem");
    made.replace("one.key", "cert.key");
    let sidecar = serve(&prometheus, &made, "cert", &[]);
    sidecar.signal("HUP");
    let line = sidecar.wait_line("TLS files of the gRPC server: as before");
    assert!(line.contains("level=info"), "{line}");
    made.replace("two.pem", "cert.pem");
    for n_failed in 1..3 {
        // Whoever sends it wants to be told each time.
        sidecar.signal("HUP");
        let line = sidecar.wait_line("cannot use the new TLS files; still using the certificate that ends on 2");
        assert!(line.contains("level=error") && line.contains("do not belong together"), "{line}");
        assert_eq!(sidecar.metric(&metric("reload_failures_total")), f64::from(n_failed));
        assert_eq!(sidecar.metric(&metric("last_reload_successful")), 0.0);
    }
    made.replace("two.key", "cert.key");
    sidecar.signal("HUP");
    let line = sidecar.wait_line(CHANGED);
    assert!(line.contains("level=info"), "{line}");
    assert_eq!(sidecar.metric(&metric("certificate_not_after_timestamp_seconds")), made.not_after("two.pem"));
    // The very first client gets it.
    assert_eq!(made.served_serial(sidecar.grpc), made.serial("two.pem"));
}

#[test]
fn a_client_ca_is_replaced() {
    let (made, prometheus) = (Certificates::new(), prometheus());
    made.leaf("young", "other", "DNS:client.test");
    made.replace("ca.pem", "clients.pem");
    let sidecar = serve(&prometheus, &made, "here", &[&made.arg("grpc-server-tls-client-ca", "clients.pem")]);
    let mut held = Held::open(sidecar.grpc, &made, "client");
    held.call().unwrap();
    assert_eq!(pillion("info", sidecar.grpc, &made.client_args("young")).code, Some(1));
    made.replace("other.pem", "clients.pem");
    let deadline = Instant::now() + PATIENCE;
    while pillion("info", sidecar.grpc, &made.client_args("young")).code != Some(0) {
        assert!(Instant::now() < deadline, "the new CA is not in use:\n{}", sidecar.log());
        pause();
    }
    super::fails(
        &sidecar,
        &made.client_args("client"),
        "UNAVAILABLE: the server does not trust the authority that signed our certificate; --tls-cert must be a \
         certificate that the server's client CA has signed",
    );
    for _ in 0..3 {
        held.call().expect("a connection that is open goes on");
    }
    sidecar.wait_line(CHANGED);
}
