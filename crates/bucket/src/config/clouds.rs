//! Clouds that Thanos reaches through their own interfaces, and that speak S3 too: they are reached through S3. Pure.

use crate::s3::config::{Lookup, S3Config};
use pillion_base::error::Result;
use pillion_base::yaml::Node;

use super::{http, s3};

/// `type: COS`, Tencent Cloud.
///
/// `Source:` objstore `providers/cos/cos.go`; Tencent's "Accessing COS with AWS S3 SDK".
pub(super) fn cos(config: &Node, remarks: &mut Vec<String>) -> Result<S3Config> {
    const FIELDS: [&str; 8] =
        ["bucket", "region", "app_id", "endpoint", "secret_key", "secret_id", "max_retries", "http_config"];
    config.check_fields("config", &FIELDS)?;
    let field = |name: &str| config.str_field(name).map(Option::unwrap_or_default);
    let (endpoint, insecure) = without_scheme(field("endpoint")?);
    let (bucket, region) = if endpoint.is_empty() {
        let (bucket, app_id, region) =
            (required(config, "bucket")?, required(config, "app_id")?, required(config, "region")?);
        (format!("{bucket}-{app_id}"), region)
    } else {
        // Thanos takes the bucket's own URL here: https://blocks-1250000000.cos.ap-beijing.myqcloud.com
        let parts = endpoint.split_once('.').and_then(|(bucket, rest)| {
            let region = rest.strip_prefix("cos.")?.strip_suffix(".myqcloud.com")?;
            (!region.is_empty() && !region.contains('.')).then_some((bucket.to_owned(), region))
        });
        let node = config.get("endpoint").unwrap_or(config);
        parts.ok_or_else(|| {
            node.error(
                "field endpoint must be https://<bucket>-<app_id>.cos.<region>.myqcloud.com; for a domain of your own \
                 use type: S3",
            )
        })?
    };
    let made = S3Config {
        bucket,
        endpoint: format!("cos.{region}.myqcloud.com"),
        region: region.to_owned(),
        insecure,
        lookup: Lookup::VirtualHosted,
        access_key: s3::secret(config, "secret_id")?,
        secret_key: s3::secret(config, "secret_key")?,
        max_attempts: s3::max_attempts(config)?,
        http: http::read(config, remarks)?,
        ..S3Config::default()
    };
    checked(config, made, ["secret_id", "secret_key"])
}

/// `type: ALIYUNOSS`, Alibaba Cloud. It takes the bucket in the host name only.
///
/// `Source:` objstore `providers/oss/oss.go`; Alibaba's "Use AWS SDKs to access OSS".
pub(super) fn aliyun(config: &Node) -> Result<S3Config> {
    config.check_fields("config", &["endpoint", "bucket", "access_key_id", "access_key_secret"])?;
    let bucket = required(config, "bucket")?;
    let (endpoint, insecure) = without_scheme(required(config, "endpoint")?);
    // oss-cn-hangzhou.aliyuncs.com, oss-cn-hangzhou-internal.aliyuncs.com: the S3 endpoint is s3.oss-…
    let name = endpoint.strip_suffix(".aliyuncs.com").map(|name| name.strip_prefix("s3.").unwrap_or(name));
    let location = name.and_then(|name| name.strip_prefix("oss-")).filter(|location| !location.contains('.'));
    let region = location.map(|location| location.strip_suffix("-internal").unwrap_or(location));
    let made = S3Config {
        bucket: bucket.to_owned(),
        endpoint: location.map_or_else(|| endpoint.to_owned(), |location| format!("s3.oss-{location}.aliyuncs.com")),
        region: region.filter(|region| !region.starts_with("accelerate")).unwrap_or_default().to_owned(),
        insecure,
        lookup: Lookup::VirtualHosted,
        access_key: s3::secret(config, "access_key_id")?,
        secret_key: s3::secret(config, "access_key_secret")?,
        ..S3Config::default()
    };
    checked(config, made, ["access_key_id", "access_key_secret"])
}

