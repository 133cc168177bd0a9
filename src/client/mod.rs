//! The commands `pillion info` and `pillion series`: a small StoreAPI client against any Thanos store; and `pillion status`,
//! `pillion verify`, `pillion bucket ls` and `pillion bucket cat`, in files of their own.
//!
//! Series are written as they arrive; only the current one is held. The StoreAPI client uses no part of the sidecar.

mod ask;
pub(crate) mod bucket;
pub(crate) mod output;
pub(crate) mod progress;
pub(crate) mod secure;
pub(crate) mod spark;
pub(crate) mod status;
pub(crate) mod terminal;
pub(crate) mod verify;
pub(crate) mod view;

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::time::Duration;

use futures_executor::block_on;
use futures_util::StreamExt;
use grpcio::{
    CallOption, ChannelBuilder, Client, Environment, Marshaller, Method, MethodType, RpcStatus, RpcStatusCode, pb_de,
    pb_ser,
};

use self::output::Style;
use self::secure::Ending;
use self::view::View;
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::matcher::{MatchType, Matcher};
use pillion_http::tls::{ClientSettings, ClientTls};
use pillion_proto::thanos_info::{InfoRequest, InfoResponse};
use pillion_proto::thanos_store::{Aggr, SeriesRequest, SeriesResponse, series_response};
use pillion_proto::thanos_types::{LabelMatcher, Series, label_matcher};
use pillion_read::selector;

/// `thanos.info.Info/Info`.
pub const INFO: Method<InfoRequest, InfoResponse> = Method {
    ty: MethodType::Unary,
    name: "/thanos.info.Info/Info",
    req_mar: Marshaller { ser: pb_ser, de: pb_de },
    resp_mar: Marshaller { ser: pb_ser, de: pb_de },
};

/// `thanos.Store/Series`.
pub const SERIES: Method<SeriesRequest, SeriesResponse> = Method {
    ty: MethodType::ServerStreaming,
    name: "/thanos.Store/Series",
    req_mar: Marshaller { ser: pb_ser, de: pb_de },
    resp_mar: Marshaller { ser: pb_ser, de: pb_de },
};

/// The earliest and the latest time that is asked for: the years 1 and 9999, beyond which Prometheus's API cannot write
/// a time. `Units:` ms.
const TIME_BOUNDS_MS: (i64, i64) = (-62_135_596_800_000, 253_402_300_799_999);

/// Series per message that are asked for; fewer messages cost a server less. Stores that do not batch ignore it.
const RESPONSE_BATCH_SIZE: i64 = 64;

/// What `pillion info` was asked for.
#[derive(Debug, Clone)]
pub struct InfoArgs {
    /// `host:port`, or `:port` on this machine.
    pub store: String,
    /// How to speak TLS; `None` speaks it not.
    pub tls: Option<ClientSettings>,
    /// JSON instead of text.
    pub json: bool,
    /// For the whole call.
    pub timeout: Duration,
}

/// What `pillion series` was asked for.
#[derive(Debug, Clone)]
pub struct SeriesArgs {
    /// `host:port`, or `:port` on this machine.
    pub store: String,
    /// How to speak TLS; `None` speaks it not.
    pub tls: Option<ClientSettings>,
    /// PromQL selectors; a series must fulfil all of them.
    pub matchers: Vec<String>,
    /// Start of the range, included; `i64::MIN` for no bound. `Units:` ms.
    pub start_ms: i64,
    /// End of the range, included; `i64::MAX` for no bound. `Units:` ms.
    pub end_ms: i64,
    /// Labels only.
    pub skip_chunks: bool,
    /// Labels that the store leaves out.
    pub without_replica_labels: Vec<String>,
    /// Print every sample.
    pub samples: bool,
    /// JSON lines instead of text.
    pub json: bool,
    /// For the whole call.
    pub timeout: Duration,
}

/// Asks a store what it is and writes the answer to `out`. `Blocks:` up to the time-out.
///
/// `Errors:` `BadRequest` for an address that cannot be; otherwise of the call, with the address and the status.
pub fn info(args: &InfoArgs, out: &mut dyn Write) -> Result<()> {
    let store = address(&args.store)?;
    let link = Link::open("info", &store, args.tls.as_ref(), args.timeout)?;
    let info = link
        .client
        .unary_call(&INFO, &InfoRequest::default(), options(args.timeout))
        .map_err(|err| link.call_error(err))?;
    let text = if args.json { output::info_json(&store, &info) } else { output::info_text(&store, &info) };
    Printer::new(out).print(&text).map(|_| ())
}

