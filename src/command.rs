//! Arguments → command → exit code.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use crate::cli::config::{self, Config};
use crate::cli::{Invocation, SidecarFlags, VerifyFlags};
use crate::client::bucket::LsArgs;
use crate::client::status::StatusArgs;
use crate::client::verify::VerifyArgs;
use crate::client::{self, InfoArgs, SeriesArgs};
use crate::{app, check, cli, log_format};
use pillion_base::error::{Error, Kind, Result};
use pillion_base::time::unix_ms;
use pillion_bucket::BucketConfig;
use pillion_http::tls::{ClientSettings, Pem};

/// Does what the command line asks for. The exit code is 0, 1 for what failed, 2 for a value that cannot be understood.
pub fn main() -> ExitCode {
    let mut args = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    let program = args.next().unwrap_or_else(|| "pillion".into());
    let args: Vec<String> = args.collect();
    match cli::parse(&program, &args) {
        Invocation::Exit { code, stdout, stderr } => {
            // Nobody is left to tell when these cannot be written.
            let _ = std::io::stdout().write_all(stdout.as_bytes());
            let _ = std::io::stderr().write_all(stderr.as_bytes());
            ExitCode::from(u8::try_from(code).unwrap_or(1))
        }
        Invocation::Sidecar(flags) => sidecar(*flags),
        Invocation::Check(flags, own) => {
            let env = |name: &str| std::env::var(name).ok();
            found(check::check(&flags, &own, &env, &mut std::io::stdout().lock()))
        }
        Invocation::Info(flags) => {
            let tls = tls_settings(
                flags.tls,
                [&flags.tls_ca, &flags.tls_cert, &flags.tls_key, &flags.tls_server_name],
                flags.insecure_skip_verify,
            );
            let args = tls.map(|tls| InfoArgs { store: flags.store, tls, json: flags.json, timeout: flags.timeout });
            report(args.and_then(|args| client::info(&args, &mut std::io::stdout().lock())))
        }
        Invocation::Status(flags) => {
            let tls = tls_settings(
                flags.tls,
                [&flags.tls_ca, &flags.tls_cert, &flags.tls_key, &flags.tls_server_name],
                flags.insecure_skip_verify,
            );
            let args = tls.map(|tls| StatusArgs {
                url: flags.http,
                tls,
                basic_auth_file: flags.basic_auth_file,
                json: flags.json,
                timeout: flags.timeout,
            });
            found(args.and_then(|args| client::status::status(&args, &mut std::io::stdout().lock())))
        }
        Invocation::Series(flags) => {
            let now_ms = unix_ms(SystemTime::now());
            let tls = tls_settings(
                flags.tls,
                [&flags.tls_ca, &flags.tls_cert, &flags.tls_key, &flags.tls_server_name],
                flags.insecure_skip_verify,
            );
            let args = tls.map(|tls| SeriesArgs {
                store: flags.store,
                tls,
                matchers: flags.matchers,
                start_ms: flags.start.map_or(i64::MIN, |time| time.at(now_ms)),
                end_ms: flags.end.map_or(i64::MAX, |time| time.at(now_ms)),
                skip_chunks: flags.skip_chunks,
                without_replica_labels: flags.without_replica_labels,
                samples: flags.samples,
                json: flags.json,
                timeout: flags.timeout,
            });
            let series = |args| client::series(&args, &mut std::io::stdout().lock(), &mut std::io::stderr().lock());
            report(args.and_then(series))
        }
        Invocation::Verify(flags) => {
            let args = verify_args(flags);
            found(args.and_then(|args| client::verify::verify(&args, &mut std::io::stdout().lock())))
        }
        Invocation::Ls(flags, folder) => {
            let args = bucket(&flags.objstore_config_file, &flags.objstore_config.0).map(|bucket| LsArgs {
                bucket,
                folder,
                recursive: flags.recursive,
                long: flags.long,
                json: flags.json,
            });
            let ls = |args| client::bucket::ls(&args, &mut std::io::stdout().lock(), &mut std::io::stderr().lock());
            found(args.and_then(ls))
        }
        Invocation::Cat(flags, object) => {
            let bucket = bucket(&flags.objstore_config_file, &flags.objstore_config.0);
            report(bucket.and_then(|bucket| client::bucket::cat(&bucket, &object, &mut std::io::stdout().lock())))
        }
    }
}

/// What the flags of TLS say together; `None` when none of them is given.
fn tls_settings(tls: bool, texts: [&String; 4], insecure_skip_verify: bool) -> Result<Option<ClientSettings>> {
    if !tls && !insecure_skip_verify && texts.iter().all(|text| text.is_empty()) {
        return Ok(None);
    }
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let [ca, cert, key, server_name] = texts.map(given);
    match (&cert, &key) {
        (Some(_), None) => return Err(Error::new(Kind::BadRequest, "--tls-cert needs --tls-key")),
        (None, Some(_)) => return Err(Error::new(Kind::BadRequest, "--tls-key needs --tls-cert")),
        _ => {}
    }
    let pem = |flag: &str, path: Option<String>| path.map(|path| Pem::file(flag, path));
    Ok(Some(ClientSettings {
        ca: pem("--tls-ca", ca),
        cert: pem("--tls-cert", cert),
        key: pem("--tls-key", key),
        server_name,
        insecure_skip_verify,
        alpn: vec![b"h2".to_vec()],
        ..ClientSettings::default()
    }))
}

/// Reads the configuration of the bucket, which a command without a sidecar needs.
fn bucket(config_file: &str, content: &str) -> Result<BucketConfig> {
    let env = |name: &str| std::env::var(name).ok();
    config::bucket(config_file, content, &env)?
        .ok_or_else(|| Error::new(Kind::BadRequest, "which bucket? give --objstore.config-file or --objstore.config"))
}

/// Checks the flags and reads the configuration of the bucket.
fn verify_args(flags: VerifyFlags) -> Result<VerifyArgs> {
    let bucket = bucket(&flags.objstore_config_file, &flags.objstore_config.0)?;
    if flags.tsdb_path.is_empty() {
        return Err(Error::new(Kind::BadRequest, "--tsdb.path must not be empty"));
    }
    Ok(VerifyArgs {
        bucket,
        tsdb_path: PathBuf::from(flags.tsdb_path),
        meta_file_name: config::file_name(flags.shipper_meta_file_name)?,
        upload_compacted: flags.shipper_upload_compacted,
        labels: flags.labels,
        repair: flags.repair,
        json: flags.json,
    })
}

/// Runs the sidecar; whatever ends it early is one line in its log.
fn sidecar(flags: SidecarFlags) -> ExitCode {
    if let Err(err) = log_format::init(flags.log_level, flags.log_format, &flags.debug_name) {
        return report(Err(err));
    }
    let env = |name: &str| std::env::var(name).ok();
    match Config::from_flags(flags, &env).and_then(app::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            log::error!(err = err.to_string(); "sidecar command failed");
            ExitCode::FAILURE
        }
    }
}

/// The end of a command that says with its code, too, whether all is well.
fn found(done: Result<bool>) -> ExitCode {
    match done {
        Ok(is_well) => ExitCode::from(u8::from(!is_well)),
        Err(err) => report(Err(err)),
    }
}

/// The end of a client command.
fn report(done: Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            let _ = writeln!(std::io::stderr(), "pillion: error: {err}");
            ExitCode::FAILURE
        }
    }
}