/// `type: BOS`, Baidu AI Cloud.
///
/// `Source:` objstore `providers/bos/bos.go`; Baidu's "Compatible Signature Authentication".
pub(super) fn bos(config: &Node) -> Result<S3Config> {
    config.check_fields("config", &["bucket", "endpoint", "access_key", "secret_key"])?;
    let bucket = required(config, "bucket")?;
    let (endpoint, insecure) = without_scheme(required(config, "endpoint")?);
    // bj.bcebos.com: the S3 endpoint is s3.bj.bcebos.com
    let region = endpoint
        .strip_suffix(".bcebos.com")
        .map(|name| name.strip_prefix("s3.").unwrap_or(name))
        .filter(|region| !region.is_empty() && !region.contains('.'));
    let Some(region) = region else {
        let node = config.get("endpoint").unwrap_or(config);
        return Err(node.error("field endpoint must be <region>.bcebos.com; for a domain of your own use type: S3"));
    };
    let made = S3Config {
        bucket: bucket.to_owned(),
        endpoint: format!("s3.{region}.bcebos.com"),
        region: region.to_owned(),
        insecure,
        lookup: Lookup::Path,
        access_key: s3::secret(config, "access_key")?,
        secret_key: s3::secret(config, "secret_key")?,
        ..S3Config::default()
    };
    checked(config, made, ["access_key", "secret_key"])
}

/// `type: OBS`, Huawei Cloud and its sisters, whose hosts are `obs.<region>.<domain>`.
///
/// `Source:` objstore `providers/obs/obs.go`.
pub(super) fn obs(config: &Node, remarks: &mut Vec<String>) -> Result<S3Config> {
    const FIELDS: [&str; 6] = ["bucket", "endpoint", "access_key", "secret_key", "max_retries", "http_config"];
    config.check_fields("config", &FIELDS)?;
    let bucket = required(config, "bucket")?;
    let (endpoint, insecure) = without_scheme(required(config, "endpoint")?);
    let region = endpoint.strip_prefix("obs.").and_then(|rest| rest.split_once('.')).map(|(region, _)| region);
    let made = S3Config {
        bucket: bucket.to_owned(),
        endpoint: endpoint.to_owned(),
        region: region.unwrap_or_default().to_owned(),
        insecure,
        // A bucket with a dot in its name would not match the certificate, and an IP address cannot have a name before
        // it.
        lookup: if region.is_some() && !bucket.contains('.') { Lookup::VirtualHosted } else { Lookup::Path },
        access_key: s3::secret(config, "access_key")?,
        secret_key: s3::secret(config, "secret_key")?,
        max_attempts: s3::max_attempts(config)?,
        http: http::read(config, remarks)?,
        ..S3Config::default()
    };
    checked(config, made, ["access_key", "secret_key"])
}

fn required<'a>(config: &'a Node, name: &str) -> Result<&'a str> {
    config
        .str_field(name)?
        .filter(|text| !text.is_empty())
        .ok_or_else(|| config.error(format!("field {name} is missing in config")))
}

/// Returns the host, and whether the scheme is http: the clouds' own libraries take a URL where S3 has a host.
fn without_scheme(endpoint: &str) -> (&str, bool) {
    let (host, insecure) = match endpoint.strip_prefix("http://") {
        Some(host) => (host, true),
        None => (endpoint.strip_prefix("https://").unwrap_or(endpoint), false),
    };
    (host.strip_suffix('/').unwrap_or(host), insecure)
}

