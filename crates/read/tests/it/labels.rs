//! Series without chunks and label calls: limits, what is asked for them, and what is said of them.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use pillion_base::error::{Kind, Result};
use pillion_base::labels::Labels;
use pillion_base::state::PromState;
use pillion_proto::thanos_store::series_response::Result as Sent;
use pillion_proto::thanos_store::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, SeriesRequest, SeriesResponse,
};
use pillion_proto::thanos_types::LabelMatcher;
use pillion_read::store::{self, Client, EncodedMessage, MessageSink, Outlet, PerCall, SeriesShared, StoreMetrics};
use protobuf::Message as _;

use crate::server::{Request, client, ok, serve};

const TRUNCATED: &str = "results truncated due to limit";

/// Keeps series and warnings as text.
#[derive(Default)]
struct Texts(RefCell<Vec<String>>);

impl MessageSink for Texts {
    fn buffer(&self, bytes: usize) -> Vec<u8> {
        Vec::with_capacity(bytes)
    }

    fn send(&self, message: EncodedMessage) -> Result<()> {
        let text = match SeriesResponse::parse_from_bytes(message.bytes()).unwrap().result.unwrap() {
            Sent::Series(series) => series
                .labels
                .iter()
                .map(|label| format!("{}={}", label.name, label.value))
                .collect::<Vec<_>>()
                .join(" "),
            Sent::Warning(text) => text,
            other => panic!("unexpected: {other:?}"),
        };
        self.0.borrow_mut().push(text);
        Ok(())
    }
}

impl Outlet for Texts {
    fn on_gone(&self, _: Box<dyn Fn() + Send + Sync>) {}

    fn holds(&self, _: usize) {}

    fn outside(&self, wait: &mut dyn FnMut()) {
        wait();
    }

    fn client(&self) -> Arc<dyn Client> {
        unreachable!("only calls for chunks compete for Prometheus")
    }
}

/// A Prometheus with these items, of which it gives as many as it is asked for, and says so.
fn limiting(items: impl IntoIterator<Item = String>) -> (String, Receiver<Request>) {
    let items: Vec<String> = items.into_iter().collect();
    serve(move |request| {
        let limit = request.line.split(['?', '&']).find_map(|param| param.strip_prefix("limit="));
        let limit = limit.map_or(usize::MAX, |limit| limit.parse().unwrap());
        let given = items.get(..limit).unwrap_or(&items).join(",");
        let said = if limit < items.len() { format!("\"careful\",\"{TRUNCATED}\"") } else { "\"careful\"".into() };
        ok("application/json", &format!("{{\"status\":\"success\",\"data\":[{given}],\"warnings\":[{said}]}}"))
    })
}

/// The limits that were asked for, one a request.
fn limits(told: &Receiver<Request>) -> Vec<Option<usize>> {
    let limit =
        |line: &str| Some(line.split(['?', '&']).find_map(|param| param.strip_prefix("limit="))?.parse().unwrap());
    told.try_iter().map(|request| limit(&request.line)).collect()
}

fn state() -> PromState {
    PromState { external_labels: Labels::new([("region", "eu")]), version: "3.5.0".into(), ..PromState::unknown(0) }
}

fn series(origin: &str, limit: i64, without: &[&str], series_max: u64) -> Result<Vec<String>> {
    let request = SeriesRequest {
        max_time: 1,
        skip_chunks: true,
        limit,
        without_replica_labels: without.iter().map(ToString::to_string).collect(),
        matchers: vec![LabelMatcher { name: "a".into(), value: "x".into(), ..Default::default() }],
        ..Default::default()
    };
    let texts = Texts::default();
    let shared = SeriesShared::new(PerCall { series_max, samples_max: 0 }, 0, StoreMetrics::default());
    store::series(&request, &state(), &client(origin), &shared, &texts)?;
    Ok(texts.0.take())
}

/// `n_values` values of `a`, each on `n_replicas` series.
fn replicated(n_values: usize, n_replicas: usize) -> impl Iterator<Item = String> {
    (0..n_values).flat_map(move |a| (0..n_replicas).map(move |r| format!("{{\"a\":\"{a:04}\",\"r\":\"{r}\"}}")))
}

fn expected(n_series: usize) -> Vec<String> {
    let series = (0..n_series).map(|a| format!("a={a:04} region=eu"));
    series.chain(["careful".to_owned()]).collect()
}

#[test]
fn a_limit_is_filled_although_series_become_equal() {
    let (origin, told) = limiting(replicated(40, 10));
    assert_eq!(series(&origin, 3, &["r"], 0).unwrap(), expected(3));
    assert_eq!(limits(&told), [Some(3), Some(24)]);
    assert_eq!(series(&origin, 39, &["r"], 0).unwrap(), expected(39));
    assert_eq!(limits(&told), [Some(39), Some(312), Some(2496)]);
    // There are no more.
    assert_eq!(series(&origin, 100, &["r"], 0).unwrap(), expected(40));
    // Without a limit, all at once.
    assert_eq!(series(&origin, 0, &["r"], 0).unwrap(), expected(40));
    assert_eq!(limits(&told), [Some(100), Some(800), None]);
}

#[test]
fn what_prometheus_says_of_a_limit_is_not_passed_on() {
    let (origin, told) = limiting(replicated(5, 1));
    let texts = series(&origin, 2, &[], 0).unwrap();
    assert_eq!(texts, ["a=0000 r=0 region=eu", "a=0001 r=0 region=eu", "careful"]);
    assert_eq!(limits(&told), [Some(2)]);
}

#[test]
fn what_is_sent_counts_and_not_what_is_left_out() {
    let (origin, _told) = limiting(replicated(5, 10));
    assert_eq!(series(&origin, 0, &["r"], 5).unwrap(), expected(5));
    assert_eq!(series(&origin, 3, &["r"], 3).unwrap(), expected(3));
    let err = series(&origin, 0, &["r"], 4).unwrap_err();
    assert_eq!(err.kind(), Kind::Limit);
}

#[test]
fn names_and_values_come_in_order_with_external_ones_beyond_the_limit() {
    let (origin, told) = limiting(["b", "c", "z"].map(|name| format!("\"{name}\"")));
    let names = |limit: i64| {
        let request = LabelNamesRequest { limit, ..Default::default() };
        let answer = store::label_names(&request, &state(), &client(&origin), &Texts::default()).unwrap();
        let answer = LabelNamesResponse::parse_from_bytes(&answer).unwrap();
        assert_eq!(answer.warnings, ["careful"]);
        answer.names
    };
    assert_eq!(names(0), ["b", "c", "region", "z"]);
    assert_eq!(names(2), ["b", "c", "region"]);
    let request = LabelValuesRequest { label: "x".into(), limit: 2, ..Default::default() };
    let answer = store::label_values(&request, &state(), &client(&origin), &Texts::default()).unwrap();
    let answer = LabelValuesResponse::parse_from_bytes(&answer).unwrap();
    assert_eq!((answer.values, answer.warnings), (vec!["b".into(), "c".into()], vec!["careful".into()]));
    assert_eq!(limits(&told), [None, Some(2), Some(2)]);
}
