//! The processes of a measurement: this program again, with the name of a role as its first argument, told what to do in
//! lines.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

/// A process in a role.
pub struct Role {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// The address on which it serves, if it does.
    pub address: String,
}

impl Role {
    /// Starts one that says its address first.
    pub fn serve(args: &[&str]) -> Self {
        let mut role = Role::spawn(args);
        role.address = role.line();
        role
    }

    /// Runs one to its end; its only line.
    pub fn run(args: &[&str]) -> String {
        Role::spawn(args).line()
    }

    fn spawn(args: &[&str]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Role { child, stdin, stdout, address: String::new() }
    }

    /// Says a line and waits for the answer.
    pub fn ask(&mut self, line: &str) -> String {
        writeln!(self.stdin, "{line}").unwrap();
        self.line()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Answers the lines of whoever started this process, until there are no more.
pub fn obey(mut answer: impl FnMut(&[&str]) -> String) {
    for line in std::io::stdin().lines().map_while(Result::ok) {
        say(&answer(&line.split(' ').collect::<Vec<_>>()));
    }
}

/// Says a line to whoever started this process.
pub fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).unwrap();
}

/// Now, on a clock that all processes share. `Units:` nanoseconds.
pub fn now_ns() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

#[allow(clippy::disallowed_methods)]
pub fn spawn(body: impl FnOnce() + Send + 'static) {
    std::thread::spawn(body);
}
