//! Errors of requests to Swift and Keystone, each with a hint at which right or setting to change. Pure.
//!
//! This module never sees a password or a token, so no error can show one; texts of servers come here without them.

use std::time::Duration;

use crate::rest::{Cause, certificate_hint};
use pillion_base::error::{Error, Kind};

/// The request that failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestContext<'a> {
    /// The operation, such as `PUT object`.
    pub operation: &'static str,
    /// The container; empty for the store itself.
    pub container: &'a str,
    /// The object; `None` for the container itself.
    pub object: Option<&'a str>,
    /// Whether it is about a segment, which has a setting of its own for its container.
    pub is_segment: bool,
    /// The server, `host[:port]`.
    pub host: &'a str,
}

/// What the store answered instead of success.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// The store's message, without secrets.
    pub message: String,
    /// The request's id, with which the cloud's support can find it.
    pub request_id: String,
    /// How long the store wants to be left alone.
    pub retry_after: Option<Duration>,
    /// Whether it is an answer of Swift at all.
    pub is_swift: bool,
}

/// A failed request, with the status that its callers look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// HTTP status; 0 without an answer.
    pub status: u16,
    /// The error for everybody else.
    pub error: Error,
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        fault.error
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault { status: 0, error }
    }
}

/// What to do about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Return the error.
    GiveUp,
    /// Retry after a short wait.
    Retry,
    /// Retry after a rest.
    Rest,
    /// Retry with another token.
    RenewToken,
}

/// Decides after a refusal. `is_renewed`: another token was tried for this request already.
pub(super) fn next(refusal: &Refusal, is_renewed: bool) -> Next {
    match refusal.status {
        401 if !is_renewed => Next::RenewToken,
        // 498 is the word of Swift's own limit of rates.
        429 | 498 | 503 => Next::Rest,
        // What arrived is not what was sent, or not all of it.
        408 | 422 | 499 => Next::Retry,
        500 | 502 | 504 | 507 => Next::Retry,
        404 if !refusal.is_swift => Next::Retry,
        _ => Next::GiveUp,
    }
}

impl RequestContext<'_> {
    fn what(&self) -> String {
        match (self.object, self.container) {
            (Some(object), container) => format!(" {container}/{object}"),
            (None, "") => String::new(),
            (None, container) => format!(" {container}"),
        }
    }

    fn container_key(&self) -> &'static str {
        if self.is_segment { "large_object_segments_container_name" } else { "container_name" }
    }

    /// The error of a refusal.
    pub(super) fn refused(&self, refusal: &Refusal) -> Fault {
        let (kind, class, hint) = self.judged(refusal);
        let mut text = format!("{}{} at {}: {}", self.operation, self.what(), self.host, refusal.status);
        if !refusal.message.is_empty() {
            text.push_str(&format!(": {}", refusal.message));
        }
        if !refusal.request_id.is_empty() {
            text.push_str(&format!(" (transaction {})", refusal.request_id));
        }
        if !hint.is_empty() {
            text.push_str(&format!("; {hint}"));
        }
        let error = Error::new(kind, text);
        let error = if class.is_empty() { error } else { error.classed(class) };
        Fault { status: refusal.status, error }
    }

    /// Kind and class of a refusal, and a hint at what to change. `Source:` "Object Storage API", response codes.
    fn judged(&self, refusal: &Refusal) -> (Kind, &'static str, String) {
        let permanent = |class, hint: String| (Kind::Permanent, class, hint);
        match refusal.status {
            401 => permanent(
                "credentials",
                "the store does not accept the token that auth_url gave: correct region_name, if the cloud has several \
                 regions, and auth_url"
                    .into(),
            ),
            403 => permanent(
                "denied",
                format!(
                    "the user lacks the right: it needs a role in the project that may use object storage (often member \
                     or swiftoperator), or to be named for reading and writing in the lists of the container {} (swift \
                     post --read-acl, --write-acl)",
                    self.container
                ),
            ),
            404 if !refusal.is_swift => {
                (Kind::Retry, "network", "no answer of Swift: see the proxy, or the cloud's catalogue".into())
            }
            // An object can be stored in any container that is there.
            404 if self.object.is_none() || self.operation.starts_with("PUT") => self.no_container(),
            404 => (Kind::NotFound, "missing", String::new()),
            413 => permanent(
                "denied",
                "more than the quota of the container or the account allows, or larger than the store takes at once: \
                 raise the quota, or set large_object_chunk_size to less"
                    .into(),
            ),
            422 => (Kind::Retry, "integrity", "bytes were changed or lost on the way".into()),
            429 | 498 | 503 => (Kind::Retry, "throttled", String::new()),
            507 => (Kind::Retry, "server", "the store has no room left on its disks: tell whoever runs it".into()),
            405 | 412 => permanent("", "the store does not know this request: correct auth_url and region_name".into()),
            300..=399 => permanent("", "redirects are not followed: the cloud's catalogue names a wrong URL".into()),
            408 | 499 | 200 | 500.. => (Kind::Retry, "server", String::new()),
            _ => permanent("", String::new()),
        }
    }

    /// What a missing container means.
    fn no_container(&self) -> (Kind, &'static str, String) {
        let hint = format!(
            "create the container {} (openstack container create), or correct {}, project_name or region_name",
            self.container,
            self.container_key()
        );
        (Kind::Permanent, "no_bucket", hint)
    }

    /// The error of a request without an answer; `text` is the cause in the transport's words.
    pub(super) fn unanswered(&self, cause: Cause, text: &str) -> Fault {
        let what = format!("{}{} at {}", self.operation, self.what(), self.host);
        Fault { status: 0, error: unanswered(&what, cause, text) }
    }

    /// The error of stored bytes that differ from those that were sent.
    pub(super) fn integrity_error(&self, text: &str) -> Error {
        let text = format!("{}{} at {}: {text}", self.operation, self.what(), self.host);
        Error::new(Kind::Retry, text).classed("integrity")
    }
}

