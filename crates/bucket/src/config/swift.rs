//! `type: SWIFT`: every key that Thanos knows, honoured or refused by name. Pure.

use std::time::Duration;

use crate::limits;
use crate::swift::config::{Auth, Credential, Identity, Named, Project, SwiftConfig, User};
use pillion_base::error::Result;
use pillion_base::secret::Secret;
use pillion_base::time::parse_prometheus_duration;
use pillion_base::yaml::Node;

use super::http;

const FIELDS: [&str; 25] = [
    "auth_version",
    "auth_url",
    "username",
    "user_domain_name",
    "user_domain_id",
    "user_id",
    "password",
    "domain_id",
    "domain_name",
    "application_credential_id",
    "application_credential_name",
    "application_credential_secret",
    "project_id",
    "project_name",
    "project_domain_id",
    "project_domain_name",
    "region_name",
    "container_name",
    "large_object_chunk_size",
    "large_object_segments_container_name",
    "retries",
    "connect_timeout",
    "timeout",
    "use_dynamic_large_objects",
    "http_config",
];

/// What only the third version of Keystone has.
const V3_ONLY: [&str; 10] = [
    "user_domain_name",
    "user_domain_id",
    "user_id",
    "domain_id",
    "domain_name",
    "application_credential_id",
    "application_credential_name",
    "application_credential_secret",
    "project_domain_id",
    "project_domain_name",
];

/// Reads the configuration of a container; what the operator should know is added to `remarks`.
///
/// `Source:` objstore `providers/swift/swift.go`; ncw/swift 1.0.53 `auth.go`, `auth_v3.go`.
pub(super) fn read(config: &Node, remarks: &mut Vec<String>) -> Result<SwiftConfig> {
    config.check_fields("config", &FIELDS)?;
    let text = |name: &str| config.str_field(name).map(Option::unwrap_or_default);
    let auth_url = auth_url(config)?;
    let auth = match version(config, auth_url)? {
        1 => v1(config, remarks)?,
        2 => v2(config, remarks)?,
        _ => v3(config, remarks)?,
    };
    let container = container(config, "container_name")?;
    if container.is_empty() {
        return Err(config.error("no container_name specified: field container_name is missing in config"));
    }
    let segments_container = match container_or_own(config)? {
        "" => container,
        other => other,
    };
    let mut swift = SwiftConfig {
        auth_url: auth_url.to_owned(),
        auth,
        region: text("region_name")?.to_owned(),
        container: container.to_owned(),
        segments_container: segments_container.to_owned(),
        segment_bytes: config.u64_field("large_object_chunk_size")?.filter(|bytes| *bytes > 0),
        is_dynamic: config.bool_field("use_dynamic_large_objects")?.unwrap_or(false),
        http: http::read(config, remarks)?,
        ..SwiftConfig::default()
    };
    if swift.segment_bytes.is_some_and(|bytes| bytes > limits::PART_BYTES_MAX) {
        remarks
            .push(format!("large_object_chunk_size counts as {}: no store takes more at once", limits::PART_BYTES_MAX));
    }
    // Thanos's number is retries, not attempts, and its library takes 0 for the default.
    if let Some(retries) = config.u64_field("retries")?.filter(|retries| *retries > 0) {
        swift.max_attempts = u32::try_from(retries).unwrap_or(u32::MAX).saturating_add(1);
    }
    swift.http.connect_timeout = time(config, "connect_timeout", limits::SWIFT_CONNECT_TIMEOUT)?;
    let answer = swift.http.response_header_timeout;
    swift.http.response_header_timeout = answer.min(time(config, "timeout", answer)?);
    Ok(swift)
}

