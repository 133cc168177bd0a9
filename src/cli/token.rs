//! Splits the command line into flags with their values, by the rules of the parser that Thanos uses: which flags there
//! are depends on the command seen so far, a switch takes no value, `@file` stands for the file's lines, and `--` ends
//! the flags. Reads only files that are named with `@`, and never looks into a value.
//!
//! `Source:` kingpin v2.4.0.

use std::collections::VecDeque;

use crate::cli::flag::{Flag, Given};
use crate::cli::flags::{COMMANDS, Command, GLOBAL, GROUPS, Group};

/// A flag that asks for text instead of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// `-h`, `--help` or the `help` command.
    Help,
    /// `--help-long`.
    HelpLong,
    /// `--version`.
    Version,
}

/// The command line, split.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// The command, if there is one.
    pub(super) command: Option<&'static Command>,
    /// The group whose name was given, with or without a command of it.
    pub(super) group: Option<Group>,
    /// The words behind the command, as many as it takes at most.
    pub(super) args: Vec<String>,
    /// The flags, in the order in which they are given.
    pub(super) given: Vec<Given>,
    /// What was asked for before anything was wrong.
    pub(super) asked: Vec<Ask>,
    /// What is wrong with the structure of the command line, if anything.
    pub(super) error: Option<String>,
}

/// Most arguments that all `@file` may add; without a bound a file that names itself would add for ever.
const ARGS_MAX: usize = 100_000;

enum Token {
    /// `--name`, and the value if it came with `=`.
    Long(String, Option<String>),
    /// `-x`.
    Short(String),
    Word(String),
}

/// Splits the arguments, which are without the program's name.
pub(super) fn split(args: &[String]) -> Tokens {
    let mut lexer = Lexer { rest: args.iter().cloned().collect(), words_only: false, expanded: 0 };
    let mut tokens = Tokens::default();
    let mut help_command = false;
    tokens.error = loop {
        match lexer.next() {
            Err(err) => break Some(err),
            Ok(None) => break None,
            Ok(Some(Token::Short(text))) if text.starts_with("-h") => {
                tokens.asked.push(Ask::Help);
                // Letters after the h would be short flags of their own, but -h is the only one there is.
                if let Some(other) = text.chars().nth(2) {
                    break Some(format!("unknown short flag '-{other}'"));
                }
            }
            Ok(Some(Token::Short(text))) => {
                break Some(format!("unknown short flag '{}'", text.chars().take(2).collect::<String>()));
            }
            Ok(Some(Token::Long(name, value))) => {
                if let Err(err) = long_flag(&mut tokens, &mut lexer, &name, value) {
                    break Some(err);
                }
            }
            Ok(Some(Token::Word(word))) => match tokens.command {
                None if word == "help" && !help_command && tokens.group.is_none() => {
                    help_command = true;
                    tokens.asked.push(Ask::Help);
                }
                None => {
                    if let Err(err) = command_word(&mut tokens, &word) {
                        break Some(err);
                    }
                }
                Some(command) if tokens.args.len() < command.args.len() => tokens.args.push(word),
                Some(_) => break Some(format!("unexpected {word}")),
            },
        }
    };
    tokens
}

/// A word where a command, or the second word of one, has to stand.
fn command_word(tokens: &mut Tokens, word: &str) -> Result<(), String> {
    let name = match tokens.group {
        Some(group) => format!("{} {word}", group.name),
        None => word.to_owned(),
    };
    tokens.command = COMMANDS.iter().find(|command| command.name == name);
    if tokens.command.is_some() {
        return Ok(());
    }
    if let Some(group) = tokens.group {
        let names: Vec<&str> = group.commands().map(|command| command.name).collect();
        return Err(format!("expected command but got {name:?} (there is {})", names.join(", ")));
    }
    tokens.group = GROUPS.iter().find(|group| group.name == word).copied();
    tokens.group.map(drop).ok_or_else(|| format!("expected command but got {word:?}"))
}

