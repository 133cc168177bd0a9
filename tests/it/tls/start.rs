//! What is refused at the start: the last line of the log says which flag, which file, and what to change.

use super::prometheus;
use crate::support::certificates::Certificates;
use crate::support::sidecar::Sidecar;

/// The process ends with code 1, and the last line of its log has this in it.
#[track_caller]
fn is_refused(args: &[String], text: &str) {
    let prometheus = prometheus();
    let url = format!("--prometheus.url={}", prometheus.url());
    let args: Vec<&str> = std::iter::once(url.as_str()).chain(args.iter().map(String::as_str)).collect();
    let mut sidecar = Sidecar::start(&args);
    let code = sidecar.wait_exit().code();
    let log = sidecar.log();
    let last = log.lines().last().unwrap_or_default().replace("\\\"", "'");
    assert_eq!(code, Some(1), "{args:?}\n{log}");
    assert!(last.contains("level=error") && last.contains(text), "{text}\nis not in\n{last}");
}

#[test]
fn files_that_do_not_fit() {
    let made = Certificates::new();
    let shown = |file: &str| made.path(file).display().to_string();
    let text = format!(
        "err=\"setup gRPC server: --grpc-server-tls-key: {} and the first certificate of --grpc-server-tls-cert ({}) do not \
         belong together\"",
        shown("client.key"),
        shown("here.pem")
    );
    is_refused(&made.server_args("here.pem", "client.key"), &text);
    let none = |flag: &str| {
        let file = shown("none");
        format!(
            "err=\"setup gRPC server: --grpc-server-tls-{flag}: read {file}: No such file or directory (os error 2)\""
        )
    };
    is_refused(&made.server_args("none", "here.key"), &none("cert"));
    is_refused(&made.server_args("here.pem", "none"), &none("key"));
    let with_ca = |file: &str| {
        let mut args = made.server_args("here.pem", "here.key");
        args.push(made.arg("grpc-server-tls-client-ca", file));
        args
    };
    is_refused(&with_ca("none"), &none("client-ca"));
    let text = |flag: &str, file: &str, what: &str| {
        format!("err=\"setup gRPC server: --grpc-server-tls-{flag}: {} {what}\"", shown(file))
    };
    is_refused(&with_ca("ca.key"), &text("client-ca", "ca.key", "holds no certificate (PEM)"));
    made.write("empty", "");
    is_refused(&with_ca("empty"), &text("client-ca", "empty", "is empty: it holds no certificate (PEM)"));
    is_refused(&made.server_args("here.key", "here.key"), &text("cert", "here.key", "holds no certificate (PEM)"));
    is_refused(&made.server_args("here.pem", "here.pem"), &text("key", "here.pem", "holds no private key (PEM)"));
    let whole = made.read("here.pem");
    made.write("half", &whole[..whole.len() / 2]);
    let what = "breaks off: a -----BEGIN line has no -----END line; it may still be being written";
    is_refused(&made.server_args("half", "here.key"), &text("cert", "half", what));
}

#[test]
fn flags_that_cannot_be_meant() {
    let made = Certificates::new();
    let with = |more: &str| [made.server_args("here.pem", "here.key"), vec![more.to_owned()]].concat();
    for version in ["1.0", "1.1"] {
        let text = format!(
            "err=\"--grpc-server-tls-min-version: TLS {version} is broken and not supported; change {version} to 1.2 or 1.3\""
        );
        is_refused(&with(&format!("--grpc-server-tls-min-version={version}")), &text);
    }
    let text =
        "err=\"--grpc-server-tls-ciphers: invalid cipher suite: TLS_NULL, valid values are TLS_AES_128_GCM_SHA256, ";
    is_refused(&with("--grpc-server-tls-ciphers=TLS_NULL"), text);
    let text = "err=\"--grpc-server-tls-ciphers: cipher suite TLS_RSA_WITH_AES_128_GCM_SHA256 is weak and not supported; use one or more of ";
    is_refused(&with("--grpc-server-tls-ciphers=TLS_RSA_WITH_AES_128_GCM_SHA256"), text);
    let text = "err=\"--grpc-server-tls-curves: curve CurveP521 is not supported; use CurveP384 (";
    is_refused(&with("--grpc-server-tls-curves=CurveP521"), text);
    let text = "err=\"both server key and certificate must be provided; give --grpc-server-tls-key too\"";
    is_refused(&[made.arg("grpc-server-tls-cert", "here.pem")], text);
    let text = "err=\"when a client CA is used a server key and certificate must also be provided; give --grpc-server-tls-cert \
                and --grpc-server-tls-key\"";
    is_refused(&[made.arg("grpc-server-tls-client-ca", "ca.pem")], text);
}
