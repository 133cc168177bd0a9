//! Errors of requests to Azure, each with a hint at which right or setting to change. Pure.
//!
//! This module never sees a key, a token or a signed URL, so no error can show one.

use std::time::Duration;

use super::config::Auth;
use crate::limits;
use crate::rest::{Cause, certificate_hint, duration};
use pillion_base::error::{Error, Kind};

/// How requests are authorised, as far as errors need to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// With the account's key.
    Key,
    /// With a shared access signature.
    Sas,
    /// With a token.
    Token,
}

impl From<&Auth> for By {
    fn from(auth: &Auth) -> By {
        match auth {
            Auth::Key(_) => By::Key,
            Auth::Sas(_) => By::Sas,
            Auth::ClientSecret { .. } | Auth::ManagedIdentity { .. } | Auth::Default => By::Token,
        }
    }
}

/// The request that failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestContext<'a> {
    /// The operation, such as `Put Blob`.
    pub operation: &'static str,
    /// The letter of a shared access signature's permission for it.
    pub letter: char,
    /// The storage account.
    pub account: &'a str,
    /// The container.
    pub container: &'a str,
    /// The blob; `None` for the container itself.
    pub object: Option<&'a str>,
    /// The server, `host[:port]`.
    pub host: &'a str,
    /// How it was authorised.
    pub by: By,
}

/// What the store answered instead of success.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Such as `BlobNotFound`; empty if the answer names none, which one of Azure always does.
    pub code: String,
    /// The store's message.
    pub message: String,
    /// More about a refused signature.
    pub detail: String,
    /// The request's id, with which support can find it.
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
    /// Retry with another token.
    RenewToken,
    /// Retry with the store's time. `Units:` s, to be added to the clock.
    SetClock(i64),
    /// Make the container and retry.
    CreateContainer,
}

/// What was tried for one request; each remedy is tried once.
#[derive(Debug, Default)]
pub(super) struct Tried {
    token: bool,
    clock: bool,
    container: bool,
}

impl Tried {
    /// Decides after a refusal. `creates`: a missing container is made.
    pub(super) fn next(&mut self, refusal: &Refusal, by: By, creates: bool) -> Next {
        let first = |flag: &mut bool| !std::mem::replace(flag, true);
        if by == By::Token && (refusal.status == 401 || refusal.is_about_the_token()) && first(&mut self.token) {
            return Next::RenewToken;
        }
        if by == By::Key && refusal.status == 403 && is_skewed(refusal.skew_s) && first(&mut self.clock) {
            return Next::SetClock(refusal.skew_s);
        }
        if refusal.code == "ContainerNotFound" && creates && first(&mut self.container) {
            return Next::CreateContainer;
        }
        match refusal.code.as_str() {
            "ServerBusy" | "OperationTimedOut" | "ContainerBeingDeleted" => Next::Rest,
            "Md5Mismatch" | "Crc64Mismatch" => Next::Retry,
            _ => match refusal.status {
                429 | 503 => Next::Rest,
                408 | 500 | 502 | 504 => Next::Retry,
                // Not from Azure, but from something in between.
                404 if refusal.code.is_empty() => Next::Retry,
                _ => Next::GiveUp,
            },
        }
    }
}

impl Refusal {
    fn is_about_the_token(&self) -> bool {
        matches!(self.code.as_str(), "InvalidAuthenticationInfo" | "AuthenticationFailed")
    }
}

/// Whether the difference of clocks is large enough to be the reason of a refusal. `Units:` s.
fn is_skewed(skew_s: i64) -> bool {
    skew_s.unsigned_abs() > limits::S3_SKEW_MAX.as_secs()
}

