//! Requests and answers on the wire, as far as the proxy has to know them.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::TcpStream;

/// The head of a request.
pub struct Head {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The lines after the first, without those that are between the client and us.
    pub lines: String,
    pub length: u64,
    pub expects_continue: bool,
}

/// The next head; `None` at the end of the connection.
pub fn read_head(reader: &mut impl BufRead) -> std::io::Result<Option<Head>> {
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut words = first.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    // As a client writes it that believes it talks to a proxy.
    let target = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').and_then(|idx| rest.get(idx..)).unwrap_or("/"),
        None => target,
    };
    let mut head = Head {
        method: method.to_owned(),
        target: target.to_owned(),
        lines: String::new(),
        length: 0,
        expects_continue: false,
    };
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let lower = line.to_ascii_lowercase();
        match lower.split_once(':') {
            _ if line.trim().is_empty() => return Ok(Some(head)),
            Some(("connection" | "proxy-connection" | "keep-alive", _)) => {}
            Some(("expect", _)) => head.expects_continue = true,
            // Nobody who talks to S3 with signed URLs does this; a test should see it.
            Some(("transfer-encoding", _)) => return Err(std::io::Error::other("a request of unknown length")),
            Some(("content-length", length)) => {
                head.length = length.trim().parse().map_err(|_| std::io::Error::other("bad content-length"))?;
                head.lines.push_str(&line);
            }
            _ => head.lines.push_str(&line),
        }
    }
}

/// Status, lines that concern the client, and body of an answer that ends with its connection.
pub fn read_answer(server: &TcpStream, method: &str) -> std::io::Result<(u16, String, Vec<u8>)> {
    let mut reader = BufReader::new(server);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("the server said {first:?}")))?;
    let (mut lines, mut is_chunked) = (String::new(), false);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let lower = line.to_ascii_lowercase();
        match lower.split_once(':') {
            _ if line.trim().is_empty() => break,
            Some(("connection" | "keep-alive", _)) => {}
            Some(("transfer-encoding", _)) => is_chunked = true,
            Some(("content-length", _)) if method != "HEAD" => {}
            _ => lines.push_str(&line),
        }
    }
    let mut body = Vec::new();
    if is_chunked {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = u64::from_str_radix(size.trim(), 16).map_err(std::io::Error::other)?;
            reader.by_ref().take(size).read_to_end(&mut body)?;
            reader.read_line(&mut String::new())?;
            if size == 0 {
                break;
            }
        }
    } else if method != "HEAD" {
        reader.read_to_end(&mut body)?;
    }
    Ok((status, lines, body))
}

pub fn error_xml(code: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>on purpose</Message>\
         <RequestId>fault</RequestId></Error>"
    )
}

/// Lines of a head with their names in lower case.
pub fn lower_names(lines: &str) -> String {
    let lower = |line: &str| match line.split_once(':') {
        Some((name, value)) => format!("{}: {}\n", name.to_ascii_lowercase(), value.trim()),
        None => String::new(),
    };
    lines.lines().map(lower).collect()
}
