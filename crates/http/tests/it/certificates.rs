//! Certificates made by openssl(1), and what can be read from them.

use std::path::{Path, PathBuf};
use std::process::Command;

use pillion_http::tls::{Pem, Validity, subject_alt_names, validity};

const EC_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

/// A folder of certificates. `ca` is there from the beginning.
pub(crate) struct Certificates(tempfile::TempDir);

impl Certificates {
    pub(crate) fn new() -> Certificates {
        let made = Certificates(tempfile::tempdir().unwrap());
        made.authority("ca");
        made
    }

    pub(crate) fn dir(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// The file as the setting `--NAME-ENDING`.
    pub(crate) fn pem(&self, name: &str) -> Pem {
        Pem::file(format!("--{}", name.replace('.', "-")), self.path(name))
    }

    pub(crate) fn openssl(&self, args: &str) -> String {
        let out = Command::new("openssl")
            .args(args.split(' '))
            .current_dir(self.dir())
            .output()
            .expect("this test needs the program openssl (package openssl)");
        assert!(out.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// `NAME.pem` and `NAME.key` of one who signs.
    pub(crate) fn authority(&self, name: &str) {
        self.openssl(&format!("req -x509 {EC_KEY} -keyout {name}.key -out {name}.pem -subj /CN={name} -days 1"));
    }

    /// `NAME.pem` and `NAME.key`, signed by `ca`, for the alternative names `alt`.
    pub(crate) fn leaf(&self, name: &str, ca: &str, alt: &str, days: i32) {
        self.leaf_with_key(name, ca, alt, days, EC_KEY);
    }

    pub(crate) fn leaf_with_key(&self, name: &str, ca: &str, alt: &str, days: i32, key: &str) {
        std::fs::write(self.path("ext"), format!("subjectAltName={alt}\n")).unwrap();
        self.openssl(&format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        let sign = format!("-CA {ca}.pem -CAkey {ca}.key -CAcreateserial -days {days} -extfile ext");
        self.openssl(&format!("x509 -req -in {name}.csr {sign} -out {name}.pem"));
    }

    /// The same, with an end long ago, as `openssl x509` cannot make it.
    pub(crate) fn expired_leaf(&self, name: &str, ca: &str, alt: &str) {
        let config = format!(
            "[ca]\ndefault_ca = x\n[x]\ndatabase = {name}.db\nserial = {name}.serial\ndefault_md = sha256\npolicy = p\n\
             x509_extensions = e\nnew_certs_dir = .\n[p]\ncommonName = supplied\n[e]\nsubjectAltName = {alt}\n"
        );
        for (ending, text) in [("cnf", config.as_str()), ("db", ""), ("serial", "01\n")] {
            std::fs::write(self.path(&format!("{name}.{ending}")), text).unwrap();
        }
        self.openssl(&format!("req {EC_KEY} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        let dates = "-startdate 20200101000000Z -enddate 20210203040506Z";
        let files = format!("-config {name}.cnf -cert {ca}.pem -keyfile {ca}.key -in {name}.csr -out {name}.pem");
        self.openssl(&format!("ca -batch -notext {dates} {files}"));
    }

    fn der(&self, name: &str) -> Vec<u8> {
        self.pem(name).certificates().unwrap().first().unwrap().to_vec()
    }

    /// The end of a certificate as openssl tells it.
    pub(crate) fn end(&self, name: &str) -> i64 {
        let line = self.openssl(&format!("x509 -in {name}.pem -noout -enddate -dateopt iso_8601"));
        let date = line.trim().strip_prefix("notAfter=").unwrap().replace(' ', "T");
        pillion_base::time::parse_rfc3339_ms(&date).unwrap() / 1000
    }
}

#[test]
fn the_end_is_what_openssl_says() {
    let made = Certificates::new();
    // A year of two digits, and from 2050 on one of four.
    for (name, days) in [("day", 1), ("past", -1), ("century", 36_500)] {
        made.leaf(name, "ca", "DNS:x.test", days);
        let Validity { not_before, not_after } = validity(&made.der(&format!("{name}.pem"))).unwrap();
        assert_eq!(not_after, made.end(name), "{name}");
        assert_eq!(not_after - not_before, i64::from(days) * 86_400, "{name}");
    }
}

#[test]
fn alternative_names_of_every_kind() {
    let made = Certificates::new();
    made.leaf("all", "ca", "DNS:x.test,DNS:*.y.test,IP:192.0.2.1,IP:2001:db8::1,email:a@b.test,URI:spiffe://c/d", 1);
    let names = subject_alt_names(&made.der("all.pem")).unwrap();
    assert_eq!(names, ["x.test", "*.y.test", "192.0.2.1", "2001:db8::1", "a@b.test", "spiffe://c/d"]);
    assert_eq!(subject_alt_names(&made.der("ca.pem")), Some(Vec::new()));
}

#[test]
fn half_a_certificate_is_none() {
    let made = Certificates::new();
    made.leaf("x", "ca", "DNS:x.test", 1);
    let der = made.der("x.pem");
    for length in 0..der.len() {
        let part = der.get(..length).unwrap();
        assert_eq!((validity(part), subject_alt_names(part)), (None, None), "{length}");
    }
    let mut more = der.clone();
    more.push(0);
    assert_eq!(validity(&more), None);
    // Whatever a flipped bit makes of it, it does not panic.
    for idx in 0..der.len() * 8 {
        let mut flipped = der.clone();
        *flipped.get_mut(idx / 8).unwrap() ^= 1 << (idx % 8);
        let _ = (validity(&flipped), subject_alt_names(&flipped));
    }
}
