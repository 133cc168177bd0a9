//! From arguments to what is to be done. `token` splits by the rules of Thanos's parser, argh makes typed values of the
//! result, and what neither of them says is decided here: which text goes where, and with which exit code.

use std::path::Path;

use argh::FromArgs;

use crate::cli::args::{InfoFlags, SeriesFlags, SidecarFlags, VerifyFlags};
use crate::cli::flags::{Command, Flag, GLOBAL, Presence, SIDECAR, Status, Value};
use crate::cli::help;
use crate::cli::token::{self, Ask, Given, Tokens};
use crate::time::GoDuration;

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Invocation {
    /// Run the sidecar.
    Sidecar(Box<SidecarFlags>),
    /// Ask a store what it is.
    Info(InfoFlags),
    /// Read series from a store.
    Series(SeriesFlags),
    /// Compare bucket and local blocks.
    Verify(VerifyFlags),
    /// Print these texts and end.
    Exit {
        /// 0, 1 for a command line that cannot be understood, 2 for a value that cannot.
        code: i32,
        /// For standard output.
        stdout: String,
        /// For standard error.
        stderr: String,
    },
}

/// Reads the command line; `args` are without the program's name. Reads the files that are named with `@`.
pub fn parse(program: &str, args: &[String]) -> Invocation {
    let program = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or("pillion");
    let tokens = token::split(args);
    // These two act as soon as they are seen, whatever is wrong behind them.
    match tokens.asked.iter().find(|ask| **ask != Ask::Help) {
        Some(Ask::Version) => return exit(0, String::new(), help::version()),
        Some(_) => return exit(0, help::long_usage(program), String::new()),
        None => {}
    }
    if let Some(err) = tokens.error {
        return refused(program, &err);
    }
    if !tokens.asked.is_empty() {
        return exit(0, String::new(), help::usage(program, tokens.command));
    }
    match typed(&tokens) {
        Ok(Some(invocation)) => match unsupported(&tokens.given) {
            Some(flag) => refused(program, &format!("--{} is not supported yet", flag.name)),
            None => invocation,
        },
        Ok(None) => exit(0, String::new(), help::usage(program, None)),
        Err(Wrong::Missing(flag)) => refused(program, &format!("required flag --{} not provided", flag.name)),
        Err(Wrong::Value(err)) => {
            let usage = help::usage(program, tokens.command);
            let argv = shown(program, args).join(" ");
            exit(2, String::new(), format!("{usage}\nerror parsing commandline arguments: [{argv}]: {err}\n"))
        }
    }
}

fn exit(code: i32, stdout: String, stderr: String) -> Invocation {
    Invocation::Exit { code, stdout, stderr }
}

fn refused(program: &str, err: &str) -> Invocation {
    exit(1, String::new(), format!("{program}: error: {err}\n"))
}

