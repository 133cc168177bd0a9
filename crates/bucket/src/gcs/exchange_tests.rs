//! Tests of `exchange.rs`: what is asked for tokens, and what the answers mean.

use super::super::credentials::parse;
use super::*;
use crate::rest::test_server::{Server, environment};
use pillion_testing::fake_gcs::key_file;
use serde_json::json;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn good() -> Token {
    Token { text: Secret("ya29.x..".into()), expires: NOW + Duration::from_secs(3599) }
}

fn answers(asked: &crate::rest::test_server::Asked) -> (u16, String) {
    if asked.what.contains(":generateAccessToken") {
        return (200, json!({ "accessToken": "of-the-account", "expireTime": "1970-01-01T00:10:00Z" }).to_string());
    }
    if asked.what.contains("/subject") {
        return (200, json!({ "field": "ey.subject" }).to_string());
    }
    (200, json!({ "access_token": "ya29.x..", "expires_in": 3599, "token_type": "Bearer" }).to_string())
}

fn external(server: &Server, source: serde_json::Value, more: serde_json::Value) -> Source {
    let mut value = json!({
        "type": "external_account",
        "audience": "//iam/pool",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": format!("{}/sts", server.url),
        "credential_source": source
    });
    for (name, field) in more.as_object().unwrap() {
        value[name] = field.clone();
    }
    parse(&value.to_string()).unwrap()
}

#[test]
fn accounts_and_people_ask_for_a_token() {
    let server = Server::start(|asked| Some(answers(asked)));
    let env = environment(&[]);
    let url = format!("{}/token", server.url);
    let account = parse(&key_file(&url)).unwrap();
    assert_eq!(token(&env, &account, NOW + Duration::from_secs(100)).unwrap().text, good().text);
    let user = json!({
        "type": "authorized_user", "client_id": "c", "client_secret": "s&", "refresh_token": "r", "token_uri": url
    });
    assert_eq!(token(&env, &parse(&user.to_string()).unwrap(), NOW).unwrap(), good());
    let seen = server.seen();
    let form = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=ey";
    assert!(seen[0].what == "POST /token" && seen[0].body.starts_with(form), "{}", seen[0].body);
    assert_eq!(seen[1].body, "grant_type=refresh_token&client_id=c&client_secret=s%26&refresh_token=r");
}

#[test]
fn an_identity_of_another_issuer_is_changed_for_a_token() {
    let server = Server::start(|asked| Some(answers(asked)));
    let env = environment(&[]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "ey.file\n").unwrap();
    let plain = external(&server, json!({ "file": file }), json!({ "workforce_pool_user_project": "p" }));
    assert_eq!(token(&env, &plain, NOW).unwrap(), good());
    let source = json!({
        "url": format!("{}/subject", server.url),
        "headers": { "Metadata-Flavor": "other" },
        "format": { "type": "json", "subject_token_field_name": "field" }
    });
    let act = format!("{}/v1/projects/-/serviceAccounts/a:generateAccessToken", server.url);
    let more = json!({ "service_account_impersonation_url": act, "client_id": "id", "client_secret": "secret" });
    let got = token(&env, &external(&server, source, more), NOW).unwrap();
    assert_eq!(got, Token { text: Secret("of-the-account".into()), expires: NOW + Duration::from_secs(600) });
    let seen = server.seen();
    assert_eq!(seen.len(), 4);
    let has = |idx: usize, part: &str| assert!(seen[idx].body.contains(part), "{} lacks {part}", seen[idx].body);
    has(0, "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&audience=%2F%2Fiam%2Fpool");
    has(0, "subject_token=ey.file&");
    has(0, "devstorage.read_write");
    has(0, "options=%7B%22userProject%22%3A%22p%22%7D");
    assert!(seen[1].headers.contains("metadata-flavor: other\n"), "{}", seen[1].headers);
    has(2, "subject_token=ey.subject&");
    has(2, "cloud-platform");
    assert!(seen[2].headers.contains("authorization: Basic aWQ6c2VjcmV0\n"), "{}", seen[2].headers);
    assert!(seen[3].headers.contains("authorization: Bearer ya29.x..\n"), "{}", seen[3].headers);
    has(3, r#""lifetime":"3600s""#);
}

#[test]
fn the_machine_gives_its_account() {
    let server = Server::start(|asked| Some(answers(asked)));
    let host = server.url.trim_start_matches("http://");
    assert_eq!(machine(Some(host), NOW).unwrap(), Some(good()));
    let seen = server.seen();
    assert_eq!(seen[0].what, "GET /computeMetadata/v1/instance/service-accounts/default/token");
    assert!(seen[0].headers.contains("metadata-flavor: Google\n"), "{}", seen[0].headers);
    let none = Server::start(|_| Some((404, String::new())));
    let err = machine(Some(none.url.trim_start_matches("http://")), NOW).unwrap_err();
    assert!(err.kind() == Kind::Permanent && err.to_string().contains("has no service account"), "{err}");
}

#[test]
fn refusals_say_what_to_change_and_show_no_secret() {
    let check = |status: u16, text: &'static str, kind: Kind, class: &str, part: &str| {
        let server = Server::start(move |_| Some((status, text.to_owned())));
        let user = json!({
            "type": "authorized_user", "client_id": "c", "client_secret": "hunter2", "refresh_token": "hunter2r",
            "token_uri": format!("{}/token", server.url)
        });
        let err = token(&environment(&[]), &parse(&user.to_string()).unwrap(), NOW).unwrap_err();
        assert_eq!((err.kind(), err.class()), (kind, class), "{err}");
        assert!(err.to_string().contains(part) && !err.to_string().contains("hunter2"), "{err} lacks {part}");
    };
    use Kind::{Permanent, Retry};
    let creds = "credentials";
    check(400, r#"{"error":"invalid_grant","error_description":"Bad Request"}"#, Permanent, creds, "log in again");
    check(
        400,
        r#"{"error":"invalid_grant","error_description":"Invalid JWT Signature."}"#,
        Permanent,
        creds,
        "make a new one",
    );
    check(
        400,
        r#"{"error":"invalid_grant","error_description":"Token must be a short-lived token"}"#,
        Permanent,
        "clock",
        "synchronise",
    );
    check(400, r#"{"error":"invalid_target"}"#, Permanent, creds, "correct audience");
    check(401, r#"{"error":"x","error_description":"no hunter2 here"}"#, Permanent, creds, "not shown");
    check(503, "<html>", Retry, creds, "503");
    check(200, "<html>", Retry, "transient", "not the expected JSON");
    check(200, r#"{"access_token":"a b","expires_in":1}"#, Retry, "transient", "characters that no token has");
    check(200, r#"{"access_token":"","expires_in":1}"#, Retry, "transient", "has no token");
    check(200, r#"{"access_token":"a"}"#, Retry, "transient", "no expires_in");
}

#[test]
fn a_right_that_is_missing_to_act_for_an_account_is_named() {
    let server = Server::start(|asked| {
        if asked.what.contains(":generateAccessToken") {
            return Some((403, r#"{"error":{"code":403,"message":"Permission denied"}}"#.into()));
        }
        Some(answers(asked))
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "ey.file\n").unwrap();
    let act = format!("{}/a:generateAccessToken", server.url);
    let source = external(&server, json!({ "file": file }), json!({ "service_account_impersonation_url": act }));
    let err = token(&environment(&[]), &source, NOW).unwrap_err();
    assert!(err.to_string().contains("roles/iam.workloadIdentityUser"), "{err}");
}
