//! What the YAML of `--tracing.config` says (the format of Thanos's). Every key is known or refused, with its line; no
//! header's value is ever part of an error. Reads no file. Pure.

use std::fmt;
use std::time::Duration;

use pillion_base::content::Content;
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::secret::Secret;
use pillion_base::time::GoDuration;
use pillion_base::yaml::{self, Node};
use pillion_http::client::tls_config;
use pillion_http::tls::ClientSettings;

use crate::environment::{self as environment, Env};
use crate::limits;
use crate::propagate::Propagators;
use crate::sampler::Sampler;

/// The keys of `config`.
const KEYS: [&str; 14] = [
    "client_type",
    "service_name",
    "resource_attributes",
    "reconnection_period",
    "compression",
    "insecure",
    "endpoint",
    "url_path",
    "timeout",
    "retry_config",
    "headers",
    "tls_config",
    "sampler_type",
    "sampler_param",
];

/// What OTLP is spoken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Protobuf in HTTP/1.1.
    Http,
    /// gRPC.
    Grpc,
}

/// The whole configuration of tracing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where spans go.
    pub collector: Collector,
    /// What is said of this process.
    pub(crate) resource: Vec<(String, String)>,
    pub(crate) retry: Retry,
    pub(crate) sampler: Sampler,
    pub(crate) propagators: Propagators,
}

/// Where the collector is, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    /// How.
    pub protocol: Protocol,
    /// `host:port`.
    pub endpoint: String,
    /// The path of the URL; of HTTP only.
    pub url_path: String,
    /// `None` speaks without TLS.
    pub tls: Option<ClientSettings>,
    /// Whether requests are compressed.
    pub is_gzip: bool,
    /// On each request; names in lower case.
    pub headers: Vec<(String, Secret)>,
    /// Of one request.
    pub timeout: Duration,
    /// Shortest time between two tries to connect; of gRPC only.
    pub reconnection_period: Option<Duration>,
}

/// How often a request is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retry {
    pub(crate) is_enabled: bool,
    pub(crate) initial: Duration,
    pub(crate) max: Duration,
    /// From the first try on.
    pub(crate) elapsed_max: Duration,
}

/// `Source:` OpenTelemetry's exporters.
impl Default for Retry {
    fn default() -> Self {
        Retry {
            is_enabled: true,
            initial: limits::RETRY_INITIAL,
            max: limits::RETRY_MAX,
            elapsed_max: limits::RETRY_ELAPSED_MAX,
        }
    }
}

impl Config {
    /// Reads the YAML and, below it, the environment variables of OpenTelemetry.
    ///
    /// `Errors:` permanent, each with the origin, the line and what to change.
    /// `Differs:` Thanos ignores unknown keys below `config`, and values that it does not understand.
    pub fn parse(content: &Content, env: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        read(&content.text, env).context(|| format!("parsing the tracing configuration of {}", content.origin))
    }
}

fn read(text: &str, env: Env<'_>) -> Result<Config> {
    let root = yaml::parse(text)?;
    root.check_fields("the tracing configuration", &["type", "config"])?;
    let Some(kind) = text_of(&root, "type")? else {
        return Err(root.error("type is missing; write type: OTLP"));
    };
    if let Some(advice) = otlp_instead(kind) {
        return Err(wrong(&root, "type", advice));
    }
    let Some(node) = section(&root, "config") else {
        return Err(root.error("config is missing; it needs client_type: http or client_type: grpc at least"));
    };
    node.check_fields("config", &KEYS)?;
    let (sampler_type, sampler_param) = (text_of(node, "sampler_type")?, text_of(node, "sampler_param")?);
    let sampler = Sampler::parse(sampler_type.unwrap_or_default(), sampler_param.unwrap_or_default())
        .map_err(|(key, text)| wrong(node, if node.get(key).is_some() { key } else { "sampler_type" }, text))?;
    Ok(Config {
        collector: collector(node, env)?,
        resource: resource(node, env)?,
        retry: section(node, "retry_config").map_or_else(|| Ok(Retry::default()), retry)?,
        sampler,
        propagators: environment::propagators(env)?,
    })
}

