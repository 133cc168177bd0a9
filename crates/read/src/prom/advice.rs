//! What to change when Prometheus, or who stands before it, refuses: a hint that is added to the error. Pure.

use pillion_base::error::Error;

const CERTIFICATE: &str =
    "give tls_config.cert_file and key_file of --prometheus.http-client, signed by the client CA of Prometheus";

/// What the text of a failed connection has in it, and what to do about it.
const OF_CONNECTIONS: [(&str, &str); 8] = [
    (
        "authority that is trusted here",
        "tls_config.ca_file of --prometheus.http-client names the file of an authority that is to be trusted",
    ),
    ("is for another host", "tls_config.server_name of --prometheus.http-client says which host is meant"),
    ("wants a certificate", CERTIFICATE),
    ("does not trust the authority", CERTIFICATE),
    // What older servers say when they get none, too.
    ("does not accept our certificate", CERTIFICATE),
    ("does not speak TLS", "should --prometheus.url begin with http://?"),
    (
        "proxy server responded 407",
        "the proxy wants a user and a password: proxy_url is http://user:password@host:port",
    ),
    ("proxy server responded", "the proxy refuses the tunnel to Prometheus; see its log"),
];

/// The error of a connection with what to do about it.
pub(super) fn of_connection(err: Error) -> Error {
    let text = err.to_string();
    match OF_CONNECTIONS.iter().find(|(what, _)| text.contains(what)) {
        Some((_, advice)) => Error::new(err.kind(), format!("{text}; {advice}")),
        None => err,
    }
}

/// What to do about an answer of this status and text.
pub(super) fn of_answer(status: u16, text: &str) -> Option<&'static str> {
    match status {
        400 if text.contains("HTTP request to an HTTPS server") => Some("--prometheus.url must begin with https://"),
        401 => Some(
            "Prometheus wants another user, password or token: see basic_auth and bearer_token of \
             --prometheus.http-client, or the user in --prometheus.url",
        ),
        403 => Some("whoever is known by the password or token of --prometheus.http-client may not do this"),
        407 => Some("the proxy wants a user and a password: proxy_url is http://user:password@host:port"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::error::Kind;

    #[test]
    fn each_refusal_says_what_to_change() {
        let check = |text: &str, expected: &str| {
            let err = of_connection(Error::new(Kind::Permanent, text));
            assert_eq!((err.kind(), err.to_string()), (Kind::Permanent, format!("{text}{expected}")));
        };
        check("io: the server does not speak TLS", "; should --prometheus.url begin with http://?");
        check("connection refused", "");
        let has = |advice: Option<&str>, part: &str| assert!(advice.unwrap().contains(part), "{advice:?}");
        has(of_answer(400, "Client sent an HTTP request to an HTTPS server.\n"), "https://");
        has(of_answer(401, "Unauthorized"), "basic_auth");
        assert_eq!((of_answer(400, ""), of_answer(500, "")), (None, None));
    }
}
