//! From a region to the URLs of its services. Pure.

use std::collections::BTreeMap;

use crate::rest::Env;
use pillion_base::error::{Error, Kind, Result};

/// Regions outside the commercial realm by how their names begin, and the domain of their realm. All others are of the
/// commercial one, unless the environment says otherwise.
///
/// `Source:` oci-go-sdk `common/regions.go`.
const REALMS: [(&str, &str); 12] = [
    ("us-langley-", "oraclegovcloud.com"),
    ("us-luke-", "oraclegovcloud.com"),
    ("us-gov-", "oraclegovcloud.com"),
    ("uk-gov-", "oraclegovcloud.uk"),
    ("ap-chiyoda-", "oraclecloud8.com"),
    ("ap-ibaraki-", "oraclecloud8.com"),
    ("me-dcc-muscat-", "oraclecloud9.com"),
    ("ap-dcc-canberra-", "oraclecloud10.com"),
    ("eu-dcc-", "oraclecloud14.com"),
    ("eu-madrid-2", "oraclecloud.eu"),
    ("eu-frankfurt-2", "oraclecloud.eu"),
    ("eu-jovanovac-", "oraclecloud20.com"),
];
const COMMERCIAL: &str = "oraclecloud.com";

/// The URL of a service in a region, such as `objectstorage`. `OCI_REGION_METADATA` tells the domain of a region that is not known here,
/// `OCI_DEFAULT_REALM` that of all such regions, as for Oracle's own libraries.
///
/// `Errors:` permanent, for what is no region.
pub(super) fn endpoint(service: &str, region: &str, env: &Env) -> Result<String> {
    let region = region.trim().to_ascii_lowercase();
    let is_name =
        |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'.');
    if !is_name(&region) || !region.contains(['-', '.']) {
        return Err(Error::new(Kind::Permanent, "the region must be the identifier of one, such as eu-frankfurt-1"));
    }
    // The region of a cloud that is not Oracle's own brings its domain with it.
    if region.contains('.') {
        return Ok(format!("https://{service}.{region}"));
    }
    let known = REALMS.iter().find(|(begins, _)| region.starts_with(begins)).map(|(_, domain)| (*domain).to_owned());
    let domain = known.or_else(|| metadata(&region, env)).or_else(|| env("OCI_DEFAULT_REALM"));
    let domain = domain.map(|domain| domain.trim().to_ascii_lowercase()).filter(|domain| !domain.is_empty());
    match domain {
        Some(domain) if !is_name(&domain) => Err(Error::new(
            Kind::Permanent,
            "OCI_REGION_METADATA or OCI_DEFAULT_REALM must name a realm's domain, such as oraclecloud.com",
        )),
        domain => Ok(format!("https://{service}.{region}.{}", domain.as_deref().unwrap_or(COMMERCIAL))),
    }
}

fn metadata(region: &str, env: &Env) -> Option<String> {
    let text = env("OCI_REGION_METADATA")?;
    let fields: BTreeMap<String, String> = serde_json::from_str(&text).ok()?;
    let is_it = fields.get("regionIdentifier").is_some_and(|name| name.eq_ignore_ascii_case(region));
    if is_it { fields.get("realmDomainComponent").cloned() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn regions_and_realms() {
        let check = |region: &str, variable: (&str, &str), want: std::result::Result<&str, &str>| {
            let (name, value) = (variable.0.to_owned(), variable.1.to_owned());
            let env: Env = Arc::new(move |other| (other == name).then(|| value.clone()));
            match (endpoint("objectstorage", region, &env), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, format!("https://objectstorage.{want}"), "{region}"),
                (Err(err), Err(want)) => assert!(err.to_string().contains(want), "{region}: {err}"),
                (got, want) => panic!("{region}: {got:?}, not {want:?}"),
            }
        };
        let none = ("", "");
        check("eu-frankfurt-1", none, Ok("eu-frankfurt-1.oraclecloud.com"));
        check(" US-Phoenix-1", none, Ok("us-phoenix-1.oraclecloud.com"));
        check("us-gov-ashburn-1", none, Ok("us-gov-ashburn-1.oraclegovcloud.com"));
        check("us-langley-1", none, Ok("us-langley-1.oraclegovcloud.com"));
        check("uk-gov-london-1", none, Ok("uk-gov-london-1.oraclegovcloud.uk"));
        check("eu-dcc-milan-1", none, Ok("eu-dcc-milan-1.oraclecloud14.com"));
        check("eu-madrid-1", none, Ok("eu-madrid-1.oraclecloud.com"));
        check("eu-madrid-2", none, Ok("eu-madrid-2.oraclecloud.eu"));
        check("x-y-1.cloud.example", none, Ok("x-y-1.cloud.example"));
        let said = r#"{"realmKey":"oc99","realmDomainComponent":"Cloud.example","regionKey":"XYZ","regionIdentifier":"xy-z-1"}"#;
        check("xy-z-1", ("OCI_REGION_METADATA", said), Ok("xy-z-1.cloud.example"));
        check("xy-z-2", ("OCI_REGION_METADATA", said), Ok("xy-z-2.oraclecloud.com"));
        check("xy-z-1", ("OCI_REGION_METADATA", "{"), Ok("xy-z-1.oraclecloud.com"));
        check("xy-z-1", ("OCI_DEFAULT_REALM", "cloud.example"), Ok("xy-z-1.cloud.example"));
        check("eu-dcc-milan-1", ("OCI_DEFAULT_REALM", "cloud.example"), Ok("eu-dcc-milan-1.oraclecloud14.com"));
        check("xy-z-1", ("OCI_DEFAULT_REALM", "cloud/x"), Err("OCI_DEFAULT_REALM must name"));
        for odd in ["", "fra", "a b-1", "eu-frankfurt-1/x", "ü-1"] {
            check(odd, none, Err("such as eu-frankfurt-1"));
        }
    }
}
