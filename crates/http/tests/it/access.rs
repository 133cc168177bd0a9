//! A client's configuration at work: TLS, passwords and tokens out of files that change, proxies, time-outs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use pillion_base::content::Content;
use pillion_base::error::Kind;
use pillion_base::secret::Secret;
use pillion_http::client::{self, Access, ClientConfig, Line, Lines, basic};
use pillion_http::tls::{ClientAuth, Handshake, ServerTls, Wire};
use rustix::event::PollFlags;

use crate::certificates::Certificates;
use crate::gathering::read_head;
use crate::pair::{read, server, wait};

#[allow(clippy::disallowed_methods)]
fn spawn(body: impl FnOnce() + Send + 'static) {
    std::thread::spawn(body);
}

/// A server with TLS, which says hello as often as it is asked. One message for each handshake, and how it ended.
fn secure(tls: ServerTls) -> (SocketAddr, Arc<Mutex<ServerTls>>, Receiver<Result<(), String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tls, (tell, told)) = (Arc::new(Mutex::new(tls)), channel());
    let current = Arc::clone(&tls);
    spawn(move || {
        for stream in listener.incoming() {
            let (stream, tls, tell) = (stream.unwrap(), current.lock().unwrap().clone(), tell.clone());
            spawn(move || {
                stream.set_nonblocking(true).unwrap();
                let mut wire = Wire::server(stream, &tls).unwrap();
                let outcome = shake(&mut wire);
                let is_done = outcome.is_ok();
                let _ = tell.send(outcome);
                if is_done {
                    converse(&mut wire);
                }
            });
        }
    });
    (address, tls, told)
}

fn shake(wire: &mut Wire) -> Result<(), String> {
    loop {
        let wants = match wire.handshake().map_err(|err| err.to_string())? {
            Handshake::Done => return Ok(()),
            Handshake::WantsRead => PollFlags::IN,
            Handshake::WantsWrite => PollFlags::OUT,
        };
        wait(&[(wire.socket(), wants)]);
    }
}

fn converse(wire: &mut Wire) {
    let mut head = Vec::new();
    let mut buf = [0; 4096];
    while let Ok(n_read @ 1..) = read(wire, &mut buf) {
        head.extend_from_slice(buf.get(..n_read).unwrap());
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
            assert_eq!(wire.write(answer).unwrap(), answer.len());
        }
    }
}

fn open(yaml: &str) -> pillion_base::error::Result<Access> {
    let content = Content { origin: "client.yml".into(), text: yaml.into() };
    Access::open(ClientConfig::parse(&content)?, true)
}

fn ask(line: &Line, url: &str) -> Result<String, String> {
    let response = line.exchange(|agent| agent.get(url).call()).map_err(|err| err.to_string())?;
    let mut text = String::new();
    response.into_body().into_reader().read_to_string(&mut text).map_err(|err| err.to_string())?;
    Ok(text)
}

fn once(access: &Access, url: &str) -> Result<String, String> {
    ask(&Line::new(client::USER_AGENT, access, None), url)
}

fn made() -> Certificates {
    let made = Certificates::new();
    made.authority("other");
    made.leaf("here", "ca", "DNS:here.test", 1);
    made.leaf("next", "other", "DNS:here.test", 1);
    made.leaf("me", "ca", "DNS:me.test", 1);
    made
}

/// Puts the files of `from` one behind the other in the place of `to`, at once.
fn replace(made: &Certificates, from: &[&str], to: &str) {
    let texts: Vec<u8> = from.iter().flat_map(|name| std::fs::read(made.path(name)).unwrap()).collect();
    std::fs::write(made.path("new"), texts).unwrap();
    std::fs::rename(made.path("new"), made.path(to)).unwrap();
}

