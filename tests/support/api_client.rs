//! A client of the services beside the StoreAPI, for tests.

use std::sync::Arc;
use std::time::Duration;

use futures_executor::block_on;
use futures_util::StreamExt;
use grpcio::{CallOption, ChannelBuilder, Client, Environment, Marshaller, Method, MethodType, RpcStatus};
use pillion_proto::grpc_reflection_v1::{ServerReflectionRequest, ServerReflectionResponse};
use pillion_proto::thanos_exemplars::{ExemplarsRequest, ExemplarsResponse};
use pillion_proto::thanos_metadata::{MetricMetadataRequest, MetricMetadataResponse};
use pillion_proto::thanos_rules::{RulesRequest, RulesResponse};
use pillion_proto::thanos_status::{TSDBStatisticsRequest, TSDBStatisticsResponse};
use pillion_proto::thanos_targets::{TargetsRequest, TargetsResponse};
use pillion_proto::thanos_types::ZLabelSet;
use protobuf::{Message, MessageField};

const fn method<Q: Message, P: Message>(ty: MethodType, name: &'static str) -> Method<Q, P> {
    Method {
        ty,
        name,
        req_mar: Marshaller { ser: grpcio::pb_ser, de: grpcio::pb_de },
        resp_mar: Marshaller { ser: grpcio::pb_ser, de: grpcio::pb_de },
    }
}

const fn stream<Q: Message, P: Message>(name: &'static str) -> Method<Q, P> {
    method(MethodType::ServerStreaming, name)
}

type Reflection = Method<ServerReflectionRequest, ServerReflectionResponse>;

pub const RULES: Method<RulesRequest, RulesResponse> = stream("/thanos.Rules/Rules");
pub const TARGETS: Method<TargetsRequest, TargetsResponse> = stream("/thanos.Targets/Targets");
pub const METADATA: Method<MetricMetadataRequest, MetricMetadataResponse> = stream("/thanos.Metadata/MetricMetadata");
pub const EXEMPLARS: Method<ExemplarsRequest, ExemplarsResponse> = stream("/thanos.Exemplars/Exemplars");
pub const STATUS: Method<TSDBStatisticsRequest, TSDBStatisticsResponse> = stream("/thanos.Status/TSDBStatistics");
pub const REFLECTION: Reflection =
    method(MethodType::Duplex, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
pub const REFLECTION_ALPHA: Reflection =
    method(MethodType::Duplex, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo");

pub fn options() -> CallOption {
    CallOption::default().timeout(Duration::from_secs(60)).wait_for_ready(true)
}

pub fn connect(addr: impl ToString) -> Client {
    let channel = ChannelBuilder::new(Arc::new(Environment::new(1)))
        .max_receive_message_len(-1)
        .use_local_subchannel_pool(true)
        .enable_http_proxy(false)
        .connect(&addr.to_string());
    Client::new(channel)
}

/// All messages of a call, or its status.
pub fn call<Q: Message, P: Message>(client: &Client, method: &Method<Q, P>, request: &Q) -> Result<Vec<P>, RpcStatus> {
    let mut stream = client.server_streaming(method, request, options()).unwrap();
    let mut messages = vec![];
    while let Some(message) = block_on(stream.next()) {
        match message {
            Ok(message) => messages.push(message),
            Err(grpcio::Error::RpcFailure(status)) => return Err(status),
            Err(err) => panic!("{err}"),
        }
    }
    Ok(messages)
}

/// `a=1 b=2`; the set must be on the wire even if it is empty.
pub fn labels(set: &MessageField<ZLabelSet>) -> String {
    assert!(set.is_some(), "a label set is always on the wire");
    set.labels.iter().map(|label| format!("{}={}", label.name, label.value)).collect::<Vec<_>>().join(" ")
}
