//! The files of TLS and of the web configuration, loaded as the start loads them, and when their certificates end.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::findings::Level;
use super::parts::Report;
use crate::cli::Config;
use pillion_base::time::{format_rfc3339_nano, unix_ms};
use pillion_http::tls::{Pem, ServerTls, TlsMetrics, validity};
use pillion_http::web::{Web, WebMetrics};

/// A certificate that ends within this time is worth a warning.
const SOON_SECONDS: i64 = 14 * 24 * 3600;

/// Looks at the certificates of both ports.
pub(super) fn look(config: &Config, report: &Report) {
    match config.grpc_tls.clone() {
        None => report.note("gRPC is served without TLS"),
        Some(settings) => {
            report.step("reading the TLS files of gRPC");
            let client_ca = settings.client_ca.clone();
            match ServerTls::load(settings, TlsMetrics::default()) {
                Err(err) => report.failed(Level::Error, &err, "correct the files of --grpc-server-tls-*"),
                Ok(tls) => tell_end("the certificate of --grpc-server-tls-cert", tls.not_after(), report),
            }
            client_ca.iter().for_each(|ca| look_at_authorities(ca, report));
        }
    }
    match &config.http_config {
        None => report.note("HTTP is served without TLS and passwords"),
        Some(path) => {
            report.step("reading the web configuration");
            let metrics = WebMetrics::default();
            match Web::load(path, metrics.clone()) {
                Err(err) => report.failed(Level::Error, &err, "correct the file of --http.config"),
                Ok(_) => {
                    report.ok(format!("the web configuration {} is understood", path.display()));
                    // It stays at zero without TLS.
                    #[allow(clippy::cast_possible_truncation)] // Ends of certificates are far below 2^53.
                    let not_after = metrics.tls.not_after_timestamp_seconds.get() as i64;
                    if not_after != 0 {
                        tell_end("the certificate of --http.config", not_after, report);
                    }
                }
            }
        }
    }
}

/// A client CA that has ended verifies nobody.
fn look_at_authorities(ca: &Pem, report: &Report) {
    // What cannot be read was said before.
    let Ok(certificates) = ca.certificates() else { return };
    let ends: Vec<i64> = certificates.iter().filter_map(|ca| Some(validity(ca)?.not_after)).collect();
    if let Some(last) = ends.iter().max() {
        tell_end("the youngest certificate of --grpc-server-tls-client-ca", *last, report);
    }
}

fn tell_end(subject: &str, not_after: i64, report: &Report) {
    let now = unix_ms(SystemTime::now()) / 1000;
    let text = format!("{subject} {}", end_text(not_after, now));
    match not_after - now {
        left if left < 0 => report.error(text, "put a new one in its place"),
        left if left < SOON_SECONDS => report.warning(text, "see to it that a new one comes in time"),
        _ => report.ok(text),
    }
}

fn end_text(not_after: i64, now: i64) -> String {
    let seconds = u64::try_from(not_after).unwrap_or(0);
    let date = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).map_or_else(String::new, format_rfc3339_nano);
    match not_after - now {
        left if left < 0 => format!("ended at {date}"),
        left if left < 2 * 86_400 => format!("ends at {date}, in {} hours", left / 3600),
        left => format!("ends at {date}, in {} days", left / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_in_days() {
        let check = |not_after: i64, expected: &str| assert_eq!(end_text(not_after, 1_700_000_000), expected);
        check(1_700_000_000 + 15 * 86_400, "ends at 2023-11-29T22:13:20Z, in 15 days");
        check(1_700_000_000 + 86_400, "ends at 2023-11-15T22:13:20Z, in 24 hours");
        check(1_700_000_000 - 1, "ended at 2023-11-14T22:13:19Z");
        check(-5, "ended at 1970-01-01T00:00:00Z");
    }
}
