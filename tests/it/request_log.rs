//! Which requests are logged, and what their lines say.

use pillion_proto::thanos_store::{LabelNamesRequest, SeriesRequest};

use crate::support::fake_prometheus::{FakePrometheus, Read_, series};
use crate::support::sidecar::{Sidecar, ask};
use crate::support::store_client::{Store, request};

fn prometheus() -> FakePrometheus {
    let prometheus = FakePrometheus::start();
    prometheus.set(|state| {
        state.read = Read_::Frames(vec![series(&[("job", "x"), ("n", "1")], &[(1, 2, 1, b"chunk")])]);
        state.overrides = vec![("/api/v1/labels".into(), 200, r#"{"status":"success","data":["job"]}"#.into())];
    });
    prometheus
}

#[test]
fn a_line_says_which_query_it_was_and_what_it_cost() {
    let prometheus = prometheus();
    let config = "grpc: {options: {level: INFO, decision: {log_start: true, log_end: true}}}";
    let sidecar = Sidecar::ready(&prometheus.url(), &[&format!("--request.logging-config={config}")]);
    let store = Store::connect(sidecar.grpc);
    let wanted = SeriesRequest { response_batch_size: 64, ..request(&[("job", "=", "x")]) };
    assert_eq!(store.series(&wanted).ok().series.len(), 1);
    let started = sidecar.wait_line("started call");
    assert!(started.contains("grpc.method=Series") && !started.contains("grpc.code"), "{started}");
    let line = sidecar.wait_line("finished call");
    for text in [
        "level=info service=gRPC/server component=sidecar msg=\"finished call\" requestID=",
        "protocol=grpc grpc.component=server grpc.service=thanos.Store grpc.method=Series grpc.method_type=server_stream",
        "peer.address=127.0.0.1:",
        "query=\"Series {job=\\\"x\\\"}\"",
        "grpc.code=OK grpc.time_ms=",
        "first_message_ms=",
        "series=1 chunks=1 messages=1 bytes=",
    ] {
        assert!(line.contains(text), "{text} is not in {line}");
    }
    prometheus.set(|state| state.read = Read_::Status(500, "oh no"));
    assert_ne!(store.series(&wanted).code(), 0);
    let line = sidecar.wait_line("finished call");
    assert!(
        line.contains("level=error") && line.contains("grpc.code=Internal grpc.error=") && line.contains("oh no"),
        "{line}"
    );
}

#[test]
fn slow_ones_are_chosen_and_the_choice_can_change() {
    let prometheus = prometheus();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("logging.yml");
    let with = |more: &str| format!("options: {{level: INFO, decision: {{log_end: true}}{more}}}\n");
    std::fs::write(&file, with(", slower_than: 1h")).unwrap();
    let flag = format!("--request.logging-config-file={}", file.display());
    let sidecar = Sidecar::ready(&prometheus.url(), &[&flag, "--web.enable-lifecycle"]);
    let store = Store::connect(sidecar.grpc);
    store.label_names(&LabelNamesRequest::default()).unwrap();
    assert!(!sidecar.log().contains("grpc.method"), "{}", sidecar.log());
    // A broken file changes nothing, and whoever asks is told.
    std::fs::write(&file, "options: {level: LOUD}\n").unwrap();
    let (status, body) = ask(sidecar.http, "POST", "/-/reload").unwrap();
    assert_eq!(status, 500, "{body}");
    assert!(body.contains("failed to reload config: request logging: ") && body.contains("level is invalid"), "{body}");
    assert_eq!(sidecar.metric("pillion_config_last_reload_successful"), 0.0);
    std::fs::write(&file, with("")).unwrap();
    assert_eq!(ask(sidecar.http, "POST", "/-/reload").unwrap().0, 200);
    assert_eq!(sidecar.metric("pillion_config_last_reload_successful"), 1.0);
    store.label_names(&LabelNamesRequest::default()).unwrap();
    let line = sidecar.wait_line("grpc.method=LabelNames");
    assert!(line.contains("finished call"), "{line}");
    // Pages, too, by the same options.
    sidecar.get("/-/healthy").unwrap();
    loop {
        let line = sidecar.wait_line("protocol=http");
        if line.contains("GET /-/healthy") {
            assert!(line.contains("http.status_code=200") && line.contains("http.remote_addr=127.0.0.1"), "{line}");
            break;
        }
    }
}

#[test]
fn nobody_may_ask_for_a_reload_unless_it_is_enabled() {
    let prometheus = prometheus();
    let sidecar = Sidecar::ready(&prometheus.url(), &[]);
    let (status, body) = ask(sidecar.http, "POST", "/-/reload").unwrap();
    assert!(status == 403 && body.contains("--web.enable-lifecycle"), "{status} {body}");
    let enabled = Sidecar::ready(&prometheus.url(), &["--web.enable-lifecycle"]);
    assert_eq!(ask(enabled.http, "GET", "/-/reload").unwrap().0, 405);
    assert_eq!(ask(enabled.http, "PUT", "/-/reload").unwrap().0, 200);
}
