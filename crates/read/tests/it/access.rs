//! The client of Prometheus with a configuration: who it says it is, what happens when that is replaced, reloads.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pillion_base::error::Result;
use pillion_http::client::basic;
use pillion_read::prom::{Answer, PromClient, ReadAnswer};

use crate::server::{Request, client, config, configured, ok, serve, url};

const UNAUTHORIZED: &str = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 13\r\n\r\nUnauthorized\n";
const NAMES: &str = r#"{"status":"success","data":["a"]}"#;
const VERSION: &str = r#"{"status":"success","data":{"version":"3.0.1"}}"#;
const LONG: Duration = Duration::from_secs(60);

fn names(client: &PromClient) -> Result<Answer<Vec<String>>> {
    client.call().json("/api/v1/labels", &[])
}

/// A server that wants this header, which can be changed.
fn guarded(wanted: &str) -> (String, Arc<Mutex<String>>, Receiver<Request>) {
    let wanted = Arc::new(Mutex::new(wanted.to_owned()));
    let current = Arc::clone(&wanted);
    let (origin, told) = serve(move |request| {
        if request.authorization.as_deref() != Some(current.lock().unwrap().as_str()) {
            return UNAUTHORIZED.into();
        }
        match request.line.as_str() {
            "GET /api/v1/status/buildinfo" => ok("application/json", VERSION),
            "POST /api/v1/read" => ok("application/x-protobuf", "x"),
            "POST /-/reload" => ok("text/plain", ""),
            _ => ok("application/json", NAMES),
        }
    });
    (origin, wanted, told)
}

/// Everything that is asked of Prometheus in one way or another.
fn ask_all(client: &PromClient) {
    assert_eq!(client.build_version().unwrap(), "3.0.1");
    assert_eq!(names(client).unwrap().data, ["a"]);
    let call = client.call();
    let ReadAnswer::Sampled(body) = call.read(b"what is asked", |body| body).unwrap() else { panic!("streamed") };
    assert_eq!(body, b"x");
    client.reload().unwrap();
}

#[test]
fn every_request_says_who_asks() {
    let user = basic("me", "hunter2").0;
    for (yaml, header) in
        [("bearer_token: hunter2", "Bearer hunter2"), ("basic_auth: {username: me, password: hunter2}", user.as_str())]
    {
        let (origin, _wanted, _told) = guarded(header);
        ask_all(&configured(&origin, yaml));
    }
}

#[test]
fn the_user_in_the_url_counts_for_more() {
    let (origin, _wanted, _told) = guarded("Basic url");
    let base = url(&origin, Some("Basic url"));
    let client = PromClient::with_config(base, config("basic_auth: {username: me, password: x}"), LONG).unwrap();
    ask_all(&client);
}

#[test]
fn a_wrong_password_is_an_error_that_says_what_to_change() {
    let (origin, _wanted, told) = guarded("Bearer other");
    let client = configured(&origin, "bearer_token: hunter2");
    let read = client.call().read(b"x", |body| body).map(|_| ());
    for err in [client.build_version().map(|_| ()), names(&client).map(|_| ()), read, client.reload()] {
        let err = err.unwrap_err().to_string();
        assert!(err.contains("401") && err.contains("see basic_auth and bearer_token of"), "{err}");
        assert!(!err.contains("hunter2"), "{err}");
    }
    let connections: Vec<usize> = told.try_iter().map(|request| request.connection).collect();
    // Of calls, the heartbeat, calls again, and a reload.
    assert_eq!(connections, [0, 1, 0, 2], "nothing is asked twice, and connections are kept after errors");
}

#[test]
fn a_password_is_replaced_without_a_call_that_fails() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "old").unwrap();
    let (origin, wanted, told) = guarded("Bearer old");
    let client = configured(&origin, &format!("bearer_token_file: {}", path.display()));
    ask_all(&client);
    assert_eq!(told.try_iter().count(), 4);
    std::fs::write(&path, "new").unwrap();
    // The server is later: each is asked once more, with the one before.
    ask_all(&client);
    assert_eq!(told.try_iter().count(), 8);
    *wanted.lock().unwrap() = "Bearer new".into();
    ask_all(&client);
    let requests: Vec<Request> = told.try_iter().collect();
    assert_eq!(requests.len(), 4);
    assert!(requests.iter().take(1).all(|request| request.connection == 0), "{requests:?}");
}

#[test]
fn a_password_is_replaced_between_two_tries() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "old").unwrap();
    // It takes the new one from the moment when it has seen the old one after the new one.
    let seen = Arc::new(Mutex::new(Vec::new()));
    let shown = Arc::clone(&seen);
    let (origin, _told) = serve(move |request| {
        let mut seen = seen.lock().unwrap();
        seen.push(request.authorization.clone().unwrap());
        match seen.len() {
            2 | 3 => UNAUTHORIZED.into(),
            _ => ok("application/json", NAMES),
        }
    });
    let client = configured(&origin, &format!("bearer_token_file: {}", path.display()));
    names(&client).unwrap();
    std::fs::write(&path, "new").unwrap();
    names(&client).unwrap();
    assert_eq!(*shown.lock().unwrap(), ["Bearer old", "Bearer new", "Bearer old", "Bearer new"]);
}

