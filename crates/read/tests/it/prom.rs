//! The client of Prometheus: redirects, and how many connections it takes.

use std::sync::mpsc::Receiver;

use pillion_base::error::Kind;
use pillion_read::prom::{Answer, PromClient, ReadAnswer};

use crate::server::{Request, client, ok, serve};

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

fn names(client: &PromClient) -> Answer<Vec<String>> {
    client.call().json("/api/v1/labels", &[("limit", "1".to_owned())]).unwrap()
}

/// Reads frames to the end; how many there were.
fn read(client: &PromClient, body: &[u8]) -> pillion_base::error::Result<usize> {
    let call = client.call();
    let ReadAnswer::Streamed(mut frames) = call.read(body, |body| body)? else { panic!("not streamed") };
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

#[test]
fn a_reload_says_what_prometheus_says() {
    let check = |status: &str, body: &'static str, class: &str, expected: &str| {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let (origin, told) = serve(move |_| answer.clone());
        let done = client(&origin).reload().map_err(|err| (err.class().to_owned(), err.to_string()));
        let expected = if class.is_empty() { Ok(()) } else { Err((class.to_owned(), expected.to_owned())) };
        assert_eq!(done, expected, "{status}");
        let asked: Vec<Request> = told.try_iter().collect();
        assert_eq!(asked.len(), 1);
        assert_eq!((asked[0].line.as_str(), asked[0].body.len()), ("POST /-/reload", 0));
        assert_eq!(asked[0].authorization.as_deref(), Some("Basic secret"));
    };
    check("200 OK", "", "", "");
    let text = "received non-200 response: 202 Accepted: soon";
    check("202 Accepted", "soon", "refused", text);
    let text = "received non-200 response: 403 Forbidden: Lifecycle API is not enabled.; have you set \
                `--web.enable-lifecycle` Prometheus flag?";
    check("403 Forbidden", "Lifecycle API is not enabled.\n", "disabled", text);
    let text = "received non-200 response: 500 Internal Server Error: failed to reload config: field x not found";
    check("500 Internal Server Error", "failed to reload config: field x not found\n", "refused", text);
    let text = "received non-200 response: 500 Internal Server Error: one or more errors occurred while applying; \
                Prometheus's log says which";
    check("500 Internal Server Error", "one or more errors occurred while applying", "refused", text);
    let text = "received non-200 response: 503 Service Unavailable: ";
    check("503 Service Unavailable", "", "unreachable", text);

    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = client(&format!("http://{closed}"));
    let err = client.reload().unwrap_err();
    assert_eq!(err.class(), "unreachable");
    assert!(err.to_string().starts_with("reload request failed: "), "{err}");
    client.interrupt();
    assert_eq!(client.reload().unwrap_err().kind(), Kind::Stopped);
}
