//! `type: AZURE`: every key that Thanos knows, honoured or refused by name. Pure.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::azure::config::{Auth, AzureConfig};
use crate::azure::connection;
use pillion_base::error::Result;
use pillion_base::secret::Secret;
use pillion_base::time::parse_prometheus_duration;
use pillion_base::yaml::Node;

use super::{http, s3};

const FIELDS: [&str; 16] = [
    "storage_account",
    "storage_account_key",
    "storage_connection_string",
    "storage_create_container",
    "container",
    "endpoint",
    "user_assigned_id",
    "az_tenant_id",
    "client_id",
    "client_secret",
    "max_retries",
    "reader_config",
    "pipeline_config",
    "http_config",
    "msi_resource",
    "azure_storage_account_type",
];

/// Reads the configuration of a container; what the operator should know is added to `remarks`.
///
/// `Source:` objstore `providers/azure/azure.go`, `helpers.go`.
pub(super) fn read(config: &Node, remarks: &mut Vec<String>) -> Result<AzureConfig> {
    config.check_fields("config", &FIELDS)?;
    let text = |name: &str| config.str_field(name).map(Option::unwrap_or_default);
    let at = |name: &str| config.get(name).unwrap_or(config);
    let container = container(config)?;
    let key = s3::secret(config, "storage_account_key")?;
    let application = application(config)?;
    let (identity, connected) = (text("user_assigned_id")?, text("storage_connection_string")?);
    let taken = [
        (!key.0.is_empty(), "storage_account_key"),
        (!connected.is_empty(), "storage_connection_string"),
        (application.is_some(), "client_id"),
    ];
    if let Some((_, other)) = taken.iter().find(|(is_set, _)| *is_set && !identity.is_empty()) {
        return Err(
            at("user_assigned_id").error(format!("user_assigned_id cannot be set when using {other}: remove one"))
        );
    }
    if !key.0.is_empty() && !connected.is_empty() {
        let node = at("storage_connection_string");
        return Err(node.error("storage_account_key and storage_connection_string cannot both be set: remove one"));
    }
    if application.is_some() && (!key.0.is_empty() || !connected.is_empty()) {
        remarks.push(
            "az_tenant_id, client_id and client_secret have no effect beside an account key or a connection string"
                .into(),
        );
    }
    let (account, service, auth) = match connected {
        "" => {
            let account = account(config)?;
            let service = format!("https://{account}.{}", endpoint(config)?);
            let auth = match (key.0.is_empty(), application) {
                (false, _) => Auth::Key(checked_key(at("storage_account_key"), key)?),
                (true, Some(application)) => application,
                (true, None) if !identity.is_empty() => Auth::ManagedIdentity { client: identity.to_owned() },
                (true, None) => Auth::Default,
            };
            (account, service, auth)
        }
        connected => {
            let node = at("storage_connection_string");
            let wrong = |text: String| node.error(format!("field storage_connection_string {text}"));
            let said = connection::parse(connected).map_err(wrong)?;
            let named = text("storage_account")?;
            if !named.is_empty() && !said.account.is_empty() && named != said.account {
                remarks.push("storage_account has no effect: storage_connection_string names another account".into());
            }
            if let Some(node) = config.get("endpoint").filter(|node| !node.is_null()) {
                remarks.push("endpoint has no effect: storage_connection_string says where the account is".into());
                node.as_str().ok_or_else(|| node.error("field endpoint must be a text"))?;
            }
            let auth = match said.auth {
                Auth::Key(key) => Auth::Key(checked_key(node, key)?),
                other => other,
            };
            if said.service.starts_with("http:") && !said.service.contains("//127.0.0.1") {
                remarks.push(
                    "storage_connection_string has http:, so that everybody on the way can read what is sent".into(),
                );
            }
            (if said.account.is_empty() { named.to_owned() } else { said.account }, said.service, auth)
        }
    };
    let mut azure = AzureConfig {
        account,
        container,
        service,
        auth,
        creates_container: config.bool_field("storage_create_container")?.unwrap_or(true),
        http: http::read(config, remarks)?,
        ..AzureConfig::default()
    };
    retries(config, &mut azure)?;
    old_keys(config, remarks)?;
    Ok(azure)
}

/// `Source:` "Naming and referencing containers, blobs, and metadata".
fn container(config: &Node) -> Result<String> {
    let name = config.str_field("container")?.unwrap_or_default();
    let node = config.get("container").unwrap_or(config);
    if name.is_empty() {
        return Err(node.error("no container specified: field container is missing in config"));
    }
    let is_plain = name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
    let is_name = (3..=63).contains(&name.len())
        && is_plain
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--");
    match is_name || matches!(name, "$root" | "$web") {
        true => Ok(name.to_owned()),
        false => Err(node
            .error("field container must be a name of 3 to 63 lower-case letters, digits and single - between them")),
    }
}