/// Asks a store for series and writes each as soon as it is complete. Warnings of the store, and the remark that nothing
/// matched, go to `warn`. A reader that closes `out` early ends the call without an error. `Blocks:` up to the time-out.
///
/// `Errors:` `BadRequest` for an address or a selector that cannot be; `Corrupt` for a chunk that cannot be decoded;
/// otherwise of the call, with the address and the status.
pub fn series(args: &SeriesArgs, out: &mut dyn Write, warn: &mut dyn Write) -> Result<()> {
    let store = address(&args.store)?;
    let request = series_request(args)?;
    let range_ms = (request.min_time, request.max_time);
    let link = Link::open("series", &store, args.tls.as_ref(), args.timeout)?;
    let mut stream =
        link.client.server_streaming(&SERIES, &request, options(args.timeout)).map_err(|err| link.call_error(err))?;
    let mut sink = Sink {
        printer: Printer::new(out),
        style: Style { samples: args.samples, labels_only: args.skip_chunks },
        json: args.json,
        range_ms,
        current: None,
        n_series: 0,
    };
    // The stream is pulled by this one thread, so a slow reader of `out` slows the store down.
    while let Some(message) = block_on(stream.next()) {
        let message = message.map_err(|err| link.call_error(err))?;
        let all: &[Series] = match &message.result {
            Some(series_response::Result::Series(one)) => std::slice::from_ref(one),
            Some(series_response::Result::Batch(batch)) => &batch.series,
            Some(series_response::Result::Warning(text)) => {
                warning(warn, &format!("warning: {}", output::quote_controls(text)));
                continue;
            }
            _ => continue,
        };
        for one in all {
            let goes_on = sink.add(one).map_err(|err| err.context(format!("series from {store}")))?;
            if !goes_on {
                return Ok(());
            }
        }
    }
    if sink.finish()? && sink.n_series == 0 {
        warning(warn, "no series");
    }
    Ok(())
}

/// The request for what was asked.
///
/// `Errors:` `BadRequest` for a bad selector, none at all, or a start behind the end.
fn series_request(args: &SeriesArgs) -> Result<SeriesRequest> {
    let mut matchers = Vec::new();
    for text in &args.matchers {
        matchers.extend(selector::parse(text)?.into_iter().map(wire_matcher));
    }
    if matchers.is_empty() {
        return Err(Error::new(Kind::BadRequest, "series wants at least one --match"));
    }
    let (first_ms, last_ms) = TIME_BOUNDS_MS;
    let (min_time, max_time) = (args.start_ms.clamp(first_ms, last_ms), args.end_ms.clamp(first_ms, last_ms));
    if min_time > max_time {
        return Err(Error::new(Kind::BadRequest, "--start is later than --end"));
    }
    Ok(SeriesRequest {
        min_time,
        max_time,
        matchers,
        aggregates: vec![Aggr::RAW.into()],
        skip_chunks: args.skip_chunks,
        without_replica_labels: args.without_replica_labels.clone(),
        response_batch_size: RESPONSE_BATCH_SIZE,
        ..SeriesRequest::default()
    })
}

fn wire_matcher(matcher: Matcher) -> LabelMatcher {
    let kind = match matcher.kind {
        MatchType::Equal => label_matcher::Type::EQ,
        MatchType::NotEqual => label_matcher::Type::NEQ,
        MatchType::Regex => label_matcher::Type::RE,
        MatchType::NotRegex => label_matcher::Type::NRE,
    };
    LabelMatcher { type_: kind.into(), name: matcher.name, value: matcher.value, ..LabelMatcher::default() }
}

/// Merges messages of one series and prints each when the next one begins.
struct Sink<'a> {
    printer: Printer<'a>,
    style: Style,
    json: bool,
    range_ms: (i64, i64),
    current: Option<View>,
    n_series: u64,
}

impl Sink<'_> {
    /// False when nobody reads the output any more.
    fn add(&mut self, series: &Series) -> Result<bool> {
        if self.current.as_ref().is_some_and(|view| !view.is_of(&series.labels)) && !self.finish()? {
            return Ok(false);
        }
        let view = self.current.get_or_insert_with(|| View::new(&series.labels));
        view.add(&series.chunks, self.range_ms)?;
        Ok(true)
    }

    /// Prints the series that is held; false as in `add`.
    fn finish(&mut self) -> Result<bool> {
        let Some(mut view) = self.current.take() else { return Ok(true) };
        view.finish();
        self.n_series += 1;
        let text = match self.json {
            true => output::series_json(&view, self.style),
            false => output::series_text(&view, self.style),
        };
        self.printer.print(&text)
    }
}

struct Printer<'a> {
    out: &'a mut dyn Write,
}

impl<'a> Printer<'a> {
    fn new(out: &'a mut dyn Write) -> Self {
        Printer { out }
    }

    /// False when the reader is gone, as after `| head`.
    fn print(&mut self, text: &str) -> Result<bool> {
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Ok(()) => Ok(true),
            Err(err) if err.kind() == ErrorKind::BrokenPipe => Ok(false),
            Err(err) => Err(Error::io(&err).context("write the output")),
        }
    }
}

/// A remark beside the answer. That nobody can read it is no reason to give up the answer.
fn warning(warn: &mut dyn Write, text: &str) {
    let _ = writeln!(warn, "{text}");
}

/// `host:port`; a missing host is this machine, as in Go.
fn address(text: &str) -> Result<String> {
    let wrong = || Error::new(Kind::BadRequest, format!("--store={text}: expected HOST:PORT"));
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let is_port = port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    if !is_port || (host.contains(':') && !is_bracketed) || host.contains(['/', ' ', '\0', '%']) {
        return Err(wrong());
    }
    Ok(if host.is_empty() { format!("localhost:{port}") } else { text.to_owned() })
}