/// The error of an exchange without an answer.
pub(super) fn unanswered(what: &str, cause: Cause, text: &str) -> Error {
    let (kind, class, hint) = match cause {
        Cause::Host => (Kind::Retry, "network", "correct auth_url, or the name servers of this host"),
        Cause::Connection | Cause::Time | Cause::Answer => (Kind::Retry, "network", ""),
        Cause::Proxy => (Kind::Retry, "network", "see HTTPS_PROXY, HTTP_PROXY and NO_PROXY in the environment"),
        Cause::NoTls => (Kind::Permanent, "certificate", "the server speaks no TLS: correct the scheme or the port"),
        Cause::Certificate => (Kind::Permanent, "certificate", certificate_hint(text)),
    };
    let mut full = format!("{what}: {text}");
    if !hint.is_empty() {
        full.push_str(&format!("; {hint}"));
    }
    Error::new(kind, full).classed(class)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(operation: &'static str) -> RequestContext<'static> {
        let object = (!operation.ends_with("container")).then_some("a/b");
        RequestContext {
            operation,
            container: "c",
            object,
            is_segment: operation.ends_with("segment"),
            host: "swift.example",
        }
    }

    fn refusal(status: u16) -> Refusal {
        Refusal { status, is_swift: true, request_id: "tx1".into(), ..Refusal::default() }
    }

    #[test]
    fn each_refusal_says_what_to_change() {
        let check = |operation, status, kind: Kind, class: &str, part: &str| {
            let error = context(operation).refused(&refusal(status)).error;
            assert_eq!((error.kind(), error.class()), (kind, class), "{error}");
            assert!(error.to_string().contains(part), "{error} lacks {part}");
        };
        use Kind::{NotFound, Permanent, Retry};
        check("HEAD object", 404, NotFound, "missing", "HEAD object c/a/b at swift.example: 404 (transaction tx1)");
        check("PUT object", 404, Permanent, "no_bucket", "create the container c");
        check("PUT segment", 404, Permanent, "no_bucket", "correct large_object_segments_container_name");
        check("GET container", 404, Permanent, "no_bucket", "correct container_name");
        check("PUT object", 401, Permanent, "credentials", "region_name");
        check("PUT object", 403, Permanent, "denied", "member or swiftoperator");
        check("PUT object", 413, Permanent, "denied", "quota");
        check("PUT object", 422, Retry, "integrity", "on the way");
        check("PUT object", 498, Retry, "throttled", "498");
        check("PUT object", 429, Retry, "throttled", "429");
        check("PUT object", 503, Retry, "throttled", "503");
        check("PUT object", 507, Retry, "server", "no room left");
        check("PUT object", 500, Retry, "server", "500");
        check("PUT object", 408, Retry, "server", "408");
        check("PUT object", 400, Permanent, "permanent", "400");
        check("PUT object", 412, Permanent, "permanent", "auth_url");
        check("GET object", 302, Permanent, "permanent", "redirects");
        let portal = context("GET object").refused(&Refusal { status: 404, ..Refusal::default() }).error;
        assert_eq!((portal.kind(), portal.class()), (Retry, "network"), "{portal}");
    }

    #[test]
    fn what_follows_a_refusal() {
        let check = |status, want| assert_eq!(next(&refusal(status), false), want, "{status}");
        check(401, Next::RenewToken);
        assert_eq!(next(&refusal(401), true), Next::GiveUp);
        for status in [429, 498, 503] {
            check(status, Next::Rest);
        }
        for status in [408, 422, 499, 500, 502, 504, 507] {
            check(status, Next::Retry);
        }
        for status in [302, 400, 403, 404, 405, 409, 411, 412, 413] {
            check(status, Next::GiveUp);
        }
        assert_eq!(next(&Refusal { status: 404, ..Refusal::default() }, false), Next::Retry);
    }
}
