//! `type: OCI`: every key that Thanos knows, honoured or refused by name. Pure.

use std::time::Duration;

use crate::limits;
use crate::oci::config::{Auth, OciConfig};
use crate::oci::key;
use pillion_base::error::Result;
use pillion_base::secret::Secret;
use pillion_base::yaml::Node;

use super::http;

const FIELDS: [&str; 13] = [
    "provider",
    "bucket",
    "compartment_ocid",
    "tenancy_ocid",
    "user_ocid",
    "region",
    "fingerprint",
    "privatekey",
    "passphrase",
    "part_size",
    "max_request_retries",
    "request_retry_interval",
    "http_config",
];

/// The keys of `provider: raw`.
const RAW: [&str; 5] = ["tenancy_ocid", "user_ocid", "region", "fingerprint", "privatekey"];

/// Keys that only `provider: raw` looks at.
const UNUSED_BY_INSTANCES: [&str; 4] = ["tenancy_ocid", "user_ocid", "fingerprint", "passphrase"];

/// What to use in place of a provider that is not supported.
const INSTEAD: &str = "use provider: instance-principal, or provider: raw or default with an API key of a user, or type: S3 with Oracle's S3 \
                       Compatibility API (endpoint: <namespace>.compat.objectstorage.<region>.oraclecloud.com, \
                       list_objects_version: v1) and a customer secret key";

/// Reads the configuration of a bucket; what the operator should know is added to `remarks`.
///
/// `Source:` objstore `providers/oci/oci.go`, `helper.go`.
pub(super) fn read(config: &Node, remarks: &mut Vec<String>) -> Result<OciConfig> {
    config.check_fields("config", &FIELDS)?;
    let at = |name: &str| config.get(name).unwrap_or(config);
    let bucket = bucket(config)?;
    let auth = match config.str_field("provider")?.unwrap_or_default().to_ascii_lowercase().as_str() {
        "default" => {
            unused(config, "default", &["region", "privatekey"], remarks)?;
            unused(config, "default", &UNUSED_BY_INSTANCES, remarks)?;
            Auth::Profile
        }
        "raw" => raw(config, remarks)?,
        "instance-principal" => instance(config, remarks)?,
        "oke-workload-identity" => {
            return Err(at("provider").error(format!("provider oke-workload-identity is not supported: {INSTEAD}")));
        }
        "" => {
            return Err(at("provider")
                .error("field provider is missing in config: it must be default, raw or instance-principal"));
        }
        _ => return Err(at("provider").error("field provider must be default, raw or instance-principal")),
    };
    if !text(config, "compartment_ocid")?.is_empty() {
        remarks.push("compartment_ocid has no effect, in Thanos neither: the bucket is found by its name".into());
    }
    let mut oci = OciConfig {
        bucket,
        auth,
        http: http::read_with(config, &["client_timeout"], remarks)?,
        ..OciConfig::default()
    };
    let http = config.get("http_config").filter(|node| !node.is_null());
    if http.map(|node| node.str_field("client_timeout")).transpose()?.flatten().is_some() {
        remarks.push(
            "http_config.client_timeout has no effect: a transfer may last as long as it makes progress, and \
             response_header_timeout limits the wait for an answer"
                .into(),
        );
    }
    if let Some(bytes) = config.u64_field("part_size")?.filter(|bytes| *bytes > 0) {
        if bytes > limits::OCI_PART_BYTES_MAX {
            return Err(at("part_size").error("field part_size must not be above 50 GiB (53687091200)"));
        }
        oci.part_bytes = bytes;
    }
    if let Some(attempts) = config.u64_field("max_request_retries")?.filter(|attempts| *attempts > 0) {
        oci.max_attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
    }
    if let Some(seconds) = config.u64_field("request_retry_interval")?.filter(|seconds| *seconds > 0) {
        oci.retry_delay = Duration::from_secs(seconds).min(limits::BUCKET_TIMEOUT_MAX);
        oci.max_retry_delay = oci.retry_delay;
    }
    Ok(oci)
}

fn text(config: &Node, name: &str) -> Result<String> {
    config.str_field(name).map(|text| text.unwrap_or_default().trim().to_owned())
}

/// `Source:` Oracle's "Managing Buckets", bucket names.
fn bucket(config: &Node) -> Result<String> {
    let name = config.str_field("bucket")?.unwrap_or_default();
    let node = config.get("bucket").unwrap_or(config);
    if name.is_empty() {
        return Err(node.error("field bucket is missing in config"));
    }
    match name.len() <= 256 && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c)) {
        true if name != "." && name != ".." => Ok(name.to_owned()),
        _ => Err(node.error("field bucket must be a name of letters, digits, dashes, underscores and dots")),
    }
}

/// Says which keys have no effect.
fn unused(config: &Node, provider: &str, names: &[&str], remarks: &mut Vec<String>) -> Result<()> {
    for name in names {
        if !text(config, name)?.is_empty() {
            remarks.push(format!("{name} has no effect with provider: {provider}, in Thanos neither"));
        }
    }
    Ok(())
}

