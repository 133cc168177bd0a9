//! The table of every flag: name, value, default, help and whether Pillion has it. It drives the parser, `--help` and
//! the table in the README. Pure.

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// Nothing: `--flag` or `--no-flag`.
    Bool,
    /// Text; the string is its placeholder in the help.
    Text(&'static str),
    /// Text that may hold secrets and is never shown.
    Secret(&'static str),
    /// One of these words.
    Enum(&'static [&'static str]),
    /// A whole number.
    Number,
    /// A duration of Go's form, `d` and `w` besides.
    Duration,
}

/// Whether Pillion has what the flag asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// As in Thanos.
    Supported,
    /// Taken and checked, without effect: it is about Go's runtime.
    NoEffect,
    /// Taken at its default, refused otherwise.
    NotYet,
    /// Pillion's own; Thanos has no such flag.
    Own,
}

/// Whether a flag may or must be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// At most once; when it is not given the text stands in. An empty text stands in too.
    Default(&'static str),
    /// At most once, and there is no text that stands for its absence.
    Optional,
    /// Exactly once.
    Required,
    /// Any number of times.
    Repeatable,
    /// Once or more.
    RequiredRepeatable,
}

/// One flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flag {
    /// Without the dashes.
    pub name: &'static str,
    /// What it takes.
    pub value: Value,
    /// Whether it may or must be given.
    pub presence: Presence,
    /// Not in `--help`, as in Thanos.
    pub hidden: bool,
    /// Whether Pillion has it.
    pub status: Status,
    /// One or two sentences for the operator.
    pub help: &'static str,
}

impl Flag {
    const fn new(name: &'static str, value: Value, default: &'static str, help: &'static str) -> Self {
        Flag { name, value, presence: Presence::Default(default), hidden: false, status: Status::Supported, help }
    }

    const fn switch(name: &'static str, help: &'static str) -> Self {
        Flag::new(name, Value::Bool, "false", help)
    }

    const fn status(self, status: Status) -> Self {
        Flag { status, ..self }
    }

    const fn not_yet(self) -> Self {
        self.status(Status::NotYet)
    }

    const fn own(self, presence: Presence) -> Self {
        Flag { presence, status: Status::Own, ..self }
    }

    const fn hidden(self) -> Self {
        Flag { hidden: true, ..self }
    }

    const fn repeatable(self) -> Self {
        Flag { presence: Presence::Repeatable, ..self }
    }

    /// The text that stands in when the flag is not given; empty when there is none.
    pub fn default_text(&self) -> &'static str {
        match self.presence {
            Presence::Default(text) => text,
            _ => "",
        }
    }

    /// Whether it takes no value.
    pub fn is_bool(&self) -> bool {
        self.value == Value::Bool
    }

    /// Whether it may be given more than once.
    pub fn is_repeatable(&self) -> bool {
        matches!(self.presence, Presence::Repeatable | Presence::RequiredRepeatable)
    }

    /// Whether it must be given.
    pub fn is_required(&self) -> bool {
        matches!(self.presence, Presence::Required | Presence::RequiredRepeatable)
    }

    /// The flag as argh spells it: `.` and `_` become `-`.
    pub fn argh_name(&self) -> String {
        format!("--{}", self.name.replace(['.', '_'], "-"))
    }
}

const PATH: Value = Value::Text("file-path");
const CONTENT: Value = Value::Secret("content");
const ADDRESS: Value = Value::Text("host:port");
const BYTES: Value = Value::Text("bytes");

/// The words of `--log.level`.
pub const LOG_LEVELS: &[&str] = &["error", "warn", "info", "debug"];
/// The words of `--log.format`.
pub const LOG_FORMATS: &[&str] = &["logfmt", "json", "journald"];
/// The words of `--hash-func`.
pub const HASH_FUNCS: &[&str] = &["SHA256", ""];
/// The words of `--grpc-server-tls-min-version`.
pub const TLS_VERSIONS: &[&str] = &["1.0", "1.1", "1.2", "1.3"];
/// The words of `--reloader.method`.
pub const RELOAD_METHODS: &[&str] = &["http", "signal"];

