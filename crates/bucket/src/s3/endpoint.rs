//! The endpoint of a bucket: its host, the region that the host implies, the URLs of its objects. Pure.

use percent_encoding::utf8_percent_encode;
use url::{Host, Url};

use super::config::{Lookup, S3Config};
use crate::rest::RESERVED_IN_PATH;
use pillion_base::error::{Error, Kind, Result};

/// The endpoint of one bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The server's URL, without a path.
    server: Url,
    bucket: String,
    region: Option<String>,
    is_virtual: bool,
    /// The host is one of AWS's that is replaced by that of the bucket's region.
    follows_region: bool,
    is_dualstack: bool,
    /// The server takes the bucket in the host only, for all requests.
    is_never_path: bool,
}

/// What a host name of AWS says.
#[derive(Debug, PartialEq, Eq)]
struct Aws<'a> {
    region: Option<&'a str>,
    follows_region: bool,
}

fn wrong(text: impl Into<String>) -> Error {
    Error::new(Kind::Permanent, text)
}

impl Endpoint {
    /// The endpoint of the configured bucket.
    ///
    /// `Errors:` each says which field to change, and how.
    /// `Source:` minio-go `utils.go` `isValidEndpointURL`, `pkg/s3utils/utils.go`, `api.go` `makeTargetURL`.
    pub(crate) fn new(config: &S3Config) -> Result<Self> {
        let server = server_url(&config.endpoint, config.insecure)?;
        let host = server.host_str().unwrap_or_default();
        check_bucket(&config.bucket)?;
        if let Some(rest) = host.strip_prefix(&format!("{}.", config.bucket)).filter(|rest| takes_virtual(rest)) {
            return Err(wrong(format!("field endpoint begins with the bucket's name: write endpoint: {rest}")));
        }
        if host.starts_with("s3express-") || config.bucket.ends_with("--x-s3") {
            return Err(wrong(
                "directory buckets (S3 Express One Zone) are not supported: use a general purpose bucket",
            ));
        }
        let aws = aws(host);
        let region = match config.region.as_str() {
            "" => aws.as_ref().and_then(|aws| aws.region).or_else(|| outposts_region(host)),
            region if is_region(region) => Some(region),
            _ => return Err(wrong("field region may hold letters, digits, - and _ only, such as eu-west-1")),
        };
        if host.starts_with("s3-accelerate.") && aws.is_some() && region.is_none() {
            return Err(wrong("field region is missing: an endpoint of S3 Transfer Acceleration does not tell it"));
        }
        let is_virtual = match config.lookup {
            Lookup::Path => false,
            Lookup::VirtualHosted => {
                if !matches!(server.host(), Some(Host::Domain(_))) {
                    return Err(wrong(
                        "field endpoint is an IP address, which cannot have the bucket before it: \
                         set bucket_lookup_type: path",
                    ));
                }
                if !is_host_part(&config.bucket) {
                    return Err(wrong(
                        "field bucket has a name that cannot be part of a host name (lower-case letters, digits, \
                         - and . only): set bucket_lookup_type: path",
                    ));
                }
                true
            }
            Lookup::Auto => {
                // The * in a certificate stands for one label of a name.
                let is_covered = config.insecure || !config.bucket.contains('.');
                takes_virtual(host) && is_covered && is_host_part(&config.bucket)
            }
        };
        let (region, follows_region) = (region.map(str::to_owned), aws.is_some_and(|aws| aws.follows_region));
        let endpoint = Endpoint {
            bucket: config.bucket.clone(),
            region,
            is_virtual,
            follows_region: follows_region && server.port().is_none(),
            is_dualstack: !config.disable_dualstack,
            is_never_path: config.lookup == Lookup::VirtualHosted || is_virtual && host.ends_with(".aliyuncs.com"),
            server,
        };
        if is_virtual && endpoint.with_bucket().is_none() {
            return Err(wrong(
                "field bucket and field endpoint make no host name together: set bucket_lookup_type: path",
            ));
        }
        Ok(endpoint)
    }

    /// The region to sign for, from the configuration or the host. `None` for hosts such as `s3.amazonaws.com`, which
    /// serve all regions: the store must be asked.
    pub(crate) fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// The endpoint in a region. Only AWS's own hosts are replaced by that of the region (the dual-stack one, unless
    /// that is disabled). Hosts for FIPS, PrivateLink and acceleration and other ports were chosen on purpose and stay.
    ///
    /// `Differs:` minio-go has a table of regions and goes to us-east-1 for one that is newer than itself.
    pub(crate) fn in_region(&self, region: &str) -> Endpoint {
        let mut moved = self.clone();
        // The name comes from a server, and must not lead to another host.
        if !is_region(region) {
            return moved;
        }
        moved.region = Some(region.to_owned());
        if self.follows_region {
            let (dualstack, domain) = (if self.is_dualstack { "dualstack." } else { "" }, aws_domain(region));
            let host = format!("s3.{dualstack}{region}.{domain}");
            if let Ok(server) = Url::parse(&format!("{}://{host}/", self.server.scheme())) {
                moved.server = server;
            }
        }
        moved
    }

