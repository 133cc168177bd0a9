//! A StoreAPI client for tests.
#![allow(clippy::cast_possible_truncation)]

use std::sync::Arc;
use std::time::Duration;

use futures_executor::block_on;
use futures_util::StreamExt;
use grpcio::{
    CallOption, Channel, ChannelBuilder, Client, ClientSStreamReceiver, CompressionAlgorithms, Environment, GrpcSlice,
    Marshaller, Method, MethodType, RpcStatus,
};
use pillion_proto::grpc_health::{HealthCheckRequest, HealthCheckResponse};
use pillion_proto::thanos_info::{InfoRequest, InfoResponse};
use pillion_proto::thanos_store::*;
use pillion_proto::thanos_types::label_matcher::Type;
use pillion_proto::thanos_types::{LabelMatcher, Series};
use protobuf::{EnumOrUnknown, Message};

const fn unary<Q: Message, P: Message>(name: &'static str) -> Method<Q, P> {
    method(name, MethodType::Unary)
}

const fn method<Q: Message, P: Message>(name: &'static str, ty: MethodType) -> Method<Q, P> {
    Method {
        ty,
        name,
        req_mar: Marshaller { ser: grpcio::pb_ser, de: grpcio::pb_de },
        resp_mar: Marshaller { ser: grpcio::pb_ser, de: grpcio::pb_de },
    }
}

const SERIES: Method<SeriesRequest, SeriesResponse> = method("/thanos.Store/Series", MethodType::ServerStreaming);
/// The same with a request that no honest client would make.
const SERIES_OF_BYTES: Method<Vec<u8>, SeriesResponse> = Method {
    ty: MethodType::ServerStreaming,
    name: SERIES.name,
    req_mar: Marshaller {
        ser: |bytes, slice| {
            *slice = GrpcSlice::from(bytes.as_slice());
            Ok(())
        },
        de: |_| unreachable!("a client reads no request"),
    },
    resp_mar: SERIES.resp_mar,
};
const LABEL_NAMES: Method<LabelNamesRequest, LabelNamesResponse> = unary("/thanos.Store/LabelNames");
const LABEL_VALUES: Method<LabelValuesRequest, LabelValuesResponse> = unary("/thanos.Store/LabelValues");
const INFO: Method<InfoRequest, InfoResponse> = unary("/thanos.info.Info/Info");
const CHECK: Method<HealthCheckRequest, HealthCheckResponse> = unary("/grpc.health.v1.Health/Check");
const WATCH: Method<HealthCheckRequest, HealthCheckResponse> =
    method("/grpc.health.v1.Health/Watch", MethodType::ServerStreaming);

pub struct Store {
    client: Client,
}

/// What a Series call gave before it ended, and how it ended.
#[derive(Debug)]
pub struct Answer {
    pub series: Vec<Series>,
    /// Series per message.
    pub messages: Vec<usize>,
    pub warnings: Vec<String>,
    pub status: RpcStatus,
}

impl Answer {
    /// The label sets as text, one each.
    pub fn labels(&self) -> Vec<String> {
        self.series.iter().map(text).collect()
    }

    pub fn code(&self) -> i32 {
        self.status.code().into()
    }

    /// The series of a call that must have succeeded.
    pub fn ok(self) -> Self {
        assert_eq!(self.code(), 0, "{:?}", self.status);
        self
    }
}

/// `a=1 b=2`
pub fn text(series: &Series) -> String {
    series.labels.iter().map(|l| format!("{}={}", l.name, l.value)).collect::<Vec<_>>().join(" ")
}

pub fn options() -> CallOption {
    CallOption::default().timeout(Duration::from_secs(60)).wait_for_ready(true)
}

impl Store {
    pub fn connect(addr: impl ToString) -> Self {
        Store::connect_with(addr, |builder| builder)
    }

    /// A client that compresses its requests with gzip.
    pub fn connect_compressing(addr: impl ToString) -> Self {
        Store::connect_with(addr, |builder| {
            builder.default_compression_algorithm(CompressionAlgorithms::GRPC_COMPRESS_GZIP)
        })
    }

    fn connect_with(addr: impl ToString, configure: impl FnOnce(ChannelBuilder) -> ChannelBuilder) -> Self {
        let env = Arc::new(Environment::new(1));
        let builder = ChannelBuilder::new(env)
            .max_receive_message_len(-1)
            .use_local_subchannel_pool(true)
            .enable_http_proxy(false);
        let channel: Channel = configure(builder).connect(&addr.to_string());
        Store { client: Client::new(channel) }
    }

