//! What went wrong with a request to the store, in a sentence that says what to change. Pure.
//!
//! Nothing here has seen a signed URL or a key, so none can be in a sentence.

use crate::error::{Error, Kind};

/// The request that went wrong.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The operation of S3, such as `PutObject`.
    pub operation: &'static str,
    /// The permission it needs, such as `s3:PutObject`.
    pub permission: &'static str,
    /// The bucket.
    pub bucket: &'a str,
    /// The object; `None` where the bucket itself was asked.
    pub object: Option<&'a str>,
    /// The server, `host[:port]`.
    pub host: &'a str,
    /// Whether it was spoken to over TLS.
    pub is_tls: bool,
}

/// What the store answered instead of success.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Such as `NoSuchKey`; empty where the answer had no body.
    pub code: String,
    /// The store's own words.
    pub message: String,
    /// For the operator of the store.
    pub request_id: String,
    /// The region in which the store says the bucket is.
    pub region: String,
    /// The store's clock minus the one that signed. `Units:` s.
    pub skew_s: i64,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The name of the host is not known.
    Host,
    /// No connection, or it ended.
    Connection,
    /// It took too long.
    Time,
    /// A certificate is not accepted, by us or by the server.
    Certificate,
    /// The server speaks no TLS.
    NoTls,
    /// The proxy refused.
    Proxy,
    /// The answer is no HTTP, or its end is missing.
    Answer,
}

/// An error of the store, with what callers of single requests look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// HTTP status; 0 without an answer.
    pub status: u16,
    /// The store's code; empty without an answer.
    pub code: String,
    /// What everyone else sees.
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
    /// Whether the store may have done what was asked all the same.
    pub fn is_doubtful(&self) -> bool {
        match self.status {
            // A 200 with an error in it.
            0 | 200 => self.error.kind() == Kind::Retry,
            408 | 499 => true,
            status => status >= 500,
        }
    }

    /// Whether the store does not know this kind of request at all.
    pub fn is_unsupported(&self) -> bool {
        matches!(self.status, 405 | 501)
    }
}

impl Asked<'_> {
    fn what(&self) -> String {
        match self.object {
            Some(object) => format!("{}/{object}", self.bucket),
            None => format!("bucket {}", self.bucket),
        }
    }

    /// The error of an answer that is not success.
    pub fn refused(&self, refusal: &Refusal) -> Fault {
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

    /// Kind, class, and what to do about it.
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
        if is_elsewhere(refusal) {
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
    pub fn unanswered(&self, cause: Cause, text: &str) -> Fault {
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

    /// The error of bytes that are not those that were sent.
    pub fn altered(&self, text: &str) -> Error {
        Error::new(Kind::Retry, format!("{} {} at {}: {text}", self.operation, self.what(), self.host))
            .classed("integrity")
    }
}

/// What to do about a certificate, by rustls's words for what is wrong with it.
fn certificate_hint(text: &str) -> &'static str {
    let has = |word: &str| text.contains(word);
    if has("UnknownIssuer") || has("CaUsedAsEndEntity") {
        "name the authority that issued the server's certificate in http_config.tls_config.ca_file, or add it to the system's"
    } else if has("NotValidForName") || has("not valid for name") {
        "the certificate is for another name: correct endpoint, or set http_config.tls_config.server_name"
    } else if ["Expired", "NotValidYet", "expired", "not valid yet"].into_iter().any(has) {
        "the server's certificate is out of date, or this host's clock is wrong"
    } else if has("alert") {
        "the server refuses the handshake: it may want a client certificate, http_config.tls_config.cert_file and key_file"
    } else {
        "see http_config.tls_config"
    }
}

/// Whether the store asks for fewer requests. `Source:` AWS's error codes, minio-go `retry.go`.
pub fn is_throttling(status: u16, code: &str) -> bool {
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

/// Whether another attempt may succeed where nothing else is known. `Source:` minio-go `retry.go`.
pub fn is_transient(status: u16, code: &str) -> bool {
    matches!(code, "RequestError" | "RequestTimeout" | "InternalError" | "BadDigest" | "IncompleteBody")
        || matches!(status, 408 | 499 | 500 | 502 | 504 | 520)
        || is_throttling(status, code)
}

/// Whether other keys may help. AWS refuses a HEAD with an expired token without saying so.
pub fn is_expired(refusal: &Refusal, has_token: bool) -> bool {
    matches!(
        refusal.code.as_str(),
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "InvalidToken" | "InvalidAccessKeyId"
    ) || (has_token && refusal.code.is_empty() && refusal.status == 400)
}

/// Whether the bucket is in another region than the one signed for.
pub fn is_elsewhere(refusal: &Refusal) -> bool {
    let code_says = matches!(
        refusal.code.as_str(),
        "AuthorizationHeaderMalformed"
            | "AuthorizationQueryParametersError"
            | "InvalidRegion"
            | "PermanentRedirect"
            | "TemporaryRedirect"
            | "IllegalLocationConstraintException"
    );
    // A HEAD has no code, a signature for the wrong place may be answered with a refusal.
    code_says || (!refusal.region.is_empty() && matches!(refusal.status, 301 | 307 | 400 | 403))
}

/// Whether the difference of clocks explains a refusal. `Units:` s.
pub fn is_skewed(skew_s: i64) -> bool {
    skew_s.unsigned_abs() > crate::limits::S3_SKEW_MAX.as_secs()
}

/// `2h3m4s`
fn duration(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

/// A text of the server for a log line: short, in one line, and without what may be a signed URL.
fn printable(text: &str) -> String {
    let mut line: String = text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let lower = line.to_ascii_lowercase();
    if ["x-amz-signature", "x-amz-credential", "x-amz-security-token"].iter().any(|secret| lower.contains(secret)) {
        line = "(an answer that repeats the request)".into();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked<'static> {
        Asked {
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
            let error = asked().refused(&refusal(status, code, skew_s, region)).error;
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
            let error = asked().unanswered(cause, text).error;
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
        let error = asked().refused(&Refusal { status: 400, message, ..Refusal::default() }).error;
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
