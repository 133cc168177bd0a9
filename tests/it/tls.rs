//! TLS of the gRPC port as an operator meets it: `pillion info` and `pillion series` against the real binary, what each says
//! when certificates do not fit, versions and protocols, what is refused at the start, certificates that are replaced
//! under load, and answers that come whole.

mod answers;
mod rotation;
mod start;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use crate::support::certificates::{Certificates, HERE};
use crate::support::fake_prometheus::{FakePrometheus, Read_, series};
use crate::support::sidecar::{PATIENCE, Sidecar, binary};
use crate::support::tls_stream::TlsStream;

/// Two samples, 1 at 1.000 s and 1 at 16.000 s.
const TWO_SAMPLES: [u8; 15] = [0, 2, 0xd0, 0x0f, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0, 0x98, 0x75, 0];

/// How a command of the program ended.
#[derive(Debug)]
struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs `pillion COMMAND --store=localhost:PORT` with these further arguments.
fn pillion(command: &str, server: SocketAddr, args: &[String]) -> Done {
    let store = format!("--store=localhost:{}", server.port());
    let out = Command::new(binary()).args([command, &store, "--timeout=60s"]).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Done { code: out.status.code(), out: text(out.stdout), err: text(out.stderr) }
}

fn prometheus() -> FakePrometheus {
    let prometheus = FakePrometheus::start();
    let up = series(&[("__name__", "up")], &[(1000, 16_000, 1, &TWO_SAMPLES)]);
    prometheus.set(|state| state.read = Read_::Frames(vec![up]));
    prometheus
}

/// A sidecar whose certificate has this name.
fn serve(prometheus: &FakePrometheus, made: &Certificates, name: &str, more: &[&str]) -> Sidecar {
    let mut args = made.server_args(&format!("{name}.pem"), &format!("{name}.key"));
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    Sidecar::ready(&prometheus.url(), &args.iter().map(String::as_str).collect::<Vec<_>>())
}

fn ca_of(made: &Certificates, name: &str) -> Vec<String> {
    vec![made.arg("tls-ca", &format!("{name}.pem"))]
}

#[track_caller]
fn works(sidecar: &Sidecar, args: &[String]) {
    let done = pillion("info", sidecar.grpc, args);
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{args:?}\n{}", sidecar.log());
    assert!(done.out.contains("component             sidecar\n"), "{}", done.out);
    let done = pillion("series", sidecar.grpc, &[args, &["--match=up".into()]].concat());
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{args:?}\n{}", sidecar.log());
    assert!(done.out.starts_with("up{") && done.out.contains("2 samples"), "{}", done.out);
}

/// Both commands fail, and say so with exactly this.
#[track_caller]
fn fails(sidecar: &Sidecar, args: &[String], text: &str) {
    let selector = ["--match=up".to_owned()];
    for (command, more) in [("info", &[][..]), ("series", &selector[..])] {
        let done = pillion(command, sidecar.grpc, &[args, more].concat());
        let want = format!("pillion: error: {command} from localhost:{}: {text}\n", sidecar.grpc.port());
        assert_eq!((done.code, done.out.as_str(), done.err), (Some(1), "", want), "{args:?}\n{}", sidecar.log());
    }
}

/// The first line about a connection that was turned away.
#[track_caller]
fn refusal(sidecar: &Sidecar, reason: &str, text: &str) {
    let line = sidecar.wait_line("closed a gRPC connection");
    assert!(line.contains(&format!("reason={reason} ")) && line.contains(&format!("err=\"{text}\"")), "{line}");
}

/// Waits for this many handshakes, done and failed: clients are told before they are counted.
fn wait_handshakes(sidecar: &Sidecar, n_done: f64, n_failed: f64) {
    sidecar.wait_metric("pillion_tls_handshakes_total{server=\"grpc\"}", |n| n == n_done);
    sidecar.wait_metric("pillion_tls_handshake_failures_total{server=\"grpc\"}", |n| n == n_failed);
}

