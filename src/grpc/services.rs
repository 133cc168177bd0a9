//! The services: what each method does with its request.

use std::sync::Arc;

use grpcio::{GrpcSlice, Method, RpcContext, RpcStatus, RpcStatusCode, ServerStreamingSink, Service, ServiceBuilder};
use protobuf::MessageField;

use crate::grpc::bridge::Bridge;
use crate::grpc::calls::{self, Call, Name};
use crate::grpc::health::Health;
use crate::grpc::methods;
use crate::grpc::pool::Pool;
use crate::grpc::reflection::Reflection;
use crate::metrics::{GRPC_METHODS, GrpcMetrics};
use crate::probes::Probes;
use pillion_base::error::Result;
use pillion_base::labels::Labels;
use pillion_base::state::{PromState, Published};
use pillion_proto::grpc_reflection_v1::ServerReflectionRequest;
use pillion_proto::thanos_info::{
    ExemplarsInfo, InfoResponse, MetricMetadataInfo, RulesInfo, StatusInfo, StoreInfo, TSDBInfo, TargetsInfo,
};
use pillion_proto::thanos_types::{Label, ZLabelSet};
use pillion_read::apis::{self, Api, Exemplars, Metadata, Rules, Status, Targets};
use pillion_read::prom::PromClient;
use pillion_read::store::{self, EncodedMessage, MessageSink};

const INFO: Name = GRPC_METHODS[0];
const SERIES: Name = GRPC_METHODS[1];
const LABEL_NAMES: Name = GRPC_METHODS[2];
const LABEL_VALUES: Name = GRPC_METHODS[3];
const RULES: Name = GRPC_METHODS[4];
const TARGETS: Name = GRPC_METHODS[5];
const METRIC_METADATA: Name = GRPC_METHODS[6];
const EXEMPLARS: Name = GRPC_METHODS[7];
const TSDB_STATISTICS: Name = GRPC_METHODS[8];

/// What the services work with.
#[derive(Clone)]
pub(crate) struct Services {
    /// The Prometheus that is asked.
    pub client: Arc<PromClient>,
    /// What is known of it.
    pub state: Published<PromState>,
    /// Gates Info.
    pub probes: Probes,
    /// Health calls.
    pub health: Health,
    /// Reflection calls.
    pub reflection: Reflection,
    /// Where store calls run.
    pub pool: Pool,
    /// Request metrics.
    pub grpc_metrics: GrpcMetrics,
    /// What Series calls share.
    pub shared: store::SeriesShared,
}

impl Services {
    /// The services, to be registered with the server.
    pub(crate) fn build(self) -> Vec<Service> {
        vec![
            self.store(),
            self.api::<Rules>(RULES, &methods::RULES),
            self.api::<Targets>(TARGETS, &methods::TARGETS),
            self.api::<Metadata>(METRIC_METADATA, &methods::METRIC_METADATA),
            self.api::<Exemplars>(EXEMPLARS, &methods::EXEMPLARS),
            self.api::<Status>(TSDB_STATISTICS, &methods::TSDB_STATISTICS),
            self.info(),
            self.health_service(),
            self.reflection_service(&methods::REFLECTION),
            self.reflection_service(&methods::REFLECTION_ALPHA),
        ]
    }

    fn store(&self) -> Service {
        let (on_series, on_names, on_values) = (self.clone(), self.clone(), self.clone());
        ServiceBuilder::new()
            .add_server_streaming_handler(&methods::SERIES, move |ctx, request, sink| {
                let pending = on_series.shared.metrics.pending_series_requests.clone();
                pending.inc();
                let pending = Pending(pending);
                let services = on_series.clone();
                on_series.submit(&ctx, SERIES, sink, move |bridge| {
                    let _pending = pending;
                    store::series(&request, &services.state.read(), &services.client, &services.shared, bridge)
                });
            })
            .add_server_streaming_handler(&methods::LABEL_NAMES, move |ctx, request, sink| {
                let services = on_names.clone();
                on_names.submit(&ctx, LABEL_NAMES, sink, move |bridge| {
                    let answer = store::label_names(&request, &services.state.read(), &services.client, bridge)?;
                    bridge.send(EncodedMessage::whole(encode(&answer)))
                });
            })
            .add_server_streaming_handler(&methods::LABEL_VALUES, move |ctx, request, sink| {
                let services = on_values.clone();
                on_values.submit(&ctx, LABEL_VALUES, sink, move |bridge| {
                    let answer = store::label_values(&request, &services.state.read(), &services.client, bridge)?;
                    bridge.send(EncodedMessage::whole(encode(&answer)))
                });
            })
            .build()
    }

