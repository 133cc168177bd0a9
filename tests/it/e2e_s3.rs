//! The S3 bucket on a real server: the suite of all buckets, with every kind of encryption, with the bucket's name in
//! the path and in the host, behind a proxy; and what is stored is what anybody else reads there.
//!
//! One test runs on any store: on that of `PILLION_S3_ENDPOINT` (a URL), `PILLION_S3_ACCESS_KEY`, `PILLION_S3_SECRET_KEY`
//! and where needed `PILLION_S3_BUCKET`, `PILLION_S3_REGION`, `PILLION_S3_KMS_KEY`, else on the server of the other tests.
use pillion_testing::bucket;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::fault_proxy::FaultProxy;
use crate::support::rgw::Rgw;
use pillion_base::content::Content;
use pillion_base::error::{Error, Kind, Result};
use pillion_base::files::Disk;
use pillion_base::stop::stop_pair;
use pillion_bucket::s3::{CredentialsChain, S3Bucket, S3Config};
use pillion_bucket::{Bucket, BucketConfig, Compared, Journal, NoJournal, Parts, Prefixed, Provider};

/// Below this, S3 has no parts.
const PART_BYTES: usize = 5 << 20;

/// Reads `bucket.yml` as the binary does.
fn config(yaml: &str) -> S3Config {
    let content = Content { text: yaml.to_owned(), origin: "bucket.yml".to_owned() };
    match BucketConfig::parse(&content).unwrap().provider {
        Provider::S3(config) => *config,
        other => panic!("{other:?}"),
    }
}

/// The bucket that `yaml` describes, in an environment with a proxy or without.
fn open(yaml: &str, proxy: Option<&FaultProxy>) -> S3Bucket {
    let config = config(yaml);
    let proxy = proxy.map(|proxy| format!("http://{}", proxy.endpoint()));
    let env = move |name: &str| (name == "HTTP_PROXY").then(|| proxy.clone()).flatten();
    let credentials = CredentialsChain::new(&config, Arc::new(env.clone())).unwrap();
    S3Bucket::open(config, Box::new(credentials), "pillion-test", &env).unwrap()
}

fn content(n: usize) -> Vec<u8> {
    (0..n).map(|idx| u8::try_from(idx % 249).unwrap()).collect()
}

/// A file of three parts goes up and is compared.
fn large_file(bucket: &dyn Bucket, object: &str) -> Vec<u8> {
    let (_stopper, stop) = stop_pair().unwrap();
    let bytes = content(2 * PART_BYTES + 1000);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    let source = Disk::real().open_source(file.path()).unwrap();
    let stored = bucket.upload(object, &source, &NoJournal, &stop).unwrap();
    assert_eq!((stored.attributes.size_bytes, stored.resumed_bytes), (bytes.len() as u64, 0));
    assert_eq!(bucket.compare(object, &source, &stop).unwrap(), Compared::Same);
    assert!(bucket.get(object, &stop).unwrap() == bytes);
    bytes
}

#[test]
fn the_suite_passes() {
    let Some(rgw) = Rgw::shared() else { return };
    for more in
        ["", "send_content_md5: false", "disable_multipart: true", "list_objects_version: v1", "part_size: 5242880"]
    {
        let bucket = rgw.bucket();
        bucket::suite(&open(&bucket.config(rgw.endpoint(), more), None));
        assert!(bucket.list("").is_empty() && bucket.uploads().is_empty(), "{more}");
    }
    let bucket = rgw.bucket();
    let prefixed = Prefixed::wrap(Arc::new(open(&bucket.config(rgw.endpoint(), ""), None)), "deep/er").unwrap();
    bucket.put("deeper", b"not below the prefix");
    bucket::suite(&*prefixed);
    large_file(&*prefixed, "x");
    assert_eq!(bucket.list("").into_keys().collect::<Vec<_>>(), ["deep/er/x", "deeper"]);
}

#[test]
fn large_files_go_in_parts_and_come_back() {
    let Some(rgw) = Rgw::shared() else { return };
    for more in ["part_size: 5242880", "part_size: 5242880\nsend_content_md5: false", "disable_multipart: true"] {
        let (bucket, proxy) = (rgw.bucket(), FaultProxy::start(rgw.endpoint()));
        let bytes = large_file(&open(&bucket.config(&proxy.endpoint(), more), None), "a/large");
        assert!(bucket.get("a/large") == bytes && bucket.uploads().is_empty());
        let seen = proxy.seen();
        let n_parts = seen.iter().filter(|seen| seen.query.contains("partNumber")).count();
        assert_eq!(n_parts, if more.starts_with("part_size") { 3 } else { 0 }, "{seen:?}");
        // What is called equal was not read back as a whole where the store's checksum tells.
        assert!(seen.iter().filter(|seen| seen.method == "GET").count() <= 1, "{seen:?}");
    }
}

