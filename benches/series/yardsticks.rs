//! What Pillion is compared with: the least that can be done with the bytes, and the way Thanos goes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use grpcio::{ChannelBuilder, Environment, RpcStatus, RpcStatusCode, ServerBuilder, ServerCredentials, ServiceBuilder};
use pillion::inside::methods;
use pillion::inside::{Bridge, Late, serve};
use pillion_base::error::Result;
use pillion_base::labels::Labels;
use pillion_proto::prometheus_remote::{ChunkedReadResponse, ChunkedSeries};
use pillion_proto::thanos_store::{SeriesRequest, SeriesResponse, series_response};
use pillion_proto::thanos_types::{AggrChunk, Chunk, Label, Series, SeriesBatch};
use pillion_read::prom::{self, PromClient, PromUrl, ReadAnswer};
use pillion_read::store::{EncodedMessage, MessageSink};
use protobuf::{EnumOrUnknown, Message as _, MessageField};
use twox_hash::XxHash64;

use crate::role::{obey, say, spawn};
use crate::workload::external_labels;

/// `relay UPSTREAM`: copies what comes from there, 64 KiB at a time, and understands nothing.
pub fn relay(args: &[&str]) {
    let [upstream] = args else { panic!("{args:?}") };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    say(&listener.local_addr().unwrap().to_string());
    for mut client in listener.incoming().map_while(std::result::Result::ok) {
        let mut server = TcpStream::connect(upstream).unwrap();
        let mut reader = BufReader::new(client.try_clone().unwrap());
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
        let length =
            head.split_once("Content-Length: ").map_or(0, |(_, rest)| rest.lines().next().unwrap().parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        server.write_all(&[head.as_bytes(), &body].concat()).unwrap();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let n = server.read(&mut buffer).unwrap();
            if n == 0 || client.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
    }
}

/// `buffered PROMETHEUS N_LABELS`: decodes everything into ordinary protobuf structs, sorts it, and only then encodes and
/// sends it.
///
/// It checks frames and hashes chunks as Pillion does, and uses Pillion's HTTP client and the same bridge to gRPC. It is
/// spared the front door: its clients talk to gRPC's core directly.
pub fn buffered(args: &[&str]) {
    let [prometheus, n_labels] = args else { panic!("{args:?}") };
    let url = PromUrl {
        origin: format!("http://{prometheus}"),
        authorization: None,
        path: String::new(),
        query: String::new(),
    };
    let client = Arc::new(PromClient::new(url, Duration::from_secs(5)).unwrap());
    let external = Arc::new(Labels::new(external_labels(n_labels.parse().unwrap())));
    let service = ServiceBuilder::new()
        .add_duplex_streaming_handler(&methods::SERIES, move |ctx, requests, sink| {
            let (client, external) = (Arc::clone(&client), Arc::clone(&external));
            ctx.spawn(serve(requests, sink, Late::default(), move |request, bridge| {
                let request = SeriesRequest::parse_from_bytes(&request).unwrap();
                spawn(move || {
                    bridge.finish(match answer(&request, &client, &external, &bridge) {
                        Ok(()) => RpcStatus::ok(),
                        Err(err) => RpcStatus::with_message(RpcStatusCode::INTERNAL, err.to_string()),
                    });
                });
            }));
        })
        .build();
    let env = Arc::new(Environment::new(1));
    let args = ChannelBuilder::new(Arc::clone(&env)).max_send_message_len(i32::MAX).build_args();
    let mut server = ServerBuilder::new(env).channel_args(args).register_service(service).build().unwrap();
    let port = server.add_listening_port("127.0.0.1:0", ServerCredentials::insecure()).unwrap();
    server.start();
    say(&format!("127.0.0.1:{port}"));
    obey(|_| String::new());
}

fn answer(request: &SeriesRequest, client: &PromClient, external: &Labels, bridge: &Bridge) -> Result<()> {
    let call = client.call();
    let mut all: Vec<Series> = Vec::new();
    if request.skip_chunks {
        let answer = call.json::<Vec<BTreeMap<String, String>>>("/api/v1/series", &[])?;
        all.extend(
            answer.data.into_iter().map(|labels| Series { labels: merged(labels, external), ..Default::default() }),
        );
    } else {
        let ReadAnswer::Streamed(mut frames) = call.read(&prom::read_request_body(0, i64::MAX, &[]), |body| body)?
        else {
            panic!("the generator streams");
        };
        let mut frame = Vec::new();
        while frames.read_frame(&mut frame)? {
            let response = ChunkedReadResponse::parse_from_bytes(&frame).unwrap();
            all.extend(response.chunked_series.into_iter().map(|series| translated(series, external)));
        }
    }
    all.sort_by(|a, b| pairs(a).cmp(pairs(b)));
    let batch_size = usize::try_from(request.response_batch_size).unwrap_or(0);
    let mut all = all.into_iter();
    while let Some(first) = all.next() {
        let result = if batch_size <= 1 {
            series_response::Result::Series(first)
        } else {
            let series = std::iter::once(first).chain(all.by_ref().take(batch_size - 1)).collect();
            series_response::Result::Batch(SeriesBatch { series, ..Default::default() })
        };
        let response = SeriesResponse { result: Some(result), ..Default::default() };
        bridge.send(EncodedMessage::whole(response.write_to_bytes().unwrap()))?;
    }
    Ok(())
}

fn pairs(series: &Series) -> impl Iterator<Item = (&str, &str)> {
    series.labels.iter().map(|label| (label.name.as_str(), label.value.as_str()))
}

fn translated(series: ChunkedSeries, external: &Labels) -> Series {
    let labels = series.labels.into_iter().map(|label| (label.name, label.value)).collect();
    let chunks = series.chunks.into_iter().map(|chunk| AggrChunk {
        min_time: chunk.min_time_ms,
        max_time: chunk.max_time_ms,
        raw: MessageField::some(Chunk {
            type_: EnumOrUnknown::from_i32(chunk.type_.value() - 1),
            hash: XxHash64::oneshot(0, &chunk.data),
            data: chunk.data,
            ..Default::default()
        }),
        ..Default::default()
    });
    Series { labels: merged(labels, external), chunks: chunks.collect(), ..Default::default() }
}

/// The labels with the external ones over them.
fn merged(mut labels: BTreeMap<String, String>, external: &Labels) -> Vec<Label> {
    for (name, value) in external.iter() {
        labels.insert(name.to_owned(), value.to_owned());
    }
    labels.into_iter().map(|(name, value)| Label { name, value, ..Default::default() }).collect()
}
