//! Keys of a profile in the shared credentials file. With `aws_sdk_auth` the shared config file is read too, and roles
//! are assumed.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::ini::{self, Sections, unquoted};
use super::sts::{self, Role};
use super::{Fetched, Found, Keys, Settings, Stamp, answer, container, environment, instance, process};
use crate::limits;
use crate::rest::read_text;
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::stop::Stop;

/// The profiles of the files.
struct Profiles<'a> {
    settings: &'a Settings,
    is_sdk: bool,
    now: SystemTime,
    stop: &'a Stop,
    /// By profile. Values of the credentials file have precedence over those of the config file.
    sections: Sections,
    /// Which files were read, for errors.
    file_names: String,
}

fn wrong(text: impl Into<String>) -> Error {
    Error::new(Kind::Permanent, text)
}

/// The keys of the profile that the environment names, or of `default`.
///
/// `Source:` minio-go `pkg/credentials/file_aws_credentials.go`; with `is_sdk` "Shared config and credentials files",
/// AWS SDKs and Tools Reference Guide.
/// `Differs:` a file or a profile that the environment names and that is missing is an error; minio-go goes on to
/// the next provider.
pub(super) fn fetch(settings: &Settings, is_sdk: bool, now: SystemTime, stop: &Stop) -> Result<Found> {
    let mut files = Vec::new();
    let mut read = |path: &Option<(PathBuf, bool)>| -> Result<Sections> {
        let Some((path, is_named)) = path else { return Ok(Sections::new()) };
        // The stamp is taken before the file is read, so that a later change is noticed.
        let stamp = Stamp::of(path);
        files.push((path.clone(), stamp));
        match stamp {
            None if !is_named => Ok(Sections::new()),
            _ => Ok(ini::parse(&read_text(path, limits::PROFILES_BYTES_MAX)?)),
        }
    };
    let credentials = file_path(settings, "AWS_SHARED_CREDENTIALS_FILE", "credentials");
    let config = if is_sdk { file_path(settings, "AWS_CONFIG_FILE", "config") } else { None };
    let mut sections = of_config(read(&config)?);
    for (name, values) in read(&credentials)? {
        sections.entry(name).or_default().extend(values);
    }
    let file_names: Vec<String> = files.iter().map(|(path, _)| path.display().to_string()).collect();
    let file_names =
        if file_names.is_empty() { "any file, for HOME is not set".into() } else { file_names.join(" and ") };
    let named = settings.var("AWS_PROFILE").or_else(|| settings.var("AWS_DEFAULT_PROFILE").filter(|_| is_sdk));
    let name = named.clone().unwrap_or_else(|| "default".into());
    let profiles = Profiles { settings, is_sdk, now, stop, sections, file_names };
    if !profiles.sections.contains_key(&name) {
        let text = format!("there is no profile {name} in {}", profiles.file_names);
        return match (named, is_sdk) {
            (None, _) => Ok(Found::Nothing(text)),
            (Some(_), true) => Err(wrong(format!("{text}: set AWS_PROFILE to one that there is"))),
            (Some(_), false) => Err(wrong(format!(
                "{text}: set AWS_PROFILE to one that there is; profiles of the shared config file are read with \
                 aws_sdk_auth: true only"
            ))),
        };
    }
    match profiles.keys(&name, 0).context(|| format!("profile {name} of {}", profiles.file_names))? {
        Some(keys) => Ok(Found::Keys(Fetched { keys, files })),
        None => Ok(Found::Nothing(format!("profile {name} of {} has no keys", profiles.file_names))),
    }
}

/// The path of a file, and whether the environment names it; if not, it is the default one.
fn file_path(settings: &Settings, variable: &str, usual: &str) -> Option<(PathBuf, bool)> {
    match settings.var(variable) {
        Some(path) => Some((PathBuf::from(path), true)),
        None => Some((Path::new(&settings.var("HOME")?).join(".aws").join(usual), false)),
    }
}

/// The profiles of a config file, in which `profile ` stands before all names except `default`.
fn of_config(sections: Sections) -> Sections {
    let plain = |(name, values): (String, _)| match name.strip_prefix("profile ") {
        Some(plain) => Some((plain.to_owned(), values)),
        None => (name == "default").then_some((name, values)),
    };
    sections.into_iter().filter_map(plain).collect()
}

