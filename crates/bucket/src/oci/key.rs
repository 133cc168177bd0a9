//! The private key that signs requests, read from PEM. Nothing here shows a part of it. Pure.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use md5::{Digest, Md5};
use ring::rand::SystemRandom;
use ring::rsa::KeyPair;
use ring::signature::RSA_PKCS1_SHA256;

use pillion_base::error::{Error, Kind, Result};

/// An RSA key.
pub(crate) struct Key {
    pair: KeyPair,
    /// The public key as X.509 writes it.
    public: Vec<u8>,
    /// As Oracle shows it: the MD5 of that, such as `0a:1b:…`.
    fingerprint: String,
}

impl Key {
    /// Reads the first private key of a PEM text; what stands around it does not count.
    ///
    /// `Errors:` permanent; they say what to do.
    pub(crate) fn read(pem: &str) -> Result<Key> {
        let (label, body) = block(pem, "PRIVATE KEY").ok_or_else(|| {
            wrong("it is not a key in PEM: it must have the lines -----BEGIN PRIVATE KEY----- and -----END PRIVATE KEY-----")
        })?;
        if label == "ENCRYPTED PRIVATE KEY" || body.contains("ENCRYPTED") {
            return Err(wrong(
                "it is encrypted, and keys with a passphrase are not supported: decrypt it with `openssl pkcs8 -topk8 \
                 -nocrypt -in key.pem -out plain.pem`, protect the file by its mode, and remove the passphrase",
            ));
        }
        let der = decoded(body).ok_or_else(|| wrong("it is damaged: its lines are not in base64"))?;
        let read = match label {
            "RSA PRIVATE KEY" => KeyPair::from_der(&der),
            "PRIVATE KEY" => KeyPair::from_pkcs8(&der),
            _ => return Err(wrong("it is not an RSA key, and Oracle knows no others: make one as an API key")),
        };
        // The reason is one of a few fixed words.
        let pair = read.map_err(|err| match err.to_string().as_str() {
            "TooSmall" | "TooLarge" | "PrivateModulusLenNotMultipleOf512Bits" => {
                wrong("its size is not supported: make an RSA key of 2048, 3072 or 4096 bits")
            }
            "WrongAlgorithm" => wrong("it is not an RSA key, and Oracle knows no others: make one as an API key"),
            _ => wrong("it is damaged, or not an RSA key"),
        })?;
        let public = spki(pair.public().as_ref());
        let fingerprint = colons(&Md5::digest(&public));
        Ok(Key { pair, public, fingerprint })
    }

    /// Its fingerprint, which is no secret.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The public key as X.509 writes it, in base64.
    pub(super) fn public(&self) -> String {
        BASE64_STANDARD.encode(&self.public)
    }

    /// Signs a text with RSA and SHA-256, in base64.
    pub(super) fn sign(&self, text: &str) -> Result<String> {
        let mut signature = vec![0; self.pair.public().modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature)
            .map_err(|_| Error::new(Kind::Permanent, "the key cannot sign"))?;
        Ok(BASE64_STANDARD.encode(signature))
    }
}

fn wrong(text: &str) -> Error {
    Error::new(Kind::Permanent, text)
}

/// The first certificate of a PEM text, in DER.
pub(super) fn certificate(pem: &str) -> Option<Vec<u8>> {
    decoded(block(pem, "CERTIFICATE")?.1)
}

/// Bytes in hex with colons between them.
pub(super) fn colons(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

fn decoded(body: &str) -> Option<Vec<u8>> {
    let encoded: String = body.split_ascii_whitespace().collect();
    BASE64_STANDARD.decode(encoded).ok()
}

/// Label and body of the first block of this kind. Oracle's own files have a line behind it.
fn block<'a>(pem: &'a str, kind: &str) -> Option<(&'a str, &'a str)> {
    let mut rest = pem;
    loop {
        let (_, after) = rest.split_once("-----BEGIN ")?;
        let (label, after) = after.split_once("-----")?;
        let (body, behind) = after.split_once("-----END ")?;
        if label.ends_with(kind) {
            return Some((label, body));
        }
        rest = behind;
    }
}

/// A public key as X.509 writes it, from its modulus and exponent in DER.
fn spki(public: &[u8]) -> Vec<u8> {
    // SEQUENCE { rsaEncryption, NULL }
    const ALGORITHM: [u8; 15] =
        [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    let bits = tagged(0x03, &[&[0], public].concat());
    tagged(0x30, &[ALGORITHM.as_slice(), &bits].concat())
}

/// A value of DER with its tag and length.
fn tagged(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes();
    let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut bytes = vec![tag];
    match length.as_slice() {
        [] => bytes.push(0),
        [short] if *short < 0x80 => bytes.push(*short),
        long => {
            bytes.push(0x80 | u8::try_from(long.len()).unwrap_or(4));
            bytes.extend_from_slice(long);
        }
    }
    bytes.extend_from_slice(value);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_testing::fake_oci::{FINGERPRINT, KEY_PEM};

    #[test]
    fn the_fingerprint_is_openssls() {
        // `openssl rsa -pubout -outform DER | openssl md5 -c`
        assert_eq!(Key::read(KEY_PEM).unwrap().fingerprint(), FINGERPRINT);
        // Oracle's own files end with a line of their own, and others begin with one.
        let wrapped = format!("Bag Attributes\n{}\nOCI_API_KEY\n", KEY_PEM.replace('\n', "\r\n"));
        assert_eq!(Key::read(&wrapped).unwrap().fingerprint(), FINGERPRINT);
    }

    #[test]
    fn lengths_are_ders() {
        assert_eq!(tagged(4, &[]), [4, 0]);
        assert_eq!(tagged(4, &[9; 127])[..2], [4, 127]);
        assert_eq!(tagged(4, &[9; 128])[..3], [4, 0x81, 128]);
        assert_eq!(tagged(4, &[9; 300])[..4], [4, 0x82, 1, 44]);
    }

    #[test]
    fn what_cannot_be_used_is_told_apart_and_never_quoted() {
        let check = |pem: &str, part: &str| {
            let Err(err) = Key::read(pem) else { panic!("{part}: taken") };
            assert!(err.to_string().contains(part), "{err} lacks {part}");
            assert!(!err.to_string().contains("hunter2"), "{err}");
        };
        check("hunter2", "not a key in PEM");
        check("-----BEGIN CERTIFICATE-----\nhunter2\n-----END CERTIFICATE-----", "not a key in PEM");
        check("-----BEGIN PRIVATE KEY-----\nhunter2", "not a key in PEM");
        check("-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----", "not in base64");
        check("-----BEGIN PRIVATE KEY-----\naaaa\n-----END PRIVATE KEY-----", "is damaged");
        check("-----BEGIN ENCRYPTED PRIVATE KEY-----\naaaa\n-----END ENCRYPTED PRIVATE KEY-----", "-nocrypt");
        check(
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\naaaa\n-----END RSA PRIVATE KEY-----",
            "-nocrypt",
        );
        check("-----BEGIN EC PRIVATE KEY-----\naaaa\n-----END EC PRIVATE KEY-----", "not an RSA key");
        // `openssl genpkey -algorithm ed25519`
        let other = "MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF";
        check(&format!("-----BEGIN PRIVATE KEY-----\n{other}\n-----END PRIVATE KEY-----"), "not an RSA key");
    }
}
