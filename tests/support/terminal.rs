//! Commands with a terminal of their own.

use std::process::Command;

/// Runs a command line of the shell, and gives all that came to its terminal.
pub fn on_a_terminal(command: &str, env: &[(&str, &str)]) -> String {
    let out = Command::new("script")
        .args(["-qec", command, "/dev/null"])
        .env_remove("NO_COLOR")
        .env("TERM", "xterm")
        .envs(env.iter().copied())
        .output()
        .expect("this test needs the program script (package bsdutils)");
    String::from_utf8_lossy(&out.stdout).into_owned()
}
