//! Errors of requests to Oracle Cloud, each with a hint at which policy or setting to change. Pure.
//!
//! This module never sees a key, a token or a signature, so no error can show one.

use std::time::Duration;

use crate::limits;
use crate::rest::{Cause, certificate_hint, duration};
use pillion_base::error::{Error, Kind};

/// Who signs requests, as far as errors need to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// A user with an API key.
    User,
    /// A user's session, whose token lies in a file.
    Session,
    /// This machine.
    Instance,
}

/// The request that failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestContext<'a> {
    /// The operation, such as `PutObject`.
    pub operation: &'static str,
    /// The bucket.
    pub bucket: &'a str,
    /// The object; `None` for the bucket itself.
    pub object: Option<&'a str>,
    /// The server, `host[:port]`.
    pub host: &'a str,
    /// Who signed it.
    pub by: By,
}

/// What the store answered instead of success.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Such as `ObjectNotFound`; empty if the answer names none.
    pub code: String,
    /// The store's message.
    pub message: String,
    /// The request's id, with which support can find it; empty if it is not the store that answers.
    pub request_id: String,
    /// The store's clock minus the one that signed. `Units:` s.
    pub skew_s: i64,
    /// How long the store wants to be left alone.
    pub retry_after: Option<Duration>,
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

impl Fault {
    /// Whether the store does not know the upload in parts. Of a request to one; bucket and rights are told apart.
    pub(super) fn is_forgotten(&self) -> bool {
        const OTHERS: [&str; 4] = ["", "BucketNotFound", "NamespaceNotFound", "NotAuthorizedOrNotFound"];
        self.status == 404 && !OTHERS.contains(&self.code.as_str())
    }
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

/// What to do about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Return the error.
    GiveUp,
    /// Retry after a short wait.
    Retry,
    /// Retry after a rest.
    Rest,
    /// Retry with what the files with credentials say now, if that is something else.
    RenewKey,
    /// Retry with the store's time. `Units:` s, to be added to the clock.
    SetClock(i64),
}

/// What was tried for one request; each remedy is tried once.
#[derive(Debug, Default)]
pub(super) struct Tried {
    key: bool,
    clock: bool,
}

impl Tried {
    /// Decides after a refusal.
    pub(super) fn next(&mut self, refusal: &Refusal) -> Next {
        let first = |flag: &mut bool| !std::mem::replace(flag, true);
        if refusal.status == 401 && is_skewed(refusal.skew_s) && first(&mut self.clock) {
            return Next::SetClock(refusal.skew_s);
        }
        if refusal.status == 401 && first(&mut self.key) {
            return Next::RenewKey;
        }
        match refusal.code.as_str() {
            "UnmatchedContentMD5" | "ConcurrentObjectUpdate" | "ConcurrentBucketUpdate" => Next::Retry,
            _ => match refusal.status {
                429 | 503 => Next::Rest,
                408 | 500 | 502 | 504 => Next::Retry,
                // Not from the store, but from something in between.
                404 if refusal.request_id.is_empty() => Next::Retry,
                _ => Next::GiveUp,
            },
        }
    }
}

/// Whether the difference of clocks is large enough to be the reason of a refusal. `Units:` s.
fn is_skewed(skew_s: i64) -> bool {
    skew_s.unsigned_abs() > limits::OCI_SKEW_MAX.as_secs()
}

