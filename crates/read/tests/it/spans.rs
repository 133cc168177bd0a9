//! The parts of a call, as whoever records them hears of them, and what Prometheus is told.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use pillion_base::error::Result;
use pillion_base::labels::Labels;
use pillion_base::state::PromState;
use pillion_proto::thanos_metadata::MetricMetadataRequest;
use pillion_proto::thanos_store::{LabelNamesRequest, LabelValuesRequest, SeriesRequest};
use pillion_proto::thanos_types::LabelMatcher;
use pillion_read::apis::{self, Metadata};
use pillion_read::prom::PromClient;
use pillion_read::spans::{OpenSpan, Spans};
use pillion_read::store::{
    self, Client, EncodedMessage, Holder, MessageSink, Outlet, PerCall, SeriesShared, StoreMetrics,
};

use crate::server::{client, ok, serve};

/// Notes what it hears, a line each.
#[derive(Default)]
struct Notes {
    lines: Rc<RefCell<Vec<String>>>,
    n_begun: RefCell<u32>,
}

struct Open {
    name: &'static str,
    number: u32,
    lines: Rc<RefCell<Vec<String>>>,
    said: Vec<String>,
}

impl Spans for Notes {
    fn begin(&self, name: &'static str, is_request: bool) -> Box<dyn OpenSpan> {
        *self.n_begun.borrow_mut() += 1;
        let said = if is_request { vec!["request".into()] } else { Vec::new() };
        Box::new(Open { name, number: *self.n_begun.borrow(), lines: Rc::clone(&self.lines), said })
    }
}

impl OpenSpan for Open {
    fn headers(&self) -> Vec<(String, String)> {
        vec![("traceparent".into(), format!("part-{}", self.number))]
    }

    fn text(&mut self, key: &'static str, text: &dyn Fn() -> String) {
        self.said.push(format!("{key}={}", text()));
    }

    fn number(&mut self, key: &'static str, number: u64) {
        self.said.push(format!("{key}={number}"));
    }

    fn fail(&mut self, why: &str) {
        self.said.push(format!("failed: {why}"));
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.lines.borrow_mut().push(format!("{} {}: {}", self.number, self.name, self.said.join(" ")));
    }
}

impl MessageSink for Notes {
    fn buffer(&self, bytes: usize) -> Vec<u8> {
        Vec::with_capacity(bytes)
    }

    fn send(&self, _: EncodedMessage) -> Result<()> {
        Ok(())
    }
}

struct Patient;

impl Client for Patient {
    fn holder(&self) -> Holder {
        Holder { address: 1, connection: 1 }
    }

    fn is_gone(&self) -> bool {
        false
    }

    fn stalled_for(&self) -> Option<std::time::Duration> {
        None
    }

    fn give_way(&self, text: &str) {
        panic!("{text}");
    }
}

impl Outlet for Notes {
    fn on_gone(&self, _: Box<dyn Fn() + Send + Sync>) {}

    fn holds(&self, _: usize) {}

    fn outside(&self, wait: &mut dyn FnMut()) {
        wait();
    }

    fn client(&self) -> Arc<dyn Client> {
        Arc::new(Patient)
    }

    fn spans(&self) -> Option<&dyn Spans> {
        Some(self)
    }
}

fn state() -> PromState {
    PromState { external_labels: Labels::new([("region", "eu")]), version: "3.5.0".into(), ..PromState::unknown(0) }
}

fn matcher() -> LabelMatcher {
    LabelMatcher { name: "a".into(), value: "x".into(), ..Default::default() }
}

/// What a call says of its parts, with the server's name left out.
fn heard(origin: &str, call: impl FnOnce(&PromClient, &Notes) -> Result<()>) -> (bool, Vec<String>) {
    let (client, notes) = (client(origin), Notes::default());
    let is_ok = call(&client, &notes).is_ok();
    let lines = notes.lines.take();
    (is_ok, lines.into_iter().map(|line| line.replace(origin, "PROM")).collect())
}

const NAMES: &str = r#"{"status":"success","data":["a"]}"#;

