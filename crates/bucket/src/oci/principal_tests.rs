//! Tests of `principal.rs`: who signs, from which place, and until when.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use pillion_base::secret::Secret;
use pillion_base::stop::stop_pair;
use pillion_testing::fake_oci::{FINGERPRINT, FakeOci, KEY_PEM, TENANCY, USER};

struct Home(tempfile::TempDir);

impl Home {
    fn new(config: &str) -> Home {
        let home = Home(tempfile::tempdir().unwrap());
        home.write(".oci/config", config);
        home.write(".oci/key.pem", KEY_PEM);
        home
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn env(&self, more: &[(&str, &str)]) -> Env {
        let mut all = vec![("HOME".to_owned(), self.0.path().to_str().unwrap().to_owned())];
        all.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Arc::new(move |name: &str| all.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone()))
    }
}

fn config(more: &str) -> String {
    format!(
        "# made by `oci setup config`\n[OTHER]\nuser=hunter2\n[DEFAULT]\nuser = {USER}\nfingerprint={FINGERPRINT}\n\
         tenancy={TENANCY}\nkey_file=~/.oci/key.pem\n{more}\n[LAST]\nregion=hunter2\n"
    )
}

fn key_id() -> String {
    format!("{TENANCY}/{USER}/{FINGERPRINT}")
}

#[test]
fn the_profile_is_read_and_the_first_place_decides() {
    let home = Home::new(&config("region=eu-frankfurt-1"));
    let check = |env: Env, region: &str| {
        let (named, found) = load(&Auth::Profile, &env).unwrap();
        assert_eq!((found.key_id, named.as_str(), found.by), (key_id(), region, By::User));
    };
    check(home.env(&[("OCI_REGION", "us-phoenix-1"), ("OCI_CONFIG_FILE", "/nowhere")]), "eu-frankfurt-1");
    home.write(".oci/config", &config(""));
    check(home.env(&[("OCI_REGION", "us-phoenix-1")]), "us-phoenix-1");
    let away = Home::new("");
    std::fs::remove_file(away.0.path().join(".oci/config")).unwrap();
    away.write("elsewhere", &config("region=r-1"));
    check(away.env(&[("OCI_CONFIG_FILE", "~/elsewhere")]), "r-1");
    away.write(".obmcs/config", &config("region=r-2"));
    check(away.env(&[]), "r-2");
    std::fs::remove_file(away.0.path().join(".obmcs/config")).unwrap();
    let vars = [
        ("TF_VAR_user_ocid", USER),
        ("TF_VAR_tenancy_ocid", TENANCY),
        ("TF_VAR_fingerprint", FINGERPRINT),
        ("TF_VAR_private_key_path", "~/.oci/key.pem"),
        ("TF_VAR_region", "r-3"),
    ];
    check(away.env(&vars), "r-3");
}

#[test]
fn what_is_missing_or_wrong_is_named_and_no_secret_quoted() {
    let check = |text: &str, part: &str| {
        let home = Home::new(text);
        let Err(err) = load(&Auth::Profile, &home.env(&[])) else { panic!("{part}: taken") };
        assert!(err.to_string().contains(part), "{err} lacks {part}");
        assert!(!err.to_string().contains("hunter2"), "{err}");
        assert_eq!((err.kind(), err.class()), (Kind::Permanent, "credentials"), "{err}");
    };
    check("[OTHER]\nuser=hunter2", "there is no section [DEFAULT]");
    check(&config(""), "region is missing, and OCI_REGION");
    check(&config("region=r-1\nuser="), "user is missing");
    check(&config("region=r-1\nfingerprint=hunter2"), &format!("the fingerprint of this key is {FINGERPRINT}"));
    check(&config("region=r-1\ntenancy=a b"), "characters that no OCID has");
    check(&config("region=r-1\nkey_file=~/missing"), "missing: No such file");
    check(&config("region=r-1\nauthentication_type=instance_principal"), "authentication_type is not supported");
    let home = Home::new("");
    std::fs::remove_file(home.0.path().join(".oci/config")).unwrap();
    let Err(err) = load(&Auth::Profile, &home.env(&[])) else { panic!("found") };
    assert!(err.to_string().contains("~/.oci/config, the file that OCI_CONFIG_FILE names"), "{err}");
    let Err(err) = load(&Auth::Profile, &home.env(&[("TF_VAR_user_ocid", "x")])) else { panic!("found") };
    assert!(err.to_string().contains("TF_VAR_private_key_path is not set"), "{err}");
}

