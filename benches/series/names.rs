//! Calls without samples: very many values of a label, and series without chunks, call after call.

use crate::options::Options;
use crate::report::Row;
use crate::role::Role;
use crate::streams::{BATCH, finish, start_generator};
use crate::subject::{Running, Subject};
use crate::workload::REPEATED_LABELS;

/// Values of the label, at full size.
const N_VALUES: usize = 1_000_000;
/// Label-only calls after each other.
const N_REPEATED: usize = 6;

pub fn run(options: &Options) -> Vec<Row> {
    let mut rows = Vec::new();
    for subject in Subject::sidecars(options) {
        if options.wants(&values_row(subject, options).setting()) {
            rows.push(values(subject, options));
            println!("{}", rows[rows.len() - 1].line());
        }
        if options.wants(&repeated_row(subject, 0, options).setting()) {
            for row in repeated(subject, options) {
                println!("{}", row.line());
                rows.push(row);
            }
        }
    }
    rows
}

fn values_row(subject: Subject, options: &Options) -> Row {
    Row {
        subject,
        group: "names".into(),
        workload: format!("{N_VALUES} values"),
        n_series: options.scaled(N_VALUES, 2),
        n_external_labels: 1,
        ..Row::default()
    }
}

fn values(subject: Subject, options: &Options) -> Row {
    let row = values_row(subject, options);
    let mut generator = start_generator(options);
    generator.ask("labels 1");
    generator.ask(&format!("values {}", row.n_series));
    let sidecar = Running::start(subject, &format!("http://{}", generator.address), options);
    let n_expected = row.n_series.to_string();
    finish(row, &mut generator, sidecar.pid(), || Role::run(&["drain-values", &sidecar.grpc(), &n_expected]))
}

fn repeated_row(subject: Subject, n_before: usize, options: &Options) -> Row {
    Row {
        subject,
        group: "names".into(),
        workload: format!("repeated {}", REPEATED_LABELS.name),
        n_series: REPEATED_LABELS.scaled(options.scale).n_series,
        batch: BATCH,
        n_external_labels: 1,
        n_before,
        ..Row::default()
    }
}

/// All by the same process; the first and the last are the ones that are compared.
fn repeated(subject: Subject, options: &Options) -> Vec<Row> {
    let mut generator = start_generator(options);
    generator.ask("labels 1");
    generator.ask(&format!("load {}@{}", REPEATED_LABELS.name, options.scale));
    let sidecar = Running::start(subject, &format!("http://{}", generator.address), options);
    let batch = BATCH.to_string();
    let mut measure = |n_before| {
        let row = repeated_row(subject, n_before, options);
        let drain = || Role::run(&["drain", &sidecar.grpc(), &batch, "true", "1", "false"]);
        finish(row, &mut generator, sidecar.pid(), drain)
    };
    (0..N_REPEATED).map(&mut measure).collect()
}
