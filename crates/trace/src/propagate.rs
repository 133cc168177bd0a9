//! What a caller says of its trace, and what Prometheus is told of ours: W3C Trace Context, B3 in one header and in several,
//! and Jaeger's. What is malformed counts as absent.

use std::sync::Arc;

use crate::ids::{Clock, SpanId, TraceContext, TraceId};
use crate::limits;

/// The header by which a caller has a call recorded whatever the sampler says, and the name for it in baggage.
const FORCE: &str = "x-thanos-force-tracing";

/// What came with a call.
#[derive(Clone, Default)]
pub struct Incoming {
    pub(crate) parent: Option<TraceContext>,
    /// Whether the call is to be recorded in any case.
    pub(crate) is_forced: bool,
    baggage: Option<Arc<str>>,
}

/// Which headers a request to Prometheus gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Propagators {
    pub(crate) trace_context: bool,
    pub(crate) baggage: bool,
    pub(crate) b3: bool,
    pub(crate) b3_multi: bool,
    pub(crate) jaeger: bool,
}

/// `Source:` OpenTelemetry.
impl Default for Propagators {
    fn default() -> Self {
        Propagators { trace_context: true, baggage: true, b3: false, b3_multi: false, jaeger: false }
    }
}

impl Propagators {
    /// Reads `OTEL_PROPAGATORS`, names between commas.
    ///
    /// `Errors:` a name that is not known here.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let none = Propagators { trace_context: false, baggage: false, b3: false, b3_multi: false, jaeger: false };
        text.split(',').map(str::trim).filter(|name| !name.is_empty()).try_fold(none, |known, name| match name {
            "tracecontext" => Ok(Propagators { trace_context: true, ..known }),
            "baggage" => Ok(Propagators { baggage: true, ..known }),
            "b3" => Ok(Propagators { b3: true, ..known }),
            "b3multi" => Ok(Propagators { b3_multi: true, ..known }),
            "jaeger" => Ok(Propagators { jaeger: true, ..known }),
            "none" => Ok(known),
            _ => Err("there are tracecontext, baggage, b3, b3multi, jaeger and none".to_owned()),
        })
    }
}

/// The headers that matter here, as they came.
#[derive(Default)]
struct Found<'a> {
    parent: Option<&'a str>,
    state: List,
    b3: Option<&'a str>,
    b3_trace: Option<&'a str>,
    b3_span: Option<&'a str>,
    b3_sampled: Option<&'a str>,
    b3_flags: Option<&'a str>,
    jaeger: Option<&'a str>,
    baggage: List,
}

/// Reads the headers of a call, or its metadata. The first form that is understood counts: W3C, B3, Jaeger.
pub fn extract<'a>(headers: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Incoming {
    let mut found = Found::default();
    let mut is_forced = false;
    for (name, value) in headers {
        let Ok(value) = std::str::from_utf8(value) else { continue };
        let value = value.trim();
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("traceparent") {
            found.parent = found.parent.or(Some(value));
        } else if is("tracestate") {
            found.state.add(value, limits::STATE_BYTES_MAX);
        } else if is("baggage") {
            found.baggage.add(value, limits::BAGGAGE_BYTES_MAX);
        } else if is("b3") {
            found.b3 = found.b3.or(Some(value));
        } else if is("x-b3-traceid") {
            found.b3_trace = found.b3_trace.or(Some(value));
        } else if is("x-b3-spanid") {
            found.b3_span = found.b3_span.or(Some(value));
        } else if is("x-b3-sampled") {
            found.b3_sampled = found.b3_sampled.or(Some(value));
        } else if is("x-b3-flags") {
            found.b3_flags = found.b3_flags.or(Some(value));
        } else if is("uber-trace-id") {
            found.jaeger = found.jaeger.or(Some(value));
        } else if is(FORCE) {
            is_forced |= !value.is_empty();
        }
    }
    let baggage = found.baggage.whole();
    is_forced |= baggage.as_deref().is_some_and(forces);
    let parent = found.parent.and_then(w3c);
    let parent = parent.map(|parent| TraceContext { state: found.state.whole(), ..parent });
    let parent = parent.or_else(|| found.b3.and_then(b3)).or_else(|| found.b3_multi()).or_else(|| {
        let value = found.jaeger?;
        // Jaeger's own clients write it as in a URL.
        if value.contains('%') { jaeger(&value.replace("%3A", ":").replace("%3a", ":")) } else { jaeger(value) }
    });
    Incoming { parent, is_forced, baggage }
}

