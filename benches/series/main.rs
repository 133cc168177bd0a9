//! What StoreAPI calls cost, measured from outside: the real binary beside a Prometheus, and clients in processes of their
//! own. Prints tables, ratios and the aims, and writes all of it as JSON.
//!
//! Four groups, each in a file with its name: `streams` (large answers, from a process that replays them from memory),
//! `real` (large answers behind each real Prometheus release), `small` (the calls that dashboards ask all day), and `names`
//! (label values, and label-only calls one after the other). In the same run stand yardsticks: a relay that copies the bytes
//! (the floor), reading Prometheus without anybody between, the way that decodes, sorts and encodes everything, and the real
//! Thanos where `BENCH_THANOS=path` names its program. Every measurement has a fresh process, and nothing else runs meanwhile.
//!
//! `BENCH_SCALE=0.01` makes the workloads smaller; below a tenth, CPU time is too coarse to compare. `BENCH_ONLY=text`
//! measures what contains the text, as the table prints it (`streams`, `real`, `small` and `names` choose a group);
//! `BENCH_SKIP=text` leaves out. `BENCH_REPLAY=whole` has bodies written at once, and not series by series as Prometheus does.
//! `BENCH_JSON=path` says where the JSON goes.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::float_cmp
)]

mod aims;
mod caller;
mod drain;
mod generator;
mod measure;
mod names;
mod options;
mod real;
mod report;
mod role;
mod small;
mod streams;
mod subject;
#[allow(dead_code, clippy::print_stderr)]
#[path = "../../tests/support/mod.rs"]
mod support;
mod workload;
mod yardsticks;

use options::Options;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["generator", args @ ..] => generator::run(args),
        ["drain", args @ ..] => drain::run(args),
        ["drain-values", args @ ..] => drain::run_values(args),
        ["drain-raw", args @ ..] => drain::run_raw(args),
        ["caller", args @ ..] => caller::run(args),
        ["caller-direct", args @ ..] => caller::run_direct(args),
        ["relay", args @ ..] => yardsticks::relay(args),
        ["buffered", args @ ..] => yardsticks::buffered(args),
        // cargo adds `--bench`.
        _ => run(),
    }
}

fn run() {
    let options = Options::read();
    println!("{}", report::header());
    let mut rows = streams::run(&options);
    rows.extend(real::run(&options));
    rows.extend(names::run(&options));
    println!("\n{}", report::calls_header());
    let calls = small::run(&options);

    println!();
    for ratio in report::ratios(&rows, &calls) {
        println!("{ratio}");
    }
    println!();
    let aims = aims::aims(&rows, &calls);
    for aim in &aims {
        println!("{}", aim.line());
    }
    let json = serde_json::json!({"scale": options.scale, "rows": rows, "calls": calls, "aims": aims});
    if let Some(dir) = options.json.parent() {
        std::fs::create_dir_all(dir).unwrap();
    }
    std::fs::write(&options.json, serde_json::to_string_pretty(&json).unwrap()).unwrap();
    println!("\nwritten to {}", options.json.display());
}