/// Flags that may stand before or after the command.
pub const GLOBAL: &[Flag] = &[
    Flag::new("log.level", Value::Enum(LOG_LEVELS), "info", "Least severe level of the lines that are logged."),
    Flag::new("log.format", Value::Enum(LOG_FORMATS), "logfmt", "Format of the log on standard error."),
    Flag::new("debug.name", Value::Text("name"), "", "Name that is added to every line of the log.").hidden(),
    Flag::new("tracing.config-file", PATH, "", "File with the tracing configuration, in YAML.").not_yet(),
    Flag::new("tracing.config", CONTENT, "", "The tracing configuration itself, in place of --tracing.config-file.")
        .not_yet(),
    Flag::switch("enable-auto-gomemlimit", "Would set the memory limit of Go's runtime, which Pillion does not have.")
        .status(Status::NoEffect),
    Flag::new(
        "auto-gomemlimit.ratio",
        Value::Number,
        "0.9",
        "Share of the memory for Go's runtime, above 0 and at most 1. Checked, and without effect.",
    )
    .status(Status::NoEffect),
];

/// Flags of the `sidecar` command.
pub const SIDECAR: &[Flag] = &[
    Flag::new("http-address", ADDRESS, "0.0.0.0:10902", "Where metrics and probes are served over HTTP."),
    Flag::new(
        "http-grace-period",
        Value::Text("duration"),
        "2m",
        "Time that open HTTP requests get when the sidecar stops.",
    ),
    Flag::new("http.config", PATH, "", "File with TLS and authentication settings of the HTTP server.").not_yet(),
    Flag::new("grpc-address", ADDRESS, "0.0.0.0:10901", "Where the StoreAPI is served over gRPC."),
    Flag::new("grpc-server-tls-cert", PATH, "", "Certificate of the gRPC server; empty serves without TLS.").not_yet(),
    Flag::new("grpc-server-tls-key", PATH, "", "Key of the gRPC server's certificate; empty serves without TLS.")
        .not_yet(),
    Flag::new(
        "grpc-server-tls-client-ca",
        PATH,
        "",
        "Authorities of client certificates; when given, every client needs one.",
    )
    .not_yet(),
    Flag::new(
        "grpc-server-tls-min-version",
        Value::Enum(TLS_VERSIONS),
        "1.3",
        "Oldest version of TLS that gRPC clients may use.",
    )
    .not_yet(),
    Flag::new("grpc-server-tls-ciphers", Value::Text("name"), "", "Cipher suite that gRPC clients may use.")
        .repeatable()
        .not_yet(),
    Flag::new("grpc-server-tls-curves", Value::Text("name"), "", "Key exchange curve that gRPC clients may use.")
        .repeatable()
        .not_yet(),
    Flag::new(
        "grpc-server-max-connection-age",
        Value::Duration,
        "60m",
        "Age at which a gRPC connection is asked to end, so that clients spread out again; 0 or less is never.",
    ),
    Flag::new("grpc-grace-period", Value::Duration, "2m", "Time that open gRPC calls get when the sidecar stops."),
    Flag::new("prometheus.url", Value::Secret("url"), "http://localhost:9090", "Where Prometheus's API is reached."),
    Flag::new(
        "prometheus.ready_timeout",
        Value::Duration,
        "10m",
        "Longest wait for Prometheus at start before uploads are given up.",
    ),
    Flag::new(
        "prometheus.get_config_interval",
        Value::Duration,
        "30s",
        "How often Prometheus is asked for its external labels and its time range.",
    ),
    Flag::new("prometheus.get_config_timeout", Value::Duration, "30s", "Time-out of one such round of questions."),
    Flag::new("prometheus.http-client-file", PATH, "", "File with the HTTP client's settings for Prometheus, in YAML.")
        .not_yet(),
    Flag::new(
        "prometheus.http-client",
        CONTENT,
        "",
        "The HTTP client's settings themselves, in place of --prometheus.http-client-file.",
    )
    .not_yet(),
    Flag::new("tsdb.path", Value::Text("folder"), "./data", "Prometheus's data folder, whose blocks are uploaded."),
    Flag::new("reloader.config-file", PATH, "", "Prometheus configuration that is watched.").not_yet(),
    Flag::new(
        "reloader.config-envsubst-file",
        PATH,
        "",
        "Where the watched configuration is written with environment variables filled in.",
    )
    .not_yet(),
    Flag::new("reloader.rule-dir", Value::Text("folder"), "", "Folder of rules that is watched.")
        .repeatable()
        .not_yet(),
    Flag::new("reloader.watch-interval", Value::Duration, "3m", "How often the watched files are read anyway.")
        .not_yet(),
    Flag::new("reloader.retry-interval", Value::Duration, "5s", "Wait after a reload that failed.").not_yet(),
    Flag::new("reloader.method", Value::Enum(RELOAD_METHODS), "http", "How Prometheus is told to reload.").not_yet(),
    Flag::new(
        "reloader.process-name",
        Value::Text("name"),
        "prometheus",
        "Name of the process that gets the signal, when --reloader.method is signal.",
    )
    .not_yet(),
    Flag::new("request.logging-config-file", PATH, "", "File that says which requests are logged, in YAML.").not_yet(),
    Flag::new(
        "request.logging-config",
        CONTENT,
        "",
        "The same configuration itself, in place of --request.logging-config-file.",
    )
    .not_yet(),
    Flag::new(
        "objstore.config-file",
        PATH,
        "",
        "File with the object storage configuration, in YAML; $(NAME) stands for an environment variable. Without one \
         nothing is uploaded.",
    ),
    Flag::new(
        "objstore.config",
        CONTENT,
        "",
        "The object storage configuration itself, in place of --objstore.config-file.",
    ),
    Flag::switch("shipper.upload-compacted", "Upload compacted blocks too, for moving old data to object storage."),
    Flag::switch(
        "shipper.ignore-unequal-block-size",
        "Go on although Prometheus's shortest and longest block differ, which means that it compacts.",
    )
    .hidden(),
    Flag::switch("shipper.allow-out-of-order-uploads", "Go on to the next block when one could not be uploaded.")
        .hidden(),
    Flag::switch("shipper.skip-corrupted-blocks", "Pass over blocks that cannot be read.").hidden(),
    Flag::new(
        "hash-func",
        Value::Enum(HASH_FUNCS),
        "",
        "Hash function over the files of each block, written into its meta.json; empty is none.",
    ),
    Flag::new(
        "shipper.meta-file-name",
        Value::Text("name"),
        "thanos.shipper.json",
        "Name of the file under --tsdb.path that lists uploaded blocks.",
    ),
    Flag::new(
        "shipper.upload-concurrency",
        Value::Number,
        "0",
        "How many files of a block are uploaded at once; 0 is one.",
    ),
    Flag::new(
        "shipper.upload-rate-limit",
        BYTES,
        "",
        "Most bytes per second that uploads send, over all connections together, such as 10MB or 2.5MiB; 0 is no limit.",
    )
    .own(Presence::Default("0")),
    Flag::new(
        "shipper.upload-jitter",
        Value::Duration,
        "",
        "Longest random delay before uploads begin, so that a fleet does not upload in the same second; 0 is none.",
    )
    .own(Presence::Default("10s")),
    Flag::new(
        "shipper.upload-window",
        Value::Text("HH:MM-HH:MM"),
        "",
        "Time of day in UTC at which uploads may go on, or with an offset behind it as in 22:00-06:00+01:00; without any they always may.",
    )
    .own(Presence::Repeatable),
    Flag::new(
        "shipper.upload-limits-file",
        PATH,
        "",
        "YAML file with rate_limit, jitter and windows, which replace the three flags above; it is read again at SIGHUP.",
    )
    .own(Presence::Default("")),
    Flag::new(
        "shipper.claim-budget",
        BYTES,
        "",
        "Most bytes of blocks that are kept for the upload after Prometheus has deleted them, such as 5GiB; 0 is a tenth of the file system under --tsdb.path.",
    )
    .own(Presence::Default("0")),
    Flag::new(
        "store.limits.request-series",
        Value::Number,
        "0",
        "Most series one Series call may return; 0 is no limit.",
    ),
    Flag::new(
        "store.limits.request-samples",
        Value::Number,
        "0",
        "Most samples one Series call may return, counted as 120 for each chunk; 0 is no limit.",
    ),
    Flag::new(
        "store.limits.concurrent-calls",
        Value::Number,
        "",
        "Series and label calls that are answered at once; up to 256 more wait, and further ones get RESOURCE_EXHAUSTED.",
    )
    .own(Presence::Default("16")),
    Flag::new(
        "store.limits.bytes-in-flight",
        Value::Number,
        "",
        "Bytes that all Series calls together may hold while they sort; 0 is half of the memory limit of the control \
         group (systemd: MemoryMax), and no limit where there is none.",
    )
    .own(Presence::Default("0")),
    Flag::new(
        "min-time",
        Value::Text("time"),
        "0000-01-01T00:00:00Z",
        "Start of the time range that is served: an RFC 3339 time, or a duration such as -1d that is counted from now.",
    ),
];

