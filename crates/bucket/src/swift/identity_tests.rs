//! Tests of `identity.rs`: what is asked, and what is made of the answers.

use super::*;
use crate::rest::test_server::Server;
use pillion_base::stop::stop_pair;

fn secret() -> Secret {
    Secret("hunter2".into())
}

fn domain() -> Named {
    Named::Name("D".into())
}

fn by_name() -> User {
    User::Name("u".into(), Some(domain()))
}

#[test]
fn what_keystone_is_asked() {
    let check = |identity: Identity, project: Option<Project>, want: Value| {
        assert_eq!(v3_body(&identity, project.as_ref()), json!({ "auth": want }));
    };
    let password = |user| Identity::Password { user, password: secret() };
    check(
        password(by_name()),
        Some(Project::Name("p".into(), Named::Id("d".into()))),
        json!({
            "identity": {"methods": ["password"], "password": {
                "user": {"name": "u", "domain": {"name": "D"}, "password": "hunter2"}}},
            "scope": {"project": {"name": "p", "domain": {"id": "d"}}},
        }),
    );
    check(
        password(User::Id("i".into())),
        Some(Project::Id("x".into())),
        json!({
            "identity": {"methods": ["password"], "password": {"user": {"id": "i", "password": "hunter2"}}},
            "scope": {"project": {"id": "x"}},
        }),
    );
    let application = |credential| Identity::Application { credential, secret: secret() };
    let want = |of: Value| json!({"identity": {"methods": ["application_credential"], "application_credential": of}});
    check(application(Credential::Id("a".into())), None, want(json!({"id": "a", "secret": "hunter2"})));
    check(
        application(Credential::Name("n".into(), by_name())),
        None,
        want(json!({"name": "n", "secret": "hunter2", "user": {"name": "u", "domain": {"name": "D"}}})),
    );
    check(Identity::Token(secret()), None, json!({"identity": {"methods": ["token"], "token": {"id": "hunter2"}}}));
    let project = Named::Name("t".into());
    assert_eq!(
        v2_body("u", &secret(), Some(&project), false),
        json!({"auth": {"passwordCredentials": {"username": "u", "password": "hunter2"}, "tenantName": "t"}})
    );
    assert_eq!(
        v2_body("u", &secret(), Some(&Named::Id("i".into())), true),
        json!({"auth": {"RAX-KSKEY:apiKeyCredentials": {"username": "u", "apiKey": "hunter2"}, "tenantId": "i"}})
    );
}