    /// A service with one method that hands on an answer of Prometheus.
    fn api<A: Api + 'static>(&self, name: Name, method: &Method<A::Request, GrpcSlice>) -> Service {
        let services = self.clone();
        let handler = move |ctx: RpcContext<'_>, request: A::Request, sink: ServerStreamingSink<GrpcSlice>| {
            if A::NEEDS_READY && !services.probes.is_ready() {
                Call::begin(&services.grpc_metrics, name).end(RpcStatusCode::UNKNOWN, 0);
                answer_now(&ctx, sink, Err(not_ready("not ready")));
                return;
            }
            let served = services.clone();
            services.submit(&ctx, name, sink, move |bridge| {
                apis::answer::<A>(&request, &served.state.read(), &served.client, bridge)
            });
        };
        ServiceBuilder::new().add_server_streaming_handler(method, handler).build()
    }

    fn info(&self) -> Service {
        let services = self.clone();
        ServiceBuilder::new()
            .add_server_streaming_handler(&methods::INFO, move |ctx, _, sink| {
                let call = Call::begin(&services.grpc_metrics, INFO);
                let answer = if services.probes.is_ready() {
                    Ok(encode(&info(&services.state.read())))
                } else {
                    Err(not_ready("Not ready"))
                };
                call.end(
                    answer.as_ref().map_or_else(RpcStatus::code, |_| RpcStatusCode::OK),
                    u64::from(answer.is_ok()),
                );
                answer_now(&ctx, sink, answer);
            })
            .build()
    }

    fn health_service(&self) -> Service {
        let (on_check, on_watch, on_list) = (self.health.clone(), self.health.clone(), self.health.clone());
        ServiceBuilder::new()
            .add_server_streaming_handler(&methods::HEALTH_CHECK, move |ctx, request, sink| {
                answer_now(&ctx, sink, on_check.check(&request.service));
            })
            .add_server_streaming_handler(&methods::HEALTH_WATCH, move |ctx, request, sink| {
                let bridge = Bridge::new();
                ctx.spawn(bridge.clone().drain(sink));
                on_watch.watch(&request.service, bridge);
            })
            .add_server_streaming_handler(&methods::HEALTH_LIST, move |ctx, _, sink| {
                answer_now(&ctx, sink, Ok(on_list.list()));
            })
            .build()
    }

    fn reflection_service(&self, method: &Method<ServerReflectionRequest, GrpcSlice>) -> Service {
        let reflection = self.reflection.clone();
        ServiceBuilder::new()
            .add_duplex_streaming_handler(method, move |ctx, requests, sink| {
                ctx.spawn(reflection.converse(requests, sink));
            })
            .build()
    }

    /// Queues a call for the pool, or turns it away. Runs on a completion queue's thread and never blocks.
    fn submit(
        &self,
        ctx: &RpcContext<'_>,
        name: Name,
        sink: ServerStreamingSink<GrpcSlice>,
        work: impl FnOnce(&Bridge) -> Result<()> + Send + 'static,
    ) {
        let call = Call::begin(&self.grpc_metrics, name);
        let bridge = Bridge::new();
        ctx.spawn(bridge.clone().drain(sink));
        let deadline = ctx.deadline();
        let (call, outlet) = (Turned(Some(call)), bridge.clone());
        let job = move || {
            let mut call = call;
            if let Some(call) = call.0.take() {
                calls::run(call, &outlet, || deadline.exceeded(), work);
            }
        };
        if !self.pool.submit(Box::new(job)) {
            bridge.finish(RpcStatus::with_message(
                RpcStatusCode::RESOURCE_EXHAUSTED,
                "too many calls are waiting in this sidecar; try again later".into(),
            ));
        }
    }
}

/// A call on its way to a thread; when it is dropped there was no room for it.
struct Turned(Option<Call>);

impl Drop for Turned {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call.end(RpcStatusCode::RESOURCE_EXHAUSTED, 0);
        }
    }
}

/// Counts a pending Series call until it is dropped. `Differs:` Thanos's gauge never goes down (D-12).
struct Pending(prometheus::IntGauge);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Thanos writes it differently in different places.
fn not_ready(text: &str) -> RpcStatus {
    RpcStatus::with_message(RpcStatusCode::UNKNOWN, text.into())
}

/// Answers a call on the completion queue's own thread.
fn answer_now(ctx: &RpcContext<'_>, sink: ServerStreamingSink<GrpcSlice>, answer: Result<Vec<u8>, RpcStatus>) {
    let bridge = Bridge::new();
    match answer {
        Ok(message) => {
            bridge.replace(message);
            bridge.finish(RpcStatus::ok());
        }
        Err(status) => bridge.finish(status),
    }
    ctx.spawn(bridge.drain(sink));
}

/// What Info says of a Prometheus in this state.
fn info(state: &PromState) -> InfoResponse {
    let labels = label_set(&state.external_labels);
    let store = StoreInfo {
        min_time: state.mint_ms,
        max_time: state.maxt_ms,
        supports_sharding: true,
        supports_without_replica_labels: true,
        tsdb_infos: vec![TSDBInfo {
            labels: MessageField::some(labels.clone()),
            min_time: state.mint_ms,
            max_time: state.maxt_ms,
            ..Default::default()
        }],
        ..Default::default()
    };
    // A querier calls every API that is announced; the query API belongs to queriers. No limits of time on exemplars are
    // known, which 0 and 0 say.
    InfoResponse {
        label_sets: if state.external_labels.is_empty() { vec![] } else { vec![labels] },
        ComponentType: "sidecar".into(),
        store: MessageField::some(store),
        rules: MessageField::some(RulesInfo::default()),
        metric_metadata: MessageField::some(MetricMetadataInfo::default()),
        targets: MessageField::some(TargetsInfo::default()),
        exemplars: MessageField::some(ExemplarsInfo::default()),
        status: MessageField::some(StatusInfo::default()),
        ..Default::default()
    }
}

fn label_set(labels: &Labels) -> ZLabelSet {
    let label = |(name, value): (&str, &str)| Label { name: name.into(), value: value.into(), ..Default::default() };
    ZLabelSet { labels: labels.iter().map(label).collect(), ..Default::default() }
}

fn encode(message: &impl protobuf::Message) -> Vec<u8> {
    message.write_to_bytes().expect("writing a message to memory cannot fail")
}