#[test]
fn the_bucket_may_be_in_the_host_and_behind_a_proxy() {
    let Some(rgw) = Rgw::shared() else { return };
    let proxy = FaultProxy::start(rgw.endpoint());
    for (lookup, path) in [("virtual-hosted", "/x"), ("path", "/bucket-")] {
        let bucket = rgw.bucket();
        // The name does not resolve; the proxy knows where it is.
        let yaml = bucket.config(rgw.fact("dns_name"), &format!("bucket_lookup_type: {lookup}\npart_size: 5242880"));
        let opened = open(&yaml, Some(&proxy));
        bucket::suite(&opened);
        proxy.seen();
        let bytes = large_file(&opened, "x");
        assert!(bucket.get("x") == bytes);
        let seen = proxy.seen();
        assert!(!seen.is_empty() && seen.iter().all(|seen| seen.path.starts_with(path)), "{seen:?}");
    }
}

#[test]
fn the_store_encrypts() {
    let Some(rgw) = Rgw::shared() else { return };
    let mut key = tempfile::NamedTempFile::new().unwrap();
    key.write_all(b"0123456789abcdef0123456789abcdef").unwrap();
    let customer = format!("sse_config:\n  type: SSE-C\n  encryption_key: {}", key.path().display());
    let kms = format!("sse_config:\n  type: SSE-KMS\n  kms_key_id: {}", rgw.fact("kms_key_id"));
    // The header that must be sent for every new object, whether the server then says so of the object, and whether
    // those without the key may read it.
    for (sse, header, is_stated, is_readable) in [
        // This release of the server takes the header and does nothing.
        ("sse_config:\n  type: SSE-S3", "x-amz-server-side-encryption: AES256", false, true),
        (kms.as_str(), "x-amz-server-side-encryption: aws:kms", true, true),
        (customer.as_str(), "x-amz-server-side-encryption-customer-algorithm: AES256", true, false),
    ] {
        let (bucket, proxy) = (rgw.bucket(), FaultProxy::start(rgw.endpoint()));
        let opened = open(&bucket.config(&proxy.endpoint(), &format!("part_size: 5242880\n{sse}")), None);
        bucket::suite(&opened);
        let bytes = large_file(&opened, "x");
        for seen in proxy.seen() {
            let is_new = seen.query.contains("uploads") || (seen.method == "PUT" && !seen.query.contains("partNumber"));
            assert!(!is_new || seen.headers.contains(header), "{sse}: {seen:?}");
        }
        assert!(bucket.try_get("x", &[]) == is_readable.then_some(bytes), "{sse}");
        if is_readable {
            let (name, value) = header.split_once(": ").unwrap();
            let stated = bucket.head("x").unwrap().get(name).cloned();
            assert_eq!(stated, is_stated.then(|| value.to_owned()), "{sse}");
        }
    }
}