impl Incoming {
    /// A span that continues the caller's trace, or begins one, undecided.
    pub(crate) fn continued(&self) -> TraceContext {
        TraceContext {
            trace_id: self.parent.as_ref().map_or_else(TraceId::random, |parent| parent.trace_id),
            span_id: SpanId::random(),
            is_sampled: false,
            clock: Clock::now(),
            state: self.parent.as_ref().and_then(|parent| parent.state.clone()),
            baggage: self.baggage.clone(),
        }
    }
}

/// A header that may come in several parts.
#[derive(Default)]
struct List {
    text: String,
    is_too_long: bool,
}

impl List {
    fn add(&mut self, part: &str, bytes_max: usize) {
        if self.text.len() + part.len() >= bytes_max + usize::from(self.text.is_empty()) {
            self.is_too_long = true;
            return;
        }
        if !self.text.is_empty() {
            self.text.push(',');
        }
        self.text.push_str(part);
    }

    /// The whole header; one that is too long or cannot be passed on is left out.
    fn whole(&self) -> Option<Arc<str>> {
        let is_whole = !self.is_too_long && !self.text.is_empty() && is_visible(&self.text);
        is_whole.then(|| Arc::from(self.text.as_str()))
    }
}

/// Whether a text can be a header's value again.
fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
}

/// Whether baggage has the name that forces a recording, with a value.
fn forces(baggage: &str) -> bool {
    baggage.split(',').any(|member| {
        let pair = member.split(';').next().unwrap_or_default();
        pair.split_once('=')
            .is_some_and(|(name, value)| name.trim().eq_ignore_ascii_case(FORCE) && !value.trim().is_empty())
    })
}

/// `N` bytes of as many pairs of digits, of which some may be left out in front.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.is_empty() || digits.len() > 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (idx, digit) in digits.iter().rev().enumerate() {
        let value = u8::try_from(char::from(*digit).to_digit(16)?).ok()?;
        *bytes.get_mut(N - 1 - idx / 2)? |= value << (4 * (idx % 2));
    }
    Some(bytes)
}

fn context(trace: [u8; 16], span: [u8; 8], is_sampled: bool) -> Option<TraceContext> {
    let (trace_id, span_id) = (TraceId::new(trace)?, SpanId::new(span)?);
    Some(TraceContext { trace_id, span_id, is_sampled, clock: Clock::now(), state: None, baggage: None })
}

/// `00-<32 digits>-<16 digits>-<2 digits>`; later versions may say more behind it.
fn w3c(text: &str) -> Option<TraceContext> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let mut parts = text.splitn(5, '-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if [version.len(), trace.len(), span.len(), flags.len()] != [2, 32, 16, 2] {
        return None;
    }
    let [version] = hex::<1>(version)?;
    if version == 0xff || (version == 0 && parts.next().is_some()) {
        return None;
    }
    let [flags] = hex::<1>(flags)?;
    context(hex(trace)?, hex(span)?, flags & 1 == 1)
}

/// `<trace>-<span>[-<decision>[-<parent>]]`. One that holds a decision only names no trace.
fn b3(text: &str) -> Option<TraceContext> {
    let mut parts = text.split('-');
    let (trace, span, decision, parent) = (parts.next()?, parts.next()?, parts.next(), parts.next());
    if parts.next().is_some() || parent.is_some_and(|parent| parent.len() != 16 || hex::<8>(parent).is_none()) {
        return None;
    }
    b3_context(trace, span, decided(decision)?)
}

