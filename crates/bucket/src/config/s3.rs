//! `type: S3`: every key that Thanos knows, honoured or refused by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::limits;
use crate::s3::config::{ListVersion, Lookup, S3Config, Sse};
use crate::s3::endpoint::Endpoint;
use pillion_base::error::{Context, Result};
use pillion_base::secret::Secret;
use pillion_base::yaml::Node;

use super::http;

const FIELDS: [&str; 22] = [
    "bucket",
    "endpoint",
    "region",
    "disable_dualstack",
    "aws_sdk_auth",
    "access_key",
    "insecure",
    "signature_version2",
    "secret_key",
    "session_token",
    "put_user_metadata",
    "http_config",
    "trace",
    "list_objects_version",
    "bucket_lookup_type",
    "send_content_md5",
    "disable_multipart",
    "part_size",
    "sse_config",
    "sts_endpoint",
    "max_retries",
    // Pillion's own.
    "anonymous",
];

/// Headers that every request sets itself and the configuration must not.
const OURS: [&str; 6] = [
    "x-amz-date",
    "x-amz-content-sha256",
    "x-amz-security-token",
    "x-amz-decoded-content-length",
    "x-amz-copy-source",
    "x-amz-expires",
];

/// Reads the configuration of an S3 bucket; what the operator should know is added to `remarks`.
///
/// `Source:` objstore `providers/s3/s3.go`.
pub(super) fn read(config: &Node, remarks: &mut Vec<String>) -> Result<S3Config> {
    config.check_fields("config", &FIELDS)?;
    let text = |name: &str| config.str_field(name).map(|text| text.unwrap_or_default().to_owned());
    let flag = |name: &str, default: bool| config.bool_field(name).map(|flag| flag.unwrap_or(default));
    if flag("signature_version2", false)? {
        let node = config.get("signature_version2").unwrap_or(config);
        return Err(node.error(
            "field signature_version2 is not supported: signature version 2 is no longer safe, remove the field to \
             sign with version 4",
        ));
    }
    let (put_user_metadata, storage_class) = user_metadata(config)?;
    let s3 = S3Config {
        bucket: text("bucket")?,
        endpoint: text("endpoint")?,
        region: text("region")?,
        disable_dualstack: flag("disable_dualstack", false)?,
        anonymous: flag("anonymous", false)?,
        aws_sdk_auth: flag("aws_sdk_auth", false)?,
        access_key: secret(config, "access_key")?,
        secret_key: secret(config, "secret_key")?,
        session_token: secret(config, "session_token")?,
        insecure: flag("insecure", false)?,
        put_user_metadata,
        storage_class,
        http: http::read(config, remarks)?,
        trace: trace(config)?,
        list_version: list_version(config)?,
        lookup: lookup(config)?,
        send_content_md5: flag("send_content_md5", true)?,
        disable_multipart: flag("disable_multipart", false)?,
        part_size: part_size(config)?,
        sse: sse(config)?,
        sts_endpoint: sts_endpoint(config)?,
        max_attempts: max_attempts(config)?,
    };
    check_credentials(config, &s3)?;
    check_endpoint(config, &s3)?;
    if s3.insecure && matches!(s3.sse, Some(Sse::C { .. })) {
        remarks.push("insecure: true sends the key of sse_config with every request, for everybody to read".into());
    }
    Ok(s3)
}

/// Reads a secret. Its characters are checked, because a line break from a file or a variable would spoil every
/// signature.
pub(super) fn secret(config: &Node, name: &str) -> Result<Secret> {
    let text = config.str_field(name)?.unwrap_or_default();
    match text.bytes().all(|c| c.is_ascii_graphic()) {
        true => Ok(Secret(text.to_owned())),
        false => {
            let node = config.get(name).unwrap_or(config);
            Err(node.error(format!("field {name} holds white space or other characters that no key has")))
        }
    }
}

/// Finds an endpoint that cannot work at start already.
pub(super) fn check_endpoint(config: &Node, s3: &S3Config) -> Result<()> {
    let node = ["endpoint", "bucket"].iter().find_map(|name| config.get(name)).unwrap_or(config);
    Endpoint::new(s3).map(drop).map_err(|err| node.error(err))
}

