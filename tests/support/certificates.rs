//! Certificates for a day, made by openssl(1), and what openssl says of a server.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const EC_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
/// The names of the machine that tests run on.
pub const HERE: &str = "DNS:localhost,IP:127.0.0.1";

/// A folder of certificates, each `NAME.pem` with its key `NAME.key`.
pub struct Certificates(tempfile::TempDir);

impl Certificates {
    /// `ca` and `other`, which sign; `here` for this machine and `client`, both of `ca`.
    pub fn new() -> Self {
        let made = Certificates(tempfile::tempdir().unwrap());
        made.authority("ca");
        made.authority("other");
        made.leaf("here", "ca", HERE);
        made.leaf("client", "ca", "DNS:client.test");
        made
    }

    pub fn dir(&self) -> &Path {
        self.0.path()
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir().join(file)
    }

    /// The argument `--FLAG=PATH`.
    pub fn arg(&self, flag: &str, file: &str) -> String {
        format!("--{flag}={}", self.path(file).display())
    }

    /// Flags of a sidecar whose certificate is in these files.
    pub fn server_args(&self, cert: &str, key: &str) -> Vec<String> {
        vec![self.arg("grpc-server-tls-cert", cert), self.arg("grpc-server-tls-key", key)]
    }

    /// Flags of a client that trusts `ca` and shows the certificate of this name.
    pub fn client_args(&self, name: &str) -> Vec<String> {
        vec![
            self.arg("tls-ca", "ca.pem"),
            self.arg("tls-cert", &format!("{name}.pem")),
            self.arg("tls-key", &format!("{name}.key")),
        ]
    }

    fn authority(&self, name: &str) {
        self.openssl(&format!("req -x509 {EC_KEY} -keyout {name}.key -out {name}.pem -subj /CN={name} -days 1"));
    }

    /// A certificate for these alternative names, signed by `ca`.
    pub fn leaf(&self, name: &str, ca: &str, alt: &str) {
        self.leaf_of_days(name, ca, alt, 1);
    }

    pub fn leaf_of_days(&self, name: &str, ca: &str, alt: &str, days: u32) {
        self.write(&format!("{name}.ext"), format!("subjectAltName={alt}\n"));
        self.openssl(&format!("req {EC_KEY} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        let sign = format!("-CA {ca}.pem -CAkey {ca}.key -CAcreateserial -days {days} -extfile {name}.ext");
        self.openssl(&format!("x509 -req -in {name}.csr {sign} -out {name}.pem"));
    }

    /// One that ended on 2021-02-03, as `openssl x509` cannot make it.
    pub fn expired_leaf(&self, name: &str, ca: &str, alt: &str) {
        let config = format!(
            "[ca]\ndefault_ca = x\n[x]\ndatabase = {name}.db\nserial = {name}.serial\ndefault_md = sha256\npolicy = p\n\
             x509_extensions = e\nnew_certs_dir = .\n[p]\ncommonName = supplied\n[e]\nsubjectAltName = {alt}\n"
        );
        for (ending, text) in [("cnf", config.as_str()), ("db", ""), ("serial", "01\n")] {
            self.write(&format!("{name}.{ending}"), text);
        }
        self.openssl(&format!("req {EC_KEY} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        let dates = "-startdate 20200101000000Z -enddate 20210203040506Z";
        let files = format!("-config {name}.cnf -cert {ca}.pem -keyfile {ca}.key -in {name}.csr -out {name}.pem");
        self.openssl(&format!("ca -batch -notext {dates} {files}"));
    }

    pub fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.path(file)).unwrap()
    }

    /// Writes in place.
    pub fn write(&self, file: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(file), bytes).unwrap();
    }

    /// Writes so that nobody sees a part of it.
    pub fn put(&self, file: &str, bytes: impl AsRef<[u8]>) {
        self.write("new", bytes);
        std::fs::rename(self.path("new"), self.path(file)).unwrap();
    }

    /// Puts a file in the place of another at once.
    pub fn replace(&self, from: &str, to: &str) {
        self.put(to, self.read(from));
    }

    /// The serial number in the file.
    pub fn serial(&self, file: &str) -> String {
        self.openssl(&format!("x509 -in {file} -noout -serial")).trim().to_owned()
    }

    /// The serial number of the certificate that a server shows.
    pub fn served_serial(&self, server: SocketAddr) -> String {
        let shown = self.s_client(server, "");
        self.run("x509 -noout -serial", &shown).trim().to_owned()
    }

    /// The end of the certificate in the file, in seconds since 1970.
    pub fn not_after(&self, file: &str) -> f64 {
        let line = self.openssl(&format!("x509 -in {file} -noout -enddate -dateopt iso_8601"));
        let date = line.trim().strip_prefix("notAfter=").unwrap().replace(' ', "T");
        pillion_base::time::parse_rfc3339_ms(&date).unwrap() as f64 / 1000.0
    }

    /// What `openssl s_client` prints when it has shaken hands, or failed to.
    pub fn s_client(&self, server: SocketAddr, args: &str) -> String {
        let args = format!("s_client -connect {server} -CAfile ca.pem {args}");
        let out = self.command(&args).stdin(Stdio::null()).output().expect("openssl runs");
        [out.stdout, out.stderr].iter().map(|text| String::from_utf8_lossy(text)).collect()
    }

    fn command(&self, args: &str) -> Command {
        let mut command = Command::new("openssl");
        command.args(args.split_whitespace()).current_dir(self.dir());
        command
    }

    fn openssl(&self, args: &str) -> String {
        self.run(args, "")
    }

    fn run(&self, args: &str, input: &str) -> String {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("this test needs the program openssl (package openssl)");
        // A program that does not want its input may end before it is written.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "openssl {args}: {}\n{input}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }
}
