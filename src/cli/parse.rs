//! From arguments to what is to be done. `token` splits the arguments by the rules of Thanos's parser, and argh fills
//! the structs in `flags` with the typed values. This module decides which mistake counts, where each text goes, and
//! the exit code. Prints nothing.

use std::path::Path;

use argh::FromArgs;

use crate::cli::flag::{Arg, Flag, Given, Presence, Value};
use crate::cli::flags::{
    CAT, CHECK, COMMANDS, CatFlags, CheckFlags, GLOBAL, INFO, InfoFlags, LS, LsFlags, SERIES, SIDECAR, STATUS,
    SeriesFlags, SidecarFlags, StatusFlags, VERIFY, VerifyFlags,
};
use crate::cli::help;
use crate::cli::token::{self, Ask, Tokens};

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Invocation {
    /// Run the sidecar.
    Sidecar(Box<SidecarFlags>),
    /// Ask a running sidecar what it is doing.
    Status(StatusFlags),
    /// Look what the sidecar with these flags would meet.
    Check(Box<SidecarFlags>, CheckFlags),
    /// Ask a store what it is.
    Info(InfoFlags),
    /// Read series from a store.
    Series(SeriesFlags),
    /// Compare the bucket with the local blocks.
    Verify(VerifyFlags),
    /// List this folder of the bucket; the root is empty.
    Ls(LsFlags, String),
    /// Write this object of the bucket to standard output.
    Cat(CatFlags, String),
    /// Print these texts and end.
    Exit {
        /// 0; 1 for a command line that cannot be understood; 2 for a value that cannot be understood.
        code: i32,
        /// For standard output.
        stdout: String,
        /// For standard error.
        stderr: String,
    },
}

/// Reads the command line and the files that it names with `@`. `args` are without the program's name.
pub(crate) fn parse(program: &str, args: &[String]) -> Invocation {
    let program = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or("pillion");
    let tokens = token::split(args);
    // These two count as soon as they are seen, whatever is wrong after them.
    match tokens.asked.iter().find(|ask| **ask != Ask::Help) {
        Some(Ask::Version) => return exit(0, String::new(), help::version()),
        Some(_) => return exit(0, help::long_usage(program), String::new()),
        None => {}
    }
    if let Some(err) = tokens.error {
        return refused(program, &err);
    }
    if !tokens.asked.is_empty() {
        return exit(0, String::new(), usage(program, &tokens));
    }
    match typed(&tokens) {
        Ok(Some(invocation)) => invocation,
        Ok(None) => exit(0, String::new(), usage(program, &tokens)),
        Err(Wrong::Missing(flag)) => refused(program, &format!("required flag --{} not provided", flag.name)),
        Err(Wrong::MissingArg(arg)) => refused(program, &format!("required argument <{}> not provided", arg.name)),
        Err(Wrong::Value(err)) => {
            let usage = usage(program, &tokens);
            let argv = shown(program, args).join(" ");
            exit(2, String::new(), format!("{usage}\nerror parsing commandline arguments: [{argv}]: {err}\n"))
        }
    }
}