/// Why there are no typed values.
enum Wrong {
    Missing(&'static Flag),
    Value(String),
}

/// The typed values of the command; `None` when no command was given.
fn typed(tokens: &Tokens) -> Result<Option<Invocation>, Wrong> {
    let (global, own): (Vec<Given>, Vec<Given>) =
        tokens.given.iter().cloned().partition(|given| GLOBAL.iter().any(|flag| flag.name == given.flag.name));
    let Some(command) = tokens.command else {
        from_given::<SidecarFlags>(&[GLOBAL, SIDECAR], &global)?;
        return Ok(None);
    };
    if command.name == "sidecar" {
        let flags = from_given(&[GLOBAL, SIDECAR], &tokens.given)?;
        return Ok(Some(Invocation::Sidecar(Box::new(flags))));
    }
    // The other commands do not use the global flags, whose values are checked all the same.
    from_given::<SidecarFlags>(&[GLOBAL, SIDECAR], &global)?;
    Ok(Some(match command {
        Command { name: "info", flags, .. } => Invocation::Info(from_given(&[flags], &own)?),
        Command { name: "verify", flags, .. } => Invocation::Verify(from_given(&[flags], &own)?),
        Command { flags, .. } => Invocation::Series(from_given(&[flags], &own)?),
    }))
}

/// Lets argh make the typed values. The first thing that is wrong counts, in the order of the command line.
fn from_given<T: FromArgs>(tables: &[&'static [Flag]], given: &[Given]) -> Result<T, Wrong> {
    let repeated = given.iter().enumerate().find(|(idx, later)| {
        let before = given.iter().take(*idx);
        !later.flag.is_repeatable() && before.into_iter().any(|earlier| earlier.flag.name == later.flag.name)
    });
    if let Some((idx, later)) = repeated {
        from_unique::<T>(tables, given.get(..idx).unwrap_or_default())?;
        return Err(Wrong::Value(format!("flag '{}' cannot be repeated", later.flag.name)));
    }
    let all = || tables.iter().flat_map(|table| table.iter());
    match all().find(|flag| flag.is_required() && !is_given(given, flag)) {
        Some(flag) => Err(Wrong::Missing(flag)),
        None => from_unique(tables, given),
    }
}

fn is_given(given: &[Given], flag: &Flag) -> bool {
    given.iter().any(|given| given.flag.name == flag.name)
}

fn from_unique<T: FromArgs>(tables: &[&'static [Flag]], given: &[Given]) -> Result<T, Wrong> {
    let mut pairs: Vec<(&Flag, &str)> = given.iter().map(|given| (given.flag, given.value.as_str())).collect();
    for flag in tables.iter().flat_map(|table| table.iter()) {
        if let (Presence::Default(text), false) = (flag.presence, is_given(given, flag)) {
            pairs.push((flag, text));
        }
    }
    let mut args: Vec<String> = Vec::with_capacity(pairs.len() * 2);
    for (flag, value) in &pairs {
        match (flag.is_bool(), *value) {
            (true, "true") => args.push(flag.argh_name()),
            (true, _) => {}
            (false, value) => args.extend([flag.argh_name(), value.to_owned()]),
        }
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    T::from_args(&["pillion"], &args).map_err(|early| Wrong::Value(value_error(&early.output, &pairs)))
}

/// What argh found wrong with a value, in the words of Thanos: its own spelling of the flag and the value, which may be
/// a secret, are taken off.
fn value_error(output: &str, pairs: &[(&Flag, &str)]) -> String {
    let output = output.trim_end();
    let found = pairs.iter().find_map(|(flag, value)| {
        let prefix = format!("Error parsing option '{}' with value '{value}': ", flag.argh_name());
        Some((flag, output.strip_prefix(&prefix)?))
    });
    match found {
        Some((flag, err)) => format!("--{}: {err}", flag.name),
        None => output.to_owned(),
    }
}

/// The first flag that asks for what is not built yet.
fn unsupported(given: &[Given]) -> Option<&'static Flag> {
    let asks = |given: &&Given| {
        let (value, default) = (given.value.as_str(), given.flag.default_text());
        match given.flag.value {
            _ if given.flag.status != Status::NotYet => false,
            _ if given.flag.is_repeatable() => true,
            // `180s` asks for no more than `3m` does.
            Value::Duration => value.parse::<GoDuration>() != default.parse(),
            Value::Number => value.parse::<u64>().ok() != default.parse().ok(),
            _ => value != default,
        }
    };
    given.iter().find(asks).map(|given| given.flag)
}

/// The command line for an error, with the values of flags that may hold secrets left out.
fn shown(program: &str, args: &[String]) -> Vec<String> {
    let tables = [GLOBAL, SIDECAR];
    let is_secret = |name: &str| {
        tables
            .iter()
            .flat_map(|table| table.iter())
            .any(|flag| flag.name == name && matches!(flag.value, Value::Secret(_)))
    };
    let mut out = vec![program.to_owned()];
    let mut hide_next = false;
    for arg in args {
        let hide = std::mem::take(&mut hide_next);
        match arg.strip_prefix("--") {
            Some(long) => match long.split_once('=') {
                Some((name, _)) if is_secret(name) => out.push(format!("--{name}=<hidden>")),
                Some(_) => out.push(arg.clone()),
                None => {
                    hide_next = is_secret(long);
                    out.push(arg.clone());
                }
            },
            None if hide => out.push("<hidden>".into()),
            None => out.push(arg.clone()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::COMMANDS;
    use crate::cli::values::{HashFunc, LogLevel};
    use crate::time::TimeOrDuration;
    use std::time::Duration;

    fn run(args: &str) -> Invocation {
        let args: Vec<String> = args.split(' ').filter(|arg| !arg.is_empty()).map(str::to_owned).collect();
        parse("/usr/bin/pillion", &args)
    }

    fn sidecar(args: &str) -> SidecarFlags {
        match run(args) {
            Invocation::Sidecar(flags) => *flags,
            other => panic!("{args}: {other:?}"),
        }
    }

    /// Exit code, the texts of standard output and standard error.
    fn ended(args: &str) -> (i32, String, String) {
        match run(args) {
            Invocation::Exit { code, stdout, stderr } => (code, stdout, stderr),
            other => panic!("{args}: {other:?}"),
        }
    }

    #[test]
    fn the_table_and_the_structs_are_equal() {
        // Every default of the table goes through argh here: a flag without a field, a field without a flag, or a
        // default that its type does not take would be an error.
        let flags = sidecar("sidecar");
        assert_eq!(flags.min_time, TimeOrDuration::Absolute(crate::time::YEAR_ZERO_MS));
        assert_eq!((flags.hash_func, flags.log_level), (HashFunc::None, LogLevel::Info));
        assert!(matches!(run("info --store=x:1"), Invocation::Info(_)));
        assert!(matches!(run("series --store=x:1 --match=up"), Invocation::Series(_)));
        assert!(matches!(run("verify"), Invocation::Verify(_)));
        // Flags that stand for nothing when they are not given, and switches, are tried one by one.
        for command in COMMANDS {
            for flag in GLOBAL.iter().chain(command.flags) {
                let start = match command.name {
                    "sidecar" => "sidecar",
                    "info" => "info --store=x:1",
                    "verify" => "verify",
                    _ => "series --store=x:1 --match=up",
                };
                let args = match (flag.value, flag.presence) {
                    (Value::Bool, _) => format!("{start} --{}", flag.name),
                    (_, Presence::Optional) => format!("{start} --{}=-1h", flag.name),
                    (Value::Text("HH:MM-HH:MM"), Presence::Repeatable) => {
                        format!("{start} --{0}=22:00-06:00 --{0}=12:00-13:00Z", flag.name)
                    }
                    (_, Presence::Repeatable) => format!("{start} --{}=a --{}=b", flag.name, flag.name),
                    _ => continue,
                };
                match run(&args) {
                    Invocation::Exit { code: 1, stderr, .. } if flag.status == Status::NotYet => {
                        assert_eq!(stderr, format!("pillion: error: --{} is not supported yet\n", flag.name));
                    }
                    Invocation::Exit { stderr, .. } => panic!("{args}: {stderr}"),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn values_reach_their_fields() {
        let flags = sidecar(
            "--log.level=debug sidecar --tsdb.path help --prometheus.get_config_interval=5s --no-shipper.upload-compacted \
             --shipper.skip-corrupted-blocks --min-time=-1d --hash-func=SHA256 --shipper.upload-concurrency=-3 \
             --objstore.config=type:=x --http-address=:0",
        );
        assert_eq!((flags.log_level, flags.hash_func), (LogLevel::Debug, HashFunc::Sha256));
        assert_eq!(flags.tsdb_path, "help");
        assert_eq!(flags.prometheus_get_config_interval.0, 5_000_000_000);
        assert_eq!((flags.shipper_upload_compacted, flags.shipper_skip_corrupted_blocks), (false, true));
        assert_eq!(flags.min_time, TimeOrDuration::Relative(-86_400_000));
        assert_eq!(flags.shipper_upload_concurrency, -3);
        assert_eq!(flags.objstore_config.0, "type:=x");
        assert_eq!(flags.http_address.to_string(), ":0");
    }

    #[test]
    fn the_read_commands() {
        let want = InfoFlags { store: "h:1".into(), json: true, timeout: Duration::from_secs(10) };
        assert_eq!(run("info --store h:1 --json"), Invocation::Info(want));
        let want = SeriesFlags {
            store: "h:1".into(),
            matchers: vec!["a".into(), "b".into()],
            start: Some(TimeOrDuration::Relative(-3_600_000)),
            end: Some(TimeOrDuration::Absolute(1_500)),
            skip_chunks: true,
            without_replica_labels: vec!["r".into()],
            samples: false,
            json: false,
            timeout: Duration::from_secs(1),
        };
        let args = "series --store=h:1 --match=a --match=b --start=-1h --end=1.5 --skip-chunks \
                    --without-replica-label=r --timeout=1s --log.level=debug";
        assert_eq!(run(args), Invocation::Series(want));
        for (args, code, want) in [
            ("info", 1, "pillion: error: required flag --store not provided\n"),
            ("series --store=x:1", 1, "pillion: error: required flag --match not provided\n"),
            ("info --store=x:1 --log.level=x", 2, "enum value must be"),
            ("series --store=x:1 --match=a --start=soon", 2, "--start: not a valid duration string: \"soon\""),
            ("info --store=x:1 --timeout=0s", 2, "--timeout: must be greater than 0, got 0s"),
            ("info --store=x:1 --tsdb.path=x", 1, "unknown long flag '--tsdb.path'"),
        ] {
            let (got, _, stderr) = ended(args);
            assert!(got == code && stderr.contains(want), "{args}: {got} {stderr}");
        }
    }

    #[test]
    fn help_and_version() {
        let (usage, long) = (help::usage("pillion", None), help::long_usage("pillion"));
        let of_sidecar = help::usage("pillion", COMMANDS.first());
        for (args, stdout, stderr) in [
            ("", "", usage.as_str()),
            ("--log.level=debug", "", &usage),
            ("-h", "", &usage),
            ("--help", "", &usage),
            ("help", "", &usage),
            ("help sidecar", "", &of_sidecar),
            ("sidecar --help", "", &of_sidecar),
            ("--help sidecar", "", &of_sidecar),
            ("sidecar --log.level=x -h", "", &of_sidecar),
            ("--help-long", &long, ""),
            ("--version", "", &help::version()),
            ("sidecar --version", "", &help::version()),
            ("sidecar --version --foo", "", &help::version()),
            ("sidecar --log.level=x --version", "", &help::version()),
        ] {
            assert_eq!(ended(args), (0, stdout.to_owned(), stderr.to_owned()), "{args}");
        }
    }

    #[test]
    fn what_cannot_be_understood_ends_with_1_and_one_line() {
        for (args, want) in [
            ("sidecar --foo", "unknown long flag '--foo'"),
            ("sidecar --foo --help", "unknown long flag '--foo'"),
            ("sidecar --help --foo", "unknown long flag '--foo'"),
            ("sidecar --log.level=x --foo", "unknown long flag '--foo'"),
            ("sidecar --tsdb-path=x", "unknown long flag '--tsdb-path' (did you mean --tsdb.path?)"),
            ("sidecar --tsdb.path", "expected argument for flag '--tsdb.path'"),
            ("sidecar -x", "unknown short flag '-x'"),
            ("sidecar x", "unexpected x"),
            ("compact", "expected command but got \"compact\""),
            ("sidecar --shipper.upload-compacted true", "unexpected true"),
        ] {
            assert_eq!(ended(args), (1, String::new(), format!("pillion: error: {want}\n")), "{args}");
        }
    }

    #[test]
    fn a_wrong_value_ends_with_2_and_the_usage() {
        for (args, want) in [
            ("sidecar --log.level=trace", "--log.level: enum value must be one of error,warn,info,debug, got 'trace'"),
            ("sidecar --hash-func=MD5", "--hash-func: enum value must be one of SHA256,, got 'MD5'"),
            ("--log.format=x sidecar", "--log.format: enum value must be one of logfmt,json,journald, got 'x'"),
            ("sidecar --log.level=info --log.level=info", "flag 'log.level' cannot be repeated"),
            ("--log.level=info sidecar --log.level=info", "flag 'log.level' cannot be repeated"),
            (
                "sidecar --shipper.upload-compacted --no-shipper.upload-compacted",
                "flag 'shipper.upload-compacted' cannot be repeated",
            ),
            ("sidecar --tsdb.path=a --tsdb.path=b --log.level=x", "flag 'tsdb.path' cannot be repeated"),
            ("sidecar --log.level=x --tsdb.path=a --tsdb.path=b", "--log.level: enum value must"),
            ("--log.level=x", "--log.level: enum value must"),
            ("sidecar --grpc-grace-period=5", "--grpc-grace-period: time: missing unit in duration \"5\""),
            ("sidecar --http-grace-period=1.5m", "--http-grace-period: not a valid duration string: \"1.5m\""),
            ("sidecar --http-grace-period=", "--http-grace-period: empty duration string"),
            ("sidecar --min-time=", "--min-time: empty, give an RFC 3339 time or a duration such as -1d"),
            ("sidecar --grpc-address=localhost", "--grpc-address: listen address \"localhost\": port is missing"),
            ("sidecar --shipper.upload-concurrency=x", "--shipper.upload-concurrency: not a whole number"),
            ("sidecar --reloader.method=x", "--reloader.method: enum value must be one of http,signal, got 'x'"),
            ("sidecar --store.limits.request-series=-1", "--store.limits.request-series: not a whole number"),
            ("sidecar --auto-gomemlimit.ratio=x", "--auto-gomemlimit.ratio: not a number"),
        ] {
            let (code, stdout, stderr) = ended(args);
            assert_eq!((code, stdout.as_str()), (2, ""), "{args}");
            assert!(stderr.starts_with("usage: pillion "), "{args}: {stderr}");
            let last = stderr.lines().last().unwrap();
            let start = format!("error parsing commandline arguments: [pillion {args}]: {want}");
            assert!(last.starts_with(&start), "{args}: {last}");
        }
    }

    #[test]
    fn a_wrong_url_is_named_without_being_shown() {
        let (code, _, stderr) = ended("sidecar --prometheus.url=localhost:9090");
        let want = "error parsing commandline arguments: [pillion sidecar --prometheus.url=<hidden>]: --prometheus.url: \
                    invalid URL: it must begin with http:// or https://";
        assert_eq!((code, stderr.lines().last()), (2, Some(want)));
    }

    #[test]
    fn secrets_are_not_repeated_in_errors() {
        for args in [
            "sidecar --objstore.config=hunter2 --log.level=x",
            "sidecar --objstore.config hunter2 --log.level=x",
            "sidecar --prometheus.url=http://me:hunter2@x --log.level=x",
            "sidecar --prometheus.url=http://me:hunter2@x:y",
            "sidecar --prometheus.http-client hunter2 --log.level=x",
            "sidecar --tracing.config=hunter2",
        ] {
            let (code, _, stderr) = ended(args);
            assert!(code > 0 && !stderr.contains("hunter2"), "{args}: {stderr}");
        }
        let flags = sidecar("sidecar --objstore.config=hunter2 --prometheus.url=http://me:hunter2@x");
        assert!(!format!("{flags:?}").contains("hunter2"), "{flags:?}");
    }

    #[test]
    fn what_is_not_built_yet_is_taken_at_its_default_only() {
        for args in [
            "sidecar --reloader.watch-interval=180s --reloader.method=http --reloader.process-name=prometheus",
            "sidecar --tracing.config= --store.limits.request-series=0 --grpc-server-tls-min-version=1.3 --http.config=",
        ] {
            sidecar(args);
        }
        for flag in GLOBAL.iter().chain(SIDECAR).filter(|flag| flag.status == Status::NotYet) {
            let value = match flag.value {
                Value::Enum(words) => words.iter().find(|word| **word != flag.default_text()).unwrap(),
                Value::Duration => "1m",
                Value::Number => "7",
                _ => "x",
            };
            let args = format!("sidecar --{}={value}", flag.name);
            let want = format!("pillion: error: --{} is not supported yet\n", flag.name);
            assert_eq!(ended(&args), (1, String::new(), want), "{args}");
        }
    }
}