#[test]
fn the_server_must_be_who_it_should_be() {
    let made = made();
    let (address, _tls, _told) = secure(server(&made, "here", |_| {}));
    let url = format!("https://{address}/");
    let dir = made.dir().display();
    let with = |keys: &str| once(&open(&format!("tls_config: {{{keys}}}")).unwrap(), &url);
    assert_eq!(with(&format!("ca_file: {dir}/ca.pem, server_name: here.test")).unwrap(), "hello");
    assert_eq!(with("insecure_skip_verify: true").unwrap(), "hello");
    let err = with(&format!("ca_file: {dir}/ca.pem")).unwrap_err();
    assert!(err.contains("is for another host: not for 127.0.0.1, but for here.test"), "{err}");
    let err = with(&format!("ca_file: {dir}/other.pem, server_name: here.test")).unwrap_err();
    assert!(err.contains("is not signed by an authority that is trusted here"), "{err}");
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", plain.local_addr().unwrap());
    spawn(move || {
        let (mut stream, _) = plain.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    let err = once(&open("tls_config: {insecure_skip_verify: true}").unwrap(), &url).unwrap_err();
    assert!(err.contains("the server does not speak TLS"), "{err}");
}

/// What openssl(1) makes of one line: a certificate that signs itself and could sign others.
#[test]
fn a_certificate_may_stand_for_itself() {
    let made = made();
    std::fs::write(made.path("ext"), "subjectAltName=DNS:here.test\nbasicConstraints=critical,CA:TRUE\n").unwrap();
    for (name, days) in [("self", 1), ("past", -1)] {
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        made.openssl(&format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        let sign = format!("-signkey {name}.key -days {days} -extfile ext");
        made.openssl(&format!("x509 -req -in {name}.csr {sign} -out {name}.pem"));
    }
    let dir = made.dir().display();
    let ask = |name: &str, trusted: &str, host: &str| {
        let (address, _tls, _told) = secure(server(&made, name, |_| {}));
        let yaml = format!("tls_config: {{ca_file: {dir}/{trusted}.pem, server_name: {host}}}");
        once(&open(&yaml).unwrap(), &format!("https://{address}/"))
    };
    assert_eq!(ask("self", "self", "here.test").unwrap(), "hello");
    for (name, trusted, host, part) in [
        ("self", "self", "there.test", "is for another host: not for there.test, but for here.test"),
        ("self", "ca", "here.test", "is not signed by an authority that is trusted here"),
        ("past", "past", "here.test", "the server's certificate has expired on "),
    ] {
        let err = ask(name, trusted, host).unwrap_err();
        assert!(err.contains(part), "{name} {trusted} {host}: {err}");
    }
}

#[test]
fn the_client_shows_its_certificate() {
    let made = made();
    let tls = server(&made, "here", |settings| {
        settings.client_ca = Some(made.pem("ca.pem"));
        settings.client_auth = ClientAuth::RequireAndVerify;
    });
    let (address, _tls, _told) = secure(tls);
    let url = format!("https://{address}/");
    let dir = made.dir().display();
    let with = |keys: &str| {
        once(&open(&format!("tls_config: {{ca_file: {dir}/ca.pem, server_name: here.test{keys}}}")).unwrap(), &url)
    };
    assert_eq!(with(&format!(", cert_file: {dir}/me.pem, key_file: {dir}/me.key")).unwrap(), "hello");
    let err = with("").unwrap_err();
    assert!(err.contains("the server wants a certificate, and we sent none"), "{err}");
}

#[test]
fn files_that_are_missing_at_the_start() {
    let made = made();
    let dir = made.dir().display();
    for (keys, part) in [
        (format!("ca_file: {dir}/none.pem"), "tls_config.ca_file: read "),
        (format!("cert_file: {dir}/me.pem, key_file: {dir}/none.key"), "tls_config.key_file: read "),
        (format!("cert_file: {dir}/me.pem, key_file: {dir}/here.key"), "do not belong together"),
        (format!("ca_file: {dir}/ca.key"), "ca.key holds no certificate (PEM)"),
    ] {
        let err = open(&format!("tls_config: {{{keys}}}")).unwrap_err();
        assert!(err.kind() == Kind::Permanent && err.to_string().contains(part), "{err}");
    }
}

#[test]
fn certificates_are_replaced_under_load() {
    let made = made();
    replace(&made, &["ca.pem"], "trusted.pem");
    replace(&made, &["me.pem"], "shown.pem");
    replace(&made, &["me.key"], "shown.key");
    made.leaf("again", "ca", "DNS:again.test", 1);
    let (address, tls, told) = secure(server(&made, "here", |_| {}));
    let url = format!("https://{address}/");
    let dir = made.dir().display();
    let yaml = format!(
        "tls_config: {{ca_file: {dir}/trusted.pem, server_name: here.test, cert_file: {dir}/shown.pem, \
         key_file: {dir}/shown.key}}"
    );
    let lines = Lines::new(client::USER_AGENT, open(&yaml).unwrap());
    let calls = |n_calls: usize| {
        for _ in 0..n_calls {
            assert_eq!(ask(lines.take().line(), &url).unwrap(), "hello");
        }
    };
    calls(10);
    assert_eq!(told.try_iter().count(), 1, "one connection is enough");
    replace(&made, &["ca.pem", "other.pem"], "trusted.pem");
    calls(10);
    assert_eq!(told.try_iter().count(), 1, "what was opened with other authorities is not used again");
    *tls.lock().unwrap() = server(&made, "next", |_| {});
    calls(10);
    assert_eq!(told.try_iter().count(), 0, "a connection that is open stays");
    replace(&made, &["other.pem"], "trusted.pem");
    calls(10);
    // Half of a pair, half of a file, and no file at all change nothing.
    replace(&made, &["again.pem"], "shown.pem");
    calls(5);
    replace(&made, &["again.key"], "shown.key");
    calls(5);
    assert_eq!(told.try_iter().filter(Result::is_ok).count(), 2);
    let whole = std::fs::read(made.path("trusted.pem")).unwrap();
    std::fs::write(made.path("trusted.pem"), whole.get(..whole.len() / 2).unwrap()).unwrap();
    calls(5);
    std::fs::remove_file(made.path("trusted.pem")).unwrap();
    calls(5);
    assert_eq!(told.try_iter().count(), 0);
    // An authority that is trusted no longer.
    replace(&made, &["ca.pem"], "trusted.pem");
    let err = ask(lines.take().line(), &url).unwrap_err();
    assert!(err.contains("is not signed by an authority that is trusted here"), "{err}");
}

#[test]
fn passwords_and_tokens_are_read_when_they_are_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    let open = |keys: &str| {
        let text = keys.replace("PATH", &path.display().to_string());
        let content = Content { origin: "client.yml".into(), text };
        Access::open(ClientConfig::parse(&content).unwrap(), false).unwrap()
    };
    let shown = |access: &Access| access.authorization().map(|value| value.map(|value| value.0.clone()));
    let (user, token) = (open("basic_auth: {username: me, password_file: PATH}"), open("bearer_token_file: PATH"));
    for access in [&user, &token] {
        let err = access.authorization().unwrap_err();
        assert_eq!(err.kind(), Kind::Retry);
        assert!(err.to_string().contains(&path.display().to_string()), "{err}");
    }
    for secret in ["hunter2", "hunter3"] {
        std::fs::write(&path, format!("{secret}\n")).unwrap();
        assert_eq!(shown(&user).unwrap(), Some(basic("me", secret).0));
        assert_eq!(shown(&token).unwrap(), Some(format!("Bearer {secret}")));
    }
    // For a short time the file and the server may differ.
    let (now, before) = (Secret("Bearer hunter3".into()), Secret("Bearer hunter2".into()));
    assert_eq!(token.instead_of(&now).as_deref(), Some(&before));
    assert_eq!(token.instead_of(&before).as_deref(), Some(&now));
    for bad in ["", " \n", "a\nb"] {
        std::fs::write(&path, bad).unwrap();
        assert_eq!(shown(&token).unwrap(), Some("Bearer hunter3".into()), "{bad:?}");
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(shown(&token).unwrap(), Some("Bearer hunter3".into()));
    assert_eq!(shown(&open("bearer_token: t")).unwrap(), Some("Bearer t".into()));
    assert_eq!(shown(&open("")).unwrap(), None);
}

/// A proxy, and the first lines of what it was asked for with its password.
fn proxy() -> (SocketAddr, Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = channel();
    spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, tell) = (stream.unwrap(), tell.clone());
            spawn(move || {
                while stream.peek(&mut [0]).unwrap_or(0) > 0 {
                    let head = String::from_utf8(read_head(&mut stream)).unwrap();
                    let password = head.lines().find_map(|line| line.strip_prefix("Proxy-Authorization: "));
                    let line = head.lines().next().unwrap().to_owned();
                    tell.send((line.clone(), password.unwrap_or_default().to_owned())).unwrap();
                    match line.strip_prefix("CONNECT ") {
                        Some(rest) => return tunnel(stream, rest.split(' ').next().unwrap()),
                        None => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").unwrap(),
                    }
                }
            });
        }
    });
    (address, told)
}