const STORE: Flag = Flag::new("store", ADDRESS, "", "The StoreAPI server to ask.").own(Presence::Required);
const JSON: Flag = Flag::switch("json", "Print JSON, one value on a line.").own(Presence::Default("false"));

/// Flags of the `info` command.
pub const INFO: &[Flag] = &[
    STORE,
    JSON,
    Flag::new("timeout", Value::Duration, "", "Longest wait for the answer.").own(Presence::Default("10s")),
];

/// Flags of the `series` command.
pub const SERIES: &[Flag] = &[
    STORE,
    Flag::new(
        "match",
        Value::Text("selector"),
        "",
        "Series to read, such as {job=\"node\"}; several give all of them.",
    )
    .own(Presence::RequiredRepeatable),
    Flag::new(
        "start",
        Value::Text("time"),
        "",
        "Start of the time range: RFC 3339, seconds since 1970, or a duration such as -1h from now. Default: the \
         oldest.",
    )
    .own(Presence::Optional),
    Flag::new("end", Value::Text("time"), "", "End of the time range, written like --start. Default: the newest.")
        .own(Presence::Optional),
    Flag::switch("skip-chunks", "Read the labels only.").own(Presence::Default("false")),
    Flag::new("without-replica-label", Value::Text("name"), "", "Label that the server leaves out of the answer.")
        .own(Presence::Repeatable),
    Flag::switch("samples", "Print every sample.").own(Presence::Default("false")),
    JSON,
    Flag::new("timeout", Value::Duration, "", "Longest wait for the whole answer.").own(Presence::Default("30s")),
];

