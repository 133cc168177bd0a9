//! Tests of `credentials.rs`: what JSON means, and where it is looked for.

use super::*;
use crate::rest::test_server::{Server, environment};
use pillion_testing::fake_gcs::{SERVICE_KEY, key_file};
use serde_json::json;
use std::sync::Arc;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

#[test]
fn each_kind_of_credentials_is_read() {
    let url = |text: &str| Url::parse(text).unwrap();
    let Source::Account { email, key_id, key, token_url } = parse(&key_file("https://t/token")).unwrap() else {
        panic!("it is a service account")
    };
    assert_eq!((email.as_str(), key_id.as_str()), (pillion_testing::fake_gcs::EMAIL, "key-1"));
    assert_eq!((key.0.as_str(), token_url), (SERVICE_KEY, url("https://t/token")));
    let user = json!({ "type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r" });
    assert_eq!(
        parse(&user.to_string()).unwrap(),
        Source::User {
            client_id: "c".into(),
            client_secret: Secret("s".into()),
            refresh_token: Secret("r".into()),
            token_url: url(TOKEN_URL),
        }
    );
    let act = "https://iam/v1/projects/-/serviceAccounts/a:generateAccessToken";
    let federated = json!({
        "type": "external_account",
        "audience": "//iam/pool",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token",
        "service_account_impersonation_url": act,
        "service_account_impersonation": { "token_lifetime_seconds": 600 },
        "credential_source": {
            "url": "http://169.254.1.1/t",
            "headers": { "a": "b" },
            "format": { "type": "json", "subject_token_field_name": "f" }
        }
    });
    let account = Impersonated { url: url(act), delegates: Vec::new(), lifetime_s: 600 };
    let want = External {
        audience: "//iam/pool".into(),
        subject_token_type: "urn:ietf:params:oauth:token-type:jwt".into(),
        token_url: url("https://sts.googleapis.com/v1/token"),
        subject: Subject::Url(url("http://169.254.1.1/t"), vec![("a".into(), Secret("b".into()))]),
        subject_field: Some("f".into()),
        client: None,
        user_project: String::new(),
        account: Some(account),
    };
    assert_eq!(parse(&federated.to_string()).unwrap(), Source::External(Box::new(want)));
    let stands_in = json!({
        "type": "impersonated_service_account",
        "service_account_impersonation_url": act,
        "delegates": ["d"],
        "source_credentials": user
    });
    let account = Impersonated { url: url(act), delegates: vec!["d".into()], lifetime_s: 3600 };
    let Source::Impersonated { account: got, source } = parse(&stands_in.to_string()).unwrap() else {
        panic!("it stands in for an account")
    };
    assert_eq!((got, matches!(*source, Source::User { .. })), (account, true));
}

#[test]
fn what_is_wrong_is_said_without_values() {
    let check = |text: String, part: &str| {
        let err = parse(&text).expect_err(&text).to_string();
        assert!(err.contains(part) && !err.contains("hunter2"), "{text}: {err}");
    };
    let with = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut value: serde_json::Value = serde_json::from_str(&key_file("https://t")).unwrap();
        change(&mut value);
        value.to_string()
    };
    check("hunter2".into(), "not the JSON of a key file");
    check("{}".into(), "no type");
    check(with(&|key| key["type"] = "hunter2".into()), "an unknown type");
    check(with(&|key| key["type"] = "gdch_service_account".into()), "type gdch_service_account are not supported");
    check(with(&|key| key["client_email"] = "".into()), "no client_email");
    check(with(&|key| key["private_key"] = "hunter2".into()), "not in PEM");
    check(with(&|key| key["token_uri"] = "http://hunter2/".into()), "token_uri of the credentials must be a URL");
    check(with(&|key| key["universe_domain"] = "hunter2.goog".into()), "universe_domain");
    let external = |source: serde_json::Value| {
        json!({
            "type": "external_account", "audience": "a", "subject_token_type": "t", "token_url": "https://t",
            "credential_source": source
        })
        .to_string()
    };
    check(external(json!({ "environment_id": "aws1", "url": "hunter2" })), "environment_id (AWS)");
    check(external(json!({ "executable": { "command": "hunter2" } })), "executable");
    check(external(json!({})), "neither file nor url");
    check(external(json!({ "file": "a", "url": "https://hunter2" })), "file and url");
    check(external(json!({ "url": "hunter2" })), "credential_source.url");
    check(external(json!({ "file": "a", "format": { "type": "hunter2" } })), "must be text or json");
    check(external(json!({ "file": "a", "format": { "type": "json" } })), "no subject_token_field_name");
}

#[test]
fn the_places_have_their_order() {
    let server = Server::start(|asked| {
        let from = if asked.what.starts_with("GET /computeMetadata") {
            "machine"
        } else if asked.body.contains("refresh_token=file") {
            "file"
        } else if asked.body.contains("refresh_token=gcloud") {
            "gcloud"
        } else {
            "inline"
        };
        Some((200, json!({ "access_token": from, "expires_in": 3600 }).to_string()))
    });
    let user = |token: &str| {
        let value = json!({
            "type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": token,
            "token_uri": format!("{}/token", server.url)
        });
        value.to_string()
    };
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    let (file, of_gcloud) = (dir.path().join("key.json"), home.join(WELL_KNOWN));
    std::fs::create_dir_all(of_gcloud.parent().unwrap()).unwrap();
    std::fs::write(&file, user("file")).unwrap();
    std::fs::write(&of_gcloud, user("gcloud")).unwrap();
    let host = server.url.trim_start_matches("http://");
    let all = [
        ("GCE_METADATA_HOST", host),
        ("HOME", home.to_str().unwrap()),
        ("GOOGLE_APPLICATION_CREDENTIALS", file.to_str().unwrap()),
    ];
    let token = |inline: &str, variables: &[(&str, &str)]| {
        let credentials = Credentials::new(&Secret(inline.into()), environment(variables)).unwrap();
        credentials.token(NOW).map(|(_, token)| token.text.0)
    };
    assert_eq!(token(&user("inline"), &all).unwrap(), "inline");
    assert_eq!(token("", &all).unwrap(), "file");
    assert_eq!(token("", &all[..2]).unwrap(), "gcloud");
    assert_eq!(token("", &all[..1]).unwrap(), "machine");
    // The first that is configured decides, also when it fails.
    let missing = dir.path().join("missing.json");
    let err = token("", &[all[0], ("GOOGLE_APPLICATION_CREDENTIALS", missing.to_str().unwrap())]).unwrap_err();
    assert!(
        err.to_string().contains("GOOGLE_APPLICATION_CREDENTIALS") && err.to_string().contains("missing.json"),
        "{err}"
    );
    let err = token("", &[("GCE_METADATA_HOST", "127.0.0.1:1")]).unwrap_err();
    assert!(err.to_string().contains("ask the metadata server"), "{err}");
    let err = Credentials::new(&Secret("hunter2".into()), Arc::new(|_| None)).err().unwrap().to_string();
    assert!(err.contains("service_account: the credentials are not") && !err.contains("hunter2"), "{err}");
}
