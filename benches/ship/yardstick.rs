//! The yardstick: `curl -T` of the same files to the same server.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::report::Row;
use crate::support::rgw::Bucket;

/// Uploads the files with as many processes as there are connections, each its share one after another.
pub fn curl(row: Row, bucket: &Bucket, files: &[PathBuf]) -> Row {
    let n = row.setting.n_connections;
    let (begun, cpu_before) = (Instant::now(), cpu_of_children());
    let children: Vec<Child> = (0..n).map(|idx| start(bucket, files.iter().skip(idx).step_by(n))).collect();
    for mut child in children {
        let status = child.wait().unwrap();
        assert!(status.success(), "curl: {status}");
    }
    let wall_seconds = begun.elapsed().as_secs_f64();
    let cpu_seconds = cpu_of_children() - cpu_before;
    let n_bytes = files.iter().map(|file| file.metadata().unwrap().len()).sum();
    let listed = bucket.list("curl/");
    assert_eq!((listed.len(), listed.values().sum::<u64>()), (files.len(), n_bytes));
    Row { n_bytes, wall_seconds, cpu_seconds, ..row }
}

fn start<'a>(bucket: &Bucket, files: impl Iterator<Item = &'a PathBuf>) -> Child {
    let mut command = Command::new("curl");
    // Older releases of curl do not send this header by themselves, and the server insists on it. It says what Pillion's
    // signed URLs say too: the content is not part of the signature.
    command.args(["--silent", "--show-error", "--fail", "--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]);
    command.args(["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &bucket.user()]);
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        command.arg("--upload-file").arg(file).arg(bucket.url(&format!("curl/{name}")).as_str());
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

/// Time of the processes that were started here and have ended, in steps of the kernel's clock tick.
fn cpu_of_children() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks = |idx: usize| fields[idx].parse::<u64>().unwrap();
    (ticks(13) + ticks(14)) as f64 / rustix::param::clock_ticks_per_second() as f64
}
