//! Connections that are kept: how many a server sees, which are used again, and what cutting one cuts.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use pillion_http::client::{self, Access, Line, Lines, OwnLine};

use crate::gathering::read_head;

/// What a server does with the request of this number on the connection of this number.
type Answer = dyn Fn(usize, usize, &mut TcpStream) -> bool + Send + Sync;

struct Server {
    url: String,
    /// One message for each connection.
    accepted: Receiver<()>,
    /// One message when the client has closed a connection, or cut it.
    ended: Receiver<()>,
}

#[allow(clippy::disallowed_methods)]
fn spawn(body: impl FnOnce() + Send + 'static) {
    std::thread::spawn(body);
}

fn serve(answer: impl Fn(usize, usize, &mut TcpStream) -> bool + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (accept, accepted) = channel();
    let (end, ended) = channel();
    let answer: Arc<Answer> = Arc::new(answer);
    spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            accept.send(()).unwrap();
            let (answer, end, stream) = (Arc::clone(&answer), end.clone(), stream.unwrap());
            spawn(move || converse(number, stream, &*answer, &end));
        }
    });
    Server { url, accepted, ended }
}

fn converse(number: usize, mut stream: TcpStream, answer: &Answer, end: &Sender<()>) {
    let mut first = [0];
    for request in 0.. {
        // The first byte of the next request, or the end.
        if stream.peek(&mut first).unwrap_or(0) == 0 {
            let _ = end.send(());
            return;
        }
        read_head(&mut stream);
        if !answer(number, request, &mut stream) {
            return;
        }
    }
}

fn hello(stream: &mut TcpStream) -> bool {
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    true
}

fn ask(line: &Line, url: &str) -> Result<String, String> {
    let response = line.exchange(|agent| agent.get(url).call()).map_err(|err| err.to_string())?;
    let mut text = String::new();
    response.into_body().into_reader().read_to_string(&mut text).map_err(|err| err.to_string())?;
    Ok(text)
}

fn lines() -> Lines {
    Lines::new(client::USER_AGENT, Access::default())
}

#[test]
fn calls_one_after_the_other_share_a_connection() {
    let server = serve(|_, _, stream| hello(stream));
    let lines = lines();
    for _ in 0..1300 {
        assert_eq!(ask(lines.take().line(), &server.url).unwrap(), "hello");
    }
    assert_eq!(server.accepted.try_iter().count(), 1);
}

#[test]
fn an_answer_that_was_not_read_to_its_end_takes_its_connection_along() {
    let server = serve(|_, _, stream| hello(stream));
    let lines = lines();
    {
        let own = lines.take();
        let response = own.line().exchange(|agent| agent.get(&server.url).call()).unwrap();
        let mut part = [0; 2];
        response.into_body().into_reader().read_exact(&mut part).unwrap();
    }
    assert_eq!(ask(lines.take().line(), &server.url).unwrap(), "hello");
    assert_eq!(server.accepted.try_iter().count(), 2);
}

#[test]
fn a_connection_that_was_closed_meanwhile_is_not_noticed() {
    // The second request on each connection is read and not answered, as by a server that was about to close.
    let server = serve(|_, request, stream| request == 0 && hello(stream));
    let lines = lines();
    for n_calls in 1..=20 {
        assert_eq!(ask(lines.take().line(), &server.url).unwrap(), "hello");
        assert_eq!(server.accepted.try_iter().count(), 1, "call {n_calls}");
    }
}

#[test]
fn a_new_connection_that_is_closed_is_an_error_and_not_asked_twice() {
    let server = serve(|_, _, _| false);
    ask(lines().take().line(), &server.url).unwrap_err();
    assert_eq!(server.accepted.try_iter().count(), 1);
}

#[test]
fn a_cut_ends_this_exchange_and_no_later_one() {
    let (asked, wait) = channel();
    // The first connection's second request gets no answer.
    let server = serve(move |number, request, stream| {
        if (number, request) == (0, 1) {
            asked.send(()).unwrap();
            return true;
        }
        hello(stream)
    });
    let lines = lines();
    let own = lines.take();
    assert_eq!(ask(own.line(), &server.url).unwrap(), "hello");
    let late_cutter = own.cutter();
    drop(own);
    let own = lines.take();
    // Of a call that is over: it must not touch its successor on the same connection.
    late_cutter();
    let cutter = own.cutter();
    let url = server.url.clone();
    let (say, said) = channel();
    spawn(move || say.send(ask(own.line(), &url)).unwrap());
    wait.recv().unwrap();
    cutter();
    said.recv().unwrap().unwrap_err();
    server.ended.recv().unwrap();
    assert_eq!(ask(lines.take().line(), &server.url).unwrap(), "hello");
    assert_eq!(server.accepted.try_iter().count(), 2);
}

#[test]
fn only_so_many_connections_are_kept() {
    let server = serve(|_, _, stream| hello(stream));
    let lines = lines();
    let own: Vec<OwnLine> = (0..40).map(|_| lines.take()).collect();
    for own in &own {
        assert_eq!(ask(own.line(), &server.url).unwrap(), "hello");
    }
    drop(own);
    for _ in 0..40 - 16 {
        server.ended.recv().unwrap();
    }
    let again: Vec<OwnLine> = (0..16).map(|_| lines.take()).collect();
    for own in &again {
        assert_eq!(ask(own.line(), &server.url).unwrap(), "hello");
    }
    assert_eq!(server.accepted.try_iter().count(), 40);
}
