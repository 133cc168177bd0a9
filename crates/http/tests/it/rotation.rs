//! Certificates that are replaced while the server runs: by renaming, by switching a symbolic link as Kubernetes does, in
//! the wrong order, and half.

use std::cell::RefCell;
use std::os::unix::fs::symlink;
use std::sync::Once;
use std::time::Instant;

use pillion_http::tls::{ClientAuth, ServerSettings, ServerTls, TlsMetrics};

use crate::certificates::Certificates;
use crate::pair::{client, connect, ends, later, say, server_with, shake};

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Keeps what a test's own thread logs.
struct Kept;

impl log::Log for Kept {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.target().starts_with("pillion_http") {
            let err = record.key_values().get("err".into()).map(|err| format!(": {err}")).unwrap_or_default();
            LINES.with_borrow_mut(|lines| lines.push(format!("{} {}{err}", record.level(), record.args())));
        }
    }

    fn flush(&self) {}
}

fn logged() -> Vec<String> {
    LINES.take()
}

/// Files `cert` and `key` of which versions are made, and a server that uses them.
struct Rotating {
    made: Certificates,
    metrics: TlsMetrics,
    n_looks: u64,
}

impl Rotating {
    fn new() -> Rotating {
        static LOGGER: Once = Once::new();
        LOGGER.call_once(|| {
            log::set_logger(&Kept).unwrap();
            log::set_max_level(log::LevelFilter::Info);
        });
        let made = Certificates::new();
        // They differ in their ends, by which they are told apart.
        for (name, days) in [("one", 1), ("two", 2), ("three", 3)] {
            made.leaf(name, "ca", "DNS:here.test", days);
        }
        Rotating { made, metrics: TlsMetrics::default(), n_looks: 0 }
    }

    fn copy(&self, from: &str, to: &str) {
        std::fs::copy(self.made.path(from), self.made.path(to)).unwrap();
    }

    fn replace(&self, from: &str, to: &str) {
        self.copy(from, "new");
        std::fs::rename(self.made.path("new"), self.made.path(to)).unwrap();
    }

    fn server(&self) -> ServerTls {
        self.copy("one.pem", "cert.pem");
        self.copy("one.key", "cert.key");
        self.serve(|_| {})
    }

    fn serve(&self, change: impl FnOnce(&mut ServerSettings)) -> ServerTls {
        server_with(&self.made, "cert", self.metrics.clone(), change)
    }

    fn look(&mut self, server: &ServerTls) {
        self.n_looks += 1;
        server.refresh(later(self.n_looks));
    }

    /// Connects, and says which certificate there was.
    #[track_caller]
    fn is_used(&self, server: &ServerTls, name: &str) {
        connect(&client(&self.made, |_| {}), server, false);
        let end = self.made.end(name);
        assert_eq!((server.not_after(), self.metrics.not_after_timestamp_seconds.get()), (end, end as f64), "{name}");
    }

    #[track_caller]
    fn counts(&self, is_good: bool, n_failed: u64) {
        let found = (self.metrics.reload_successful.get(), self.metrics.reloads_failed.get());
        assert_eq!(found, (i64::from(is_good), n_failed));
    }
}

#[test]
fn a_pair_that_is_renamed_into_place_is_used_and_connections_go_on() {
    let mut rotating = Rotating::new();
    let server = rotating.server();
    rotating.counts(true, 0);
    let (mut near, mut far) = connect(&client(&rotating.made, |_| {}), &server, false);
    rotating.replace("two.pem", "cert.pem");
    rotating.look(&server);
    // The key is still that of the first certificate.
    rotating.is_used(&server, "one");
    rotating.counts(false, 1);
    let lines = logged();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = lines.first().unwrap();
    assert!(
        line.starts_with("ERROR cannot use the new TLS files; still using the certificate that ends on 2"),
        "{line}"
    );
    assert!(line.contains("--cert-key: ") && line.contains("and the first certificate of --cert-pem"));
    // It is not said again while nothing changes.
    rotating.look(&server);
    rotating.look(&server);
    assert_eq!(logged(), Vec::<String>::new());
    rotating.replace("two.key", "cert.key");
    rotating.look(&server);
    rotating.is_used(&server, "two");
    rotating.counts(true, 1);
    let lines = logged();
    assert!(lines.len() == 1 && lines.iter().all(|line| line.starts_with("INFO ")), "{lines:?}");
    say(&mut near, &mut far, b"still here");
    say(&mut far, &mut near, b"still there");
}

#[test]
fn a_symbolic_link_that_is_switched_is_followed() {
    let mut rotating = Rotating::new();
    // As Kubernetes mounts secrets: cert.pem -> ..data/cert.pem, ..data -> a folder.
    for name in ["one", "two"] {
        std::fs::create_dir(rotating.made.path(&format!("..{name}"))).unwrap();
        rotating.copy(&format!("{name}.pem"), &format!("..{name}/cert.pem"));
        rotating.copy(&format!("{name}.key"), &format!("..{name}/cert.key"));
    }
    symlink("..one", rotating.made.path("..data")).unwrap();
    symlink("..data/cert.pem", rotating.made.path("cert.pem")).unwrap();
    symlink("..data/cert.key", rotating.made.path("cert.key")).unwrap();
    let server = rotating.serve(|_| {});
    rotating.look(&server);
    rotating.is_used(&server, "one");
    symlink("..two", rotating.made.path("..data_tmp")).unwrap();
    std::fs::rename(rotating.made.path("..data_tmp"), rotating.made.path("..data")).unwrap();
    rotating.look(&server);
    rotating.is_used(&server, "two");
    rotating.counts(true, 0);
}

