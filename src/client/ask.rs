//! One GET over HTTP/1.0, with or without TLS, within a time. Follows nothing and sends nothing twice.

use std::io::{self, ErrorKind};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::secure::{ADVICE, refused, wait};
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_http::address::PrometheusUrl;
use pillion_http::tls::{ClientTls, Handshake, Wire};

/// Headers of an answer that are understood; web configurations add a few.
const HEADERS_MAX: usize = 64;

/// What is asked for, and where.
pub(super) struct Ask<'a> {
    /// Host, port and the path before `path`.
    pub(super) url: &'a PrometheusUrl,
    /// The page, with a slash before it.
    pub(super) path: &'a str,
    /// TLS, if it is spoken.
    pub(super) tls: Option<&'a ClientTls>,
    /// The value of `Authorization`.
    pub(super) authorization: Option<&'a str>,
    /// For the whole exchange.
    pub(super) timeout: Duration,
    /// Most bytes of the answer.
    pub(super) bytes_max: usize,
}

/// Status and body of the answer. `Blocks:` up to the time-out, and while a name is resolved.
///
/// `Errors:` `Retry` where there is no connection or no whole answer in time, `Permanent` where the handshake fails or the
/// answer is none.
pub(super) fn get(ask: &Ask<'_>) -> Result<(u16, Vec<u8>)> {
    let deadline = Instant::now() + ask.timeout;
    let host = ask.url.host.as_str();
    let stream = open(host, ask.url.port, ask.timeout).map_err(|err| Error::new(Kind::Retry, err.to_string()))?;
    let mut wire = match ask.tls {
        Some(tls) => Wire::client(stream, tls, host)?,
        None => Wire::plain(stream),
    };
    loop {
        let wants = match wire.handshake().map_err(|err| Error::new(Kind::Permanent, refused(&err, &ADVICE)))? {
            Handshake::Done => break,
            Handshake::WantsRead => PollFlags::IN,
            Handshake::WantsWrite => PollFlags::OUT,
        };
        if !wait(&mut [PollFd::new(wire.socket(), wants)], Some(deadline)) {
            return Err(Error::new(Kind::Retry, "the TLS handshake took too long; is it an HTTPS port?"));
        }
    }
    send(&mut wire, request(ask).as_bytes(), deadline).context(|| "send the request")?;
    let answer = read(&mut wire, ask.bytes_max, deadline)?;
    parse(&answer, ask.tls.is_some())
}

fn request(ask: &Ask<'_>) -> String {
    let origin = ask.url.origin();
    let host = origin.split_once("://").map_or("", |(_, host)| host);
    let path = format!("{}{}", ask.url.path.trim_end_matches('/'), ask.path);
    let authorization = ask.authorization.map(|value| format!("Authorization: {value}\r\n")).unwrap_or_default();
    let agent = concat!("pillion/", env!("CARGO_PKG_VERSION"));
    // HTTP/1.0, so that the answer comes in one piece and ends with the connection.
    format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: {agent}\r\n{authorization}\r\n")
}

fn open(host: &str, port: u16, timeout: Duration) -> io::Result<TcpStream> {
    let mut failed = None;
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                stream.set_nonblocking(true)?;
                return Ok(stream);
            }
            Err(err) => failed = Some(err),
        }
    }
    Err(failed.unwrap_or_else(|| ErrorKind::NotFound.into()))
}

fn too_long() -> Error {
    Error::new(Kind::Retry, "the answer took too long; --timeout gives it more time")
}

fn send(wire: &mut Wire, mut bytes: &[u8], deadline: Instant) -> Result<()> {
    while !bytes.is_empty() || wire.wants_write() {
        let sent = if bytes.is_empty() { wire.flush().map(|_| 0) } else { wire.write(bytes) };
        match sent {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(err) => return Err(Error::io(&err)),
        }
        let is_left = !bytes.is_empty() || wire.wants_write();
        if is_left && !wait(&mut [PollFd::new(wire.socket(), PollFlags::OUT)], Some(deadline)) {
            return Err(too_long());
        }
    }
    Ok(())
}

/// Everything up to the end of the connection.
fn read(wire: &mut Wire, bytes_max: usize, deadline: Instant) -> Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match wire.read(&mut buffer) {
            Ok(0) => return Ok(answer),
            Ok(n) => answer.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                let mut readable = [PollFd::new(wire.socket(), PollFlags::IN)];
                if !wait(&mut readable, Some(deadline)) {
                    return Err(too_long());
                }
            }
            // A server that speaks TLS closes like this, too.
            Err(err) => return Err(Error::new(Kind::Retry, refused(&err, &ADVICE)).context("read the answer")),
        }
        if answer.len() > bytes_max {
            return Err(Error::new(Kind::Limit, format!("the answer is larger than {bytes_max} bytes")));
        }
        if Instant::now() >= deadline {
            return Err(too_long());
        }
    }
}

fn parse(answer: &[u8], is_tls: bool) -> Result<(u16, Vec<u8>)> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let no_http = |what: &str| {
        let hint = if is_tls { "" } else { "; if it wants TLS, give --tls" };
        Error::new(Kind::Permanent, format!("{what}{hint}"))
    };
    let parsed = head.parse(answer).map_err(|err| no_http(&format!("the answer is not HTTP ({err})")))?;
    let (httparse::Status::Complete(n_head), Some(code)) = (parsed, head.code) else {
        let what = if answer.is_empty() {
            "the server closed the connection without an answer"
        } else {
            "the answer is cut off"
        };
        return Err(no_http(what));
    };
    let body = answer.get(n_head..).unwrap_or_default();
    let stated = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let stated = stated.and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse::<usize>().ok());
    if stated.is_some_and(|stated| stated != body.len()) {
        return Err(Error::new(Kind::Retry, "the answer is cut off"));
    }
    Ok((code, body.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let check = |answer: &str, expected: std::result::Result<(u16, &str), &str>| {
            let got = parse(answer.as_bytes(), false).map(|(code, body)| (code, String::from_utf8(body).unwrap()));
            match (got, expected) {
                (Ok((code, body)), Ok(expected)) => assert_eq!((code, body.as_str()), expected, "{answer}"),
                (Err(err), Err(expected)) => assert_eq!(err.to_string(), expected, "{answer}"),
                (got, _) => panic!("{answer}: {got:?}"),
            }
        };
        check("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", Ok((200, "{}")));
        check("HTTP/1.1 401 Unauthorized\r\n\r\nno", Ok((401, "no")));
        check("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n{}", Err("the answer is cut off"));
        check("HTTP/1.0 200 OK\r\nContent", Err("the answer is cut off; if it wants TLS, give --tls"));
        check("", Err("the server closed the connection without an answer; if it wants TLS, give --tls"));
        check("\x15\x03", Err("the answer is not HTTP (invalid HTTP version); if it wants TLS, give --tls"));
    }

    #[test]
    fn requests() {
        let check = |url: &str, expected: &str| {
            let url = url.parse().unwrap();
            let ask = Ask {
                url: &url,
                path: "/api/v1/status",
                tls: None,
                authorization: Some("Basic eA=="),
                timeout: Duration::from_secs(1),
                bytes_max: 1,
            };
            let text = request(&ask);
            assert!(text.starts_with(expected) && text.ends_with("\r\nAuthorization: Basic eA==\r\n\r\n"), "{text}");
        };
        check("http://a:1", "GET /api/v1/status HTTP/1.0\r\nHost: a:1\r\n");
        check("http://[::1]:1/x/", "GET /x/api/v1/status HTTP/1.0\r\nHost: [::1]:1\r\n");
    }
}
