//! A StoreAPI client for tests.
#![allow(clippy::cast_possible_truncation)]

use std::sync::Arc;
use std::time::Duration;

use futures_executor::block_on;
use futures_util::StreamExt;
use grpcio::{
    CallOption, Channel, ChannelBuilder, Client, ClientSStreamReceiver, Environment, Marshaller, Method, MethodType,
    RpcStatus,
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
        let env = Arc::new(Environment::new(1));
        let channel: Channel = ChannelBuilder::new(env)
            .max_receive_message_len(-1)
            .use_local_subchannel_pool(true)
            .enable_http_proxy(false)
            .connect(&addr.to_string());
        Store { client: Client::new(channel) }
    }

    pub fn info(&self) -> grpcio::Result<InfoResponse> {
        self.client.unary_call(&INFO, &InfoRequest::default(), options())
    }

    pub fn label_names(&self, request: &LabelNamesRequest) -> grpcio::Result<LabelNamesResponse> {
        self.client.unary_call(&LABEL_NAMES, request, options())
    }

    pub fn label_values(&self, request: &LabelValuesRequest) -> grpcio::Result<LabelValuesResponse> {
        self.client.unary_call(&LABEL_VALUES, request, options())
    }

    pub fn check(&self, service: &str) -> grpcio::Result<HealthCheckResponse> {
        self.client.unary_call(&CHECK, &HealthCheckRequest { service: service.into(), ..Default::default() }, options())
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
