//! The services: what each method does with its request.

use std::sync::Arc;

use grpcio::{
    DuplexSink, GrpcSlice, Method, RequestStream, RpcContext, RpcStatus, RpcStatusCode, Service, ServiceBuilder,
};
use protobuf::MessageField;

use crate::grpc::backlog::Backlog;
use crate::grpc::bridge::{Bridge, Seat, serve};
use crate::grpc::calls::{self, Call, Name};
use crate::grpc::connections::Connections;
use crate::grpc::health::Health;
use crate::grpc::methods;
use crate::grpc::pool::Pool;
use crate::grpc::record::{Origin, Records};
use crate::grpc::reflection::Reflection;
use crate::grpc::request::{self, Bytes, Late, Nested};
use crate::grpc::trace::CallSpan;
use crate::limits;
use crate::metrics::{GRPC_METHODS, GrpcMetrics};
use crate::probes::Probes;
use pillion_base::error::Result;
use pillion_base::labels::Labels;
use pillion_base::state::{PromState, Published};
use pillion_proto::grpc_health::HealthCheckRequest;
use pillion_proto::thanos_info::{
    ExemplarsInfo, InfoResponse, MetricMetadataInfo, RulesInfo, StatusInfo, StoreInfo, TSDBInfo, TargetsInfo,
};
use pillion_proto::thanos_types::{Label, ZLabelSet};
use pillion_read::apis::{self, Api, Exemplars, Metadata, Rules, Status, Targets};
use pillion_read::prom::PromClient;
use pillion_read::store::{self, EncodedMessage, MessageSink};
use pillion_trace::{TraceContext, Tracer};

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
    /// What clients have not taken yet.
    pub backlog: Backlog,
    /// Who makes a call.
    pub connections: Connections,
    /// Largest request, in bytes, also after decompression.
    pub request_bytes_max: usize,
    /// Ends the wait for requests that do not come.
    pub late: Late,
    /// The calls that are open.
    pub records: Records,
    /// Traces calls, where that is wanted.
    pub tracer: Option<Tracer>,
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
            .add_duplex_streaming_handler(&methods::SERIES, move |ctx, requests, sink| {
                let pending = on_series.shared.metrics.pending_series_requests.clone();
                on_series.work(&ctx, SERIES, requests, sink, move |services| {
                    pending.inc();
                    let pending = Pending(pending);
                    move |request: &[u8], bridge: &Bridge| {
                        let _pending = pending;
                        let request = request::decode(request)?;
                        store::series(&request, &services.state.read(), &services.client, &services.shared, bridge)
                    }
                });
            })
            .add_duplex_streaming_handler(&methods::LABEL_NAMES, move |ctx, requests, sink| {
                on_names.work(&ctx, LABEL_NAMES, requests, sink, |services| {
                    move |request: &[u8], bridge: &Bridge| {
                        let request = request::decode(request)?;
                        let answer = store::label_names(&request, &services.state.read(), &services.client, bridge)?;
                        bridge.send(EncodedMessage::whole(answer))
                    }
                });
            })
            .add_duplex_streaming_handler(&methods::LABEL_VALUES, move |ctx, requests, sink| {
                on_values.work(&ctx, LABEL_VALUES, requests, sink, |services| {
                    move |request: &[u8], bridge: &Bridge| {
                        let request = request::decode(request)?;
                        let answer = store::label_values(&request, &services.state.read(), &services.client, bridge)?;
                        bridge.send(EncodedMessage::whole(answer))
                    }
                });
            })
            .build()
    }

    /// A service with one method that hands on an answer of Prometheus.
    fn api<A: Api + 'static>(&self, name: Name, method: &Method<Bytes, GrpcSlice>) -> Service
    where
        A::Request: Nested,
    {
        let services = self.clone();
        let handler = move |ctx: RpcContext<'_>, requests: RequestStream<Bytes>, sink: DuplexSink<GrpcSlice>| {
            if A::NEEDS_READY && !services.probes.is_ready() {
                let (served, span) = (services.clone(), services.span(&ctx, name));
                let origin = services.origin(&ctx, span.as_ref());
                return services.answer(&ctx, requests, sink, move |request| {
                    let record = served.records.begin(name, Arc::new(request.to_vec()), origin);
                    let status = not_ready("not ready");
                    let call = Call::begin(&served.grpc_metrics, record).traced(span);
                    call.end(status.code(), status.message(), 0);
                    Err(status)
                });
            }
            services.work(&ctx, name, requests, sink, |services| {
                move |request: &[u8], bridge: &Bridge| {
                    apis::answer::<A>(&request::decode(request)?, &services.state.read(), &services.client, bridge)
                }
            });
        };
        ServiceBuilder::new().add_duplex_streaming_handler(method, handler).build()
    }

    fn info(&self) -> Service {
        let services = self.clone();
        ServiceBuilder::new()
            .add_duplex_streaming_handler(&methods::INFO, move |ctx, requests, sink| {
                let (served, span) = (services.clone(), services.span(&ctx, INFO));
                let origin = services.origin(&ctx, span.as_ref());
                services.answer(&ctx, requests, sink, move |_| {
                    let record = served.records.begin(INFO, Arc::default(), origin);
                    let call = Call::begin(&served.grpc_metrics, record).traced(span);
                    let answer = if served.probes.is_ready() {
                        Ok(encode(&info(&served.state.read())))
                    } else {
                        Err(not_ready("Not ready"))
                    };
                    match &answer {
                        Ok(message) => {
                            if let Some(record) = call.seen() {
                                record.has_message(message.len());
                            }
                            call.end(RpcStatusCode::OK, "", 1);
                        }
                        Err(status) => call.end(status.code(), status.message(), 0),
                    }
                    answer
                });
            })
            .build()
    }

    fn health_service(&self) -> Service {
        let (on_check, on_watch, on_list) = (self.clone(), self.clone(), self.clone());
        ServiceBuilder::new()
            .add_duplex_streaming_handler(&methods::HEALTH_CHECK, move |ctx, requests, sink| {
                let health = on_check.health.clone();
                on_check.answer(&ctx, requests, sink, move |request| health.check(&service_name(request)?));
            })
            .add_duplex_streaming_handler(&methods::HEALTH_WATCH, move |ctx, requests, sink| {
                let health = on_watch.health.clone();
                let begin = move |request: Bytes, bridge: Bridge| match service_name(&request) {
                    Ok(name) => health.watch(&name, bridge),
                    Err(status) => bridge.finish(status),
                };
                ctx.spawn(serve(requests, sink, on_watch.late.clone(), begin));
            })
            .add_duplex_streaming_handler(&methods::HEALTH_LIST, move |ctx, requests, sink| {
                let health = on_list.health.clone();
                on_list.answer(&ctx, requests, sink, move |_| Ok(health.list()));
            })
            .build()
    }

    fn reflection_service(&self, method: &Method<Bytes, GrpcSlice>) -> Service {
        let reflection = self.reflection.clone();
        ServiceBuilder::new()
            .add_duplex_streaming_handler(method, move |ctx, requests, sink| {
                ctx.spawn(reflection.converse(requests, sink));
            })
            .build()
    }

    /// The span of a call, where calls are traced.
    fn span(&self, ctx: &RpcContext<'_>, name: Name) -> Option<CallSpan> {
        self.tracer.as_ref().map(|tracer| CallSpan::begin(tracer, ctx.request_headers(), name))
    }

    /// Serves a call on a thread of the pool. `prepare` makes what runs there, when the request has come. Runs on a
    /// completion queue's thread and never blocks.
    fn work<W>(
        &self,
        ctx: &RpcContext<'_>,
        name: Name,
        requests: RequestStream<Bytes>,
        sink: DuplexSink<GrpcSlice>,
        prepare: impl FnOnce(Services) -> W + Send + 'static,
    ) where
        W: FnOnce(&[u8], &Bridge) -> Result<()> + Send + 'static,
    {
        let (services, deadline, request_bytes_max) = (self.clone(), ctx.deadline(), self.request_bytes_max);
        let (caller, span) = (self.connections.caller(&ctx.peer()), self.span(ctx, name));
        let origin = self.origin(ctx, span.as_ref());
        ctx.spawn(serve(requests, sink, self.late.clone(), move |request, bridge| {
            let pool = services.pool.clone();
            let request = Arc::new(request);
            let open = services.records.begin(name, Arc::clone(&request), origin);
            let record = Arc::clone(&open.record);
            let call = Call::begin(&services.grpc_metrics, open).traced(span);
            let n_bytes = request.len();
            let backlog = services.backlog.clone();
            let parts = call.span().map(CallSpan::parts);
            bridge.sit(Seat { pool: pool.clone(), backlog, caller, request_bytes: n_bytes, record, parts });
            let work = prepare(services);
            let mut turned = Turned(Some((call, bridge)));
            let job = move || {
                if let Some((call, bridge)) = turned.0.take() {
                    let serve = |bridge: &Bridge| work(&request::plain(&request, request_bytes_max)?, bridge);
                    calls::run(call, &bridge, || deadline.exceeded(), serve);
                }
            };
            pool.submit(caller, n_bytes, Box::new(job));
        }));
    }

    /// What is known of a call before its request is there.
    fn origin(&self, ctx: &RpcContext<'_>, span: Option<&CallSpan>) -> Origin {
        let caller = self.connections.caller(&ctx.peer());
        // A client that gives several means none of them.
        let mut ids = ctx.request_headers().iter().filter(|(name, _)| *name == "request-id");
        let request_id = ids.next().filter(|_| ids.next().is_none());
        Origin {
            peer: self.connections.address(&caller),
            request_id: request_id.map(|(_, id)| String::from_utf8_lossy(id).into_owned()),
            trace_id: span.map(CallSpan::context).filter(|trace| trace.is_sampled()).map(TraceContext::trace_id_hex),
        }
    }

    /// Answers a call on the completion queue's own thread. `answer` must not block.
    fn answer(
        &self,
        ctx: &RpcContext<'_>,
        requests: RequestStream<Bytes>,
        sink: DuplexSink<GrpcSlice>,
        answer: impl FnOnce(&[u8]) -> Result<Vec<u8>, RpcStatus> + Send + 'static,
    ) {
        let begin = move |request: Bytes, bridge: Bridge| match answer(&request) {
            Ok(message) => {
                bridge.replace(message);
                bridge.finish(RpcStatus::ok());
            }
            Err(status) => bridge.finish(status),
        };
        ctx.spawn(serve(requests, sink, self.late.clone(), begin));
    }
}

