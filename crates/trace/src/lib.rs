//! Tracing: the ids and headers of a call, samplers, spans, and their way to an OpenTelemetry collector. Knows no gRPC
//! library: who speaks OTLP over gRPC brings an [`Exporter`].

#![forbid(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]

pub mod config;
mod environment;
mod export;
mod http;
mod ids;
mod limits;
mod metrics;
mod otlp;
pub mod propagate;
mod sampler;
mod span;
mod tracer;

pub use config::{Collector, Config, Protocol};
pub use export::{Export, Exporter, Refusal};
pub use http::HttpExporter;
pub use ids::TraceContext;
pub use metrics::TraceMetrics;
pub use span::{Kind, Span, Value};
pub use tracer::{Tracer, tracer};
