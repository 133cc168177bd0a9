//! The flags and the files that they name, read as the start reads them. One broken file keeps the others from nothing: what
//! it belongs to is left out, and the rest is checked.
//!
//! This is where a further file of settings gets its line: in `GROUPS`.

use super::findings::Level;
use super::parts::Report;
use crate::cli::{Config, SidecarFlags};
use pillion_base::error::{Error, Result};
use pillion_base::secret::Secret;

/// Takes flags away.
type LeaveOut = fn(&mut SidecarFlags);

/// Flags whose files can be broken, by the name under which the check leaves them out.
const GROUPS: &[(&str, LeaveOut)] = &[
    (BUCKET, |flags| clear(&mut flags.objstore_config_file, &mut flags.objstore_config)),
    (HTTP_CLIENT, |flags| clear(&mut flags.prometheus_http_client_file, &mut flags.prometheus_http_client)),
    ("--tracing.config", |flags| clear(&mut flags.tracing_config_file, &mut flags.tracing_config)),
    ("--request.logging-config", |flags| {
        clear(&mut flags.request_logging_config_file, &mut flags.request_logging_config)
    }),
];

/// The bucket's configuration.
pub(crate) const BUCKET: &str = "--objstore.config";
/// The settings of the HTTP client for Prometheus.
pub(crate) const HTTP_CLIENT: &str = "--prometheus.http-client";

fn clear(file: &mut String, content: &mut Secret) {
    file.clear();
    *content = Secret::default();
}

/// What could be understood.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The configuration, without what is broken; the error when nothing can be had.
    pub(crate) config: Result<Config>,
    /// What is broken, with the reason.
    pub(crate) broken: Vec<(&'static str, Error)>,
}

impl Settings {
    /// Reads the files that the flags name.
    pub(crate) fn read(flags: &SidecarFlags, env: &dyn Fn(&str) -> Option<String>) -> Settings {
        let mut left_out: Vec<&str> = GROUPS.iter().map(|(name, _)| *name).collect();
        let without = |left_out: &[&str]| {
            let mut flags = flags.clone();
            GROUPS.iter().filter(|(name, _)| left_out.contains(name)).for_each(|(_, clear)| clear(&mut flags));
            Config::from_flags(flags, env)
        };
        let mut config = without(&left_out);
        let mut broken = Vec::new();
        for (name, _) in GROUPS.iter().filter(|_| config.is_ok()).collect::<Vec<_>>() {
            let fewer: Vec<&str> = left_out.iter().copied().filter(|other| other != name).collect();
            match without(&fewer) {
                Ok(with) => (left_out, config) = (fewer, Ok(with)),
                Err(err) => broken.push((*name, err)),
            }
        }
        Settings { config, broken }
    }

    /// Whether the settings of this group are broken.
    pub(crate) fn lacks(&self, name: &str) -> bool {
        self.broken.iter().any(|(broken, _)| *broken == name)
    }

    /// Says what was read.
    pub(crate) fn tell(&self, report: &Report) {
        for (name, err) in &self.broken {
            report.failed(Level::Error, err, format!("correct what {name} or {name}-file gives"));
        }
        let config = match &self.config {
            Ok(config) => config,
            Err(err) => return report.failed(Level::Error, err, "correct the flag that is named"),
        };
        let options = &config.shipper;
        match options.upload_limits.with_file(&options.upload_limits_file) {
            Err(err) => report.failed(Level::Error, &err, "correct the file of --shipper.upload-limits-file"),
            Ok(limits) if config.bucket.is_some() => report.ok(format!("uploads: {limits}")),
            Ok(_) => {}
        }
        if let Err(err) = config.store_limits.with_file(&config.store_limits_file) {
            report.failed(Level::Error, &err, "correct the file of --store.limits.file");
        }
        if let Some(reload) = &config.reload {
            for path in reload.config_file.iter().chain(&reload.rule_dirs).filter(|path| !path.exists()) {
                let text = format!("{} is not there, and would be waited for", path.display());
                report.warning(text, "correct the flag of --reloader that names it, or make it");
            }
        }
        for remark in config.bucket.iter().flat_map(|bucket| &bucket.remarks) {
            report.warning(remark.as_str(), "change the bucket's configuration, or live with it");
        }
        if config.dry_run {
            report.note("--dry-run: nothing would be uploaded");
        } else if config.bucket.is_none() && !self.lacks(BUCKET) {
            report.note("no bucket is configured: nothing would be uploaded; --objstore.config-file names one");
        }
        if self.broken.is_empty() {
            report.ok("the flags and the files that they name are understood");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Invocation, parse};

    fn settings(args: &[&str]) -> Settings {
        let args: Vec<String> = std::iter::once("sidecar").chain(args.iter().copied()).map(str::to_owned).collect();
        let Invocation::Sidecar(flags) = parse("pillion", &args) else { panic!("{args:?} are not flags") };
        Settings::read(&flags, &|_| None)
    }

    #[test]
    fn a_broken_file_is_named_and_the_rest_is_there() {
        let whole = settings(&["--objstore.config={type: FILESYSTEM, config: {directory: /x}}", "--tsdb.path=/data"]);
        assert!(whole.broken.is_empty() && whole.config.unwrap().bucket.is_some());
        let broken = settings(&["--objstore.config=type: [", "--tsdb.path=/data"]);
        assert!(broken.lacks(BUCKET) && !broken.lacks(HTTP_CLIENT), "{broken:?}");
        let config = broken.config.unwrap();
        assert!(config.bucket.is_none() && config.tsdb_path.ends_with("data"));
        let nothing = settings(&["--tsdb.path="]);
        assert!(nothing.config.unwrap_err().to_string().contains("--tsdb.path"));
    }
}