/// The machine that this runs on. Thanos asks it for the region, and makes the key of its sessions itself.
fn instance(config: &Node, remarks: &mut Vec<String>) -> Result<Auth> {
    let at = |name: &str| config.get(name).unwrap_or(config);
    let (region, session_key) = (text(config, "region")?, Secret(text(config, "privatekey")?));
    if region.is_empty() {
        return Err(at("region").error("field region is missing in config: provider instance-principal needs it here"));
    }
    if session_key.0.is_empty() {
        return Err(at("privatekey").error(
            "field privatekey is missing in config: here provider instance-principal needs an RSA key for its sessions, \
             which Thanos makes itself. Make one with `openssl genrsa -out session.pem 2048` and give the text of that file; \
             Oracle need not know it",
        ));
    }
    key::Key::read(&session_key.0).map_err(|err| at("privatekey").error(format!("field privatekey: {err}")))?;
    unused(config, "instance-principal", &UNUSED_BY_INSTANCES, remarks)?;
    Ok(Auth::Instance { region, session_key })
}

fn raw(config: &Node, remarks: &mut Vec<String>) -> Result<Auth> {
    for name in RAW {
        if text(config, name)?.is_empty() {
            let node = config.get(name).unwrap_or(config);
            return Err(node.error(format!("field {name} is missing in config: provider raw needs it")));
        }
    }
    for name in ["tenancy_ocid", "user_ocid", "fingerprint"] {
        let node = config.get(name).unwrap_or(config);
        if !text(config, name)?.bytes().all(|c| c.is_ascii_graphic() && c != b'"') {
            return Err(node.error(format!("field {name} has characters that none has: copy it from Oracle's console")));
        }
    }
    let private_key = Secret(text(config, "privatekey")?);
    let node = config.get("privatekey").unwrap_or(config);
    let key = key::Key::read(&private_key.0).map_err(|err| node.error(format!("field privatekey: {err}")))?;
    let fingerprint = text(config, "fingerprint")?;
    if !key.fingerprint().eq_ignore_ascii_case(&fingerprint) {
        let node = config.get("fingerprint").unwrap_or(config);
        return Err(node.error(format!(
            "field fingerprint is not that of privatekey, which is {}: correct one of them",
            key.fingerprint()
        )));
    }
    if !text(config, "passphrase")?.is_empty() {
        remarks.push("passphrase has no effect: the key is not encrypted".into());
    }
    Ok(Auth::Keys {
        tenancy: text(config, "tenancy_ocid")?,
        user: text(config, "user_ocid")?,
        region: text(config, "region")?,
        fingerprint,
        private_key,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::yaml;
    use pillion_testing::fake_oci::{FINGERPRINT, KEY_PEM, TENANCY, USER};

    const LEAST: &str = "provider: default\nbucket: blocks\n";

    fn parse(text: &str) -> Result<(OciConfig, Vec<String>)> {
        let mut remarks = Vec::new();
        read(&yaml::parse(text).unwrap(), &mut remarks).map(|oci| (oci, remarks))
    }

    fn least() -> OciConfig {
        OciConfig { bucket: "blocks".into(), ..OciConfig::default() }
    }

    /// A configuration with `provider: raw`, in which a line is replaced; an empty one is removed.
    fn raw_with(name: &str, value: &str) -> String {
        let key = format!("|\n  {}", KEY_PEM.trim().replace('\n', "\n  "));
        let fields = [
            ("provider", "raw"),
            ("bucket", "blocks"),
            ("tenancy_ocid", TENANCY),
            ("user_ocid", USER),
            ("region", "eu-frankfurt-1"),
            ("fingerprint", FINGERPRINT),
            ("privatekey", &key),
        ];
        let lines = fields.map(|(field, text)| match (field == name, value) {
            (true, "") => String::new(),
            (true, value) => format!("{field}: {value}\n"),
            _ => format!("{field}: {text}\n"),
        });
        lines.concat()
    }

    #[test]
    fn every_key_has_its_effect() {
        let check = |text: &str, change: &dyn Fn(&mut OciConfig)| {
            let mut want = least();
            change(&mut want);
            let got = parse(&format!("{LEAST}{text}")).unwrap_or_else(|err| panic!("{text}: {err}"));
            assert_eq!(got, (want, Vec::new()), "{text}");
        };
        check("", &|_| {});
        check("part_size: 1048576", &|oci| oci.part_bytes = 1_048_576);
        check("part_size: 0", &|_| {});
        check("max_request_retries: 7", &|oci| oci.max_attempts = 7);
        check("max_request_retries: 1", &|oci| oci.max_attempts = 1);
        check("max_request_retries: 0\nrequest_retry_interval: 0", &|_| {});
        check("request_retry_interval: 10", &|oci| {
            (oci.retry_delay, oci.max_retry_delay) = (Duration::from_secs(10), Duration::from_secs(10));
        });
        check("http_config: {max_conns_per_host: 3}", &|oci| oci.http.max_conns_per_host = 3);
        check("tenancy_ocid: ''\npassphrase:\ncompartment_ocid: ''", &|_| {});
        let (oci, remarks) = parse(&raw_with("", "")).unwrap();
        let auth = Auth::Keys {
            tenancy: TENANCY.into(),
            user: USER.into(),
            region: "eu-frankfurt-1".into(),
            fingerprint: FINGERPRINT.into(),
            private_key: Secret(KEY_PEM.trim().into()),
        };
        assert_eq!((oci, remarks), (OciConfig { auth, ..least() }, Vec::new()));
        assert_eq!(parse("provider: Default\nbucket: blocks").unwrap().0, least());
        let (instance, remarks) = parse(&raw_with("provider", "instance-principal")).unwrap();
        let auth = Auth::Instance { region: "eu-frankfurt-1".into(), session_key: Secret(KEY_PEM.trim().into()) };
        assert_eq!(instance, OciConfig { auth, ..least() });
        assert!(remarks.len() == 3 && remarks[0].contains("with provider: instance-principal"), "{remarks:?}");
    }

    #[test]
    fn what_has_no_effect_is_said() {
        let check = |text: &str, part: &str| {
            let (_, remarks) = parse(text).unwrap_or_else(|err| panic!("{text}: {err}"));
            assert!(remarks.len() == 1 && remarks[0].contains(part), "{text}: {remarks:?}");
        };
        check(&format!("{LEAST}compartment_ocid: x"), "compartment_ocid has no effect");
        check(&format!("{LEAST}region: x"), "region has no effect with provider: default");
        check(&format!("{LEAST}http_config: {{client_timeout: 90s}}"), "client_timeout has no effect");
        check(&(raw_with("", "") + "passphrase: hunter2"), "passphrase has no effect");
    }

    #[test]
    fn what_is_wrong_is_named_by_line_and_never_quoted() {
        let check = |text: &str, expected: &str| {
            let err = parse(text).expect_err(text).to_string();
            assert!(err.starts_with(&format!("line {expected}")), "{text}: {err}");
            assert!(!err.contains("hunter2"), "{err}");
        };
        let more = |text: &str| format!("{LEAST}{text}");
        check("provider: default", "1: field bucket is missing");
        check("bucket: blocks", "1: field provider is missing");
        check("provider: hunter2\nbucket: b", "1: field provider must be default, raw or instance-principal");
        let instance = "provider: instance-principal\nbucket: b\n";
        check(instance, "1: field region is missing in config: provider instance-principal");
        check(&format!("{instance}region: r-1"), "1: field privatekey is missing in config: here provider");
        check(&format!("{instance}region: r-1\nprivatekey: hunter2"), "4: field privatekey: it is not a key in PEM");
        check("provider: oke-workload-identity\nbucket: b", "1: provider oke-workload-identity is not supported: use");
        check("provider: default\nbucket: hunter2/x", "2: field bucket must be a name");
        check("provider: default\nbucket: ..", "2: field bucket must be a name");
        check(&more("endpoint: hunter2"), "3: field endpoint not found in config");
        check(&more("part_size: hunter2"), "3: field part_size must be a whole number");
        check(&more("part_size: 53687091201"), "3: field part_size must not be above 50 GiB");
        check(&more("max_request_retries: -1"), "3: field max_request_retries must not be below zero");
        check(&more("request_retry_interval: hunter2"), "3: field request_retry_interval must be a whole number");
        check(&more("http_config: {proxy: hunter2}"), "3: field proxy not found in http_config");
        check(&more("http_config: {client_timeout: [hunter2]}"), "3: field client_timeout must be a text");
        for name in RAW {
            check(&raw_with(name, ""), &format!("1: field {name} is missing in config: provider raw needs it"));
        }
        check(&raw_with("privatekey", "hunter2"), "7: field privatekey: it is not a key in PEM");
        let encrypted = "\"-----BEGIN ENCRYPTED PRIVATE KEY-----\\nhunter2\\n-----END ENCRYPTED PRIVATE KEY-----\"";
        check(&raw_with("privatekey", encrypted), "7: field privatekey: it is encrypted, and keys with a passphrase");
        check(
            &raw_with("fingerprint", "hunter2"),
            &format!("6: field fingerprint is not that of privatekey, which is {FINGERPRINT}"),
        );
        check(&raw_with("user_ocid", "hunter2 x"), "4: field user_ocid has characters that none has");
    }

    #[test]
    fn secrets_are_not_in_the_debug_output() {
        let (oci, _) = parse(&raw_with("", "")).unwrap();
        assert!(!format!("{oci:?}").contains("BEGIN"), "{oci:?}");
    }
}