fn auth_url(config: &Node) -> Result<&str> {
    let url = config.str_field("auth_url")?.unwrap_or_default();
    let node = config.get("auth_url").unwrap_or(config);
    if url.is_empty() {
        return Err(node.error("no auth_url specified: field auth_url is missing in config"));
    }
    let is_plain = |url: &url::Url| {
        let has_secret = !url.username().is_empty() || url.password().is_some();
        matches!(url.scheme(), "https" | "http")
            && url.has_host()
            && !has_secret
            && url.query().is_none()
            && url.fragment().is_none()
    };
    match url::Url::parse(url).is_ok_and(|url| is_plain(&url)) {
        true => Ok(url),
        false => Err(node.error(
            "field auth_url must be a URL such as https://keystone.example.org:5000/v3, without a name, a password or a \
             query",
        )),
    }
}

/// `Source:` ncw/swift `newAuth`.
fn version(config: &Node, auth_url: &str) -> Result<u64> {
    let node = config.get("auth_version").unwrap_or(config);
    match config.u64_field("auth_version")?.unwrap_or_default() {
        0 => (1..=3).rev().find(|version| auth_url.contains(&format!("v{version}"))).ok_or_else(|| {
            node.error("field auth_version must be 1, 2 or 3, because auth_url has none of v1, v2 and v3 in it")
        }),
        version @ 1..=3 => Ok(version),
        _ => Err(node.error("field auth_version must be 1, 2 or 3, or 0 for what auth_url says")),
    }
}

/// Reads the name of a container. `Source:` "Object Storage API", constraints.
fn container<'a>(config: &'a Node, name: &str) -> Result<&'a str> {
    let text = config.str_field(name)?.unwrap_or_default();
    let is_name = text.len() <= 256 && !text.contains('/') && !matches!(text, "." | "..");
    match is_name && !text.chars().any(char::is_control) {
        true => Ok(text),
        false => {
            let node = config.get(name).unwrap_or(config);
            Err(node.error(format!("field {name} must be a container's name: up to 256 bytes, and no /")))
        }
    }
}

fn container_or_own(config: &Node) -> Result<&str> {
    container(config, "large_object_segments_container_name")
}

/// A password may have any characters, but not those that a file or a variable leaves at its ends.
fn secret(config: &Node, name: &str) -> Result<Secret> {
    let text = config.str_field(name)?.unwrap_or_default();
    match text.trim() == text && !text.chars().any(char::is_control) {
        true => Ok(Secret(text.to_owned())),
        false => {
            let node = config.get(name).unwrap_or(config);
            Err(node.error(format!("field {name} begins or ends with white space, or holds a line break")))
        }
    }
}

/// The value of a key that must be there.
fn needed<'a>(config: &'a Node, name: &str, why: &str) -> Result<&'a str> {
    match config.str_field(name)?.unwrap_or_default() {
        "" => Err(config.get(name).unwrap_or(config).error(format!("field {name} is missing in config: {why}"))),
        text => Ok(text),
    }
}

/// Keys that are set and do nothing with this version.
fn idle_keys(config: &Node, names: &[&str], version: u64, remarks: &mut Vec<String>) -> Result<()> {
    let mut idle = Vec::new();
    for name in names {
        if config.str_field(name)?.is_some_and(|text| !text.is_empty()) {
            idle.push(*name);
        }
    }
    if !idle.is_empty() {
        remarks.push(format!("{} without effect: auth_version {version} does not know it", idle.join(", ")));
    }
    Ok(())
}

fn v1(config: &Node, remarks: &mut Vec<String>) -> Result<Auth> {
    let user = needed(config, "username", "with tempauth it is account:user")?;
    needed(config, "password", "it is the user's key")?;
    let key = secret(config, "password")?;
    for (name, text) in [("username", user), ("password", key.0.as_str())] {
        if !text.bytes().all(|c| c == b' ' || c.is_ascii_graphic()) {
            let node = config.get(name).unwrap_or(config);
            return Err(node.error(format!("field {name} must be of ASCII with auth_version 1")));
        }
    }
    let idle = [&V3_ONLY[..], &["project_id", "project_name", "region_name"]].concat();
    idle_keys(config, &idle, 1, remarks)?;
    Ok(Auth::V1 { user: user.to_owned(), key })
}