    pub fn info(&self) -> grpcio::Result<InfoResponse> {
        self.info_with(options())
    }

    pub fn info_with(&self, options: CallOption) -> grpcio::Result<InfoResponse> {
        self.client.unary_call(&INFO, &InfoRequest::default(), options)
    }

    pub fn label_names(&self, request: &LabelNamesRequest) -> grpcio::Result<LabelNamesResponse> {
        self.label_names_with(request, options())
    }

    pub fn label_names_with(
        &self,
        request: &LabelNamesRequest,
        options: CallOption,
    ) -> grpcio::Result<LabelNamesResponse> {
        self.client.unary_call(&LABEL_NAMES, request, options)
    }

    /// How a Series call ends whose request is these bytes.
    pub fn series_of_bytes(&self, request: &[u8], options: CallOption) -> RpcStatus {
        let mut stream = self.client.server_streaming(&SERIES_OF_BYTES, &request.to_vec(), options).unwrap();
        loop {
            match block_on(stream.next()) {
                None => return RpcStatus::ok(),
                Some(Ok(_)) => {}
                Some(Err(grpcio::Error::RpcFailure(status))) => return status,
                Some(Err(err)) => panic!("{err}"),
            }
        }
    }

    pub fn label_values(&self, request: &LabelValuesRequest) -> grpcio::Result<LabelValuesResponse> {
        self.client.unary_call(&LABEL_VALUES, request, options())
    }

    pub fn check(&self, service: &str) -> grpcio::Result<HealthCheckResponse> {
        self.check_with(service, options())
    }

    pub fn check_with(&self, service: &str, options: CallOption) -> grpcio::Result<HealthCheckResponse> {
        self.client.unary_call(&CHECK, &HealthCheckRequest { service: service.into(), ..Default::default() }, options)
    }

    pub fn watch(&self) -> ClientSStreamReceiver<HealthCheckResponse> {
        self.client.server_streaming(&WATCH, &HealthCheckRequest::default(), options()).unwrap()
    }

    pub fn stream(&self, request: &SeriesRequest, options: CallOption) -> ClientSStreamReceiver<SeriesResponse> {
        self.client.server_streaming(&SERIES, request, options).unwrap()
    }

    pub fn series(&self, request: &SeriesRequest) -> Answer {
        self.series_with(request, options())
    }

    pub fn series_with(&self, request: &SeriesRequest, options: CallOption) -> Answer {
        let mut stream = self.stream(request, options);
        let mut answer = Answer { series: vec![], messages: vec![], warnings: vec![], status: RpcStatus::ok() };
        while let Some(message) = block_on(stream.next()) {
            match message.map(|message| message.result) {
                Ok(Some(series_response::Result::Series(series))) => {
                    answer.messages.push(1);
                    answer.series.push(series);
                }
                Ok(Some(series_response::Result::Batch(batch))) => {
                    answer.messages.push(batch.series.len());
                    answer.series.extend(batch.series);
                }
                Ok(Some(series_response::Result::Warning(warning))) => answer.warnings.push(warning),
                Ok(other) => panic!("unexpected message: {other:?}"),
                Err(grpcio::Error::RpcFailure(status)) => {
                    answer.status = status;
                    break;
                }
                Err(err) => panic!("{err}"),
            }
        }
        answer
    }
}

/// A request for all times with these matchers: `=`, `!=`, `=~`, `!~`.
pub fn request(matchers: &[(&str, &str, &str)]) -> SeriesRequest {
    SeriesRequest { min_time: 0, max_time: i64::MAX, matchers: self::matchers(matchers), ..Default::default() }
}

pub fn matchers(matchers: &[(&str, &str, &str)]) -> Vec<LabelMatcher> {
    matchers
        .iter()
        .map(|(name, op, value)| LabelMatcher {
            type_: EnumOrUnknown::new(match *op {
                "=" => Type::EQ,
                "!=" => Type::NEQ,
                "=~" => Type::RE,
                "!~" => Type::NRE,
                other => panic!("{other}"),
            }),
            name: (*name).into(),
            value: (*value).into(),
            ..Default::default()
        })
        .collect()
}
