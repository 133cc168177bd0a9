//! The texts of `--help`, `--help-long` and `--version`, made from the tables of flags. Prints nothing.

use crate::cli::flag::{Flag, Value};
use crate::cli::flags::{COMMANDS, Command, GLOBAL, Group};

/// Lines are broken before this column.
const WIDTH: usize = 100;
/// Column where the explanation of a flag begins.
const HELP_COLUMN: usize = 34;

/// The usage of the program, or of one of its commands.
pub(super) fn usage(program: &str, command: Option<&Command>) -> String {
    let mut out = match command {
        Some(command) => format!("usage: {program} {}\n\n", called(command)),
        None => format!("usage: {program} [<flags>] <command> [<args> ...]\n\n"),
    };
    match command {
        Some(command) => out.push_str(&wrapped(command.help, 0)),
        None => out.push_str(&wrapped("Serves the data of a Prometheus server as a part of Thanos.", 0)),
    }
    out.push_str("\n\nFlags:\n");
    asks(&mut out);
    for flag in GLOBAL.iter().chain(command.map_or(&[] as &[Flag], |command| command.flags)) {
        flag_help(&mut out, flag);
    }
    match command {
        Some(command) => args_help(&mut out, command),
        None => {
            commands(&mut out, COMMANDS.iter());
            out.push_str(&format!("\nEach command has flags of its own: {program} <command> --help\n"));
        }
    }
    out
}

/// The usage of a group.
pub(super) fn group_usage(program: &str, group: Group) -> String {
    let name = group.name;
    let mut out = format!("usage: {program} {name} <command> [<args> ...]\n\n{}\n", wrapped(group.help, 0));
    commands(&mut out, group.commands());
    out.push_str(&format!("\nEach command has flags of its own: {program} {name} <command> --help\n"));
    out
}

fn commands<'a>(out: &mut String, commands: impl Iterator<Item = &'a Command>) {
    out.push_str("\nCommands:\n");
    for command in commands {
        row(out, &called(command), command.help);
    }
}

fn args_help(out: &mut String, command: &Command) {
    if !command.args.is_empty() {
        out.push_str("\nArgs:\n");
    }
    for arg in command.args {
        row(out, &arg.spelled(), arg.help);
    }
}

/// The usage of the program and of every command.
pub(super) fn long_usage(program: &str) -> String {
    let mut out = format!("usage: {program} [<flags>] <command> [<args> ...]\n\nFlags:\n");
    asks(&mut out);
    for flag in GLOBAL {
        flag_help(&mut out, flag);
    }
    for command in COMMANDS {
        out.push_str(&format!("\n{}\n  {}\n\n", called(command), wrapped(command.help, 2)));
        for flag in command.flags {
            flag_help(&mut out, flag);
        }
        args_help(&mut out, command);
    }
    out
}

/// What `--version` prints.
pub(super) fn version() -> String {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let arch = match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!(
        "pillion, version {} (branch: , revision: {})\n  rustc version:    {}\n  platform:         {os}/{arch}\n",
        crate::version::VERSION,
        crate::version::REVISION,
        crate::version::RUSTC_VERSION,
    )
}

fn asks(out: &mut String) {
    row(out, "-h, --help", "Show this text.");
    row(out, "--help-long", "Show the flags of every command.");
    row(out, "--version", "Show the version.");
}

/// The command with the flags that must be given, a placeholder for the others, and its arguments.
fn called(command: &Command) -> String {
    let required = command.flags.iter().filter(|flag| flag.is_required()).map(spelled);
    let args = command.args.iter().map(|arg| arg.spelled());
    let behind: Vec<String> = required.chain(["[<flags>]".to_owned()]).chain(args).collect();
    format!("{} {}", command.name, behind.join(" "))
}

