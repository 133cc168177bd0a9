//! For tests: an HTTP server on loopback whose answers are a function, and an environment to go with it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Env;
use pillion_base::threads::spawn_thread;

/// What was asked.
#[derive(Clone, Default)]
pub(crate) struct Asked {
    /// `PUT /latest/api/token`
    pub what: String,
    /// In lower case, one a line.
    pub headers: String,
    pub body: String,
}

/// A status with a body; `None` leaves the client waiting.
pub(crate) type Told = Option<(u16, String)>;
type Answers = dyn Fn(&Asked) -> Told + Send + Sync;

pub(crate) struct Server {
    pub url: String,
    seen: Arc<Mutex<Vec<Asked>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(answers: impl Fn(&Asked) -> Told + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let is_over = Arc::new(AtomicBool::new(false));
        let (seen_too, over_too) = (Arc::clone(&seen), Arc::clone(&is_over));
        let thread = spawn_thread("test-server", None, move || {
            // Those that are left waiting are held until the end.
            let mut held = Vec::new();
            for stream in listener.incoming() {
                if over_too.load(Ordering::SeqCst) {
                    return;
                }
                held.extend(stream.ok().and_then(|stream| serve(stream, &answers, &seen_too)));
            }
        })
        .unwrap();
        Server { url, seen, is_over, thread: Some(thread) }
    }

    /// What was asked so far.
    pub(crate) fn seen(&self) -> Vec<Asked> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// One exchange; the stream if there is no answer.
fn serve(stream: TcpStream, answers: &Answers, seen: &Mutex<Vec<Asked>>) -> Option<TcpStream> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut asked = Asked { what: line.trim().trim_end_matches(" HTTP/1.1").to_owned(), ..Asked::default() };
    let mut n_bytes = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        if header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.trim().split_once(": ") {
            let name = name.to_ascii_lowercase();
            if name == "content-length" {
                n_bytes = value.parse().ok()?;
            }
            asked.headers.push_str(&format!("{name}: {value}\n"));
        }
    }
    let mut body = vec![0; n_bytes];
    reader.read_exact(&mut body).ok()?;
    asked.body = String::from_utf8(body).ok()?;
    seen.lock().unwrap().push(asked.clone());
    let mut stream = reader.into_inner();
    let Some((status, text)) = answers(&asked) else { return Some(stream) };
    let location = if (300..400).contains(&status) { "Location: /elsewhere\r\n" } else { "" };
    let head = format!("HTTP/1.1 {status} X\r\n{location}Connection: close\r\nContent-Length: {}\r\n\r\n", text.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(text.as_bytes()));
    None
}

/// An environment of these variables.
pub(crate) fn environment(variables: &[(&str, &str)]) -> Env {
    let variables: Vec<(String, String)> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Arc::new(move |asked| variables.iter().find(|(name, _)| name == asked).map(|(_, value)| value.clone()))
}