#[test]
fn info_and_series_speak_tls() {
    let (made, prometheus) = (Certificates::new(), prometheus());
    let sidecar = serve(&prometheus, &made, "here", &[]);
    wait_handshakes(&sidecar, 0.0, 0.0);
    works(&sidecar, &ca_of(&made, "ca"));
    works(&sidecar, &["--insecure-skip-verify".into()]);
    // A certificate that nobody asks for does no harm.
    works(&sidecar, &made.client_args("client"));
    wait_handshakes(&sidecar, 6.0, 0.0);
    let not_after = sidecar.metric("pillion_tls_certificate_not_after_timestamp_seconds{server=\"grpc\"}");
    assert_eq!(not_after, made.not_after("here.pem"));
    assert_eq!(sidecar.metric("pillion_tls_last_reload_successful{server=\"grpc\"}"), 1.0);
    assert!(sidecar.log().contains("enabling server side TLS"), "{}", sidecar.log());
    assert_eq!(sidecar.stop().code(), Some(0));
}

#[test]
fn info_and_series_show_a_certificate() {
    let (made, prometheus) = (Certificates::new(), prometheus());
    let sidecar = serve(&prometheus, &made, "here", &[&made.arg("grpc-server-tls-client-ca", "ca.pem")]);
    works(&sidecar, &made.client_args("client"));
    assert!(sidecar.log().contains("server TLS client verification enabled"), "{}", sidecar.log());
}

#[test]
fn a_server_certificate_that_has_expired() {
    let (made, prometheus) = (Certificates::new(), prometheus());
    made.expired_leaf("past", "ca", HERE);
    let sidecar = serve(&prometheus, &made, "past", &[]);
    sidecar.wait_line(
        "the certificate of --grpc-server-tls-cert has expired on 2021-02-03T04:05:06Z; clients will refuse it",
    );
    fails(&sidecar, &ca_of(&made, "ca"), "the server's certificate has expired on 2021-02-03T04:05:06Z");
    refusal(&sidecar, "tls", "the client says that our certificate has expired");
    works(&sidecar, &["--insecure-skip-verify".into()]);
}

#[test]
fn a_server_of_another_authority() {
    let (made, prometheus) = (Certificates::new(), prometheus());
    let sidecar = serve(&prometheus, &made, "here", &[]);
    let text = "the server's certificate is not signed by an authority that is trusted here; --tls-ca names the file of an \
                authority that is to be trusted";
    fails(&sidecar, &ca_of(&made, "other"), text);
    refusal(&sidecar, "tls", "the client does not trust the authority that signed our certificate");
    wait_handshakes(&sidecar, 0.0, 2.0);
}

#[test]
fn a_server_of_another_name() {
    let (made, prometheus) = (Certificates::new(), prometheus());
    made.leaf("store", "ca", "DNS:store.test,IP:192.0.2.1");
    let sidecar = serve(&prometheus, &made, "store", &[]);
    let ca = ca_of(&made, "ca");
    let text = "the server's certificate is for another host: not for localhost, but for store.test, 192.0.2.1; \
                --tls-server-name says which host is meant";
    fails(&sidecar, &ca, text);
    refusal(&sidecar, "tls", "the client does not accept our certificate");
    works(&sidecar, &[&ca[..], &["--tls-server-name=store.test".into()]].concat());
    works(&sidecar, &[&ca[..], &["--tls-server-name=192.0.2.1".into()]].concat());
}

#[test]
fn a_client_without_a_certificate() {
    let (made, prometheus) = (Certificates::new(), prometheus());
    let sidecar = serve(&prometheus, &made, "here", &[&made.arg("grpc-server-tls-client-ca", "ca.pem")]);
    let text = "UNAVAILABLE: the server wants a certificate, and we sent none; give --tls-cert and --tls-key";
    fails(&sidecar, &ca_of(&made, "ca"), text);
    refusal(&sidecar, "tls", "the client sent no certificate");
    fails(&sidecar, &["--insecure-skip-verify".into()], text);
}

#[test]
fn a_client_of_another_authority() {
    let (made, prometheus) = (Certificates::new(), prometheus());
    made.leaf("stranger", "other", "DNS:client.test");
    let sidecar = serve(&prometheus, &made, "here", &[&made.arg("grpc-server-tls-client-ca", "ca.pem")]);
    let text = "UNAVAILABLE: the server does not trust the authority that signed our certificate; --tls-cert must be a \
                certificate that the server's client CA has signed";
    fails(&sidecar, &made.client_args("stranger"), text);
    refusal(&sidecar, "tls", "the client's certificate is not signed by the client CA");
}