/// Flags of the `verify` command.
pub const VERIFY: &[Flag] = &[
    Flag::new("objstore.config-file", PATH, "", "File with the object storage configuration, as for the sidecar.")
        .own(Presence::Default("")),
    Flag::new(
        "objstore.config",
        CONTENT,
        "",
        "The object storage configuration itself, in place of --objstore.config-file.",
    )
    .own(Presence::Default("")),
    Flag::new("tsdb.path", Value::Text("folder"), "", "Prometheus's data folder, whose blocks are compared.")
        .own(Presence::Default("./data")),
    Flag::new("shipper.meta-file-name", Value::Text("name"), "", "Name of the file that lists uploaded blocks.")
        .own(Presence::Default("thanos.shipper.json")),
    Flag::switch("shipper.upload-compacted", "Compare compacted blocks too that were never shipped.")
        .own(Presence::Default("false")),
    Flag::switch(
        "repair",
        "Send what is missing or wrong, meta.json last. A block that was shipped and is gone from the bucket is left alone.",
    )
    .own(Presence::Default("false")),
    Flag::new(
        "label",
        Value::Text("name=value"),
        "",
        "External label for a repaired block whose labels neither the bucket nor a claim knows; give all of them.",
    )
    .own(Presence::Repeatable),
    JSON,
];

