//! Generates the tables of server reflection from proto/ (pure Rust, no protoc, no network), and the version strings.

use std::path::{Path, PathBuf};
use std::process::Command;

use protobuf::Message;
use protobuf::descriptor::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto};

fn main() {
    let mut protos: Vec<_> = std::fs::read_dir("proto")
        .expect("the proto folder is part of the tree")
        .map(|entry| entry.expect("the proto folder is readable").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "proto"))
        .collect();
    protos.sort();
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    std::fs::write(out.join("reflection.rs"), reflection(&protos)).expect("OUT_DIR can be written");

    link_static_libstdcxx(&out);
    if knows_relative_relocations() {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
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

/// The tables that src/grpc/reflection.rs answers from. They are made here because the library's own descriptors at run
/// time would add 2 MB of code to the program.
fn reflection(protos: &[PathBuf]) -> String {
    let parsed = protobuf_parse::Parser::new().pure().include("proto").inputs(protos).parse_and_typecheck();
    let mut files = parsed.expect("proto/ is part of the tree and tested").file_descriptors;
    let is_used = used_by_services(&files);
    files.retain(|file| is_used.iter().any(|name| name == file.name()));

    let mut tables = String::from("static FILES: &[File] = &[\n");
    let mut symbols = Vec::new();
    let mut services = Vec::new();
    for (file_idx, file) in files.iter().enumerate() {
        let imports = file.dependency.iter().map(|name| files.iter().position(|other| other.name() == name));
        let imports: Vec<usize> = imports.map(|idx| idx.expect("imports are parsed too")).collect();
        let bytes = file.write_to_bytes().expect("writing to memory cannot fail");
        tables += &format!("File {{ name: {:?}, imports: &{imports:?}, bytes: &{bytes:?} }},\n", file.name());
        let mut add = |name: String, is_message: bool| symbols.push((name, file_idx, is_message));
        enums(file.package(), &file.enum_type, &mut add);
        messages(file.package(), &file.message_type, &mut add);
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            service.method.iter().for_each(|method| add(format!("{name}.{}", method.name()), false));
            add(name.clone(), false);
            services.push(name);
        }
    }
    symbols.sort();
    services.sort();
    tables.push_str("];\nstatic SYMBOLS: &[Symbol] = &[\n");
    for (name, file_idx, is_message) in symbols {
        tables += &format!("Symbol {{ name: {name:?}, file_idx: {file_idx}, is_message: {is_message} }},\n");
    }
    tables += &format!("];\nstatic SERVICES: &[&str] = &{services:?};\n");
    tables
}

/// The files that declare a service and all they import.
fn used_by_services(files: &[FileDescriptorProto]) -> Vec<String> {
    let declaring = files.iter().filter(|file| !file.service.is_empty());
    let mut used: Vec<String> = declaring.map(|file| file.name().to_owned()).collect();
    let mut idx = 0;
    while idx < used.len() {
        let file = files.iter().find(|file| file.name() == used[idx]).expect("imports are parsed too");
        for name in &file.dependency {
            if !used.contains(name) {
                used.push(name.clone());
            }
        }
        idx += 1;
    }
    used
}

fn messages(scope: &str, all: &[DescriptorProto], add: &mut impl FnMut(String, bool)) {
    for message in all {
        let name = format!("{scope}.{}", message.name());
        message.field.iter().for_each(|field| add(format!("{name}.{}", field.name()), false));
        message.oneof_decl.iter().for_each(|oneof| add(format!("{name}.{}", oneof.name()), false));
        enums(&name, &message.enum_type, add);
        messages(&name, &message.nested_type, add);
        add(name, true);
    }
}

/// The values of an enum stand beside it, not in it.
fn enums(scope: &str, all: &[EnumDescriptorProto], add: &mut impl FnMut(String, bool)) {
    for one in all {
        one.value.iter().for_each(|value| add(format!("{scope}.{}", value.name()), false));
        add(format!("{scope}.{}", one.name()), false);
    }
}

/// Takes the C++ library of gRPC's core into the program: the few functions that it uses are a megabyte less of resident
/// memory than the shared library. The linker takes it from the first folder that has one, so it gets a folder with
/// nothing else. Without a static one the shared one is linked.
fn link_static_libstdcxx(out: &Path) {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    let found = output(&compiler, &["-print-file-name=libstdc++.a"]).map(PathBuf::from);
    let Some(library) = found.filter(|path| path.is_absolute() && path.exists()) else { return };
    let dir = out.join("libstdc++");
    let link = dir.join("libstdc++.a");
    let _ = std::fs::remove_file(&link);
    if std::fs::create_dir_all(&dir).and_then(|()| std::os::unix::fs::symlink(library, link)).is_ok() {
        println!("cargo:rustc-link-search=native={}", dir.display());
    }
}

/// Whether the C library that is linked against, and thus any that the program will start with, reads relocations in
/// their short form, which makes the program a quarter of a megabyte smaller: glibc 2.36 and newer.
fn knows_relative_relocations() -> bool {
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    if var("CARGO_CFG_TARGET_ENV") != "gnu" || var("HOST") != var("TARGET") {
        return false;
    }
    let version = output("getconf", &["GNU_LIBC_VERSION"]).unwrap_or_default();
    let mut numbers = version.trim_start_matches("glibc ").split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(2), Some(36))
}

/// The trimmed standard output of a command that succeeded and said something.
fn output(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).output().ok().filter(|out| out.status.success())?;
    Some(String::from_utf8(out.stdout).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
}
