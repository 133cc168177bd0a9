//! One request to Prometheus: who asks, where redirects lead, and what is asked once more. It never reads an answer that
//! is not passed over.

use std::io::Read;

use ureq::http::response::Parts;
use ureq::{Agent, Body};

use crate::limits;
use crate::prom::client::PromUrl;
use crate::prom::{advice, redirect};
use pillion_base::error::Result;
use pillion_base::secret::Secret;
use pillion_http::client::{self as http, Access, Line};

/// What is sent.
#[derive(Clone, Copy)]
pub(super) enum Sent<'a> {
    Get,
    /// A POST without a body.
    Nothing,
    Form(&'a str),
    /// A remote read.
    Read(&'a [u8]),
}

/// Where a request goes, and what each one has.
pub(super) struct To<'a> {
    pub(super) line: &'a Line,
    pub(super) base: &'a PromUrl,
    pub(super) access: &'a Access,
    pub(super) headers: &'a [(String, String)],
}

impl To<'_> {
    /// Sends a request, wherever on the same server redirects lead. What is refused is asked again where the password or
    /// the token is just being replaced.
    pub(super) fn send(&self, url: &str, sent: Sent<'_>) -> Result<(Parts, Body)> {
        // The one of the URL is never replaced, and counts for more.
        let own = match self.base.authorization {
            None => self.access.authorization()?,
            Some(_) => None,
        };
        let Some(mut shown) = own else { return self.follow(url, sent, self.base.authorization.as_ref()) };
        for _ in 0..limits::REFUSED_AGAIN_MAX {
            let (head, body) = self.follow(url, sent, Some(&shown))?;
            let refused = (head.status.as_u16() == 401).then_some(&shown);
            let Some(other) = refused.and_then(|refused| self.access.instead_of(refused)) else {
                return Ok((head, body));
            };
            // Read to its end, so that the connection is used again.
            error_text(body);
            shown = other;
        }
        self.follow(url, sent, Some(&shown))
    }

    fn follow(&self, url: &str, sent: Sent<'_>, authorization: Option<&Secret>) -> Result<(Parts, Body)> {
        let mut to = url.to_owned();
        for _ in 0..=limits::REDIRECTS_MAX {
            let response = self
                .line
                .exchange(|agent| self.ask(agent, &to, sent, authorization))
                .map_err(|err| advice::of_connection(http::transport(err)))?;
            let (head, body) = response.into_parts();
            let location = head.headers.get("location").and_then(|value| value.to_str().ok());
            match redirect::target(head.status.as_u16(), location, &to, !matches!(sent, Sent::Get))? {
                None => return Ok((head, body)),
                Some(next) => to = next,
            }
            // Read to its end, so that the connection is used again.
            error_text(body);
        }
        Err(redirect::too_many(url, &to))
    }

    fn ask(
        &self,
        agent: &Agent,
        url: &str,
        sent: Sent<'_>,
        authorization: Option<&Secret>,
    ) -> std::result::Result<ureq::http::Response<Body>, ureq::Error> {
        let authorization = authorization.map(|value| ("Authorization", value.0.as_str()));
        let more = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let all = authorization.into_iter().chain(more);
        let post = |headers: &[(&'static str, &'static str)]| {
            let headers = headers.iter().copied().chain(all.clone());
            headers.fold(agent.post(url), |request, (name, value)| request.header(name, value))
        };
        match sent {
            Sent::Get => all.fold(agent.get(url), |request, (name, value)| request.header(name, value)).call(),
            Sent::Nothing => post(&[]).send_empty(),
            Sent::Form(form) => post(&[("Content-Type", "application/x-www-form-urlencoded")]).send(form),
            Sent::Read(body) => post(&[
                ("Content-Encoding", "snappy"),
                ("Content-Type", "application/x-stream-protobuf"),
                ("X-Prometheus-Remote-Read-Version", "0.1.0"),
            ])
            .send(body),
        }
    }
}

/// The text of an error body, cut to fit a log line or a status message.
pub(super) fn error_text(body: Body) -> String {
    let mut bytes = Vec::new();
    // The part of a body that did arrive is still worth showing.
    let _ = body.into_reader().take(limits::ERROR_BODY_BYTES_MAX).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).trim_end().to_owned()
}