fn v2(config: &Node, remarks: &mut Vec<String>) -> Result<Auth> {
    let user = needed(config, "username", "auth_version 2 has no other way")?;
    needed(config, "password", "it is the user's password, or an API key")?;
    idle_keys(config, &V3_ONLY, 2, remarks)?;
    let project = named(config, "project_id", "project_name", true)?;
    Ok(Auth::V2 { user: user.to_owned(), password: secret(config, "password")?, project })
}

/// Something that can be named by two keys; if both are set, the one that Thanos prefers.
fn named(config: &Node, id: &str, name: &str, prefers_id: bool) -> Result<Option<Named>> {
    let text = |key: &str| config.str_field(key).map(|text| text.filter(|text| !text.is_empty()).map(str::to_owned));
    let (id, name) = (text(id)?.map(Named::Id), text(name)?.map(Named::Name));
    Ok(if prefers_id { id.or(name) } else { name.or(id) })
}

fn v3(config: &Node, remarks: &mut Vec<String>) -> Result<Auth> {
    let text = |name: &str| config.str_field(name).map(Option::unwrap_or_default);
    let domain = user_domain(config, remarks)?;
    let (user, user_id) = (text("username")?, text("user_id")?);
    let user = match (user_id, user) {
        ("", "") => None,
        ("", name) => Some(User::Name(name.to_owned(), domain.clone())),
        (id, _) => Some(User::Id(id.to_owned())),
    };
    let (id, name) = (text("application_credential_id")?, text("application_credential_name")?);
    let secret_of_application = secret(config, "application_credential_secret")?;
    if !id.is_empty() || !name.is_empty() {
        needed(config, "application_credential_secret", "it belongs to the application credential")?;
        let credential = match (id, user) {
            ("", Some(User::Name(_, None))) => {
                let why = "domain_name (or domain_id) is missing in config: it says whose application credential it is";
                return Err(config.error(format!("field {why}")));
            }
            ("", Some(user)) => Credential::Name(name.to_owned(), user),
            ("", None) => {
                let why = "username with domain_name, or user_id, must say whose application credential it is";
                return Err(config.error(format!("fields {why}: or use application_credential_id")));
            }
            (id, _) => Credential::Id(id.to_owned()),
        };
        // Such a credential is of one project.
        return Ok(Auth::V3 {
            identity: Identity::Application { credential, secret: secret_of_application },
            project: None,
        });
    }
    if !secret_of_application.0.is_empty() {
        return Err(config.error("application_credential_secret needs application_credential_id or _name"));
    }
    needed(config, "password", "it goes with username or user_id; or use an application credential")?;
    let password = secret(config, "password")?;
    let project = project(config, domain.as_ref())?;
    let identity = match user {
        Some(user) => Identity::Password { user, password },
        None => {
            remarks.push(
                "password is taken for a token, because there is neither username nor user_id: it cannot be renewed beyond \
                 its end"
                    .into(),
            );
            Identity::Token(password)
        }
    };
    if matches!(&identity, Identity::Password { user: User::Name(_, None), .. }) {
        return Err(config.error("field domain_name (or domain_id) is missing in config: it is the user's domain"));
    }
    Ok(Auth::V3 { identity, project })
}

/// The user's domain. Thanos takes it from `domain_*` and never looks at `user_domain_*`, so these count after those.
fn user_domain(config: &Node, remarks: &mut Vec<String>) -> Result<Option<Named>> {
    let domain = named(config, "domain_id", "domain_name", false)?;
    let of_user = named(config, "user_domain_id", "user_domain_name", false)?;
    if let (Some(domain), Some(of_user)) = (&domain, &of_user)
        && domain != of_user
    {
        remarks.push(
            "user_domain_name and user_domain_id have no effect (in Thanos neither) beside domain_name or domain_id"
                .into(),
        );
    }
    Ok(domain.or(of_user))
}

fn project(config: &Node, user_domain: Option<&Named>) -> Result<Option<Project>> {
    let domain = named(config, "project_domain_id", "project_domain_name", false)?;
    // `Source:` ncw/swift: the project's domain, else the user's, else the one that every Keystone has.
    let domain = domain.or_else(|| user_domain.cloned()).unwrap_or_else(|| Named::Name("Default".into()));
    Ok(named(config, "project_id", "project_name", true)?.map(|project| match project {
        Named::Id(id) => Project::Id(id),
        Named::Name(name) => Project::Name(name, domain),
    }))
}

