//! A request as bytes: taken from the core as it is, weighed before it is decoded, and decoded where it may take its time.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::Read;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::Stream;
use futures_util::task::AtomicWaker;
use grpcio::{MessageReader, RequestStream, RpcStatus, RpcStatusCode};
use protobuf::Message;

use crate::limits;
use pillion_base::error::{Error, Kind, Result};
use pillion_base::threads::spawn_thread;

/// The bytes of one request.
pub(crate) type Bytes = Vec<u8>;

/// Takes the bytes of a message out of the core.
pub(crate) fn take(mut reader: MessageReader) -> grpcio::Result<Bytes> {
    let mut bytes = Vec::with_capacity(reader.len());
    reader.read_to_end(&mut bytes).map_err(|err| grpcio::Error::Codec(err.into()))?;
    Ok(bytes)
}

/// What begins a message in the framing format of snappy, which is nothing that a message of protobuf begins with.
const SNAPPY: &[u8] = b"\xff\x06\x00\x00sNaPpY";

/// The request as it was before a querier with `--grpc-compression=snappy` compressed it. The core does not know this
/// compression and hands the bytes on as they are.
///
/// `Errors:` `Limit` for one that becomes larger than `bytes_max`, `BadRequest` for one that is torn.
pub(crate) fn plain(bytes: &[u8], bytes_max: usize) -> Result<Cow<'_, [u8]>> {
    if !bytes.starts_with(SNAPPY) {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut plain = Vec::new();
    let most = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    snap::read::FrameDecoder::new(bytes)
        .take(most)
        .read_to_end(&mut plain)
        .map_err(|err| Error::new(Kind::BadRequest, format!("cannot decompress the request with snappy: {err}")))?;
    if plain.len() > bytes_max {
        let text =
            format!("the decompressed request is larger than {bytes_max} bytes (--grpc-server-max-request-size)");
        return Err(Error::new(Kind::Limit, text));
    }
    Ok(Cow::Owned(plain))
}

/// Decodes a request, unless it has more fields than any that is meant: a field of two bytes becomes a matcher of a
/// hundred.
///
/// `Errors:` `BadRequest`; `Permanent` for bytes that are no such message, as in Thanos.
pub(crate) fn decode<Q: Nested>(bytes: &[u8]) -> Result<Q> {
    if n_fields(bytes, Q::NESTED) > limits::REQUEST_FIELDS_MAX {
        let most = limits::REQUEST_FIELDS_MAX;
        return Err(Error::new(
            Kind::BadRequest,
            format!("the request has more than {most} matchers, labels and hints"),
        ));
    }
    Q::parse_from_bytes(bytes).map_err(|err| Error::new(Kind::Permanent, format!("cannot decode the request: {err}")))
}

/// The method and the matchers of a request, for the log.
pub(crate) fn describe(method: &str, bytes: &[u8]) -> String {
    use pillion_proto::thanos_store::{LabelNamesRequest, LabelValuesRequest, SeriesRequest};
    let matchers = match method {
        "Series" => decode(bytes).map(|request: SeriesRequest| request.matchers),
        "LabelNames" => decode(bytes).map(|request: LabelNamesRequest| request.matchers),
        "LabelValues" => decode(bytes).map(|request: LabelValuesRequest| request.matchers),
        _ => return method.to_owned(),
    };
    format!("{method} {}", pillion_read::store::selector(&matchers.unwrap_or_default()))
}