#[test]
fn a_secret_that_is_not_there_is_named() {
    let (origin, _wanted, told) = guarded("Bearer x");
    let client = configured(&origin, "bearer_token_file: /nowhere/token");
    let err = client.flags().unwrap_err().to_string();
    assert!(err.contains("bearer_token_file: read /nowhere/token: "), "{err}");
    assert_eq!(told.try_iter().count(), 0);
}

#[test]
fn a_reload_says_what_prometheus_says() {
    let answer = Arc::new(Mutex::new(String::new()));
    let current = Arc::clone(&answer);
    let (origin, told) = serve(move |_| current.lock().unwrap().clone());
    let client = client(&origin);
    let reload = |status: &str, text: &str| {
        *answer.lock().unwrap() = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        client.reload().map_err(|err| err.to_string())
    };
    reload("200 OK", "").unwrap();
    let request = told.try_iter().next().unwrap();
    assert_eq!((request.line.as_str(), request.body.len()), ("POST /-/reload", 0));
    let err = reload("500 Internal Server Error", "failed to reload config: bad rule\n").unwrap_err();
    assert!(
        err.ends_with("received non-200 response: 500 Internal Server Error: failed to reload config: bad rule"),
        "{err}"
    );
    for status in ["403 Forbidden", "404 Not Found", "405 Method Not Allowed"] {
        let err = reload(status, "no").unwrap_err();
        assert!(err.contains(status) && err.contains("--web.enable-lifecycle"), "{err}");
    }
    // Anything but 200 is none, as for Thanos.
    reload("204 No Content", "").unwrap_err();
}

#[test]
fn a_reload_is_redirected_within_the_server_only() {
    let (origin, told) = serve(|request| match request.line.as_str() {
        "POST /-/reload" => "HTTP/1.1 308 Moved\r\nLocation: /prom/-/reload\r\nContent-Length: 0\r\n\r\n".into(),
        "POST /prom/-/reload" => ok("text/plain", ""),
        _ => UNAUTHORIZED.into(),
    });
    client(&origin).reload().unwrap();
    assert!(told.try_iter().all(|request| request.connection == 0 && request.authorization.is_some()));
    let (elsewhere, _told) =
        serve(|_| "HTTP/1.1 308 Moved\r\nLocation: https://p.test/prom/-/reload\r\nContent-Length: 0\r\n\r\n".into());
    let err = client(&elsewhere).reload().unwrap_err().to_string();
    assert!(err.ends_with("set --prometheus.url=https://p.test/prom"), "{err}");
}

#[test]
fn a_new_configuration_holds_from_the_next_request_on() {
    let (asked, wait) = channel();
    let (go, may_go) = channel::<()>();
    let may_go = Arc::new(Mutex::new(may_go));
    let (origin, told) = serve(move |request| {
        if request.authorization.as_deref() == Some("Bearer old") && request.line.starts_with("POST") {
            asked.send(()).unwrap();
            may_go.lock().unwrap().recv().unwrap();
            return ok("application/x-protobuf", "late");
        }
        ok("application/json", if request.line.ends_with("buildinfo") { VERSION } else { NAMES })
    });
    let client = configured(&origin, "bearer_token: old\ntransport_config: {max_conns_per_host: 3}");
    assert_eq!(client.reads_max(), Some(3));
    std::thread::scope(|scope| {
        // Its call is under way when the configuration changes, and ends as it began.
        let under_way = scope.spawn(|| match client.call().read(b"x", |body| body).unwrap() {
            ReadAnswer::Sampled(body) => body,
            ReadAnswer::Streamed(_) => panic!("streamed"),
        });
        wait.recv().unwrap();
        assert!(!client.set_config(config("bearer_token: old\ntransport_config: {max_conns_per_host: 3}")).unwrap());
        assert!(client.set_config(config("bearer_token: new")).unwrap());
        assert_eq!(client.reads_max(), None);
        assert_eq!((names(&client).unwrap().data, client.build_version().unwrap()), (vec!["a".into()], "3.0.1".into()));
        go.send(()).unwrap();
        assert_eq!(under_way.join().unwrap(), b"late");
    });
    let shown: Vec<Option<String>> = told.try_iter().map(|request| request.authorization).collect();
    assert_eq!(shown, ["Bearer old", "Bearer new", "Bearer new"].map(|value| Some(value.to_owned())));
    // What cannot be used changes nothing.
    client.set_config(config("tls_config: {ca_file: /nowhere/ca.pem}")).unwrap_err();
    assert_eq!(names(&client).unwrap().data, ["a"]);
    assert_eq!(told.recv().unwrap().authorization.as_deref(), Some("Bearer new"));
}
