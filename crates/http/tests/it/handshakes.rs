//! Which handshakes succeed, and what is said of those that do not.

use std::io::{Read, Write};

use pillion_http::tls::{
    ClientAuth, ClientSettings, Handshake, ServerSettings, TlsMetrics, Version, Wire, parse_cipher_suite, parse_curve,
};

use crate::certificates::Certificates;
use crate::pair::{client, connect, ends, read, say, server, server_with, shake, sockets, wait};
use rustix::event::PollFlags;

/// `here` for this host, `elsewhere` for another, `client` for a client.
fn made() -> Certificates {
    let made = Certificates::new();
    made.leaf("here", "ca", "DNS:here.test,IP:127.0.0.1", 1);
    made.leaf("elsewhere", "ca", "DNS:elsewhere.test", 1);
    made.leaf("client", "ca", "DNS:client.test,URI:spiffe://a/b", 1);
    made
}

/// A handshake that fails; what each side says.
#[track_caller]
fn refused(
    made: &Certificates,
    name: &str,
    at_client: impl FnOnce(&mut ClientSettings),
    at_server: impl FnOnce(&mut ServerSettings),
) -> (String, String) {
    let metrics = TlsMetrics::default();
    let server = server_with(made, name, metrics.clone(), at_server);
    let (mut near, mut far) = ends(&client(made, at_client), &server, false);
    let (near_step, far_step) = shake(&mut near, &mut far);
    let at_server = far_step.err().map(|err| err.to_string()).unwrap_or_default();
    // In TLS 1.3 a client is done before the server has seen its certificate.
    let at_client = match near_step {
        Ok(_) => read(&mut near, &mut [0; 16]).map(|n| format!("{n} bytes")).unwrap_or_else(|err| err.to_string()),
        Err(err) => err.to_string(),
    };
    assert!(!at_server.is_empty(), "the server is content; the client says {at_client}");
    assert_eq!((metrics.handshakes.get(), metrics.handshakes_failed.get()), (0, 1));
    // Asked again it says the same, and counts nothing.
    assert_eq!(far.handshake().unwrap_err().to_string(), at_server);
    assert_eq!(metrics.handshakes_failed.get(), 1);
    (at_client, at_server)
}

fn with_client(made: &Certificates, name: &str) -> impl FnOnce(&mut ClientSettings) {
    let (cert, key) = (made.pem(&format!("{name}.pem")), made.pem(&format!("{name}.key")));
    |settings| (settings.cert, settings.key) = (Some(cert), Some(key))
}

fn verifying(made: &Certificates, auth: ClientAuth) -> impl FnOnce(&mut ServerSettings) {
    let ca = made.pem("ca.pem");
    move |settings| (settings.client_ca, settings.client_auth) = (Some(ca), auth)
}

#[test]
fn both_sides_agree_on_a_protocol() {
    let made = made();
    let metrics = TlsMetrics::default();
    let server = server_with(&made, "here", metrics.clone(), |settings| settings.alpn = vec![b"h2".to_vec()]);
    let h2 = client(&made, |settings| settings.alpn = vec![b"http/1.1".to_vec(), b"h2".to_vec()]);
    let (mut near, mut far) = connect(&h2, &server, false);
    assert_eq!((near.alpn(), far.alpn()), (Some(&b"h2"[..]), Some(&b"h2"[..])));
    assert!(near.is_tls() && far.is_tls());
    say(&mut near, &mut far, b"PRI");
    say(&mut far, &mut near, b"SETTINGS");
    // Who asks for no protocol is not asked for one.
    let (near, _) = connect(&client(&made, |_| {}), &server, false);
    assert_eq!(near.alpn(), None);
    assert_eq!((metrics.handshakes.get(), metrics.handshakes_failed.get()), (2, 0));
    let other = |settings: &mut ClientSettings| settings.alpn = vec![b"http/1.1".to_vec()];
    let (at_client, at_server) = refused(&made, "here", other, |settings| settings.alpn = vec![b"h2".to_vec()]);
    assert!(at_client.contains("(ALPN)") && at_server.contains("(ALPN)"), "{at_client}; {at_server}");
}

#[test]
fn a_client_with_a_certificate_of_the_client_ca_is_accepted() {
    let made = made();
    let server = server(&made, "here", verifying(&made, ClientAuth::RequireAndVerify));
    for version in [Version::Tls12, Version::Tls13] {
        let client = client(&made, |settings| {
            with_client(&made, "client")(settings);
            (settings.min_version, settings.max_version) = (version, version);
        });
        let (mut near, mut far) = connect(&client, &server, false);
        say(&mut near, &mut far, b"x");
    }
}