/// The fields of a message that are messages, with theirs.
pub(crate) struct Fields(&'static [(u32, Fields)]);

/// A request whose nested fields can be counted.
pub(crate) trait Nested: Message {
    /// The fields that are messages.
    const NESTED: &Fields;
}

const PLAIN: Fields = Fields(&[]);

macro_rules! nested {
    ($($message:ty => $fields:expr,)*) => { $(impl Nested for $message { const NESTED: &Fields = &Fields($fields); })* };
}

nested! {
    // Matchers, hints, query hints (function, grouping, range), shards.
    pillion_proto::thanos_store::SeriesRequest =>
        &[(3, PLAIN), (9, PLAIN), (12, Fields(&[(2, PLAIN), (4, PLAIN), (5, PLAIN)])), (13, PLAIN)],
    pillion_proto::thanos_store::LabelNamesRequest => &[(5, PLAIN), (6, PLAIN)],
    pillion_proto::thanos_store::LabelValuesRequest => &[(6, PLAIN), (7, PLAIN)],
    pillion_proto::thanos_status::TSDBStatisticsRequest => &[(4, PLAIN)],
    pillion_proto::thanos_rules::RulesRequest => &[],
    pillion_proto::thanos_targets::TargetsRequest => &[],
    pillion_proto::thanos_metadata::MetricMetadataRequest => &[],
    pillion_proto::thanos_exemplars::ExemplarsRequest => &[],
    pillion_proto::grpc_health::HealthCheckRequest => &[],
}

/// The fields of a message and of those in it. Of bytes that are no message, as many as there are before the fault; the
/// decoder finds it too.
fn n_fields(mut bytes: &[u8], fields: &Fields) -> usize {
    let mut n = 0;
    while let Some(key) = varint(&mut bytes) {
        n += 1;
        let length = match key & 7 {
            0 => {
                if varint(&mut bytes).is_none() {
                    return n;
                }
                continue;
            }
            1 => 8,
            5 => 4,
            2 => match varint(&mut bytes) {
                Some(length) => length,
                None => return n,
            },
            // The beginning and the end of a group have nothing of their own.
            3 | 4 => continue,
            _ => return n,
        };
        let Some((value, rest)) = usize::try_from(length).ok().and_then(|length| bytes.split_at_checked(length)) else {
            return n;
        };
        let nested = fields.0.iter().find(|(number, _)| key & 7 == 2 && u64::from(*number) == key >> 3);
        n += nested.map_or(0, |(_, fields)| n_fields(value, fields));
        bytes = rest;
    }
    n
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The requests of a call of which there is to be one.
pub(crate) struct Incoming {
    requests: RequestStream<Bytes>,
    is_over: bool,
}

impl Incoming {
    pub(crate) fn new(requests: RequestStream<Bytes>) -> Self {
        Incoming { requests, is_over: false }
    }

    /// The request, in time. `late` ends the wait for it.
    pub(crate) async fn first(&mut self, late: &Late) -> Result<Bytes, RpcStatus> {
        let wait = Arc::new(Wait::default());
        late.watch(&wait);
        let arrived = std::future::poll_fn(|cx| {
            wait.waker.register(cx.waker());
            if wait.is_late.load(Ordering::Acquire) {
                return Poll::Ready(Err(()));
            }
            Pin::new(&mut self.requests).poll_next(cx).map(Ok)
        });
        let (code, text) = match arrived.await {
            Ok(Some(Ok(bytes))) => return Ok(bytes),
            Ok(Some(Err(err))) => (RpcStatusCode::INTERNAL, err.to_string()),
            Ok(None) => (RpcStatusCode::INTERNAL, "the client has ended the call without a request".into()),
            Err(()) => {
                let seconds = limits::REQUEST_TIMEOUT.as_secs();
                (RpcStatusCode::DEADLINE_EXCEEDED, format!("the request did not arrive within {seconds} s"))
            }
        };
        Err(RpcStatus::with_message(code, text))
    }

    /// Looks for the end behind the request. A second request is an error: it would lie in the core until the call ends.
    /// To be polled with whatever answers, so that it costs no wake-up of its own.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Result<(), RpcStatus> {
        if self.is_over {
            return Ok(());
        }
        match Pin::new(&mut self.requests).poll_next(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(Some(Ok(_))) => {
                self.is_over = true;
                Err(RpcStatus::with_message(RpcStatusCode::INTERNAL, "the call has more than one request".into()))
            }
            Poll::Ready(_) => {
                self.is_over = true;
                Ok(())
            }
        }
    }
}

/// Calls that are over are not looked for among fewer.
const LATE_SWEEP_MIN: usize = 4096;

/// Ends the wait for requests that do not come. One thread for all, started with the first call.
#[derive(Clone, Default)]
pub struct Late(Arc<Waits>);

/// A call that waits for its request. Its waker keeps all of the call in memory, so nothing else owns this.
#[derive(Default)]
struct Wait {
    is_late: AtomicBool,
    waker: AtomicWaker,
}

#[derive(Default)]
struct Waits {
    /// In the order of their time, since all have the same.
    list: Mutex<List>,
    changed: Condvar,
}

#[derive(Default)]
struct List {
    waits: VecDeque<(Instant, Weak<Wait>)>,
    /// At this length those that are over are taken out.
    sweep_at: usize,
    is_running: bool,
}

impl Late {
    fn watch(&self, wait: &Arc<Wait>) {
        let mut list = self.0.lock();
        if list.waits.len() >= list.sweep_at.max(LATE_SWEEP_MIN) {
            list.waits.retain(|(_, wait)| wait.strong_count() > 0);
            list.sweep_at = 2 * list.waits.len();
        }
        list.waits.push_back((Instant::now() + limits::REQUEST_TIMEOUT, Arc::downgrade(wait)));
        if !list.is_running {
            let waits = Arc::clone(&self.0);
            // Without the thread the next call tries again, and this one waits as long as its client does.
            list.is_running = spawn_thread("grpc-late", Some(limits::SMALL_STACK_BYTES), move || waits.run()).is_ok();
        } else if list.waits.len() == 1 {
            self.0.changed.notify_one();
        }
    }
}

impl Waits {
    fn run(&self) {
        let mut list = self.lock();
        loop {
            let now = Instant::now();
            let time = match list.waits.front() {
                None => Duration::MAX,
                Some((at, _)) if *at > now => *at - now,
                Some(_) => {
                    // Most calls have had their request for long, and are over.
                    if let Some(wait) = list.waits.pop_front().and_then(|(_, wait)| wait.upgrade()) {
                        wait.is_late.store(true, Ordering::Release);
                        wait.waker.wake();
                    }
                    continue;
                }
            };
            list = self.changed.wait_timeout(list, time).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_proto::thanos_store::{Grouping, LabelNamesRequest, QueryHints, SeriesRequest, ShardInfo};
    use pillion_proto::thanos_types::LabelMatcher;
    use protobuf::MessageField;

    fn count(request: &SeriesRequest) -> usize {
        n_fields(&request.write_to_bytes().unwrap(), SeriesRequest::NESTED)
    }

    #[test]
    fn fields_are_counted_at_every_depth() {
        let matcher = LabelMatcher { name: "a".into(), value: "\u{8}\u{1}".into(), ..Default::default() };
        assert_eq!(count(&SeriesRequest { min_time: 1, matchers: vec![matcher; 3], ..Default::default() }), 1 + 3 * 3);
        let labels = vec!["\u{8}\u{1}".to_owned(); 5];
        assert_eq!(count(&SeriesRequest { without_replica_labels: labels.clone(), ..Default::default() }), 5);
        let shard = ShardInfo { labels: labels.clone(), ..Default::default() };
        assert_eq!(count(&SeriesRequest { shard_info: MessageField::some(shard), ..Default::default() }), 1 + 5);
        let grouping = Grouping { labels, ..Default::default() };
        let hints = QueryHints { grouping: MessageField::some(grouping), ..Default::default() };
        assert_eq!(count(&SeriesRequest { query_hints: MessageField::some(hints), ..Default::default() }), 1 + 1 + 5);
    }

    #[test]
    fn requests_that_snappy_has_compressed_are_read_and_bounded() {
        use std::io::Write;
        let compress = |plain: &[u8]| {
            let mut writer = snap::write::FrameEncoder::new(Vec::new());
            writer.write_all(plain).unwrap();
            writer.into_inner().unwrap()
        };
        let large = vec![7; 300_000];
        assert_eq!(*plain(&compress(&large), 300_000).unwrap(), large);
        assert_eq!(*plain(&large, 10).unwrap(), large);
        assert!(plain(SNAPPY, 10).unwrap().is_empty());
        assert_eq!(plain(&compress(&large), 299_999).unwrap_err().kind(), Kind::Limit);
        let whole = compress(&large);
        for torn in [&whole[..whole.len() - 1], &[SNAPPY, b"\x00\x05"].concat(), &[SNAPPY, &[9; 40]].concat()] {
            assert_eq!(plain(torn, 1 << 20).unwrap_err().kind(), Kind::BadRequest);
        }
    }

    #[test]
    fn what_is_no_message_is_left_to_the_decoder() {
        for bytes in [
            &[0xff_u8; 20][..],
            &[0x0a, 0x7f],
            &[0x08],
            &[0x0a],
            &[0x0e, 1],
            &[0x09, 1, 2],
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        ] {
            assert!(n_fields(bytes, SeriesRequest::NESTED) <= 1, "{bytes:x?}");
            assert_eq!(decode::<SeriesRequest>(bytes).unwrap_err().kind(), Kind::Permanent, "{bytes:x?}");
        }
        assert!(decode::<LabelNamesRequest>(b"").is_ok());
    }

    #[test]
    fn a_request_of_nothing_but_matchers_is_refused_before_it_is_decoded() {
        let many = [0x1a, 0].repeat(limits::REQUEST_FIELDS_MAX + 1);
        assert_eq!(decode::<SeriesRequest>(&many).unwrap_err().kind(), Kind::BadRequest);
        assert!(decode::<SeriesRequest>(&many[2..]).is_ok());
        // Numbers that nobody knows are kept by the decoder too.
        let unknown: Vec<u8> = [0xa0, 0x7d, 1].repeat(limits::REQUEST_FIELDS_MAX + 1);
        assert_eq!(decode::<SeriesRequest>(&unknown).unwrap_err().kind(), Kind::BadRequest);
    }
}