#[test]
fn a_client_certificate_that_has_expired() {
    let (made, prometheus) = (Certificates::new(), prometheus());
    made.expired_leaf("past", "ca", "DNS:client.test");
    let sidecar = serve(&prometheus, &made, "here", &[&made.arg("grpc-server-tls-client-ca", "ca.pem")]);
    fails(&sidecar, &made.client_args("past"), "UNAVAILABLE: the server says that our certificate has expired");
    refusal(&sidecar, "tls", "the client's certificate has expired on 2021-02-03T04:05:06Z");
}

#[test]
fn files_of_a_client_that_do_not_fit() {
    let (made, prometheus) = (Certificates::new(), prometheus());
    let sidecar = serve(&prometheus, &made, "here", &[]);
    let (cert, key) = (made.path("client.pem"), made.path("here.key"));
    let text = format!(
        "--tls-key: {} and the first certificate of --tls-cert ({}) do not belong together",
        key.display(),
        cert.display()
    );
    fails(&sidecar, &[made.arg("tls-cert", "client.pem"), made.arg("tls-key", "here.key")], &text);
    let text = format!("--tls-ca: read {}: No such file or directory (os error 2)", made.path("none.pem").display());
    fails(&sidecar, &[made.arg("tls-ca", "none.pem")], &text);
    fails(
        &sidecar,
        &[made.arg("tls-ca", "ca.key")],
        &format!("--tls-ca: {} holds no certificate (PEM)", made.path("ca.key").display()),
    );
    for (given, missing) in [("cert", "key"), ("key", "cert")] {
        let done = pillion("info", sidecar.grpc, &[made.arg(&format!("tls-{given}"), "client.pem")]);
        assert_eq!((done.code, done.err), (Some(1), format!("pillion: error: --tls-{given} needs --tls-{missing}\n")));
    }
}

#[test]
fn a_plain_client_of_a_server_with_tls() {
    let (made, prometheus) = (Certificates::new(), prometheus());
    let sidecar = serve(&prometheus, &made, "here", &[]);
    let done = pillion("info", sidecar.grpc, &[]);
    let begins = format!("pillion: error: info from localhost:{}: UNAVAILABLE: ", sidecar.grpc.port());
    assert_eq!(done.code, Some(1));
    assert!(
        done.err.starts_with(&begins) && done.err.ends_with("; does the server want TLS (--tls)?\n"),
        "{}",
        done.err
    );
    refusal(&sidecar, "tls", "the client does not speak TLS");
}

#[test]
fn a_client_with_tls_of_a_plain_server() {
    let (made, prometheus) = (Certificates::new(), prometheus());
    let sidecar = Sidecar::ready(&prometheus.url(), &[]);
    let done = pillion("info", sidecar.grpc, &ca_of(&made, "ca"));
    let begins = format!(
        "pillion: error: info from localhost:{}: the server closed the connection during the handshake",
        sidecar.grpc.port()
    );
    assert_eq!(done.code, Some(1));
    assert!(done.err.starts_with(&begins) && done.err.ends_with("; does it speak TLS?\n"), "{}", done.err);
    refusal(&sidecar, "protocol", "the client does not speak HTTP/2");
    let (_, page) = sidecar.get("/metrics").unwrap();
    assert!(!page.contains("server=\"grpc\""), "metrics of TLS where there is none:\n{page}");
}

