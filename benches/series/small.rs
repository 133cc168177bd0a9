//! The calls that dashboards and rules ask all day: a series with a chunk, or nothing, behind the newest real Prometheus.

use crate::measure::{Before, settle};
use crate::options::Options;
use crate::real;
use crate::report::Calls;
use crate::role::Role;
use crate::subject::{Running, Subject};
use crate::support::prometheus::releases;

/// Series of the Prometheus; a call finds one of them, or none.
const N_SERIES: usize = 1000;
/// Calls of a measurement at full size, over all clients.
const N_CALLS: usize = 1000;

#[derive(Clone, Copy)]
struct Setting {
    words: &'static str,
    n_clients: usize,
    /// Which pod is asked for.
    pod: &'static str,
    /// Messages of an answer.
    n_messages: usize,
}

const ONE: &str = "shop-7f8b-0000500";
const NONE: &str = "nobody";
const SETTINGS: [Setting; 4] = [
    Setting { words: "small 1x1, in a row", n_clients: 1, pod: ONE, n_messages: 1 },
    Setting { words: "small 1x1, 8 clients", n_clients: 8, pod: ONE, n_messages: 1 },
    Setting { words: "small nothing found, in a row", n_clients: 1, pod: NONE, n_messages: 0 },
    Setting { words: "small nothing found, 8 clients", n_clients: 8, pod: NONE, n_messages: 0 },
];

pub fn run(options: &Options) -> Vec<Calls> {
    let wanted: Vec<Setting> = SETTINGS.into_iter().filter(|setting| options.wants(setting.words)).collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    let newest = releases().pop().expect("there is a release");
    let prometheus = real::prometheus(&newest, N_SERIES);
    let url = prometheus.url();
    let mut rows = Vec::new();
    for setting in wanted {
        for subject in [Subject::Direct].into_iter().chain(Subject::sidecars(options)) {
            let row = measure(subject, setting, &url, options);
            println!("{}", row.line());
            rows.push(row);
        }
    }
    rows
}

fn measure(subject: Subject, setting: Setting, url: &str, options: &Options) -> Calls {
    let n_each = options.scaled(N_CALLS, 100).div_ceil(setting.n_clients);
    let (clients, messages) = (setting.n_clients.to_string(), setting.n_messages.to_string());
    let sidecar = (subject != Subject::Direct).then(|| Running::start(subject, url, options));
    let call = |n_each: usize| {
        let n_each = n_each.to_string();
        match &sidecar {
            None => {
                let address = url.trim_start_matches("http://");
                Role::run(&["caller-direct", address, setting.pod, &n_each, &clients])
            }
            Some(sidecar) => Role::run(&["caller", &sidecar.grpc(), setting.pod, &n_each, &clients, &messages]),
        }
    };
    // Threads and caches of both sides are there when it counts.
    call(n_each.div_ceil(5));
    let before = sidecar.as_ref().map(|sidecar| Before::of(sidecar.pid()));
    let said = call(n_each);
    let mut words = said.splitn(3, ' ');
    let mut number = || words.next().and_then(|word| word.parse::<f64>().ok()).unwrap_or_default();
    let (p50_us, p99_us) = (number(), number());
    let mut row = Calls {
        subject,
        setting: setting.words.into(),
        n_calls: n_each * setting.n_clients,
        p50_ms: p50_us / 1e3,
        p99_ms: p99_us / 1e3,
        cpu_ms_per_call: 0.0,
        error: words.next().unwrap_or_default().into(),
    };
    if row.p50_ms == 0.0 && row.error.is_empty() {
        row.error = format!("no answer: {said:?}");
    }
    if let (Some(before), Some(sidecar)) = (before, &sidecar) {
        settle(sidecar.pid());
        row.cpu_ms_per_call = before.used().cpu_seconds * 1e3 / row.n_calls as f64;
        if !row.error.is_empty() {
            row.error.push_str(&format!("; its log ends in: {}", sidecar.log_tail()));
        }
    }
    row
}
