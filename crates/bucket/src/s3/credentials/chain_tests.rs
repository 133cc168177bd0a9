//! The chain against small servers on loopback. `hunter2` is in every secret: it must not be in any error.

use super::*;
use crate::rest::test_server::{Asked, Server, Told, environment};
use pillion_base::secret::Secret;
use pillion_base::stop::stop_pair;

const OFF: (&str, &str) = ("AWS_EC2_METADATA_DISABLED", "true");
const START_S: u64 = 1_800_000_000;

/// A chain with a clock of its own, which begins at [`START_S`].
struct Bench {
    chain: CredentialsChain,
    now: Arc<Mutex<SystemTime>>,
}

fn at(offset_s: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(START_S + offset_s)
}

impl Bench {
    fn new(config: &S3Config, variables: &[(&str, &str)]) -> Bench {
        let now = Arc::new(Mutex::new(at(0)));
        let clock = Arc::clone(&now);
        let clock = Arc::new(move || *clock.lock().unwrap());
        Bench { chain: CredentialsChain::with_clock(config, environment(variables), clock).unwrap(), now }
    }

    fn usual(variables: &[(&str, &str)]) -> Bench {
        Bench::new(&S3Config::default(), variables)
    }

    fn set_clock(&self, offset_s: u64) {
        *self.now.lock().unwrap() = at(offset_s);
    }

    /// `access/secret/token`, or the error.
    fn keys(&self) -> std::result::Result<String, String> {
        let (_stopper, stop) = stop_pair().unwrap();
        shown(self.chain.keys(&stop))
    }

    fn renew(&self, used: &Keys) -> std::result::Result<String, String> {
        let (_stopper, stop) = stop_pair().unwrap();
        shown(self.chain.renew(used, &stop))
    }

    fn current(&self) -> Keys {
        let (_stopper, stop) = stop_pair().unwrap();
        self.chain.keys(&stop).unwrap().unwrap()
    }

    fn check_error(&self, expected: &str) {
        let err = self.keys().expect_err(expected);
        assert!(err.contains(expected), "{err}\nlacks\n{expected}");
    }
}

fn shown(got: Result<Option<Keys>>) -> std::result::Result<String, String> {
    match got {
        Ok(None) => Ok("anonymous".into()),
        Ok(Some(keys)) => {
            assert!(!format!("{keys:?}").contains("hunter2"));
            Ok(format!("{}/{}/{}", keys.access_key.0, keys.secret_key.0, keys.session_token.0))
        }
        Err(err) => {
            assert!(!err.to_string().contains("hunter2") && !format!("{err:?}").contains("hunter2"), "{err}");
            assert!(matches!(err.kind(), Kind::Retry | Kind::Permanent | Kind::Stopped), "{err:?}");
            assert_eq!(err.class(), "credentials", "{err}");
            Err(err.to_string())
        }
    }
}

/// What a metadata service or a container's endpoint answers.
fn json(number: usize, life_s: u64) -> String {
    let expires = pillion_base::time::format_rfc3339_nano(at(life_s));
    format!(
        r#"{{"Code": "Success", "AccessKeyId": "AK{number}", "SecretAccessKey": "hunter2", "Token": "t", "Expiration": "{expires}"}}"#
    )
}

fn xml(number: usize, life_s: u64) -> String {
    let expires = pillion_base::time::format_rfc3339_nano(at(life_s));
    format!(
        "<R xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Credentials><AccessKeyId>SK{number}</AccessKeyId>\
         <SecretAccessKey>hunter2</SecretAccessKey><SessionToken>st</SessionToken><Expiration>{expires}</Expiration>\
         </Credentials></R>"
    )
}

fn answer(status: u16, text: impl Into<String>) -> Told {
    Some((status, text.into()))
}

