//! Connection strings of a storage account, as the portal shows them. Pure.
//!
//! An error never quotes a value: a connection string is a secret.

use super::config::Auth;
use pillion_base::secret::Secret;

/// The account that every emulator has, with its key, which is no secret. `Source:` Azurite's README.
const EMULATOR_ACCOUNT: &str = "devstoreaccount1";
const EMULATOR_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const EMULATOR_PORT: u16 = 10000;

/// What a connection string says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    /// The account's name; empty if it is not said.
    pub account: String,
    /// The URL of the Blob service, without a slash at its end.
    pub service: String,
    /// A key or a signature.
    pub auth: Auth,
}

/// Reads a connection string. `Errors:` a text that says what is wrong with it, without its values.
///
/// `Source:` "Configure Azure Storage connection strings"; azblob `internal/shared/shared.go`.
pub(crate) fn parse(text: &str) -> Result<Connection, String> {
    let mut found: Vec<(String, &str)> = Vec::new();
    for pair in text.trim().split(';').map(str::trim).filter(|pair| !pair.is_empty()) {
        let Some((name, value)) = pair.split_once('=') else {
            return Err("has a part without =: it is a list of Name=value with ; between them".into());
        };
        let name = name.trim().to_ascii_lowercase();
        if found.iter().any(|(other, _)| *other == name) {
            return Err(format!("has {} twice", known(&name).unwrap_or("a name")));
        }
        found.push((name, value.trim()));
    }
    let get = |name: &str| found.iter().find(|(other, _)| *other == name).map_or("", |(_, value)| *value);
    if get("usedevelopmentstorage").eq_ignore_ascii_case("true") {
        let host = match get("developmentstorageproxyuri") {
            "" => "http://127.0.0.1",
            uri => uri.trim_end_matches('/'),
        };
        return Ok(Connection {
            account: EMULATOR_ACCOUNT.into(),
            service: checked_url(&format!("{host}:{EMULATOR_PORT}/{EMULATOR_ACCOUNT}"))?,
            auth: Auth::Key(Secret(EMULATOR_KEY.into())),
        });
    }
    let account = get("accountname");
    if !account.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
        return Err("has an AccountName that is no account's: letters and digits only".into());
    }
    // An endpoint of a signature may carry the signature itself.
    let (endpoint, in_endpoint) = get("blobendpoint").split_once('?').unwrap_or((get("blobendpoint"), ""));
    let service = match endpoint {
        "" if account.is_empty() => return Err("has neither AccountName nor BlobEndpoint".into()),
        "" => {
            let protocol = match get("defaultendpointsprotocol") {
                "" => "https",
                protocol => protocol,
            };
            let suffix = match get("endpointsuffix") {
                "" => "core.windows.net",
                suffix => suffix,
            };
            format!("{protocol}://{account}.blob.{suffix}")
        }
        url => url.trim_end_matches('/').to_owned(),
    };
    let signature = [get("sharedaccesssignature"), in_endpoint].into_iter().find(|text| !text.is_empty());
    let auth = match (get("accountkey"), signature) {
        ("", None) => return Err("has neither AccountKey nor SharedAccessSignature".into()),
        ("", Some(signature)) => Auth::Sas(Secret(checked_sas(signature)?)),
        (_, _) if account.is_empty() => return Err("has AccountKey without AccountName".into()),
        (key, _) => Auth::Key(Secret(key.to_owned())),
    };
    Ok(Connection { account: account.to_owned(), service: checked_url(&service)?, auth })
}

/// The usual spelling of a name; others are not shown, for they may be part of a key.
fn known(lower: &str) -> Option<&'static str> {
    const NAMES: [&str; 8] = [
        "AccountName",
        "AccountKey",
        "BlobEndpoint",
        "DefaultEndpointsProtocol",
        "EndpointSuffix",
        "SharedAccessSignature",
        "UseDevelopmentStorage",
        "DevelopmentStorageProxyUri",
    ];
    NAMES.into_iter().find(|name| name.eq_ignore_ascii_case(lower))
}

