//! One look at the files: writes the configuration that Prometheus reads, and sums up what it is to load.

use std::path::PathBuf;

use crate::digest::{self, Digest};
use crate::limits;
use crate::metrics::ReloadMetrics;
use crate::render::render;
use crate::rules::Rules;
use pillion_base::error::{Error, Result};
use pillion_base::files::Disk;

/// The mode of a configuration that is written for the first time. `Source:` Thanos.
const OUTPUT_MODE: u32 = 0o644;

/// Gives environment variables.
pub(crate) type Env = Box<dyn Fn(&str) -> Option<Vec<u8>> + Send>;

/// The files, and what is known of them.
pub(crate) struct Apply {
    disk: Disk,
    config_file: Option<PathBuf>,
    output_file: Option<PathBuf>,
    rules: Rules,
    env: Env,
    metrics: ReloadMetrics,
    /// Whether the output was written and nobody has asked yet.
    has_written: bool,
}

impl Apply {
    /// Nothing is read yet. The paths are absolute; without a configuration there is no output.
    pub(crate) fn new(
        disk: Disk,
        [config_file, output_file]: [Option<PathBuf>; 2],
        rules: Rules,
        env: Env,
        metrics: ReloadMetrics,
    ) -> Self {
        Apply { disk, config_file, output_file, rules, env, metrics, has_written: false }
    }

    /// Reads everything and writes the output, if it is another one than before.
    ///
    /// `Errors:` of class `files` or `variable`; the output is then the old one, unless only the rules could not be read.
    pub(crate) fn look(&mut self) -> Result<Digest> {
        let files = |err: Error| if err.class() == "variable" { err } else { err.classed("files") };
        let config = match &self.config_file {
            Some(path) => Some(self.disk.read(path, limits::CONFIG_BYTES_MAX).map_err(files)?),
            None => None,
        };
        // First, because a Prometheus that is not up yet waits for it.
        if let Some(config) = &config {
            self.write(config).map_err(files)?;
        }
        let rules = self.rules.read().map_err(|err| files(err.context("build hash")))?;
        Ok(digest::of(config.as_deref(), &rules))
    }

    /// Whether the output was written since this was last asked.
    pub(crate) fn take_written(&mut self) -> bool {
        std::mem::take(&mut self.has_written)
    }

    fn write(&mut self, config: &[u8]) -> Result<()> {
        let Some(output) = &self.output_file else { return Ok(()) };
        let rendered = render(config, &*self.env);
        let n_unset = i64::from(rendered.as_ref().is_err_and(|err| err.class() == "variable"));
        self.metrics.config_environment_variable_expansion_errors.set(n_unset);
        let rendered = rendered?;
        // One that cannot be read can often be replaced.
        let old = self.disk.read(output, limits::CONFIG_BYTES_MAX).ok();
        if old.as_ref() != Some(&rendered) {
            self.disk.replace_shared(output, &rendered, OUTPUT_MODE)?;
            self.has_written = true;
        }
        Ok(())
    }
}