/// A metadata service of version 2 with one role.
fn metadata(asked: &Asked) -> Told {
    match asked.what.as_str() {
        "PUT /latest/api/token" if asked.headers.contains("x-aws-ec2-metadata-token-ttl-seconds: 21600\n") => {
            answer(200, "hunter2-token")
        }
        _ if !asked.headers.contains("x-aws-ec2-metadata-token: hunter2-token\n") => answer(401, ""),
        "GET /latest/meta-data/iam/security-credentials/" => answer(200, "edge-role\n"),
        "GET /latest/meta-data/iam/security-credentials/edge-role" => answer(200, json(1, 3600)),
        _ => answer(404, ""),
    }
}

fn of_instance(server: &Server) -> Bench {
    Bench::usual(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &format!("{}/", server.url))])
}

fn of_container(server: &Server) -> Bench {
    Bench::usual(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("{}/keys", server.url)), OFF])
}

/// A container's endpoint whose every answer has other keys, and which fails while told to.
fn counting(life_s: u64) -> (Server, Arc<Mutex<Told>>) {
    let failure = Arc::new(Mutex::new(None));
    let (failure_too, n_given) = (Arc::clone(&failure), Mutex::new(0));
    let server = Server::start(move |_| {
        let failure: Told = failure_too.lock().unwrap().clone();
        failure.or_else(|| {
            let mut n_given = n_given.lock().unwrap();
            *n_given += 1;
            answer(200, json(*n_given, life_s * u64::try_from(*n_given).unwrap()))
        })
    });
    (server, failure)
}

#[test]
fn the_environment_in_both_spellings() {
    let check = |variables: &[(&str, &str)], expected: &str| {
        assert_eq!(Bench::usual(variables).keys().as_deref(), Ok(expected));
    };
    check(&[("AWS_ACCESS_KEY_ID", "AK"), ("AWS_SECRET_ACCESS_KEY", "sk"), ("AWS_SESSION_TOKEN", "t")], "AK/sk/t");
    check(&[("AWS_ACCESS_KEY", "AK"), ("AWS_SECRET_KEY", "sk\n")], "AK/sk/");
    check(
        &[("AWS_ACCESS_KEY_ID", "1"), ("AWS_ACCESS_KEY", "2"), ("AWS_SECRET_ACCESS_KEY", "3"), ("AWS_SECRET_KEY", "4")],
        "1/3/",
    );
    for (set, absent) in [("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ("AWS_SECRET_KEY", "AWS_ACCESS_KEY_ID")] {
        let err =
            CredentialsChain::new(&S3Config::default(), environment(&[(set, "hunter2"), (absent, "")])).err().unwrap();
        assert!(err.to_string().contains(&format!("{absent} is not: set both")), "{err}");
        assert!(!err.to_string().contains("hunter2") && err.class() == "credentials", "{err}");
    }
}

#[test]
fn what_the_configuration_says_comes_before_all_places() {
    let environment = [("AWS_ACCESS_KEY_ID", "no"), ("AWS_SECRET_ACCESS_KEY", "no")];
    let secret = |text: &str| Secret(text.into());
    let config = S3Config {
        access_key: secret("AK"),
        secret_key: secret("hunter2"),
        session_token: secret("t"),
        ..S3Config::default()
    };
    let fixed = Bench::new(&config, &environment);
    assert_eq!(fixed.keys().as_deref(), Ok("AK/hunter2/t"));
    assert_eq!(fixed.renew(&fixed.current()).as_deref(), Ok("anonymous"), "no others, so that the store's words stand");
    let anonymous = Bench::new(&S3Config { anonymous: true, ..S3Config::default() }, &environment);
    assert_eq!(anonymous.keys().as_deref(), Ok("anonymous"));
}

#[test]
fn without_any_credentials_all_places_are_named_and_nothing_is_anonymous() {
    let home = tempfile::tempdir().unwrap();
    let bench = Bench::usual(&[("HOME", home.path().to_str().unwrap()), OFF]);
    let err = bench.keys().unwrap_err();
    for part in [
        "no credentials found: set access_key and secret_key",
        "AWS_ACCESS_KEY_ID is not set",
        "there is no profile default in ",
        "AWS_WEB_IDENTITY_TOKEN_FILE is not set",
        "neither AWS_CONTAINER_CREDENTIALS_RELATIVE_URI nor",
        "AWS_EC2_METADATA_DISABLED is true",
        "a bucket that needs none wants anonymous: true",
    ] {
        assert!(err.contains(part), "{err} lacks {part}");
    }
    // Nobody listens there any more.
    let gone = Server::start(|_| None).url.clone();
    Bench::usual(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &gone)]).check_error("no credentials found");
}