/// Reads a duration; 0 is the default, as it is for Thanos's library.
fn time(node: &Node, name: &str, default: Duration) -> Result<Duration> {
    let Some(text) = node.str_field(name)? else { return Ok(default) };
    match parse_prometheus_duration(text).map(u64::try_from) {
        Ok(Ok(0)) => Ok(default),
        Ok(Ok(ms)) => Ok(Duration::from_millis(ms)),
        _ => {
            let node = node.get(name).unwrap_or(node);
            Err(node.error(format!("field {name} must be a duration such as 1m30s")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::yaml;

    const LEAST: &str = "auth_url: https://k.example/v3\ncontainer_name: blocks\nuser_id: u\npassword: p\n";

    fn parse(text: &str) -> Result<(SwiftConfig, Vec<String>)> {
        let mut remarks = Vec::new();
        read(&yaml::parse(text).unwrap(), &mut remarks).map(|swift| (swift, remarks))
    }

    fn password(user: User) -> Identity {
        Identity::Password { user, password: Secret("p".into()) }
    }

    fn least() -> SwiftConfig {
        SwiftConfig {
            auth_url: "https://k.example/v3".into(),
            auth: Auth::V3 { identity: password(User::Id("u".into())), project: None },
            container: "blocks".into(),
            segments_container: "blocks".into(),
            ..SwiftConfig::default()
        }
    }

    #[test]
    fn every_key_has_its_effect() {
        let check = |text: &str, change: &dyn Fn(&mut SwiftConfig)| {
            let mut want = least();
            change(&mut want);
            let got = parse(&format!("{LEAST}{text}")).unwrap_or_else(|err| panic!("{text}: {err}"));
            assert_eq!(got, (want, Vec::new()), "{text}");
        };
        check("", &|_| {});
        check("auth_version: 3", &|_| {});
        check("auth_version: 0", &|_| {});
        check("region_name: GRA", &|swift| swift.region = "GRA".into());
        check("large_object_chunk_size: 1073741824", &|swift| swift.segment_bytes = Some(1 << 30));
        check("large_object_chunk_size: 0", &|_| {});
        check("large_object_segments_container_name: other", &|swift| swift.segments_container = "other".into());
        check("large_object_segments_container_name: ''", &|_| {});
        check("use_dynamic_large_objects: true", &|swift| swift.is_dynamic = true);
        check("retries: 7", &|swift| swift.max_attempts = 8);
        check("retries: 0", &|_| {});
        check("connect_timeout: 3s", &|swift| swift.http.connect_timeout = Duration::from_secs(3));
        check("connect_timeout: 0s\ntimeout: 0s", &|_| {});
        check("timeout: 30s", &|swift| swift.http.response_header_timeout = Duration::from_secs(30));
        check("timeout: 5m", &|_| {});
        check("http_config: {max_conns_per_host: 3}", &|swift| swift.http.max_conns_per_host = 3);
    }

    #[test]
    fn whoever_asks_for_tokens() {
        let base = "auth_url: https://k.example/identity\ncontainer_name: c\n";
        let check = |text: &str, want: Auth| {
            let (got, remarks) = parse(&format!("{base}{text}")).unwrap_or_else(|err| panic!("{text}: {err}"));
            assert_eq!((got.auth, remarks), (want, Vec::<String>::new()), "{text}");
        };
        let (id, name) = (|text: &str| Named::Id(text.into()), |text: &str| Named::Name(text.into()));
        let p = || Secret("p".into());
        check("auth_version: 1\nusername: a:u\npassword: p", Auth::V1 { user: "a:u".into(), key: p() });
        let v2 = |project| Auth::V2 { user: "u".into(), password: p(), project };
        check("auth_version: 2\nusername: u\npassword: p", v2(None));
        check("auth_version: 2\nusername: u\npassword: p\nproject_name: t", v2(Some(name("t"))));
        check("auth_version: 2\nusername: u\npassword: p\nproject_name: t\nproject_id: i", v2(Some(id("i"))));
        let v3 = |user, project| Auth::V3 { identity: password(user), project };
        let by_name = |domain| User::Name("u".into(), Some(domain));
        let given = "auth_version: 3\npassword: p\n";
        check(&format!("{given}username: u\ndomain_name: D"), v3(by_name(name("D")), None));
        check(&format!("{given}username: u\ndomain_id: d"), v3(by_name(id("d")), None));
        check(&format!("{given}username: u\nuser_domain_id: d"), v3(by_name(id("d")), None));
        check(&format!("{given}username: u\nuser_domain_name: D"), v3(by_name(name("D")), None));
        let by_id = || User::Id("i".into());
        check(&format!("{given}user_id: i\nusername: u"), v3(by_id(), None));
        check(
            &format!("{given}user_id: i\nproject_id: x\nproject_name: y"),
            v3(by_id(), Some(Project::Id("x".into()))),
        );
        let project = |domain| Some(Project::Name("y".into(), domain));
        check(&format!("{given}user_id: i\nproject_name: y"), v3(by_id(), project(name("Default"))));
        check(&format!("{given}user_id: i\nproject_name: y\nproject_domain_name: P"), v3(by_id(), project(name("P"))));
        check(&format!("{given}user_id: i\nproject_name: y\nproject_domain_id: p"), v3(by_id(), project(id("p"))));
        check(
            &format!("{given}username: u\ndomain_name: D\nproject_name: y"),
            v3(by_name(name("D")), project(name("D"))),
        );
        let application = |credential| Auth::V3 {
            identity: Identity::Application { credential, secret: Secret("s".into()) },
            project: None,
        };
        let given = "auth_version: 3\napplication_credential_secret: s\n";
        check(&format!("{given}application_credential_id: a"), application(Credential::Id("a".into())));
        check(
            &format!("{given}application_credential_name: n\nusername: u\ndomain_name: D"),
            application(Credential::Name("n".into(), by_name(name("D")))),
        );
        check(
            &format!("{given}application_credential_name: n\nuser_id: i"),
            application(Credential::Name("n".into(), by_id())),
        );
    }

    #[test]
    fn the_url_tells_the_version() {
        let kind = |url: &str| {
            let text = format!("auth_url: {url}\ncontainer_name: c\nusername: u\ndomain_name: d\npassword: p");
            parse(&text).map(|(swift, _)| match swift.auth {
                Auth::V1 { .. } => 1,
                Auth::V2 { .. } => 2,
                Auth::V3 { .. } => 3,
            })
        };
        assert_eq!(kind("https://k.example:5000/v3").unwrap(), 3);
        assert_eq!(kind("https://k.example/v2.0").unwrap(), 2);
        assert_eq!(kind("http://h:8080/auth/v1.0").unwrap(), 1);
        assert!(kind("https://k.example/identity").unwrap_err().to_string().contains("auth_version must be 1, 2 or 3"));
    }

    #[test]
    fn what_has_no_effect_is_said() {
        let check = |text: &str, part: &str| {
            let (_, remarks) = parse(text).unwrap_or_else(|err| panic!("{text}: {err}"));
            assert!(remarks.len() == 1 && remarks[0].contains(part), "{text}: {remarks:?}");
        };
        check(&format!("{LEAST}large_object_chunk_size: 6000000000"), "counts as 5368709120");
        check(
            &format!("{LEAST}domain_name: a\nuser_domain_name: b"),
            "user_domain_name and user_domain_id have no effect",
        );
        let v1 = "auth_url: http://h/auth/v1.0\ncontainer_name: c\nusername: u\npassword: p\n";
        check(&format!("{v1}project_name: x\nregion_name: y"), "project_name, region_name without effect");
        let v2 = "auth_url: http://h/v2.0\ncontainer_name: c\nusername: u\npassword: p\n";
        check(&format!("{v2}user_id: x"), "user_id without effect: auth_version 2");
        check("auth_url: http://h/v3\ncontainer_name: c\npassword: p", "password is taken for a token");
    }

    #[test]
    fn what_is_wrong_is_named_by_line_and_never_quoted() {
        let check = |text: &str, expected: &str| {
            let err = parse(text).expect_err(text).to_string();
            assert!(err.starts_with(&format!("line {expected}")), "{text}: {err}");
            assert!(!err.contains("hunter2"), "{err}");
        };
        let more = |text: &str, expected: &str| check(&format!("{LEAST}{text}"), expected);
        more("token: hunter2", "5: field token not found in config");
        more("auth_version: 4", "5: field auth_version must be 1, 2 or 3");
        more("auth_version: hunter2", "5: field auth_version must be a whole number");
        more("large_object_chunk_size: -1", "5: field large_object_chunk_size must not be below zero");
        more("large_object_segments_container_name: a/b", "5: field large_object_segments_container_name must be");
        more("use_dynamic_large_objects: 1", "5: field use_dynamic_large_objects must be true or false");
        more("retries: -1", "5: field retries must not be below zero");
        more("timeout: hunter2", "5: field timeout must be a duration");
        more("connect_timeout: 10", "5: field connect_timeout must be a duration");
        more("application_credential_secret: hunter2", "1: application_credential_secret needs");
        more("application_credential_id: hunter2", "1: field application_credential_secret is missing");
        for (text, want) in [
            ("container_name: c", "1: no auth_url specified"),
            ("auth_url: hunter2\ncontainer_name: c", "1: field auth_url must be a URL"),
            ("auth_url: https://u:hunter2@h/v3\ncontainer_name: c", "1: field auth_url must be a URL"),
            ("auth_url: ftp://h/v3\ncontainer_name: c", "1: field auth_url must be a URL"),
            ("auth_url: http://h/v3\nuser_id: u\npassword: hunter2", "1: no container_name specified"),
            ("auth_url: http://h/v3\ncontainer_name: a/b\nuser_id: u\npassword: p", "2: field container_name must be"),
            ("auth_url: http://h/v3\ncontainer_name: c\nuser_id: u", "1: field password is missing"),
            ("auth_url: http://h/v3\ncontainer_name: c\nuser_id: u\npassword: 'hunter2 '", "4: field password begins"),
            (
                "auth_url: http://h/v3\ncontainer_name: c\nusername: u\npassword: hunter2",
                "1: field domain_name (or domain_id) is missing",
            ),
            ("auth_url: http://h/v1\ncontainer_name: c\npassword: hunter2", "1: field username is missing"),
            ("auth_url: http://h/v1\ncontainer_name: c\nusername: u", "1: field password is missing"),
            (
                "auth_url: http://h/v1\ncontainer_name: c\nusername: u\npassword: hünter2",
                "4: field password must be of",
            ),
            (
                "auth_url: http://h/v3\napplication_credential_name: n\napplication_credential_secret: hunter2",
                "1: fields username with domain_name, or user_id",
            ),
            (
                "auth_url: http://h/v3\nusername: u\napplication_credential_name: n\n\
                 application_credential_secret: hunter2",
                "1: field domain_name (or domain_id) is missing",
            ),
        ] {
            check(text, want);
        }
    }

    #[test]
    fn secrets_are_not_in_the_debug_output() {
        for text in [
            "auth_url: http://h/v1\ncontainer_name: c\nusername: u\npassword: hunter22",
            "auth_url: http://h/v2\ncontainer_name: c\nusername: u\npassword: hunter22",
            "auth_url: http://h/v3\ncontainer_name: c\nuser_id: u\npassword: hunter22",
            "auth_url: http://h/v3\ncontainer_name: c\npassword: hunter22",
            "auth_url: http://h/v3\ncontainer_name: c\napplication_credential_id: a\n\
             application_credential_secret: hunter22",
        ] {
            let (swift, _) = parse(text).unwrap();
            assert!(!format!("{swift:?}").contains("hunter22"), "{swift:?}");
        }
    }
}
