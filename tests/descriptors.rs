//! Listeners when the process has no descriptor left. One test: the limit belongs to the whole process.

// A failed step of a helper fails the test that called it.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use pillion::inside::Metrics;
use pillion::inside::process_stat;
use pillion::inside::{Connections, Front};
use pillion_base::stop::stop_pair;
use pillion_base::threads::spawn_thread;
use pillion_http::server::{Response, Server};
use rustix::net::{AddressFamily, SocketType, connect, socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const ASK: &[u8] = b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n";

fn unconnected() -> TcpStream {
    TcpStream::from(socket(AddressFamily::INET, SocketType::STREAM, None).unwrap())
}

/// Connects a socket that exists already, which takes no further descriptor on this side.
fn dial(stream: &TcpStream, address: SocketAddr) {
    connect(stream, &address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
}

#[test]
fn exhausted_descriptors_neither_burn_cpu_nor_end_the_service() {
    let (stopper, stop) = stop_pair().unwrap();
    let admin = Server::bind(&"127.0.0.1:0".parse().unwrap(), "--http-address").unwrap();
    let connections = Connections::new(1024, Metrics::new().grpc.front).unwrap();
    let front = Front::bind(&"127.0.0.1:0".parse().unwrap(), connections).unwrap();
    let (http, grpc) = (admin.local_addr().unwrap(), front.local_addr().unwrap());
    let on_admin = stop.clone();
    let on_front = stop.clone();
    let admin = spawn_thread("admin", None, move || admin.run(&on_admin, &|head| Response::text(&head.path))).unwrap();
    let front = spawn_thread("front", None, move || front.run(&on_front, |_, _| Ok(()))).unwrap();

    let mut idle = unconnected();
    dial(&idle, http);
    idle.write_all(ASK).unwrap();
    let mut answer = [0; 512];
    assert!(idle.read(&mut answer).unwrap() > 0);
    let (mut scraper, mut caller) = (unconnected(), unconnected());
    let before = process_stat().unwrap();

    // Descriptors are numbered without gaps here, so the limit leaves none free.
    let limit = getrlimit(Resource::Nofile);
    let fds = std::fs::read_dir("/proc/self/fd").unwrap();
    let highest = fds.map(|fd| fd.unwrap().file_name().to_str().unwrap().parse::<u64>().unwrap()).max().unwrap();
    let mut fill = Vec::new();
    setrlimit(Resource::Nofile, Rlimit { current: Some(highest + 1), maximum: limit.maximum }).unwrap();
    while let Ok(fd) = stop.fd().try_clone_to_owned() {
        fill.push(fd);
    }
    let begun = Instant::now();
    dial(&caller, grpc);
    dial(&scraper, http);
    scraper.write_all(ASK).unwrap();
    // The idle client gives its descriptor to the scraper, although the gRPC client waits too: it may get it first,
    // and then the scraper is served once there are descriptors again.
    assert!(!stop.wait(Duration::from_millis(700)));
    setrlimit(Resource::Nofile, limit).unwrap();
    drop(fill);

    let n = scraper.read(&mut answer).unwrap();
    let text = String::from_utf8_lossy(&answer[..n]).into_owned();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("/page"), "{text}");
    assert_eq!(idle.read(&mut answer).unwrap(), 0, "the idle client must have made room");
    caller.write_all(b"not HTTP/2").unwrap();
    assert!(matches!(caller.read(&mut answer), Ok(0) | Err(_)));
    let cpu_seconds = process_stat().unwrap().cpu_seconds - before.cpu_seconds;
    let passed = begun.elapsed().as_secs_f64();
    assert!(cpu_seconds < passed / 4.0, "{cpu_seconds} s of CPU in {passed} s");
    stopper.stop();
    admin.join().unwrap().unwrap();
    front.join().unwrap().unwrap();
}