/// The usage of what was named: a command, a group, or the program.
fn usage(program: &str, tokens: &Tokens) -> String {
    match (tokens.command, tokens.group) {
        (None, Some(group)) => help::group_usage(program, group),
        (command, _) => help::usage(program, command),
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
    MissingArg(&'static Arg),
    Value(String),
}

/// The typed values of the command; `None` when no command was given.
fn typed(tokens: &Tokens) -> Result<Option<Invocation>, Wrong> {
    let sidecar = |given: &[Given]| from_given::<SidecarFlags>(&[GLOBAL, SIDECAR], given);
    let (global, own): (Vec<Given>, Vec<Given>) =
        tokens.given.iter().cloned().partition(|given| GLOBAL.iter().any(|flag| flag.name == given.flag.name));
    let name = tokens.command.map(|command| command.name);
    if name == Some("sidecar") {
        return Ok(Some(Invocation::Sidecar(Box::new(sidecar(&tokens.given)?))));
    }
    if name == Some("check") {
        let is_own = |given: &Given| CHECK.iter().any(|flag| flag.name == given.flag.name);
        let (own, sidecars): (Vec<Given>, Vec<Given>) = tokens.given.iter().cloned().partition(is_own);
        return Ok(Some(Invocation::Check(Box::new(sidecar(&sidecars)?), from_given(&[CHECK], &own)?)));
    }
    // The other commands do not use the global flags, but their values are checked all the same, and first.
    sidecar(&global)?;
    // An argument that may be absent is an empty text then.
    let arg = |idx: usize| match (tokens.args.get(idx), tokens.command.and_then(|command| command.args.get(idx))) {
        (None, Some(arg)) if arg.is_required => Err(Wrong::MissingArg(arg)),
        (given, _) => Ok(given.cloned().unwrap_or_default()),
    };
    Ok(match name {
        None => None,
        Some("status") => Some(Invocation::Status(from_given(&[STATUS], &own)?)),
        Some("info") => Some(Invocation::Info(from_given(&[INFO], &own)?)),
        Some("verify" | "bucket verify") => Some(Invocation::Verify(from_given(&[VERIFY], &own)?)),
        Some("bucket ls") => Some(Invocation::Ls(from_given(&[LS], &own)?, arg(0)?)),
        Some("bucket cat") => Some(Invocation::Cat(from_given(&[CAT], &own)?, arg(0)?)),
        Some(_) => Some(Invocation::Series(from_given(&[SERIES], &own)?)),
    })
}

/// Lets argh make the typed values. It gets the defaults behind the given values, so that only the table has them. What
/// is wrong first on the command line counts, but a missing flag counts before a wrong value.
fn from_given<T: FromArgs>(tables: &[&'static [Flag]], given: &[Given]) -> Result<T, Wrong> {
    let flags = || tables.iter().flat_map(|table| table.iter());
    let count = |flag: &Flag| given.iter().filter(|given| given.flag.name == flag.name).count();
    let missing = flags().find(|flag| flag.is_required() && count(flag) == 0);
    let repeated = flags().any(|flag| !flag.is_repeatable() && count(flag) > 1);
    if let (Some(flag), false) = (missing, repeated) {
        return Err(Wrong::Missing(flag));
    }
    let defaults = flags().filter_map(|flag| match flag.presence {
        Presence::Default(text) if count(flag) == 0 => Some((flag, text)),
        _ => None,
    });
    let pairs: Vec<(&Flag, &str)> =
        given.iter().map(|given| (given.flag, given.value.as_str())).chain(defaults).collect();
    let args: Vec<String> = pairs.iter().flat_map(|(flag, value)| [flag.argh_name(), (*value).to_owned()]).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    T::from_args(&["pillion"], &args).map_err(|early| Wrong::Value(value_error(&early.output, &pairs)))
}

/// What argh found wrong with a value, in the words of Thanos: argh's spelling of the flag is left out, and so is the
/// value, which may be a secret.
fn value_error(output: &str, pairs: &[(&Flag, &str)]) -> String {
    let errs = pairs.iter().filter_map(|(flag, value)| {
        let prefix = format!("Error parsing option '{}' with value '{value}': ", flag.argh_name());
        Some((flag, output.strip_prefix(&prefix)?.trim_end()))
    });
    // One value may be the beginning of another one, whose rest must not be taken for the error.
    match errs.min_by_key(|(_, err)| err.len()) {
        Some((flag, "duplicate values provided")) => format!("flag '{}' cannot be repeated", flag.name),
        Some((flag, err)) => format!("--{}: {err}", flag.name),
        None => "the flags do not fit their table".to_owned(),
    }
}

/// The command line as errors show it, without the values of flags that may hold secrets.
fn shown(program: &str, args: &[String]) -> Vec<String> {
    let is_secret = |name: &str| {
        let mut flags = GLOBAL.iter().chain(COMMANDS.iter().flat_map(|command| command.flags));
        flags.any(|flag| flag.name == name && matches!(flag.value, Value::Secret(_)))
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
    use crate::cli::flags::GROUPS;
    use crate::cli::values::HashFunc;
    use crate::log_format::LogLevel;
    use pillion_base::secret::Secret;
    use pillion_base::time::TimeOrDuration;
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

    /// The exit code and the texts for standard output and standard error.
    fn ended(args: &str) -> (i32, String, String) {
        match run(args) {
            Invocation::Exit { code, stdout, stderr } => (code, stdout, stderr),
            other => panic!("{args}: {other:?}"),
        }
    }

    #[test]
    fn the_table_and_the_structs_are_equal() {
        // Every default of the tables is read here. It would be an error if its type did not take it, or if the
        // presence did not fit the reader.
        let flags = sidecar("sidecar");
        assert_eq!(flags.min_time, TimeOrDuration::Absolute(pillion_base::time::YEAR_ZERO_MS));
        assert_eq!((flags.hash_func, flags.log_level), (HashFunc::None, LogLevel::Info));
        assert!(matches!(run("info --store=x:1"), Invocation::Info(_)));
        assert!(matches!(run("series --store=x:1 --match=up"), Invocation::Series(_)));
        assert!(matches!(run("verify"), Invocation::Verify(_)));
        // Switches and flags without a default are tried one by one.
        for command in COMMANDS {
            for flag in GLOBAL.iter().chain(command.flags) {
                let start = match command.name {
                    name @ ("sidecar" | "check") => name,
                    "info" => "info --store=x:1",
                    "bucket cat" => "bucket cat x",
                    name @ ("verify" | "bucket ls" | "bucket verify") => name,
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
                if let Invocation::Exit { stderr, .. } = run(&args) {
                    panic!("{args}: {stderr}");
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
        let want = InfoFlags {
            store: "h:1".into(),
            json: true,
            tls: true,
            tls_ca: "/ca".into(),
            tls_cert: String::new(),
            tls_key: String::new(),
            tls_server_name: String::new(),
            insecure_skip_verify: false,
            timeout: Duration::from_secs(10),
        };
        assert_eq!(run("info --store h:1 --json --tls --tls-ca=/ca"), Invocation::Info(want));
        let want = SeriesFlags {
            store: "h:1".into(),
            matchers: vec!["a".into(), "b".into()],
            start: Some(TimeOrDuration::Relative(-3_600_000)),
            end: Some(TimeOrDuration::Absolute(1_500)),
            skip_chunks: true,
            without_replica_labels: vec!["r".into()],
            samples: false,
            json: false,
            tls: false,
            tls_ca: String::new(),
            tls_cert: String::new(),
            tls_key: String::new(),
            tls_server_name: "x".into(),
            insecure_skip_verify: true,
            timeout: Duration::from_secs(1),
        };
        let args = "series --store=h:1 --match=a --match=b --start=-1h --end=1.5 --skip-chunks \
                    --without-replica-label=r --timeout=1s --tls-server-name=x --insecure-skip-verify --log.level=debug";
        assert_eq!(run(args), Invocation::Series(want));
        for (args, code, want) in [
            ("info", 1, "pillion: error: required flag --store not provided\n"),
            ("series --store=x:1", 1, "pillion: error: required flag --match not provided\n"),
            ("info --store=x:1 --log.level=x", 2, "enum value must be"),
            ("series --store=x:1 --match=a --start=soon", 2, "--start: not a valid duration string: \"soon\""),
            ("info --store=x:1 --timeout=0s", 2, "--timeout: must be greater than 0, got 0s"),
            ("info --json --json --store=x:1", 2, ": flag 'json' cannot be repeated\n"),
            ("info --store=x:1 --tsdb.path=x", 1, "unknown long flag '--tsdb.path'"),
        ] {
            let (got, _, stderr) = ended(args);
            assert!(got == code && stderr.contains(want), "{args}: {got} {stderr}");
        }
    }

    #[test]
    fn the_check_takes_the_flags_of_the_sidecar_and_its_own() {
        let args = "--log.level=debug --tsdb.path=/x --objstore.config=y --min-time=-1d --dry-run";
        let own = CheckFlags { json: true, read_only: false, timeout: Duration::from_secs(3) };
        let want = Invocation::Check(Box::new(sidecar(&format!("sidecar {args}"))), own);
        assert_eq!(run(&format!("check --json {args} --timeout=3s")), want);
        for (args, code, want) in [
            ("check --timeout=0s", 2, "--timeout: must be greater than 0, got 0s"),
            ("check --json --json", 2, "flag 'json' cannot be repeated"),
            ("check --hash-func=MD5", 2, "--hash-func: enum value must be one of SHA256,, got 'MD5'"),
            ("check --repair", 1, "unknown long flag '--repair'"),
            ("sidecar --read-only", 1, "unknown long flag '--read-only'"),
        ] {
            let (got, _, stderr) = ended(args);
            assert!(got == code && stderr.contains(want), "{args}: {got} {stderr}");
        }
    }

    #[test]
    fn the_commands_of_the_bucket() {
        let config = || Secret("x".into());
        let want = LsFlags {
            objstore_config_file: "f".into(),
            objstore_config: Secret::default(),
            recursive: true,
            long: true,
            json: false,
        };
        assert_eq!(
            run("bucket ls --objstore.config-file=f --recursive a/b --long"),
            Invocation::Ls(want, "a/b".into())
        );
        let plain = LsFlags {
            objstore_config_file: String::new(),
            objstore_config: config(),
            recursive: false,
            long: false,
            json: true,
        };
        assert_eq!(run("bucket ls --objstore.config=x --json"), Invocation::Ls(plain, String::new()));
        let cat = CatFlags { objstore_config_file: String::new(), objstore_config: config() };
        assert_eq!(run("bucket cat --objstore.config=x a/b"), Invocation::Cat(cat, "a/b".into()));
        assert_eq!(run("bucket verify --repair --label=a=b"), run("verify --repair --label=a=b"));
        let of_group = help::group_usage("pillion", GROUPS[0]);
        let of = |name: &str| help::usage("pillion", COMMANDS.iter().find(|command| command.name == name));
        for (args, want) in [
            ("bucket", of_group.clone()),
            ("bucket --log.level=debug", of_group.clone()),
            ("bucket --help", of_group.clone()),
            ("help bucket", of_group),
            ("help bucket cat", of("bucket cat")),
            ("bucket cat -h", of("bucket cat")),
        ] {
            assert_eq!(ended(args), (0, String::new(), want), "{args}");
        }
        for (args, code, want) in [
            ("bucket cat", 1, "pillion: error: required argument <object> not provided\n"),
            ("bucket cat a b", 1, "pillion: error: unexpected b\n"),
            ("bucket ls a b", 1, "pillion: error: unexpected b\n"),
            ("bucket nothing", 1, "expected command but got \"bucket nothing\""),
            ("bucket ls --json --json", 2, ": flag 'json' cannot be repeated\n"),
            ("bucket cat a --objstore.config=hunter2 --log.level=x", 2, "--objstore.config=<hidden>"),
            ("bucket ls --objstore.config hunter2 --log.level=x", 2, "--objstore.config <hidden>"),
        ] {
            let (got, _, stderr) = ended(args);
            assert!(got == code && stderr.contains(want) && !stderr.contains("hunter2"), "{args}: {got} {stderr}");
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
            "sidecar --tracing.config=hunter2 --log.level=x",
        ] {
            let (code, _, stderr) = ended(args);
            assert!(code > 0 && !stderr.contains("hunter2"), "{args}: {stderr}");
        }
        // The second value begins like the first one with what argh writes after it.
        let args = ["sidecar", "--objstore.config=x", "--objstore.config=x': hunter2"].map(str::to_owned);
        let repeated = format!("{:?}", parse("pillion", &args));
        assert!(repeated.contains("cannot be repeated") && !repeated.contains("hunter2"), "{repeated}");
        let flags = sidecar("sidecar --objstore.config=hunter2 --prometheus.url=http://me:hunter2@x");
        assert!(!format!("{flags:?}").contains("hunter2"), "{flags:?}");
    }
}
