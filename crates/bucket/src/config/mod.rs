//! The object storage configuration: strict YAML, with errors that name file and line and never a value.

mod azure;
mod clouds;
mod gcs;
mod http;
mod oci;
mod s3;
mod swift;

use pillion_base::content::Content;
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::yaml::{self, Node};

use crate::open::{BucketConfig, Provider};

impl BucketConfig {
    /// Reads the configuration. A relative folder is relative to the working directory.
    pub fn parse(content: &Content) -> Result<Self> {
        parse_text(&content.text).context(|| match content.origin.starts_with("--") {
            true => format!("parsing config YAML of {}", content.origin),
            false => format!("parsing config YAML file {}", content.origin),
        })
    }
}

fn parse_text(text: &str) -> Result<BucketConfig> {
    let root = yaml::parse(text)?;
    root.check_fields("bucket configuration", &["type", "config", "prefix"])?;
    let kind = root.str_field("type")?.unwrap_or_default().to_uppercase();
    let empty = yaml::parse("")?;
    let config = root.get("config").unwrap_or(&empty);
    let mut remarks = Vec::new();
    let provider = match kind.as_str() {
        "FILESYSTEM" => filesystem(&root, config)?,
        "S3" => Provider::S3(Box::new(s3::read(config, &mut remarks)?)),
        "AZURE" => Provider::Azure(Box::new(azure::read(config, &mut remarks)?)),
        "OCI" => Provider::Oci(Box::new(oci::read(config, &mut remarks)?)),
        "GCS" => Provider::Gcs(Box::new(gcs::read(config, &mut remarks)?)),
        "SWIFT" => Provider::Swift(Box::new(swift::read(config, &mut remarks)?)),
        "COS" => Provider::S3(Box::new(clouds::cos(config, &mut remarks)?)),
        "ALIYUNOSS" => Provider::S3(Box::new(clouds::aliyun(config)?)),
        "BOS" => Provider::S3(Box::new(clouds::bos(config)?)),
        "OBS" => Provider::S3(Box::new(clouds::obs(config, &mut remarks)?)),
        "" => return Err(root.error("field type is missing, it says which kind of object storage this is")),
        // A long text is no misspelt type, and may be a secret: it is not quoted.
        other if other.len() <= 16 => {
            return Err(unsupported(&format!("bucket with type {other:?} is not supported")));
        }
        _ => return Err(unsupported("bucket with this type is not supported")),
    };
    let prefix = root.str_field("prefix")?.unwrap_or_default().trim_matches('/').to_owned();
    if prefix.split('/').any(|part| part == "." || part == "..") {
        let node = root.get("prefix").unwrap_or(&root);
        return Err(node.error("field prefix must not have . or .. as a part"));
    }
    Ok(BucketConfig { prefix, provider, remarks })
}

fn unsupported(text: &str) -> Error {
    Error::new(Kind::Permanent, text)
}

fn filesystem(root: &Node, config: &Node) -> Result<Provider> {
    config.check_fields("config", &["directory"])?;
    let directory = config.str_field("directory")?.unwrap_or_default();
    if directory.is_empty() {
        let node = if config.is_null() { root } else { config };
        return Err(node.error("field directory is missing in config"));
    }
    let directory = std::path::absolute(directory).context(|| "make the directory absolute")?;
    Ok(Provider::Filesystem { directory })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<BucketConfig> {
        BucketConfig::parse(&Content { origin: "bucket.yml".into(), text: text.into() })
    }

    #[test]
    fn folders() {
        for (text, prefix, directory) in [
            ("type: FILESYSTEM\nconfig:\n  directory: /data", "", "/data"),
            ("type: filesystem\nconfig: {directory: '/a b'}\nprefix:", "", "/a b"),
            ("{type: Filesystem, config: {directory: /1}, prefix: /a/b/}", "a/b", "/1"),
            ("{type: Filesystem, config: {directory: /1}, prefix: //}", "", "/1"),
            ("{type: Filesystem, config: {directory: /1}, prefix: 7}", "7", "/1"),
        ] {
            let provider = Provider::Filesystem { directory: directory.into() };
            let want = BucketConfig { prefix: prefix.into(), provider, remarks: Vec::new() };
            assert_eq!(parse(text).unwrap(), want, "{text}");
        }
        let relative = parse("{type: FILESYSTEM, config: {directory: b}}").unwrap().provider;
        assert_eq!(relative, Provider::Filesystem { directory: std::env::current_dir().unwrap().join("b") });
    }

    #[test]
    fn errors_name_file_and_line() {
        for (text, want) in [
            (
                "type: FILESYSTEM\n\nconfig:\n  directory: /x\n  buckt: hunter2",
                "line 5: field buckt not found in config",
            ),
            ("type: FILESYSTEM\nkonfig: hunter2", "line 2: field konfig not found in bucket configuration"),
            ("type: FILESYSTEM\ntype: hunter2", "line 2: field type already set"),
            ("type: FILESYSTEM\nconfig: hunter2", "line 2: config must be a mapping"),
            ("type: FILESYSTEM\nconfig:\n  directory: [hunter2]", "line 3: field directory must be a text"),
            ("type: FILESYSTEM\nconfig: {}", "line 2: field directory is missing in config"),
            ("type: FILESYSTEM\nconfig:", "line 1: field directory is missing in config"),
            ("type: FILESYSTEM", "line 1: field directory is missing in config"),
            ("type: [S3]", "line 1: field type must be a text"),
            ("type: S3\nconfig: {bucket: hunter2}", "line 2: no s3 endpoint in config file"),
            ("type: S3", "line 1: no s3 endpoint in config file"),
            ("type: gcs\nconfig:\n  use_grpc: hunter2", "line 3: missing Google Cloud Storage bucket name"),
            ("type: azure\nconfig:\n  storage_account_key: hunter2", "line 3: no container specified"),
            ("type: Swift\nconfig:\n  password: hunter2", "line 3: no auth_url specified"),
            ("type: oci\nconfig:\n  privatekey: hunter2", "line 3: field bucket is missing in config"),
            ("type: COS\nconfig:\n  secret_key: hunter2", "line 3: field bucket is missing in config"),
            ("type: ALIYUNOSS", "line 1: field bucket is missing in config"),
            ("type: bos", "line 1: field bucket is missing in config"),
            ("type: OBS\nconfig: {token: hunter2}", "line 2: field token not found in config"),
            ("type: floppy", "bucket with type \"FLOPPY\" is not supported"),
            ("type: hunter2-hunter2-hunter2", "bucket with this type is not supported"),
            ("config: {directory: /x}", "line 1: field type is missing"),
            ("  \n", "line 1: field type is missing"),
            ("hunter2", "line 1: bucket configuration must be a mapping"),
            ("{type: FILESYSTEM, config: {directory: /x}, prefix: a/../b}", "line 1: field prefix must not have"),
            ("{type: FILESYSTEM, config: {directory: /x}, prefix: [a]}", "line 1: field prefix must be a text"),
        ] {
            let err = parse(text).expect_err(text).to_string();
            assert!(err.starts_with(&format!("parsing config YAML file bucket.yml: {want}")), "{text}: {err}");
            assert!(!err.contains("hunter2"), "{err}");
        }
        let err = BucketConfig::parse(&Content { origin: "--objstore.config".into(), text: "x".into() }).unwrap_err();
        assert!(err.to_string().starts_with("parsing config YAML of --objstore.config: line 1: "), "{err}");
    }
}
