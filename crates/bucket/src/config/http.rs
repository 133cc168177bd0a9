//! `http_config` of a bucket: settings of the HTTP client. Pure.

use std::path::PathBuf;
use std::time::Duration;

use crate::limits;
use crate::rest::HttpConfig;
use pillion_base::error::Result;
use pillion_base::time::parse_prometheus_duration;
use pillion_base::yaml::Node;

const FIELDS: [&str; 10] = [
    "idle_conn_timeout",
    "response_header_timeout",
    "insecure_skip_verify",
    "tls_handshake_timeout",
    // Thanos reads these two and never uses them: no request asks for a 100 Continue, no answer is decompressed.
    "expect_continue_timeout",
    "disable_compression",
    "max_idle_conns",
    "max_idle_conns_per_host",
    "max_conns_per_host",
    "tls_config",
];

/// What 0 means: Go's `DefaultMaxIdleConnsPerHost`.
const IDLE_PER_HOST: usize = 2;

/// Reads the field `http_config` of `config`; what the operator should know is added to `remarks`.
///
/// `Source:` objstore `exthttp/transport.go`, `exthttp/tlsconfig.go`.
pub(super) fn read(config: &Node, remarks: &mut Vec<String>) -> Result<HttpConfig> {
    let default = HttpConfig::default();
    let Some(node) = config.get("http_config").filter(|node| !node.is_null()) else { return Ok(default) };
    node.check_fields("http_config", &FIELDS)?;
    duration(node, "expect_continue_timeout", Duration::ZERO)?;
    node.bool_field("disable_compression")?;
    let insecure_skip_verify = node.bool_field("insecure_skip_verify")?.unwrap_or(false);
    let mut http = HttpConfig {
        idle_conn_timeout: duration(node, "idle_conn_timeout", default.idle_conn_timeout)?,
        response_header_timeout: duration(node, "response_header_timeout", default.response_header_timeout)?,
        tls_handshake_timeout: duration(node, "tls_handshake_timeout", default.tls_handshake_timeout)?,
        insecure_skip_verify,
        max_idle_conns: count(node, "max_idle_conns", usize::MAX)?.unwrap_or(default.max_idle_conns),
        max_idle_conns_per_host: count(node, "max_idle_conns_per_host", IDLE_PER_HOST)?
            .unwrap_or(default.max_idle_conns_per_host),
        max_conns_per_host: count(node, "max_conns_per_host", 0)?.unwrap_or(default.max_conns_per_host),
        ..default
    };
    let Some(tls) = node.get("tls_config").filter(|node| !node.is_null()) else { return Ok(http) };
    tls.check_fields("tls_config", &["ca_file", "cert_file", "key_file", "server_name", "insecure_skip_verify"])?;
    let file = |name: &str| -> Result<Option<PathBuf>> {
        Ok(tls.str_field(name)?.filter(|path| !path.is_empty()).map(PathBuf::from))
    };
    http.ca_file = file("ca_file")?;
    http.client_cert = match (file("cert_file")?, file("key_file")?) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => return Err(tls.error("client cert file specified without client key file: set key_file")),
        (None, Some(_)) => return Err(tls.error("client key file specified without client cert file: set cert_file")),
    };
    http.server_name = tls.str_field("server_name")?.unwrap_or_default().to_owned();
    if tls.bool_field("insecure_skip_verify")?.unwrap_or(false) && !insecure_skip_verify {
        remarks.push(
            "http_config.tls_config.insecure_skip_verify has no effect (in Thanos neither) and certificates are \
             checked: set http_config.tls_config.ca_file to the store's authority, or, if there is no other way, \
             http_config.insecure_skip_verify"
                .into(),
        );
    }
    Ok(http)
}

/// Reads a duration; 0 means no limit.
fn duration(node: &Node, name: &str, default: Duration) -> Result<Duration> {
    let Some(text) = node.str_field(name)? else { return Ok(default) };
    match parse_prometheus_duration(text).map(u64::try_from) {
        Ok(Ok(0)) => Ok(limits::BUCKET_TIMEOUT_MAX),
        Ok(Ok(ms)) => Ok(Duration::from_millis(ms)),
        _ => {
            let node = node.get(name).unwrap_or(node);
            Err(node.error(format!("field {name} must be a duration such as 1m30s")))
        }
    }
}