#[test]
fn metadata_arrives_beside_a_storage_class() {
    let Some(rgw) = Rgw::shared() else { return };
    let bucket = rgw.bucket();
    let more = "part_size: 5242880\nput_user_metadata:\n  site: cellar 7\n  X-Amz-Storage-Class: STANDARD";
    let opened = open(&bucket.config(rgw.endpoint(), more), None);
    let (_stopper, stop) = stop_pair().unwrap();
    opened.upload_bytes("small", b"x", &stop).unwrap();
    large_file(&opened, "large");
    for object in ["small", "large"] {
        let head = bucket.head(object).unwrap();
        assert_eq!(head.get("x-amz-meta-site").map(String::as_str), Some("cellar 7"), "{object}: {head:?}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    let Some(rgw) = Rgw::shared() else { return };
    let bucket = rgw.bucket();
    let (_stopper, stop) = stop_pair().unwrap();
    let good = bucket.config(rgw.endpoint(), "max_retries: 1");
    let check = |yaml: &str, kind: Kind, class: &str, words: &[&str]| {
        let err = open(yaml, None).upload_bytes("x", b"x", &stop).unwrap_err();
        let text = err.to_string();
        assert_eq!((err.kind(), err.class()), (kind, class), "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
        assert!(!text.contains("X-Amz-") && !text.contains("pillion-secret"), "{text}");
    };
    check(
        &good.replace("pillion-secret", "wrong"),
        Kind::Permanent,
        "credentials",
        &["SignatureDoesNotMatch", "secret_key"],
    );
    check(
        &good.replace("access_key: pillion", "access_key: nobody"),
        Kind::Permanent,
        "credentials",
        &["InvalidAccessKeyId", "access_key"],
    );
    check(
        &good.replace(&bucket.name, "no-such-bucket"),
        Kind::Permanent,
        "no_bucket",
        &["NoSuchBucket", "no-such-bucket"],
    );
    check(&good.replace("insecure: true", "insecure: false"), Kind::Permanent, "certificate", &["insecure"]);
    // A port on which nobody listens.
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    check(&good.replace(rgw.endpoint(), &unused), Kind::Retry, "network", &[unused.as_str()]);
}

/// A journal whose process is killed after so many records.
#[derive(Default)]
struct Mortal {
    parts: Mutex<Option<Parts>>,
    left: Mutex<usize>,
}

impl Mortal {
    fn living(left: usize) -> Mortal {
        Mortal { left: Mutex::new(left), ..Mortal::default() }
    }
}

impl Journal for Mortal {
    fn parts(&self) -> Option<Parts> {
        self.parts.lock().unwrap().clone()
    }

    fn record(&self, parts: Option<&Parts>) -> Result<()> {
        let mut left = self.left.lock().unwrap();
        *left = left.checked_sub(1).ok_or_else(|| Error::new(Kind::Retry, "killed"))?;
        *self.parts.lock().unwrap() = parts.cloned();
        Ok(())
    }
}

/// `bucket.yml` of the store that the environment names, and the key of its key server if it has one; the bucket is made
/// where it is missing.
fn named() -> Option<(String, Option<String>)> {
    let env = |name: &str| std::env::var(format!("PILLION_S3_{name}")).ok();
    let endpoint = env("ENDPOINT")?;
    let (access_key, secret_key) = (env("ACCESS_KEY").unwrap(), env("SECRET_KEY").unwrap());
    let (bucket, region) = (env("BUCKET").unwrap_or_else(|| "pillion-test".into()), env("REGION").unwrap_or_default());
    let (url, style) = (endpoint.parse().unwrap(), rusty_s3::UrlStyle::Path);
    let signed_for = if region.is_empty() { "us-east-1" } else { &region };
    let place = rusty_s3::Bucket::new(url, style, bucket.clone(), signed_for.to_owned()).unwrap();
    let keys = rusty_s3::Credentials::new(access_key.clone(), secret_key.clone());
    let url = rusty_s3::S3Action::sign(&place.create_bucket(&keys), Duration::from_secs(60));
    // It may be there.
    let _ = ureq::put(url.as_str()).send_empty();
    let (scheme, host) = endpoint.trim_end_matches('/').split_once("://").unwrap();
    let yaml = format!(
        "type: S3\nconfig:\n  bucket: {bucket}\n  endpoint: {host}\n  region: '{region}'\n  insecure: {}\n  \
         access_key: {access_key}\n  secret_key: {secret_key}\n",
        scheme == "http"
    );
    Some((yaml, env("KMS_KEY")))
}

#[test]
fn the_suite_passes_and_uploads_resume_on_whatever_store() {
    let (yaml, kms_key) = match named() {
        Some(named) => named,
        None => {
            let Some(rgw) = Rgw::shared() else { return };
            (rgw.bucket().config(rgw.endpoint(), ""), Some(rgw.fact("kms_key_id").to_owned()))
        }
    };
    let (_stopper, stop) = stop_pair().unwrap();
    let mut key = tempfile::NamedTempFile::new().unwrap();
    key.write_all(&[7; 32]).unwrap();
    let bytes = content(3 * PART_BYTES + 5);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    let source = Disk::real().open_source(file.path()).unwrap();
    let customer = format!("sse_config: {{type: SSE-C, encryption_key: {}}}", key.path().display());
    let kms = kms_key.map(|key| format!("sse_config: {{type: SSE-KMS, kms_key_id: {key}}}"));
    let plain = ["", "send_content_md5: false", "list_objects_version: v1", customer.as_str()];
    for more in plain.into_iter().chain(kms.as_deref()) {
        // Each time as after a new start.
        let again = || open(&format!("{yaml}  part_size: {PART_BYTES}\n  {more}\n"), None);
        bucket::suite(&again());
        // The intent, the name and two parts are remembered.
        let journal = Mortal::living(4);
        again().upload("01A/index", &source, &journal, &stop).unwrap_err();
        *journal.left.lock().unwrap() = usize::MAX;
        let bucket = again();
        let stored = bucket.upload("01A/index", &source, &journal, &stop).unwrap();
        let expected = (bytes.len() as u64, 2 * PART_BYTES as u64);
        assert_eq!((stored.attributes.size_bytes, stored.resumed_bytes), expected, "{more}");
        assert_eq!(bucket.attributes("01A/index", &stop).unwrap(), stored.attributes, "{more}");
        assert_eq!(bucket.compare("01A/index", &source, &stop).unwrap(), Compared::Same, "{more}");
        assert!(bucket.get("01A/index", &stop).unwrap() == bytes, "{more}");
        // Killed before the name of the upload is remembered.
        let lost = Mortal::living(1);
        bucket.upload("01A/index", &source, &lost, &stop).unwrap_err();
        bucket.abandon("01A/index", &lost.parts().unwrap(), &stop).unwrap();
        bucket.delete("01A/index", &stop).unwrap();
        bucket.iter("", &mut |name| panic!("{more}: {name} is left"), &stop).unwrap();
    }
}
