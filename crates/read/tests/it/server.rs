//! A Prometheus that says what a test wants.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use pillion_base::content::Content;
use pillion_base::secret::Secret;
use pillion_http::client::ClientConfig;
use pillion_read::prom::{PromClient, PromUrl};

/// A request as the server saw it.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Number of the connection.
    pub connection: usize,
    /// `GET /path?query`
    pub line: String,
    pub authorization: Option<String>,
    /// The W3C trace header.
    pub traceparent: Option<String>,
    pub body: Vec<u8>,
}

/// A server; `answer` gives head and body of the answer to a request.
pub fn serve(answer: impl Fn(&Request) -> String + Send + Clone + 'static) -> (String, Receiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = channel();
    spawn(move || {
        for (connection, stream) in listener.incoming().enumerate() {
            let (answer, tell) = (answer.clone(), tell.clone());
            spawn(move || {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while let Some(request) = next_request(&mut reader, connection) {
                    tell.send(request.clone()).unwrap();
                    stream.write_all(answer(&request).as_bytes()).unwrap();
                }
            });
        }
    });
    (origin, told)
}

#[allow(clippy::disallowed_methods)]
fn spawn(body: impl FnOnce() + Send + 'static) {
    std::thread::spawn(body);
}

fn next_request(reader: &mut BufReader<TcpStream>, connection: usize) -> Option<Request> {
    let mut request = Request { connection, ..Request::default() };
    let (mut head, mut n_body) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(": ") {
            match name.to_ascii_lowercase().as_str() {
                "content-length" => n_body = value.parse().unwrap(),
                "traceparent" => request.traceparent = Some(value.to_owned()),
                "authorization" => request.authorization = Some(value.to_owned()),
                _ => {}
            }
        }
        head.push(line);
    }
    request.line = head[0].trim_end_matches(" HTTP/1.1").to_owned();
    request.body = vec![0; n_body];
    reader.read_exact(&mut request.body).unwrap();
    Some(request)
}

/// An answer with this content type.
pub fn ok(kind: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A client with a password.
pub fn client(origin: &str) -> PromClient {
    PromClient::new(url(origin, Some("Basic secret")), Duration::from_secs(10)).unwrap()
}

/// A client with this configuration.
pub fn configured(origin: &str, yaml: &str) -> PromClient {
    PromClient::with_config(url(origin, None), config(yaml), Duration::from_secs(10)).unwrap()
}

/// What the YAML means.
pub fn config(yaml: &str) -> ClientConfig {
    ClientConfig::parse(&Content { origin: "client.yml".into(), text: yaml.into() }).unwrap()
}

/// Where that server is.
pub fn url(origin: &str, authorization: Option<&str>) -> PromUrl {
    let authorization = authorization.map(|value| Secret(value.to_owned()));
    PromUrl { origin: origin.to_owned(), authorization, path: String::new(), query: String::new() }
}