fn check_credentials(config: &Node, s3: &S3Config) -> Result<()> {
    let (has_access, has_secret) = (!s3.access_key.0.is_empty(), !s3.secret_key.0.is_empty());
    let text = if s3.aws_sdk_auth && has_access {
        "aws_sdk_auth and access_key are mutually exclusive configurations"
    } else if !has_access && has_secret {
        "no s3 access_key specified while secret_key is present in config file; either both should be present in config \
         or envvars/IAM should be used."
    } else if has_access && !has_secret {
        "no s3 secret_key specified while access_key is present in config file; either both should be present in config \
         or envvars/IAM should be used."
    } else if !has_access && !s3.session_token.0.is_empty() {
        "session_token goes with access_key and secret_key only"
    } else if s3.anonymous && (has_access || s3.aws_sdk_auth) {
        "anonymous: true signs nothing: remove it, or access_key, secret_key and aws_sdk_auth"
    } else {
        return Ok(());
    };
    Err(config.error(text))
}

fn trace(config: &Node) -> Result<bool> {
    let Some(node) = config.get("trace") else { return Ok(false) };
    node.check_fields("trace", &["enable"])?;
    Ok(node.bool_field("enable")?.unwrap_or(false))
}

fn list_version(config: &Node) -> Result<ListVersion> {
    match config.str_field("list_objects_version")?.unwrap_or_default() {
        "" | "v2" => Ok(ListVersion::V2),
        "v1" => Ok(ListVersion::V1),
        _ => {
            let node = config.get("list_objects_version").unwrap_or(config);
            Err(node.error("field list_objects_version is not supported with this value. Supported values are v1, v2"))
        }
    }
}

fn lookup(config: &Node) -> Result<Lookup> {
    match config.str_field("bucket_lookup_type")?.unwrap_or("auto") {
        "auto" => Ok(Lookup::Auto),
        "virtual-hosted" => Ok(Lookup::VirtualHosted),
        "path" => Ok(Lookup::Path),
        _ => {
            let node = config.get("bucket_lookup_type").unwrap_or(config);
            Err(node.error("unsupported bucket lookup type. Supported values are auto, virtual-hosted, path"))
        }
    }
}

fn part_size(config: &Node) -> Result<u64> {
    /// What 0 means. `Source:` minio-go's `minPartSize`.
    const AUTOMATIC: u64 = 16 * 1024 * 1024;
    match config.u64_field("part_size")? {
        None => Ok(S3Config::default().part_size),
        Some(0) => Ok(AUTOMATIC),
        Some(bytes @ limits::PART_BYTES_MIN..=limits::PART_BYTES_MAX) => Ok(bytes),
        Some(_) => {
            let node = config.get("part_size").unwrap_or(config);
            Err(node.error("field part_size must be between 5242880 (5 MiB) and 5368709120 (5 GiB)"))
        }
    }
}

/// Reads `max_retries`, which counts attempts in Thanos too.
pub(super) fn max_attempts(config: &Node) -> Result<u32> {
    Ok(match config.u64_field("max_retries")? {
        None | Some(0) => S3Config::default().max_attempts,
        Some(number) => u32::try_from(number).unwrap_or(u32::MAX),
    })
}

fn sts_endpoint(config: &Node) -> Result<String> {
    let Some(text) = config.str_field("sts_endpoint")?.filter(|text| !text.is_empty()) else {
        return Ok(String::new());
    };
    let url = url::Url::parse(text).ok().filter(|url| matches!(url.scheme(), "https" | "http") && url.has_host());
    let is_plain = |url: &url::Url| url.username().is_empty() && url.password().is_none() && url.query().is_none();
    match url.filter(is_plain) {
        Some(_) => Ok(text.to_owned()),
        None => {
            let node = config.get("sts_endpoint").unwrap_or(config);
            Err(node.error("field sts_endpoint must be a URL such as https://sts.eu-west-1.amazonaws.com"))
        }
    }
}

