//! From the configuration as somebody wrote it to the one that Prometheus reads: decompressed, with `$(NAME)` filled in from the
//! environment. Pure.

use std::io::Read;

use flate2::read::MultiGzDecoder;

use pillion_base::content;
use pillion_base::error::{Error, Kind, Result};

use crate::limits;

/// What a compressed configuration begins with: gzip, deflate.
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b, 0x08];

/// The configuration that Prometheus is to read. Other forms of references (`$NAME`, `${NAME}`) stay as they are: they are
/// Prometheus's own.
///
/// `Errors:` of class `files` for what cannot be decompressed or is too large, of class `variable` for a variable that is not
/// set.
pub fn render(config: &[u8], env: &dyn Fn(&str) -> Option<Vec<u8>>) -> Result<Vec<u8>> {
    let plain;
    let text = if config.starts_with(GZIP_MAGIC) {
        plain = gunzip(config)?;
        &plain
    } else {
        config
    };
    content::substitute_bytes(text, env).map_err(|err| err.context("expand environment variables").classed("variable"))
}

fn gunzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    MultiGzDecoder::new(bytes).take(limits::CONFIG_BYTES_MAX + 1).read_to_end(&mut plain).map_err(|err| {
        Error::new(Kind::Corrupt, err.to_string()).context("decompress the configuration").classed("files")
    })?;
    if plain.len() as u64 > limits::CONFIG_BYTES_MAX {
        let text = format!("the configuration is larger than {} bytes when decompressed", limits::CONFIG_BYTES_MAX);
        return Err(Error::new(Kind::Limit, text).classed("files"));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn env(name: &str) -> Option<Vec<u8>> {
        match name {
            "A" | "_A1" => Some(b"one".to_vec()),
            "EMPTY" => Some(Vec::new()),
            "NESTED" => Some(b"$(A)".to_vec()),
            "BYTES" => Some(vec![0xff]),
            _ => None,
        }
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_prometheus_reads() {
        let check = |config: &[u8], expected: &[u8]| {
            assert_eq!(render(config, &env).unwrap(), expected);
            assert_eq!(render(&gzip(config), &env).unwrap(), expected);
        };
        check(b"", b"");
        check(b"a: $(A)$(A)\n", b"a: oneone\n");
        check(b"$(_A1)|$(EMPTY)|$(NESTED)|$(BYTES)", b"one||$(A)|\xff");
        check(
            b"$A ${A} $$(A) $(A $() $( A) $(A-B) $(A b) \xff\x00",
            b"$A ${A} $one $(A $() $( A) $(A-B) $(A b) \xff\x00",
        );
    }

    #[test]
    fn what_is_refused() {
        let check = |config: &[u8], class: &str, text: &str| {
            let err = render(config, &env).unwrap_err();
            assert_eq!((err.class(), err.to_string().as_str()), (class, text));
        };
        let unset = "expand environment variables: found reference to unset environment variable \"UNSET\"";
        check(b"$(A) $(UNSET) $(OTHER)", "variable", unset);
        check(&gzip(b"$(UNSET)"), "variable", unset);
        let half = gzip(b"xxxxxxxxx");
        let err = render(&half[..half.len() - 4], &env).unwrap_err();
        assert!(err.to_string().starts_with("decompress the configuration: "), "{err}");
        check(
            &gzip(&vec![b'x'; 64 * 1024 * 1024 + 1]),
            "files",
            "the configuration is larger than 67108864 bytes when decompressed",
        );
    }
}