impl RequestContext<'_> {
    fn what(&self) -> String {
        match self.object {
            Some(object) => format!("{}/{object}", self.container),
            None => self.container.to_owned(),
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
            text.push_str(&format!(" (request id {})", printable(&refusal.request_id)));
        }
        if !hint.is_empty() {
            text.push_str(&format!("; {hint}"));
        }
        let error = Error::new(kind, text);
        let error = if class.is_empty() { error } else { error.classed(class) };
        Fault { status: refusal.status, code: refusal.code.clone(), error }
    }

    /// Kind and class of a refusal, and a hint at what to change. `Source:` "Status and error codes", Blob service and
    /// common ones.
    fn judged(&self, refusal: &Refusal) -> (Kind, &'static str, String) {
        let permanent = |class, hint: &str| (Kind::Permanent, class, hint.to_owned());
        let denied = |hint: &str| permanent("denied", hint);
        match refusal.code.as_str() {
            "BlobNotFound" | "ResourceNotFound" if self.object.is_some() => (Kind::NotFound, "missing", String::new()),
            "ContainerNotFound" | "ResourceNotFound" => permanent(
                "no_bucket",
                &format!(
                    "create the container {}, or correct container or storage_account, or leave \
                     storage_create_container at true",
                    self.container
                ),
            ),
            "ContainerBeingDeleted" => (
                Kind::Retry,
                "no_bucket",
                "somebody has deleted the container: its name is free again after some minutes".into(),
            ),
            "ContainerDisabled" => permanent("no_bucket", "the container has been disabled: ask Azure's support"),
            "AccountIsDisabled" => permanent(
                "denied",
                "the storage account is disabled: look at its state and at that of the subscription (unpaid bills \
                 disable it)",
            ),
            "AccountBeingCreated" => (Kind::Retry, "server", "the storage account is being created".into()),
            "AuthenticationFailed" | "InvalidAuthenticationInfo" => self.unauthenticated(refusal),
            // Azurite's word for it.
            "AuthorizationFailure" if refusal.message.contains("failed to authenticate") => {
                self.unauthenticated(refusal)
            }
            "NoAuthenticationInformation" | "PublicAccessNotPermitted" => {
                permanent("credentials", "the request carried nothing that authorises it: see storage_account_key")
            }
            "KeyBasedAuthenticationNotPermitted" => permanent(
                "credentials",
                "the account allows no keys and signatures: remove storage_account_key and storage_connection_string, and \
                 use client_id, user_assigned_id or a workload identity; or switch on shared key access",
            ),
            "AuthorizationFailure" => denied(match self.by {
                By::Sas => {
                    "the account's firewall does not let this host in (Networking, selected networks), or the signature \
                     is for other services or resources: it needs ss=b and srt=co"
                }
                _ => {
                    "the account's firewall does not let this host in: allow its network or address under Networking of \
                     the storage account, or use a private endpoint"
                }
            }),
            "AuthorizationPermissionMismatch"
            | "InsufficientAccountPermissions"
            | "AuthorizationPermissionMismatchError" => self.lacking_right(),
            "AuthorizationProtocolMismatch" => denied("the signature is for https only: use an https BlobEndpoint"),
            "AuthorizationSourceIPMismatch" => denied(
                "the signature is for other addresses than this host's: make one without sip, or with this address",
            ),
            "AuthorizationServiceMismatch" | "AuthorizationResourceTypeMismatch" => {
                denied("the signature is for other services or resources: it needs ss=b and srt=co")
            }
            "BlobArchived" | "BlobBeingRehydrated" => permanent(
                "",
                "the blob is in the archive tier: rehydrate it, and let no rule move blocks of Thanos there",
            ),
            "BlobImmutableDueToPolicy" => {
                permanent("denied", "a policy of the container forbids to change blobs that are there already")
            }
            "LeaseIdMissing" | "LeaseAlreadyPresent" => {
                permanent("denied", "somebody else holds a lease on it: break the lease")
            }
            "InvalidBlobType" => permanent("", "there is an append or page blob of this name: remove it"),
            "InvalidResourceName" | "InvalidUri" => permanent("no_bucket", "correct container and storage_account"),
            "ServerBusy" | "OperationTimedOut" => (Kind::Retry, "throttled", String::new()),
            "Md5Mismatch" | "Crc64Mismatch" => {
                (Kind::Retry, "integrity", "bytes were changed or lost on the way".to_owned())
            }
            "InvalidBlockList" => (Kind::Retry, "integrity", "the store has not kept all blocks".to_owned()),
            _ => match refusal.status {
                429 | 503 => (Kind::Retry, "throttled", String::new()),
                401 => self.unauthenticated(refusal),
                403 => self.lacking_right(),
                // An answer of Azure has a code: this one is a proxy's.
                404 => (Kind::Retry, "network", "no answer of Azure: correct endpoint, or see the proxy".to_owned()),
                300..=399 => permanent("", "redirects are not followed: correct endpoint"),
                200 | 408 | 500.. => (Kind::Retry, "server", String::new()),
                _ => permanent("", ""),
            },
        }
    }

    fn unauthenticated(&self, refusal: &Refusal) -> (Kind, &'static str, String) {
        let permanent = |class, hint: String| (Kind::Permanent, class, hint);
        let is_time = ["too old", "in the future", "time frame"].iter().any(|words| refusal.detail.contains(words));
        if is_skewed(refusal.skew_s) && (self.by != By::Sas || is_time) {
            let (skew, side) =
                (duration(refusal.skew_s.unsigned_abs()), if refusal.skew_s > 0 { "behind" } else { "ahead of" });
            return permanent("clock", format!("this host's clock is {skew} {side} the store's: synchronise it"));
        }
        permanent(
            "credentials",
            match self.by {
                By::Key => format!(
                    "the key is not one of account {}, or a proxy changes the request: correct storage_account_key or \
                     storage_connection_string; has the key been rotated?",
                    self.account
                ),
                By::Sas if is_time => {
                    "the shared access signature is not valid now (see its st= and se=): give a new one in \
                     storage_connection_string"
                        .to_owned()
                }
                By::Sas => {
                    "the shared access signature is damaged, has been revoked, or its key was rotated: give a new \
                            one in storage_connection_string"
                        .to_owned()
                }
                By::Token => format!(
                    "the store does not accept the token: the identity must be of the directory (az_tenant_id) that \
                     account {} is in",
                    self.account
                ),
            },
        )
    }

    fn lacking_right(&self) -> (Kind, &'static str, String) {
        let hint = match self.by {
            By::Key => "the account's key must not do this: see the account's policies".to_owned(),
            By::Sas => format!(
                "the shared access signature lacks the permission {}: give it sp=rcwl on the container{}",
                self.letter,
                if self.operation == "Create Container" { ", or create the container yourself" } else { "" }
            ),
            By::Token => format!(
                "the identity needs the role Storage Blob Data Contributor on the container {}{}",
                self.container,
                if self.operation == "Create Container" {
                    " and the account, or create the container yourself and set storage_create_container: false"
                } else {
                    " (a new role counts after some minutes)"
                }
            ),
        };
        (Kind::Permanent, "denied", hint)
    }

    /// The error of a request without an answer; `text` is the cause in the transport's words.
    pub(super) fn unanswered(&self, cause: Cause, text: &str) -> Fault {
        let (kind, class, hint) = match cause {
            Cause::Host => {
                (Kind::Retry, "network", "correct storage_account or endpoint, or the name servers of this host")
            }
            Cause::Connection | Cause::Time | Cause::Answer => (Kind::Retry, "network", ""),
            Cause::Proxy => (Kind::Retry, "network", "see HTTPS_PROXY, HTTP_PROXY and NO_PROXY in the environment"),
            Cause::NoTls => (Kind::Permanent, "certificate", "the endpoint speaks no TLS: correct its port"),
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

/// A text of the server for a log line: short, on one line, and hidden if it may hold a signature.
fn printable(text: &str) -> String {
    if text.to_ascii_lowercase().contains("sig=") {
        return "(an answer that repeats the request)".into();
    }
    text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(by: By) -> RequestContext<'static> {
        RequestContext {
            operation: "Put Blob",
            letter: 'w',
            account: "acc",
            container: "c",
            object: Some("01A/index"),
            host: "acc.test",
            by,
        }
    }

    fn refusal(status: u16, code: &str, skew_s: i64, detail: &str) -> Refusal {
        Refusal { status, code: code.into(), skew_s, detail: detail.into(), ..Refusal::default() }
    }

    #[test]
    fn refusals_say_what_to_change() {
        let check = |by, status, code: &str, kind: Kind, class: &str, part: &str| {
            let error = context(by).refused(&refusal(status, code, 0, "")).error;
            assert_eq!((error.kind(), error.class()), (kind, class), "{error}");
            assert!(error.to_string().contains(part), "{error} lacks {part}");
        };
        use Kind::{NotFound, Permanent, Retry};
        check(By::Key, 404, "BlobNotFound", NotFound, "missing", "404 BlobNotFound");
        check(By::Key, 404, "ContainerNotFound", Permanent, "no_bucket", "create the container c");
        check(By::Key, 404, "", Retry, "network", "see the proxy");
        check(By::Key, 409, "ContainerBeingDeleted", Retry, "no_bucket", "free again");
        check(By::Key, 403, "AccountIsDisabled", Permanent, "denied", "disabled");
        check(By::Key, 403, "AuthenticationFailed", Permanent, "credentials", "correct storage_account_key");
        check(By::Sas, 403, "AuthenticationFailed", Permanent, "credentials", "has been revoked");
        check(By::Token, 401, "InvalidAuthenticationInfo", Permanent, "credentials", "az_tenant_id");
        check(By::Token, 401, "", Permanent, "credentials", "az_tenant_id");
        check(By::Key, 403, "KeyBasedAuthenticationNotPermitted", Permanent, "credentials", "allows no keys");
        check(By::Token, 403, "AuthorizationFailure", Permanent, "denied", "under Networking");
        check(By::Sas, 403, "AuthorizationFailure", Permanent, "denied", "srt=co");
        check(By::Token, 403, "AuthorizationPermissionMismatch", Permanent, "denied", "Storage Blob Data Contributor");
        check(By::Sas, 403, "AuthorizationPermissionMismatch", Permanent, "denied", "the permission w");
        check(By::Sas, 403, "AuthorizationSourceIPMismatch", Permanent, "denied", "sip");
        check(By::Sas, 403, "AuthorizationProtocolMismatch", Permanent, "denied", "https");
        check(By::Key, 409, "BlobImmutableDueToPolicy", Permanent, "denied", "policy");
        check(By::Key, 409, "BlobArchived", Permanent, "permanent", "archive tier");
        check(By::Key, 503, "ServerBusy", Retry, "throttled", "503 ServerBusy");
        check(By::Key, 500, "OperationTimedOut", Retry, "throttled", "OperationTimedOut");
        check(By::Key, 500, "InternalError", Retry, "server", "500");
        check(By::Key, 400, "Md5Mismatch", Retry, "integrity", "on the way");
        check(By::Key, 400, "InvalidHeaderValue", Permanent, "permanent", "400 InvalidHeaderValue");
        check(By::Key, 302, "", Permanent, "permanent", "redirects");
    }

    #[test]
    fn clocks_and_lifetimes_are_told_apart() {
        let check = |by, skew_s, detail: &str, class: &str, part: &str| {
            let error = context(by).refused(&refusal(403, "AuthenticationFailed", skew_s, detail)).error;
            assert_eq!(error.class(), class, "{error}");
            assert!(error.to_string().contains(part), "{error} lacks {part}");
        };
        check(By::Key, 7200, "Request date header too old", "clock", "clock is 2h0m0s behind the store's");
        check(By::Key, -1234, "", "clock", "20m34s ahead of the store's");
        check(By::Sas, 0, "Signature not valid in the specified time frame", "credentials", "se=");
        check(By::Sas, 7200, "Signature fields not well formed", "credentials", "damaged");
    }

    #[test]
    fn each_remedy_is_tried_once() {
        let check = |by, creates, refusal: Refusal, first: Next, second: Next| {
            let mut tried = Tried::default();
            assert_eq!(tried.next(&refusal, by, creates), first, "{refusal:?}");
            assert_eq!(tried.next(&refusal, by, creates), second, "{refusal:?}");
        };
        check(By::Token, true, refusal(401, "InvalidAuthenticationInfo", 0, ""), Next::RenewToken, Next::GiveUp);
        check(By::Key, true, refusal(403, "AuthenticationFailed", 7200, ""), Next::SetClock(7200), Next::GiveUp);
        check(By::Key, true, refusal(403, "AuthenticationFailed", 7, ""), Next::GiveUp, Next::GiveUp);
        check(By::Sas, true, refusal(403, "AuthenticationFailed", 7200, ""), Next::GiveUp, Next::GiveUp);
        check(By::Key, true, refusal(404, "ContainerNotFound", 0, ""), Next::CreateContainer, Next::GiveUp);
        check(By::Key, false, refusal(404, "ContainerNotFound", 0, ""), Next::GiveUp, Next::GiveUp);
        check(By::Key, true, refusal(404, "BlobNotFound", 0, ""), Next::GiveUp, Next::GiveUp);
        check(By::Key, true, refusal(404, "", 0, ""), Next::Retry, Next::Retry);
        check(By::Key, true, refusal(503, "ServerBusy", 0, ""), Next::Rest, Next::Rest);
        check(By::Key, true, refusal(500, "OperationTimedOut", 0, ""), Next::Rest, Next::Rest);
        check(By::Key, true, refusal(409, "ContainerBeingDeleted", 0, ""), Next::Rest, Next::Rest);
        check(By::Key, true, refusal(500, "InternalError", 0, ""), Next::Retry, Next::Retry);
    }

    #[test]
    fn an_answer_that_repeats_the_signature_is_not_shown() {
        let message = "bad query ?sv=1&sig=hunter2".to_owned();
        let error = context(By::Sas).refused(&Refusal { status: 400, message, ..Refusal::default() }).error;
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