/// For a type that is not OTLP: that it is not spoken, and how its backend takes OTLP.
fn otlp_instead(kind: &str) -> Option<String> {
    let way = match kind.to_ascii_uppercase().as_str() {
        "OTLP" => return None,
        "JAEGER" => {
            "Jaeger takes OTLP: write type: OTLP with client_type: grpc, endpoint: jaeger-collector:4317 and \
             insecure: true (or client_type: http and port 4318)"
        }
        "GOOGLE_CLOUD" | "STACKDRIVER" => {
            "Google Cloud takes OTLP: run an OpenTelemetry collector, which has the credentials, and write type: OTLP \
             with client_type: grpc, endpoint: otel-collector:4317 and insecure: true"
        }
        "ELASTIC_APM" => {
            "Elastic's APM server takes OTLP: write type: OTLP with client_type: http, endpoint: apm-server:8200 and \
             headers: {Authorization: Bearer <secret token>}"
        }
        "LIGHTSTEP" => {
            "Lightstep takes OTLP: write type: OTLP with client_type: grpc, endpoint: ingest.lightstep.com:443 and \
             headers: {lightstep-access-token: <token>}"
        }
        _ => return Some("tracing of this type is not supported; write type: OTLP".to_owned()),
    };
    Some(format!("tracing with type {} is not supported. {way}", kind.to_ascii_uppercase()))
}

fn collector(node: &Node, env: Env<'_>) -> Result<Collector> {
    let protocol = match text_of(node, "client_type")? {
        Some("http") => Protocol::Http,
        Some("grpc") => Protocol::Grpc,
        _ => return Err(wrong(node, "client_type", "it must be http or grpc")),
    };
    let is_insecure = node.bool_field("insecure")?.unwrap_or_default();
    let mut url_path = text_of(node, "url_path")?.map(str::to_owned);
    let (endpoint, is_tls) = match text_of(node, "endpoint")? {
        Some(text) => (host_port(node, text, is_insecure)?, !is_insecure),
        None => match environment::endpoint(env)? {
            Some(address) => {
                url_path = url_path.or(address.path);
                (address.host_port, address.is_tls && !is_insecure)
            }
            None if protocol == Protocol::Http => ("localhost:4318".to_owned(), !is_insecure),
            None => ("localhost:4317".to_owned(), !is_insecure),
        },
    };
    let has_port = endpoint.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0));
    if protocol == Protocol::Grpc && !has_port {
        return Err(wrong(node, "endpoint", "it must be host:port; collectors listen for gRPC on 4317"));
    }
    let url_path = url_path.unwrap_or_else(|| "/v1/traces".to_owned());
    if !url_path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte)) {
        return Err(wrong(node, "url_path", "it must be a path such as /v1/traces"));
    }
    let compression = text_of(node, "compression")?.map(str::to_owned).or_else(|| environment::compression(env));
    let tls = section(node, "tls_config").map_or_else(|| Ok(ClientSettings::default()), tls_config)?;
    Ok(Collector {
        protocol,
        endpoint,
        url_path: if url_path.starts_with('/') { url_path } else { format!("/{url_path}") },
        tls: Some(tls).filter(|_| is_tls),
        is_gzip: match compression.as_deref() {
            None | Some("none") => false,
            Some("gzip") => true,
            Some(_) => return Err(wrong(node, "compression", "it must be gzip or none")),
        },
        headers: headers(node, env)?,
        timeout: match duration(node, "timeout")? {
            Some(time) => time,
            None => environment::timeout(env)?.unwrap_or(limits::REQUEST_TIMEOUT),
        },
        reconnection_period: duration(node, "reconnection_period")?,
    })
}

/// `host:port`. A scheme that agrees with `insecure` is forgiven.
fn host_port(node: &Node, text: &str, is_insecure: bool) -> Result<String> {
    let refused = |text: &str| Err(wrong(node, "endpoint", text));
    let rest = match text.split_once("://") {
        None => text,
        Some(("http", rest)) if is_insecure => rest,
        Some(("https", rest)) if !is_insecure => rest,
        Some(("http", _)) => return refused("it is host:port, and without TLS it needs insecure: true"),
        Some(("https", _)) => return refused("it is host:port, and with TLS it needs insecure: false"),
        Some(_) => return refused("it must be host:port, without a scheme"),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('@') {
        return refused("it must be host:port, without a user; put credentials into headers");
    }
    if rest.contains('/') {
        return refused("it must be host:port; a path goes into url_path");
    }
    if rest.is_empty() || !rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]%".contains(&byte)) {
        return refused("it must be host:port");
    }
    Ok(rest.to_owned())
}

/// `Differs:` with Thanos `retry_enabled: true` turns retries off, and nothing else does.
fn retry(node: &Node) -> Result<Retry> {
    const KEYS: [&str; 4] = ["retry_enabled", "retry_initial_interval", "retry_max_interval", "retry_max_elapsed_time"];
    node.check_fields("retry_config", &KEYS)?;
    let default = Retry::default();
    let time = |name: &str, default: Duration| Ok::<_, Error>(duration(node, name)?.unwrap_or(default));
    Ok(Retry {
        is_enabled: node.bool_field("retry_enabled")?.unwrap_or(true),
        initial: time("retry_initial_interval", default.initial)?,
        max: time("retry_max_interval", default.max)?,
        elapsed_max: time("retry_max_elapsed_time", default.elapsed_max)?,
    })
}

