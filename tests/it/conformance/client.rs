//! Calls any StoreAPI server and turns what it answers into something that a case can be compared with.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use futures_executor::block_on;
use futures_util::StreamExt;
use grpcio::{
    CallOption, ChannelBuilder, Client, Environment, GrpcSlice, Marshaller, MessageReader, Method, MethodType,
    RpcStatus,
};
use pillion_base::matcher::MatchType;
use pillion_proto::thanos_info::{InfoRequest, InfoResponse};
use pillion_proto::thanos_store::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, SeriesRequest, SeriesResponse,
    ShardInfo, series_response,
};
use pillion_proto::thanos_types::{LabelMatcher, Series};
use protobuf::{EnumOrUnknown, Message};

use super::case::Call;
use super::{show, wire};

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// As gRPC spells it: `INVALID_ARGUMENT`.
    pub code: String,
    pub message: String,
    pub series: Vec<Series>,
    /// Series per message.
    pub messages: Vec<usize>,
    /// Names or values.
    pub words: Vec<String>,
    /// Everything else.
    pub lines: Vec<String>,
    pub warnings: Vec<String>,
}

pub struct Store {
    client: Client,
}

impl Store {
    pub fn connect(address: &str) -> Self {
        let channel = ChannelBuilder::new(Arc::new(Environment::new(1)))
            .max_receive_message_len(-1)
            .use_local_subchannel_pool(true)
            .enable_http_proxy(false)
            .connect(address);
        Store { client: Client::new(channel) }
    }

    /// `Errors:` for a call that no server is asked: the case is wrong.
    pub fn call(&self, call: &Call) -> Result<Answer, String> {
        let mut answer = Answer {
            code: String::new(),
            message: String::new(),
            series: vec![],
            messages: vec![],
            words: vec![],
            lines: vec![],
            warnings: vec![],
        };
        let options = &call.options;
        let status = match call.method.as_str() {
            "Series" => self.stream("/thanos.Store/Series", &series_request(call), |message: SeriesResponse| {
                match message.result {
                    Some(series_response::Result::Series(series)) => {
                        answer.messages.push(1);
                        answer.series.push(series);
                    }
                    Some(series_response::Result::Batch(batch)) => {
                        answer.messages.push(batch.series.len());
                        answer.series.extend(batch.series);
                    }
                    Some(series_response::Result::Warning(warning)) => answer.warnings.push(warning),
                    other => answer.lines.push(format!("unexpected message {other:?}")),
                }
            }),
            "LabelNames" => {
                let request = LabelNamesRequest {
                    start: options.start_ms,
                    end: options.end_ms,
                    matchers: matchers(call),
                    without_replica_labels: options.without.clone(),
                    limit: options.limit,
                    ..Default::default()
                };
                self.unary("/thanos.Store/LabelNames", &request, |response: LabelNamesResponse| {
                    (answer.words, answer.warnings) = (response.names, response.warnings);
                })
            }
            "LabelValues" => {
                let request = LabelValuesRequest {
                    label: call.argument.clone().ok_or("LabelValues needs a label")?,
                    start: options.start_ms,
                    end: options.end_ms,
                    matchers: matchers(call),
                    without_replica_labels: options.without.clone(),
                    limit: options.limit,
                    ..Default::default()
                };
                self.unary("/thanos.Store/LabelValues", &request, |response: LabelValuesResponse| {
                    (answer.words, answer.warnings) = (response.values, response.warnings);
                })
            }
            "Info" => self.unary("/thanos.info.Info/Info", &InfoRequest::default(), |response: InfoResponse| {
                answer.lines = show::info(&response);
            }),
            "InfoServices" => {
                self.unary("/thanos.info.Info/Info", &InfoRequest::default(), |response: InfoResponse| {
                    answer.lines = show::info_services(&response);
                })
            }
            other => self.service(other, call, &mut answer)?,
        };
        // The library writes a code as `3-INVALID_ARGUMENT`.
        let code = status.code().to_string();
        answer.code = code.split_once('-').map_or(code.as_str(), |(_, name)| name).to_owned();
        answer.message = status.message().to_owned();
        Ok(answer)
    }

