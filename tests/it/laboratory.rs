//! The laboratory itself: the S3 server and the bad link do what the tests that use them rely on.

use std::time::{Duration, Instant};

use crate::support::fault_proxy::{Fault, FaultProxy, Link, Rule};
use crate::support::rgw::{Bucket, Rgw, try_bytes};
use crate::support::sidecar::{PATIENCE, pause};
use rusty_s3::Method;

#[test]
fn objects_come_back_and_are_listed() {
    let Some(rgw) = Rgw::shared() else { return };
    let bucket = rgw.bucket();
    assert!(bucket.list("").is_empty());
    bucket.put("a/b c+é", b"content");
    bucket.put("b", b"");
    assert_eq!(bucket.get("a/b c+é"), b"content");
    assert_eq!(bucket.head("a/b c+é").unwrap().get("content-length").unwrap(), "7");
    let listed: Vec<_> = bucket.list("").into_iter().collect();
    assert_eq!(listed, [("a/b c+é".to_owned(), 7), ("b".to_owned(), 0)]);
    assert_eq!(bucket.list("b").len(), 1);
    bucket.delete("b");
    assert_eq!((bucket.try_get("b", &[]), bucket.head("b")), (None, None));
    assert!(bucket.uploads().is_empty());
    bucket.request(Method::Post, "b", &[("uploads", "")], &[], b"").unwrap();
    let uploads = bucket.uploads();
    assert!(uploads.len() == 1 && uploads[0].0 == "b", "{uploads:?}");
}

#[test]
fn a_good_link_changes_nothing() {
    let Some(rgw) = Rgw::shared() else { return };
    let (bucket, proxy) = (rgw.bucket(), FaultProxy::start(rgw.endpoint()));
    let through = bucket.through(&proxy.endpoint());
    let content = vec![7; 3 << 20];
    through.put("x", &content);
    assert!(bucket.get("x") == content && through.get("x") == content);
    assert_eq!(through.list(""), bucket.list(""));
    assert_eq!(through.head("x").unwrap().get("etag"), bucket.head("x").unwrap().get("etag"));
    through.delete("x");
    assert!(bucket.list("").is_empty());
    // An answer is with us before the proxy has written down that it passed it on.
    let deadline = Instant::now() + PATIENCE;
    let mut seen = proxy.seen();
    while seen.len() < 5 {
        assert!(Instant::now() < deadline, "{} of 5 requests", seen.len());
        pause();
        seen.extend(proxy.seen());
    }
    let asked: Vec<_> = seen.iter().map(|seen| (seen.method.as_str(), seen.query.as_str(), seen.status)).collect();
    let list = "list-type=2&prefix=";
    let expected =
        [("PUT", ""), ("GET", ""), ("GET", list), ("HEAD", "")].map(|(method, query)| (method, query, Some(200)));
    assert_eq!(asked[..4], expected);
    assert_eq!(asked[4], ("DELETE", "", Some(204)));
    assert_eq!((seen[0].body_bytes, proxy.up_bytes()), (content.len() as u64, content.len() as u64));
}

/// A PUT of a megabyte through a proxy with one rule: the status, or that there was none, and what is stored.
fn put_with(rgw: &Rgw, fault: Fault) -> (Option<u16>, Option<Vec<u8>>) {
    let (bucket, proxy) = (rgw.bucket(), FaultProxy::start(rgw.endpoint()));
    proxy.add(Rule::new(fault).method("PUT").path("/x"));
    let answer = bucket.through(&proxy.endpoint()).request(Method::Put, "x", &[], &[], &content());
    let status = answer.ok().map(|answer| answer.status().as_u16());
    assert_eq!(proxy.heal(), 0, "the rule was not used");
    (status, bucket.try_get("x", &[]))
}

fn content() -> Vec<u8> {
    (0..1_u32 << 20).map(|idx| (idx % 251) as u8).collect()
}

#[test]
fn each_fault_is_what_it_says() {
    let Some(rgw) = Rgw::shared() else { return };
    let check = |fault: Fault, status: Option<u16>, is_stored: bool| {
        let (found, stored) = put_with(rgw, fault);
        assert_eq!((found, stored.is_some()), (status, is_stored));
        assert!(!is_stored || stored.unwrap() == content());
    };
    check(Fault::Delay(Duration::from_millis(1)), Some(200), true);
    check(Fault::ResetUp(100_000), None, false);
    check(Fault::ResetDown(0), None, true);
    check(Fault::Refuse(503, "SlowDown"), Some(503), false);
    check(Fault::Deny(500, "InternalError"), Some(500), true);
    check(Fault::Lose, Some(200), false);
    check(Fault::OkWithError("InternalError"), Some(200), false);
    let (status, stored) = put_with(rgw, Fault::Corrupt);
    assert!(status == Some(200) && stored.unwrap() != content());
    // Whether the early answer is still seen is a matter of luck, as it is with real servers.
    let (status, stored) = put_with(rgw, Fault::RefuseEarly(403, "AccessDenied"));
    assert!((status.is_none() || status == Some(403)) && stored.is_none());
}

