//! Generates the protobuf code from proto/: pure Rust, no protoc, no network.

fn main() {
    let dir = "../../proto";
    println!("cargo:rerun-if-changed={dir}");
    let mut protos: Vec<_> = std::fs::read_dir(dir)
        .expect("the proto folder is part of the tree")
        .map(|entry| entry.expect("the proto folder is readable").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "proto"))
        .collect();
    protos.sort();
    protobuf_codegen::Codegen::new().pure().includes([dir]).inputs(&protos).cargo_out_dir("protos").run_from_script();
}