#[test]
fn clients_without_the_right_certificate_are_refused() {
    let made = made();
    made.authority("other");
    made.leaf("stranger", "other", "DNS:client.test", 1);
    made.expired_leaf("expired", "ca", "DNS:client.test");
    let both =
        |name: &str| refused(&made, "here", with_client(&made, name), verifying(&made, ClientAuth::RequireAndVerify));
    let (at_client, at_server) = refused(&made, "here", |_| {}, verifying(&made, ClientAuth::RequireAndVerify));
    assert_eq!(at_server, "the client sent no certificate");
    assert_eq!(at_client, "the server wants a certificate, and we sent none");
    let (at_client, at_server) = both("stranger");
    assert_eq!(at_server, "the client's certificate is not signed by the client CA");
    assert_eq!(at_client, "the server does not trust the authority that signed our certificate");
    let (at_client, at_server) = both("expired");
    assert!(at_server.starts_with("the client's certificate has expired on 2021-02-03T04:05:06Z"), "{at_server}");
    assert_eq!(at_client, "the server says that our certificate has expired");
}

#[test]
fn a_certificate_that_need_not_be_verified_still_needs_its_key() {
    let made = made();
    made.authority("other");
    made.leaf("stranger", "other", "DNS:client.test", 1);
    for (auth, may_be_missing) in [(ClientAuth::Request, true), (ClientAuth::RequireAny, false)] {
        let server = server(&made, "here", |settings| settings.client_auth = auth);
        connect(&client(&made, with_client(&made, "stranger")), &server, false);
        if may_be_missing {
            connect(&client(&made, |_| {}), &server, false);
        } else {
            let (_, at_server) = refused(&made, "here", |_| {}, |settings| settings.client_auth = auth);
            assert_eq!(at_server, "the client sent no certificate");
        }
    }
    let given = server(&made, "here", verifying(&made, ClientAuth::VerifyIfGiven));
    connect(&client(&made, |_| {}), &given, false);
    let wrong = refused(&made, "here", with_client(&made, "stranger"), verifying(&made, ClientAuth::VerifyIfGiven));
    assert_eq!(wrong.1, "the client's certificate is not signed by the client CA");
}

#[test]
fn only_clients_of_allowed_names_are_accepted() {
    let made = made();
    let allowing = |name: &str| {
        let (verify, name) = (verifying(&made, ClientAuth::RequireAndVerify), name.to_owned());
        move |settings: &mut ServerSettings| {
            verify(settings);
            settings.client_sans = vec!["x.test".into(), name];
        }
    };
    for name in ["client.test", "spiffe://a/b"] {
        connect(&client(&made, with_client(&made, "client")), &server(&made, "here", allowing(name)), false);
    }
    let (_, at_server) = refused(&made, "here", with_client(&made, "client"), allowing("y.test"));
    let want = "the client's certificate is not accepted: none of its names is allowed: client.test, spiffe://a/b";
    assert_eq!(at_server, want);
}

#[test]
fn a_client_checks_the_server() {
    let made = made();
    made.authority("other");
    made.expired_leaf("expired", "ca", "DNS:here.test");
    let (at_client, at_server) = refused(&made, "elsewhere", |_| {}, |_| {});
    assert!(at_client.contains("is for another host: not for here.test, but for"), "{at_client}");
    assert!(at_client.contains("elsewhere.test"), "{at_client}");
    assert_eq!(at_server, "the client does not accept our certificate");
    let (at_client, _) = refused(&made, "expired", |_| {}, |_| {});
    assert!(at_client.starts_with("the server's certificate has expired on 2021-02-03T04:05:06Z"), "{at_client}");
    let (at_client, at_server) = refused(&made, "here", |settings| settings.ca = Some(made.pem("other.pem")), |_| {});
    assert_eq!(at_client, "the server's certificate is not signed by an authority that is trusted here");
    assert_eq!(at_server, "the client does not trust the authority that signed our certificate");
    let elsewhere = server(&made, "elsewhere", |_| {});
    connect(&client(&made, |settings| settings.server_name = Some("elsewhere.test".into())), &elsewhere, false);
    connect(
        &client(&made, |settings| {
            settings.ca = Some(made.pem("other.pem"));
            settings.insecure_skip_verify = true;
        }),
        &elsewhere,
        false,
    );
}

#[test]
fn hosts_may_be_addresses_and_must_be_hosts() {
    let made = made();
    let (client, server) = (client(&made, |_| {}), server(&made, "here", |_| {}));
    let (near, far) = sockets(false);
    let (mut near, mut far) = (Wire::client(near, &client, "127.0.0.1").unwrap(), Wire::server(far, &server).unwrap());
    assert_eq!(shake(&mut near, &mut far).0.unwrap(), Handshake::Done);
    for host in ["[::1]", "::1", "a.test"] {
        Wire::client(sockets(false).0, &client, host).unwrap();
    }
    let err = Wire::client(sockets(false).0, &client, "no host").unwrap_err();
    assert_eq!(err.to_string(), "\"no host\" is neither the name of a host nor an IP address");
}