#[test]
fn versions_and_protocols() {
    let (made, prometheus) = (Certificates::new(), prometheus());
    let sidecar = serve(&prometheus, &made, "here", &[]);
    let shaken = made.s_client(sidecar.grpc, "-alpn h2 -verify_return_error");
    for want in ["New, TLSv1.3, Cipher is TLS_AES_", "ALPN protocol: h2", "Verify return code: 0 (ok)"] {
        assert!(shaken.contains(want), "{want}: {shaken}");
    }
    // No word about protocols is what old clients say.
    let shaken = made.s_client(sidecar.grpc, "");
    assert!(shaken.contains("No ALPN negotiated") && shaken.contains("Cipher is TLS_AES_"), "{shaken}");
    wait_handshakes(&sidecar, 2.0, 0.0);
    let refused = made.s_client(sidecar.grpc, "-alpn http/1.1");
    assert!(refused.contains("alert no application protocol"), "{refused}");
    refusal(&sidecar, "tls", "the client speaks none of the protocols that are spoken here (ALPN)");
    let refused = made.s_client(sidecar.grpc, "-tls1_2 -alpn h2");
    assert!(refused.contains("alert protocol version") && refused.contains("Cipher is (NONE)"), "{refused}");
    wait_handshakes(&sidecar, 2.0, 2.0);
    drop(sidecar);

    let older =
        ["--grpc-server-tls-min-version=1.2", "--grpc-server-tls-ciphers=TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"];
    let sidecar = serve(&prometheus, &made, "here", &older);
    let shaken = made.s_client(sidecar.grpc, "-tls1_2 -alpn h2");
    for want in ["New, TLSv1.2, Cipher is ECDHE-ECDSA-AES256-GCM-SHA384", "ALPN protocol: h2"] {
        assert!(shaken.contains(want), "{want}: {shaken}");
    }
    let refused = made.s_client(sidecar.grpc, "-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256");
    assert!(refused.contains("alert handshake failure"), "{refused}");
    refusal(&sidecar, "tls", "there is no cipher suite in common with the client");
    let refused = made.s_client(sidecar.grpc, "-tls1_1 -cipher DEFAULT@SECLEVEL=0");
    assert!(refused.contains(" alert ") && refused.contains("Cipher is (NONE)"), "{refused}");
    drop(sidecar);

    let sidecar = serve(&prometheus, &made, "here", &["--grpc-server-tls-curves=CurveP384"]);
    let shaken = made.s_client(sidecar.grpc, "-alpn h2");
    assert!(
        shaken.contains("Server Temp Key: ECDH, secp384r1") || shaken.contains("Peer Temp Key: ECDH, secp384r1"),
        "{shaken}"
    );
    let refused = made.s_client(sidecar.grpc, "-groups X25519");
    assert!(refused.contains("alert handshake failure"), "{refused}");
    refusal(&sidecar, "tls", "there is no curve in common with the client");
}

#[test]
fn clients_that_do_not_finish_their_greeting() {
    let (made, prometheus) = (Certificates::new(), prometheus());
    let sidecar = serve(&prometheus, &made, "here", &[]);
    // A check of the port, which is nothing to speak of.
    drop(TcpStream::connect(sidecar.grpc).unwrap());
    let silent = TcpStream::connect(sidecar.grpc).unwrap();
    let mut breaks_off = TcpStream::connect(sidecar.grpc).unwrap();
    // The head of a record of 512 bytes, and the first of them.
    breaks_off.write_all(&[0x16, 3, 1, 2, 0, 1]).unwrap();
    let mut says_nothing = TlsStream::connect(sidecar.grpc, &made, None).unwrap();
    works(&sidecar, &ca_of(&made, "ca"));
    for mut client in [silent, breaks_off] {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(client.read(&mut [0; 64]).unwrap(), 0);
    }
    assert_eq!(says_nothing.read(&mut [0; 64]).unwrap(), 0);
    refusal(&sidecar, "handshake", "the TLS handshake took too long");
    sidecar.wait_metric("pillion_grpc_connections_refused_total{reason=\"handshake\"}", |n| n == 3.0);
    assert_eq!(sidecar.metric("pillion_grpc_connections_refused_total{reason=\"tls\"}"), 0.0);
}

#[test]
fn strangers_cannot_fill_the_log() {
    let (made, prometheus) = (Certificates::new(), prometheus());
    let sidecar = serve(&prometheus, &made, "here", &["--log.level=debug"]);
    // The TLS library would warn of both, of each connection anew, and quote what it was sent.
    for name in ["192.0.2.7", "of_no/host.test"] {
        for _ in 0..3 {
            made.s_client(sidecar.grpc, &format!("-servername {name} -alpn h2"));
        }
    }
    // An address is ignored, a name that cannot be is refused.
    wait_handshakes(&sidecar, 3.0, 3.0);
    let log = sidecar.log();
    assert!(!log.contains("component=rustls") && !log.contains("SNI"), "{log}");
    assert!(log.matches("closed a gRPC connection").count() < 3, "{log}");
}
