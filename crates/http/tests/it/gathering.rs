//! Large answers in many small writes: few wake-ups, and no byte is waited for in vain.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use pillion_http::client::{self, Access, Line};

/// A server of one answer on one connection.
fn serve(answer: impl FnOnce(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    #[allow(clippy::disallowed_methods)]
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        answer(stream);
    });
    url
}

/// Reads a request without a body.
pub fn read_head(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1);
        head.push(byte[0]);
    }
    head
}

fn write_chunk(stream: &mut TcpStream, bytes: &[u8]) {
    let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    stream.write_all(&chunk).unwrap();
}

fn body(url: &str) -> impl Read + use<> {
    let line = Line::new(client::USER_AGENT, &Access::default(), None);
    line.exchange(|agent| agent.get(url).call()).unwrap().into_body().into_reader()
}

/// A server makes its answer while it writes it, and a reader overtakes it.
fn work() {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_micros(20) {
        std::hint::spin_loop();
    }
}

/// How often this thread has waited.
fn n_waits() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    line.trim().parse().unwrap()
}

/// How often a reader of many small writes waits.
fn n_waits_for(n_writes: usize) -> u64 {
    let url = serve(move |mut stream| {
        for _ in 0..n_writes {
            write_chunk(&mut stream, &[7; 200]);
            work();
        }
        write_chunk(&mut stream, b"");
    });
    let before = n_waits();
    let mut bytes = Vec::new();
    body(&url).read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, vec![7; n_writes * 200]);
    n_waits() - before
}

#[test]
fn many_small_writes_are_few_wake_ups() {
    const N_WRITES: usize = 20_000;
    // A server that is kept from its work pauses, and each pause ends the gathering; one time of several it is not.
    let mut waited = Vec::new();
    while waited.len() < 12 && waited.last().is_none_or(|n| *n >= N_WRITES as u64 / 20) {
        waited.push(n_waits_for(N_WRITES));
    }
    assert!(waited.last().is_some_and(|n| *n < N_WRITES as u64 / 20), "{waited:?} waits for {N_WRITES} writes");
}

/// The server says each byte only when the one before it was heard.
fn converse(mut stream: TcpStream, heard: &Receiver<()>, n: usize) {
    for number in 0..n {
        write_chunk(&mut stream, &[u8::try_from(number % 251).unwrap()]);
        heard.recv().unwrap();
    }
}

#[test]
fn a_single_byte_is_heard_although_reads_are_gathered() {
    const N: usize = 400;
    let (hear, heard) = channel();
    let url = serve(move |mut stream| {
        // Many at once: from here on reads are gathered.
        for _ in 0..2000 {
            write_chunk(&mut stream, &[250; 100]);
            work();
        }
        converse(stream.try_clone().unwrap(), &heard, N);
        write_chunk(&mut stream, b"");
    });
    let mut body = body(&url);
    let mut flood = vec![0; 200_000];
    body.read_exact(&mut flood).unwrap();
    for number in 0..N {
        let mut byte = [0];
        body.read_exact(&mut byte).unwrap();
        assert_eq!(usize::from(byte[0]), number % 251);
        hear.send(()).unwrap();
    }
    assert_eq!(body.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_connection_that_breaks_ends_the_wait() {
    let url = serve(|mut stream| {
        for _ in 0..2000 {
            write_chunk(&mut stream, &[1; 100]);
            work();
        }
    });
    let mut bytes = Vec::new();
    body(&url).read_to_end(&mut bytes).expect_err("the last chunk is missing");
    assert_eq!(bytes.len(), 200_000);
}
