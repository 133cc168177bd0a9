//! Headers that say to which trace a call belongs: whatever they are, a tracer goes on with a whole id, and what it passes on
//! is a header again that says the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_base::content::Content;
use pillion_base::stop::Stop;
use pillion_fuzz::Dice;
use pillion_trace::propagate::extract;
use pillion_trace::{Config, Exporter, Refusal, TraceMetrics, Tracer, tracer};
use prometheus::IntCounter;

const NAMES: [&str; 9] = [
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-sampled",
    "uber-trace-id",
    "x-thanos-force-tracing",
];

struct Nowhere;

impl Exporter for Nowhere {
    fn send(&mut self, _: &[u8], _: std::time::Duration, _: Option<&Stop>) -> Result<Vec<u8>, Refusal> {
        Ok(Vec::new())
    }
}

thread_local! {
    static TRACER: Tracer = {
        let text = "{type: OTLP, config: {client_type: http, sampler_type: parentbasedneversample}}".to_owned();
        let all = |name: &str| (name == "OTEL_PROPAGATORS").then(|| "tracecontext,baggage,b3,b3multi,jaeger".to_owned());
        let config = Config::parse(&Content { origin: "fuzz".into(), text }, &all).expect("it is right");
        let counter = || IntCounter::new("n", "n").expect("a name");
        tracer(&config, Box::new(Nowhere), TraceMetrics { exported: counter(), dropped: counter(), failed: counter() }).0
    };
}

fuzz_target!(|data: &[u8]| {
    let mut dice = Dice(data);
    let mut headers = Vec::new();
    while !dice.0.is_empty() {
        let step = usize::from(dice.byte());
        headers.push((NAMES[step % NAMES.len()], dice.text(step)));
    }
    let incoming = extract(headers.iter().map(|(name, value)| (*name, value.as_bytes())));
    TRACER.with(|tracer| {
        let span = tracer.serve(&incoming, || "call".into());
        let (trace, is_sampled) = (span.context().trace_id_hex(), span.context().is_sampled());
        assert!(trace.len() == 32 && trace.bytes().any(|byte| byte != b'0'));
        let told = tracer.headers(span.context());
        for (name, value) in &told {
            assert!(value.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')), "{name}: {value:?}");
        }
        // Each form alone says the same.
        for form in ["traceparent", "b3", "x-b3-", "uber-trace-id"] {
            let own = told.iter().filter(|(name, _)| name.starts_with(form));
            let again = tracer.serve(&extract(own.map(|(name, value)| (name.as_str(), value.as_bytes()))), || "again".into());
            assert_eq!(again.context().trace_id_hex(), trace, "{form}");
            assert_eq!(again.context().is_sampled(), is_sampled, "{form}");
        }
    });
});