#[test]
fn an_instance_with_version_2_of_the_metadata_service() {
    let server = Server::start(metadata);
    assert_eq!(of_instance(&server).keys().as_deref(), Ok("AK1/hunter2/t"));
    assert_eq!(server.seen().len(), 3);
}

#[test]
fn an_instance_with_version_1_only() {
    for status in [404, 405] {
        let server = Server::start(move |asked| match asked.what.as_str() {
            "GET /latest/meta-data/iam/security-credentials/" => answer(200, "r"),
            "GET /latest/meta-data/iam/security-credentials/r" => answer(200, json(1, 3600)),
            _ => answer(status, ""),
        });
        assert_eq!(of_instance(&server).keys().as_deref(), Ok("AK1/hunter2/t"));
        let variables =
            [("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url.as_str()), ("AWS_EC2_METADATA_V1_DISABLED", "True")];
        Bench::usual(&variables).check_error("gave no token and AWS_EC2_METADATA_V1_DISABLED is true");
    }
}

#[test]
fn an_instance_whose_token_gets_lost_on_the_way() {
    let old = Server::start(|asked| match asked.what.as_str() {
        "GET /latest/meta-data/iam/security-credentials/" => answer(200, "r"),
        "GET /latest/meta-data/iam/security-credentials/r" => answer(200, json(1, 3600)),
        _ => None,
    });
    assert_eq!(of_instance(&old).keys().as_deref(), Ok("AK1/hunter2/t"));
    let new = Server::start(|asked| if asked.what.starts_with("PUT") { None } else { answer(401, "") });
    of_instance(&new).check_error("in a container the instance's hop limit must be 2");
    let silent = Server::start(|_| None);
    of_instance(&silent).check_error("nothing came within 1s");
}

#[test]
fn an_instance_that_has_no_keys_for_us() {
    let check = |on: &'static str, status: u16, text: &'static str, expected: &str| {
        let server = Server::start(move |asked| if asked.what == on { answer(status, text) } else { metadata(asked) });
        of_instance(&server).check_error(expected);
    };
    let (token, roles) = ("PUT /latest/api/token", "GET /latest/meta-data/iam/security-credentials/");
    let keys = "GET /latest/meta-data/iam/security-credentials/edge-role";
    check(token, 403, "", "says that the metadata service is switched off");
    check(token, 400, "no", "answered 400 when asked for token: no");
    check(token, 302, "", "answered 302 when asked for token");
    check(token, 200, "hunter2 x", "gave a token that cannot be one");
    check(roles, 404, "", "no IAM role is attached to this instance");
    check(roles, 200, "\n", "no IAM role is attached to this instance");
    check(roles, 200, "../hunter2", "named a role that cannot be one");
    check(roles, 500, "hunter2-token is unknown", "answered 500 when asked for roles: (not shown");
    check(keys, 404, "", "answered 404 when asked for keys");
    check(keys, 200, "{hunter2", "the answer is not the expected JSON");
    check(
        keys,
        200,
        r#"{"Code": "AssumeRoleUnauthorizedAccess", "Message": "EC2 cannot assume"}"#,
        "has no keys for role edge-role: AssumeRoleUnauthorizedAccess: EC2 cannot assume",
    );
    let large = Server::start(|_| answer(200, "x".repeat(70_000)));
    of_instance(&large).check_error("the answer is larger than 65536 bytes");
}

#[test]
fn a_container_with_its_token() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "hunter2-file\n").unwrap();
    let server = Server::start(|asked| {
        let token = asked.headers.lines().find_map(|line| line.strip_prefix("authorization: ")).unwrap_or_default();
        match token {
            "hunter2-file" | "hunter2-variable" => answer(200, json(token.len(), 3600)),
            _ => answer(403, format!(r#"{{"code": "AccessDenied", "message": "no {token}"}}"#)),
        }
    });
    let url = format!("{}/keys", server.url);
    let url = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str());
    let of_file = ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file.to_str().unwrap());
    let of_variable = |token| ("AWS_CONTAINER_AUTHORIZATION_TOKEN", token);
    assert_eq!(Bench::usual(&[url, of_variable("hunter2-variable")]).keys().as_deref(), Ok("AK16/hunter2/t"));
    assert_eq!(Bench::usual(&[url, of_variable("no"), of_file]).keys().as_deref(), Ok("AK12/hunter2/t"));
    Bench::usual(&[url]).check_error("container credentials endpoint: the endpoint answered 403: AccessDenied: no");
    Bench::usual(&[url, of_variable("hunter2-wrong")]).check_error("answered 403: (not shown");
    Bench::usual(&[url, of_variable("hunter2\nx")]).check_error("is more than one line");
    let absent = ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/nonexistent/token");
    Bench::usual(&[url, absent]).check_error("/nonexistent/token: No such file");
}