    /// The URL of an object, with everything but unreserved characters and slashes escaped, as SigV4 demands.
    pub(crate) fn object_url(&self, object: &str) -> Url {
        let mut url = self.bucket_url();
        let path = format!("{}{}", url.path(), utf8_percent_encode(object, RESERVED_IN_PATH));
        url.set_path(&path);
        url
    }

    /// The URL of the bucket itself, for listings. It ends in a slash.
    pub(crate) fn bucket_url(&self) -> Url {
        if self.is_virtual { self.virtual_url() } else { self.path_url() }
    }

    /// The URL of GetBucketLocation, without the query. The bucket is in the path, which works from any region, unless
    /// the server takes it in the host only.
    pub(crate) fn location_url(&self) -> Url {
        if self.is_never_path { self.virtual_url() } else { self.path_url() }
    }

    fn path_url(&self) -> Url {
        let mut url = self.server.clone();
        url.set_path(&format!("/{}/", utf8_percent_encode(&self.bucket, RESERVED_IN_PATH)));
        url
    }

    fn virtual_url(&self) -> Url {
        self.with_bucket().unwrap_or_else(|| self.path_url())
    }

    /// The server with the bucket in its host; `None` if that is no valid host, which [`Endpoint::new`] refuses.
    fn with_bucket(&self) -> Option<Url> {
        let mut url = self.server.clone();
        let host = format!("{}.{}", self.bucket, self.server.host_str()?);
        url.set_host(Some(&host)).ok()?;
        Some(url)
    }
}

/// The URL of `host[:port]`.
fn server_url(endpoint: &str, insecure: bool) -> Result<Url> {
    if endpoint.is_empty() {
        return Err(wrong("no s3 endpoint in config file"));
    }
    if endpoint.contains("://") {
        return Err(wrong(
            "field endpoint must be host[:port] without a scheme: write no https://, and insecure: true for http://",
        ));
    }
    if endpoint.contains(['/', '?', '#']) {
        return Err(wrong(
            "field endpoint must be host[:port] without a path; what stands before objects is the prefix",
        ));
    }
    if !endpoint.is_ascii() {
        return Err(wrong("field endpoint has characters that are not ASCII: write the host in its xn-- form"));
    }
    let invalid = || wrong("field endpoint is not a valid host[:port]");
    let scheme = if insecure { "http" } else { "https" };
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || b"-._:[]".contains(&c);
    if !endpoint.bytes().all(is_plain) || endpoint.starts_with(['-', '.', '_', ':']) || endpoint.ends_with(':') {
        return Err(invalid());
    }
    let url = Url::parse(&format!("{scheme}://{endpoint}/")).map_err(|_| invalid())?;
    match url.host() {
        Some(Host::Domain(name)) if name.len() <= 253 && name.split('.').all(|part| part.len() <= 63) => Ok(url),
        Some(Host::Ipv4(_) | Host::Ipv6(_)) => Ok(url),
        _ => Err(invalid()),
    }
}

/// `Source:` minio-go `pkg/s3utils/utils.go` `CheckValidBucketName`.
fn check_bucket(bucket: &str) -> Result<()> {
    if bucket.is_empty() {
        return Err(wrong("field bucket is empty, it is the name of the bucket"));
    }
    if !(3..=63).contains(&bucket.len()) {
        return Err(wrong("field bucket must be a name of 3 to 63 characters"));
    }
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || b".-_:".contains(&c);
    let is_edge = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = bucket.as_bytes();
    let is_odd = ["..", ".-", "-."].iter().any(|pair| bucket.contains(pair));
    if !bucket.bytes().all(is_plain) || !is_edge(bytes.first()) || !is_edge(bytes.last()) || is_odd {
        return Err(wrong(
            "field bucket may hold letters, digits, - and . only, begins and ends with a letter or digit, \
             and has no dot beside another or beside a -",
        ));
    }
    let parts = || bucket.split('.');
    if parts().count() == 4 && parts().all(|part| part.bytes().all(|c| c.is_ascii_digit())) {
        return Err(wrong("field bucket must not be an IP address"));
    }
    Ok(())
}

