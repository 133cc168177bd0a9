//! The role of Prometheus: replays a workload from memory as fast as it is taken; like Prometheus it writes each series, an
//! HTTP chunk, by itself, unless it is to write everything at once.
//!
//! Told `load WORKLOAD…@SCALE`, `values N` (of each label from now on), `labels N` (external labels from now on) and `first`
//! (when the first byte of data was sent since it was asked last).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::role::{now_ns, obey, say, spawn};
use crate::workload::{self, Body, Workload, external_labels};

#[derive(Default)]
struct Shared {
    is_flushed: bool,
    read: Mutex<Arc<Body>>,
    json: Mutex<Arc<Vec<u8>>>,
    values: Mutex<Arc<Vec<u8>>>,
    n_labels: Mutex<usize>,
    /// Nanoseconds; 0 before anything was sent.
    first: AtomicU64,
}

/// `generator flushed|whole`
pub fn run(args: &[&str]) {
    let [replay] = args else { panic!("{args:?}") };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    say(&listener.local_addr().unwrap().to_string());
    let shared = Arc::new(Shared { is_flushed: *replay == "flushed", ..Shared::default() });
    let serving = Arc::clone(&shared);
    spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let shared = Arc::clone(&serving);
            spawn(move || {
                // A client that hangs up is no news.
                let _ = serve(&stream, &shared);
            });
        }
    });
    obey(|words| match words {
        ["load", rest @ ..] => {
            let rest = rest.join(" ");
            let (name, scale) = rest.split_once('@').unwrap();
            let workload = Workload::named(name, scale.parse().unwrap()).unwrap();
            let labels_only = workload.n_chunks == 0;
            let read = workload.read_body();
            let json = if labels_only { workload.series_json() } else { Vec::new() };
            let n_bytes = if labels_only { json.len() } else { read.bytes.len() };
            *shared.read.lock().unwrap() = Arc::new(read);
            *shared.json.lock().unwrap() = Arc::new(json);
            n_bytes.to_string()
        }
        ["values", n] => {
            let json = workload::values_json(n.parse().unwrap());
            *shared.values.lock().unwrap() = Arc::new(json);
            String::new()
        }
        ["labels", n] => {
            *shared.n_labels.lock().unwrap() = n.parse().unwrap();
            String::new()
        }
        ["first"] => shared.first.swap(0, Ordering::SeqCst).to_string(),
        other => panic!("{other:?}"),
    });
}

fn serve(mut stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let lower = head.to_ascii_lowercase();
        let length = lower
            .split_once("content-length:")
            .map_or(0, |(_, rest)| rest.lines().next().unwrap_or_default().trim().parse().unwrap());
        reader.read_exact(&mut vec![0; length])?;
        let path = head.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default();
        match path {
            "/api/v1/read" => {
                let body = Arc::clone(&shared.read.lock().unwrap());
                stream.write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-streamed-protobuf; \
                      proto=prometheus.ChunkedReadResponse\r\nTransfer-Encoding: chunked\r\n\r\n",
                )?;
                shared.note_first();
                let ends = if shared.is_flushed { body.ends.as_slice() } else { &[body.bytes.len()] };
                let mut start = 0;
                for end in ends {
                    stream.write_all(&body.bytes[start..*end])?;
                    start = *end;
                }
            }
            _ if path == "/api/v1/series" || path.starts_with("/api/v1/label/") => {
                let body = if path == "/api/v1/series" { &shared.json } else { &shared.values };
                let body = Arc::clone(&body.lock().unwrap());
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                )?;
                shared.note_first();
                stream.write_all(&body)?;
            }
            _ => {
                let body = page(path, *shared.n_labels.lock().unwrap());
                let status = if body.is_empty() { "404 Not Found" } else { "200 OK" };
                write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
            }
        }
        if lower.contains("connection: close") {
            return Ok(());
        }
    }
}

impl Shared {
    fn note_first(&self) {
        let _ = self.first.compare_exchange(0, now_ns(), Ordering::SeqCst, Ordering::SeqCst);
    }
}

fn page(path: &str, n_labels: usize) -> String {
    let json = |data: &str| format!(r#"{{"status":"success","data":{data}}}"#);
    match path {
        "/metrics" => "prometheus_tsdb_lowest_timestamp_seconds 0\n".into(),
        "/api/v1/status/buildinfo" => json(r#"{"version":"3.5.0"}"#),
        "/api/v1/status/flags" => json("{}"),
        // Asked to learn whether a label of the series has the name of an external one. None has.
        "/api/v1/labels" => {
            json(r#"["__name__","code","container","handler","instance","job","method","namespace","pod"]"#)
        }
        "/api/v1/status/config" => {
            let labels: String =
                external_labels(n_labels).iter().map(|(name, value)| format!("    {name}: {value}\n")).collect();
            let heading = if labels.is_empty() { "" } else { "  external_labels:\n" };
            json(&format!("{{\"yaml\":{:?}}}", format!("global:\n  scrape_interval: 15s\n{heading}{labels}")))
        }
        _ => String::new(),
    }
}
