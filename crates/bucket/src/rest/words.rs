//! What errors and log lines say of an exchange: its cause, hints, and what may be quoted of an answer. Pure.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::exchange::Answer;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
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
    /// The answer is not HTTP, or breaks off.
    Answer,
}

/// The hint for a TLS error, from rustls's words.
pub(crate) fn certificate_hint(text: &str) -> &'static str {
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

/// Prints a duration, such as `2h3m4s`.
pub(crate) fn duration(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

/// The store's clock minus the one that signed; the time since then is taken into account. 0 if the answer has no date.
pub(crate) fn skew(date: &str, begun: Instant, signed_at: Timestamp) -> i64 {
    let Ok(theirs) = jiff::fmt::rfc2822::parse(date) else { return 0 };
    let ours = signed_at.as_second().saturating_add(i64::try_from(begun.elapsed().as_secs()).unwrap_or_default());
    theirs.timestamp().as_second().saturating_sub(ours)
}

/// The text of an answer that is not the store's own, such as a proxy's page, without its tags.
pub(crate) fn plain_words(answer: &Answer) -> String {
    let text = String::from_utf8_lossy(&answer.body);
    let mut is_tag = false;
    let words: String = text
        .chars()
        .filter_map(|c| {
            match c {
                '<' => is_tag = true,
                '>' => {
                    is_tag = false;
                    return Some(' ');
                }
                c if !is_tag => return Some(c),
                _ => {}
            }
            None
        })
        .collect();
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The beginning of a peer's text, on one line. It is hidden if it repeats one of the `secrets`.
pub(crate) fn quoted(text: &str, secrets: &[&str]) -> String {
    const CHARS_MAX: usize = 300;
    if secrets.iter().any(|secret| !secret.is_empty() && text.contains(secret)) {
        return "(not shown, for it holds a secret)".into();
    }
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().take(CHARS_MAX).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_is_short_and_holds_no_secret() {
        assert_eq!(quoted(" a\nb\u{1b} ", &["", "x"]), "a b ");
        assert_eq!(quoted("the token hunter2 is wrong", &["hunter2"]), "(not shown, for it holds a secret)");
        assert_eq!(quoted(&"ü".repeat(1000), &[]).chars().count(), 300);
    }
}