/// Whether the bucket's name can be part of a host name as it is.
fn is_host_part(bucket: &str) -> bool {
    bucket.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.')
}

/// Whether a text can be the name of a region. Not only AWS's are allowed: others have names such as `RegionOne`.
pub(super) fn is_region(region: &str) -> bool {
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
    (1..=63).contains(&region.len()) && region.bytes().all(is_plain)
}

/// Whether a part of a host of AWS is a region, such as `eu-west-1` or `us-gov-west-1`.
fn is_aws_region(region: &str) -> bool {
    let is_plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    region.bytes().all(is_plain)
        && region.contains('-')
        && region.bytes().last().is_some_and(|c| c.is_ascii_digit())
        && !["website-", "control-", "external-", "accesspoint-"].iter().any(|word| region.starts_with(word))
}

/// The domain of a region's services.
pub(super) fn aws_domain(region: &str) -> &'static str {
    if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" }
}

/// Reads a host name of Amazon S3; `None` for any other.
///
/// `Source:` minio-go `pkg/s3utils/utils.go` `GetRegionFromURL`, `IsAmazonEndpoint`.
fn aws(host: &str) -> Option<Aws<'_>> {
    let (name, is_china) = match host.strip_suffix(".amazonaws.com.cn") {
        Some(name) => (name, true),
        None => (host.strip_suffix(".amazonaws.com")?, false),
    };
    let (region, follows_region) = match name {
        "s3" | "s3-external-1" if !is_china => return Some(Aws { region: None, follows_region: true }),
        "s3-accelerate" | "s3-accelerate.dualstack" => return Some(Aws { region: None, follows_region: false }),
        _ => {
            if let Some(region) = name.strip_prefix("s3-fips.dualstack.").or_else(|| name.strip_prefix("s3-fips.")) {
                (region, false)
            } else if let Some(region) = name.strip_prefix("s3-fips-") {
                (region, false)
            } else if let Some(region) = name.strip_prefix("s3.dualstack.").or_else(|| name.strip_prefix("s3.")) {
                (region, true)
            } else if let Some(region) = name.strip_prefix("s3-") {
                (region, true)
            } else {
                // bucket.vpce-1a2b-3c4d.s3.eu-west-1.vpce
                let rest = name.strip_prefix("bucket.vpce-").or_else(|| name.strip_prefix("accesspoint.vpce-"))?;
                let (_, rest) = rest.split_once(".s3.")?;
                (rest.strip_suffix(".vpce")?, false)
            }
        }
    };
    let is_right = is_aws_region(region) && region.starts_with("cn-") == is_china;
    is_right.then_some(Aws { region: Some(region), follows_region })
}

/// The region of `….s3-outposts.eu-west-1.amazonaws.com`, which takes the bucket in its path.
fn outposts_region(host: &str) -> Option<&str> {
    let (_, region) = host.strip_suffix(".amazonaws.com")?.split_once(".s3-outposts.")?;
    is_aws_region(region).then_some(region)
}