/// Reads a field that maps texts to texts.
fn texts(config: &Node, name: &str) -> Result<Vec<(String, String)>> {
    let Some(node) = config.get(name).filter(|node| !node.is_null()) else { return Ok(Vec::new()) };
    let pairs = node.as_mapping().ok_or_else(|| node.error(format!("field {name} must be a mapping")))?;
    let text = |(key, value): &(String, Node)| match (value.as_str(), value.is_null()) {
        (Some(text), _) => Ok((key.clone(), text.to_owned())),
        (None, true) => Ok((key.clone(), String::new())),
        (None, false) => Err(value.error(format!("field {name} must hold texts only"))),
    };
    pairs.iter().map(text).collect()
}

/// Reads the metadata of every object, and the storage class in it.
fn user_metadata(config: &Node) -> Result<(BTreeMap<String, String>, String)> {
    const NAME: &str = "put_user_metadata";
    let (mut metadata, mut class) = (BTreeMap::new(), String::new());
    let node = config.get(NAME).unwrap_or(config);
    let mut seen = Vec::new();
    for (name, value) in texts(config, NAME)? {
        let is_token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(node.error(format!("field {NAME} has a name that cannot be an HTTP header's")));
        }
        if !value.bytes().all(|c| c == b' ' || c.is_ascii_graphic()) || value.trim() != value {
            return Err(node.error(format!("field {NAME} has a value that cannot be an HTTP header's: ASCII only")));
        }
        let lower = name.to_ascii_lowercase();
        if OURS.contains(&lower.as_str()) || lower.starts_with("x-amz-checksum-") {
            return Err(node.error(format!("field {NAME} must not have {lower}, which every request sets itself")));
        }
        if seen.contains(&lower) {
            return Err(node.error(format!("field {NAME} has a name twice, in capital and in small letters")));
        }
        if lower == "x-amz-storage-class" {
            class = value;
        } else {
            metadata.insert(name, value);
        }
        seen.push(lower);
    }
    Ok((metadata, class))
}

fn sse(config: &Node) -> Result<Option<Sse>> {
    /// Bytes of a key for AES-256, which SSE-C uses.
    const KEY_BYTES: u64 = 32;
    let Some(node) = config.get("sse_config").filter(|node| !node.is_null()) else { return Ok(None) };
    node.check_fields("sse_config", &["type", "kms_key_id", "kms_encryption_context", "encryption_key"])?;
    let key_id = node.str_field("kms_key_id")?.unwrap_or_default();
    let context = texts(node, "kms_encryption_context")?;
    let key_file = node.str_field("encryption_key")?.unwrap_or_default();
    match node.str_field("type")?.unwrap_or_default() {
        "" => Ok(None),
        "SSE-S3" => Ok(Some(Sse::S3)),
        "SSE-KMS" if key_id.is_empty() => {
            Err(node.error("kms_key_id must be set if sse_config.type is set to 'SSE-KMS'"))
        }
        "SSE-KMS" => Ok(Some(Sse::Kms { key_id: key_id.to_owned(), context: context.into_iter().collect() })),
        "SSE-C" if key_file.is_empty() => {
            Err(node.error("encryption_key must be set if sse_config.type is set to 'SSE-C'"))
        }
        "SSE-C" => {
            let n_bytes = length(Path::new(key_file)).map_err(|err| node.error(err))?;
            if n_bytes != KEY_BYTES {
                return Err(node.error(format!(
                    "field encryption_key must name a file of exactly {KEY_BYTES} bytes, which are the key; {key_file} \
                     has {n_bytes}"
                )));
            }
            Ok(Some(Sse::C { key_file: PathBuf::from(key_file) }))
        }
        _ => {
            let node = node.get("type").unwrap_or(node);
            Err(node.error("field type: unsupported type was provided. Supported types are SSE-S3, SSE-KMS, SSE-C"))
        }
    }
}