fn tunnel(mut near: TcpStream, to: &str) {
    let Ok(mut far) = TcpStream::connect(to) else {
        let _ = near.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n");
        return;
    };
    near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    let (mut back, mut from) = (near.try_clone().unwrap(), far.try_clone().unwrap());
    spawn(move || {
        let _ = std::io::copy(&mut from, &mut back);
    });
    let _ = std::io::copy(&mut near, &mut far);
}

#[test]
fn through_a_proxy() {
    let made = made();
    let (address, told) = proxy();
    let dir = made.dir().display();
    let yaml = format!(
        "proxy_url: 'http://me:p%40ss@{address}'\ntls_config: {{ca_file: {dir}/ca.pem, server_name: here.test}}"
    );
    let config = ClientConfig::parse(&Content { origin: "client.yml".into(), text: yaml }).unwrap();
    let password = basic("me", "p@ss").0;
    // Without TLS the request itself goes to the proxy, and the connection is kept.
    let plain = Line::new(client::USER_AGENT, &Access::open(config.clone(), false).unwrap(), None);
    for _ in 0..3 {
        assert_eq!(ask(&plain, "http://nowhere.test:9090/x?y").unwrap(), "hello");
        let line = "GET http://nowhere.test:9090/x?y HTTP/1.1".to_owned();
        assert_eq!(told.recv().unwrap(), (line, password.clone()));
    }
    let (target, _tls, _told) = secure(server(&made, "here", |_| {}));
    let tls = Line::new(client::USER_AGENT, &Access::open(config, true).unwrap(), None);
    for _ in 0..3 {
        assert_eq!(ask(&tls, &format!("https://{target}/")).unwrap(), "hello");
    }
    assert_eq!(told.recv().unwrap(), (format!("CONNECT {target} HTTP/1.1"), password));
    assert!(told.try_recv().is_err(), "one tunnel is enough");
    let err = ask(&tls, "https://127.0.0.1:1/").unwrap_err();
    assert!(err.contains("proxy server responded 502"), "{err}");
}

#[test]
fn waits_end_in_time() {
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let err = |yaml: &str, url: &str, is_tls: bool| {
        let content = Content { origin: "client.yml".into(), text: format!("transport_config: {{{yaml}}}") };
        let access = Access::open(ClientConfig::parse(&content).unwrap(), is_tls).unwrap();
        let line = Line::new(client::USER_AGENT, &access, None);
        line.exchange(|agent| agent.get(url).call()).unwrap_err()
    };
    let (plain, secure) = (format!("http://{address}/"), format!("https://{address}/"));
    let err = [err("response_header_timeout: 20ms", &plain, false), err("tls_handshake_timeout: 20ms", &secure, true)];
    assert!(err.iter().all(|err| matches!(err, ureq::Error::Timeout(_))), "{err:?}");
}
