//! The made-up data of a workload: what Prometheus would send, byte for byte as it stands on the wire. Pure.
//!
//! As Prometheus does, every frame holds one series or, past 1 MiB of chunks, a part of one, and every frame is an HTTP
//! chunk of its own. A chunk is 120 samples, 162 bytes of noise behind an honest count: nothing on the way looks inside.

use std::fmt::Write;

use pillion_proto::prometheus_remote::{Chunk, ChunkedReadResponse, ChunkedSeries, Label};
use protobuf::{EnumOrUnknown, Message};

/// A shape of data.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    pub name: &'static str,
    pub n_series: usize,
    /// Chunks per series; none means that only labels are asked for.
    pub n_chunks: usize,
}

/// Bytes of an answer, and where each piece ends that Prometheus would write by itself.
#[derive(Default)]
pub struct Body {
    pub bytes: Vec<u8>,
    pub ends: Vec<usize>,
}

/// The workloads at full size.
pub const WORKLOADS: [Workload; 4] = [
    Workload { name: "1000000x1", n_series: 1_000_000, n_chunks: 1 },
    Workload { name: "20000x60", n_series: 20_000, n_chunks: 60 },
    Workload { name: "200x6000", n_series: 200, n_chunks: 6000 },
    Workload { name: "1000000 labels", n_series: 1_000_000, n_chunks: 0 },
];

/// Many label-only calls after each other.
pub const REPEATED_LABELS: Workload = Workload { name: "150000 labels", n_series: 150_000, n_chunks: 0 };

/// Prometheus closes a frame at about this size.
const FRAME_BYTES: usize = 1024 * 1024;
const CHUNK_BYTES: usize = 162;
const CHUNK_MS: i64 = 120 * 15_000;
/// The external labels that Prometheus has when it has 0, 1 or 3.
const EXTERNAL: [(&str, &str); 3] = [("replica", "a"), ("cluster", "eu-west-1"), ("prometheus", "monitoring/k8s")];

impl Workload {
    /// The workload of this name at a share of its full size.
    pub fn named(name: &str, scale: f64) -> Option<Self> {
        WORKLOADS
            .into_iter()
            .chain([REPEATED_LABELS])
            .find(|workload| workload.name == name)
            .map(|workload| workload.scaled(scale))
    }

    /// The same with a share of its series.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    pub fn scaled(self, scale: f64) -> Self {
        Workload { n_series: ((self.n_series as f64 * scale) as usize).max(2), ..self }
    }

    /// The body of a remote read's answer, in the chunked transfer coding.
    pub fn read_body(&self) -> Body {
        let (mut body, mut ends) = (Vec::new(), Vec::new());
        let mut noise = 1_u64;
        for idx in 0..self.n_series {
            let mut left = self.n_chunks;
            loop {
                let n = left.min(FRAME_BYTES / (CHUNK_BYTES + 20));
                let first = self.n_chunks - left;
                let chunks = (first..first + n).map(|at| chunk(at, &mut noise)).collect();
                let labels = labels(idx).map(|(name, value)| Label { name: name.into(), value, ..Default::default() });
                let series = ChunkedSeries { labels: labels.into(), chunks, ..Default::default() };
                put_frame(&ChunkedReadResponse { chunked_series: vec![series], ..Default::default() }, &mut body);
                ends.push(body.len());
                left -= n;
                if left == 0 {
                    break;
                }
            }
        }
        body.extend(b"0\r\n\r\n");
        ends.push(body.len());
        Body { bytes: body, ends }
    }

    /// The answer of `/api/v1/series`.
    pub fn series_json(&self) -> Vec<u8> {
        let mut json = String::from(r#"{"status":"success","data":["#);
        for idx in 0..self.n_series {
            json.push_str(if idx == 0 { "{" } else { ",{" });
            for (at, (name, value)) in labels(idx).into_iter().enumerate() {
                let comma = if at == 0 { "" } else { "," };
                let _ = write!(json, "{comma}\"{name}\":\"{value}\"");
            }
            json.push('}');
        }
        json.push_str("]}");
        json.into_bytes()
    }
}

/// The answer of `/api/v1/label/…/values`.
pub fn values_json(n: usize) -> Vec<u8> {
    let mut json = String::from(r#"{"status":"success","data":["#);
    for idx in 0..n {
        let _ = write!(json, "{}\"shop-7f8b-{idx:07}\"", if idx == 0 { "" } else { "," });
    }
    json.push_str("]}");
    json.into_bytes()
}

/// Series in OpenMetrics text, one sample each second from the first on, as `promtool` makes blocks of it.
pub fn history(n_series: usize, n_samples: i64, first_seconds: i64) -> String {
    let mut text = String::from("# TYPE http_request_duration_seconds_count gauge\n");
    for idx in 0..n_series {
        let [(_, name), labels @ ..] = labels(idx);
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        for at in 0..n_samples {
            let _ = writeln!(text, "{name}{{{}}} {} {}", labels.join(","), idx % 97, first_seconds + at);
        }
    }
    text
}

/// The first `n` external labels.
pub fn external_labels(n: usize) -> Vec<(&'static str, &'static str)> {
    EXTERNAL.into_iter().take(n).collect()
}

/// A label set as a container of a Kubernetes cluster has it, in order within itself and with its neighbours.
fn labels(idx: usize) -> [(&'static str, String); 9] {
    [
        ("__name__", "http_request_duration_seconds_count".into()),
        ("code", "200".into()),
        ("container", "server".into()),
        ("handler", "/api/v1/items".into()),
        ("instance", format!("host-{:05}:9090", idx / 100)),
        ("job", "shop".into()),
        ("method", "GET".into()),
        ("namespace", "production".into()),
        ("pod", format!("shop-7f8b-{idx:07}")),
    ]
}

fn chunk(at: usize, noise: &mut u64) -> Chunk {
    let mut data = vec![0, 120];
    data.resize_with(CHUNK_BYTES, || {
        *noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        noise.to_be_bytes()[0]
    });
    let min_time_ms = i64::try_from(at).unwrap() * CHUNK_MS;
    Chunk {
        min_time_ms,
        max_time_ms: min_time_ms + CHUNK_MS - 15_000,
        type_: EnumOrUnknown::from_i32(1),
        data,
        ..Default::default()
    }
}

fn put_frame(message: &ChunkedReadResponse, body: &mut Vec<u8>) {
    let payload = message.write_to_bytes().unwrap();
    let mut frame = Vec::with_capacity(payload.len() + 9);
    let mut len = payload.len();
    while len >= 0x80 {
        frame.push((len & 0x7f) as u8 | 0x80);
        len >>= 7;
    }
    frame.push(len as u8);
    frame.extend(crc32c::crc32c(&payload).to_be_bytes());
    frame.extend(payload);
    body.extend(format!("{:x}\r\n", frame.len()).into_bytes());
    body.extend(frame);
    body.extend(b"\r\n");
}
