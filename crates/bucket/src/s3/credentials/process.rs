//! Keys that a program prints: the `credential_process` of a profile. The program runs without a shell and for a
//! limited time. Its output is never logged.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};

use super::Keys;
use super::answer::Json;
use crate::limits;
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::stop::Stop;

/// The keys that `command` prints.
///
/// `Source:` "Process credential provider", AWS SDKs and Tools Reference Guide.
/// `Blocks:` up to `time`, or until the stop.
fn fetch(command: &str, time: Duration, stop: &Stop) -> Result<Keys> {
    let printed = run(command, time, stop).context(|| "run the credential_process of the profile")?;
    let json = Json::parse(&printed).context(|| "read what the credential_process printed")?;
    if json.version != Some(1) {
        return Err(wrong("the credential_process printed no \"Version\": 1, so that it is of another format"));
    }
    json.keys().context(|| "read what the credential_process printed")
}

/// The keys that `command` prints within [`limits::CREDENTIAL_PROCESS_TIMEOUT`].
pub(super) fn keys(command: &str, stop: &Stop) -> Result<Keys> {
    fetch(command, limits::CREDENTIAL_PROCESS_TIMEOUT, stop)
}

fn wrong(text: impl Into<String>) -> Error {
    Error::new(Kind::Permanent, text)
}

/// A child process. It is killed with its own children when this is dropped, unless it has ended by itself.
struct Running {
    child: Child,
    is_waited_for: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_waited_for {
            return;
        }
        // It was not waited for yet, so its process id cannot belong to another process.
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

fn run(command: &str, time: Duration, stop: &Stop) -> Result<Vec<u8>> {
    let words = split(command).ok_or_else(|| wrong("a quote in the command is not closed"))?;
    let (program, arguments) = words.split_first().ok_or_else(|| wrong("the command is empty"))?;
    let deadline = Instant::now() + time;
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Its complaints may hold secrets.
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|err| wrong(format!("start the program: {err}")))?;
    let mut running = Running { child, is_waited_for: false };
    let printed = read(&mut running, deadline, time, stop)?;
    let status = wait(&mut running, deadline, time, stop)?;
    if !status.success() {
        return Err(Error::new(
            Kind::Retry,
            format!("the program failed with {status}; run the command of credential_process by hand to see why"),
        ));
    }
    Ok(printed)
}

fn late(time: Duration) -> Error {
    Error::new(Kind::Retry, format!("the program was killed, for it did not end within {time:?}"))
}

/// Reads what it prints, to the end.
fn read(running: &mut Running, deadline: Instant, time: Duration, stop: &Stop) -> Result<Vec<u8>> {
    let mut printed = Vec::new();
    let Some(mut pipe) = running.child.stdout.take() else { return Ok(printed) };
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late(time));
        }
        let stopped = stop.fd();
        let mut fds =
            [PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN), PollFd::from_borrowed_fd(stopped, PollFlags::IN)];
        match poll(&mut fds, Some(&Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 }))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(err) => return Err(Error::io(&err.into()).context("wait for the program")),
        }
        stop.check()?;
        let [has_more, _] = fds.map(|fd| !fd.revents().is_empty());
        if !has_more {
            continue;
        }
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(printed),
            Ok(n_read) => printed.extend_from_slice(buffer.get(..n_read).unwrap_or_default()),
            Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
            Err(err) => return Err(Error::io(&err).context("read from the program")),
        }
        if printed.len() as u64 > limits::CREDENTIALS_BYTES_MAX {
            return Err(wrong(format!("the program printed more than {} bytes", limits::CREDENTIALS_BYTES_MAX)));
        }
    }
}

/// Waits for its end, which usually comes with the end of its output.
fn wait(running: &mut Running, deadline: Instant, time: Duration, stop: &Stop) -> Result<ExitStatus> {
    loop {
        if let Some(status) = running.child.try_wait().context(|| "wait for the program")? {
            running.is_waited_for = true;
            return Ok(status);
        }
        if Instant::now() >= deadline {
            return Err(late(time));
        }
        if stop.wait(Duration::from_millis(10)) {
            return Err(Error::new(Kind::Stopped, "stopping"));
        }
    }
}

