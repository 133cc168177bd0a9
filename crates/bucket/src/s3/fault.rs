//! Errors of requests to the store, each with a hint at what to change. Pure.
//!
//! This module never sees a signature or a key, so no error can show one.

use crate::rest::{Cause, certificate_hint, duration};
use pillion_base::error::{Error, Kind};

/// The request that failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestContext<'a> {
    /// The operation of S3, such as `PutObject`.
    pub operation: &'static str,
    /// The permission it needs, such as `s3:PutObject`.
    pub permission: &'static str,
    /// The bucket.
    pub bucket: &'a str,
    /// The object; `None` for the bucket itself.
    pub object: Option<&'a str>,
    /// The server, `host[:port]`.
    pub host: &'a str,
    /// Whether the connection has TLS.
    pub is_tls: bool,
}

/// What the store answered instead of success.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Such as `NoSuchKey`; empty if the answer had no body.
    pub code: String,
    /// The store's message.
    pub message: String,
    /// The request's id, with which the store's operator can find it.
    pub request_id: String,
    /// The region in which the store says the bucket is.
    pub region: String,
    /// The store's clock minus the one that signed. `Units:` s.
    pub skew_s: i64,
    /// Nothing in the answer is S3's: it may be that of a proxy in between.
    pub is_alien: bool,
}

/// A failed request, with the status and code that its callers look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// HTTP status; 0 without an answer.
    pub status: u16,
    /// The store's code; empty without an answer.
    pub code: String,
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
        Fault { status: 0, code: String::new(), error }
    }
}

impl Fault {
    /// Whether the store may have carried out the request all the same.
    pub(super) fn is_doubtful(&self) -> bool {
        match self.status {
            // 200 with an error in the body.
            0 | 200 => self.error.kind() == Kind::Retry,
            408 | 499 => true,
            // From something in between.
            404 => self.error.kind() == Kind::Retry,
            status => status >= 500,
        }
    }

    /// Whether the store says that there is no such object or upload. Which code it gives is not looked at, because
    /// stores differ in it.
    pub(super) fn is_missing(&self) -> bool {
        self.status == 404 && self.error.kind() == Kind::NotFound
    }

    /// Whether the store does not know this kind of request at all.
    pub(super) fn is_unsupported(&self) -> bool {
        matches!(self.status, 405 | 501)
    }
}

