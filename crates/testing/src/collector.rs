//! An OpenTelemetry collector that takes spans over HTTP, and answers as a test wants it to.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use flate2::read::GzDecoder;
use pillion_base::threads::spawn_thread;

use crate::otlp::{self, Span};

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How requests are answered from now on.
#[derive(Debug, Clone)]
pub enum Manner {
    /// All spans are taken.
    Take,
    /// All but so many, for this reason.
    TakeBut(u8, &'static str),
    /// This status, with these further lines of the head, and this body.
    Refuse(u16, &'static str, &'static str),
    /// Nothing is ever answered.
    Hang,
}

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Request {
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub spans: Vec<Span>,
}

/// The collector; it listens until the process ends.
pub struct Collector {
    pub address: SocketAddr,
    pub requests: Receiver<Request>,
    manner: Arc<Mutex<Manner>>,
}

impl Collector {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, requests) = unbounded();
        let manner = Arc::new(Mutex::new(Manner::Take));
        let current = Arc::clone(&manner);
        spawn_thread("collector", None, move || {
            for stream in listener.incoming() {
                let (Ok(stream), tell, manner) = (stream, tell.clone(), Arc::clone(&current)) else { continue };
                // A client that goes away ends its thread.
                spawn_thread("collector-connection", None, move || drop(serve(&stream, &tell, &manner))).unwrap();
            }
        })
        .unwrap();
        Collector { address, requests, manner }
    }

    /// Answers in another way from the next request on.
    pub fn set(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    /// The next request.
    pub fn next(&self) -> Request {
        self.requests.recv_timeout(PATIENCE).expect("a request comes")
    }

    /// The spans that come until `enough` holds for them.
    pub fn spans_until(&self, enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let deadline = Instant::now() + PATIENCE;
        let mut spans = Vec::new();
        while !enough(&spans) {
            match self.requests.recv_deadline(deadline) {
                Ok(request) => spans.extend(request.spans),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => panic!("no more than {spans:#?}"),
            }
        }
        spans
    }
}

/// Serves one connection until it ends.
fn serve(stream: &TcpStream, tell: &Sender<Request>, manner: &Mutex<Manner>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        assert!(line.starts_with("POST "), "{line}");
        let mut headers = BTreeMap::new();
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        assert_eq!(headers["content-type"], "application/x-protobuf");
        let mut body = vec![0; headers["content-length"].parse().unwrap()];
        reader.read_exact(&mut body)?;
        if headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip") {
            let compressed = std::mem::take(&mut body);
            GzDecoder::new(compressed.as_slice()).read_to_end(&mut body)?;
        }
        let manner = manner.lock().unwrap().clone();
        let _ = tell.send(Request { path, headers, spans: otlp::spans(&body) });
        let (status, more, body) = match manner {
            Manner::Take => (200, "", Vec::new()),
            Manner::TakeBut(n_spans, text) => {
                let n_text = u8::try_from(text.len()).unwrap();
                let head = [0x0a, n_text + 4, 0x08, n_spans, 0x12, n_text];
                (200, "", [&head, text.as_bytes()].concat())
            }
            Manner::Refuse(status, more, body) => (status, more, body.as_bytes().to_vec()),
            Manner::Hang => {
                line.clear();
                // Ends with the client.
                reader.read_line(&mut line)?;
                return Ok(());
            }
        };
        let head = format!("HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n{more}\r\n", body.len());
        (&mut &*stream).write_all(&[head.as_bytes(), &body].concat())?;
        line.clear();
    }
    Ok(())
}