    /// One of the services beside the store.
    fn service(&self, method: &str, call: &Call, answer: &mut Answer) -> Result<RpcStatus, String> {
        let found = wire::METHODS.iter().find(|(name, _)| *name == method);
        let (_, path) = found.ok_or_else(|| format!("there is no call {method}"))?;
        let request = wire::request(method, &call.options.fields, &call.matchers)?;
        let raw = Method {
            ty: MethodType::ServerStreaming,
            name: path,
            req_mar: Marshaller { ser: send_raw, de: receive_raw },
            resp_mar: Marshaller { ser: send_raw, de: receive_raw },
        };
        let mut faults = Vec::new();
        let status = self.each(&raw, &request, |message| {
            let shown = wire::show(method, &message, &mut answer.lines, &mut answer.warnings);
            faults.extend(shown.err());
        });
        answer.lines.extend(faults);
        Ok(status)
    }

    fn unary<Q: Message, P: Message + Unpin>(
        &self,
        name: &'static str,
        request: &Q,
        then: impl FnOnce(P),
    ) -> RpcStatus {
        match self.client.unary_call(&method(name, MethodType::Unary), request, call_options()) {
            Ok(response) => {
                then(response);
                RpcStatus::ok()
            }
            Err(err) => status(err),
        }
    }

    fn stream<Q: Message, P: Message + Unpin>(
        &self,
        name: &'static str,
        request: &Q,
        each: impl FnMut(P),
    ) -> RpcStatus {
        self.each(&method(name, MethodType::ServerStreaming), request, each)
    }

    fn each<Q, P: Unpin>(&self, method: &Method<Q, P>, request: &Q, mut each: impl FnMut(P)) -> RpcStatus {
        let mut stream = match self.client.server_streaming(method, request, call_options()) {
            Ok(stream) => stream,
            Err(err) => return status(err),
        };
        while let Some(message) = block_on(stream.next()) {
            match message {
                Ok(message) => each(message),
                Err(err) => return status(err),
            }
        }
        RpcStatus::ok()
    }
}

fn method<Q: Message, P: Message>(name: &'static str, ty: MethodType) -> Method<Q, P> {
    Method {
        ty,
        name,
        req_mar: Marshaller { ser: grpcio::pb_ser, de: grpcio::pb_de },
        resp_mar: Marshaller { ser: grpcio::pb_ser, de: grpcio::pb_de },
    }
}

/// What a request is sent as when it is bytes already.
#[allow(clippy::ptr_arg)]
fn send_raw(bytes: &Vec<u8>, out: &mut GrpcSlice) -> grpcio::Result<()> {
    *out = GrpcSlice::from(bytes.clone());
    Ok(())
}

fn receive_raw(mut reader: MessageReader) -> grpcio::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(|err| grpcio::Error::Codec(Box::new(err)))?;
    Ok(bytes)
}

fn call_options() -> CallOption {
    CallOption::default().timeout(Duration::from_secs(30)).wait_for_ready(true)
}

/// An error of this side is shown like one of the server's, under a code that no case expects.
fn status(err: grpcio::Error) -> RpcStatus {
    match err {
        grpcio::Error::RpcFailure(status) => status,
        other => RpcStatus::with_message(grpcio::RpcStatusCode::DATA_LOSS, other.to_string()),
    }
}

fn series_request(call: &Call) -> SeriesRequest {
    let options = &call.options;
    let shard = options.shard.as_ref().map(|(shard_index, total_shards, by, labels)| ShardInfo {
        shard_index: *shard_index,
        total_shards: *total_shards,
        by: *by,
        labels: labels.clone(),
        ..Default::default()
    });
    SeriesRequest {
        min_time: options.start_ms,
        max_time: options.end_ms,
        matchers: matchers(call),
        skip_chunks: options.skip_chunks,
        shard_info: shard.into(),
        without_replica_labels: options.without.clone(),
        limit: options.limit,
        response_batch_size: options.batch,
        ..Default::default()
    }
}

fn matchers(call: &Call) -> Vec<LabelMatcher> {
    let mut matchers: Vec<LabelMatcher> = call
        .matchers
        .iter()
        .map(|matcher| LabelMatcher {
            type_: EnumOrUnknown::from_i32(match matcher.kind {
                MatchType::Equal => 0,
                MatchType::NotEqual => 1,
                MatchType::Regex => 2,
                MatchType::NotRegex => 3,
            }),
            name: matcher.name.clone(),
            value: matcher.value.clone(),
            ..Default::default()
        })
        .collect();
    if let (Some(number), Some(first)) = (call.options.matcher_type, matchers.first_mut()) {
        first.type_ = EnumOrUnknown::from_i32(number);
    }
    matchers
}