/// Headers of the file count for more than those of the environment.
fn headers(node: &Node, env: Env<'_>) -> Result<Vec<(String, Secret)>> {
    let mut headers: Vec<(String, Secret)> = Vec::new();
    let from_env = environment::headers(env)?;
    let of_file = texts(node, "headers")?.into_iter().map(|(name, value)| (name, Secret(value)));
    for (name, value) in from_env.into_iter().chain(of_file) {
        let name = name.to_ascii_lowercase();
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(wrong(node, "headers", "the name of a header must be letters, digits and dashes"));
        }
        if name.ends_with("-bin") || name.starts_with("grpc-") {
            return Err(wrong(node, "headers", "names that end in -bin or begin with grpc- belong to gRPC"));
        }
        if !value.0.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(wrong(node, "headers", format_args!("the value of {name} must be one line of ASCII")));
        }
        headers.retain(|(known, _)| *known != name);
        headers.push((name, value));
    }
    Ok(headers)
}

/// What is said of this process: the environment below, the file on top.
fn resource(node: &Node, env: Env<'_>) -> Result<Vec<(String, String)>> {
    let mut all: Vec<(String, String)> = vec![("service.name".into(), "pillion".into())];
    let service = |name: String| ("service.name".to_owned(), name);
    let of_file = text_of(node, "service_name")?.map(|name| service(name.to_owned()));
    let layers = environment::attributes(env)?.into_iter().chain(environment::service_name(env).map(service));
    for (name, value) in layers.chain(of_file).chain(texts(node, "resource_attributes")?) {
        all.retain(|(known, _)| *known != name);
        all.push((name, value));
    }
    Ok(all)
}

/// A mapping of texts.
fn texts(node: &Node, name: &str) -> Result<Vec<(String, String)>> {
    let Some(map) = section(node, name) else { return Ok(Vec::new()) };
    let pairs = map.as_mapping().ok_or_else(|| map.error(format_args!("{name} must be a mapping of texts")))?;
    pairs
        .iter()
        .map(|(key, value)| match (value.as_str(), value.is_null()) {
            (Some(text), _) => Ok((key.clone(), text.to_owned())),
            (None, true) => Ok((key.clone(), String::new())),
            (None, false) => Err(value.error(format_args!("{name}: each value must be a text"))),
        })
        .collect()
}

/// A part of the file that is there and not null.
fn section<'a>(node: &'a Node, name: &str) -> Option<&'a Node> {
    node.get(name).filter(|node| !node.is_null())
}

/// A text that is there and not empty: in Go's structures an empty one is none.
fn text_of<'a>(node: &'a Node, name: &str) -> Result<Option<&'a str>> {
    Ok(node.str_field(name)?.filter(|text| !text.is_empty()))
}

/// A time above zero; zero stands for the default, as in Go's structures.
fn duration(node: &Node, name: &str) -> Result<Option<Duration>> {
    let Some(text) = text_of(node, name)? else { return Ok(None) };
    let refused = || wrong(node, name, "it must be a time with its unit, such as 10s");
    let nanos = match text.parse::<GoDuration>() {
        Ok(time) => u64::try_from(time.0).map_err(|_| wrong(node, name, "it must not be below zero"))?,
        Err(_) => return Err(refused()),
    };
    Ok(Some(Duration::from_nanos(nanos)).filter(|time| !time.is_zero()))
}

