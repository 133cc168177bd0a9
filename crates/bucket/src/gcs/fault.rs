//! Errors of requests to Google Cloud Storage, each with a hint at which right or setting to change. Pure.
//!
//! This module never sees a token or the address of an upload, so no error can show one.

use std::time::Duration;

use crate::rest::{Cause, certificate_hint};
use pillion_base::error::{Error, Kind};

/// The request that failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestContext<'a> {
    /// The operation, such as `objects.get`.
    pub operation: &'static str,
    /// The bucket.
    pub bucket: &'a str,
    /// The object; `None` for a listing.
    pub object: Option<&'a str>,
    /// Whether it goes to an upload that was begun before.
    pub is_session: bool,
    /// The server, `host[:port]`.
    pub host: &'a str,
}

/// What the store answered instead of success.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Such as `notFound`; empty if the answer names none.
    pub reason: String,
    /// The store's message.
    pub message: String,
    /// Whether the answer is the store's own, and not that of something in between.
    pub is_own: bool,
    /// How long the store wants to be left alone.
    pub retry_after: Option<Duration>,
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

/// What was tried for one request; each remedy is tried once.
#[derive(Debug, Default)]
pub(super) struct Tried {
    token: bool,
}

impl Tried {
    /// Decides after a refusal. `Source:` "HTTP status and error codes for JSON"; "Retry strategy".
    pub(super) fn next(&mut self, refusal: &Refusal, is_session: bool) -> Next {
        match refusal.status {
            401 if !std::mem::replace(&mut self.token, true) => Next::RenewToken,
            429 | 503 => Next::Rest,
            403 if refusal.is_about_rate() => Next::Rest,
            408 | 500 | 502 | 504 => Next::Retry,
            // The bytes were damaged on the way. An upload in chunks is over then.
            400 if refusal.is_about_sums() && !is_session => Next::Retry,
            // Not from Google, but from something in between.
            404 if !refusal.is_own && !is_session => Next::Retry,
            _ => Next::GiveUp,
        }
    }
}

impl Refusal {
    fn is_about_rate(&self) -> bool {
        matches!(self.reason.as_str(), "rateLimitExceeded" | "userRateLimitExceeded")
    }

    fn is_about_sums(&self) -> bool {
        let message = self.message.to_ascii_lowercase();
        ["crc32c", "md5"].iter().any(|sum| message.contains(sum)) && message.contains("match")
    }

