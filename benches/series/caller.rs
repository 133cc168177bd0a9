//! The role of queriers that ask for little and often: how long each call takes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_executor::block_on;
use futures_util::StreamExt;
use grpcio::{CallOption, ChannelBuilder, Client, Environment};
use pillion_proto::thanos_store::SeriesRequest;

use crate::drain::{SERIES, matcher, read_request};
use crate::role::{say, spawn};

/// A call that takes longer has failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// `caller ADDRESS POD N_EACH N_CLIENTS N_MESSAGES`: Series calls, one after the other over each of the connections.
pub fn run(args: &[&str]) {
    let [address, pod, n_each, n_clients, n_messages] = args else { panic!("{args:?}") };
    let request = SeriesRequest {
        max_time: i64::MAX,
        matchers: vec![matcher("pod", pod)],
        response_batch_size: 64,
        ..Default::default()
    };
    let n_messages: usize = n_messages.parse().unwrap();
    let address = (*address).to_owned();
    all(n_each, n_clients, move || {
        let env = Arc::new(Environment::new(1));
        let channel = ChannelBuilder::new(env).enable_http_proxy(false).connect(&address);
        let (client, request) = (Client::new(channel), request.clone());
        move || {
            let options = CallOption::default().timeout(CALL_TIMEOUT).wait_for_ready(true);
            let mut messages = client.server_streaming(&SERIES, &request, options).map_err(|err| err.to_string())?;
            let mut n_seen = 0;
            while let Some(message) = block_on(messages.next()) {
                message.map_err(|err| err.to_string().replace('\n', " "))?;
                n_seen += 1;
            }
            if n_seen == n_messages { Ok(()) } else { Err(format!("{n_seen} messages, expected {n_messages}")) }
        }
    });
}

/// `caller-direct ADDRESS POD N_EACH N_CLIENTS`: remote reads, over connections that stay.
pub fn run_direct(args: &[&str]) {
    let [address, pod, n_each, n_clients] = args else { panic!("{args:?}") };
    let request = read_request(address, ("pod", pod), "keep-alive");
    let address = (*address).to_owned();
    all(n_each, n_clients, move || {
        let stream = TcpStream::connect(&address).unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut reader, request) = (BufReader::new(stream), request.clone());
        move || {
            reader.get_mut().write_all(&request).map_err(|err| err.to_string())?;
            answer(&mut reader)
        }
    });
}

/// Reads an answer to its end.
fn answer(reader: &mut BufReader<TcpStream>) -> Result<(), String> {
    let line = |reader: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        reader.read_line(&mut line).map(|_| line.trim_end().to_ascii_lowercase()).map_err(|err| err.to_string())
    };
    let status = line(reader)?;
    if !status.contains(" 200 ") {
        return Err(status);
    }
    let mut length = None;
    loop {
        let head = line(reader)?;
        if head.is_empty() {
            break;
        }
        if let Some(value) = head.strip_prefix("content-length:") {
            length = value.trim().parse::<usize>().ok();
        }
    }
    let skip =
        |reader: &mut BufReader<TcpStream>, n: usize| reader.read_exact(&mut vec![0; n]).map_err(|err| err.to_string());
    if let Some(length) = length {
        return skip(reader, length);
    }
    loop {
        let n = usize::from_str_radix(&line(reader)?, 16).map_err(|err| err.to_string())?;
        skip(reader, n + 2)?;
        if n == 0 {
            return Ok(());
        }
    }
}

/// Calls from all clients at once; says the median and the 99th of 100 in microseconds, and an error if there was one.
fn all<C>(n_each: &str, n_clients: &str, connect: impl Fn() -> C)
where
    C: FnMut() -> Result<(), String> + Send + 'static,
{
    let (n_each, n_clients): (usize, usize) = (n_each.parse().unwrap(), n_clients.parse().unwrap());
    let (done, results) = crossbeam_channel::bounded(n_clients);
    for _ in 0..n_clients {
        let (mut call, done) = (connect(), done.clone());
        spawn(move || {
            // The connection is there before the clock starts.
            let mut error = call().err();
            let mut micros = Vec::with_capacity(n_each);
            while error.is_none() && micros.len() < n_each {
                let begun = Instant::now();
                error = call().err();
                micros.push(begun.elapsed().as_micros());
            }
            let _ = done.send((micros, error));
        });
    }
    drop(done);
    let (mut micros, mut error) = (Vec::new(), String::new());
    for (of_one, why) in results {
        micros.extend(of_one);
        error = why.unwrap_or(error);
    }
    micros.sort_unstable();
    let part = |hundredths: usize| micros.get(micros.len() * hundredths / 100).copied().unwrap_or_default();
    say(&format!("{} {} {error}", part(50), part(99)));
}
