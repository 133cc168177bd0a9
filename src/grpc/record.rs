//! What is known of each call while it lasts: of whom it is, what it asks, how far it is. The call's threads write it, and
//! whoever looks reads it; nobody waits for anybody. At the end it is a line of the log, if it is to be one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::grpc::calls::Name;
use crate::grpc::request::{self, Bytes};
use crate::metrics::GRPC_CODES;
use crate::request_log::{CallEnd, CallFacts, RequestLog};

/// The calls that are open.
#[derive(Clone)]
pub(crate) struct Records(Arc<Shared>);

struct Shared {
    open: Mutex<Open>,
    log: RequestLog,
}

#[derive(Default)]
struct Open {
    next: u64,
    records: BTreeMap<u64, Arc<Record>>,
}

/// What is known of a call when it begins.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origin {
    /// Who makes it; `None` when the connection is gone already.
    pub(crate) peer: Option<SocketAddr>,
    /// What the client calls it.
    pub(crate) request_id: Option<String>,
    /// In hexadecimal digits, where the call is traced.
    pub(crate) trace_id: Option<String>,
}

/// What a call is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Waits for a thread.
    Queued = 0,
    /// Has one.
    Working = 1,
    /// Waits until its client takes more.
    WaitingForClient = 2,
    /// Waits until Prometheus has room for another read.
    WaitingForPrometheus = 3,
}

/// One call.
pub(crate) struct Record {
    id: u64,
    pub(crate) name: Name,
    pub(crate) origin: Origin,
    pub(crate) begun_at: SystemTime,
    begun: Instant,
    request: Arc<Bytes>,
    doing: AtomicU8,
    /// Microseconds until the first message was there; 0 is not yet.
    first_message_us: AtomicU64,
    n_series: AtomicU64,
    n_chunks: AtomicU64,
    n_messages: AtomicU64,
    sent_bytes: AtomicU64,
}

impl Records {
    /// No call is open. Those that end are told to the log.
    pub(crate) fn new(log: RequestLog) -> Self {
        Records(Arc::new(Shared { open: Mutex::default(), log }))
    }

    /// A call begins.
    pub(crate) fn begin(&self, name: Name, request: Arc<Bytes>, origin: Origin) -> OpenRecord {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let id = open.next;
        open.next += 1;
        let record = Arc::new(Record {
            id,
            name,
            origin,
            begun_at: SystemTime::now(),
            begun: Instant::now(),
            request,
            doing: AtomicU8::new(Doing::Queued as u8),
            first_message_us: AtomicU64::new(0),
            n_series: AtomicU64::new(0),
            n_chunks: AtomicU64::new(0),
            n_messages: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
        });
        open.records.insert(id, Arc::clone(&record));
        drop(open);
        if self.0.log.wants(name.1, name.2) {
            record.tell(|facts| self.0.log.call_begins(facts));
        }
        OpenRecord { records: self.clone(), record }
    }

    /// The calls that are open, the oldest first.
    pub(crate) fn open(&self) -> Vec<Arc<Record>> {
        let open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.records.values().map(Arc::clone).collect()
    }
}

/// A call until its end.
pub(crate) struct OpenRecord {
    records: Records,
    pub(crate) record: Arc<Record>,
}

impl OpenRecord {
    /// The call has ended with the code of this number. Nothing is logged of one that is dropped without.
    pub(crate) fn end(self, code: usize, error: &str, took: Duration) {
        let log = &self.records.0.log;
        let record = &self.record;
        if !log.wants(record.name.1, record.name.2) {
            return;
        }
        let (n_series, n_chunks) = record.counts();
        let first = record.first_message_us.load(Ordering::Relaxed);
        let end = CallEnd {
            code: (GRPC_CODES.get(code).copied().unwrap_or("Unknown"), code),
            error,
            took,
            first_message: Some(Duration::from_micros(first)).filter(|time| !time.is_zero()),
            n_series,
            n_chunks,
            n_messages: record.n_messages.load(Ordering::Relaxed),
            sent_bytes: record.sent_bytes(),
        };
        record.tell(|facts| log.call_ends(facts, &end));
    }
}

impl Drop for OpenRecord {
    fn drop(&mut self) {
        let mut open = self.records.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.records.remove(&self.record.id);
    }
}

impl Record {
    /// The address of the client; empty when it is not known.
    pub(crate) fn peer(&self) -> String {
        self.origin.peer.map_or_else(String::new, |peer| peer.to_string())
    }

    /// The method and the matchers. Decodes the request each time.
    pub(crate) fn query(&self) -> String {
        request::describe(self.name.2, &self.request)
    }

    /// How long the call lasts.
    pub(crate) fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// What it is doing.
    pub(crate) fn doing(&self) -> Doing {
        match self.doing.load(Ordering::Relaxed) {
            1 => Doing::Working,
            2 => Doing::WaitingForClient,
            3 => Doing::WaitingForPrometheus,
            _ => Doing::Queued,
        }
    }

    /// Now it does something else; what it did before.
    pub(crate) fn now(&self, doing: Doing) -> Doing {
        let before = self.doing();
        self.doing.store(doing as u8, Ordering::Relaxed);
        before
    }

    /// A message of so many bytes is there to be sent.
    pub(crate) fn has_message(&self, bytes: usize) {
        self.n_messages.fetch_add(1, Ordering::Relaxed);
        self.sent_bytes.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
        if self.first_message_us.load(Ordering::Relaxed) == 0 {
            let us = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.first_message_us.store(us.max(1), Ordering::Relaxed);
        }
    }

    /// So many series and chunks have been counted so far.
    pub(crate) fn counted(&self, n_series: u64, n_chunks: u64) {
        self.n_series.store(n_series, Ordering::Relaxed);
        self.n_chunks.store(n_chunks, Ordering::Relaxed);
    }

    /// Series and chunks so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.n_series.load(Ordering::Relaxed), self.n_chunks.load(Ordering::Relaxed))
    }

    /// Bytes of messages so far.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    fn tell(&self, tell: impl FnOnce(&CallFacts<'_>)) {
        let (peer, query) = (self.peer(), self.query());
        let number = self.id.to_string();
        tell(&CallFacts {
            name: self.name,
            request_id: self.origin.request_id.as_deref().unwrap_or(&number),
            peer: &peer,
            begun: self.begun_at,
            query: &query,
            trace_id: self.origin.trace_id.as_deref(),
        });
    }
}