fn checked_url(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text).ok().filter(|url| matches!(url.scheme(), "https" | "http") && url.has_host());
    let is_plain = |url: &url::Url| {
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none()
    };
    match url.filter(is_plain) {
        Some(_) => Ok(text.to_owned()),
        None => Err("makes no URL of the Blob service: BlobEndpoint is a URL such as \
                     https://name.blob.core.windows.net, DefaultEndpointsProtocol is https or http, EndpointSuffix a \
                     domain such as core.windows.net"
            .into()),
    }
}

fn checked_sas(text: &str) -> Result<String, String> {
    let text = text.trim_start_matches('?');
    let is_query = text.bytes().all(|c| c.is_ascii_graphic() && c != b'#');
    if !is_query || !text.split('&').any(|pair| pair.starts_with("sig=")) {
        return Err(
            "has a SharedAccessSignature that is none: it is the query of a URL, with sv=, sig= and others".into()
        );
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_portal_shows() {
        let check = |text: &str, account: &str, service: &str, auth: Auth| {
            let want = Connection { account: account.into(), service: service.into(), auth };
            assert_eq!(parse(text), Ok(want), "{text}");
        };
        let (key, sas) = (|text: &str| Auth::Key(Secret(text.into())), |text: &str| Auth::Sas(Secret(text.into())));
        check(
            "DefaultEndpointsProtocol=https;AccountName=acc;AccountKey=a+/b==;EndpointSuffix=core.windows.net",
            "acc",
            "https://acc.blob.core.windows.net",
            key("a+/b=="),
        );
        check("AccountName=acc;AccountKey=k=;", "acc", "https://acc.blob.core.windows.net", key("k="));
        check(
            "defaultendpointsprotocol=http; accountname=acc ;AccountKey=k=;EndpointSuffix=core.chinacloudapi.cn",
            "acc",
            "http://acc.blob.core.chinacloudapi.cn",
            key("k="),
        );
        check(
            "BlobEndpoint=https://acc.blob.core.windows.net/;QueueEndpoint=https://q/;SharedAccessSignature=?sv=1&sig=x%3D",
            "",
            "https://acc.blob.core.windows.net",
            sas("sv=1&sig=x%3D"),
        );
        check("BlobEndpoint=https://b/?sv=1&sig=x", "", "https://b", sas("sv=1&sig=x"));
        let emulator = || key(EMULATOR_KEY);
        let local = "http://127.0.0.1:10000/devstoreaccount1";
        check("UseDevelopmentStorage=true", EMULATOR_ACCOUNT, local, emulator());
        check(
            "UseDevelopmentStorage=TRUE;DevelopmentStorageProxyUri=http://azurite/",
            EMULATOR_ACCOUNT,
            "http://azurite:10000/devstoreaccount1",
            emulator(),
        );
        check(
            "AccountName=acc;AccountKey=k=;BlobEndpoint=http://127.0.0.1:9/acc",
            "acc",
            "http://127.0.0.1:9/acc",
            key("k="),
        );
    }

    #[test]
    fn what_is_wrong_is_said_without_values() {
        let check = |text: &str, part: &str| {
            let err = parse(text).expect_err(text);
            assert!(err.contains(part) && !err.contains("hunter2"), "{text}: {err}");
        };
        check("hunter2", "a part without =");
        check("", "neither AccountName nor BlobEndpoint");
        check("AccountName=acc", "neither AccountKey nor SharedAccessSignature");
        check("AccountName=acc;AccountKey=hunter2;accountkey=b", "has AccountKey twice");
        check("hunter2=a;Hunter2=b", "has a name twice");
        check("AccountName=a/hunter2;AccountKey=b", "has an AccountName");
        check("BlobEndpoint=https://b;AccountKey=hunter2", "AccountKey without AccountName");
        check("BlobEndpoint=hunter2;SharedAccessSignature=sig=x", "no URL of the Blob service");
        check("BlobEndpoint=https://u:hunter2@b;SharedAccessSignature=sig=x", "no URL of the Blob service");
        check("DefaultEndpointsProtocol=hunter2;AccountName=a;AccountKey=b", "no URL of the Blob service");
        check("BlobEndpoint=https://b;SharedAccessSignature=hunter2", "SharedAccessSignature that is none");
        assert!(!format!("{:?}", parse("AccountName=a;AccountKey=hunter2").unwrap()).contains("hunter2"));
    }
}
