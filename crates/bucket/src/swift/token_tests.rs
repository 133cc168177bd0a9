//! Tests of `token.rs`: when a token is asked for, kept and renewed.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::*;
use crate::rest::test_server::Server;
use crate::swift::config::{Auth, Named, SwiftConfig};
use pillion_base::secret::Secret;
use pillion_base::stop::stop_pair;

/// A server whose tokens `token-1`, `token-2` … last an hour, or which fails.
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
            let body = serde_json::json!({"access": {
                "token": {"id": format!("token-{number}"), "issued_at": "2001-01-01T00:00:00Z", "expires": "2001-01-01T01:00:00Z"},
                "serviceCatalog": [{"type": "object-store", "endpoints": [{"publicURL": "http://store/v1/AUTH_x"}]}],
            }});
            Some((status, body.to_string()))
        });
        let now_s = Arc::new(AtomicU64::new(1_000_000));
        let clock = Arc::clone(&now_s);
        let auth =
            Auth::V2 { user: "u".into(), password: Secret("hunter2".into()), project: Some(Named::Name("t".into())) };
        let config = SwiftConfig { auth_url: format!("{}/v2.0", server.url), auth, ..SwiftConfig::default() };
        let asker = Asker::new(&config, "pillion-test", &|_| None).unwrap();
        let clock = move || SystemTime::UNIX_EPOCH + Duration::from_secs(clock.load(Ordering::SeqCst));
        Rig { tokens: Tokens::with_clock(asker, Arc::new(clock)), server, now_s, status }
    }

    fn pass(&self, seconds: u64) {
        self.now_s.fetch_add(seconds, Ordering::SeqCst);
    }

    fn token(&self, stop: &Stop) -> String {
        self.tokens.token(stop).unwrap().text.0.clone()
    }
}

#[test]
fn a_token_is_kept_until_most_of_its_life_is_over_by_the_servers_own_clock() {
    let (_stopper, stop) = stop_pair().unwrap();
    let rig = Rig::new();
    assert_eq!((rig.token(&stop), rig.token(&stop)), ("token-1".into(), "token-1".into()));
    rig.pass(2879);
    assert_eq!(rig.token(&stop), "token-1");
    rig.pass(2);
    assert_eq!(rig.token(&stop), "token-2");
    assert_eq!(rig.server.seen().len(), 2);
}

#[test]
fn an_old_token_serves_while_the_server_fails_and_then_no_more() {
    let (_stopper, stop) = stop_pair().unwrap();
    let rig = Rig::new();
    rig.token(&stop);
    rig.status.store(503, Ordering::SeqCst);
    rig.pass(3000);
    for _ in 0..3 {
        assert_eq!(rig.token(&stop), "token-1");
    }
    // One failure is enough for a while.
    assert_eq!(rig.server.seen().len(), 2);
    rig.pass(700);
    let err = rig.tokens.token(&stop).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "throttled"), "{err}");
    rig.status.store(200, Ordering::SeqCst);
    rig.pass(2);
    assert_eq!(rig.token(&stop), "token-2");
}

#[test]
fn a_refused_token_is_renewed_once_for_all() {
    let (_stopper, stop) = stop_pair().unwrap();
    let rig = Rig::new();
    let used = rig.tokens.token(&stop).unwrap();
    let renewed: Vec<String> = std::thread::scope(|scope| {
        let ask = || rig.tokens.renew(&used, &stop).unwrap().text.0.clone();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(renewed.iter().all(|token| token == "token-2"), "{renewed:?}");
    assert_eq!(rig.server.seen().len(), 2);
}