#[test]
fn the_object_store_of_the_region_is_found_in_the_catalogue() {
    let at = |interface: &str, region: &str, url: &str| json!({"interface": interface, "region": region, "url": url});
    let body = json!({"token": {
        "issued_at": "2030-01-01T00:00:00.000000Z", "expires_at": "2030-01-01T02:00:00.000000Z",
        "catalog": [
            {"type": "image", "endpoints": [at("public", "A", "http://image")]},
            {"type": "object-store", "endpoints": [
                at("admin", "A", "http://admin"), at("public", "A", "http://a"), at("public", "B", "http://b")]},
        ],
    }});
    let read = |region: &str| read_v3(body.to_string().as_bytes(), region);
    let two_hours = Some(Duration::from_secs(7200));
    assert_eq!(read(""), Ok(("http://a".into(), two_hours)));
    assert_eq!(read("B"), Ok(("http://b".into(), two_hours)));
    assert!(read("C").unwrap_err().contains("it has A, B"));
    let none = read_v3(br#"{"token": {"catalog": []}}"#, "").unwrap_err();
    assert!(none.contains("no object store with a public URL"), "{none}");
    assert!(read_v3(b"<html>", "").unwrap_err().contains("is not Keystone's JSON"));
    let v2 = json!({"access": {"token": {"id": "x"}, "serviceCatalog": [
        {"type": "object-store", "endpoints": [{"region": "A", "publicURL": "http://a", "internalURL": "http://i"}]}]}});
    assert_eq!(read_v2(v2.to_string().as_bytes(), "A"), Ok(("x".into(), "http://a".into(), None)));
}

fn asker(server: &Server, path: &str, auth: Auth) -> Asker {
    let config = SwiftConfig { auth_url: format!("{}{path}", server.url), auth, ..SwiftConfig::default() };
    Asker::new(&config, "pillion-test", &|_| None).unwrap()
}

#[test]
fn refusals_say_what_to_change_and_show_no_secret() {
    let (_stopper, stop) = stop_pair().unwrap();
    let v1 = || Auth::V1 { user: "a:u".into(), key: secret() };
    let v2 = || Auth::V2 { user: "u".into(), password: secret(), project: None };
    let v3 = |identity| Auth::V3 { identity, project: None };
    let password = || v3(Identity::Password { user: by_name(), password: secret() });
    let application = || v3(Identity::Application { credential: Credential::Id("a".into()), secret: secret() });
    let check = |auth: Auth, status: u16, body: &str, kind: Kind, class: &str, part: &str| {
        let body = body.to_owned();
        let server = Server::start(move |_| Some((status, body.clone())));
        let err = asker(&server, "/v3", auth).ask(&stop).unwrap_err();
        assert_eq!((err.kind(), err.class()), (kind, class), "{err}");
        assert!(err.to_string().contains(part) && !err.to_string().contains("hunter2"), "{err} lacks {part}");
    };
    use Kind::{Permanent, Retry};
    let said = r#"{"error":{"code":401,"message":"requires authentication","title":"Unauthorized"}}"#;
    check(
        v1(),
        401,
        "<html><h1>Unauthorized</h1></html>",
        Permanent,
        "credentials",
        "401: Unauthorized; correct username",
    );
    check(v2(), 401, said, Permanent, "credentials", "project_name (the tenant)");
    check(password(), 401, said, Permanent, "credentials", "401: requires authentication; correct username");
    check(password(), 401, "hunter2 is wrong", Permanent, "credentials", "(not shown, for it holds a secret)");
    check(application(), 401, said, Permanent, "credentials", "has the credential expired");
    check(v3(Identity::Token(secret())), 401, said, Permanent, "credentials", "taken for a token");
    let unknown = r#"{"error":{"code":404,"message":"Could not recognize Fernet token","title":"Not Found"}}"#;
    check(v3(Identity::Token(secret())), 404, unknown, Permanent, "credentials", "taken for a token");
    check(password(), 404, "", Permanent, "credentials", "Keystone's URL ends in /v3");
    check(password(), 302, "", Permanent, "credentials", "Keystone's URL ends in /v3");
    check(v2(), 410, "", Permanent, "credentials", "set auth_version 3");
    check(password(), 429, "", Retry, "throttled", "429");
    check(password(), 500, "", Retry, "server", "500");
    check(password(), 200, "<html>log in</html>", Permanent, "credentials", "is not Keystone's JSON");
    check(v1(), 200, "", Permanent, "credentials", "has no token");
    let store =
        r#"{"token":{"catalog":[{"type":"object-store","endpoints":[{"interface":"public","url":"http://s"}]}]}}"#;
    check(password(), 201, store, Permanent, "credentials", "has no token");
    // Nobody is there.
    let gone = {
        let server = Server::start(|_| None);
        asker(&server, "/v3", v1())
    };
    let err = gone.ask(&stop).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Retry, "network"), "{err}");
}

#[test]
fn a_password_of_the_second_version_is_tried_as_a_key_too() {
    let (_stopper, stop) = stop_pair().unwrap();
    let server = Server::start(|asked| {
        let body = json!({"access": {"token": {"id": "x"}, "serviceCatalog": [
            {"type": "object-store", "endpoints": [{"publicURL": "http://store/v1/a"}]}]}});
        Some(if asked.body.contains("apiKey") { (200, body.to_string()) } else { (401, String::new()) })
    });
    let auth = Auth::V2 { user: "u".into(), password: secret(), project: None };
    let token = asker(&server, "/v2.0/", auth).ask(&stop).unwrap();
    assert_eq!((token.text.0.as_str(), token.storage.as_str()), ("x", "http://store/v1/a"));
    let asked: Vec<String> = server.seen().into_iter().map(|asked| asked.what).collect();
    assert_eq!(asked, ["POST /v2.0/tokens", "POST /v2.0/tokens"]);
}
