//! Reads the head of an HTTP/1 request. Pure.

use zeroize::Zeroizing;

use crate::limits;

/// Largest request body that is read and dropped.
const BODY_BYTES_MAX: u64 = 64 * 1024;
/// More header fields than this are refused.
const FIELDS_MAX: usize = 64;

/// A request head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The method as sent.
    pub method: String,
    /// The path, without query, and without scheme and host.
    pub path: String,
    /// The request is of HTTP/1.0.
    pub http_10: bool,
    /// The client asks for the end of the connection, or does not know that it could stay.
    pub close: bool,
    /// Bytes of body that follow.
    pub body_bytes: u64,
    /// Bytes of the head itself.
    pub head_bytes: usize,
    /// `Authorization`.
    pub authorization: Option<Authorization>,
    /// `Accept`, empty when there is none.
    pub accept: String,
    /// `Accept-Encoding`, empty when there is none.
    pub accept_encoding: String,
}

/// The value of `Authorization`, which `Debug` does not show and which is wiped from memory at its end.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorization(pub(crate) Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<hidden>")
    }
}

/// What the bytes so far are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// The head is not complete.
    Partial,
    /// A head.
    Complete(Head),
    /// Not a request that is served: the status to answer before closing.
    Refused(u16, &'static str),
}

/// Parses the beginning of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(n)) if n <= limits::REQUEST_HEAD_BYTES_MAX => {
            head(&request, n).unwrap_or_else(|(status, text)| Parsed::Refused(status, text))
        }
        Ok(httparse::Status::Partial) if bytes.len() < limits::REQUEST_HEAD_BYTES_MAX => Parsed::Partial,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => Parsed::Refused(431, "431 Request Header Fields Too Large"),
        Err(httparse::Error::Version) => Parsed::Refused(505, "505 HTTP Version Not Supported"),
        Err(_) => Parsed::Refused(400, "400 Bad Request"),
    }
}

fn head(request: &httparse::Request<'_, '_>, head_bytes: usize) -> Result<Parsed, (u16, &'static str)> {
    let http_10 = request.version == Some(0);
    let mut close = http_10;
    let mut body_bytes = None;
    let (mut n_hosts, mut expects) = (0, false);
    let mut authorization = None;
    let (mut accept, mut accept_encoding) = (String::new(), String::new());
    for field in request.headers.iter() {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("host") {
            n_hosts += 1;
        } else if is("connection") {
            close |= tokens(field.value).any(|token| token.eq_ignore_ascii_case(b"close"));
        } else if is("content-length") {
            let length = length(field.value).ok_or((400, "400 Bad Request"))?;
            if body_bytes.replace(length).is_some_and(|other| other != length) {
                return Err((400, "400 Bad Request: two content lengths"));
            }
        } else if is("transfer-encoding") {
            return Err((411, "411 Length Required"));
        } else if is("expect") {
            expects = true;
        } else if is("authorization") {
            // The first one counts, as in Go.
            authorization = authorization.or_else(|| Some(Authorization(Zeroizing::new(field.value.to_vec()))));
        } else if is("accept") {
            add(&mut accept, field.value);
        } else if is("accept-encoding") {
            add(&mut accept_encoding, field.value);
        }
    }
    if n_hosts != 1 && !(http_10 && n_hosts == 0) {
        return Err((400, "400 Bad Request: one Host header is required"));
    }
    // A client that waits for leave to send its body gets its answer instead, and the end of the connection.
    close |= expects;
    let body_bytes = body_bytes.filter(|_| !expects).unwrap_or(0);
    if body_bytes > BODY_BYTES_MAX {
        return Err((413, "413 Request Entity Too Large"));
    }
    Ok(Parsed::Complete(Head {
        method: request.method.unwrap_or_default().to_owned(),
        path: path(request.path.unwrap_or_default()).to_owned(),
        http_10,
        close,
        body_bytes,
        head_bytes,
        authorization,
        accept,
        accept_encoding,
    }))
}

/// Several fields of one name are one list.
fn add(list: &mut String, value: &[u8]) {
    if !list.is_empty() {
        list.push(',');
    }
    list.push_str(&String::from_utf8_lossy(value));
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

fn length(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value.trim_ascii()).ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn path(target: &str) -> &str {
    let target = match target.strip_prefix("http://").or_else(|| target.strip_prefix("https://")) {
        Some(rest) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/"),
        None => target,
    };
    target.split(['?', '#']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(text: &str) -> u16 {
        match parse(text.as_bytes()) {
            Parsed::Refused(status, _) => status,
            Parsed::Complete(_) => 200,
            Parsed::Partial => 0,
        }
    }

    #[test]
    fn heads_and_what_is_refused() {
        let cases = [
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 200),
            ("GET / HTTP/1.1\nHost: x\n\n", 200),
            ("GET / HTTP/1.0\r\n\r\n", 200),
            ("GET / HTTP/1.1\r\nHost: x\r\n", 0),
            ("GET ", 0),
            ("", 0),
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\n\r\n", 505),
            ("\x16\x03\x01\x02", 400),
            ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\n\r\n", 200),
            ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n", 413),
            ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        ];
        for (text, expected) in cases {
            assert_eq!(status(text), expected, "{text:?}");
        }
        let padded = |n: usize| format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(n));
        assert_eq!(status(&padded(limits::REQUEST_HEAD_BYTES_MAX - 32)), 200);
        assert_eq!(status(&padded(limits::REQUEST_HEAD_BYTES_MAX)), 431);
        assert_eq!(status(&format!("GET /{}", "a".repeat(limits::REQUEST_HEAD_BYTES_MAX))), 431);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(65))), 431);
    }

    #[test]
    fn targets_and_connection() {
        let parsed = |text: &str| match parse(text.as_bytes()) {
            Parsed::Complete(head) => head,
            other => panic!("{other:?}"),
        };
        let head = parsed("HEAD http://x:1/-/ready?a=b HTTP/1.1\r\nHost: x\r\nConnection: foo, Close\r\n\r\nrest");
        assert_eq!(
            (head.method.as_str(), head.path.as_str(), head.close, head.http_10),
            ("HEAD", "/-/ready", true, false)
        );
        assert_eq!(
            head.head_bytes,
            "HEAD http://x:1/-/ready?a=b HTTP/1.1\r\nHost: x\r\nConnection: foo, Close\r\n\r\n".len()
        );
        assert_eq!(parsed("GET http://x HTTP/1.1\r\nHost: x\r\n\r\n").path, "/");
        assert!(!parsed("GET / HTTP/1.1\r\nHost: x\r\n\r\n").close);
        assert!(parsed("GET / HTTP/1.0\r\n\r\n").close);
        let head = parsed("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n");
        assert_eq!((head.body_bytes, head.close), (0, true));
        let head = parsed("GET / HTTP/1.1\r\nHost: x\r\nauthorization:  Basic hunter2 \r\nAuthorization: b\r\n\r\n");
        assert_eq!(head.authorization.as_ref().map(|value| value.0.as_slice()), Some(b"Basic hunter2".as_slice()));
        assert!(!format!("{head:?}").contains("hunter2"));
    }
}
