//! `type: GCS`: every key that Thanos knows, honoured or refused by name. Pure.

use crate::gcs::config::GcsConfig;
use crate::gcs::credentials;
use crate::limits;
use pillion_base::error::Result;
use pillion_base::secret::Secret;
use pillion_base::yaml::Node;

use super::http;

const FIELDS: [&str; 7] =
    ["bucket", "service_account", "use_grpc", "grpc_conn_pool_size", "http_config", "chunk_size_bytes", "max_retries"];

/// Reads the configuration of a bucket; what the operator should know is added to `remarks`.
///
/// `Source:` objstore `providers/gcs/gcs.go`.
pub(super) fn read(config: &Node, remarks: &mut Vec<String>) -> Result<GcsConfig> {
    config.check_fields("config", &FIELDS)?;
    let at = |name: &str| config.get(name).unwrap_or(config);
    let bucket = bucket(config)?;
    let service_account = config.str_field("service_account")?.unwrap_or_default().trim();
    if !service_account.is_empty() {
        credentials::check(service_account)
            .map_err(|err| at("service_account").error(format!("field service_account: {err}")))?;
    }
    if config.bool_field("use_grpc")?.unwrap_or(false) {
        return Err(at("use_grpc").error(
            "use_grpc is not supported: HTTP is used, with the same objects and the same credentials; set it to false or \
             remove it",
        ));
    }
    if config.u64_field("grpc_conn_pool_size")?.is_some_and(|size| size > 0) {
        remarks.push("grpc_conn_pool_size has no effect (in Thanos neither without use_grpc): remove it".into());
    }
    let default = GcsConfig::default();
    Ok(GcsConfig {
        bucket,
        service_account: Secret(service_account.to_owned()),
        chunk_bytes: chunk_bytes(config)?.unwrap_or(default.chunk_bytes),
        // Attempts, as in Thanos: 1 is no retry.
        max_attempts: match config.u64_field("max_retries")? {
            None | Some(0) => default.max_attempts,
            Some(number) => u32::try_from(number).unwrap_or(u32::MAX),
        },
        http: http::read(config, remarks)?,
        ..default
    })
}

/// `Source:` "About Cloud Storage buckets", bucket names.
fn bucket(config: &Node) -> Result<String> {
    let name = config.str_field("bucket")?.unwrap_or_default();
    let node = config.get("bucket").unwrap_or(config);
    if name.is_empty() {
        return Err(
            node.error("missing Google Cloud Storage bucket name for stored blocks: field bucket is missing in config")
        );
    }
    let is_plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_.".contains(&c);
    match (3..=222).contains(&name.len()) && name.bytes().all(is_plain) {
        true => Ok(name.to_owned()),
        false => Err(node.error(
            "field bucket must be a name of at least 3 lower-case letters, digits, dots, - and _, without gs://",
        )),
    }
}

/// Rounded up to what the store takes, as Google's library does.
fn chunk_bytes(config: &Node) -> Result<Option<u64>> {
    let Some(bytes) = config.u64_field("chunk_size_bytes")?.filter(|bytes| *bytes > 0) else { return Ok(None) };
    if bytes > limits::GCS_CHUNK_BYTES_MAX {
        let node = config.get("chunk_size_bytes").unwrap_or(config);
        return Err(node.error(format!("field chunk_size_bytes must not be above {}", limits::GCS_CHUNK_BYTES_MAX)));
    }
    Ok(Some(bytes.next_multiple_of(limits::GCS_CHUNK_UNIT_BYTES)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::yaml;
    use pillion_testing::fake_gcs::key_file;

    fn parse(text: &str) -> Result<(GcsConfig, Vec<String>)> {
        let mut remarks = Vec::new();
        read(&yaml::parse(text).unwrap(), &mut remarks).map(|gcs| (gcs, remarks))
    }

    fn least() -> GcsConfig {
        GcsConfig { bucket: "blocks".into(), ..GcsConfig::default() }
    }

    #[test]
    fn every_key_has_its_effect() {
        let check = |text: &str, change: &dyn Fn(&mut GcsConfig)| {
            let mut want = least();
            change(&mut want);
            let got = parse(&format!("bucket: blocks\n{text}")).unwrap_or_else(|err| panic!("{text}: {err}"));
            assert_eq!(got, (want, Vec::new()), "{text}");
        };
        check("", &|_| {});
        check("service_account: ''\nuse_grpc: false\ngrpc_conn_pool_size: 0\nmax_retries: 0", &|_| {});
        check("max_retries: 1", &|gcs| gcs.max_attempts = 1);
        check("chunk_size_bytes: 1", &|gcs| gcs.chunk_bytes = 256 * 1024);
        check("chunk_size_bytes: 8388608", &|gcs| gcs.chunk_bytes = 8 * 1024 * 1024);
        check("chunk_size_bytes: 0", &|_| {});
        check("http_config: {max_conns_per_host: 3}", &|gcs| gcs.http.max_conns_per_host = 3);
        let key = key_file("https://oauth2.googleapis.com/token");
        let text = format!("service_account: |-\n  {}", key.replace('\n', "\n  "));
        check(&text, &|gcs| gcs.service_account = Secret(key.clone()));
    }

    #[test]
    fn what_has_no_effect_is_said() {
        let (_, remarks) = parse("bucket: blocks\ngrpc_conn_pool_size: 4").unwrap();
        assert!(remarks.len() == 1 && remarks[0].contains("grpc_conn_pool_size has no effect"), "{remarks:?}");
    }

    #[test]
    fn what_is_wrong_is_named_by_line_and_never_quoted() {
        let check = |text: &str, expected: &str| {
            let err = parse(text).expect_err(text).to_string();
            assert!(err.starts_with(&format!("line {expected}")), "{text}: {err}");
            assert!(!err.contains("hunter2"), "{err}");
        };
        check("max_retries: 1", "1: missing Google Cloud Storage bucket name");
        check("bucket: gs://hunter2", "1: field bucket must be a name");
        check("bucket: blocks\nbuckt: hunter2", "2: field buckt not found in config");
        check("bucket: blocks\nuse_grpc: true", "2: use_grpc is not supported: HTTP is used");
        check("bucket: blocks\nuse_grpc: hunter2", "2: field use_grpc must be true or false");
        check("bucket: blocks\nchunk_size_bytes: -1", "2: field chunk_size_bytes must not be below zero");
        check("bucket: blocks\nchunk_size_bytes: 99999999999", "2: field chunk_size_bytes must not be above");
        check("bucket: blocks\nservice_account: hunter2", "2: field service_account: the credentials are not the JSON");
        check(
            "bucket: blocks\nservice_account: '{\"type\": \"hunter2\"}'",
            "2: field service_account: the credentials have an unknown type",
        );
        check(
            "bucket: blocks\nservice_account: '{\"type\": \"service_account\", \"private_key\": \"hunter2\"}'",
            "2: field service_account: private_key of the service account is not in PEM",
        );
        check("bucket: blocks\nno_auth: hunter2", "2: field no_auth not found in config");
    }

    #[test]
    fn secrets_are_not_in_the_debug_output() {
        let key = r#"{"type":"authorized_user","client_id":"c","client_secret":"hunter2","refresh_token":"hunter2"}"#;
        let (gcs, _) = parse(&format!("bucket: blocks\nservice_account: '{key}'")).unwrap();
        assert!(!format!("{gcs:?}").contains("hunter2"), "{gcs:?}");
    }
}