#[test]
fn a_container_whose_endpoint_fails() {
    let check = |status: u16, text: &'static str, expected: &str| {
        of_container(&Server::start(move |_| answer(status, text))).check_error(expected);
    };
    check(200, "hunter2", "the answer is not the expected JSON");
    check(200, r#"{"SecretAccessKey": "hunter2"}"#, "the answer has no AccessKeyId");
    check(302, "", "the endpoint answered 302");
    check(500, "oh", "the endpoint answered 500: oh");
    let gone = Server::start(|_| None).url.clone();
    // What is configured and fails is reported: nothing else is asked.
    Bench::usual(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &gone)]).check_error("get credentials from the container");
}

#[test]
fn a_web_identity_whose_token_is_read_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let server = Server::start(|asked| match asked.body.split("WebIdentityToken=").nth(1) {
        Some("hunter2.1%2B") => answer(200, xml(1, 1000)),
        Some("hunter2.2") => answer(200, xml(2, 2000)),
        _ => answer(
            400,
            "<ErrorResponse><Error><Code>InvalidIdentityToken</Code><Message>bad</Message></Error></ErrorResponse>",
        ),
    });
    let config = S3Config { sts_endpoint: server.url.clone(), ..S3Config::default() };
    let variables = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", file.to_str().unwrap()),
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/a b"),
        ("AWS_ROLE_SESSION_NAME", "edge"),
    ];
    let bench = Bench::new(&config, &variables);
    bench.check_error("get credentials from the web identity: read the token of the web identity: ");
    std::fs::write(&file, "hunter2.1+\n").unwrap();
    bench.set_clock(2);
    assert_eq!(bench.keys().as_deref(), Ok("SK1/hunter2/st"));
    let asked = server.seen().pop().unwrap();
    assert_eq!(asked.what, "POST /");
    assert_eq!(
        asked.body,
        "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fa+b&\
         RoleSessionName=edge&WebIdentityToken=hunter2.1%2B"
    );
    std::fs::write(&file, "hunter2.2").unwrap();
    bench.set_clock(900);
    assert_eq!(bench.keys().as_deref(), Ok("SK2/hunter2/st"));
    std::fs::write(&file, "hunter2.3").unwrap();
    let fresh = Bench::new(&config, &variables);
    fresh.check_error("STS answered 400: InvalidIdentityToken: bad");
    std::fs::write(&file, " \n").unwrap();
    fresh.set_clock(2);
    fresh.check_error("is empty");
    let without_role = Bench::usual(&[("AWS_WEB_IDENTITY_TOKEN_FILE", "/x"), OFF]);
    without_role.check_error("AWS_WEB_IDENTITY_TOKEN_FILE is set and AWS_ROLE_ARN is not");
}