/// A command with its flags.
#[derive(Debug, Clone, Copy)]
pub struct Command {
    /// The word on the command line.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Its flags, the global ones aside.
    pub flags: &'static [Flag],
}

/// Every command.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "sidecar",
        help: "Run beside a Prometheus server: serve its data over the StoreAPI and upload its blocks.",
        flags: SIDECAR,
    },
    Command { name: "info", help: "Ask a StoreAPI server what it is and what it has.", flags: INFO },
    Command { name: "series", help: "Read series from a StoreAPI server.", flags: SERIES },
    Command {
        name: "verify",
        help: "Compare the bucket with the local blocks, and send what is missing if asked to.",
        flags: VERIFY,
    },
];

/// The README's table of the global flags and those of the sidecar.
pub fn markdown_table() -> String {
    let mut out = String::from("| Flag | Default | What it does | Status |\n|---|---|---|---|\n");
    for flag in GLOBAL.iter().chain(SIDECAR) {
        let spelled = if flag.is_bool() { format!("--[no-]{}", flag.name) } else { format!("--{}", flag.name) };
        let default = match flag.default_text() {
            "" => String::new(),
            text => format!("`{text}`"),
        };
        let words = match flag.value {
            Value::Enum(words) => {
                let named: Vec<String> =
                    words.iter().filter(|word| !word.is_empty()).map(|word| format!("`{word}`")).collect();
                format!(" One of {}.", named.join(", "))
            }
            _ => String::new(),
        };
        let repeat = if flag.is_repeatable() { " May be repeated." } else { "" };
        let hidden = if flag.hidden { " Not in `--help`." } else { "" };
        let status = match flag.status {
            Status::Supported => "supported",
            Status::NoEffect => "accepted, no effect",
            Status::NotYet => "not yet: refused unless at its default",
            Status::Own => "Pillion's own",
        };
        let help = flag.help.replace('|', "\\|");
        out.push_str(&format!("| `{spelled}` | {default} | {help}{words}{repeat}{hidden} | {status} |\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_also_as_argh_spells_them() {
        for command in COMMANDS {
            let mut names: Vec<String> = GLOBAL.iter().chain(command.flags).map(Flag::argh_name).collect();
            names.sort();
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count, "{}", command.name);
            assert!(names.iter().all(|name| !name.starts_with("--no-")), "--no-x would be ambiguous");
        }
    }

    #[test]
    fn the_sidecar_has_the_flags_of_thanos() {
        // Counted in Thanos, both halves of each pair with a file. A flag more or less is a decision, not an accident.
        assert_eq!((GLOBAL.len(), SIDECAR.len()), (7, 47));
        assert_eq!(GLOBAL.iter().chain(SIDECAR).filter(|flag| flag.status == Status::Own).count(), 7);
        assert!(SIDECAR.iter().all(|flag| !flag.is_required()));
        let hidden: Vec<&str> = GLOBAL.iter().chain(SIDECAR).filter(|flag| flag.hidden).map(|flag| flag.name).collect();
        assert_eq!(
            hidden,
            [
                "debug.name",
                "shipper.ignore-unequal-block-size",
                "shipper.allow-out-of-order-uploads",
                "shipper.skip-corrupted-blocks"
            ]
        );
    }

    #[test]
    fn every_help_text_is_a_sentence_and_every_row_has_four_cells() {
        for flag in GLOBAL.iter().chain(COMMANDS.iter().flat_map(|command| command.flags)) {
            assert!(flag.help.ends_with('.') && !flag.help.contains('\n'), "{}", flag.name);
        }
        let table = markdown_table();
        assert_eq!(table.lines().count(), 2 + GLOBAL.len() + SIDECAR.len());
        for line in table.lines() {
            assert_eq!(line.replace("\\|", "").matches('|').count(), 5, "{line}");
        }
    }
}