/// The service that a health call asks for. The request is decoded where nothing may take long.
fn service_name(request: &[u8]) -> Result<String, RpcStatus> {
    if request.len() > limits::SMALL_REQUEST_BYTES_MAX {
        return Err(RpcStatus::with_message(RpcStatusCode::NOT_FOUND, "unknown service".into()));
    }
    let plain = request::plain(request, limits::SMALL_REQUEST_BYTES_MAX).map_err(|err| calls::status(&err))?;
    let request: HealthCheckRequest = request::decode(&plain).map_err(|err| calls::status(&err))?;
    Ok(request.service)
}

/// A call on its way to a thread; when it is dropped there was no room for it.
struct Turned(Option<(Call, Bridge)>);

impl Drop for Turned {
    fn drop(&mut self) {
        if let Some((call, bridge)) = self.0.take() {
            let text = "too many calls are waiting in this sidecar; try again later";
            call.end(RpcStatusCode::RESOURCE_EXHAUSTED, text, 0);
            bridge.finish(RpcStatus::with_message(RpcStatusCode::RESOURCE_EXHAUSTED, text.into()));
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

/// What Info says of a Prometheus in this state.
fn info(state: &PromState) -> InfoResponse {
    // Labels are unknown only before the first beat; a set without labels would match everything at a querier.
    let label_sets: Vec<_> =
        if state.external_labels.is_empty() { vec![] } else { vec![label_set(&state.external_labels)] };
    let tsdb = |labels: &ZLabelSet| TSDBInfo {
        labels: MessageField::some(labels.clone()),
        min_time: state.mint_ms,
        max_time: state.maxt_ms,
        ..Default::default()
    };
    let store = StoreInfo {
        min_time: state.mint_ms,
        max_time: state.maxt_ms,
        supports_sharding: true,
        supports_without_replica_labels: true,
        tsdb_infos: label_sets.iter().map(tsdb).collect(),
        ..Default::default()
    };
    // An agent answers nothing else, and a querier calls every API that is announced.
    if state.is_agent {
        return InfoResponse {
            label_sets,
            ComponentType: "sidecar".into(),
            metric_metadata: MessageField::some(MetricMetadataInfo::default()),
            targets: MessageField::some(TargetsInfo::default()),
            ..Default::default()
        };
    }
    // A querier calls every API that is announced; the query API belongs to queriers. No limits of time on exemplars are
    // known, which 0 and 0 say.
    InfoResponse {
        label_sets,
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
