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

    /// Appends the response to `out`. `date` is the value of `Date`, left out when empty.
    pub fn write(&self, out: &mut Vec<u8>, how: Framing, date: &str) {
        let version = if how.http_10 { "1.0" } else { "1.1" };
        // Writing to a Vec cannot fail.
        let _ = write!(out, "HTTP/{version} {} {}\r\n", self.status, reason(self.status));
        let _ = write!(out, "Content-Type: {}\r\nContent-Length: {}\r\n", self.content_type, self.body.len());
        for (name, value) in &self.headers {
            let _ = write!(out, "{name}: {value}\r\n");
        }
        if !date.is_empty() {
            let _ = write!(out, "Date: {date}\r\n");
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

/// How a response is put on the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Framing {
    /// The request was of HTTP/1.0.
    pub http_10: bool,
    /// The connection ends with this response.
    pub close: bool,
    /// The request was HEAD.
    pub head_only: bool,
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        411 => "Length Required",
        413 => "Request Entity Too Large",
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
    fn check(response: Response, how: Framing, date: &str, expected: &str) {
        let mut out = Vec::new();
        response.write(&mut out, how, date);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn responses_as_bytes() {
        check(
            Response::text("OK"),
            Framing::default(),
            "Mon, 02 Jan 2006 15:04:05 GMT",
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 2\r\n\
             Date: Mon, 02 Jan 2006 15:04:05 GMT\r\n\r\nOK",
        );
        check(
            Response::error(404, "404 page not found"),
            Framing { http_10: true, close: true, head_only: true },
            "",
            "HTTP/1.0 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 19\r\n\
             X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        );
    }
}