#[test]
fn what_sts_quotes_of_the_token_is_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "hunter2").unwrap();
    let server = Server::start(|asked| {
        answer(403, format!("<Error><Code>AccessDenied</Code><Message>{}</Message></Error>", asked.body))
    });
    let config = S3Config { sts_endpoint: server.url.clone(), ..S3Config::default() };
    let variables = [("AWS_WEB_IDENTITY_TOKEN_FILE", file.to_str().unwrap())];
    Bench::new(&config, &variables).check_error("STS answered 403: (not shown, for it holds a secret)");
}

#[test]
fn a_role_is_assumed_with_the_keys_of_another_profile() {
    let home = tempfile::tempdir().unwrap();
    let config_file = home.path().join("config");
    std::fs::write(
        &config_file,
        "[profile edge]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = base\nexternal_id = hunter2-id\n\
         region = eu-west-1\nrole_session_name = s\nduration_seconds = 900\n[profile base]\naws_access_key_id = BASE\n\
         aws_secret_access_key = hunter2\naws_session_token = hunter2-token\n",
    )
    .unwrap();
    let server = Server::start(|asked| {
        let is_signed = asked.headers.contains(
            "authorization: AWS4-HMAC-SHA256 Credential=BASE/20270115/eu-west-1/sts/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, Signature=",
        );
        let is_dated = asked.headers.contains("x-amz-date: 20270115T080000Z\n");
        let has_token = asked.headers.contains("x-amz-security-token: hunter2-token\n");
        if is_signed && is_dated && has_token { answer(200, xml(7, 900)) } else { answer(403, asked.headers.clone()) }
    });
    let config = S3Config { aws_sdk_auth: true, sts_endpoint: server.url.clone(), ..S3Config::default() };
    let variables = [
        ("AWS_CONFIG_FILE", config_file.to_str().unwrap()),
        ("AWS_PROFILE", "edge"),
        ("HOME", home.path().to_str().unwrap()),
    ];
    assert_eq!(Bench::new(&config, &variables).keys().as_deref(), Ok("SK7/hunter2/st"));
    assert_eq!(
        server.seen().pop().unwrap().body,
        "Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fx&RoleSessionName=s&\
         ExternalId=hunter2-id&DurationSeconds=900"
    );
    // The same profile, refused: nothing of the request is quoted.
    let refusing = Server::start(|asked| answer(403, format!("{} {}", asked.headers, asked.body)));
    let config = S3Config { sts_endpoint: refusing.url.clone(), ..config };
    Bench::new(&config, &variables).check_error("STS answered 403: (not shown");
}

#[test]
fn keys_are_fetched_anew_at_four_fifths_of_their_life() {
    let (server, _) = counting(1000);
    let bench = of_container(&server);
    let check = |offset_s: u64, expected: &str, n_asked: usize| {
        bench.set_clock(offset_s);
        assert_eq!(bench.keys().as_deref(), Ok(expected), "after {offset_s} s");
        assert_eq!(server.seen().len(), n_asked, "after {offset_s} s");
    };
    check(0, "AK1/hunter2/t", 1);
    check(799, "AK1/hunter2/t", 1);
    check(800, "AK2/hunter2/t", 2);
    // 1200 s were left then.
    check(1759, "AK2/hunter2/t", 2);
    check(1760, "AK3/hunter2/t", 3);
    check(9999, "AK4/hunter2/t", 4);
}