/// Splits a command into words as a shell does, with quotes and backslashes. Nothing is expanded. `None` if a quote is
/// not closed.
fn split(command: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => match chars.next()? {
                            c @ ('"' | '\\') => word.push(c),
                            c => word.extend(['\\', c]),
                        },
                        c => word.push(c),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(chars.next()?),
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::stop::stop_pair;

    const LONG: Duration = Duration::from_secs(60);

    fn try_fetch(command: &str, time: Duration) -> std::result::Result<Keys, String> {
        let (_stopper, stop) = stop_pair().unwrap();
        fetch(command, time, &stop).map_err(|err| {
            let text = err.to_string();
            assert!(!text.contains("hunter2") && !format!("{err:?}").contains("hunter2"), "{text}");
            text
        })
    }

    fn printing(text: &str) -> String {
        format!("printf %s '{text}'")
    }

    #[test]
    fn commands_are_split_as_a_shell_does() {
        let check = |command: &str, expected: Option<&[&str]>| {
            let got = split(command);
            let got: Option<Vec<&str>> = got.as_ref().map(|words| words.iter().map(String::as_str).collect());
            assert_eq!(got.as_deref(), expected, "{command}");
        };
        check("", Some(&[]));
        check("  a  b\tc ", Some(&["a", "b", "c"]));
        check(
            r#""/opt/a b/keys" --x='1 "2"' "3 '4' \" \\ \n""#,
            Some(&["/opt/a b/keys", "--x=1 \"2\"", "3 '4' \" \\ \\n"]),
        );
        check(r"a\ b ''", Some(&["a b", ""]));
        check("a 'b", None);
        check("a \"b", None);
        check("a \\", None);
        check("$HOME/x; y | z", Some(&["$HOME/x;", "y", "|", "z"]));
    }

    #[test]
    fn what_a_program_prints_are_keys() {
        let text = r#"{"Version": 1, "AccessKeyId": "AK", "SecretAccessKey": "hunter2", "SessionToken": "st", "Expiration": "2030-01-01T00:00:00Z"}"#;
        let keys = try_fetch(&printing(text), LONG).unwrap();
        assert_eq!((keys.access_key.0.as_str(), keys.secret_key.0.as_str()), ("AK", "hunter2"));
        assert!(keys.expires.is_some() && !format!("{keys:?}").contains("hunter2"));
    }

    #[test]
    fn a_program_that_fails_is_reported_without_its_words() {
        let check = |command: &str, expected: &str| {
            let err = try_fetch(command, LONG).expect_err(command);
            assert!(err.contains(expected), "{err}");
        };
        check("sh -c 'echo hunter2; echo hunter2 >&2; exit 3'", "the program failed with exit status: 3");
        check("/nonexistent/program hunter2", "start the program: No such file");
        check(&printing("hunter2"), "read what the credential_process printed: the answer is not the expected JSON");
        check(&printing("{\"Version\": 2, \"SecretAccessKey\": \"hunter2\"}"), "printed no \"Version\": 1");
        check(&printing("{\"Version\": 1, \"SecretAccessKey\": \"hunter2\"}"), "the answer has no AccessKeyId");
        check("head -c 70000 /dev/zero", "the program printed more than 65536 bytes");
        check("a 'hunter2", "a quote in the command is not closed");
        check(" ", "the command is empty");
    }

    #[test]
    fn a_program_that_does_not_end_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        for wait in ["; wait", ""] {
            let command = format!("sh -c 'sleep 600 & echo $! > {} {wait}'", pid_file.display());
            let begun = Instant::now();
            let err = try_fetch(&command, Duration::from_secs(1)).unwrap_err();
            assert!(err.contains("did not end within 1s") && begun.elapsed() < LONG, "{err}");
            let stat = format!("/proc/{}/stat", std::fs::read_to_string(&pid_file).unwrap().trim());
            // Whoever adopts it may take its time to wait for it, but it runs no more.
            while std::fs::read_to_string(&stat).is_ok_and(|text| !text.contains(") Z ")) {
                assert!(begun.elapsed() < LONG, "it still runs");
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn the_stop_ends_the_wait_for_a_program() {
        let (stopper, stop) = stop_pair().unwrap();
        stopper.stop();
        let begun = Instant::now();
        let err = fetch("sleep 600", Duration::from_secs(600), &stop).unwrap_err();
        assert_eq!(err.kind(), Kind::Stopped);
        assert!(begun.elapsed() < LONG);
    }
}
