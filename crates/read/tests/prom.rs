//! The client of Prometheus against servers that say what a test wants: redirects, and how many connections it takes.

#![allow(clippy::unwrap_used)] // Helpers of tests unwrap as tests do.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use pillion_base::error::Kind;
use pillion_read::prom::{Answer, PromClient, PromUrl, ReadAnswer};

/// A request as the server saw it.
#[derive(Debug, Clone, Default)]
struct Request {
    /// Number of the connection.
    connection: usize,
    /// `GET /path?query`
    line: String,
    authorization: Option<String>,
    body: Vec<u8>,
}

/// A server; `answer` gives head and body of the answer to a request.
fn serve(answer: impl Fn(&Request) -> String + Send + Clone + 'static) -> (String, Receiver<Request>) {
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

fn ok(kind: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn redirect(status: u16, location: &str) -> String {
    format!("HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 5\r\n\r\nmoved")
}

const STREAMED: &str = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse";

/// A server whose paths below `/api` are redirected below `/prom/api`.
fn moved(status: u16) -> (String, Receiver<Request>) {
    serve(move |request| {
        let path = request.line.split(' ').nth(1).unwrap();
        match path.strip_prefix("/prom") {
            None => redirect(status, &format!("/prom{path}")),
            Some("/api/v1/read") => ok(STREAMED, ""),
            Some(_) => ok("application/json", r#"{"status":"success","data":["a"]}"#),
        }
    })
}

fn client(origin: &str) -> PromClient {
    let base = PromUrl {
        origin: origin.to_owned(),
        authorization: Some("Basic secret".to_owned()),
        path: String::new(),
        query: String::new(),
    };
    PromClient::new(base, Duration::from_secs(10)).unwrap()
}

fn names(client: &PromClient) -> Answer<Vec<String>> {
    client.call().json("/api/v1/labels", &[("limit", "1".to_owned())]).unwrap()
}

/// Reads frames to the end; how many there were.
fn read(client: &PromClient, body: &[u8]) -> pillion_base::error::Result<usize> {
    let call = client.call();
    let ReadAnswer::Streamed(mut frames) = call.read(body)? else { panic!("not streamed") };
    let (mut n_frames, mut frame) = (0, Vec::new());
    while frames.read_frame(&mut frame)? {
        n_frames += 1;
    }
    Ok(n_frames)
}

#[test]
fn a_redirect_within_the_server_is_followed_with_body_and_password() {
    for status in [307, 308] {
        let (origin, told) = moved(status);
        let client = client(&origin);
        assert_eq!(read(&client, b"what is asked").unwrap(), 0);
        assert_eq!(names(&client).data, ["a"]);
        let requests: Vec<Request> = told.try_iter().collect();
        let lines: Vec<&str> = requests.iter().map(|request| request.line.as_str()).collect();
        let expected = [
            "POST /api/v1/read",
            "POST /prom/api/v1/read",
            "GET /api/v1/labels?limit=1",
            "GET /prom/api/v1/labels?limit=1",
        ];
        assert_eq!(lines, expected);
        assert!(requests.iter().all(|request| request.authorization.as_deref() == Some("Basic secret")));
        assert!(requests[..2].iter().all(|request| request.body == b"what is asked"));
        assert!(requests.iter().all(|request| request.connection == 0), "{requests:?}");
    }
}

#[test]
fn a_redirect_elsewhere_is_an_error_that_names_the_url() {
    let (elsewhere, told) = moved(307);
    let location = format!("{elsewhere}/prom/api/v1/read");
    let (origin, _told) = serve(move |_| redirect(308, &location));
    let err = read(&client(&origin), b"x").unwrap_err();
    assert_eq!(err.kind(), Kind::Permanent);
    assert!(err.to_string().contains(&format!("set --prometheus.url={elsewhere}/prom")), "{err}");
    assert_eq!(told.try_iter().count(), 0, "nothing may be sent there");
}

#[test]
fn a_post_that_would_become_a_get_is_an_error_and_a_get_is_not() {
    let (origin, _told) = moved(302);
    let client = client(&origin);
    let err = read(&client, b"x").unwrap_err();
    assert!(err.to_string().contains(&format!("set --prometheus.url={origin}/prom")), "{err}");
    assert_eq!(names(&client).data, ["a"]);
}

#[test]
fn redirects_without_end_are_an_error() {
    let (origin, told) = serve(|_| redirect(307, "/api/v1/read"));
    let err = read(&client(&origin), b"x").unwrap_err();
    assert!(err.to_string().contains("followed too often"), "{err}");
    assert_eq!(told.try_iter().count(), 4);
}

#[test]
fn the_heartbeat_follows_too_and_says_what_it_cannot_follow() {
    let (origin, _told) = serve(|request| match request.line.as_str() {
        "GET /api/v1/status/buildinfo" => redirect(301, "/x"),
        "GET /x" => ok("application/json", r#"{"status":"success","data":{"version":"3.0.1"}}"#),
        _ => redirect(301, "https://else.where/prom/api/v1/status/flags"),
    });
    let client = client(&origin);
    assert_eq!(client.build_version().unwrap(), "3.0.1");
    let err = client.flags().unwrap_err();
    assert!(err.to_string().contains("set --prometheus.url=https://else.where/prom"), "{err}");
}

#[test]
fn calls_share_a_connection() {
    let (origin, told) = serve(|_| ok("application/json", r#"{"status":"success","data":["a"]}"#));
    let client = client(&origin);
    for _ in 0..100 {
        assert_eq!(names(&client).data, ["a"]);
    }
    assert!(told.try_iter().all(|request| request.connection == 0));
}
