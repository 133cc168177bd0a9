//! The client of grpc-go in `tests/go`, built once for all tests of a program.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// A running client.
pub struct GoClient(Child);

/// Builds it. `None` where there is no Go or its modules cannot be fetched, which is said in a line; where `CI=true` that
/// is a failure, for nobody would read the line.
fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let build = || {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("go-client-{}", std::process::id()));
        let built = Command::new("go")
            .args(["build", "-o"])
            .arg(&program)
            .arg(".")
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/go"))
            .output();
        let why = match built {
            Ok(out) if out.status.success() => return Some(program),
            Ok(out) => String::from_utf8_lossy(&out.stderr).into_owned(),
            Err(err) => format!("go: {err}"),
        };
        assert!(std::env::var_os("CI").is_none_or(|value| value != "true"), "the client in tests/go: {why}");
        eprintln!("not tested with grpc-go: {}", why.trim().replace('\n', "; "));
        None
    };
    PROGRAM.get_or_init(build).as_deref()
}

impl GoClient {
    /// Starts it; `None` where it is left out.
    pub fn start(server: SocketAddr, args: &[&str]) -> Option<Self> {
        let child = Command::new(program()?)
            .arg(format!("-server={server}"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Some(GoClient(child))
    }

    /// Waits for a line that says that its calls have begun.
    pub fn wait_begun(&mut self) {
        // A line of its own, so that nothing of the report is lost in the buffer.
        let mut line = String::new();
        BufReader::with_capacity(1, self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "begun");
    }

    /// Lets it go on.
    pub fn go_on(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    }

    /// Waits for its end and returns its report.
    pub fn report(mut self) -> Value {
        let lines = BufReader::new(self.0.stdout.take().unwrap()).lines().map_while(Result::ok);
        let last = lines.last().unwrap_or_default();
        assert!(self.0.wait().unwrap().success(), "{last}");
        serde_json::from_str(&last).unwrap()
    }
}

impl Drop for GoClient {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