#[test]
fn versions_cipher_suites_and_curves_must_meet() {
    let made = made();
    let old = |settings: &mut ClientSettings| settings.max_version = Version::Tls12;
    let new = |settings: &mut ServerSettings| settings.min_version = Version::Tls13;
    let (at_client, at_server) = refused(&made, "here", old, new);
    assert_eq!(at_server, "the client speaks no version of TLS that is allowed here");
    assert_eq!(at_client, "the server does not speak the version of TLS that is spoken here");
    let suites = |names: &[&str]| {
        let suites: Vec<_> = names.iter().map(|name| parse_cipher_suite(name).unwrap()).collect();
        move |settings: &mut ServerSettings| settings.cipher_suites = suites
    };
    let rsa = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
    let ecdsa = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384";
    // The certificate here is one of ECDSA.
    let (_, at_server) = refused(&made, "here", old, suites(&[rsa]));
    assert_eq!(at_server, "there is no cipher suite in common with the client");
    connect(&client(&made, old), &server(&made, "here", suites(&[rsa, ecdsa])), false);
    // TLS 1.3 has its own, whatever is named.
    connect(&client(&made, |_| {}), &server(&made, "here", suites(&[rsa])), false);
    let curves = |settings: &mut ServerSettings| settings.curves = vec![parse_curve("CurveP384").unwrap()];
    connect(&client(&made, |_| {}), &server(&made, "here", curves), false);
}

#[test]
fn openssl_speaks_with_it() {
    let made = made();
    let key = "-newkey rsa:2048 -nodes";
    made.leaf_with_key("rsa", "ca", "DNS:here.test", 1, key);
    made.leaf_with_key("ed", "ca", "DNS:here.test", 1, "-newkey ed25519 -nodes");
    let cases = [
        ("here", "-tls1_2 -cipher ECDHE-ECDSA-CHACHA20-POLY1305", "TLSv1.2"),
        ("rsa", "-tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256", "TLSv1.2"),
        ("rsa", "-tls1_3 -curves P-384 -ciphersuites TLS_AES_256_GCM_SHA384", "TLSv1.3"),
        ("ed", "-tls1_3", "TLSv1.3"),
    ];
    for (name, args, version) in cases {
        let tls = server(&made, name, verifying(&made, ClientAuth::RequireAndVerify));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut child = std::process::Command::new("openssl")
            .args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-CAfile", "ca.pem", "-verify_return_error"])
            .args(["-cert", "client.pem", "-key", "client.key", "-brief", "-servername", "here.test"])
            .args(args.split(' '))
            .current_dir(made.dir())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut wire = Wire::server(stream, &tls).unwrap();
        loop {
            match wire.handshake().unwrap() {
                Handshake::Done => break,
                Handshake::WantsRead => wait(&[(wire.socket(), PollFlags::IN)]),
                Handshake::WantsWrite => wait(&[(wire.socket(), PollFlags::OUT)]),
            }
        }
        child.stdin.as_mut().unwrap().write_all(b"to the server\n").unwrap();
        let mut buf = [0; 64];
        let n_read = read(&mut wire, &mut buf).unwrap();
        assert_eq!(buf.get(..n_read).unwrap(), b"to the server\n", "{args}");
        wire.write(b"to the client\n").unwrap();
        wire.end();
        let out = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "to the client\n", "{args}");
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(told.contains(version) && told.contains("Verification: OK"), "{args}: {told}");
    }
}

#[test]
fn who_does_not_speak_tls_is_told() {
    let made = made();
    let tls = server(&made, "here", |_| {});
    let garbage: Vec<u8> =
        (0..60_000_u32).map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect();
    for (sent, want) in [
        (&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], "the client does not speak TLS"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "the client does not speak TLS"),
        (&garbage, "the client"),
        // A record of a handshake in which there is none.
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", "the client sent what is no valid TLS"),
    ] {
        let (mut near, far) = sockets(false);
        let mut far = Wire::server(far, &tls).unwrap();
        near.write_all(sent).unwrap();
        let err = loop {
            match far.handshake() {
                Ok(step) => {
                    assert_eq!(step, Handshake::WantsRead);
                    wait(&[(far.socket(), PollFlags::IN)]);
                }
                Err(err) => break err,
            }
        };
        assert!(err.to_string().starts_with(want), "{err}");
        // The alert arrives, for nothing that was sent is left unread.
        drop(far);
        wait(&[(&near, PollFlags::IN)]);
        let mut alert = Vec::new();
        near.read_to_end(&mut alert).unwrap();
        assert_eq!(alert.first(), Some(&21), "{alert:?}");
    }
}

#[test]
fn a_handshake_that_breaks_off_fails_at_every_byte() {
    let made = made();
    let (client, server) = (client(&made, |_| {}), server(&made, "here", |_| {}));
    // What a client sends first.
    let (near, mut far) = sockets(false);
    assert_eq!(Wire::client(near, &client, "here.test").unwrap().handshake().unwrap(), Handshake::WantsRead);
    let mut hello = vec![0; 4096];
    let n_read = far.read(&mut hello).unwrap();
    hello.truncate(n_read);
    for length in (0..hello.len()).step_by(7) {
        let (mut near, far) = sockets(false);
        let mut far = Wire::server(far, &server).unwrap();
        near.write_all(hello.get(..length).unwrap()).unwrap();
        assert_eq!(far.handshake().unwrap(), Handshake::WantsRead, "{length}");
        near.shutdown(std::net::Shutdown::Write).unwrap();
        wait(&[(far.socket(), PollFlags::IN)]);
        let err = far.handshake().unwrap_err();
        assert_eq!(err.to_string(), "the client closed the connection during the handshake", "{length}");
    }
}