fn long_flag(tokens: &mut Tokens, lexer: &mut Lexer, name: &str, value: Option<String>) -> Result<(), String> {
    let ask = match name {
        "help" => Some(Ask::Help),
        "help-long" => Some(Ask::HelpLong),
        "version" => Some(Ask::Version),
        _ => None,
    };
    if let Some(ask) = ask {
        tokens.asked.push(ask);
        return value.map_or(Ok(()), |value| Err(unexpected(tokens.command, &value)));
    }
    let known = |name: &str| {
        let own = tokens.command.map_or(&[] as &[Flag], |command| command.flags);
        GLOBAL.iter().chain(own).find(|flag| flag.name == name)
    };
    let found = known(name).map(|flag| (flag, "true"));
    let found = found.or_else(|| known(name.strip_prefix("no-")?).filter(|flag| flag.is_bool()).map(|f| (f, "false")));
    let Some((flag, switched)) = found else {
        return Err(format!("unknown long flag '--{name}'{}", hint(tokens, name)));
    };
    if flag.is_bool() {
        tokens.given.push(Given { flag, value: switched.to_owned() });
        return value.map_or(Ok(()), |value| Err(unexpected(tokens.command, &value)));
    }
    let missing = || format!("expected argument for flag '--{name}'");
    let value = match value {
        Some(value) => value,
        None => match lexer.next()? {
            Some(Token::Word(word)) => word,
            Some(Token::Long(..) | Token::Short(_)) => {
                return Err(format!("{} (a value that begins with a dash must be given as --{name}=…)", missing()));
            }
            None => return Err(missing()),
        },
    };
    tokens.given.push(Given { flag, value });
    Ok(())
}

/// The error of a value that a switch was given. It is worded as for a word that stands alone, as Thanos has it.
fn unexpected(command: Option<&Command>, value: &str) -> String {
    match command {
        Some(_) => format!("unexpected {value} (a switch takes no value, write --flag or --no-flag)"),
        None => format!("expected command but got {value:?} (a switch takes no value, write --flag or --no-flag)"),
    }
}

/// A guess at what an unknown flag was meant to be; empty when no name is near.
fn hint(tokens: &Tokens, name: &str) -> String {
    let command = tokens.command;
    let mut likely = COMMANDS.iter().filter(|command| match tokens.group {
        Some(group) => command.name.starts_with(group.name),
        None => true,
    });
    let elsewhere = likely.find(|command| command.flags.iter().any(|flag| flag.name == name));
    if let (None, Some(other)) = (command, elsewhere) {
        let words = if other.name.contains(' ') { "words" } else { "word" };
        return format!(" (a flag of the {0} command, it must stand after the {words} {0})", other.name);
    }
    let flags = match command {
        Some(command) => command.flags,
        None => COMMANDS.first().map_or(&[] as &[Flag], |command| command.flags),
    };
    let names = GLOBAL.iter().chain(flags).flat_map(|flag| {
        let negated = flag.is_bool().then(|| format!("no-{}", flag.name));
        [Some(flag.name.to_owned()), negated].into_iter().flatten()
    });
    let asks = ["help", "help-long", "version"].map(str::to_owned);
    let nearest = names.chain(asks).map(|known| (distance(name, &known), known)).min();
    match nearest {
        Some((steps, known)) if steps <= 1 + name.len() / 6 => format!(" (did you mean --{known}?)"),
        _ => String::new(),
    }
}