/// These clouds always need keys, and in Thanos only the configuration has them.
fn checked(config: &Node, made: S3Config, keys: [&str; 2]) -> Result<S3Config> {
    for name in keys {
        required(config, name)?;
    }
    s3::check_endpoint(config, &made)?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::endpoint::Endpoint;
    use pillion_base::yaml;

    type Read = fn(&Node) -> Result<S3Config>;

    const COS: Read = |node| cos(node, &mut Vec::new());
    const OBS: Read = |node| obs(node, &mut Vec::new());

    fn read(read: Read, text: &str) -> Result<S3Config> {
        read(&yaml::parse(text).unwrap())
    }

    #[test]
    fn their_buckets_are_reached_through_s3() {
        let check = |cloud: Read, text: &str, url: &str, region: Option<&str>| {
            let config = read(cloud, text).unwrap_or_else(|err| panic!("{text}: {err}"));
            let endpoint = Endpoint::new(&config).unwrap();
            assert_eq!((endpoint.bucket_url().as_str(), endpoint.region()), (url, region), "{text}");
            assert_eq!((config.access_key.0.as_str(), config.secret_key.0.as_str()), ("id", "key"), "{text}");
        };
        check(
            COS,
            "{bucket: blocks, app_id: 1250000000, region: ap-beijing, secret_id: id, secret_key: key}",
            "https://blocks-1250000000.cos.ap-beijing.myqcloud.com/",
            Some("ap-beijing"),
        );
        check(
            COS,
            "{endpoint: 'http://blocks-1.cos.ap-beijing.myqcloud.com/', secret_id: id, secret_key: key}",
            "http://blocks-1.cos.ap-beijing.myqcloud.com/",
            Some("ap-beijing"),
        );
        let oss = |endpoint: &str| {
            format!("{{endpoint: '{endpoint}', bucket: abc, access_key_id: id, access_key_secret: key}}")
        };
        for endpoint in
            ["oss-cn-hangzhou.aliyuncs.com", "https://oss-cn-hangzhou.aliyuncs.com", "s3.oss-cn-hangzhou.aliyuncs.com"]
        {
            check(aliyun, &oss(endpoint), "https://abc.s3.oss-cn-hangzhou.aliyuncs.com/", Some("cn-hangzhou"));
        }
        check(
            aliyun,
            &oss("http://oss-eu-central-1-internal.aliyuncs.com"),
            "http://abc.s3.oss-eu-central-1-internal.aliyuncs.com/",
            Some("eu-central-1"),
        );
        check(aliyun, &oss("oss-accelerate.aliyuncs.com"), "https://abc.s3.oss-accelerate.aliyuncs.com/", None);
        check(aliyun, &oss("oss.example:8443"), "https://abc.oss.example:8443/", None);
        let keys = "bucket: abc, access_key: id, secret_key: key";
        for endpoint in ["bj.bcebos.com", "s3.bj.bcebos.com", "https://bj.bcebos.com"] {
            check(bos, &format!("{{endpoint: '{endpoint}', {keys}}}"), "https://s3.bj.bcebos.com/abc/", Some("bj"));
        }
        check(
            OBS,
            &format!("{{endpoint: obs.eu-west-101.myhuaweicloud.eu, {keys}}}"),
            "https://abc.obs.eu-west-101.myhuaweicloud.eu/",
            Some("eu-west-101"),
        );
        check(OBS, &format!("{{endpoint: 'http://10.0.0.1:5080', {keys}}}"), "http://10.0.0.1:5080/abc/", None);
        let more = read(
            OBS,
            &format!("{{endpoint: obs.a.b, {keys}, max_retries: 3, http_config: {{max_conns_per_host: 5}}}}"),
        );
        let more = more.unwrap();
        assert_eq!((more.max_attempts, more.http.max_conns_per_host), (3, 5));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |cloud: Read, text: &str, expected: &str| {
            let err = read(cloud, text).expect_err(text).to_string();
            assert!(err.starts_with(expected), "{text}: {err}");
            assert!(!err.contains("hunter2"), "{err}");
        };
        check(COS, "{bucket: abc, app_id: 1, secret_id: id, secret_key: hunter2}", "line 1: field region is missing");
        check(COS, "{bucket: abc, app_id: 1, region: r-1, secret_id: id}", "line 1: field secret_key is missing");
        check(
            COS,
            "{endpoint: 'https://cdn.example', secret_id: id, secret_key: hunter2}",
            "line 1: field endpoint must be",
        );
        check(COS, "{bucket: abc, secret: hunter2}", "line 1: field secret not found in config");
        check(
            COS,
            "{bucket: abc, app_id: 1, region: a/b, secret_id: id, secret_key: hunter2}",
            "line 1: field endpoint must be",
        );
        check(
            aliyun,
            "{bucket: abc, access_key_id: id, access_key_secret: hunter2}",
            "line 1: field endpoint is missing",
        );
        check(aliyun, "{bucket: abc, endpoint: e, access_key_id: id}", "line 1: field access_key_secret is missing");
        check(aliyun, "{bucket: abc, endpoint: e, max_retries: 3}", "line 1: field max_retries not found");
        check(
            bos,
            "{bucket: abc, endpoint: cdn.example, access_key: id, secret_key: hunter2}",
            "line 1: field endpoint must be <region>",
        );
        check(
            bos,
            "{bucket: abc, endpoint: bj.bcebos.com, access_key: id, secret_key: 'hunter2 x'}",
            "line 1: field secret_key holds",
        );
        check(
            OBS,
            "{bucket: a, endpoint: obs.a.b, access_key: id, secret_key: hunter2}",
            "line 1: field bucket must be a name",
        );
    }
}