    /// The store says the same status of a bucket that is missing and of an object.
    fn is_about_the_bucket(&self) -> bool {
        self.message.contains("bucket does not exist")
    }
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
        for (before, part) in [(" ", &refusal.reason), (": ", &refusal.message)] {
            if !part.is_empty() {
                text.push_str(before);
                text.push_str(&printable(part));
            }
        }
        if !hint.is_empty() {
            text.push_str(&format!("; {hint}"));
        }
        let error = Error::new(kind, text);
        let error = if class.is_empty() { error } else { error.classed(class) };
        Fault { status: refusal.status, error }
    }

    /// Kind and class of a refusal, and a hint at what to change.
    fn judged(&self, refusal: &Refusal) -> (Kind, &'static str, String) {
        let permanent = |class, hint: &str| (Kind::Permanent, class, hint.to_owned());
        let says = |words: &str| refusal.message.contains(words);
        let is_whole_bucket = self.object.is_none() || self.operation == "objects.insert";
        match refusal.status {
            404 if refusal.is_about_the_bucket() || (refusal.is_own && is_whole_bucket && !self.is_session) => {
                permanent(
                    "no_bucket",
                    &format!("create the bucket {}, or correct bucket in the configuration", self.bucket),
                )
            }
            404 | 410 if self.is_session => (Kind::Retry, "server", "the upload is no longer known".to_owned()),
            404 if refusal.is_own => (Kind::NotFound, "missing", String::new()),
            404 => (
                Kind::Retry,
                "network",
                "no answer of Google Cloud Storage: see the proxy, or STORAGE_EMULATOR_HOST".to_owned(),
            ),
            401 => permanent(
                "credentials",
                "the store does not accept the token: is the service account's key still there and the account enabled? \
                 Is this host's clock right?",
            ),
            403 if refusal.is_about_rate() => (Kind::Retry, "throttled", String::new()),
            403 if says("scope") || refusal.reason == "insufficientPermissions" => permanent(
                "denied",
                "the access scopes of this machine do not let its service account use storage: give the machine the scope \
                 storage-rw or cloud-platform",
            ),
            403 if refusal.reason == "accountDisabled" || says("billing") => {
                permanent("denied", "the project's billing account is closed or missing: see Billing in the console")
            }
            403 if refusal.reason == "retentionPolicyNotMet" || says("retention") || says("hold") => permanent(
                "denied",
                "a retention policy or a hold of the bucket forbids to replace an object that is there already",
            ),
            403 if says("VPC Service Controls") || refusal.reason == "vpcServiceControls" => permanent(
                "denied",
                "a perimeter of VPC Service Controls keeps this host out: admit it, or its network, in an access level",
            ),
            403 => permanent("denied", &self.lacking_right(refusal)),
            400 if refusal.is_about_sums() => {
                (Kind::Retry, "integrity", "bytes were changed or lost on the way".to_owned())
            }
            400 if refusal.reason.contains("UserProjectMissing") || says("requester pays") => permanent(
                "denied",
                "the bucket lets whoever asks pay (Requester Pays), which is not supported: switch that off",
            ),
            412 => (Kind::Retry, "server", "somebody else has written the object at the same time".to_owned()),
            429 | 503 => (Kind::Retry, "throttled", String::new()),
            300..=399 => permanent("", "redirects are not followed: see the proxy, or STORAGE_EMULATOR_HOST"),
            200..=299 | 408 | 500.. => (Kind::Retry, "server", String::new()),
            _ => permanent("", ""),
        }
    }

    fn lacking_right(&self, refusal: &Refusal) -> String {
        let named = refusal.message.split_whitespace().find(|word| word.starts_with("storage."));
        let right = named.map(|word| word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()));
        let right = right.map_or_else(|| format!("storage.{}", self.operation), printable);
        let mut hint = format!(
            "the service account needs the role roles/storage.objectAdmin on the bucket {} (or \
             roles/storage.objectCreator and roles/storage.objectViewer), here for {right}",
            self.bucket
        );
        if right == "storage.objects.delete" {
            hint.push_str("; to replace an object that is there already takes roles/storage.objectAdmin or objectUser");
        }
        hint
    }

    /// The error of a request without an answer; `text` is the cause in the transport's words.
    pub(super) fn unanswered(&self, cause: Cause, text: &str) -> Fault {
        let (kind, class, hint) = match cause {
            Cause::Host => (Kind::Retry, "network", "see the name servers of this host, or STORAGE_EMULATOR_HOST"),
            Cause::Connection | Cause::Time | Cause::Answer => (Kind::Retry, "network", ""),
            Cause::Proxy => (Kind::Retry, "network", "see HTTPS_PROXY, HTTP_PROXY and NO_PROXY in the environment"),
            Cause::NoTls => (Kind::Permanent, "certificate", "the server speaks no TLS: correct STORAGE_EMULATOR_HOST"),
            Cause::Certificate => (Kind::Permanent, "certificate", certificate_hint(text)),
        };
        let mut full = format!("{} {} at {}: {}", self.operation, self.what(), self.host, printable(text));
        if !hint.is_empty() {
            full.push_str(&format!("; {hint}"));
        }
        Fault { status: 0, error: Error::new(kind, full).classed(class) }
    }

    /// The error of stored bytes that differ from those that were sent.
    pub(super) fn integrity_error(&self, text: &str) -> Error {
        Error::new(Kind::Retry, format!("{} {} at {}: {text}", self.operation, self.what(), self.host))
            .classed("integrity")
    }
}