#[test]
fn a_session_and_a_rotated_key_are_read_again_when_they_are_refused() {
    let text = "[DEFAULT]\nfingerprint=x\ntenancy=t\nregion=r-1\nkey_file=~/.oci/key.pem\nsecurity_token_file=~/token";
    let home = Home::new(text);
    home.write("token", "first\n");
    let (_stopper, stop) = stop_pair().unwrap();
    let principals = Principals::new(Auth::Profile, home.env(&[])).unwrap();
    let used = principals.current(&stop).unwrap();
    assert_eq!((used.key_id.as_str(), used.by), ("ST$first", By::Session));
    let renewed = |used: &Principal| principals.renew(used, &stop).map(|one| one.map(|one| one.key_id.clone()));
    assert_eq!(renewed(&used).unwrap(), None);
    home.write("token", "second");
    assert_eq!(renewed(&used).unwrap(), Some("ST$second".into()));
    // Another thread was faster.
    assert_eq!(renewed(&used).unwrap(), Some("ST$second".into()));
    home.write("token", "");
    let err = renewed(&principals.current(&stop).unwrap()).unwrap_err();
    assert!(err.to_string().contains("oci session authenticate"), "{err}");
}

#[test]
fn keys_of_the_configuration_do_not_change() {
    let auth = Auth::Keys {
        tenancy: TENANCY.into(),
        user: USER.into(),
        region: "r-1".into(),
        fingerprint: FINGERPRINT.to_uppercase(),
        private_key: Secret(KEY_PEM.into()),
    };
    let principals = Principals::new(auth, Arc::new(|_: &str| None)).unwrap();
    let (_stopper, stop) = stop_pair().unwrap();
    let used = principals.current(&stop).unwrap();
    assert!(used.key_id.starts_with(&format!("{TENANCY}/{USER}/")));
    assert!(principals.renew(&used, &stop).unwrap().is_none());
}

/// A machine whose tokens last an hour.
struct Machine {
    fake: FakeOci,
    principals: Principals,
    now_s: Arc<AtomicU64>,
}

impl Machine {
    fn new() -> Machine {
        let fake = FakeOci::start();
        let now_s = Arc::new(AtomicU64::new(fake.with(|state| state.tokens_issued_at_s)));
        let clock = Arc::clone(&now_s);
        let clock = Arc::new(move || SystemTime::UNIX_EPOCH + Duration::from_secs(clock.load(Ordering::SeqCst)));
        let (metadata, auth) = (fake.metadata(), fake.endpoint());
        let env = move |name: &str| match name {
            "OCI_METADATA_BASE_URL" => Some(metadata.clone()),
            "OCI_SDK_AUTH_CLIENT_REGION_URL" => Some(auth.clone()),
            _ => None,
        };
        let auth = Auth::Instance { region: "eu-frankfurt-1".into(), session_key: Secret(KEY_PEM.into()) };
        let principals = Principals::with_clock(auth, Arc::new(env), clock).unwrap();
        Machine { fake, principals, now_s }
    }

    fn pass(&self, seconds: u64) {
        self.now_s.fetch_add(seconds, Ordering::SeqCst);
    }

    /// The number in the token.
    fn token(&self, stop: &Stop) -> Result<String> {
        let principal = self.principals.current(stop)?;
        assert_eq!(principal.by, By::Instance);
        Ok(principal.key_id.rsplit('-').next().unwrap_or_default().to_owned())
    }
}

#[test]
fn a_token_of_the_machine_is_kept_until_most_of_its_life_is_over() {
    let (_stopper, stop) = stop_pair().unwrap();
    let machine = Machine::new();
    let token = || machine.token(&stop).unwrap();
    assert_eq!((token(), token()), ("1".into(), "1".into()));
    machine.pass(2879);
    assert_eq!(token(), "1");
    machine.pass(2);
    machine.fake.with(|state| state.tokens_issued_at_s += 2881);
    assert_eq!((token(), token()), ("2".into(), "2".into()));
    let used = machine.principals.current(&stop).unwrap();
    let renewed = machine.principals.renew(&used, &stop).unwrap().unwrap();
    assert_ne!(renewed.key_id, used.key_id);
    assert_eq!(machine.fake.operations().iter().filter(|seen| **seen == "x509").count(), 3);
}

#[test]
fn an_old_token_serves_while_none_is_given_and_then_no_more() {
    use pillion_testing::fake_oci::Fault;
    let (_stopper, stop) = stop_pair().unwrap();
    let machine = Machine::new();
    machine.token(&stop).unwrap();
    machine.fake.seen();
    machine.fake.rule("x509", "", 0, 9, Fault::Refuse(503, "ServiceUnavailable"));
    machine.pass(3000);
    assert_eq!((machine.token(&stop).unwrap(), machine.token(&stop).unwrap()), ("1".into(), "1".into()));
    // The second did not ask again at once.
    assert_eq!(machine.fake.operations().iter().filter(|seen| **seen == "x509").count(), 1);
    machine.pass(700);
    let err = machine.token(&stop).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "credentials"), "{err}");
    assert!(err.to_string().contains("503 ServiceUnavailable"), "{err}");
}