impl RequestContext<'_> {
    fn what(&self) -> String {
        match self.object {
            Some(object) => format!("{}/{object}", self.bucket),
            None => format!("bucket {}", self.bucket),
        }
    }

    /// The error of a refusal.
    pub(super) fn refused(&self, refusal: &Refusal) -> Fault {
        let (kind, class, hint) = self.judged(refusal);
        let mut text = format!("{} {} at {}: {}", self.operation, self.what(), self.host, refusal.status);
        for part in [&refusal.code, &refusal.message] {
            if !part.is_empty() {
                text.push_str(if part == &refusal.code { " " } else { ": " });
                text.push_str(&printable(part));
            }
        }
        if !refusal.request_id.is_empty() {
            text.push_str(&format!(" (request id {})", printable(&refusal.request_id)));
        }
        if let Some(hint) = hint {
            text.push_str(&format!("; {hint}"));
        }
        let error = Error::new(kind, text);
        let error = class.map_or(error.clone(), |class| error.classed(class));
        Fault { status: refusal.status, code: refusal.code.clone(), error }
    }

    /// Kind and class of a refusal, and a hint at what to change.
    fn judged(&self, refusal: &Refusal) -> (Kind, Option<&'static str>, Option<String>) {
        let permanent = |class, hint: String| (Kind::Permanent, Some(class), Some(hint));
        let code = refusal.code.as_str();
        if is_throttling(refusal.status, code) {
            return (Kind::Retry, Some("throttled"), None);
        }
        match code {
            "NoSuchBucket" => {
                return permanent(
                    "no_bucket",
                    format!("create the bucket {}, or correct bucket, endpoint or region", self.bucket),
                );
            }
            "InvalidAccessKeyId" | "NotSignedUp" => {
                let hint = "the store does not know the access key: correct access_key, or what gives the credentials";
                return permanent("credentials", hint.into());
            }
            "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "InvalidToken" => {
                let hint = "the session token is not valid any more: give new credentials";
                return permanent("credentials", hint.into());
            }
            "BadDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch" | "IncompleteBody" => {
                return (Kind::Retry, Some("integrity"), Some("bytes were changed or lost on the way".into()));
            }
            "NoSuchKey" | "NoSuchUpload" => return (Kind::NotFound, None, None),
            _ => {}
        }
        if code == "RequestTimeTooSkewed" || (refusal.status == 403 && is_skewed(refusal.skew_s)) {
            return permanent(
                "clock",
                match refusal.skew_s {
                    0 => "the clocks of this host and of the store differ: synchronise them".to_owned(),
                    skew_s => format!(
                        "this host's clock is {} {} the store's: synchronise it",
                        duration(skew_s.unsigned_abs()),
                        if skew_s > 0 { "behind" } else { "ahead of" }
                    ),
                },
            );
        }
        if code == "SignatureDoesNotMatch" {
            let hint = "the secret key is wrong, or a proxy changes the request: correct secret_key";
            return permanent("credentials", hint.into());
        }
        if is_other_region(refusal) {
            let hint = match refusal.region.as_str() {
                "" => "the bucket is in another region: set region, and the endpoint of that region".to_owned(),
                region => format!("the bucket is in region {}: set region to it", printable(region)),
            };
            return (Kind::Permanent, None, Some(hint));
        }
        match refusal.status {
            401 => permanent("credentials", "the store wants credentials: set access_key and secret_key".into()),
            403 => {
                let mut hint = format!("the credentials need the permission {} on {}", self.permission, self.what());
                if matches!(self.operation, "GetObject" | "HeadObject") {
                    hint.push_str(
                        ", and s3:ListBucket on the bucket so that missing objects are told from forbidden ones",
                    );
                }
                permanent("denied", hint)
            }
            404 if refusal.is_alien => {
                let hint = "nothing says that this is the answer of an object store: is there a proxy in between?";
                (Kind::Retry, Some("network"), Some(hint.into()))
            }
            404 => (Kind::NotFound, None, None),
            400 if !self.is_tls && refusal.message.contains("HTTPS") => {
                permanent("certificate", "the endpoint wants TLS: remove insecure: true".into())
            }
            200 | 408 | 499 => (Kind::Retry, Some("server"), None),
            300..400 => {
                let hint = "redirects are not followed: set endpoint to the server that has the bucket".to_owned();
                (Kind::Permanent, None, Some(hint))
            }
            405 | 501 => (Kind::Permanent, None, Some("the store does not support this".into())),
            500.. => (Kind::Retry, Some("server"), None),
            _ => (Kind::Permanent, None, None),
        }
    }

    /// The error of a request without an answer; `text` is the cause in the transport's words.
    pub(super) fn unanswered(&self, cause: Cause, text: &str) -> Fault {
        let (kind, class, hint) = match cause {
            Cause::Host => (Kind::Retry, "network", Some("correct endpoint, or the name servers of this host")),
            Cause::Connection | Cause::Time | Cause::Answer => (Kind::Retry, "network", None),
            Cause::Proxy => {
                (Kind::Retry, "network", Some("see HTTPS_PROXY, HTTP_PROXY and NO_PROXY in the environment"))
            }
            Cause::NoTls => (
                Kind::Permanent,
                "certificate",
                Some("the endpoint speaks no TLS: correct its port, or set insecure: true"),
            ),
            Cause::Certificate => (Kind::Permanent, "certificate", Some(certificate_hint(text))),
        };
        let mut full = format!("{} {} at {}: {}", self.operation, self.what(), self.host, printable(text));
        if let Some(hint) = hint {
            full.push_str(&format!("; {hint}"));
        }
        Fault { status: 0, code: String::new(), error: Error::new(kind, full).classed(class) }
    }

    /// The error of stored bytes that differ from those that were sent.
    pub(super) fn integrity_error(&self, text: &str) -> Error {
        Error::new(Kind::Retry, format!("{} {} at {}: {text}", self.operation, self.what(), self.host))
            .classed("integrity")
    }
}

