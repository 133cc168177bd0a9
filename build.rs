//! Generates the protobuf code from proto/ (pure Rust, no protoc, no network) and the version strings.

use std::path::Path;
use std::process::Command;

fn main() {
    let mut protos: Vec<_> = std::fs::read_dir("proto")
        .expect("the proto folder is part of the tree")
        .map(|entry| entry.expect("the proto folder is readable").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "proto"))
        .collect();
    protos.sort();
    println!("cargo:rerun-if-changed=proto");
    protobuf_codegen::Codegen::new()
        .pure()
        .includes(["proto"])
        .inputs(&protos)
        .cargo_out_dir("protos")
        .run_from_script();

    // `strip` of the profile does not reach a package whose optimisation is set apart.
    println!("cargo:rustc-link-arg-bins=-Wl,-s");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    println!("cargo:rustc-env=PILLION_RUSTC={}", output(&rustc, &["--version"]).unwrap_or_else(|| "rustc".into()));
    println!("cargo:rerun-if-env-changed=PILLION_REVISION");
    for file in [".git/HEAD", ".git/logs/HEAD"] {
        if Path::new(file).exists() {
            println!("cargo:rerun-if-changed={file}");
        }
    }
    let revision = std::env::var("PILLION_REVISION")
        .ok()
        .or_else(|| output("git", &["rev-parse", "--short=12", "HEAD"]))
        .unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=PILLION_REVISION={revision}");
}

/// The trimmed standard output of a command that succeeded and said something.
fn output(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).output().ok().filter(|out| out.status.success())?;
    Some(String::from_utf8(out.stdout).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
}
