//! Tracing as the flags want it: the collector's client, the part of the daemon that feeds it, and reading the file again.

mod collector;

use pillion_base::error::{Context, Error, Kind, Result};
use pillion_trace::{Collector, Config, Export, Exporter, HttpExporter, Protocol, TraceMetrics, Tracer, tracer};

use collector::GrpcExporter;

/// A tracer, and the part of the daemon that carries its spans away. Nothing is connected yet.
///
/// `Errors:` files of TLS that cannot be used.
pub(crate) fn begin(config: &Config, metrics: TraceMetrics) -> Result<(Tracer, Export)> {
    let exporter = exporter(&config.collector).context(|| "tracing failed")?;
    log::info!(collector = config.collector.endpoint; "traces of calls go to an OpenTelemetry collector");
    Ok(tracer(config, exporter, metrics))
}

/// Goes on with another configuration, from the next call on.
///
/// `Errors:` as [`begin`]; nothing changes then.
pub(crate) fn change(tracer: &Tracer, config: Option<&Config>) -> Result<()> {
    let Some(config) = config else {
        let text = "the file is empty; sampler_type: neversample records nothing, and without the flag a start is without tracing";
        return Err(Error::new(Kind::Permanent, text));
    };
    tracer.set(config, exporter(&config.collector)?);
    Ok(())
}

fn exporter(collector: &Collector) -> Result<Box<dyn Exporter>> {
    Ok(match collector.protocol {
        Protocol::Http => Box::new(HttpExporter::new(collector)?),
        Protocol::Grpc => Box::new(GrpcExporter::new(collector)?),
    })
}