/// The size of a file that can be read.
fn length(path: &Path) -> Result<u64> {
    // Opening a pipe would wait for its other end.
    let open = || match std::fs::metadata(path)? {
        file if file.is_file() => std::fs::File::open(path)?.metadata(),
        other => Ok(other),
    };
    Ok(open().context(|| format!("open {} of field encryption_key", path.display()))?.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::yaml;

    const LEAST: &str = "bucket: blocks\nendpoint: minio:9000\n";

    fn parse(text: &str) -> Result<(S3Config, Vec<String>)> {
        let mut remarks = Vec::new();
        read(&yaml::parse(text).unwrap(), &mut remarks).map(|s3| (s3, remarks))
    }

    fn least() -> S3Config {
        S3Config { bucket: "blocks".into(), endpoint: "minio:9000".into(), ..S3Config::default() }
    }

    #[test]
    fn every_key_has_its_effect() {
        let check = |text: &str, change: &dyn Fn(&mut S3Config)| {
            let mut want = least();
            change(&mut want);
            let got = parse(&format!("{LEAST}{text}")).unwrap_or_else(|err| panic!("{text}: {err}"));
            assert_eq!(got, (want, Vec::new()), "{text}");
        };
        check("", &|_| {});
        check("region: eu-west-1", &|s3| s3.region = "eu-west-1".into());
        check("disable_dualstack: yes", &|s3| s3.disable_dualstack = true);
        check("aws_sdk_auth: true", &|s3| s3.aws_sdk_auth = true);
        check("anonymous: true", &|s3| s3.anonymous = true);
        check("access_key: A\nsecret_key: 12345\nsession_token: 'a+/='", &|s3| {
            (s3.access_key, s3.secret_key) = (Secret("A".into()), Secret("12345".into()));
            s3.session_token = Secret("a+/=".into());
        });
        check("insecure: on", &|s3| s3.insecure = true);
        check("signature_version2: false", &|_| {});
        check("put_user_metadata: {Team: a b, x-amz-acl: private, X-AMZ-storage-class: STANDARD_IA, e:}", &|s3| {
            s3.storage_class = "STANDARD_IA".into();
            for (name, value) in [("Team", "a b"), ("x-amz-acl", "private"), ("e", "")] {
                s3.put_user_metadata.insert(name.into(), value.into());
            }
        });
        check("http_config: {max_conns_per_host: 3}", &|s3| s3.http.max_conns_per_host = 3);
        check("trace: {enable: true}", &|s3| s3.trace = true);
        check("trace:", &|_| {});
        check("list_objects_version: v1", &|s3| s3.list_version = ListVersion::V1);
        check("list_objects_version: ''", &|_| {});
        check("bucket_lookup_type: path", &|s3| s3.lookup = Lookup::Path);
        check("bucket_lookup_type: virtual-hosted", &|s3| s3.lookup = Lookup::VirtualHosted);
        check("send_content_md5: false", &|s3| s3.send_content_md5 = false);
        check("send_content_md5:", &|_| {});
        check("disable_multipart: true", &|s3| s3.disable_multipart = true);
        check("part_size: 5_242_880", &|s3| s3.part_size = 5 << 20);
        check("part_size: 5368709120", &|s3| s3.part_size = 5 << 30);
        check("part_size: 0", &|s3| s3.part_size = 16 << 20);
        check("sse_config: {type: SSE-S3}", &|s3| s3.sse = Some(Sse::S3));
        check("sse_config: {type: ''}", &|_| {});
        check("sse_config: {type: SSE-KMS, kms_key_id: k, kms_encryption_context: {a: 1}}", &|s3| {
            s3.sse = Some(Sse::Kms { key_id: "k".into(), context: [("a".into(), "1".into())].into() });
        });
        check("sts_endpoint: https://sts.eu-west-1.amazonaws.com", &|s3| {
            s3.sts_endpoint = "https://sts.eu-west-1.amazonaws.com".into();
        });
        check("max_retries: 0", &|_| {});
        check("max_retries: 1", &|s3| s3.max_attempts = 1);
    }

    #[test]
    fn the_key_of_the_customer_is_a_file_of_32_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, n_bytes: usize| {
            let path = dir.path().join(name);
            std::fs::write(&path, vec![b'k'; n_bytes]).unwrap();
            path
        };
        let text = |path: &Path| format!("{LEAST}sse_config: {{type: SSE-C, encryption_key: {}}}", path.display());
        let right = file("right", 32);
        let (s3, remarks) = parse(&text(&right)).unwrap();
        assert_eq!((s3.sse, remarks.len()), (Some(Sse::C { key_file: right.clone() }), 0));
        let (_, remarks) = parse(&format!("{}\ninsecure: true", text(&right))).unwrap();
        assert!(remarks.first().is_some_and(|text| text.contains("insecure: true")), "{remarks:?}");
        for (path, want) in
            [(file("newline", 33), "must name a file of exactly 32 bytes"), (dir.path().join("absent"), "open ")]
        {
            let err = parse(&text(&path)).unwrap_err().to_string();
            assert!(err.starts_with("line 3: ") && err.contains(want), "{err}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_line_and_never_quoted() {
        let check = |text: &str, expected: &str| {
            let err = parse(&format!("{LEAST}{text}")).expect_err(text).to_string();
            assert!(err.starts_with(&format!("line {expected}")), "{text}: {err}");
            assert!(!err.contains("hunter2"), "{err}");
        };
        check("buckt: hunter2", "3: field buckt not found in config");
        check("signature_version2: true", "3: field signature_version2 is not supported");
        check("access_key: hunter2", "1: no s3 secret_key specified while access_key is present");
        check("secret_key: hunter2", "1: no s3 access_key specified while secret_key is present");
        check("access_key: a\nsecret_key: hunter2\naws_sdk_auth: true", "1: aws_sdk_auth and access_key are mutually");
        check("access_key: a\nsecret_key: hunter2\nanonymous: true", "1: anonymous: true signs nothing");
        check("aws_sdk_auth: true\nanonymous: true", "1: anonymous: true signs nothing");
        check("session_token: hunter2", "1: session_token goes with access_key");
        check("access_key: a\nsecret_key: |\n  hunter2", "5: field secret_key holds white space");
        check("insecure: hunter2", "3: field insecure must be true or false");
        check("part_size: 5242879", "3: field part_size must be between");
        check("part_size: 5368709121", "3: field part_size must be between");
        check("part_size: 64MiB", "3: field part_size must be a whole number");
        check("max_retries: -1", "3: field max_retries must not be below zero");
        check("list_objects_version: hunter2", "3: field list_objects_version is not supported with this value");
        check("bucket_lookup_type: hunter2", "3: unsupported bucket lookup type");
        check("sse_config: {type: hunter2}", "3: field type: unsupported type was provided");
        check("sse_config: {type: SSE-KMS}", "3: kms_key_id must be set");
        check("sse_config: {type: SSE-C}", "3: encryption_key must be set");
        check("sse_config: {key: hunter2}", "3: field key not found in sse_config");
        check("trace: {enabled: true}", "3: field enabled not found in trace");
        check("trace: true", "3: trace must be a mapping");
        for url in ["sts.amazonaws.com", "ftp://a/", "https://user:hunter2@sts/", "https://sts/?hunter2"] {
            check(&format!("sts_endpoint: '{url}'"), "3: field sts_endpoint must be a URL");
        }
        check("put_user_metadata: [hunter2]", "3: field put_user_metadata must be a mapping");
        check("put_user_metadata: {a: [hunter2]}", "3: field put_user_metadata must hold texts only");
        check("put_user_metadata: {'a b': hunter2}", "3: field put_user_metadata has a name that cannot");
        check("put_user_metadata: {a: \"x\\nhunter2\"}", "3: field put_user_metadata has a value that cannot");
        check("put_user_metadata: {a: 1, A: hunter2}", "3: field put_user_metadata has a name twice");
        check("put_user_metadata: {X-Amz-Date: hunter2}", "3: field put_user_metadata must not have x-amz-date");
        check("region: hunter2 x", "2: field region may hold");
        let err = parse("bucket: b\nendpoint: hunter2/x").unwrap_err().to_string();
        assert!(err.starts_with("line 2: field endpoint must be host[:port] without a path"), "{err}");
        let err = parse("region: r\nendpoint: hunter2").unwrap_err().to_string();
        assert!(err.starts_with("line 2: field bucket is empty"), "{err}");
    }

    #[test]
    fn secrets_are_not_in_the_debug_output() {
        let (s3, _) =
            parse(&format!("{LEAST}access_key: hunter2\nsecret_key: hunter2\nsession_token: hunter2")).unwrap();
        assert!(!format!("{s3:?}").contains("hunter2"));
    }
}
