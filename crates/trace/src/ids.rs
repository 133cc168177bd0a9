//! Who a span is: the ids of the trace and of the span, and what is passed on with them.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Random bytes that are not all zero: zero means that there is no id.
fn random<const N: usize>() -> [u8; N] {
    loop {
        let mut bytes = [0; N];
        // So few bytes come whole or not at all.
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .expect("the hash maps of the standard library need random bytes, too");
        if bytes.iter().any(|byte| *byte != 0) {
            return bytes;
        }
    }
}

/// A random number between 0 and 1.
pub(crate) fn random_fraction() -> f64 {
    f64::from(u32::from_be_bytes(random())) / f64::from(u32::MAX)
}

/// The id of a trace; never zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceId([u8; 16]);

/// The id of a span; never zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpanId([u8; 8]);

impl TraceId {
    /// `None` for zero.
    pub(crate) fn new(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(TraceId(bytes))
    }

    pub(crate) fn random() -> Self {
        TraceId(random())
    }

    pub(crate) fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The lower half, from which samplers by ratio decide.
    pub(crate) fn low(&self) -> u64 {
        let [.., a, b, c, d, e, f, g, h] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

impl SpanId {
    /// `None` for zero.
    pub(crate) fn new(bytes: [u8; 8]) -> Option<Self> {
        (bytes != [0; 8]).then_some(SpanId(bytes))
    }

    pub(crate) fn random() -> Self {
        SpanId(random())
    }

    pub(crate) fn bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

/// The clock of a call: read once, and then only how long ago that was, so that what is below a span lies within it.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    wall_ns: u64,
    read: Instant,
}

impl Clock {
    pub(crate) fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { wall_ns: nanos(since_epoch), read: Instant::now() }
    }

    /// `Units:` ns since 1970.
    pub(crate) fn ns(&self) -> u64 {
        self.wall_ns.saturating_add(nanos(self.read.elapsed()))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What others need to know of a span: whoever continues its trace, and whoever writes its id down. Cheap to clone.
#[derive(Clone)]
pub struct TraceContext {
    pub(crate) trace_id: TraceId,
    pub(crate) span_id: SpanId,
    pub(crate) is_sampled: bool,
    pub(crate) clock: Clock,
    /// `tracestate` as it came.
    pub(crate) state: Option<Arc<str>>,
    /// `baggage` as it came.
    pub(crate) baggage: Option<Arc<str>>,
}

impl TraceContext {
    /// The id of the trace, in 32 hexadecimal digits.
    pub fn trace_id_hex(&self) -> String {
        self.trace_id.to_string()
    }

    /// Whether somebody will find the trace under its id, so that it is worth showing.
    pub fn is_sampled(&self) -> bool {
        self.is_sampled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_written_as_hex_and_differ() {
        let trace = TraceId::new([0, 1, 2, 3, 4, 5, 6, 7, 0x80, 0, 0, 0, 0, 0, 0, 0xff]).unwrap();
        assert_eq!(trace.to_string(), "000102030405060780000000000000ff");
        assert_eq!(trace.low(), 0x8000_0000_0000_00ff);
        assert_eq!(SpanId::new([0, 0, 0, 0, 0, 0, 0xab, 1]).unwrap().to_string(), "000000000000ab01");
        assert!(TraceId::new([0; 16]).is_none() && SpanId::new([0; 8]).is_none());
        assert!(TraceId::random() != TraceId::random() && SpanId::random() != SpanId::random());
        assert!((0.0..=1.0).contains(&random_fraction()));
    }
}