/// `Source:` "Storage account overview", storage account name.
fn account(config: &Node) -> Result<String> {
    let name = config.str_field("storage_account")?.unwrap_or_default();
    let node = config.get("storage_account").unwrap_or(config);
    if name.is_empty() {
        return Err(node.error("storage_account is required but not configured: it is the name of the storage account"));
    }
    // A secondary location is reached under a name with a dash.
    match name.len() <= 63 && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-') {
        true => Ok(name.to_owned()),
        false => Err(node.error("field storage_account must be a name of lower-case letters and digits")),
    }
}

fn endpoint(config: &Node) -> Result<&str> {
    let endpoint = config.str_field("endpoint")?.filter(|text| !text.is_empty()).unwrap_or("blob.core.windows.net");
    let node = config.get("endpoint").unwrap_or(config);
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || b"-.:".contains(&c);
    if !endpoint.bytes().all(is_plain) || url::Url::parse(&format!("https://a.{endpoint}/")).is_err() {
        return Err(node.error(
            "field endpoint must be what stands behind the account's name and a dot, such as blob.core.windows.net, \
             without https:// and without a path",
        ));
    }
    Ok(endpoint)
}

fn application(config: &Node) -> Result<Option<Auth>> {
    let text = |name: &str| config.str_field(name).map(|text| text.unwrap_or_default().trim().to_owned());
    let (tenant, client, secret) = (text("az_tenant_id")?, text("client_id")?, s3::secret(config, "client_secret")?);
    match (tenant.is_empty(), client.is_empty(), secret.0.is_empty()) {
        (true, true, true) => Ok(None),
        (false, false, false) => {
            let is_tenant = |c: u8| c.is_ascii_alphanumeric() || b"-.".contains(&c);
            if !tenant.bytes().all(is_tenant) {
                let node = config.get("az_tenant_id").unwrap_or(config);
                return Err(node.error("field az_tenant_id must be the id or the domain of a directory"));
            }
            Ok(Some(Auth::ClientSecret { tenant, client, secret }))
        }
        _ => Err(config.error("az_tenant_id, client_id, and client_secret must be set together")),
    }
}

fn checked_key(node: &Node, key: Secret) -> Result<Secret> {
    match BASE64_STANDARD.decode(&key.0) {
        Ok(_) => Ok(key),
        Err(_) => Err(node.error("the account key is not in base64: copy it whole, with the = at its end")),
    }
}

/// Thanos's numbers are retries, not attempts. `max_retries` fills what the others do not say.
fn retries(config: &Node, azure: &mut AzureConfig) -> Result<()> {
    let attempts = |retries: u64| u32::try_from(retries).unwrap_or(u32::MAX).saturating_add(1);
    let number = |node: &Node, name: &str| node.u64_field(name).map(|number| number.filter(|number| *number > 0));
    let all = number(config, "max_retries")?;
    let section = |name: &str, fields: &[&str]| -> Result<Option<&Node>> {
        let Some(node) = config.get(name).filter(|node| !node.is_null()) else { return Ok(None) };
        node.check_fields(name, fields)?;
        Ok(Some(node))
    };
    let reader = section("reader_config", &["max_retry_requests"])?;
    let pipeline = section("pipeline_config", &["max_tries", "try_timeout", "retry_delay", "max_retry_delay"])?;
    let tries = pipeline.map(|node| number(node, "max_tries")).transpose()?.flatten().or(all);
    azure.max_attempts = tries.map_or(azure.max_attempts, attempts);
    let reads = reader.map(|node| number(node, "max_retry_requests")).transpose()?.flatten().or(all);
    azure.read_attempts = reads.map_or(azure.max_attempts, attempts);
    let Some(node) = pipeline else { return Ok(()) };
    azure.retry_delay = time(node, "retry_delay", azure.retry_delay)?;
    azure.max_retry_delay = time(node, "max_retry_delay", azure.max_retry_delay)?.max(azure.retry_delay);
    let answer = azure.http.response_header_timeout;
    azure.http.response_header_timeout = answer.min(time(node, "try_timeout", answer)?);
    Ok(())
}