/// Number of edits that turn one name into the other. The separators `.`, `_` and `-` count as the same, and a swap of
/// two letters counts as two edits.
fn distance(a: &str, b: &str) -> usize {
    let plain = |text: &str| text.to_ascii_lowercase().replace(['.', '_'], "-").into_bytes();
    let (a, b) = (plain(a), plain(b));
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (idx, x) in a.iter().enumerate() {
        let mut next = Vec::with_capacity(row.len());
        next.push(idx + 1);
        for (pair, y) in row.windows(2).zip(&b) {
            let left = next.last().copied().unwrap_or(idx);
            let (diagonal, up) = (pair[0], pair[1]);
            next.push((diagonal + usize::from(x != y)).min(up + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

struct Lexer {
    rest: VecDeque<String>,
    words_only: bool,
    expanded: usize,
}

impl Lexer {
    fn next(&mut self) -> Result<Option<Token>, String> {
        while let Some(arg) = self.rest.pop_front() {
            if self.words_only {
                return Ok(Some(Token::Word(arg)));
            }
            if arg == "--" {
                self.words_only = true;
            } else if let Some(long) = arg.strip_prefix("--") {
                return Ok(Some(match long.split_once('=') {
                    Some((name, value)) => Token::Long(name.to_owned(), Some(value.to_owned())),
                    None => Token::Long(long.to_owned(), None),
                }));
            } else if arg.starts_with('-') {
                return Ok(Some(Token::Short(arg)));
            } else if let Some(path) = arg.strip_prefix('@') {
                self.expand(path)?;
            } else {
                return Ok(Some(Token::Word(arg)));
            }
        }
        Ok(None)
    }

    /// Puts the file's lines in front of the arguments that are left, without blank lines and those that begin with `#`.
    fn expand(&mut self, path: &str) -> Result<(), String> {
        let text = std::fs::read_to_string(path).map_err(|err| format!("reading arguments from file {path}: {err}"))?;
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).collect();
        self.expanded += lines.len() + 1;
        if self.expanded > ARGS_MAX {
            return Err(format!("reading arguments from file {path}: more than {ARGS_MAX} arguments"));
        }
        for line in lines.into_iter().rev() {
            self.rest.push_front(line.to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result as `command: name=value … argument …`, or the error.
    fn show(args: &str) -> String {
        let args: Vec<String> = args.split(' ').filter(|arg| !arg.is_empty()).map(str::to_owned).collect();
        let tokens = split(&args);
        let given = tokens.given.iter().map(|given| format!("{}={}", given.flag.name, given.value));
        let given: Vec<String> = given.chain(tokens.args).collect();
        match tokens.error {
            Some(err) => err,
            None => format!("{}: {}", tokens.command.map_or("none", |command| command.name), given.join(" ")),
        }
    }

    #[test]
    fn flags_with_values() {
        for (args, want) in [
            ("sidecar", "sidecar: "),
            ("", "none: "),
            ("sidecar --tsdb.path=/x", "sidecar: tsdb.path=/x"),
            ("sidecar --tsdb.path /x", "sidecar: tsdb.path=/x"),
            ("sidecar --tsdb.path=", "sidecar: tsdb.path="),
            ("sidecar --tsdb.path=a=b", "sidecar: tsdb.path=a=b"),
            ("sidecar --tsdb.path=--x", "sidecar: tsdb.path=--x"),
            ("sidecar --tsdb.path=@x", "sidecar: tsdb.path=@x"),
            ("sidecar --tsdb.path=help", "sidecar: tsdb.path=help"),
            ("--log.level=debug sidecar", "sidecar: log.level=debug"),
            ("sidecar --log.level debug --debug.name x", "sidecar: log.level=debug debug.name=x"),
            ("sidecar --shipper.upload-compacted", "sidecar: shipper.upload-compacted=true"),
            ("sidecar --no-shipper.upload-compacted", "sidecar: shipper.upload-compacted=false"),
            ("--no-enable-auto-gomemlimit sidecar", "sidecar: enable-auto-gomemlimit=false"),
            ("sidecar --reloader.rule-dir=a --reloader.rule-dir b", "sidecar: reloader.rule-dir=a reloader.rule-dir=b"),
            ("-- sidecar", "sidecar: "),
            ("series --store=x --match={a=\"b\"} --start=-1h", "series: store=x match={a=\"b\"} start=-1h"),
            ("bucket", "none: "),
            ("bucket ls", "bucket ls: "),
            ("bucket ls a/b --long", "bucket ls: long=true a/b"),
            ("bucket ls --json --objstore.config-file=x a", "bucket ls: json=true objstore.config-file=x a"),
            ("--log.level=debug bucket --debug.name=x cat help", "bucket cat: log.level=debug debug.name=x help"),
            ("bucket cat -- --x", "bucket cat: --x"),
            ("bucket cat -- @x", "bucket cat: @x"),
            ("bucket cat", "bucket cat: "),
            ("bucket verify --repair", "bucket verify: repair=true"),
        ] {
            assert_eq!(show(args), want, "{args}");
        }
    }

    #[test]
    fn structural_errors() {
        for (args, want) in [
            ("sidecar --foo", "unknown long flag '--foo'"),
            ("sidecar --foo=secret", "unknown long flag '--foo'"),
            ("sidecar --no-tsdb.path", "unknown long flag '--no-tsdb.path' (did you mean --tsdb.path?)"),
            ("sidecar --tsdb-path=/x", "unknown long flag '--tsdb-path' (did you mean --tsdb.path?)"),
            ("sidecar --tsbd.path=/x", "unknown long flag '--tsbd.path' (did you mean --tsdb.path?)"),
            (
                "sidecar --objstore.config_file=x",
                "unknown long flag '--objstore.config_file' (did you mean --objstore.config-file?)",
            ),
            (
                "sidecar --no-shipper.upload_compacted",
                "unknown long flag '--no-shipper.upload_compacted' (did you mean --no-shipper.upload-compacted?)",
            ),
            ("sidecar --versoin", "unknown long flag '--versoin' (did you mean --version?)"),
            (
                "--tsdb.path=/x sidecar",
                "unknown long flag '--tsdb.path' (a flag of the sidecar command, it must stand after the word sidecar)",
            ),
            ("sidecar -tsdb.path=/x", "unknown short flag '-t'"),
            ("sidecar -", "unknown short flag '-'"),
            ("sidecar -hx", "unknown short flag '-x'"),
            ("sidecar --tsdb.path", "expected argument for flag '--tsdb.path'"),
            ("sidecar --tsdb.path --", "expected argument for flag '--tsdb.path'"),
            (
                "sidecar --tsdb.path --log.level=info",
                "expected argument for flag '--tsdb.path' (a value that begins with a dash must be given as --tsdb.path=…)",
            ),
            (
                "sidecar --min-time -1d",
                "expected argument for flag '--min-time' (a value that begins with a dash must be given as --min-time=…)",
            ),
            (
                "sidecar --shipper.upload-compacted=true",
                "unexpected true (a switch takes no value, write --flag or --no-flag)",
            ),
            (
                "sidecar --no-shipper.upload-compacted=true",
                "unexpected true (a switch takes no value, write --flag or --no-flag)",
            ),
            ("sidecar --shipper.upload-compacted true", "unexpected true"),
            (
                "--enable-auto-gomemlimit=true sidecar",
                "expected command but got \"true\" (a switch takes no value, write --flag or --no-flag)",
            ),
            ("sidecar --version=1", "unexpected 1 (a switch takes no value, write --flag or --no-flag)"),
            ("sidecar more", "unexpected more"),
            ("sidecar sidecar", "unexpected sidecar"),
            ("sidecar -- --log.level=info", "unexpected --log.level=info"),
            ("query", "expected command but got \"query\""),
            ("ls", "expected command but got \"ls\""),
            ("bucket rm", "expected command but got \"bucket rm\" (there is bucket ls, bucket cat, bucket verify)"),
            ("bucket help", "expected command but got \"bucket help\" (there is bucket ls, bucket cat, bucket verify)"),
            ("bucket ls a b", "unexpected b"),
            ("bucket cat a b", "unexpected b"),
            ("bucket verify a", "unexpected a"),
            ("bucket ls --long=true", "unexpected true (a switch takes no value, write --flag or --no-flag)"),
            ("bucket ls --recursiv", "unknown long flag '--recursiv' (did you mean --recursive?)"),
            ("bucket cat --json x", "unknown long flag '--json'"),
            (
                "bucket --json ls",
                "unknown long flag '--json' (a flag of the bucket ls command, it must stand after the words bucket ls)",
            ),
            ("bucket ls -r", "unknown short flag '-r'"),
            (
                "sidecar @/nonexistent/args",
                "reading arguments from file /nonexistent/args: No such file or directory (os error 2)",
            ),
        ] {
            assert_eq!(show(args), want, "{args}");
        }
    }

    #[test]
    fn what_is_asked_for_is_noted_up_to_the_first_error() {
        for (args, want) in [
            ("--version", &[Ask::Version] as &[Ask]),
            ("sidecar -h --help-long", &[Ask::Help, Ask::HelpLong]),
            ("help sidecar", &[Ask::Help]),
            ("--foo --version", &[]),
            ("--version --foo", &[Ask::Version]),
        ] {
            let args: Vec<String> = args.split(' ').map(str::to_owned).collect();
            assert_eq!(split(&args).asked, want, "{args:?}");
        }
    }

    #[test]
    fn a_file_stands_for_its_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("args");
        std::fs::write(&path, "# comment\nsidecar\n\n  \n--tsdb.path\n/with space\n--log.level=debug\n").unwrap();
        let tokens = split(&[format!("@{}", path.display()), "--debug.name=x".to_owned()]);
        let given: Vec<(&str, &str)> =
            tokens.given.iter().map(|given| (given.flag.name, given.value.as_str())).collect();
        assert_eq!(tokens.error, None);
        assert_eq!(given, [("tsdb.path", "/with space"), ("log.level", "debug"), ("debug.name", "x")]);
    }

    #[test]
    fn a_file_that_names_itself_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("args");
        std::fs::write(&path, format!("@{}\n", path.display())).unwrap();
        let err = split(&[format!("@{}", path.display())]).error.unwrap();
        assert!(err.contains("more than 100000 arguments"), "{err}");
    }
}