/// Whether `bucket_lookup_type: auto` puts the bucket into this host's name.
fn takes_virtual(host: &str) -> bool {
    aws(host).is_some() || host == "storage.googleapis.com" || host.ends_with(".aliyuncs.com")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(endpoint: &str) -> S3Config {
        S3Config { bucket: "blocks".into(), endpoint: endpoint.into(), ..S3Config::default() }
    }

    fn endpoint(host: &str) -> Endpoint {
        Endpoint::new(&config(host)).unwrap_or_else(|err| panic!("{host}: {err}"))
    }

    #[test]
    fn the_region_is_read_from_hosts_of_aws() {
        let check = |host: &str, expected: Option<&str>| assert_eq!(endpoint(host).region(), expected, "{host}");
        check("s3.amazonaws.com", None);
        check("s3-external-1.amazonaws.com", None);
        check("s3.eu-west-1.amazonaws.com", Some("eu-west-1"));
        check("S3.EU-West-1.amazonaws.com:443", Some("eu-west-1"));
        check("s3-eu-west-1.amazonaws.com", Some("eu-west-1"));
        check("s3.dualstack.ap-southeast-7.amazonaws.com", Some("ap-southeast-7"));
        check("s3-fips.us-east-2.amazonaws.com", Some("us-east-2"));
        check("s3-fips.dualstack.us-gov-west-1.amazonaws.com", Some("us-gov-west-1"));
        check("s3-fips-us-gov-west-1.amazonaws.com", Some("us-gov-west-1"));
        check("s3.cn-north-1.amazonaws.com.cn", Some("cn-north-1"));
        check("s3.dualstack.cn-northwest-1.amazonaws.com.cn", Some("cn-northwest-1"));
        check("bucket.vpce-1a2b3c4d-5e6f.s3.us-east-1.vpce.amazonaws.com", Some("us-east-1"));
        check("my-ap-123.s3-outposts.us-west-2.amazonaws.com", Some("us-west-2"));
        check("s3-website-us-east-1.amazonaws.com", None);
        check("elb.us-east-1.amazonaws.com", None);
        check("s3.eu-west-1.amazonaws.com.example", None);
        check("s3.eu-west-1.amazonaws.com.cn", None);
        check("minio.example:9000", None);
        check("storage.googleapis.com", None);

        let told = S3Config { region: "garage".into(), ..config("s3.eu-west-1.amazonaws.com") };
        assert_eq!(Endpoint::new(&told).unwrap().region(), Some("garage"));
    }

    #[test]
    fn only_hosts_of_aws_move_to_the_region() {
        let check = |host: &str, expected: &str| {
            let moved = endpoint(host).in_region("eu-central-1");
            assert_eq!(moved.bucket_url().as_str(), expected, "{host}");
            assert_eq!(moved.region(), Some("eu-central-1"));
        };
        let standard = "https://blocks.s3.dualstack.eu-central-1.amazonaws.com/";
        check("s3.amazonaws.com", standard);
        check("s3.amazonaws.com:443", standard);
        check("s3.us-west-2.amazonaws.com", standard);
        check("s3-us-west-2.amazonaws.com", standard);
        check("s3.us-west-2.amazonaws.com:8443", "https://blocks.s3.us-west-2.amazonaws.com:8443/");
        check("s3-fips.us-east-1.amazonaws.com", "https://blocks.s3-fips.us-east-1.amazonaws.com/");
        check(
            "bucket.vpce-1.s3.us-east-1.vpce.amazonaws.com",
            "https://blocks.bucket.vpce-1.s3.us-east-1.vpce.amazonaws.com/",
        );
        check("x.s3-outposts.us-west-2.amazonaws.com", "https://x.s3-outposts.us-west-2.amazonaws.com/blocks/");
        check("minio:9000", "https://minio:9000/blocks/");

        let plain = S3Config { disable_dualstack: true, insecure: true, ..config("s3.amazonaws.com") };
        let plain = Endpoint::new(&plain).unwrap();
        assert_eq!(plain.in_region("eu-west-1").bucket_url().as_str(), "http://blocks.s3.eu-west-1.amazonaws.com/");
        assert_eq!(
            plain.in_region("cn-north-1").bucket_url().as_str(),
            "http://blocks.s3.cn-north-1.amazonaws.com.cn/"
        );
        assert_eq!(plain.in_region("evil.example/").bucket_url().as_str(), "http://blocks.s3.amazonaws.com/");
        assert_eq!(plain.in_region("").bucket_url().as_str(), "http://blocks.s3.amazonaws.com/");
    }

    #[test]
    fn the_bucket_is_in_the_host_or_in_the_path() {
        let check = |host: &str, bucket: &str, insecure: bool, lookup: Lookup, expected: &str, location: &str| {
            let config = S3Config { bucket: bucket.into(), insecure, lookup, ..config(host) };
            let endpoint = Endpoint::new(&config).unwrap_or_else(|err| panic!("{host}: {err}"));
            assert_eq!(endpoint.bucket_url().as_str(), expected, "{host}");
            assert_eq!(endpoint.location_url().as_str(), location, "{host}");
        };
        let (auto, host, path) = (Lookup::Auto, Lookup::VirtualHosted, Lookup::Path);
        let aws = "s3.amazonaws.com";
        check(aws, "abc", false, auto, "https://abc.s3.amazonaws.com/", "https://s3.amazonaws.com/abc/");
        check(aws, "a.b.c", false, auto, "https://s3.amazonaws.com/a.b.c/", "https://s3.amazonaws.com/a.b.c/");
        check(aws, "a.b.c", true, auto, "http://a.b.c.s3.amazonaws.com/", "http://s3.amazonaws.com/a.b.c/");
        check(aws, "A_bc", false, auto, "https://s3.amazonaws.com/A_bc/", "https://s3.amazonaws.com/A_bc/");
        check(aws, "abc", false, path, "https://s3.amazonaws.com/abc/", "https://s3.amazonaws.com/abc/");
        let google = "storage.googleapis.com";
        check(google, "abc", false, auto, "https://abc.storage.googleapis.com/", "https://storage.googleapis.com/abc/");
        let oss = "https://abc.oss-cn-hangzhou.aliyuncs.com/";
        check("oss-cn-hangzhou.aliyuncs.com", "abc", false, auto, oss, oss);
        check("minio:9000", "abc", true, auto, "http://minio:9000/abc/", "http://minio:9000/abc/");
        check("minio:9000", "abc", true, host, "http://abc.minio:9000/", "http://abc.minio:9000/");
        check("minio:80", "a:bc", true, auto, "http://minio/a%3Abc/", "http://minio/a%3Abc/");
        check("[::1]:9000", "abc", true, auto, "http://[::1]:9000/abc/", "http://[::1]:9000/abc/");
        check("127.0.0.1:9000", "abc", false, auto, "https://127.0.0.1:9000/abc/", "https://127.0.0.1:9000/abc/");
        check("rgw_1.local", "abc", false, auto, "https://rgw_1.local/abc/", "https://rgw_1.local/abc/");
    }

    #[test]
    fn object_names_are_escaped_once() {
        let check = |object: &str, expected: &str| {
            let url = endpoint("minio:9000").object_url(object);
            assert_eq!(url.as_str(), format!("https://minio:9000/blocks/{expected}"), "{object}");
        };
        check("01JDA/chunks/000001", "01JDA/chunks/000001");
        check("a b+c=d&e", "a%20b%2Bc%3Dd%26e");
        check("100%/%2F?x#y", "100%25/%252F%3Fx%23y");
        check("ü/\\'\"", "%C3%BC/%5C%27%22");
        check("a-b_c.d~e", "a-b_c.d~e");
        check("a:@!$()*,;", "a%3A%40%21%24%28%29%2A%2C%3B");
        assert_eq!(endpoint("s3.amazonaws.com").object_url("a/b").as_str(), "https://blocks.s3.amazonaws.com/a/b");
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_change() {
        let check = |change: &dyn Fn(&mut S3Config), expected: &str| {
            let mut config = config("minio.example");
            change(&mut config);
            let err = Endpoint::new(&config).expect_err(expected);
            assert!(err.to_string().starts_with(expected), "{err}, not {expected}");
            assert_eq!(err.kind(), Kind::Permanent);
        };
        let host = |host: &'static str| move |config: &mut S3Config| config.endpoint = host.into();
        let bucket = |bucket: &'static str| move |config: &mut S3Config| config.bucket = bucket.into();
        check(&host(""), "no s3 endpoint in config file");
        check(&host("https://minio"), "field endpoint must be host[:port] without a scheme");
        check(&host("minio/blocks"), "field endpoint must be host[:port] without a path");
        check(&host("minio?x"), "field endpoint must be host[:port] without a path");
        check(&host("mü.example"), "field endpoint has characters that are not ASCII");
        for invalid in ["user:pw@minio", "minio:", "minio:x", "minio:70000", ":9000", "a b", "-a", ".", "a..b:", "[::1"]
        {
            check(&|config| config.endpoint = invalid.into(), "field endpoint is not a valid host[:port]");
        }
        check(
            &host("blocks.s3.eu-west-1.amazonaws.com"),
            "field endpoint begins with the bucket's name: write endpoint: s3.eu-west-1.amazonaws.com",
        );
        check(&host("s3-accelerate.amazonaws.com"), "field region is missing");
        check(&host("s3express-use1-az4.us-east-1.amazonaws.com"), "directory buckets");
        check(&bucket("abc--use1-az4--x-s3"), "directory buckets");
        check(&bucket(""), "field bucket is empty");
        check(&bucket("ab"), "field bucket must be a name of 3 to 63 characters");
        for invalid in ["-abc", "abc.", "a/b", "a b", "a..b", "a.-b", "büc"] {
            check(&|config| config.bucket = invalid.into(), "field bucket may hold letters");
        }
        check(&bucket("10.0.0.1"), "field bucket must not be an IP address");
        check(&|config| config.region = "eu west".into(), "field region may hold");
        let host_lookup = |bucket: &str, host: &str| {
            let (bucket, host) = (bucket.to_owned(), host.to_owned());
            move |config: &mut S3Config| {
                (config.bucket, config.endpoint, config.lookup) = (bucket.clone(), host.clone(), Lookup::VirtualHosted);
            }
        };
        check(&host_lookup("abc", "10.0.0.1:9000"), "field endpoint is an IP address");
        check(&host_lookup("a_bc", "minio"), "field bucket has a name that cannot be part of a host name");
    }
}
