//! A Prometheus that says what a test wants it to say, over real sockets.
#![allow(clippy::cast_possible_truncation)]

use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use pillion_proto::prometheus_remote as remote;
use protobuf::{EnumOrUnknown, Message};

/// What a remote read is answered with.
#[derive(Clone)]
pub enum Read_ {
    /// These frames, then a clean end.
    Frames(Vec<Vec<u8>>),
    /// These raw bytes as the body, with this content type.
    Raw(&'static str, Vec<u8>),
    /// This status and body.
    Status(u16, &'static str),
    /// The head and these bytes, then a reset.
    Reset(Vec<u8>),
    /// These frames over and over until the client hangs up.
    Endless(Vec<u8>),
    /// This many series of one chunk of this data, made while they are sent.
    Many(usize, Vec<u8>),
    /// This frame so many times, then these.
    Repeat(usize, Vec<u8>, Vec<Vec<u8>>),
    /// These frames, then silence until the client hangs up.
    Stall(Vec<Vec<u8>>),
    /// Less than the announced content length.
    Short(Vec<u8>, usize),
}

/// The state of the fake, to be changed while it runs.
pub struct State {
    pub external_labels: Vec<(String, String)>,
    /// Whether they are set on what is read, as Prometheus does.
    pub merges: bool,
    pub lowest_timestamp: Option<String>,
    pub version: String,
    pub flags: Vec<(String, String)>,
    pub read: Read_,
    /// Path prefix → status and body, before anything else.
    pub overrides: Vec<(String, u16, String)>,
    pub series: String,
    /// Names for which `/api/v1/label/<name>/values` has a value.
    pub twins: Vec<String>,
    /// Remote reads that are answered at once; the others wait, as in the real one.
    pub read_slots: usize,
    /// What a read is answered with when its request has a matcher of this name and type.
    pub reads_by_matcher: Vec<(String, i32, Read_)>,
}

pub struct FakePrometheus {
    pub addr: SocketAddr,
    pub state: Arc<Mutex<State>>,
    /// Path with query of every request.
    pub requests: Receiver<String>,
    /// The same once a page was answered.
    pub answered: Receiver<String>,
    /// Path and head, in lower case, of each request that says to which trace it belongs.
    #[allow(dead_code)] // Only the tests of tracing look.
    pub traced: Receiver<(String, String)>,
    /// Decoded remote-read requests.
    pub reads: Receiver<remote::ReadRequest>,
    /// One message when a read's connection was found closed by the client.
    pub hang_ups: Receiver<()>,
    down: Arc<AtomicBool>,
    /// Weak, so that the end of a serving thread really closes its socket.
    connections: Arc<Mutex<Vec<Weak<TcpStream>>>>,
}

pub const STREAMED: &str = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse";

impl FakePrometheus {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            external_labels: vec![("region".into(), "eu-west".into()), ("replica".into(), "a".into())],
            merges: true,
            lowest_timestamp: Some("1000".into()),
            version: "2.53.0".into(),
            flags: vec![
                ("storage.tsdb.min-block-duration".into(), "2h".into()),
                ("storage.tsdb.max-block-duration".into(), "2h".into()),
            ],
            read: Read_::Frames(vec![]),
            overrides: vec![],
            series: "[]".into(),
            twins: vec![],
            read_slots: usize::MAX,
            reads_by_matcher: vec![],
        }));
        let (request, requests) = unbounded();
        let (answer, answered) = unbounded();
        let (trace, traced) = unbounded();
        let (read, reads) = unbounded();
        let (hang_up, hang_ups) = unbounded();
        let down = Arc::new(AtomicBool::new(false));
        let connections: Arc<Mutex<Vec<Weak<TcpStream>>>> = Arc::default();
        let told = Told { request, answer, trace, read, hang_up, gate: Arc::default() };
        {
            let (state, down, connections) = (state.clone(), down.clone(), connections.clone());
            spawn(move || {
                for stream in listener.incoming() {
                    let Ok(stream) = stream else { continue };
                    if down.load(Ordering::SeqCst) {
                        continue;
                    }
                    let stream = Arc::new(stream);
                    connections.lock().unwrap().push(Arc::downgrade(&stream));
                    let (state, told, down) = (state.clone(), told.clone(), down.clone());
                    spawn(move || {
                        let _ = serve(&stream, &state, &told, &down);
                    });
                }
            });
        }
        FakePrometheus { addr, state, requests, answered, traced, reads, hang_ups, down, connections }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    /// Closes every connection, now and later, until `up`.
    pub fn go_down(&self) {
        self.down.store(true, Ordering::SeqCst);
        for connection in self.connections.lock().unwrap().drain(..).filter_map(|connection| connection.upgrade()) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    pub fn up(&self) {
        self.down.store(false, Ordering::SeqCst);
    }
}

