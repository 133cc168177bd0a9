//! Who signs requests: a user with an API key, or a session whose token lies in a file. The first place that has
//! something decides; files are read again when the store refuses a key, for it may have been rotated.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::config::Auth;
use super::key::Key;
use crate::limits;
use crate::rest::{Env, read_text};
use pillion_base::error::{Context, Error, Kind, Result};

/// A key and its name.
pub(super) struct Principal {
    /// `tenancy/user/fingerprint`, or `ST$` and a token, which is a secret.
    pub key_id: String,
    /// The key.
    pub key: Key,
    /// The region of the configuration.
    pub region: String,
    /// Whether it is a session, which ends.
    pub is_session: bool,
}

/// The principal of a configuration.
pub(super) struct Principals {
    auth: Auth,
    env: Env,
    current: Mutex<Arc<Principal>>,
}

impl Principals {
    /// Reads key and names. `Errors:` of class `credentials`; each says what is missing, and where.
    pub(super) fn new(auth: Auth, env: Env) -> Result<Principals> {
        let current = Mutex::new(Arc::new(load(&auth, &env)?));
        Ok(Principals { auth, env, current })
    }

    /// Who signs now.
    pub(super) fn current(&self) -> Arc<Principal> {
        Arc::clone(&self.lock())
    }