/// Reads a number; `zero` is what 0 means.
fn count(node: &Node, name: &str, zero: usize) -> Result<Option<usize>> {
    Ok(node.u64_field(name)?.map(|number| match usize::try_from(number) {
        Ok(0) => zero,
        Ok(number) => number,
        Err(_) => usize::MAX,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::yaml;

    fn parse(text: &str) -> Result<(HttpConfig, Vec<String>)> {
        let mut remarks = Vec::new();
        let text = format!("http_config:\n  {}", text.replace('\n', "\n  "));
        read(&yaml::parse(&text).unwrap(), &mut remarks).map(|http| (http, remarks))
    }

    #[test]
    fn every_key_has_its_effect() {
        let check = |text: &str, expected: HttpConfig| {
            assert_eq!(parse(text).unwrap_or_else(|err| panic!("{text}: {err}")), (expected, Vec::new()), "{text}");
        };
        let default = HttpConfig::default;
        check("", default());
        check("idle_conn_timeout: 5m", HttpConfig { idle_conn_timeout: Duration::from_secs(300), ..default() });
        check("idle_conn_timeout:\nmax_idle_conns: ~", default());
        check(
            "response_header_timeout: 1m30s",
            HttpConfig { response_header_timeout: Duration::from_secs(90), ..default() },
        );
        check(
            "response_header_timeout: 0s",
            HttpConfig { response_header_timeout: Duration::from_secs(3600), ..default() },
        );
        check(
            "tls_handshake_timeout: 500ms",
            HttpConfig { tls_handshake_timeout: Duration::from_millis(500), ..default() },
        );
        check("insecure_skip_verify: on", HttpConfig { insecure_skip_verify: true, ..default() });
        check("max_idle_conns: 0", HttpConfig { max_idle_conns: usize::MAX, ..default() });
        check("max_idle_conns_per_host: 0", HttpConfig { max_idle_conns_per_host: 2, ..default() });
        check("max_idle_conns_per_host: 7", HttpConfig { max_idle_conns_per_host: 7, ..default() });
        check("max_conns_per_host: 9", HttpConfig { max_conns_per_host: 9, ..default() });
        check("expect_continue_timeout: 1s\ndisable_compression: true", default());
        check(
            "tls_config: {ca_file: /ca, cert_file: '', key_file: '', server_name: s3.lan}",
            HttpConfig { ca_file: Some("/ca".into()), server_name: "s3.lan".into(), ..default() },
        );
        check(
            "tls_config: {cert_file: /c, key_file: /k}",
            HttpConfig { client_cert: Some(("/c".into(), "/k".into())), ..default() },
        );
        check(
            "insecure_skip_verify: true\ntls_config: {insecure_skip_verify: true}",
            HttpConfig { insecure_skip_verify: true, ..default() },
        );
    }

    #[test]
    fn certificates_stay_checked_where_thanos_ignores_the_key_too() {
        let (http, remarks) = parse("tls_config: {insecure_skip_verify: true}").unwrap();
        assert!(!http.insecure_skip_verify);
        assert!(remarks.first().is_some_and(|text| text.contains("http_config.insecure_skip_verify")), "{remarks:?}");
    }

    #[test]
    fn what_is_wrong_is_named_by_line() {
        let check = |text: &str, expected: &str| {
            let err = parse(text).expect_err(text).to_string();
            assert!(err.starts_with(expected), "{text}: {err}");
            assert!(!err.contains("hunter2"), "{err}");
        };
        check("idle_conn_timeout: hunter2", "line 2: field idle_conn_timeout must be a duration");
        check("response_header_timeout: 90", "line 2: field response_header_timeout must be a duration");
        check("expect_continue_timeout: x", "line 2: field expect_continue_timeout must be a duration");
        check("disable_compression: 1", "line 2: field disable_compression must be true or false");
        check("max_idle_conns: -1", "line 2: field max_idle_conns must not be below zero");
        check("max_conns_per_host: hunter2", "line 2: field max_conns_per_host must be a whole number");
        check("proxy_url: hunter2", "line 2: field proxy_url not found in http_config");
        check("tls_config: {min_version: 1}", "line 2: field min_version not found in tls_config");
        check("tls_config: {cert_file: /c}", "line 2: client cert file specified without");
        check("tls_config: {key_file: /c}", "line 2: client key file specified without");
        check("tls_config: hunter2", "line 2: tls_config must be a mapping");
    }
}