impl RequestContext<'_> {
    fn what(&self) -> String {
        match self.object {
            Some(object) => format!("{}/{object}", self.bucket),
            None => self.bucket.to_owned(),
        }
    }

    /// The error of a refusal.
    pub(super) fn refused(&self, refusal: &Refusal) -> Fault {
        let (kind, class, hint) = self.judged(refusal);
        let mut text = format!("{} {} at {}: {}", self.operation, self.what(), self.host, refusal.status);
        for (before, part) in [(" ", &refusal.code), (": ", &refusal.message)] {
            if !part.is_empty() {
                text.push_str(before);
                text.push_str(&printable(part));
            }
        }
        if !refusal.request_id.is_empty() {
            text.push_str(&format!(" (opc-request-id {})", printable(&refusal.request_id)));
        }
        if !hint.is_empty() {
            text.push_str(&format!("; {hint}"));
        }
        let error = Error::new(kind, text);
        let error = if class.is_empty() { error } else { error.classed(class) };
        Fault { status: refusal.status, code: refusal.code.clone(), error }
    }

    /// Kind and class of a refusal, and a hint at what to change. `Source:` Oracle's "API Errors".
    fn judged(&self, refusal: &Refusal) -> (Kind, &'static str, String) {
        let permanent = |class, hint: &str| (Kind::Permanent, class, hint.to_owned());
        match refusal.code.as_str() {
            "ObjectNotFound" => (Kind::NotFound, "missing", String::new()),
            "UploadNotFound" => (Kind::Retry, "server", "the store has forgotten the upload in parts".to_owned()),
            "BucketNotFound" => permanent(
                "no_bucket",
                &format!(
                    "create the bucket {} in this region, or correct bucket and region; if it is there, {}",
                    self.bucket,
                    self.policy()
                ),
            ),
            "NamespaceNotFound" => permanent(
                "no_bucket",
                "the tenancy has no such namespace in this region: correct tenancy_ocid and region",
            ),
            "InvalidBucketName" | "InvalidNamespaceName" => permanent("no_bucket", "correct bucket"),
            "NotAuthorizedOrNotFound" | "NotAuthorized" | "Forbidden" | "NotAllowed" => {
                permanent("denied", &self.policy())
            }
            "SignUpRequired" => permanent("denied", "the tenancy is not subscribed to this region: correct region"),
            "BucketIsReadonly" | "BucketReplicationEnabled" => {
                permanent("denied", "the bucket is the target of a replication, and so read-only: use its source")
            }
            "InsufficientServicePermissions"
            | "NotAuthorizedOrFoundKmsKey"
            | "KmsKeyDisabled"
            | "KmsKeyIdNotProvided" => permanent(
                "denied",
                "the bucket's key in the Vault cannot be used: enable it, and let a policy say: Allow service \
                     objectstorage-<region> to use keys in compartment <compartment>",
            ),
            "NotRestored" | "RestoreInProgress" => permanent(
                "",
                "the object is in the Archive tier: restore it, and let no rule move blocks of Thanos there",
            ),
            "StorageQuotaExceeded" | "StorageLimitExceeded" | "QuotaExceeded" | "LimitExceeded" => {
                permanent("denied", "a quota or limit of the compartment or the tenancy is used up: raise it")
            }
            "UnmatchedContentMD5" => (Kind::Retry, "integrity", "bytes were changed or lost on the way".to_owned()),
            "InvalidUploadPart" => (Kind::Retry, "integrity", "the store has not kept all parts".to_owned()),
            "ConcurrentObjectUpdate" | "ConcurrentBucketUpdate" => (Kind::Retry, "server", String::new()),
            _ => match refusal.status {
                401 => self.unauthenticated(refusal),
                429 | 503 => (Kind::Retry, "throttled", String::new()),
                // An answer of the store has an id: this one is a proxy's.
                404 if refusal.request_id.is_empty() => {
                    (Kind::Retry, "network", "no answer of Oracle Cloud: correct region, or see the proxy".to_owned())
                }
                // Of the store's, only the answer to a HEAD has no code; it does not say what is missing.
                404 if refusal.code.is_empty() => (Kind::Retry, "server", String::new()),
                403 => permanent("denied", &self.policy()),
                300..=399 => permanent("", "redirects are not followed: correct region"),
                200 | 408 | 500.. => (Kind::Retry, "server", String::new()),
                _ => permanent("", ""),
            },
        }
    }

    /// What a policy must say. `Source:` Oracle's "Details for Object Storage".
    fn policy(&self) -> String {
        let group = match self.by {
            By::User | By::Session => "group <group>",
            By::Instance => "dynamic-group <group of this instance>",
        };
        format!(
            "let policies say: Allow {group} to read buckets in compartment <compartment>; Allow {group} to manage objects in \
             compartment <compartment> where target.bucket.name='{}' (a new one counts after some minutes)",
            self.bucket
        )
    }

    fn unauthenticated(&self, refusal: &Refusal) -> (Kind, &'static str, String) {
        if is_skewed(refusal.skew_s) {
            let (skew, side) =
                (duration(refusal.skew_s.unsigned_abs()), if refusal.skew_s > 0 { "behind" } else { "ahead of" });
            let hint = format!("this host's clock is {skew} {side} the store's: synchronise it");
            return (Kind::Permanent, "clock", hint);
        }
        let hint = match self.by {
            By::Session => {
                "the session's token has ended or is for another key: run `oci session refresh`, or use an API key"
            }
            By::Instance => {
                "the token of this instance is not accepted: correct region, and see whether privatekey is an RSA key"
            }
            By::User => {
                "the user has no API key of this fingerprint, or user_ocid or tenancy_ocid is another's (a new key counts \
                 after some minutes); or a proxy changes the request"
            }
        };
        (Kind::Permanent, "credentials", hint.to_owned())
    }

    /// The error of a request without an answer; `text` is the cause in the transport's words.
    pub(super) fn unanswered(&self, cause: Cause, text: &str) -> Fault {
        let (kind, class, hint) = match cause {
            Cause::Host => (Kind::Retry, "network", "correct region, or the name servers of this host"),
            Cause::Connection | Cause::Time | Cause::Answer => (Kind::Retry, "network", ""),
            Cause::Proxy => (Kind::Retry, "network", "see HTTPS_PROXY, HTTP_PROXY and NO_PROXY in the environment"),
            Cause::NoTls => (Kind::Permanent, "certificate", "the endpoint speaks no TLS: see the proxy"),
            Cause::Certificate => (Kind::Permanent, "certificate", certificate_hint(text)),
        };
        let mut full = format!("{} {} at {}: {}", self.operation, self.what(), self.host, printable(text));
        if !hint.is_empty() {
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

/// A text of the server for a log line: short, on one line, and hidden if it may hold a signature or a token.
fn printable(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    if lower.contains("signature=") || lower.contains("st$") {
        return "(an answer that repeats the request)".into();
    }
    text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(by: By) -> RequestContext<'static> {
        RequestContext { operation: "PutObject", bucket: "b", object: Some("01A/index"), host: "h.test", by }
    }

    fn refusal(status: u16, code: &str, skew_s: i64) -> Refusal {
        Refusal { status, code: code.into(), skew_s, request_id: "fra-1:x".into(), ..Refusal::default() }
    }

    #[test]
    fn refusals_say_what_to_change() {
        let check = |status, code: &str, kind: Kind, class: &str, part: &str| {
            let error = context(By::User).refused(&refusal(status, code, 0)).error;
            assert_eq!((error.kind(), error.class()), (kind, class), "{error}");
            assert!(error.to_string().contains(part), "{error} lacks {part}");
        };
        use Kind::{NotFound, Permanent, Retry};
        check(404, "ObjectNotFound", NotFound, "missing", "404 ObjectNotFound (opc-request-id fra-1:x)");
        check(404, "", Retry, "server", "404");
        check(404, "BucketNotFound", Permanent, "no_bucket", "create the bucket b in this region");
        check(404, "BucketNotFound", Permanent, "no_bucket", "where target.bucket.name='b'");
        check(404, "NamespaceNotFound", Permanent, "no_bucket", "tenancy_ocid");
        check(404, "NotAuthorizedOrNotFound", Permanent, "denied", "Allow group <group> to manage objects");
        check(403, "NotAuthorized", Permanent, "denied", "Allow group");
        check(403, "", Permanent, "denied", "Allow group");
        check(403, "BucketIsReadonly", Permanent, "denied", "replication");
        check(409, "KmsKeyDisabled", Permanent, "denied", "Vault");
        check(409, "NotRestored", Permanent, "permanent", "Archive tier");
        check(400, "StorageQuotaExceeded", Permanent, "denied", "raise it");
        check(401, "NotAuthenticated", Permanent, "credentials", "no API key of this fingerprint");
        check(400, "UnmatchedContentMD5", Retry, "integrity", "on the way");
        check(400, "InvalidUploadPart", Retry, "integrity", "all parts");
        check(404, "UploadNotFound", Retry, "server", "forgotten");
        check(409, "ConcurrentObjectUpdate", Retry, "server", "409");
        check(429, "TooManyRequests", Retry, "throttled", "429 TooManyRequests");
        check(503, "ServiceUnavailable", Retry, "throttled", "503");
        check(500, "InternalServerError", Retry, "server", "500");
        check(400, "InvalidParameter", Permanent, "permanent", "400 InvalidParameter");
        check(302, "", Permanent, "permanent", "redirects");
        let session = context(By::Session).refused(&refusal(401, "NotAuthenticated", 0)).error;
        assert!(session.to_string().contains("oci session refresh"), "{session}");
        let instance = context(By::Instance).refused(&refusal(404, "NotAuthorizedOrNotFound", 0)).error;
        assert!(instance.to_string().contains("Allow dynamic-group"), "{instance}");
        let page = Refusal { status: 404, ..Refusal::default() };
        assert_eq!(context(By::User).refused(&page).error.class(), "network");
    }

    #[test]
    fn a_forgotten_upload_is_told_from_a_missing_bucket_or_right() {
        let check = |status, code: &str, want| {
            let fault = context(By::User).refused(&refusal(status, code, 0));
            assert_eq!(fault.is_forgotten(), want, "{code}");
        };
        check(404, "UploadNotFound", true);
        check(404, "ObjectNotFound", true);
        check(404, "BucketNotFound", false);
        check(404, "NamespaceNotFound", false);
        check(404, "NotAuthorizedOrNotFound", false);
        check(404, "", false);
        check(400, "InvalidUploadPart", false);
    }

    #[test]
    fn a_wrong_clock_is_told_from_a_wrong_key() {
        let check = |skew_s, class: &str, part: &str| {
            let error = context(By::User).refused(&refusal(401, "NotAuthenticated", skew_s)).error;
            assert_eq!(error.class(), class, "{error}");
            assert!(error.to_string().contains(part), "{error} lacks {part}");
        };
        check(7200, "clock", "clock is 2h0m0s behind the store's");
        check(-1234, "clock", "20m34s ahead of the store's");
        check(20, "credentials", "no API key");
    }

    #[test]
    fn each_remedy_is_tried_once() {
        let check = |refusal: Refusal, first: Next, second: Next| {
            let mut tried = Tried::default();
            assert_eq!(tried.next(&refusal), first, "{refusal:?}");
            assert_eq!(tried.next(&refusal), second, "{refusal:?}");
        };
        check(refusal(401, "NotAuthenticated", 0), Next::RenewKey, Next::GiveUp);
        check(refusal(401, "NotAuthenticated", 7200), Next::SetClock(7200), Next::RenewKey);
        check(refusal(404, "BucketNotFound", 0), Next::GiveUp, Next::GiveUp);
        check(refusal(404, "NotAuthorizedOrNotFound", 7200), Next::GiveUp, Next::GiveUp);
        check(Refusal { status: 404, ..Refusal::default() }, Next::Retry, Next::Retry);
        check(refusal(429, "TooManyRequests", 0), Next::Rest, Next::Rest);
        check(refusal(503, "ServiceUnavailable", 0), Next::Rest, Next::Rest);
        check(refusal(500, "InternalServerError", 0), Next::Retry, Next::Retry);
        check(refusal(400, "UnmatchedContentMD5", 0), Next::Retry, Next::Retry);
    }

    #[test]
    fn an_answer_that_repeats_the_request_is_not_shown() {
        for message in ["bad header Signature=\"hunter2\"", "no such key ST$hunter2"] {
            let error = context(By::User).refused(&Refusal { message: message.into(), ..refusal(400, "X", 0) }).error;
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