impl Profiles<'_> {
    fn value(&self, profile: &str, name: &str) -> &str {
        self.sections.get(profile).and_then(|values| values.get(name)).map_or("", |value| unquoted(value))
    }

    fn has(&self, profile: &str, name: &str) -> bool {
        !self.value(profile, name).is_empty()
    }

    /// The keys of a profile, by any of the supported ways; `None` if it has none.
    fn keys(&self, profile: &str, n_assumed: usize) -> Result<Option<Keys>> {
        self.stop.check()?;
        let is_role = self.has(profile, "role_arn");
        if is_role && self.is_sdk && (self.has(profile, "source_profile") || self.has(profile, "credential_source")) {
            return self.assumed(profile, n_assumed).map(Some);
        }
        if let Some(keys) = self.fixed(profile)? {
            return Ok(Some(keys));
        }
        if is_role && !self.is_sdk {
            return Err(wrong("it has a role_arn, which is followed with aws_sdk_auth: true only"));
        }
        if is_role && self.has(profile, "web_identity_token_file") {
            let token_file = self.value(profile, "web_identity_token_file");
            return sts::web_identity(self.settings, &self.role(profile), Path::new(token_file), self.now).map(Some);
        }
        if ["sso_session", "sso_start_url", "sso_account_id"].iter().any(|name| self.has(profile, name)) {
            return Err(wrong(
                "it signs in through a browser (SSO), which a daemon cannot: give it a role or keys of its own, or a \
                 profile with credential_process = aws configure export-credentials --profile <this one>",
            ));
        }
        // Quotes are part of the command, so they are kept.
        match self.sections.get(profile).and_then(|values| values.get("credential_process")).map(String::as_str) {
            None | Some("") => Ok(None),
            Some(command) => process::keys(command, self.stop).map(Some),
        }
    }

    /// The static keys of the profile.
    fn fixed(&self, profile: &str) -> Result<Option<Keys>> {
        let (access, secret) = ("aws_access_key_id", "aws_secret_access_key");
        let text = |name: &str| self.value(profile, name).to_owned();
        match (self.has(profile, access), self.has(profile, secret)) {
            (true, true) => answer::checked(text(access), text(secret), text("aws_session_token"), None).map(Some),
            (false, false) => Ok(None),
            (true, false) => Err(wrong(format!("it has {access} and no {secret}: set both, or none of them"))),
            (false, true) => Err(wrong(format!("it has {secret} and no {access}: set both, or none of them"))),
        }
    }

    fn role(&self, profile: &str) -> Role {
        let text = |name: &str| self.value(profile, name).to_owned();
        Role {
            arn: text("role_arn"),
            session_name: text("role_session_name"),
            external_id: text("external_id"),
            duration: text("duration_seconds"),
            region: text("region"),
        }
    }

    /// The keys of the profile's role, which is assumed with the keys of its source.
    fn assumed(&self, profile: &str, n_assumed: usize) -> Result<Keys> {
        if self.has(profile, "mfa_serial") {
            return Err(wrong("it has an mfa_serial, and a daemon cannot be asked for the code: use a role without"));
        }
        if n_assumed >= limits::ASSUMED_ROLES_MAX {
            return Err(wrong(format!(
                "more than {} roles are assumed one through the other",
                limits::ASSUMED_ROLES_MAX
            )));
        }
        let source = match (self.value(profile, "source_profile"), self.value(profile, "credential_source")) {
            ("", source) => self.source(source)?,
            // A profile may name itself, which means its own static keys.
            (name, "") if name == profile => {
                self.fixed(profile)?.ok_or_else(|| wrong("it is its own source_profile and has no keys"))?
            }
            (name, "") => self
                .keys(name, n_assumed + 1)
                .and_then(|keys| keys.ok_or_else(|| wrong("it has no keys, or is not there")))
                .context(|| format!("source_profile {name}"))?,
            _ => return Err(wrong("it has both source_profile and credential_source: remove one of them")),
        };
        sts::assume(self.settings, &self.role(profile), &source, self.now)
    }

    fn source(&self, name: &str) -> Result<Keys> {
        match name {
            "Environment" => environment::keys(self.settings),
            "EcsContainer" => container::required(self.settings),
            "Ec2InstanceMetadata" => match instance::fetch(self.settings, self.stop)? {
                Found::Keys(fetched) => Ok(fetched.keys),
                Found::Nothing(why) => Err(wrong(why)),
            },
            _ => Err(wrong("its credential_source must be Environment, EcsContainer or Ec2InstanceMetadata")),
        }
        .context(|| "credential_source")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::stop::stop_pair;
    use std::sync::Arc;

    /// Reads profiles out of a home folder with the two files.
    fn check(
        variables: &[(&str, &str)],
        is_sdk: bool,
        credentials: &str,
        config: &str,
        expected: std::result::Result<(&str, &str), &str>,
    ) {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        for (name, text) in [("credentials", credentials), ("config", config)] {
            if !text.is_empty() {
                std::fs::write(home.path().join(".aws").join(name), text).unwrap();
            }
        }
        let mut all: Vec<(String, String)> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        all.push(("HOME".into(), home.path().display().to_string()));
        let env: super::super::Env =
            Arc::new(move |asked| all.iter().find(|(name, _)| name == asked).map(|(_, value)| value.clone()));
        let settings = Settings { env, sts_endpoint: String::new() };
        let (_stopper, stop) = stop_pair().unwrap();
        let got = fetch(&settings, is_sdk, SystemTime::UNIX_EPOCH, &stop);
        let text = match got {
            Ok(Found::Keys(Fetched { keys, .. })) => {
                let (access, secret) = expected.unwrap_or_else(|text| panic!("keys instead of {text}"));
                assert_eq!((keys.access_key.0.as_str(), keys.secret_key.0.as_str()), (access, secret));
                return;
            }
            Ok(Found::Nothing(why)) => format!("nothing: {why}"),
            Err(err) => err.to_string(),
        };
        let text = text.replace(&home.path().display().to_string(), "~");
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(Err(text.as_str()), expected.map(|_| ()));
    }

    const FILE: &str = "[default]\naws_access_key_id = AK\naws_secret_access_key = \"sk\"\n\n[other]\n\
                        aws_access_key_id=OK\naws_secret_access_key=os ; old\naws_session_token=t\n[half]\n\
                        aws_secret_access_key = hunter2\n[empty]\n";

    #[test]
    fn the_shared_credentials_file() {
        let with = |profile: &'static str| [("AWS_PROFILE", profile)];
        check(&[], false, FILE, "", Ok(("AK", "sk")));
        check(&with("other"), false, FILE, "", Ok(("OK", "os")));
        check(
            &with("half"),
            false,
            FILE,
            "",
            Err(
                "profile half of ~/.aws/credentials: it has aws_secret_access_key and no aws_access_key_id: set both, \
                 or none of them",
            ),
        );
        check(&with("empty"), false, FILE, "", Err("nothing: profile empty of ~/.aws/credentials has no keys"));
        check(
            &with("absent"),
            false,
            FILE,
            "[profile absent]\n",
            Err(
                "there is no profile absent in ~/.aws/credentials: set AWS_PROFILE to one that there is; profiles of the \
                 shared config file are read with aws_sdk_auth: true only",
            ),
        );
        check(&[], false, "", "", Err("nothing: there is no profile default in ~/.aws/credentials"));
        check(
            &[("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent/x")],
            false,
            FILE,
            "",
            Err("/nonexistent/x: No such file or directory (os error 2)"),
        );
        check(&[("AWS_SHARED_CREDENTIALS_FILE", "/dev/zero")], false, "", "", Err("/dev/zero: is not a file"));
        let process = "[default]\ncredential_process = printf %s '{\"Version\":1,\"AccessKeyId\":\"PK\",\"SecretAccessKey\":\"ps\"}'";
        check(&[], false, process, "", Ok(("PK", "ps")));
        check(
            &[],
            false,
            "[default]\nrole_arn = a\nsource_profile = other",
            "",
            Err(
                "profile default of ~/.aws/credentials: it has a role_arn, which is followed with aws_sdk_auth: true only",
            ),
        );
    }

    #[test]
    fn the_shared_config_file_too() {
        let both = "~/.aws/config and ~/.aws/credentials";
        let error = |profile: &str, text: &str| format!("profile {profile} of {both}: {text}");
        let with = |profile: &'static str| [("AWS_PROFILE", profile)];
        check(&[], true, FILE, "[default]\naws_access_key_id=no\nregion=eu-west-1", Ok(("AK", "sk")));
        check(&with("b"), true, "", "[profile b]\naws_access_key_id=BK\naws_secret_access_key=bs", Ok(("BK", "bs")));
        check(&[("AWS_DEFAULT_PROFILE", "other")], true, FILE, "", Ok(("OK", "os")));
        check(
            &with("b"),
            true,
            "",
            "[b]\naws_access_key_id=BK\naws_secret_access_key=hunter2",
            Err(&format!("there is no profile b in {both}: set AWS_PROFILE to one that there is")),
        );
        check(
            &with("b"),
            true,
            "",
            "[profile b]\nsso_session = x\nregion = r",
            Err(&error(
                "b",
                "it signs in through a browser (SSO), which a daemon cannot: give it a role or keys of its own, or a \
                 profile with credential_process = aws configure export-credentials --profile <this one>",
            )),
        );
        let role = |more: &str| format!("[profile b]\nrole_arn = arn:x\n{more}");
        let wrong = |more: &str, text: &str| check(&with("b"), true, FILE, &role(more), Err(&error("b", text)));
        wrong(
            "source_profile = other\nmfa_serial = m",
            "it has an mfa_serial, and a daemon cannot be asked for the code: use a role without",
        );
        wrong(
            "source_profile = x\ncredential_source = Environment",
            "it has both source_profile and credential_source: remove one of them",
        );
        wrong(
            "credential_source = Elsewhere",
            "credential_source: its credential_source must be Environment, EcsContainer or Ec2InstanceMetadata",
        );
        wrong("credential_source = Environment", "credential_source: AWS_ACCESS_KEY_ID is not set");
        wrong("source_profile = b", "it is its own source_profile and has no keys");
        wrong("source_profile = absent", "source_profile absent: it has no keys, or is not there");
        let ring = format!("{}\n[profile c]\nrole_arn = arn:y\nsource_profile = b", role("source_profile = c"));
        check(
            &with("b"),
            true,
            "",
            &ring,
            Err(&error(
                "b",
                "source_profile c: source_profile b: source_profile c: source_profile b: source_profile c: more than 5 \
                 roles are assumed one through the other",
            )),
        );
    }
}
