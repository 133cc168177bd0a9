//! OTLP over HTTP: one POST for each batch, over a connection that is kept.

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::config::Collector;
use crate::export::{Exporter, Refusal};
use crate::limits;
use pillion_base::error::{Kind, Result};
use pillion_base::secret::Secret;
use pillion_base::stop::Stop;
use pillion_http::ERROR_BODY_BYTES_MAX;
use pillion_http::client::{self, Access, ClientConfig, Line, USER_AGENT, until_stopped};

/// Longest piece of a refusal that is shown, in bytes.
const SHOWN_BYTES_MAX: usize = 300;

/// Speaks OTLP over HTTP.
pub struct HttpExporter {
    url: String,
    access: Access,
    line: Line,
    headers: Vec<(String, Secret)>,
    is_gzip: bool,
    timeout: Duration,
}

impl HttpExporter {
    /// Reads the files of TLS; nothing is connected yet.
    ///
    /// `Errors:` permanent, of files of TLS; each with the key, the file and what to change.
    pub fn new(collector: &Collector) -> Result<Self> {
        let is_tls = collector.tls.is_some();
        let config = collector.tls.clone().map_or_else(ClientConfig::default, ClientConfig::with_tls);
        let access = Access::open(config, is_tls)?;
        Ok(HttpExporter {
            url: format!("{}://{}{}", if is_tls { "https" } else { "http" }, collector.endpoint, collector.url_path),
            line: Line::new(USER_AGENT, &access, Some(collector.timeout)),
            access,
            headers: collector.headers.clone(),
            is_gzip: collector.is_gzip,
            timeout: collector.timeout,
        })
    }

    fn post(&mut self, body: &[u8], timeout: Duration) -> Result<Vec<u8>, Refusal> {
        if !self.line.is_current() {
            self.line = Line::new(USER_AGENT, &self.access, Some(self.timeout));
        }
        let compressed;
        let body = if self.is_gzip {
            compressed = gzip(body);
            compressed.as_slice()
        } else {
            body
        };
        let sent = self.line.exchange(|agent| {
            let mut request = agent.post(&self.url).header("Content-Type", "application/x-protobuf");
            if self.is_gzip {
                request = request.header("Content-Encoding", "gzip");
            }
            for (name, value) in &self.headers {
                request = request.header(name, &value.0);
            }
            request.config().timeout_global(Some(timeout)).build().send(body)
        });
        let (head, body) = sent.map_err(|err| failed(&client::transport(err)))?.into_parts();
        let status = head.status.as_u16();
        if (200..300).contains(&status) {
            // The spans are taken, whatever becomes of the rest of the answer.
            return Ok(client::read_body(body, limits::REPLY_BYTES_MAX, "the collector's answer").unwrap_or_default());
        }
        let said = client::read_body(body, ERROR_BODY_BYTES_MAX, "the collector's refusal").unwrap_or_default();
        let wait = head.headers.get("retry-after").and_then(|value| value.to_str().ok());
        Err(Refusal {
            text: format!("{} answered {}{}", self.url, head.status, shown(&said)),
            may_pass: matches!(status, 429 | 502 | 503 | 504),
            wait: wait.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs),
        })
    }
}

impl Exporter for HttpExporter {
    fn send(&mut self, request: &[u8], timeout: Duration, stop: Option<&Stop>) -> Result<Vec<u8>, Refusal> {
        match stop {
            Some(stop) => until_stopped(stop, || self.post(request, timeout)),
            None => self.post(request, timeout),
        }
    }
}

fn failed(err: &pillion_base::error::Error) -> Refusal {
    Refusal { text: err.to_string(), may_pass: err.kind() == Kind::Retry, wait: None }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("writing to memory cannot fail")
}

/// What a refusal says, which may be text or a message of protobuf: only what can be read.
fn shown(body: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(body)
        .chars()
        .map(|c| if c.is_control() || c == char::REPLACEMENT_CHARACTER { ' ' } else { c })
        .take(SHOWN_BYTES_MAX)
        .collect();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() { text } else { format!(": {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_refusal() {
        assert_eq!(shown(b""), "");
        assert_eq!(shown(b"\x12\x0cno such path\n"), ": no such path");
        assert_eq!(shown(b"no\xff\0\r\n way"), ": no way");
        assert_eq!(shown(&b"x".repeat(400)).len(), 302);
    }
}
