//! What is refused at the start, and in which words.

use pillion_http::tls::{ClientAuth, ClientSettings, ClientTls, Pem, ServerSettings, ServerTls, TlsMetrics, Version};

use crate::certificates::Certificates;
use crate::pair::{client, connect};

fn made() -> Certificates {
    let made = Certificates::new();
    made.leaf("here", "ca", "DNS:here.test", 1);
    made.leaf("other", "ca", "DNS:other.test", 1);
    made
}

#[track_caller]
fn refused(made: &Certificates, change: impl FnOnce(&mut ServerSettings), parts: &[&str]) {
    let mut settings = ServerSettings::new(made.pem("here.pem"), made.pem("here.key"));
    change(&mut settings);
    let err = ServerTls::load(settings, TlsMetrics::default()).unwrap_err();
    assert_eq!(err.kind(), pillion_base::error::Kind::Permanent);
    for part in parts {
        assert!(err.to_string().contains(part), "{err} lacks {part}");
    }
    // Of a key there is not even a part in the text.
    assert!(!err.to_string().contains("MIG"), "{err}");
}

#[test]
fn files_that_cannot_be_used() {
    let made = made();
    let path = |name: &str| made.path(name).display().to_string();
    made.openssl("pkey -in here.key -aes256 -passout pass:x -out encrypted.key");
    made.openssl("ec -in here.key -aes256 -passout pass:x -out legacy.key");
    made.openssl("genpkey -algorithm rsa -pkeyopt rsa_keygen_bits:1024 -out short.key");
    made.openssl("genpkey -algorithm ec -pkeyopt ec_paramgen_curve:P-521 -out p521.key");
    let write = |name: &str, text: &[u8]| std::fs::write(made.path(name), text).unwrap();
    write("empty.pem", b" \n");
    write("text.pem", b"hello\n");
    write("damaged.pem", b"-----BEGIN CERTIFICATE-----\n****\n-----END CERTIFICATE-----\n");
    write("number.pem", b"-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n");
    write("begin.pem", b"-----BEGIN CERTIFICATE----\n");
    write("nokey.key", b"-----BEGIN PRIVATE KEY-----\nMAMCAQE=\n-----END PRIVATE KEY-----\n");
    let cert = |name: &str, part: &str| {
        let setting = format!("--{}: ", name.replace('.', "-"));
        refused(&made, |settings| settings.cert = made.pem(name), &[&setting, &path(name), part]);
    };
    cert("missing.pem", "No such file or directory");
    cert("empty.pem", "is empty");
    cert("text.pem", "holds no certificate (PEM)");
    cert("here.key", "holds no certificate (PEM)");
    cert("damaged.pem", "is not base64");
    cert("begin.pem", "has a -----BEGIN line that does not end in -----");
    cert("number.pem", "holds a certificate that cannot be read");
    let key = |name: &str, part: &str| {
        let setting = format!("--{}: ", name.replace('.', "-"));
        refused(&made, |settings| settings.key = made.pem(name), &[&setting, &path(name), part]);
    };
    key("missing.key", "No such file or directory");
    key("here.pem", "holds no private key (PEM)");
    key("encrypted.key", "decrypt it with `openssl pkey -in FILE -out NEWFILE`");
    key("legacy.key", "decrypt it with `openssl pkey");
    key("short.key", "RSA of 2048 bits and more");
    key("p521.key", "of a kind that is not supported");
    key("nokey.key", "is damaged or of a kind");
    key("other.key", &format!("and the first certificate of --here-pem ({}) do not belong together", path("here.pem")));
    refused(&made, |settings| settings.cert = Pem::file("--cert", made.dir()), &["--cert: read ", "it is not a file"]);
}

#[test]
fn settings_that_contradict_each_other() {
    let made = made();
    refused(&made, |settings| settings.client_ca = Some(made.pem("ca.pem")), &["--ca-pem is set, but no certificate"]);
    for auth in [ClientAuth::RequireAndVerify, ClientAuth::VerifyIfGiven] {
        refused(&made, |settings| settings.client_auth = auth, &["there is no client CA"]);
    }
    refused(&made, |settings| settings.client_sans = vec!["x".into()], &["names of clients are allowed"]);
    let versions =
        |settings: &mut ServerSettings| (settings.min_version, settings.max_version) = (Version::Tls13, Version::Tls12);
    refused(&made, versions, &["the oldest version of TLS that is allowed is newer than the newest"]);
    // A client CA that holds nothing must not mean that anybody may come.
    std::fs::write(made.path("none.pem"), "nobody\n").unwrap();
    let nobody = |settings: &mut ServerSettings| {
        settings.client_auth = ClientAuth::RequireAndVerify;
        settings.client_ca = Some(made.pem("none.pem"));
    };
    refused(&made, nobody, &["--none-pem: ", "holds no certificate (PEM)"]);
}

#[test]
fn texts_in_the_configuration_do_as_files_do() {
    let made = made();
    let text = |name: &str| std::fs::read_to_string(made.path(name)).unwrap();
    let inline = |name: &str| Pem::inline(format!("tls.{name}"), text(name));
    let server = ServerTls::load(ServerSettings::new(inline("here.pem"), inline("here.key")), TlsMetrics::default());
    connect(&client(&made, |settings| settings.ca = Some(inline("ca.pem"))), &server.unwrap(), false);
    refused(
        &made,
        |settings| settings.key = inline("other.key"),
        &["tls.other.key and the first certificate of --here-pem ("],
    );
    refused(&made, |settings| settings.cert = Pem::inline("tls.cert", "x"), &["tls.cert holds no certificate (PEM)"]);
    let shown = format!("{:?}", ServerSettings::new(inline("here.pem"), inline("here.key")));
    assert!(!shown.contains("PRIVATE"), "{shown}");
}

#[test]
fn what_a_client_cannot_use() {
    let made = made();
    let refused = |change: &dyn Fn(&mut ClientSettings), part: &str| {
        let mut settings = ClientSettings { ca: Some(made.pem("ca.pem")), ..ClientSettings::default() };
        change(&mut settings);
        let err = ClientTls::load(settings).unwrap_err().to_string();
        assert!(err.contains(part), "{err} lacks {part}");
    };
    refused(&|settings| settings.ca = Some(made.pem("here.key")), "--here-key: ");
    refused(&|settings| settings.cert = Some(made.pem("here.pem")), "--here-pem needs the key that belongs to it");
    refused(&|settings| settings.key = Some(made.pem("here.key")), "--here-key needs the certificate of the key");
    refused(
        &|settings| (settings.cert, settings.key) = (Some(made.pem("here.pem")), Some(made.pem("other.key"))),
        "do not belong together",
    );
}