#[test]
fn label_calls_and_apis() {
    let (origin, told) = serve(|request| match request.line.as_str() {
        line if line.starts_with("GET /api/v1/metadata") => ok("application/json", r#"{"status":"success","data":{}}"#),
        _ => ok("application/json", NAMES),
    });
    let names = heard(&origin, |client, notes| {
        store::label_names(&LabelNamesRequest::default(), &state(), client, notes).map(drop)
    });
    let url = "http.url=PROM/api/v1";
    let end = "http.method=GET http.status_code=200";
    let expected = format!("1 /prom_label_names HTTP[client]: request {url}/labels?end=0&start=0 {end}");
    assert_eq!(names, (true, vec![expected]));
    let values = heard(&origin, |client, notes| {
        let request = LabelValuesRequest { label: "job".into(), ..Default::default() };
        store::label_values(&request, &state(), client, notes).map(drop)
    });
    let expected = format!("1 /prom_label_values HTTP[client]: request {url}/label/job/values?end=0&start=0 {end}");
    assert_eq!(values, (true, vec![expected]));
    let metadata = heard(&origin, |client, notes| {
        apis::answer::<Metadata>(&MetricMetadataRequest::default(), &state(), client, notes)
    });
    assert!(metadata.0);
    assert!(metadata.1[0].starts_with("1 /prom_metric_metadata HTTP[client]: request"), "{metadata:?}");
    assert_eq!(metadata.1[1..], ["2 send_metadata_response: ".to_owned()]);
    let traces: Vec<_> = told.try_iter().map(|request| request.traceparent.unwrap()).collect();
    assert_eq!(traces, ["part-1", "part-1", "part-1"]);
}

#[test]
fn what_fails_says_why() {
    let (origin, _told) = serve(|_| "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy".into());
    let (is_ok, lines) = heard(&origin, |client, notes| {
        store::label_names(&LabelNamesRequest::default(), &state(), client, notes).map(drop)
    });
    assert!(!is_ok && lines[0].contains("http.status_code=503 failed: expected 2xx response, got 503"), "{lines:?}");
    let (origin, _told) = serve(|_| ok("application/json", "{"));
    let (is_ok, lines) = heard(&origin, |client, notes| {
        store::label_names(&LabelNamesRequest::default(), &state(), client, notes).map(drop)
    });
    assert!(!is_ok && lines[0].contains("http.status_code=200 failed: "), "{lines:?}");
}

fn series(client: &PromClient, notes: &Notes) -> Result<()> {
    let request = SeriesRequest { max_time: 1, matchers: vec![matcher()], ..Default::default() };
    let shared = SeriesShared::new(PerCall { series_max: 0, samples_max: 0 }, 0, StoreMetrics::default());
    store::series(&request, &state(), client, &shared, notes)
}

#[test]
fn a_series_call_asks_and_reads() {
    // An answer without a frame, and one of samples without a series.
    for (content_type, body, last) in [
        ("application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse", "", "query_prometheus"),
        ("application/x-protobuf", "\u{2}\u{4}\u{a}\u{0}", "transform_and_respond"),
    ] {
        let (origin, told) = serve(move |request| match request.line.as_str() {
            "POST /api/v1/read" => ok(content_type, body),
            _ => ok("application/json", r#"{"status":"success","data":[]}"#),
        });
        let (is_ok, lines) = heard(&origin, series);
        assert!(is_ok, "{lines:?}");
        assert!(lines[0].starts_with("1 /prom_label_values HTTP[client]: request"), "{lines:?}");
        let read = "2 query_prometheus: request query.request={a=\"x\"} 0 1 http.url=PROM/api/v1/read http.method=POST \
                    http.status_code=200";
        assert!(lines[1].starts_with(read), "{lines:?}");
        let counts = "frames=0 processed.bytes=0 processed.series=0 processed.chunks=0";
        assert!(lines.last().unwrap().contains(last) && lines.last().unwrap().ends_with(counts), "{lines:?}");
        let traces: Vec<_> = told.try_iter().map(|request| request.traceparent.unwrap()).collect();
        assert_eq!(traces, ["part-1", "part-2"]);
    }
    let (origin, _told) = serve(|request| match request.line.as_str() {
        "POST /api/v1/read" => ok("application/x-protobuf", "nonsense"),
        _ => ok("application/json", r#"{"status":"success","data":[]}"#),
    });
    let (is_ok, lines) = heard(&origin, series);
    assert!(!is_ok && lines.last().unwrap().contains("failed: decompress response"), "{lines:?}");
}

#[test]
fn a_redirect_is_followed_with_the_same_headers() {
    let (origin, told) = serve(|request| match request.line.as_str() {
        "GET /api/v1/labels" => "HTTP/1.1 307 Moved\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n".into(),
        _ => ok("application/json", NAMES),
    });
    let (client, notes) = (client(&origin), Notes::default());
    let call = client.call().traced(Some(&notes));
    call.json::<Vec<String>>("/api/v1/labels", &[]).unwrap();
    drop(call);
    client.call().json::<Vec<String>>("/api/v1/labels", &[]).unwrap();
    let traces: Vec<_> = told.try_iter().map(|request| request.traceparent.unwrap_or_default()).collect();
    assert_eq!(traces, ["part-1", "part-1", "", ""]);
}