/// An error at the value of the field `name`, or at the mapping without it.
fn wrong(node: &Node, name: &str, text: impl fmt::Display) -> Error {
    node.get(name).unwrap_or(node).error(format_args!("{name}: {text}")).with_kind(Kind::Permanent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_http::tls::Pem;

    fn parse_with(text: &str, env: &[(&str, &str)]) -> Result<Config> {
        let env = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Config::parse(&Content { origin: "t.yml".into(), text: text.into() }, &env)
    }

    fn parse(text: &str) -> Result<Config> {
        parse_with(text, &[])
    }

    fn config(config: &str) -> Config {
        parse(&format!("type: OTLP\nconfig: {config}")).unwrap_or_else(|err| panic!("{config}: {err}"))
    }

    #[test]
    fn the_least_and_the_most() {
        let least = config("{client_type: http}");
        let collector = Collector {
            protocol: Protocol::Http,
            endpoint: "localhost:4318".into(),
            url_path: "/v1/traces".into(),
            tls: Some(ClientSettings::default()),
            is_gzip: false,
            headers: vec![],
            timeout: Duration::from_secs(10),
            reconnection_period: None,
        };
        assert_eq!(least.collector, collector);
        assert_eq!((least.retry, least.sampler, least.propagators), Default::default());
        assert_eq!(least.resource, [("service.name".to_owned(), "pillion".to_owned())]);

        let most = parse(
            "type: otlp
config:
  client_type: grpc
  service_name: sidecar
  resource_attributes: {cluster: eu, n: 1}
  reconnection_period: 5s
  compression: gzip
  insecure: false
  endpoint: collector:4317
  url_path: x
  timeout: 1m30s
  retry_config: {retry_enabled: true, retry_initial_interval: 1s, retry_max_interval: 2s, retry_max_elapsed_time: 3s}
  headers: {Authorization: Bearer hunter2}
  tls_config: {ca_file: /ca, cert_file: /c, key_file: /k, server_name: name, insecure_skip_verify: true}
  sampler_type: traceidratiobased
  sampler_param: 0.25
",
        )
        .unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(most.resource, [pair("service.name", "sidecar"), pair("cluster", "eu"), pair("n", "1")]);
        assert_eq!(
            most.retry,
            Retry {
                is_enabled: true,
                initial: Duration::from_secs(1),
                max: Duration::from_secs(2),
                elapsed_max: Duration::from_secs(3)
            }
        );
        let Collector { protocol, endpoint, url_path, tls, is_gzip, headers, timeout, reconnection_period } =
            most.collector.clone();
        assert_eq!((protocol, endpoint.as_str(), url_path.as_str()), (Protocol::Grpc, "collector:4317", "/x"));
        assert_eq!(
            (is_gzip, timeout, reconnection_period),
            (true, Duration::from_secs(90), Some(Duration::from_secs(5)))
        );
        assert_eq!(headers, [("authorization".to_owned(), Secret("Bearer hunter2".into()))]);
        let tls = tls.unwrap();
        assert_eq!((tls.server_name.as_deref(), tls.insecure_skip_verify), (Some("name"), true));
        assert_eq!(tls.ca, Some(Pem::file("tls_config.ca_file", "/ca")));
        assert!(!format!("{most:?}").contains("hunter2"));
    }

    /// What the document of Thanos prints as the whole of it, with its zeros.
    #[test]
    fn zeros_are_defaults() {
        let zeros = config(
            "{client_type: http, service_name: '', resource_attributes: {}, reconnection_period: 0s, compression: '', \
             insecure: false, endpoint: '', url_path: '', timeout: 0s, retry_config: {retry_enabled: true, \
             retry_initial_interval: 0s, retry_max_interval: 0s, retry_max_elapsed_time: 0s}, headers: {}, tls_config: \
             {ca_file: '', cert_file: '', key_file: '', server_name: '', insecure_skip_verify: false}, sampler_type: '', \
             sampler_param: ''}",
        );
        assert_eq!(zeros, config("{client_type: http}"));
        assert!(!config("{client_type: http, retry_config: {retry_enabled: false}}").retry.is_enabled);
    }

    #[test]
    fn the_environment_is_below_the_file() {
        let env = [
            ("OTEL_SERVICE_NAME", "of-env"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=lost,zone=b"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://env:4318/base"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=hunter2,X=1"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "3000"),
            ("OTEL_PROPAGATORS", "jaeger"),
        ];
        let of_env = parse_with("{type: OTLP, config: {client_type: http}}", &env).unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(of_env.resource, [pair("zone", "b"), pair("service.name", "of-env")]);
        let collector = of_env.collector;
        assert_eq!((collector.endpoint.as_str(), collector.url_path.as_str()), ("env:4318", "/base/v1/traces"));
        assert_eq!((collector.tls, collector.is_gzip, collector.timeout), (None, true, Duration::from_secs(3)));
        assert!(of_env.propagators.jaeger && !of_env.propagators.trace_context);
        let file = "{type: OTLP, config: {client_type: http, endpoint: 'c:1', headers: {x: 2}, service_name: f, \
                    compression: none, timeout: 1s}}";
        let of_file = parse_with(file, &env).unwrap();
        assert_eq!(of_file.resource, [pair("zone", "b"), pair("service.name", "f")]);
        let collector = of_file.collector;
        assert_eq!((collector.endpoint.as_str(), collector.url_path.as_str()), ("c:1", "/v1/traces"));
        assert_eq!((collector.is_gzip, collector.timeout), (false, Duration::from_secs(1)));
        let shown: Vec<_> = collector.headers.iter().map(|(name, value)| (name.as_str(), value.0.as_str())).collect();
        assert_eq!(shown, [("api-key", "hunter2"), ("x", "2")]);
    }

    #[test]
    fn a_scheme_that_agrees_is_forgiven() {
        let endpoint = |text: &str| config(&format!("{{client_type: http, {text}}}")).collector.endpoint;
        assert_eq!(endpoint("endpoint: 'http://c:4318/', insecure: true"), "c:4318");
        assert_eq!(endpoint("endpoint: 'https://c'"), "c");
        assert_eq!(endpoint("endpoint: '[::1]:4318', insecure: true"), "[::1]:4318");
    }

    #[test]
    fn what_is_refused() {
        const ORIGIN: &str = "parsing the tracing configuration of t.yml: line ";
        for (text, expected) in [
            ("", "1: type is missing; write type: OTLP"),
            ("type: OTLP", "1: config is missing"),
            ("type: OTLP\nconf: 1", "2: field conf not found in the tracing configuration"),
            ("type: zipkin", "1: type: tracing of this type is not supported; write type: OTLP"),
            ("type: jaeger\nconfig: {x: 1}", "1: type: tracing with type JAEGER is not supported. Jaeger takes OTLP"),
            ("type: GOOGLE_CLOUD", "1: type: tracing with type GOOGLE_CLOUD is not supported. Google Cloud takes OTLP"),
            ("type: STACKDRIVER", "1: type: tracing with type STACKDRIVER is not supported. Google Cloud takes OTLP"),
            ("type: ELASTIC_APM", "1: type: tracing with type ELASTIC_APM is not supported. Elastic's APM server"),
            ("type: LIGHTSTEP", "1: type: tracing with type LIGHTSTEP is not supported. Lightstep takes OTLP"),
            ("type: OTLP\nconfig: {}", "2: client_type: it must be http or grpc"),
            ("type: OTLP\nconfig: {client_type: HTTP}", "2: client_type: it must be http or grpc"),
        ] {
            let err = parse(text).unwrap_err().to_string();
            assert!(err.starts_with(&format!("{ORIGIN}{expected}")), "{text}: {err}");
        }
        for (key, expected) in [
            ("endpont: x", "field endpont not found in config"),
            ("endpoint: 'http://c:4318'", "endpoint: it is host:port, and without TLS it needs insecure: true"),
            (
                "endpoint: 'https://c', insecure: true",
                "endpoint: it is host:port, and with TLS it needs insecure: false",
            ),
            ("endpoint: 'c:1/v1'", "endpoint: it must be host:port; a path goes into url_path"),
            ("endpoint: 'me:hunter2@c:1'", "endpoint: it must be host:port, without a user"),
            ("endpoint: 'unix:///x'", "endpoint: it must be host:port, without a scheme"),
            ("endpoint: 'a b'", "endpoint: it must be host:port"),
            ("url_path: 'a b'", "url_path: it must be a path"),
            ("compression: snappy", "compression: it must be gzip or none"),
            ("insecure: 'yes'", "field insecure must be true or false"),
            ("timeout: 10", "timeout: it must be a time with its unit"),
            ("timeout: -1s", "timeout: it must not be below zero"),
            ("retry_config: {enabled: true}", "field enabled not found in retry_config"),
            ("headers: [hunter2]", "headers must be a mapping of texts"),
            ("headers: {a: [hunter2]}", "headers: each value must be a text"),
            ("headers: {'a b': hunter2}", "headers: the name of a header"),
            ("headers: {a: \"hunter2\\n\"}", "headers: the value of a must be one line"),
            ("headers: {x-bin: hunter2}", "headers: names that end in -bin"),
            ("tls_config: {ca: x}", "field ca not found in tls_config"),
            ("tls_config: {cert_file: x}", "cert_file: key_file is missing"),
            ("sampler_type: always", "sampler_type: there is no sampler of this name"),
            ("sampler_type: traceidratiobased", "sampler_type: this sampler needs the share of traces"),
            ("sampler_type: traceidratiobased, sampler_param: 2", "sampler_param: this sampler needs the share"),
        ] {
            let err = parse(&format!("type: OTLP\nconfig: {{client_type: http, {key}}}")).unwrap_err().to_string();
            assert!(err.starts_with(&format!("{ORIGIN}2: {expected}")), "{key}: {err}");
            assert!(!err.contains("hunter2"), "{err}");
        }
        let err = parse("type: OTLP\nconfig: {client_type: grpc, endpoint: c}").unwrap_err().to_string();
        assert!(err.ends_with("line 2: endpoint: it must be host:port; collectors listen for gRPC on 4317"), "{err}");
    }
}