    /// Reads the files again, because the store has refused `used`. `None` if they say the same.
    pub(super) fn renew(&self, used: &Principal) -> Result<Option<Arc<Principal>>> {
        let is_other = |one: &Principal| {
            (one.key_id.as_str(), one.key.fingerprint()) != (used.key_id.as_str(), used.key.fingerprint())
        };
        let current = self.current();
        if is_other(&current) {
            // Another thread was faster.
            return Ok(Some(current));
        }
        if !matches!(self.auth, Auth::Profile) {
            return Ok(None);
        }
        let read = Arc::new(load(&self.auth, &self.env)?);
        if !is_other(&read) {
            return Ok(None);
        }
        *self.lock() = Arc::clone(&read);
        Ok(Some(read))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Arc<Principal>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wrong(text: impl Into<String>) -> Error {
    Error::new(Kind::Permanent, text).classed("credentials")
}

fn load(auth: &Auth, env: &Env) -> Result<Principal> {
    let loaded = match auth {
        Auth::Keys { tenancy, user, region, fingerprint, private_key } => {
            user_principal(tenancy, user, fingerprint, region, &private_key.0).context(|| "privatekey")
        }
        Auth::Profile => look_around(env),
    };
    loaded.map_err(|err| err.classed("credentials"))
}

/// `Source:` oci-go-sdk `DefaultConfigProvider`. `Differs:` the first place that there is decides; fields of several places
/// are not mixed.
fn look_around(env: &Env) -> Result<Principal> {
    let home = env("HOME").map(PathBuf::from);
    let in_home = |name: &str| home.as_ref().map(|home| home.join(name));
    let files =
        [in_home(".oci/config"), env("OCI_CONFIG_FILE").map(|path| expand(&path, env)), in_home(".obmcs/config")];
    if let Some(path) = files.into_iter().flatten().find(|path| path.is_file()) {
        let text = read_text(&path, limits::PROFILES_BYTES_MAX)?;
        return profile(&text, env).context(|| format!("profile DEFAULT of {}", path.display()));
    }
    if env("TF_VAR_user_ocid").is_some() {
        return environment(env).context(|| "the environment (TF_VAR_…)");
    }
    Err(wrong(
        "no credentials found: set provider: raw with tenancy_ocid, user_ocid, fingerprint, region and privatekey, or fill \
         one of the places that were looked at: ~/.oci/config, the file that OCI_CONFIG_FILE names, ~/.obmcs/config, \
         TF_VAR_user_ocid and its like",
    ))
}

fn environment(env: &Env) -> Result<Principal> {
    let get = |name: &str| {
        let name = format!("TF_VAR_{name}");
        env(&name).filter(|text| !text.is_empty()).ok_or_else(|| wrong(format!("{name} is not set")))
    };
    let path = expand(&get("private_key_path")?, env);
    let pem = key_file(&path)?;
    user_principal(&get("tenancy_ocid")?, &get("user_ocid")?, &get("fingerprint")?, &get("region")?, &pem)
        .context(|| format!("{}", path.display()))
}

/// The profile `DEFAULT`. `Source:` Oracle's "SDK and CLI Configuration File".
fn profile(text: &str, env: &Env) -> Result<Principal> {
    let fields = section(text, "DEFAULT").ok_or_else(|| wrong("there is no section [DEFAULT]"))?;
    // The last of several counts.
    let find =
        |name: &str| fields.iter().rev().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| *value);
    let get =
        |name: &str| find(name).filter(|value| !value.is_empty()).ok_or_else(|| wrong(format!("{name} is missing")));
    for name in ["authentication_type", "delegation_token_file"] {
        if find(name).is_some_and(|value| !value.is_empty() && value != "user_principal") {
            return Err(wrong(format!("{name} is not supported: use a user with an API key")));
        }
    }
    let region = match find("region").filter(|region| !region.is_empty()) {
        Some(region) => region.to_owned(),
        None => env("OCI_REGION").ok_or_else(|| wrong("region is missing, and OCI_REGION is not set"))?,
    };
    let path = expand(get("key_file")?, env);
    let pem = key_file(&path)?;
    match find("security_token_file").filter(|_| find("user").is_none()) {
        Some(token_file) => {
            let token =
                read_text(&expand(token_file, env), limits::CREDENTIALS_BYTES_MAX).context(|| "security_token_file")?;
            let token = token.trim();
            let is_token = |c: u8| c.is_ascii_graphic() && c != b'"';
            if token.is_empty() || !token.bytes().all(is_token) {
                return Err(wrong("security_token_file holds no token: run `oci session authenticate`"));
            }
            let key = Key::read(&pem).context(|| format!("{}", path.display()))?;
            Ok(Principal { key_id: format!("ST${token}"), key, region, is_session: true })
        }
        None => user_principal(get("tenancy")?, get("user")?, get("fingerprint")?, &region, &pem)
            .context(|| format!("{}", path.display())),
    }
}

fn key_file(path: &Path) -> Result<String> {
    read_text(path, limits::CREDENTIALS_BYTES_MAX)
}

fn user_principal(tenancy: &str, user: &str, fingerprint: &str, region: &str, pem: &str) -> Result<Principal> {
    let key = Key::read(pem)?;
    if !key.fingerprint().eq_ignore_ascii_case(fingerprint) {
        return Err(wrong(format!(
            "the fingerprint of this key is {}, and another is configured: correct fingerprint, or take the key that \
             belongs to it",
            key.fingerprint()
        )));
    }
    let key_id = format!("{tenancy}/{user}/{fingerprint}");
    if !key_id.bytes().all(|c| c.is_ascii_graphic() && c != b'"') {
        return Err(wrong("the OCID of the tenancy or of the user has characters that no OCID has"));
    }
    Ok(Principal { key_id, key, region: region.to_owned(), is_session: false })
}

/// A path with `~` for the home.
fn expand(path: &str, env: &Env) -> PathBuf {
    match (path.strip_prefix("~/"), env("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => PathBuf::from(path),
    }
}

/// The fields of a section of an INI file.
fn section<'a>(text: &'a str, name: &str) -> Option<Vec<(&'a str, &'a str)>> {
    let title = |line: &'a str| line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).map(str::trim);
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| title(line) == Some(name))?;
    let fields = lines
        .take_while(|line| title(line).is_none())
        .filter(|line| !line.starts_with(['#', ';']))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim(), value.trim()));
    Some(fields.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::secret::Secret;
    use pillion_testing::fake_oci::{FINGERPRINT, KEY_PEM, TENANCY, USER};

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
            let found = load(&Auth::Profile, &env).unwrap();
            assert_eq!((found.key_id, found.region.as_str(), found.is_session), (key_id(), region, false));
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
        let text =
            "[DEFAULT]\nfingerprint=x\ntenancy=t\nregion=r-1\nkey_file=~/.oci/key.pem\nsecurity_token_file=~/token";
        let home = Home::new(text);
        home.write("token", "first\n");
        let principals = Principals::new(Auth::Profile, home.env(&[])).unwrap();
        let used = principals.current();
        assert_eq!((used.key_id.as_str(), used.is_session), ("ST$first", true));
        assert!(principals.renew(&used).unwrap().is_none());
        home.write("token", "second");
        assert_eq!(principals.renew(&used).unwrap().unwrap().key_id, "ST$second");
        assert_eq!(principals.renew(&used).unwrap().unwrap().key_id, "ST$second");
        home.write("token", "");
        let used = principals.current();
        let Err(err) = principals.renew(&used) else { panic!("taken") };
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
        let used = principals.current();
        assert!(used.key_id.starts_with(&format!("{TENANCY}/{USER}/")));
        assert!(principals.renew(&used).unwrap().is_none());
    }
}