#[test]
fn old_keys_serve_while_others_cannot_be_had_and_not_longer() {
    let (server, failure) = counting(1000);
    let bench = of_container(&server);
    let check = |offset_s: u64, expected: std::result::Result<&str, &str>, n_asked: usize| {
        bench.set_clock(offset_s);
        match (bench.keys(), expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, expected, "after {offset_s} s"),
            (Err(got), Err(expected)) => assert!(got.contains(expected), "after {offset_s} s: {got}"),
            (got, expected) => panic!("after {offset_s} s: {got:?} is not {expected:?}"),
        }
        assert_eq!(server.seen().len(), n_asked, "after {offset_s} s");
    };
    check(0, Ok("AK1/hunter2/t"), 1);
    *failure.lock().unwrap() = answer(500, "not now");
    check(800, Ok("AK1/hunter2/t"), 2);
    check(829, Ok("AK1/hunter2/t"), 2);
    check(830, Ok("AK1/hunter2/t"), 3);
    check(1000, Err("the endpoint answered 500: not now"), 4);
    check(1000, Err("the endpoint answered 500: not now"), 4);
    check(1001, Err("the endpoint answered 500: not now"), 5);
    *failure.lock().unwrap() = None;
    check(1002, Ok("AK2/hunter2/t"), 6);
}

#[test]
fn a_clock_that_is_far_ahead_does_not_fetch_for_every_request() {
    let (server, _) = counting(1000);
    let bench = of_container(&server);
    let year = 365 * 86_400;
    for offset_s in [year, year + 1, year + 59] {
        bench.set_clock(offset_s);
        assert_eq!(bench.keys().as_deref(), Ok("AK1/hunter2/t"));
    }
    bench.set_clock(year + 60);
    assert_eq!(bench.keys().as_deref(), Ok("AK2/hunter2/t"));
}

#[test]
fn keys_that_the_store_calls_expired_are_renewed_once_for_all_threads() {
    let (server, failure) = counting(1000);
    let bench = of_container(&server);
    let used = bench.current();
    std::thread::scope(|scope| {
        let renewals: Vec<_> = (0..8).map(|_| scope.spawn(|| bench.renew(&used))).collect();
        for renewal in renewals {
            assert_eq!(renewal.join().unwrap().as_deref(), Ok("AK2/hunter2/t"));
        }
    });
    assert_eq!(server.seen().len(), 2);
    assert_eq!(bench.keys().as_deref(), Ok("AK2/hunter2/t"));
    *failure.lock().unwrap() = answer(500, "");
    assert!(bench.renew(&bench.current()).unwrap_err().contains("the endpoint answered 500"));
    assert_eq!(bench.renew(&used).as_deref(), Ok("AK2/hunter2/t"), "those have been renewed already");
    *failure.lock().unwrap() = answer(200, json(2, 1000));
    bench.set_clock(2);
    for _ in 0..3 {
        let err = bench.renew(&bench.current()).unwrap_err();
        assert!(err.contains("there are no others yet where they come from"), "{err}");
    }
    assert_eq!(server.seen().len(), 4, "the failure answers for all who ask in the same second");
}

#[test]
fn the_environment_cannot_be_renewed() {
    let bench = Bench::usual(&[("AWS_ACCESS_KEY_ID", "AK"), ("AWS_SECRET_ACCESS_KEY", "hunter2")]);
    assert!(bench.renew(&bench.current()).unwrap_err().contains("there are no others yet"));
}

