//! Tests of `token.rs`: when a token is fetched, kept, renewed, and from where.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::rest::test_server::{Server, environment};
use pillion_base::stop::stop_pair;

/// A directory whose tokens `token-1`, `token-2` … last an hour, or which fails.
struct Rig {
    tokens: Tokens,
    server: Server,
    now_s: Arc<AtomicU64>,
    status: Arc<AtomicUsize>,
}

impl Rig {
    fn new() -> Rig {
        let (status, n_given) = (Arc::new(AtomicUsize::new(200)), AtomicUsize::new(0));
        let told = Arc::clone(&status);
        let server = Server::start(move |_| {
            let status = u16::try_from(told.load(Ordering::SeqCst)).unwrap();
            let number = if status == 200 { n_given.fetch_add(1, Ordering::SeqCst) + 1 } else { 0 };
            Some((status, format!(r#"{{"access_token":"token-{number}","expires_in":3600}}"#)))
        });
        let now_s = Arc::new(AtomicU64::new(1_000_000));
        let clock = Arc::clone(&now_s);
        let auth = Auth::ClientSecret { tenant: "t".into(), client: "c".into(), secret: Secret("hunter2".into()) };
        let tokens = Tokens::with_clock(
            auth,
            environment(&[("AZURE_AUTHORITY_HOST", server.url.as_str())]),
            Arc::new(move || SystemTime::UNIX_EPOCH + Duration::from_secs(clock.load(Ordering::SeqCst))),
        );
        Rig { tokens, server, now_s, status }
    }

    fn pass(&self, seconds: u64) {
        self.now_s.fetch_add(seconds, Ordering::SeqCst);
    }
}

#[test]
fn a_token_is_kept_until_most_of_its_life_is_over() {
    let (_stopper, stop) = stop_pair().unwrap();
    let rig = Rig::new();
    let token = || rig.tokens.token(&stop).unwrap().0;
    assert_eq!((token(), token()), ("token-1".into(), "token-1".into()));
    rig.pass(2879);
    assert_eq!(token(), "token-1");
    rig.pass(2);
    assert_eq!(token(), "token-2");
    assert_eq!(rig.server.seen().len(), 2);
}

#[test]
fn an_old_token_serves_while_the_directory_fails_and_then_no_more() {
    let (_stopper, stop) = stop_pair().unwrap();
    let rig = Rig::new();
    rig.tokens.token(&stop).unwrap();
    rig.status.store(503, Ordering::SeqCst);
    rig.pass(3000);
    for _ in 0..3 {
        assert_eq!(rig.tokens.token(&stop).unwrap().0, "token-1");
    }
    // One failure is enough for a while.
    assert_eq!(rig.server.seen().len(), 2);
    rig.pass(700);
    let err = rig.tokens.token(&stop).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "credentials"), "{err}");
    rig.status.store(200, Ordering::SeqCst);
    rig.pass(2);
    assert_eq!(rig.tokens.token(&stop).unwrap().0, "token-2");
}

#[test]
fn a_refused_token_is_renewed_once_for_all() {
    let (_stopper, stop) = stop_pair().unwrap();
    let rig = Rig::new();
    let used = rig.tokens.token(&stop).unwrap();
    let renewed: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| rig.tokens.renew(&used, &stop).unwrap().0)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(renewed.iter().all(|token| token == "token-2"), "{renewed:?}");
    assert_eq!(rig.server.seen().len(), 2);
}

#[test]
fn the_places_of_the_environment_have_their_order() {
    let (_stopper, stop) = stop_pair().unwrap();
    let server = Server::start(|asked| {
        let from = if asked.body.contains("client_secret") {
            "secret"
        } else if asked.body.contains("client_assertion") {
            "assertion"
        } else {
            "machine"
        };
        Some((200, format!(r#"{{"access_token":"{from}","expires_in":3600}}"#)))
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "x").unwrap();
    let all = [
        ("AZURE_AUTHORITY_HOST", server.url.as_str()),
        ("AZURE_POD_IDENTITY_AUTHORITY_HOST", server.url.as_str()),
        ("AZURE_TENANT_ID", "t"),
        ("AZURE_CLIENT_ID", "c"),
        ("AZURE_FEDERATED_TOKEN_FILE", file.to_str().unwrap()),
        ("AZURE_CLIENT_SECRET", "s"),
    ];
    let check = |variables: &[(&str, &str)], want: std::result::Result<&str, &str>| {
        let got = Tokens::new(Auth::Default, environment(variables)).token(&stop);
        match want {
            Ok(want) => assert_eq!(got.unwrap().0, want),
            Err(part) => {
                let err = got.unwrap_err();
                assert!(err.kind() == Kind::Permanent && err.to_string().contains(part), "{err}");
            }
        }
    };
    check(&all, Ok("secret"));
    check(&all[..5], Ok("assertion"));
    check(&all[..4], Ok("machine"));
    let chosen = |name| [&all[..], &[("AZURE_TOKEN_CREDENTIALS", name)]].concat();
    check(&chosen("ManagedIdentityCredential"), Ok("machine"));
    check(&chosen("workloadidentitycredential"), Ok("assertion"));
    check(&chosen("prod"), Ok("secret"));
    check(&chosen("AzureCLICredential"), Err("AZURE_TOKEN_CREDENTIALS must be"));
    check(
        &[("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1")],
        Err("WorkloadIdentityCredential (AZURE_FEDERATED_TOKEN_FILE, AZURE_TENANT_ID, AZURE_CLIENT_ID not set)"),
    );
}