/// A text of the server for a log line: short, on one line, and hidden if it may hold a token or the address of an upload.
fn printable(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    if ["upload_id", "bearer ", "ya29."].iter().any(|secret| lower.contains(secret)) {
        return "(an answer that repeats the request)".into();
    }
    text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> RequestContext<'static> {
        RequestContext {
            operation: "objects.get",
            bucket: "b",
            object: Some("01A/index"),
            is_session: false,
            host: "storage.test",
        }
    }

    fn refusal(status: u16, reason: &str, message: &str) -> Refusal {
        Refusal { status, reason: reason.into(), message: message.into(), is_own: true, retry_after: None }
    }

    #[test]
    fn refusals_say_what_to_change() {
        let check = |status, reason: &str, message: &str, kind: Kind, class: &str, part: &str| {
            let error = context().refused(&refusal(status, reason, message)).error;
            assert_eq!((error.kind(), error.class()), (kind, class), "{error}");
            assert!(error.to_string().contains(part), "{error} lacks {part}");
        };
        use Kind::{NotFound, Permanent, Retry};
        check(404, "notFound", "No such object: b/01A/index", NotFound, "missing", "404 notFound: No such");
        check(404, "notFound", "The specified bucket does not exist.", Permanent, "no_bucket", "create the bucket b");
        check(401, "authError", "Invalid Credentials", Permanent, "credentials", "does not accept the token");
        let lacks = "a@b does not have storage.objects.list access to the Google Cloud Storage bucket.";
        check(403, "forbidden", lacks, Permanent, "denied", "here for storage.objects.list");
        check(403, "forbidden", "", Permanent, "denied", "here for storage.objects.get");
        let replaces = "a@b does not have storage.objects.delete access to the object.";
        check(403, "forbidden", replaces, Permanent, "denied", "to replace an object");
        check(403, "insufficientPermissions", "", Permanent, "denied", "access scopes");
        check(403, "retentionPolicyNotMet", "", Permanent, "denied", "a retention policy");
        check(403, "accountDisabled", "", Permanent, "denied", "billing");
        check(403, "userRateLimitExceeded", "", Retry, "throttled", "userRateLimitExceeded");
        check(429, "rateLimitExceeded", "", Retry, "throttled", "429");
        check(503, "backendError", "", Retry, "throttled", "503");
        check(500, "internalError", "", Retry, "server", "500");
        check(400, "invalid", "Provided CRC32C \"a\" doesn't match", Retry, "integrity", "on the way");
        check(400, "required", "UserProjectMissing: requester pays", Permanent, "denied", "Requester Pays");
        check(400, "invalid", "", Permanent, "permanent", "400 invalid");
        check(302, "", "", Permanent, "permanent", "redirects");
        let session = RequestContext { is_session: true, ..context() };
        for status in [404, 410] {
            let error = session.refused(&refusal(status, "notFound", "")).error;
            assert_eq!((error.kind(), error.class()), (Retry, "server"), "{error}");
        }
        let portal = Refusal { is_own: false, ..refusal(404, "", "Please log in") };
        let error = context().refused(&portal).error;
        assert_eq!((error.kind(), error.class()), (Retry, "network"), "{error}");
    }

    #[test]
    fn a_token_is_renewed_once_and_the_rest_may_go_on() {
        let check = |refusal: Refusal, first: Next, second: Next| {
            let mut tried = Tried::default();
            assert_eq!(tried.next(&refusal, false), first, "{refusal:?}");
            assert_eq!(tried.next(&refusal, false), second, "{refusal:?}");
        };
        check(refusal(401, "authError", ""), Next::RenewToken, Next::GiveUp);
        check(refusal(403, "rateLimitExceeded", ""), Next::Rest, Next::Rest);
        check(refusal(403, "forbidden", ""), Next::GiveUp, Next::GiveUp);
        check(refusal(429, "", ""), Next::Rest, Next::Rest);
        check(refusal(502, "", ""), Next::Retry, Next::Retry);
        check(refusal(404, "notFound", ""), Next::GiveUp, Next::GiveUp);
        check(Refusal { is_own: false, ..refusal(404, "", "") }, Next::Retry, Next::Retry);
        let damaged = refusal(400, "invalid", "Provided MD5 hash doesn't match calculated MD5 hash");
        check(damaged.clone(), Next::Retry, Next::Retry);
        assert_eq!(Tried::default().next(&damaged, true), Next::GiveUp);
    }

    #[test]
    fn an_answer_that_repeats_a_secret_is_not_shown() {
        for message in ["no /o?upload_id=hunter2", "Bearer hunter2 is wrong", "ya29.hunter2"] {
            let error = context().refused(&refusal(400, "invalid", message)).error;
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