#[test]
fn a_shared_file_is_read_again_when_it_changes_and_nobody_else_steps_in() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("credentials");
    let write = |text: &str| {
        let next = dir.path().join("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &file).unwrap();
    };
    let profile =
        |number: usize| format!("[default]\naws_access_key_id = AK{number}\naws_secret_access_key = hunter2\n");
    write(&profile(1));
    let server = Server::start(|_| answer(200, json(9, 1000)));
    let url = format!("{}/keys", server.url);
    let bench = Bench::usual(&[
        ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap()),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url),
    ]);
    assert_eq!(bench.keys().as_deref(), Ok("AK1/hunter2/"));
    write(&profile(2));
    assert_eq!(bench.keys().as_deref(), Ok("AK2/hunter2/"));
    write("");
    assert_eq!(bench.keys().as_deref(), Ok("AK2/hunter2/"), "the container's keys are somebody else's");
    std::fs::remove_file(&file).unwrap();
    bench.set_clock(40);
    assert_eq!(bench.keys().as_deref(), Ok("AK2/hunter2/"));
    write(&profile(3));
    bench.set_clock(80);
    assert_eq!(bench.keys().as_deref(), Ok("AK3/hunter2/"));
    let used = bench.current();
    write(&profile(4));
    assert_eq!(bench.renew(&used).as_deref(), Ok("AK4/hunter2/"));
    assert_eq!(bench.keys().as_deref(), Ok("AK4/hunter2/"));
}

#[test]
fn the_stop_is_heard_between_two_places() {
    let (stopper, stop) = stop_pair().unwrap();
    stopper.stop();
    let server = Server::start(metadata);
    assert_eq!(of_instance(&server).chain.keys(&stop).unwrap_err().kind(), Kind::Stopped);
    assert!(server.seen().is_empty());
}

#[test]
fn the_stop_cuts_an_exchange_that_nobody_answers() {
    for place in [of_container, of_instance] {
        let (stopper, stop) = stop_pair().unwrap();
        let stopper = Mutex::new(Some(stopper));
        // The stop comes while the answer is waited for.
        let server = Server::start(move |_| {
            drop(stopper.lock().unwrap().take());
            None
        });
        let begun = std::time::Instant::now();
        assert_eq!(place(&server).chain.keys(&stop).unwrap_err().kind(), Kind::Stopped);
        // The time-out of an instance's service is a second.
        assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    }
}

#[test]
fn sts_is_asked_through_the_proxy_and_what_is_next_door_is_not() {
    let proxy = Server::start(|_| answer(403, ""));
    let home = tempfile::tempdir().unwrap();
    let token = home.path().join("token");
    std::fs::write(&token, "jwt-hunter2").unwrap();
    let config = S3Config { sts_endpoint: "http://sts.invalid:8080".into(), ..S3Config::default() };
    let variables = [
        ("HOME", home.path().to_str().unwrap()),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
        ("HTTP_PROXY", proxy.url.as_str()),
        ("HTTPS_PROXY", proxy.url.as_str()),
    ];
    Bench::new(&config, &variables).check_error("sts.invalid:8080");
    let asked = |proxy: &Server| proxy.seen().iter().map(|asked| asked.what.clone()).collect::<Vec<_>>();
    assert_eq!(asked(&proxy), ["CONNECT sts.invalid:8080"]);
    let full = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "https://keys.invalid/x");
    let variables = [("HOME", home.path().to_str().unwrap()), full, ("HTTPS_PROXY", proxy.url.as_str())];
    Bench::usual(&variables).check_error("keys.invalid");
    assert_eq!(asked(&proxy)[1..], ["CONNECT keys.invalid:443"]);
    let server = Server::start(metadata);
    let near = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url.as_str()), ("HTTP_PROXY", proxy.url.as_str())];
    Bench::usual(&near).keys().unwrap();
    assert_eq!(asked(&proxy).len(), 2);
}

#[test]
fn a_token_in_a_pipe_is_refused_and_not_waited_for() {
    let home = tempfile::tempdir().unwrap();
    let pipe = home.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let file = ("AWS_WEB_IDENTITY_TOKEN_FILE", pipe.to_str().unwrap());
    let bench =
        Bench::usual(&[("HOME", home.path().to_str().unwrap()), file, ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r")]);
    bench.check_error("is not a file");
}
