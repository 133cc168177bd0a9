//! The methods that are served, by hand: name, kind and how their messages are decoded. Answers are bytes that were
//! encoded elsewhere.

use grpcio::{GrpcSlice, Marshaller, MessageReader, Method, MethodType};
use protobuf::Message;

use pillion_proto::grpc_health::{HealthCheckRequest, HealthListRequest};
use pillion_proto::grpc_reflection_v1::ServerReflectionRequest;
use pillion_proto::thanos_exemplars::ExemplarsRequest;
use pillion_proto::thanos_info::InfoRequest;
use pillion_proto::thanos_metadata::MetricMetadataRequest;
use pillion_proto::thanos_rules::RulesRequest;
use pillion_proto::thanos_status::TSDBStatisticsRequest;
use pillion_proto::thanos_store::{LabelNamesRequest, LabelValuesRequest, SeriesRequest};
use pillion_proto::thanos_targets::TargetsRequest;

/// On the wire a unary answer is a stream of one message, and a stream's sink tells when the client goes away, so every
/// method but reflection, where clients stream too, is served as a stream.
const fn method<Q: Message>(name: &'static str) -> Method<Q, GrpcSlice> {
    typed(MethodType::ServerStreaming, name)
}

const fn typed<Q: Message>(ty: MethodType, name: &'static str) -> Method<Q, GrpcSlice> {
    Method {
        ty,
        name,
        req_mar: Marshaller { ser: grpcio::pb_ser, de: grpcio::pb_de },
        resp_mar: Marshaller { ser: put_slice, de: no_answers },
    }
}

/// `thanos.Store/Series`
pub const SERIES: Method<SeriesRequest, GrpcSlice> = method("/thanos.Store/Series");
/// `thanos.Store/LabelNames`
pub const LABEL_NAMES: Method<LabelNamesRequest, GrpcSlice> = method("/thanos.Store/LabelNames");
/// `thanos.Store/LabelValues`
pub const LABEL_VALUES: Method<LabelValuesRequest, GrpcSlice> = method("/thanos.Store/LabelValues");
/// `thanos.info.Info/Info`
pub const INFO: Method<InfoRequest, GrpcSlice> = method("/thanos.info.Info/Info");
/// `thanos.Rules/Rules`
pub const RULES: Method<RulesRequest, GrpcSlice> = method("/thanos.Rules/Rules");
/// `thanos.Targets/Targets`
pub const TARGETS: Method<TargetsRequest, GrpcSlice> = method("/thanos.Targets/Targets");
/// `thanos.Metadata/MetricMetadata`
pub const METRIC_METADATA: Method<MetricMetadataRequest, GrpcSlice> = method("/thanos.Metadata/MetricMetadata");
/// `thanos.Exemplars/Exemplars`
pub const EXEMPLARS: Method<ExemplarsRequest, GrpcSlice> = method("/thanos.Exemplars/Exemplars");
/// `thanos.Status/TSDBStatistics`
pub const TSDB_STATISTICS: Method<TSDBStatisticsRequest, GrpcSlice> = method("/thanos.Status/TSDBStatistics");
/// `grpc.health.v1.Health/Check`
pub const HEALTH_CHECK: Method<HealthCheckRequest, GrpcSlice> = method("/grpc.health.v1.Health/Check");
/// `grpc.health.v1.Health/Watch`
pub const HEALTH_WATCH: Method<HealthCheckRequest, GrpcSlice> = method("/grpc.health.v1.Health/Watch");
/// `grpc.health.v1.Health/List`
pub const HEALTH_LIST: Method<HealthListRequest, GrpcSlice> = method("/grpc.health.v1.Health/List");
/// `grpc.reflection.v1.ServerReflection/ServerReflectionInfo`
pub const REFLECTION: Method<ServerReflectionRequest, GrpcSlice> =
    typed(MethodType::Duplex, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
/// `grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo`, whose messages are the same.
pub const REFLECTION_ALPHA: Method<ServerReflectionRequest, GrpcSlice> =
    typed(MethodType::Duplex, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo");

/// Hands the core a reference to bytes that are already there.
fn put_slice(message: &GrpcSlice, out: &mut GrpcSlice) -> grpcio::Result<()> {
    *out = message.clone();
    Ok(())
}

fn no_answers(_: MessageReader) -> grpcio::Result<GrpcSlice> {
    Err(grpcio::Error::Codec("answers are only sent here".into()))
}