#[test]
fn a_file_that_is_half_written_or_missing_breaks_nothing() {
    let mut rotating = Rotating::new();
    let server = rotating.server();
    let whole = std::fs::read(rotating.made.path("two.pem")).unwrap();
    for (text, want) in [
        (&b""[..], "is empty"),
        (whole.get(..whole.len() / 2).unwrap(), "breaks off"),
        (b"nothing of the kind\n", "holds no certificate (PEM)"),
    ] {
        std::fs::write(rotating.made.path("cert.pem"), text).unwrap();
        rotating.look(&server);
        rotating.is_used(&server, "one");
        let lines = logged();
        assert!(lines.len() == 1 && lines.iter().all(|line| line.contains(want)), "{want}: {lines:?}");
    }
    std::fs::remove_file(rotating.made.path("cert.pem")).unwrap();
    rotating.look(&server);
    rotating.is_used(&server, "one");
    rotating.counts(false, 4);
    assert!(logged().iter().all(|line| line.contains("--cert-pem: read ") && line.contains("No such file")));
    // Put back as it was: nothing has changed, and all is well again.
    rotating.copy("one.pem", "cert.pem");
    rotating.look(&server);
    rotating.is_used(&server, "one");
    rotating.counts(true, 4);
    let lines = logged();
    assert!(lines.len() == 1 && lines.iter().all(|line| line.contains("again what is in use")), "{lines:?}");
}

#[test]
fn files_that_have_expired_do_not_replace_those_that_have_not() {
    let mut rotating = Rotating::new();
    rotating.made.expired_leaf("past", "ca", "DNS:here.test");
    let server = rotating.server();
    rotating.copy("past.pem", "cert.pem");
    rotating.copy("past.key", "cert.key");
    rotating.look(&server);
    rotating.is_used(&server, "one");
    assert!(logged().iter().all(|line| line.contains("has expired on 2021-02-03T04:05:06Z")));
    // A server that has nothing better begins with them, and says so.
    rotating.serve(|_| {});
    let lines = logged();
    assert!(lines.len() == 1 && lines.iter().all(|line| line.starts_with("WARN ")), "{lines:?}");
}

#[test]
fn a_change_of_the_same_size_at_the_same_time_is_found() {
    let mut rotating = Rotating::new();
    let server = rotating.server();
    rotating.look(&server);
    // In place, so that neither the inode nor, where clocks are coarse, the time says anything.
    rotating.copy("two.pem", "cert.pem");
    rotating.copy("two.key", "cert.key");
    rotating.look(&server);
    rotating.is_used(&server, "two");
}

#[test]
fn the_files_are_looked_at_once_a_second() {
    let rotating = Rotating::new();
    let server = rotating.server();
    let now = Instant::now();
    server.refresh(now);
    rotating.replace("two.pem", "cert.pem");
    rotating.replace("two.key", "cert.key");
    server.refresh(now + std::time::Duration::from_millis(999));
    assert_eq!(server.not_after(), rotating.made.end("one"));
    server.refresh(now + std::time::Duration::from_secs(1));
    assert_eq!(server.not_after(), rotating.made.end("two"));
}

#[test]
fn a_reload_reads_at_once_and_says_what_came_of_it() {
    let rotating = Rotating::new();
    let server = rotating.server();
    server.refresh(Instant::now());
    assert!(!server.reload().unwrap());
    assert_eq!(logged(), Vec::<String>::new());
    rotating.replace("two.pem", "cert.pem");
    for _ in 0..2 {
        let err = server.reload().unwrap_err().to_string();
        assert!(err.contains("do not belong together"), "{err}");
        let lines = logged();
        assert!(lines.len() == 1 && lines.iter().all(|line| line.starts_with("ERROR ")), "{lines:?}");
    }
    rotating.replace("two.key", "cert.key");
    assert!(server.reload().unwrap());
    assert!(
        logged().iter().all(|line| line.starts_with("INFO the TLS files of --cert-pem have changed and are in use"))
    );
    rotating.is_used(&server, "two");
}

#[test]
fn a_client_ca_that_is_replaced_holds_for_the_next_client() {
    let mut rotating = Rotating::new();
    rotating.made.authority("other");
    for (name, ca) in [("old", "ca"), ("young", "other")] {
        rotating.made.leaf(name, ca, "DNS:client.test", 1);
    }
    rotating.copy("ca.pem", "clients.pem");
    rotating.copy("one.pem", "cert.pem");
    rotating.copy("one.key", "cert.key");
    let clients = rotating.made.pem("clients.pem");
    let server = rotating.serve(|settings| {
        settings.client_ca = Some(clients);
        settings.client_auth = ClientAuth::RequireAndVerify;
    });
    let with = |name: &str| {
        let made = &rotating.made;
        let (cert, key) = (made.pem(&format!("{name}.pem")), made.pem(&format!("{name}.key")));
        client(made, |settings| (settings.cert, settings.key) = (Some(cert), Some(key)))
    };
    let (old, young) = (with("old"), with("young"));
    let (mut near, mut far) = connect(&old, &server, false);
    rotating.replace("other.pem", "clients.pem");
    rotating.look(&server);
    // Also a client that was here before must show its certificate again: no session is resumed.
    let (mut refused, mut refusing) = ends(&old, &server, false);
    let err = shake(&mut refused, &mut refusing).1.unwrap_err();
    assert_eq!(err.to_string(), "the client's certificate is not signed by the client CA");
    connect(&young, &server, false);
    say(&mut near, &mut far, b"still here");
}