/// Whether the store asks for fewer requests. `Source:` AWS's error codes, minio-go `retry.go`.
pub(super) fn is_throttling(status: u16, code: &str) -> bool {
    let code_says = matches!(
        code,
        "SlowDown"
            | "SlowDownRead"
            | "SlowDownWrite"
            | "Throttling"
            | "ThrottlingException"
            | "RequestLimitExceeded"
            | "RequestThrottled"
            | "TooManyRequests"
            | "ServiceUnavailable"
    );
    code_says || matches!(status, 429 | 503)
}

/// Whether a retry may succeed. `Source:` minio-go `retry.go`.
pub(super) fn is_transient(status: u16, code: &str) -> bool {
    matches!(code, "RequestError" | "RequestTimeout" | "InternalError" | "BadDigest" | "IncompleteBody")
        || matches!(status, 408 | 499 | 500 | 502 | 504 | 520)
        || is_throttling(status, code)
}

/// Whether other keys may help. AWS refuses a HEAD with an expired token by a bare 400.
pub(super) fn is_expired(refusal: &Refusal, has_token: bool) -> bool {
    matches!(
        refusal.code.as_str(),
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "InvalidToken" | "InvalidAccessKeyId"
    ) || (has_token && refusal.code.is_empty() && refusal.status == 400)
}

/// Whether the bucket is in another region than that of the signature.
pub(super) fn is_other_region(refusal: &Refusal) -> bool {
    let code_says = matches!(
        refusal.code.as_str(),
        "AuthorizationHeaderMalformed"
            | "AuthorizationQueryParametersError"
            | "InvalidRegion"
            | "PermanentRedirect"
            | "TemporaryRedirect"
            | "IllegalLocationConstraintException"
    );
    // The answer to a HEAD has no code, and some stores answer a signature for the wrong region with 400 or 403.
    code_says || (!refusal.region.is_empty() && matches!(refusal.status, 301 | 307 | 400 | 403))
}

/// Whether the difference of clocks is large enough to be the reason of a refusal. `Units:` s.
pub(super) fn is_skewed(skew_s: i64) -> bool {
    skew_s.unsigned_abs() > crate::limits::S3_SKEW_MAX.as_secs()
}