/// The flag with its default or its placeholder.
fn spelled(flag: &Flag) -> String {
    let repeat = if flag.is_repeatable() { " ..." } else { "" };
    match (flag.value, flag.default_text()) {
        (Value::Bool, _) => format!("--[no-]{}", flag.name),
        (Value::Enum(words), "") => format!("--{}=<{}>", flag.name, words.join("|")),
        (Value::Text(placeholder) | Value::Secret(placeholder), "") => {
            format!("--{}=<{placeholder}>{repeat}", flag.name)
        }
        (Value::Number, "") => format!("--{}=<number>", flag.name),
        (Value::Duration, "") => format!("--{}=<duration>", flag.name),
        (_, default) => format!("--{}={default}", flag.name),
    }
}

fn flag_help(out: &mut String, flag: &Flag) {
    if flag.hidden {
        return;
    }
    let mut help = flag.help.to_owned();
    if let (Value::Enum(words), true) = (flag.value, !flag.default_text().is_empty()) {
        help.push_str(&format!(" One of {}.", words.join(", ")));
    }
    row(out, &spelled(flag), &help);
}

/// One entry: its name, and its explanation beside or below it.
fn row(out: &mut String, name: &str, help: &str) {
    out.push_str("  ");
    out.push_str(name);
    let used = name.chars().count() + 2;
    if used + 2 > HELP_COLUMN {
        out.push('\n');
        out.push_str(&" ".repeat(HELP_COLUMN));
    } else {
        out.push_str(&" ".repeat(HELP_COLUMN - used));
    }
    out.push_str(&wrapped(help, HELP_COLUMN));
    out.push('\n');
}

/// The text, broken at spaces; every line but the first is indented.
fn wrapped(text: &str, indent: usize) -> String {
    let (mut out, mut column) = (String::new(), indent);
    for word in text.split(' ') {
        let len = word.chars().count();
        if column > indent && column + 1 + len > WIDTH {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            column = indent;
        } else if column > indent {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += len;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_that_is_not_hidden_is_explained_once() {
        for command in COMMANDS {
            let text = usage("pillion", Some(command));
            for flag in GLOBAL.iter().chain(command.flags) {
                let spelled = format!("  {}", spelled(flag));
                let count = text.lines().filter(|line| line.starts_with(&spelled)).count();
                // No spelling is the beginning of another one, so each begins exactly one line.
                assert_eq!(count, usize::from(!flag.hidden), "{spelled}");
            }
            assert!(text.lines().all(|line| line.chars().count() <= WIDTH && line.trim_end() == line), "{text}");
        }
        assert!(!long_usage("pillion").contains("skip-corrupted-blocks"));
    }

    #[test]
    fn defaults_and_placeholders_are_shown() {
        let text = long_usage("pillion");
        for line in [
            "  -h, --help                      Show this text.",
            "  --http-address=0.0.0.0:10902    Where metrics and probes are served over HTTP.",
            "  --hash-func=<SHA256|>           Hash function over the files of each block, written into its",
            "  --[no-]skip-chunks              Read the labels only.",
            "series --store=<host:port> --match=<selector> ... [<flags>]",
            "bucket ls [<flags>] [<folder>]",
            "bucket cat [<flags>] <object>",
            "  <object>                        Object to write, named as bucket ls names it.",
        ] {
            assert!(text.lines().any(|got| got == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_group_shows_its_commands_only() {
        let text = group_usage("pillion", crate::cli::flags::GROUPS[0]);
        let names: Vec<&str> = text.lines().filter(|line| line.starts_with("  bucket")).collect();
        assert!(text.starts_with("usage: pillion bucket <command> [<args> ...]\n"), "{text}");
        assert_eq!(names.len(), 3, "{text}");
        assert!(!text.contains("sidecar [") && text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
    }

    #[test]
    fn the_version_has_its_first_line_as_thanos_has_it() {
        let text = version();
        let first = text.lines().next().unwrap();
        assert_eq!(
            first,
            format!("pillion, version {} (branch: , revision: {})", crate::version::VERSION, crate::version::REVISION)
        );
        assert!(text.contains("\n  rustc version:    rustc "), "{text}");
    }
}