/// A client of one store, for one call.
struct Link<'a> {
    client: Client,
    call: &'static str,
    store: &'a str,
    /// `None` without TLS.
    ending: Option<Ending>,
}

impl<'a> Link<'a> {
    /// A channel connects at its first call, one with TLS at once. Messages may have any size: the store decides.
    ///
    /// `Errors:` of the files of TLS, of the connection and of the handshake, with the address.
    fn open(call: &'static str, store: &'a str, tls: Option<&ClientSettings>, timeout: Duration) -> Result<Link<'a>> {
        let environment = Arc::new(Environment::new(1));
        let builder = ChannelBuilder::new(environment)
            .max_receive_message_len(-1)
            .max_send_message_len(-1)
            // A proxy for web pages is not meant for a store, which is most often on this machine.
            .enable_http_proxy(false)
            .primary_user_agent(concat!("pillion/", env!("CARGO_PKG_VERSION")));
        let (channel, ending) = match tls {
            None => (builder.connect(store), None),
            Some(tls) => {
                let tls = ClientTls::load(tls.clone());
                let secured = tls.and_then(|tls| secure::connect(builder, store, &tls, timeout, &secure::ADVICE));
                let (channel, ending) = secured.context(|| format!("{call} from {store}"))?;
                (channel, Some(ending))
            }
        };
        Ok(Link { client: Client::new(channel), call, store, ending })
    }

    /// `series from localhost:10901: INVALID_ARGUMENT: no matchers`.
    fn call_error(&self, err: grpcio::Error) -> Error {
        let (kind, text) = match err {
            grpcio::Error::RpcFailure(status) => {
                let code = status.code().to_string();
                // The library writes a code as `3-INVALID_ARGUMENT`.
                let name = code.split_once('-').map_or(code.as_str(), |(_, name)| name);
                let message = self.message(&status);
                (kind_of(status.code()), format!("{name}: {message}"))
            }
            grpcio::Error::Codec(err) => (Kind::Corrupt, format!("cannot decode the answer: {err}")),
            other => (Kind::Retry, other.to_string()),
        };
        Error::new(kind, text).context(format!("{} from {}", self.call, self.store))
    }

    /// What the status says, or what is known better here about a connection that has ended.
    fn message(&self, status: &RpcStatus) -> String {
        let message = output::quote_controls(status.message());
        if status.code() != RpcStatusCode::UNAVAILABLE {
            return message;
        }
        match &self.ending {
            Some(ending) => ending.reason().map_or(message, output::quote_controls),
            // It was there and went away at once, as a server does that waits for TLS.
            None if message.contains("closed") || message.contains("reset by peer") => {
                format!("{message}; does the server want TLS (--tls)?")
            }
            None => message,
        }
    }
}

fn options(timeout: Duration) -> CallOption {
    CallOption::default().timeout(timeout)
}

fn kind_of(code: RpcStatusCode) -> Kind {
    match code {
        RpcStatusCode::UNAVAILABLE | RpcStatusCode::DEADLINE_EXCEEDED | RpcStatusCode::ABORTED => Kind::Retry,
        RpcStatusCode::INVALID_ARGUMENT | RpcStatusCode::OUT_OF_RANGE => Kind::BadRequest,
        RpcStatusCode::NOT_FOUND => Kind::NotFound,
        RpcStatusCode::RESOURCE_EXHAUSTED => Kind::Limit,
        RpcStatusCode::CANCELLED => Kind::Stopped,
        _ => Kind::Permanent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let check = |text: &str, expected: Option<&str>| assert_eq!(address(text).ok().as_deref(), expected, "{text}");
        check("localhost:10901", Some("localhost:10901"));
        check(":10901", Some("localhost:10901"));
        check("[::1]:10901", Some("[::1]:10901"));
        for wrong in ["localhost", "localhost:", "localhost:0", "a:99999", "::1:10901", "http://a:1", "a:+1", "a b:1"] {
            check(wrong, None);
        }
    }

    #[test]
    fn selectors_become_one_list_of_matchers_and_times_are_bounded() {
        let mut args = SeriesArgs {
            store: "a:1".into(),
            tls: None,
            matchers: vec!["up".into(), r#"{a!~"b"}"#.into()],
            start_ms: i64::MIN,
            end_ms: i64::MAX,
            skip_chunks: true,
            without_replica_labels: vec!["replica".into()],
            samples: false,
            json: false,
            timeout: Duration::from_secs(1),
        };
        let request = series_request(&args).unwrap();
        assert_eq!((request.min_time, request.max_time), TIME_BOUNDS_MS);
        assert_eq!(request.matchers.len(), 2);
        assert_eq!(request.matchers[1].type_.enum_value(), Ok(label_matcher::Type::NRE));
        assert!(request.skip_chunks);
        (args.start_ms, args.end_ms) = (2, 1);
        assert_eq!(series_request(&args).unwrap_err().kind(), Kind::BadRequest);
        args.matchers.clear();
        assert_eq!(series_request(&args).unwrap_err().to_string(), "series wants at least one --match");
    }
}
