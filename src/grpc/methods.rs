//! The methods that are served, by hand: name, kind and how their messages are decoded. Answers are bytes that were
//! encoded elsewhere.

use crate::grpc::request::{self, Bytes};
use grpcio::{GrpcSlice, Marshaller, MessageReader, Method, MethodType};

/// On the wire a unary answer is a stream of one message, and so is a request, so every method is served as a stream in
/// both directions: the core makes room for the next call when a call begins, and not only when its request is there, for
/// which it would wait for ever. Requests stay bytes, since they are weighed before they are decoded.
const fn method(name: &'static str) -> Method<Bytes, GrpcSlice> {
    Method {
        ty: MethodType::Duplex,
        name,
        req_mar: Marshaller { ser: no_requests, de: request::take },
        resp_mar: Marshaller { ser: put_slice, de: no_answers },
    }
}

/// `thanos.Store/Series`
pub const SERIES: Method<Bytes, GrpcSlice> = method("/thanos.Store/Series");
/// `thanos.Store/LabelNames`
pub const LABEL_NAMES: Method<Bytes, GrpcSlice> = method("/thanos.Store/LabelNames");
/// `thanos.Store/LabelValues`
pub const LABEL_VALUES: Method<Bytes, GrpcSlice> = method("/thanos.Store/LabelValues");
/// `thanos.info.Info/Info`
pub const INFO: Method<Bytes, GrpcSlice> = method("/thanos.info.Info/Info");
/// `thanos.Rules/Rules`
pub const RULES: Method<Bytes, GrpcSlice> = method("/thanos.Rules/Rules");
/// `thanos.Targets/Targets`
pub const TARGETS: Method<Bytes, GrpcSlice> = method("/thanos.Targets/Targets");
/// `thanos.Metadata/MetricMetadata`
pub const METRIC_METADATA: Method<Bytes, GrpcSlice> = method("/thanos.Metadata/MetricMetadata");
/// `thanos.Exemplars/Exemplars`
pub const EXEMPLARS: Method<Bytes, GrpcSlice> = method("/thanos.Exemplars/Exemplars");
/// `thanos.Status/TSDBStatistics`
pub const TSDB_STATISTICS: Method<Bytes, GrpcSlice> = method("/thanos.Status/TSDBStatistics");
/// `grpc.health.v1.Health/Check`
pub const HEALTH_CHECK: Method<Bytes, GrpcSlice> = method("/grpc.health.v1.Health/Check");
/// `grpc.health.v1.Health/Watch`
pub const HEALTH_WATCH: Method<Bytes, GrpcSlice> = method("/grpc.health.v1.Health/Watch");
/// `grpc.health.v1.Health/List`
pub const HEALTH_LIST: Method<Bytes, GrpcSlice> = method("/grpc.health.v1.Health/List");
/// `grpc.reflection.v1.ServerReflection/ServerReflectionInfo`
pub const REFLECTION: Method<Bytes, GrpcSlice> = method("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
/// `grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo`, whose messages are the same.
pub const REFLECTION_ALPHA: Method<Bytes, GrpcSlice> =
    method("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo");

fn no_requests(_: &Bytes, _: &mut GrpcSlice) -> grpcio::Result<()> {
    Err(grpcio::Error::Codec("requests are only received here".into()))
}

/// Hands the core a reference to bytes that are already there.
fn put_slice(message: &GrpcSlice, out: &mut GrpcSlice) -> grpcio::Result<()> {
    *out = message.clone();
    Ok(())
}

fn no_answers(_: MessageReader) -> grpcio::Result<GrpcSlice> {
    Err(grpcio::Error::Codec("answers are only sent here".into()))
}
