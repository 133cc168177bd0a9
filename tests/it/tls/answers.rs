//! Answers over TLS come whole: large ones, those that are read slowly while the daemon stops, and calls beside many that
//! are cancelled.

use std::net::TcpStream;

use protobuf::Message;

use super::{prometheus, serve};
use crate::attacks::alone;
use crate::attacks::stops::{HERE, N_SERIES, SLOW, SlowReader, ask};
use crate::support::certificates::Certificates;
use crate::support::drain::drain;
use crate::support::fake_prometheus::Read_;
use crate::support::go_client::GoClient;
use crate::support::raw::Raw;
use crate::support::sidecar::Sidecar;
use crate::support::store_client::request;
use crate::support::tls_stream::TlsStream;

/// An answer of 60 MB.
const MANY: usize = 200_000;

#[test]
fn a_large_answer_is_the_same_as_without() {
    let (made, prometheus) = (Certificates::new(), prometheus());
    prometheus.set(|state| state.read = Read_::Many(MANY, (0..200).collect()));
    let asked = request(&[("job", "=", "x")]).write_to_bytes().unwrap();
    let plain = Sidecar::ready(&prometheus.url(), &[]);
    let secured = serve(&prometheus, &made, "here", &[]);
    let mut expected = Vec::<u8>::new();
    drain(Raw::connect(plain.grpc), &asked, |bytes| expected.extend(bytes)).unwrap();
    let mut found = Vec::<u8>::new();
    let stream = TlsStream::connect(secured.grpc, &made, None).unwrap();
    drain(Raw(stream), &asked, |bytes| found.extend(bytes)).unwrap();
    // One series in each message.
    let (mut rest, mut n_series) = (&expected[..], 0);
    while let Some((&[_, a, b, c, d], tail)) = rest.split_first_chunk::<5>() {
        rest = &tail[u32::from_be_bytes([a, b, c, d]) as usize..];
        n_series += 1;
    }
    assert_eq!(n_series, MANY);
    assert_eq!(found.len(), expected.len());
    assert_eq!(found.iter().zip(&expected).position(|(a, b)| a != b), None, "the answers differ at this byte");
}

/// One reader alone: no other holds up the end of the process for it.
#[track_caller]
fn finishes(mut sidecar: Sidecar, secure: impl FnOnce(TcpStream) -> TlsStream) {
    let stream = secure(Raw::connect_from(HERE, sidecar.grpc, SLOW).unwrap().0);
    let mut reader = SlowReader::begin_on(Raw(stream), &ask().write_to_bytes().unwrap());
    // It has an answer that has begun.
    assert!(reader.read(16 * 1024));
    sidecar.signal("TERM");
    sidecar.wait_line("caught signal. Exiting.");
    let ending = reader.read_on(1_500_000);
    assert_eq!(ending, Ok(()), "{}", sidecar.log());
    assert_eq!(sidecar.wait_exit().code(), Some(0), "{}", sidecar.log());
}

#[test]
fn a_stop_lets_a_slow_reader_finish() {
    let _alone = alone();
    let (made, prometheus) = (Certificates::new(), prometheus());
    prometheus.set(|state| state.read = Read_::Many(N_SERIES, vec![7; 200]));
    let grace = "--grpc-grace-period=30s";
    finishes(serve(&prometheus, &made, "here", &[grace]), |stream| TlsStream::over(stream, &made, None).unwrap());
    finishes(Sidecar::ready(&prometheus.url(), &[grace]), TlsStream::plain);
}

/// The library of queriers, with certificates on both sides; `PILLION_CANCEL_SECONDS` for longer than the six seconds.
#[test]
fn calls_of_grpc_go_may_be_cancelled_all_the_time() {
    let _alone = alone();
    let (made, prometheus) = (Certificates::new(), prometheus());
    prometheus.set(|state| {
        state.read = Read_::Many(1000, vec![7; 200]);
        state.reads_by_matcher.push(("slow".into(), 0, Read_::Stall(vec![])));
    });
    let sidecar = serve(&prometheus, &made, "here", &[&made.arg("grpc-server-tls-client-ca", "ca.pem")]);
    let seconds = std::env::var("PILLION_CANCEL_SECONDS").unwrap_or_else(|_| "6".into());
    let file = |flag: &str, file: &str| format!("-{flag}={}", made.path(file).display());
    let args = [
        "-mode=cancel".to_owned(),
        "-calls=30".to_owned(),
        "-later=20".to_owned(),
        format!("-duration={seconds}s"),
        file("ca", "ca.pem"),
        file("cert", "client.pem"),
        file("key", "client.key"),
    ];
    let Some(client) = GoClient::start(sidecar.grpc, &args.each_ref().map(String::as_str)) else { return };
    let report = client.report();
    eprintln!("tls: calls of grpc-go cancelled: {report}");
    let n_cancelled = report["cancelled"].as_u64().unwrap();
    assert!(n_cancelled > 150, "only {n_cancelled}");
    // None ended in any other way.
    assert_eq!(report["codes"], serde_json::json!({ "Canceled": n_cancelled }));
    assert_eq!((&report["connections"], &report["later_ok"]), (&1.into(), &20.into()), "{report}");
    assert_eq!(report["messages"], serde_json::json!(vec![1000; 20]), "{report}");
    super::wait_handshakes(&sidecar, 1.0, 0.0);
    assert!(!sidecar.log().contains("closed a gRPC connection"), "{}", sidecar.log());
}