#[derive(Clone)]
struct Told {
    /// How many reads are being answered.
    gate: Arc<(Mutex<usize>, Condvar)>,
    request: Sender<String>,
    answer: Sender<String>,
    trace: Sender<(String, String)>,
    read: Sender<remote::ReadRequest>,
    hang_up: Sender<()>,
}

impl Told {
    /// Waits for a slot; it is free again when what is returned is dropped.
    fn enter(&self, slots: usize) -> impl Drop + use<> {
        struct Slot(Arc<(Mutex<usize>, Condvar)>);
        impl Drop for Slot {
            fn drop(&mut self) {
                *self.0.0.lock().unwrap() -= 1;
                self.0.1.notify_one();
            }
        }
        let (n_open, freed) = &*self.gate;
        *freed.wait_while(n_open.lock().unwrap(), |n_open| *n_open >= slots).unwrap() += 1;
        Slot(Arc::clone(&self.gate))
    }
}

#[allow(clippy::disallowed_methods)]
fn spawn(body: impl FnOnce() + Send + 'static) {
    std::thread::spawn(body);
}

fn serve(mut stream: &TcpStream, state: &Mutex<State>, told: &Told, down: &AtomicBool) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 || down.load(Ordering::SeqCst) {
            return Ok(());
        }
        let (mut length, mut head) = (0, String::new());
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            line.make_ascii_lowercase();
            head.push_str(&line);
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let target = first.split(' ').nth(1).unwrap_or("").to_owned();
        let path = target.split('?').next().unwrap_or("").to_owned();
        let _ = told.request.send(target.clone());
        if ["traceparent:", "b3:", "x-b3-traceid:", "uber-trace-id:"].iter().any(|name| head.contains(name)) {
            let _ = told.trace.send((path.clone(), head));
        }
        let mut request = remote::ReadRequest::default();
        if path == "/api/v1/read" {
            let plain = snap::raw::Decoder::new().decompress_vec(&body).unwrap();
            request = remote::ReadRequest::parse_from_bytes(&plain).unwrap();
            let _ = told.read.send(request.clone());
        }
        let overridden = {
            let state = state.lock().unwrap();
            state.overrides.iter().find(|(prefix, ..)| path.starts_with(prefix.as_str())).cloned()
        };
        if let Some((_, status, body)) = overridden {
            answer(&mut stream, status, "application/json", body.as_bytes())?;
            continue;
        }
        match path.as_str() {
            "/api/v1/read" => {
                let (read, external) = {
                    let state = state.lock().unwrap();
                    let chosen = state.reads_by_matcher.iter().find(|(name, kind, _)| {
                        request.queries[0].matchers.iter().any(|m| m.name == *name && m.type_.value() == *kind)
                    });
                    let read = chosen.map_or_else(|| state.read.clone(), |(.., read)| read.clone());
                    let external = if state.merges { state.external_labels.clone() } else { vec![] };
                    (read.merged(&external), external)
                };
                let _slot = told.enter(state.lock().unwrap().read_slots);
                answer_read(&mut stream, &read, &external, told)?;
                if !matches!(
                    read,
                    Read_::Frames(_) | Read_::Repeat(..) | Read_::Raw(..) | Read_::Status(..) | Read_::Many(..)
                ) {
                    return Ok(());
                }
            }
            _ => {
                let (status, kind, body) = page(&path, &state.lock().unwrap());
                answer(&mut stream, status, kind, body.as_bytes())?;
                let _ = told.answer.send(path);
            }
        }
    }
}