/// A text of the server for a log line: short, on one line, and hidden if it may hold a signature.
fn printable(text: &str) -> String {
    let mut line: String = text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let lower = line.to_ascii_lowercase();
    if ["x-amz-signature", "x-amz-credential", "x-amz-security-token", "aws4-hmac-sha256"]
        .iter()
        .any(|secret| lower.contains(secret))
    {
        line = "(an answer that repeats the request)".into();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> RequestContext<'static> {
        RequestContext {
            operation: "PutObject",
            permission: "s3:PutObject",
            bucket: "b",
            object: Some("01A/index"),
            host: "s3.test",
            is_tls: true,
        }
    }

    fn refusal(status: u16, code: &str, skew_s: i64, region: &str) -> Refusal {
        Refusal { status, code: code.into(), skew_s, region: region.into(), ..Refusal::default() }
    }

    #[test]
    fn refusals_say_what_to_change() {
        let check = |status, code: &str, skew_s, region: &str, kind: Kind, class: &str, part: &str| {
            let error = context().refused(&refusal(status, code, skew_s, region)).error;
            assert_eq!((error.kind(), error.class()), (kind, class), "{error}");
            assert!(error.to_string().contains(part), "{error} lacks {part}");
        };
        use Kind::{NotFound, Permanent, Retry};
        check(403, "AccessDenied", 0, "", Permanent, "denied", "the permission s3:PutObject on b/01A/index");
        check(403, "", 0, "", Permanent, "denied", "s3:PutObject");
        check(403, "AccessDenied", 7200, "", Permanent, "clock", "clock is 2h0m0s behind the store's");
        check(403, "RequestTimeTooSkewed", -1234, "", Permanent, "clock", "20m34s ahead of the store's");
        check(403, "RequestTimeTooSkewed", 0, "", Permanent, "clock", "synchronise");
        check(403, "SignatureDoesNotMatch", 2, "", Permanent, "credentials", "secret_key");
        check(403, "InvalidAccessKeyId", 0, "", Permanent, "credentials", "access_key");
        check(400, "ExpiredToken", 0, "", Permanent, "credentials", "session token");
        check(404, "NoSuchBucket", 0, "", Permanent, "no_bucket", "create the bucket b");
        check(404, "NoSuchKey", 0, "", NotFound, "missing", "404 NoSuchKey");
        check(404, "", 0, "", NotFound, "missing", "404");
        let alien = context().refused(&Refusal { is_alien: true, ..refusal(404, "", 0, "") });
        assert_eq!((alien.error.kind(), alien.error.class(), alien.is_missing()), (Retry, "network", false));
        check(503, "SlowDown", 0, "", Retry, "throttled", "503 SlowDown");
        check(429, "", 0, "", Retry, "throttled", "429");
        check(500, "InternalError", 0, "", Retry, "server", "500");
        check(200, "InternalError", 0, "", Retry, "server", "InternalError");
        check(507, "", 0, "", Retry, "server", "507");
        check(400, "BadDigest", 0, "", Retry, "integrity", "on the way");
        check(400, "AuthorizationHeaderMalformed", 0, "eu-1", Permanent, "permanent", "set region to it");
        check(301, "PermanentRedirect", 0, "", Permanent, "permanent", "set region, and the endpoint");
        check(302, "", 0, "", Permanent, "permanent", "redirects are not followed");
        check(501, "NotImplemented", 0, "", Permanent, "permanent", "does not support");
        check(400, "InvalidArgument", 0, "", Permanent, "permanent", "400 InvalidArgument");
    }

    #[test]
    fn silence_is_explained_too() {
        let check = |cause, text: &str, kind: Kind, class: &str, part: &str| {
            let error = context().unanswered(cause, text).error;
            assert_eq!((error.kind(), error.class()), (kind, class), "{error}");
            assert!(error.to_string().contains(part), "{error} lacks {part}");
        };
        check(Cause::Connection, "connection refused", Kind::Retry, "network", "at s3.test: connection refused");
        check(Cause::NoTls, "x", Kind::Permanent, "certificate", "insecure: true");
        for (text, part) in [
            ("invalid peer certificate: UnknownIssuer", "ca_file"),
            ("invalid peer certificate: NotValidForNameContext", "server_name"),
            ("invalid peer certificate: certificate not valid for name \"x\"", "server_name"),
            ("invalid peer certificate: certificate expired: verification time 2", "clock"),
            ("invalid peer certificate: certificate not valid yet: verification time 2", "clock"),
            ("received fatal alert: CertificateRequired", "cert_file"),
        ] {
            check(Cause::Certificate, text, Kind::Permanent, "certificate", part);
        }
    }

    #[test]
    fn an_answer_that_repeats_the_request_is_not_shown() {
        let message = "bad\r\nquery X-Amz-Signature=secret".to_owned();
        let error = context().refused(&Refusal { status: 400, message, ..Refusal::default() }).error;
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn what_is_tried_again() {
        let check = |status, code: &str, throttling: bool, transient: bool| {
            assert_eq!((is_throttling(status, code), is_transient(status, code)), (throttling, transient), "{code}");
        };
        check(503, "", true, true);
        check(400, "SlowDownWrite", true, true);
        check(500, "InternalError", false, true);
        check(400, "RequestTimeout", false, true);
        check(520, "", false, true);
        check(403, "AccessDenied", false, false);
        check(404, "NoSuchKey", false, false);
        check(400, "InvalidPart", false, false);
        check(501, "NotImplemented", false, false);
    }
}