/// Reads a duration; 0 is the default, as it is for Azure's library.
fn time(node: &Node, name: &str, default: Duration) -> Result<Duration> {
    let Some(text) = node.str_field(name)? else { return Ok(default) };
    match parse_prometheus_duration(text).map(u64::try_from) {
        Ok(Ok(0)) => Ok(default),
        Ok(Ok(ms)) => Ok(Duration::from_millis(ms)),
        _ => {
            let node = node.get(name).unwrap_or(node);
            Err(node.error(format!("field {name} must be a duration such as 1m30s")))
        }
    }
}

/// Keys that change nothing, here or anywhere.
fn old_keys(config: &Node, remarks: &mut Vec<String>) -> Result<()> {
    if config.str_field("msi_resource")?.is_some_and(|text| !text.is_empty()) {
        remarks.push("msi_resource has been deprecated and has no effect, in Thanos neither: remove it".into());
    }
    match config.str_field("azure_storage_account_type")?.unwrap_or_default() {
        "" | "blob" => {}
        "datalake" => remarks.push(
            "azure_storage_account_type: datalake changes nothing here: such accounts are reached through their Blob \
             service too"
                .into(),
        ),
        _ => {
            let node = config.get("azure_storage_account_type").unwrap_or(config);
            return Err(node.error("field azure_storage_account_type must be blob or datalake, or absent"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;
    use pillion_base::yaml;

    const LEAST: &str = "storage_account: acc\ncontainer: blocks\n";

    fn parse(text: &str) -> Result<(AzureConfig, Vec<String>)> {
        let mut remarks = Vec::new();
        read(&yaml::parse(text).unwrap(), &mut remarks).map(|azure| (azure, remarks))
    }

    fn least() -> AzureConfig {
        AzureConfig {
            account: "acc".into(),
            container: "blocks".into(),
            service: "https://acc.blob.core.windows.net".into(),
            ..AzureConfig::default()
        }
    }

    #[test]
    fn every_key_has_its_effect() {
        let check = |text: &str, change: &dyn Fn(&mut AzureConfig)| {
            let mut want = least();
            change(&mut want);
            let got = parse(&format!("{LEAST}{text}")).unwrap_or_else(|err| panic!("{text}: {err}"));
            assert_eq!(got, (want, Vec::new()), "{text}");
        };
        let secret = |text: &str| Secret(text.to_owned());
        check("", &|_| {});
        check("storage_account_key: a+/b", &|azure| azure.auth = Auth::Key(secret("a+/b")));
        check("az_tenant_id: t\nclient_id: c\nclient_secret: s~", &|azure| {
            let (tenant, client, secret) = ("t".into(), "c".into(), secret("s~"));
            azure.auth = Auth::ClientSecret { tenant, client, secret };
        });
        check("user_assigned_id: id", &|azure| azure.auth = Auth::ManagedIdentity { client: "id".into() });
        check("storage_create_container: no", &|azure| azure.creates_container = false);
        check("endpoint: blob.core.chinacloudapi.cn", &|azure| {
            azure.service = "https://acc.blob.core.chinacloudapi.cn".into();
        });
        check("endpoint: ''", &|_| {});
        check("max_retries: 7", &|azure| (azure.max_attempts, azure.read_attempts) = (8, 8));
        check("max_retries: 0", &|_| {});
        check("max_retries: 7\npipeline_config: {max_tries: 2}\nreader_config: {max_retry_requests: 1}", &|azure| {
            (azure.max_attempts, azure.read_attempts) = (3, 2);
        });
        check("pipeline_config: {retry_delay: 2s, max_retry_delay: 9s, try_timeout: 30s}", &|azure| {
            (azure.retry_delay, azure.max_retry_delay) = (Duration::from_secs(2), Duration::from_secs(9));
            azure.http.response_header_timeout = Duration::from_secs(30);
        });
        check("pipeline_config: {retry_delay: 0s, max_retry_delay: 0s, try_timeout: 0s, max_tries: 0}", &|_| {});
        check("pipeline_config:\nreader_config:", &|_| {});
        check("http_config: {max_conns_per_host: 3}", &|azure| azure.http.max_conns_per_host = 3);
        check("msi_resource: ''\nazure_storage_account_type: blob", &|_| {});
        let (azure, remarks) =
            parse("container: blocks\nstorage_connection_string: AccountName=acc;AccountKey=aaaa").unwrap();
        assert_eq!((azure, remarks.len()), (AzureConfig { auth: Auth::Key(secret("aaaa")), ..least() }, 0));
        let (azure, remarks) =
            parse("container: blocks\nstorage_connection_string: UseDevelopmentStorage=true").unwrap();
        assert_eq!((azure.service.as_str(), remarks.len()), ("http://127.0.0.1:10000/devstoreaccount1", 0));
        assert_eq!(least().max_attempts, limits::AZURE_ATTEMPTS);
    }

    #[test]
    fn what_has_no_effect_is_said() {
        let check = |text: &str, part: &str| {
            let (_, remarks) = parse(&format!("{LEAST}{text}")).unwrap_or_else(|err| panic!("{text}: {err}"));
            assert!(remarks.len() == 1 && remarks[0].contains(part), "{text}: {remarks:?}");
        };
        check("msi_resource: https://storage.azure.com", "msi_resource has been deprecated");
        check("azure_storage_account_type: datalake", "their Blob service too");
        let connected = "storage_connection_string: AccountName=acc;AccountKey=aaaa";
        check(&format!("{connected}\nendpoint: x.y"), "endpoint has no effect");
        check("storage_connection_string: AccountName=other;AccountKey=aaaa", "names another account");
        check(&format!("{connected};DefaultEndpointsProtocol=http"), "has http:");
        let application = "az_tenant_id: t\nclient_id: c\nclient_secret: s";
        check(&format!("{connected}\n{application}"), "have no effect beside an account key");
    }

    #[test]
    fn what_is_wrong_is_named_by_line_and_never_quoted() {
        let check = |text: &str, expected: &str| {
            let err = parse(&format!("{LEAST}{text}")).expect_err(text).to_string();
            assert!(err.starts_with(&format!("line {expected}")), "{text}: {err}");
            assert!(!err.contains("hunter2"), "{err}");
        };
        check("storage_acount: hunter2", "3: field storage_acount not found in config");
        check("storage_account_key: hunter2!", "3: the account key is not in base64");
        check("storage_account_key: |\n  aaaa\n  hunter2", "4: field storage_account_key holds white space");
        check("storage_connection_string: hunter2", "3: field storage_connection_string has a part without =");
        check("storage_connection_string: AccountName=a;AccountKey=hunter2!", "3: the account key is not in base64");
        check(
            "storage_account_key: aaaa\nstorage_connection_string: hunter2",
            "4: storage_account_key and storage_connection_string cannot both be set",
        );
        check("client_id: hunter2", "1: az_tenant_id, client_id, and client_secret must be set together");
        check("az_tenant_id: a/hunter2\nclient_id: c\nclient_secret: s", "3: field az_tenant_id must be");
        check(
            "user_assigned_id: hunter2\nstorage_account_key: aaaa",
            "3: user_assigned_id cannot be set when using storage_account_key",
        );
        check(
            "az_tenant_id: t\nclient_id: c\nclient_secret: hunter2\nuser_assigned_id: i",
            "6: user_assigned_id cannot be set when using client_id",
        );
        check("endpoint: https://hunter2/", "3: field endpoint must be what stands behind");
        check("storage_create_container: hunter2", "3: field storage_create_container must be true or false");
        check("max_retries: -1", "3: field max_retries must not be below zero");
        check("reader_config: {max: hunter2}", "3: field max not found in reader_config");
        check("reader_config: hunter2", "3: reader_config must be a mapping");
        check("pipeline_config: {max_tries: -2}", "3: field max_tries must not be below zero");
        check("pipeline_config: {retry_delay: hunter2}", "3: field retry_delay must be a duration");
        check("azure_storage_account_type: hunter2", "3: field azure_storage_account_type must be blob or datalake");
        for (text, want) in [
            ("storage_account: acc", "line 1: no container specified"),
            ("storage_account: acc\ncontainer: Hunter2", "line 2: field container must be a name"),
            ("storage_account: acc\ncontainer: a--b", "line 2: field container must be a name"),
            ("container: blocks", "line 1: storage_account is required but not configured"),
            ("container: blocks\nstorage_account: hunter2/x", "line 2: field storage_account must be a name"),
        ] {
            let err = parse(text).expect_err(text).to_string();
            assert!(err.starts_with(want) && !err.contains("hunter2"), "{text}: {err}");
        }
    }

    #[test]
    fn secrets_are_not_in_the_debug_output() {
        for text in [
            "storage_account_key: hunter22",
            "storage_connection_string: AccountName=a;AccountKey=hunter22",
            "storage_connection_string: AccountName=a;SharedAccessSignature=sig=hunter22",
            "az_tenant_id: t\nclient_id: c\nclient_secret: hunter22",
        ] {
            let (azure, _) = parse(&format!("{LEAST}{text}")).unwrap();
            assert!(!format!("{azure:?}").contains("hunter22"), "{azure:?}");
        }
    }
}
