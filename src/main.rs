//! The program: everything is in the library, so that tests can look at its parts.

use std::process::ExitCode;

fn main() -> ExitCode {
    pillion::main()
}
