//! An HTTP response and the bytes it becomes. Pure.

use std::io::Write;

const TEXT: &str = "text/plain; charset=utf-8";

/// What a route answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Further headers.
    pub headers: Vec<(&'static str, &'static str)>,
    /// The body, left out of the answer to HEAD.
    pub body: Vec<u8>,
}

impl Response {
    /// A page.
    pub fn ok(content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Response { status: 200, content_type, headers: Vec::new(), body: body.into() }
    }

    /// A short text.
    pub fn text(body: &str) -> Self {
        Response::ok(TEXT, body)
    }

    /// An error as Go's `http.Error` writes it: the text and a line feed, not to be sniffed.
    pub fn error(status: u16, text: &str) -> Self {
        let headers = vec![("X-Content-Type-Options", "nosniff")];
        Response { status, content_type: TEXT, headers, body: format!("{text}\n").into_bytes() }
    }

    /// A request that is not let in, as Go's exporters answer it.
    pub(crate) fn unauthorized() -> Self {
        let mut response = Response::error(401, "Unauthorized");
        response.headers.push(("WWW-Authenticate", "Basic"));
        response
    }

    /// A request that may be sent again after some seconds.
    pub(crate) fn later(status: u16, text: &str, seconds: &'static str) -> Self {
        let mut response = Response::error(status, text);
        response.headers.push(("Retry-After", seconds));
        response
    }

    /// Appends the response to `out`, with what is `common` to all responses.
    pub(crate) fn write(&self, out: &mut Vec<u8>, how: Framing, common: &Common<'_>) {
        let version = if how.http_10 { "1.0" } else { "1.1" };
        // Writing to a Vec cannot fail.
        let _ = write!(out, "HTTP/{version} {} {}\r\n", self.status, reason(self.status));
        let _ = write!(out, "Content-Type: {}\r\nContent-Length: {}\r\n", self.content_type, self.body.len());
        let is_common = |name: &str| common.headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        for (name, value) in self.headers.iter().filter(|(name, _)| !is_common(name)) {
            let _ = write!(out, "{name}: {value}\r\n");
        }
        for (name, value) in common.headers {
            let _ = write!(out, "{name}: {value}\r\n");
        }
        if !common.date.is_empty() {
            let _ = write!(out, "Date: {}\r\n", common.date);
        }
        if how.close {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if !how.head_only {
            out.extend_from_slice(&self.body);
        }
    }
}

/// What all responses of a moment have in common.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Common<'a> {
    /// The value of `Date`, left out when empty.
    pub(crate) date: &'a str,
    /// Headers of the web configuration. They replace a page's own of the same name.
    pub(crate) headers: &'a [(String, String)],
}

/// How a response is put on the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Framing {
    /// The request was of HTTP/1.0.
    pub(crate) http_10: bool,
    /// The connection ends with this response.
    pub(crate) close: bool,
    /// The request was HEAD.
    pub(crate) head_only: bool,
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        411 => "Length Required",
        413 => "Request Entity Too Large",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(response: Response, how: Framing, common: Common<'_>, expected: &str) {
        let mut out = Vec::new();
        response.write(&mut out, how, &common);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn responses_as_bytes() {
        check(
            Response::text("OK"),
            Framing::default(),
            Common { date: "Mon, 02 Jan 2006 15:04:05 GMT", headers: &[] },
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 2\r\n\
             Date: Mon, 02 Jan 2006 15:04:05 GMT\r\n\r\nOK",
        );
        check(
            Response::error(404, "404 page not found"),
            Framing { http_10: true, close: true, head_only: true },
            Common::default(),
            "HTTP/1.0 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 19\r\n\
             X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        );
        let headers = [("X-Frame-Options", "deny"), ("X-Content-Type-Options", "nosniff")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        check(
            Response::unauthorized(),
            Framing::default(),
            Common { date: "", headers: &headers },
            "HTTP/1.1 401 Unauthorized\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 13\r\n\
             WWW-Authenticate: Basic\r\nX-Frame-Options: deny\r\nX-Content-Type-Options: nosniff\r\n\r\nUnauthorized\n",
        );
    }
}