#[test]
fn answers_are_cut_and_objects_vanish() {
    let Some(rgw) = Rgw::shared() else { return };
    let (bucket, proxy) = (rgw.bucket(), FaultProxy::start(rgw.endpoint()));
    let through = bucket.through(&proxy.endpoint());
    bucket.put("x", &content());
    let get = |bucket: &Bucket| try_bytes(bucket.request(Method::Get, "x", &[], &[], b"")?);
    for fault in [Fault::ResetDown(1000), Fault::ResetDown(0), Fault::Truncate(1)] {
        proxy.add(Rule::new(fault));
        get(&through).unwrap_err();
        assert!(get(&through).unwrap() == content());
    }
    let gone = rgw.bucket();
    let name = gone.name.clone();
    let delete = move |path: &str| {
        assert_eq!(path, format!("/{name}/y"));
        Rgw::shared().unwrap().existing(&name).delete("y");
    };
    proxy.add(Rule::new(Fault::Then(std::sync::Arc::new(delete))));
    gone.through(&proxy.endpoint()).put("y", b"y");
    assert!(gone.list("").is_empty());
}

#[test]
fn rules_choose_and_end() {
    let Some(rgw) = Rgw::shared() else { return };
    let (bucket, proxy) = (rgw.bucket(), FaultProxy::start(rgw.endpoint()));
    let through = bucket.through(&proxy.endpoint());
    let refuse = || Rule::new(Fault::Refuse(503, "SlowDown"));
    proxy.add(refuse().query("uploads").method("POST").path("/x").skip(1).times(2));
    let begin = |key: &str| through.request(Method::Post, key, &[("uploads", "")], &[], b"").unwrap().status().as_u16();
    through.list("");
    assert_eq!(["y", "x", "x", "y", "x", "x"].map(begin), [200, 200, 503, 200, 503, 200]);
    proxy.add(refuse().query("partNumber=2").times(usize::MAX));
    let part = |number: &str| {
        let query = [("partNumber", number), ("uploadId", "none")];
        through.request(Method::Put, "x", &query, &[], b"part").unwrap().status().as_u16()
    };
    assert_eq!(["1", "2", "20", "2"].map(part), [404, 503, 404, 503]);
    assert_eq!(proxy.heal(), 1);
    assert_eq!(part("2"), 404);
}

#[test]
fn a_link_goes_down_and_comes_up() {
    let Some(rgw) = Rgw::shared() else { return };
    let (bucket, proxy) = (rgw.bucket(), FaultProxy::start(rgw.endpoint()));
    let through = bucket.through(&proxy.endpoint());
    proxy.set_rate(1 << 20);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let put = scope.spawn(|| through.request(Method::Put, "x", &[], &[], &[1; 8 << 20]));
        // It comes at the pace of the link, so that there is time to cut it in the middle.
        assert!(proxy.wait_up_bytes(512 << 10, Duration::from_secs(60)));
        assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
        proxy.set_link(Link::Down);
        put.join().unwrap().unwrap_err();
    });
    assert!(proxy.up_bytes() < 8 << 20);
    through.request(Method::Get, "x", &[], &[], b"").unwrap_err();
    assert!(bucket.list("").is_empty());
    proxy.set_link(Link::Up);
    proxy.set_rate(0);
    through.put("x", &content());
    assert!(bucket.get("x") == content());
    let cut = proxy.wait_seen("cut upload", |seen| seen.method == "PUT");
    assert_eq!(cut.status, None);
}

#[test]
fn hosts_that_do_not_resolve_are_reached_as_through_any_proxy() {
    let Some(rgw) = Rgw::shared() else { return };
    let (bucket, proxy) = (rgw.bucket(), FaultProxy::start(rgw.endpoint()));
    bucket.put("x", b"content");
    let url = rgw.virtual_hosted(&bucket.name, "x");
    assert_eq!(url.host_str().unwrap(), format!("{}.{}", bucket.name, rgw.fact("dns_name")));
    let config = ureq::Agent::config_builder()
        .proxy(Some(ureq::Proxy::new(&format!("http://{}", proxy.endpoint())).unwrap()))
        .timeout_global(Some(Duration::from_secs(60)))
        .build();
    let mut answer = ureq::Agent::new_with_config(config).get(url.as_str()).call().unwrap();
    assert_eq!(answer.body_mut().read_to_string().unwrap(), "content");
    assert_eq!(proxy.seen().first().unwrap().path, "/x");
}