/// A frame's payload with the external labels of Prometheus set, where the series has none of that name. What is no frame
/// stays as it is.
fn merged(payload: &[u8], external: &[(String, String)]) -> Vec<u8> {
    let Ok(mut frame) = remote::ChunkedReadResponse::parse_from_bytes(payload) else { return payload.to_vec() };
    for series in &mut frame.chunked_series {
        for (name, value) in external {
            if series.labels.iter().all(|label| label.name != *name) {
                // The others stay in their order, whatever it is.
                let at = series.labels.iter().position(|label| label.name > *name).unwrap_or(series.labels.len());
                let label = remote::Label { name: name.clone(), value: value.clone(), ..Default::default() };
                series.labels.insert(at, label);
            }
        }
    }
    frame.write_to_bytes().unwrap()
}

impl Read_ {
    fn merged(self, external: &[(String, String)]) -> Self {
        let one = |payload: Vec<u8>| merged(&payload, external);
        let all = |payloads: Vec<Vec<u8>>| payloads.into_iter().map(one).collect();
        match self {
            Read_::Frames(frames) => Read_::Frames(all(frames)),
            Read_::Repeat(n, frame, then) => Read_::Repeat(n, one(frame), all(then)),
            Read_::Endless(frame) => Read_::Endless(one(frame)),
            Read_::Stall(frames) => Read_::Stall(all(frames)),
            other => other,
        }
    }
}

fn page(path: &str, state: &State) -> (u16, &'static str, String) {
    let json = |data: String| (200, "application/json", format!("{{\"status\":\"success\",\"data\":{data}}}"));
    let pairs = |pairs: &[(String, String)]| {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| format!("{k:?}:{v:?}")).collect();
        format!("{{{}}}", pairs.join(","))
    };
    match path {
        "/metrics" => {
            let line =
                state.lowest_timestamp.as_ref().map(|v| format!("prometheus_tsdb_lowest_timestamp_seconds {v}\n"));
            (200, "text/plain", format!("# some page\n{}", line.unwrap_or_default()))
        }
        "/api/v1/status/buildinfo" => json(format!("{{\"version\":{:?}}}", state.version)),
        "/api/v1/status/flags" => json(pairs(&state.flags)),
        "/api/v1/status/config" => {
            let mut yaml = "global:\n  scrape_interval: 15s\n".to_owned();
            if !state.external_labels.is_empty() {
                yaml.push_str("  external_labels:\n");
                for (name, value) in &state.external_labels {
                    yaml.push_str(&format!("    {name}: {value}\n"));
                }
            }
            json(format!("{{\"yaml\":{yaml:?}}}"))
        }
        "/api/v1/series" => json(state.series.clone()),
        path if path.starts_with("/api/v1/label/") => {
            let name = path.trim_start_matches("/api/v1/label/").trim_end_matches("/values");
            json(if state.twins.iter().any(|twin| twin == name) { r#"["value"]"# } else { "[]" }.into())
        }
        _ => (404, "text/plain", "not found".into()),
    }
}

fn answer(stream: &mut &TcpStream, status: u16, kind: &str, body: &[u8]) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)
}

