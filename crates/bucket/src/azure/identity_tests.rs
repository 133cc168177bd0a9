//! Tests of `identity.rs`: what is asked of the directory and of machines, and what their answers mean.

use super::*;
use crate::rest::test_server::{Server, environment as env_of};

const NOW: SystemTime = SystemTime::UNIX_EPOCH;
const GOOD: &str = r#"{"token_type":"Bearer","expires_in":3599,"access_token":"eyJ.x"}"#;

fn good() -> Token {
    Token { text: Secret("eyJ.x".into()), expires: NOW + Duration::from_secs(3599) }
}

fn say(status: u16, text: &'static str) -> Server {
    Server::start(move |_| Some((status, text.to_owned())))
}

fn found(found: Result<Found>) -> Option<Token> {
    match found.unwrap() {
        Found::Token(token) => Some(token),
        Found::Nothing(_) => None,
    }
}

#[test]
fn an_application_has_a_secret_or_the_token_of_another_issuer() {
    let server = say(200, GOOD);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "ey.federated\n").unwrap();
    let base = [
        ("AZURE_AUTHORITY_HOST", server.url.as_str()),
        ("AZURE_TENANT_ID", "the-tenant"),
        ("AZURE_CLIENT_ID", "the client"),
    ];
    let with =
        |more: (&'static str, &str)| env_of(&[base[0], base[1], base[2], more].map(|(name, value)| (name, value)));
    let got = found(environment(&with(("AZURE_CLIENT_SECRET", "s&cret")), NOW));
    assert_eq!(got, Some(good()));
    let got = found(workload(&with(("AZURE_FEDERATED_TOKEN_FILE", file.to_str().unwrap())), NOW));
    assert_eq!(got, Some(good()));
    let seen = server.seen();
    assert!(seen.iter().all(|asked| asked.what == "POST /the-tenant/oauth2/v2.0/token"), "{}", seen[0].what);
    assert_eq!(
        seen[0].body,
        "grant_type=client_credentials&client_id=the+client&scope=https%3A%2F%2Fstorage.azure.com%2F.default\
         &client_secret=s%26cret"
    );
    assert!(seen[1].body.ends_with(
        "&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer\
         &client_assertion=ey.federated"
    ));
}

#[test]
fn a_machine_or_an_app_gives_its_identity() {
    let server = say(200, r#"{"access_token":"eyJ.x","expires_in":"3599","resource":"r"}"#);
    let machine = env_of(&[("AZURE_POD_IDENTITY_AUTHORITY_HOST", server.url.as_str())]);
    assert_eq!(found(managed(&machine, None, false, NOW)), Some(good()));
    let endpoint = format!("{}/msi/token", server.url);
    let app = env_of(&[("IDENTITY_ENDPOINT", endpoint.as_str()), ("IDENTITY_HEADER", "hunter2")]);
    assert_eq!(found(managed(&app, Some("id"), true, NOW)), Some(good()));
    let seen = server.seen();
    let resource = "resource=https%3A%2F%2Fstorage.azure.com";
    assert_eq!(seen[0].what, format!("GET /metadata/identity/oauth2/token?api-version=2018-02-01&{resource}"));
    assert!(seen[0].headers.contains("metadata: true\n"), "{}", seen[0].headers);
    assert_eq!(seen[1].what, format!("GET /msi/token?api-version=2019-08-01&{resource}&client_id=id"));
    assert!(seen[1].headers.contains("x-identity-header: hunter2\n"), "{}", seen[1].headers);
}

#[test]
fn a_machine_without_an_identity_is_an_error_only_if_it_must_have_one() {
    let server = say(400, r#"{"error":"invalid_request","error_description":"Identity not found"}"#);
    let env = env_of(&[("AZURE_POD_IDENTITY_AUTHORITY_HOST", server.url.as_str())]);
    assert_eq!(found(managed(&env, None, false, NOW)), None);
    let err = managed(&env, Some("id"), true, NOW).err().unwrap();
    assert!(err.kind() == Kind::Permanent && err.to_string().contains("correct user_assigned_id"), "{err}");
    // Nobody listens there any more.
    drop(server);
    assert_eq!(found(managed(&env, None, false, NOW)), None);
    assert_eq!(managed(&env, None, true, NOW).err().unwrap().kind(), Kind::Retry);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let check = |variables: &[(&str, &str)], part: &str| {
        let env = env_of(variables);
        let err = environment(&env, NOW).and_then(|_| managed(&env, None, false, NOW)).err().unwrap();
        assert!(err.kind() == Kind::Permanent && err.to_string().contains(part), "{err}");
        assert!(!err.to_string().contains("hunter2"), "{err}");
    };
    let ids = [("AZURE_TENANT_ID", "t"), ("AZURE_CLIENT_ID", "c")];
    check(&[ids[0], ids[1], ("AZURE_CLIENT_CERTIFICATE_PATH", "hunter2")], "AZURE_CLIENT_CERTIFICATE_PATH");
    check(&[ids[0], ids[1], ("AZURE_USERNAME", "hunter2")], "AZURE_USERNAME");
    check(&[("IDENTITY_ENDPOINT", "http://x"), ("IMDS_ENDPOINT", "hunter2")], "Azure Arc");
    check(&[("MSI_ENDPOINT", "hunter2")], "Cloud Shell");
    check(
        &[("IDENTITY_ENDPOINT", "http://x"), ("IDENTITY_HEADER", "hunter2"), ("IDENTITY_SERVER_THUMBPRINT", "x")],
        "Service Fabric",
    );
    check(
        &[ids[0], ids[1], ("AZURE_CLIENT_SECRET", "hunter2"), ("AZURE_AUTHORITY_HOST", "http://elsewhere")],
        "AZURE_AUTHORITY_HOST must",
    );
    check(&[("AZURE_TENANT_ID", "t/../hunter2"), ids[1], ("AZURE_CLIENT_SECRET", "x")], "tenant");
}

#[test]
fn refusals_of_the_directory_say_what_to_change_and_no_secret() {
    let check = |status: u16, text: &'static str, kind: Kind, part: &str| {
        let server = say(status, text);
        let env = env_of(&[("AZURE_AUTHORITY_HOST", server.url.as_str())]);
        let err = application(&env, "t", "c", &Proof::Secret(&Secret("hunter2".into())), NOW).unwrap_err();
        assert!(err.kind() == kind && err.to_string().contains(part), "{err:?} lacks {part}");
        assert!(!err.to_string().contains("hunter2"), "{err}");
    };
    let wrong =
        r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret.\r\nTrace ID: 1"}"#;
    check(401, wrong, Kind::Permanent, "the secret's value, not its id");
    check(401, r#"{"error_description":"AADSTS7000222: keys are expired"}"#, Kind::Permanent, "has expired");
    check(400, r#"{"error_description":"AADSTS90002: Tenant"}"#, Kind::Permanent, "correct az_tenant_id");
    check(400, r#"{"error_description":"AADSTS9999: hunter2"}"#, Kind::Permanent, "holds a secret");
    check(503, "<html>", Kind::Retry, "503");
    check(429, "{}", Kind::Retry, "429");
    check(200, "hunter2", Kind::Permanent, "is not the expected JSON");
    check(200, "{}", Kind::Permanent, "has no access_token");
    check(200, r#"{"access_token":"a b","expires_in":1}"#, Kind::Permanent, "characters that no token has");
    check(200, r#"{"access_token":"ab"}"#, Kind::Permanent, "has no expires_in");
    assert!(!format!("{:?}", good()).contains("eyJ"));
}