fn b3_context(trace: &str, span: &str, is_sampled: bool) -> Option<TraceContext> {
    if !matches!(trace.len(), 16 | 32) || span.len() != 16 {
        return None;
    }
    context(hex(trace)?, hex(span)?, is_sampled)
}

/// A decision of B3: none counts as one not to record, as in OpenTelemetry.
fn decided(text: Option<&str>) -> Option<bool> {
    match text {
        None | Some("0" | "false") => Some(false),
        Some("1" | "true" | "d") => Some(true),
        Some(_) => None,
    }
}

impl Found<'_> {
    fn b3_multi(&self) -> Option<TraceContext> {
        let is_debugged = self.b3_flags == Some("1");
        b3_context(self.b3_trace?, self.b3_span?, decided(self.b3_sampled)? || is_debugged)
    }
}

/// `<trace>:<span>:<parent>:<flags>`, digits without zeros in front.
fn jaeger(text: &str) -> Option<TraceContext> {
    let mut parts = text.split(':');
    let (trace, span, _, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let [flags] = hex::<1>(flags)?;
    context(hex(trace)?, hex(span)?, flags & 1 == 1)
}

/// The headers by which a peer continues this trace.
pub(crate) fn inject(context: &TraceContext, with: Propagators) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    let mut put = |name: &str, value: String| headers.push((name.to_owned(), value));
    let TraceContext { trace_id, span_id, is_sampled, state, baggage, .. } = context;
    let flag = u8::from(*is_sampled);
    if with.trace_context {
        put("traceparent", format!("00-{trace_id}-{span_id}-{flag:02x}"));
        if let Some(state) = state {
            put("tracestate", state.to_string());
        }
    }
    if let Some(baggage) = baggage.as_ref().filter(|_| with.baggage) {
        put("baggage", baggage.to_string());
    }
    if with.b3 {
        put("b3", format!("{trace_id}-{span_id}-{flag}"));
    }
    if with.b3_multi {
        put("x-b3-traceid", trace_id.to_string());
        put("x-b3-spanid", span_id.to_string());
        put("x-b3-sampled", flag.to_string());
    }
    if with.jaeger {
        put("uber-trace-id", format!("{trace_id}:{span_id}:0:{flag}"));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn read(headers: &[(&str, &str)]) -> Incoming {
        extract(headers.iter().map(|(name, value)| (*name, value.as_bytes())))
    }

    /// `trace span sampled`, or nothing.
    fn shown(headers: &[(&str, &str)]) -> String {
        read(headers).parent.map_or_else(String::new, |parent| {
            format!("{} {} {}", parent.trace_id, parent.span_id, u8::from(parent.is_sampled))
        })
    }

    #[track_caller]
    fn check(headers: &[(&str, &str)], expected: &str) {
        let expected = expected.replace("TRACE", TRACE).replace("SPAN", SPAN);
        let headers: Vec<(&str, String)> =
            headers.iter().map(|(name, value)| (*name, value.replace("TRACE", TRACE).replace("SPAN", SPAN))).collect();
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(shown(&headers), expected, "{headers:?}");
    }

    #[test]
    fn w3c_trace_context() {
        check(&[("traceparent", "00-TRACE-SPAN-01")], "TRACE SPAN 1");
        check(&[("Traceparent", " 00-TRACE-SPAN-00 ")], "TRACE SPAN 0");
        check(&[("traceparent", "00-TRACE-SPAN-ff")], "TRACE SPAN 1");
        check(&[("traceparent", "cc-TRACE-SPAN-01-what-the-future")], "TRACE SPAN 1");
        check(&[("traceparent", "cc-TRACE-SPAN-01")], "TRACE SPAN 1");
        for wrong in [
            "",
            "00",
            "ff-TRACE-SPAN-01",
            "00-TRACE-SPAN-01-more",
            "00-TRACE-SPAN",
            "00-TRACE-SPAN-1",
            "00-TRACE-SPAN-0g",
            "0-TRACE-SPAN-01",
            "00-0AF7651916CD43DD8448EB211C80319C-SPAN-01",
            "00-00000000000000000000000000000000-SPAN-01",
            "00-TRACE-0000000000000000-01",
            "00-TRACE-SPANb-01",
            "00_TRACE_SPAN_01",
            "00-+af7651916cd43dd8448eb211c80319c-SPAN-01",
        ] {
            check(&[("traceparent", wrong)], "");
        }
    }

    #[test]
    fn b3_in_one_header_and_in_several() {
        check(&[("b3", "TRACE-SPAN-1")], "TRACE SPAN 1");
        check(&[("b3", "TRACE-SPAN-d-SPAN")], "TRACE SPAN 1");
        check(&[("b3", "TRACE-SPAN")], "TRACE SPAN 0");
        check(&[("b3", "8448eb211c80319c-SPAN-0")], "00000000000000008448eb211c80319c SPAN 0");
        for wrong in ["0", "1", "", "TRACE-SPAN-x", "TRACE-SPAN-1-5", "TRACE-SPAN-1-SPAN-1", "TRACE", "12-SPAN-1"] {
            check(&[("b3", wrong)], "");
        }
        let ids = [("X-B3-TraceId", "TRACE"), ("X-B3-SpanId", "SPAN")];
        let with = |more: &[(&'static str, &'static str)]| [&ids[..], more].concat();
        check(&with(&[("x-b3-sampled", "1")]), "TRACE SPAN 1");
        check(&with(&[("x-b3-sampled", "true")]), "TRACE SPAN 1");
        check(&with(&[("x-b3-flags", "1")]), "TRACE SPAN 1");
        check(&with(&[]), "TRACE SPAN 0");
        check(&with(&[("x-b3-sampled", "maybe")]), "");
        check(&[("x-b3-traceid", "TRACE")], "");
    }

    #[test]
    fn jaeger_header() {
        check(&[("uber-trace-id", "TRACE:SPAN:0:1")], "TRACE SPAN 1");
        check(&[("uber-trace-id", "TRACE%3ASPAN%3a0%3A3")], "TRACE SPAN 1");
        check(&[("uber-trace-id", "ab:cd:0:0")], "000000000000000000000000000000ab 00000000000000cd 0");
        for wrong in
            ["", "TRACE:SPAN:0", "TRACE:SPAN:0:1:1", "TRACE:SPAN:0:x", "0:SPAN:0:1", "TRACE:SPAN:0:", "%:%:%:%"]
        {
            check(&[("uber-trace-id", wrong)], "");
        }
    }

    #[test]
    fn the_first_form_that_is_understood_counts() {
        let jaeger = ("uber-trace-id", "ab:cd:0:1");
        check(&[jaeger, ("traceparent", "00-TRACE-SPAN-00")], "TRACE SPAN 0");
        check(&[jaeger, ("traceparent", "00-TRACE-SPAN-0")], "000000000000000000000000000000ab 00000000000000cd 1");
        check(&[jaeger, ("b3", "TRACE-SPAN-0")], "TRACE SPAN 0");
        check(&[("traceparent", "00-TRACE-SPAN-00"), ("traceparent", "00-TRACE-cd-01")], "TRACE SPAN 0");
    }

    #[test]
    fn what_forces_a_recording() {
        let forced = |name: &str, value: &str| read(&[(name, value)]).is_forced;
        assert!(forced("X-Thanos-Force-Tracing", "1") && forced("x-thanos-force-tracing", "anything"));
        assert!(forced("baggage", "a=b, X-Thanos-Force-Tracing = true;p=1"));
        // A querier with tracing sends the name without a value all the time.
        for value in ["", "x-thanos-force-tracing=", "a=x-thanos-force-tracing", "x-thanos-force-tracing"] {
            assert!(!forced("baggage", value), "{value}");
        }
        assert!(!forced("x-thanos-force-tracing", " "));
    }

    #[test]
    fn state_and_baggage_are_passed_on_within_bounds() {
        let parent = format!("00-{TRACE}-{SPAN}-01");
        let passed = |headers: &[(&str, &str)]| -> Vec<(String, String)> {
            let headers = [&[("traceparent", parent.as_str())][..], headers].concat();
            inject(&read(&headers).continued(), Propagators::default()).split_off(1)
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(passed(&[]), []);
        assert_eq!(passed(&[("tracestate", "a=1"), ("tracestate", "b=2")]), [pair("tracestate", "a=1,b=2")]);
        assert_eq!(passed(&[("baggage", "k=v")]), [pair("baggage", "k=v")]);
        assert_eq!(passed(&[("tracestate", &"x".repeat(1025)), ("tracestate", "a=1")]), []);
        assert_eq!(passed(&[("tracestate", &"x".repeat(1024))]).len(), 1);
        assert_eq!(passed(&[("baggage", &"é".repeat(5000)), ("baggage", "k=v")]), []);
        assert_eq!(passed(&[("baggage", "k=é"), ("tracestate", "a\r\nb: c")]), []);
        let without_parent = read(&[("tracestate", "a=1")]).continued();
        assert!(without_parent.state.is_none());
    }

    #[test]
    fn what_prometheus_is_told() {
        let context =
            TraceContext { is_sampled: true, ..read(&[("b3", &format!("{TRACE}-{SPAN}-0"))]).parent.unwrap() };
        let told = |names: &str| -> String {
            let headers = inject(&context, Propagators::parse(names).unwrap());
            headers.into_iter().map(|(name, value)| format!("{name}: {value}\n")).collect()
        };
        assert_eq!(told("tracecontext"), format!("traceparent: 00-{TRACE}-{SPAN}-01\n"));
        assert_eq!(told("b3 , jaeger"), format!("b3: {TRACE}-{SPAN}-1\nuber-trace-id: {TRACE}:{SPAN}:0:1\n"));
        assert_eq!(told("b3multi,baggage"), format!("x-b3-traceid: {TRACE}\nx-b3-spanid: {SPAN}\nx-b3-sampled: 1\n"));
        assert_eq!(told("none"), "");
        assert!(Propagators::parse("tracecontext,xray").unwrap_err().contains("there are tracecontext"));
    }

    #[test]
    fn what_is_told_is_understood() {
        let context = read(&[("b3", &format!("{TRACE}-{SPAN}-1"))]).parent.unwrap();
        for names in ["tracecontext", "b3", "b3multi", "jaeger"] {
            let headers = inject(&context, Propagators::parse(names).unwrap());
            let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(shown(&headers), format!("{TRACE} {SPAN} 1"), "{names}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let names = ["traceparent", "tracestate", "baggage", "b3", "x-b3-traceid", "x-b3-spanid", "uber-trace-id"];
        let texts =
            [format!("00-{TRACE}-{SPAN}-01"), format!("{TRACE}:{SPAN}:0:1"), format!("{TRACE}-{SPAN}-1-{SPAN}")];
        for name in names {
            for text in &texts {
                for idx in 0..text.len() {
                    for byte in *b"-:0f\xff\x00%," {
                        let mut bytes = text.clone().into_bytes();
                        bytes[idx] = byte;
                        let incoming = extract([(name, bytes.as_slice())]);
                        let cut = extract([(name, &bytes[..idx])]);
                        assert!(!incoming.is_forced && !cut.is_forced);
                    }
                }
            }
        }
    }
}