fn answer_read(
    stream: &mut &TcpStream,
    read: &Read_,
    external: &[(String, String)],
    told: &Told,
) -> std::io::Result<()> {
    let chunked_head = format!("HTTP/1.1 200 OK\r\nContent-Type: {STREAMED}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = |stream: &mut &TcpStream, bytes: &[u8]| {
        stream.write_all(format!("{:x}\r\n", bytes.len()).as_bytes())?;
        stream.write_all(bytes)?;
        stream.write_all(b"\r\n")
    };
    match read {
        Read_::Frames(frames) => {
            stream.write_all(chunked_head.as_bytes())?;
            for payload in frames {
                chunk(stream, &frame(payload))?;
            }
            stream.write_all(b"0\r\n\r\n")
        }
        Read_::Repeat(n, payload, then) => {
            stream.write_all(chunked_head.as_bytes())?;
            let framed = frame(payload);
            for _ in 0..*n {
                chunk(stream, &framed)?;
            }
            for payload in then {
                chunk(stream, &frame(payload))?;
            }
            stream.write_all(b"0\r\n\r\n")
        }
        Read_::Many(n_series, data) => {
            let send_all = || {
                // Without the buffer, the writes of this fake would cost more than what is tested.
                let mut buffered = BufWriter::with_capacity(64 * 1024, *stream);
                buffered.write_all(chunked_head.as_bytes())?;
                // None of the external labels sorts before these.
                let own = [("__name__", "many"), ("instance", "host-1"), ("number", "")];
                let external = external.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                let labels: Vec<_> = own.into_iter().chain(external).collect();
                for number in 0..*n_series {
                    let mut labels = labels.clone();
                    let name = format!("{number:09}");
                    labels[2].1 = &name;
                    let framed = frame(&series(&labels, &[(1, 2, 1, data)]));
                    write!(buffered, "{:x}\r\n", framed.len())?;
                    buffered.write_all(&framed)?;
                    buffered.write_all(b"\r\n")?;
                }
                buffered.write_all(b"0\r\n\r\n")?;
                buffered.flush()
            };
            send_all().inspect_err(|_| {
                let _ = told.hang_up.send(());
            })
        }
        Read_::Raw(kind, body) => answer(stream, 200, kind, body),
        Read_::Status(status, body) => answer(stream, *status, "text/plain", body.as_bytes()),
        Read_::Short(body, missing) => {
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {STREAMED}\r\nContent-Length: {}\r\n\r\n",
                body.len() + missing
            );
            stream.write_all(head.as_bytes())?;
            stream.write_all(body)?;
            stream.shutdown(Shutdown::Both)
        }
        Read_::Reset(bytes) => {
            stream.write_all(chunked_head.as_bytes())?;
            chunk(stream, bytes)?;
            rustix::net::sockopt::set_socket_linger(*stream, Some(Duration::ZERO))?;
            Ok(())
        }
        Read_::Endless(payload) => {
            let framed = frame(payload);
            let mut sent = stream.write_all(chunked_head.as_bytes());
            while sent.is_ok() {
                sent = chunk(stream, &framed);
            }
            let _ = told.hang_up.send(());
            sent
        }
        Read_::Stall(frames) => {
            // The client may hang up before anything could be written.
            let sent = stream
                .write_all(chunked_head.as_bytes())
                .and_then(|()| frames.iter().try_for_each(|payload| chunk(stream, &frame(payload))));
            if sent.is_ok() {
                let mut byte = [0; 1];
                let _ = stream.read(&mut byte);
            }
            let _ = told.hang_up.send(());
            Ok(())
        }
    }
}

/// A payload as it stands on the wire.
pub fn frame(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut len = payload.len();
    while len >= 0x80 {
        out.push((len & 0x7f) as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend(crc32c::crc32c(payload).to_be_bytes());
    out.extend(payload);
    out
}

/// The payload of a frame with one series: labels, and chunks as (min, max, encoding, data).
pub fn series(labels: &[(&str, &str)], chunks: &[(i64, i64, i32, &[u8])]) -> Vec<u8> {
    remote::ChunkedReadResponse {
        chunked_series: vec![remote::ChunkedSeries {
            labels: labels
                .iter()
                .map(|(n, v)| remote::Label { name: (*n).into(), value: (*v).into(), ..Default::default() })
                .collect(),
            chunks: chunks
                .iter()
                .map(|(min, max, kind, data)| remote::Chunk {
                    min_time_ms: *min,
                    max_time_ms: *max,
                    type_: EnumOrUnknown::from_i32(*kind),
                    data: data.to_vec(),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
    .write_to_bytes()
    .unwrap()
}
