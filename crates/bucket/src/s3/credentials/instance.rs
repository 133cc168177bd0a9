//! Keys of an EC2 instance's role from its metadata service: version 2, and version 1 if there is no other.

use ureq::http::Method;
use url::Url;

use super::answer::Json;
use super::{Found, Settings};
use crate::limits;
use crate::rest::quoted;
use crate::rest::{HttpAnswer, ask, kind};
use pillion_base::error::{Error, Kind, Result};
use pillion_base::stop::Stop;

const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
const TOKEN: &str = "X-aws-ec2-metadata-token";
/// Six hours, the longest that is allowed. `Units:` s.
const TOKEN_AGE: &str = "21600";

/// The outcome of the request for a token.
enum Token {
    /// The service has version 2.
    Given(String),
    /// The service has version 1 only, or its answer gets lost on the way into a container.
    None { is_timeout: bool },
}

/// The keys of the instance's role.
///
/// `Source:` "Use the Instance Metadata Service", Amazon EC2 User Guide; minio-go `pkg/credentials/iam_aws.go`.
pub(super) fn fetch(settings: &Settings, stop: &Stop) -> Result<Found> {
    if settings.says("AWS_EC2_METADATA_DISABLED") {
        return Ok(Found::Nothing("AWS_EC2_METADATA_DISABLED is true".into()));
    }
    let base = base(settings)?;
    let nobody = |why: &str| Ok(Found::Nothing(format!("no answer from {base}: {why}")));
    let time = limits::METADATA_TIMEOUT;
    let asked = ask(
        Method::PUT,
        &format!("{base}/latest/api/token"),
        &[("X-aws-ec2-metadata-token-ttl-seconds", TOKEN_AGE)],
        &[],
        time,
        None,
    );
    let token = match asked {
        Ok(HttpAnswer { status: 200, body }) => match String::from_utf8(body).map(|token| token.trim().to_owned()) {
            Ok(token) if !token.is_empty() && token.bytes().all(|c| c.is_ascii_graphic()) => Token::Given(token),
            _ => return Err(wrong("the metadata service gave a token that cannot be one")),
        },
        Ok(HttpAnswer { status: 404 | 405, .. }) => Token::None { is_timeout: false },
        Ok(HttpAnswer { status: 403, .. }) => {
            return Ok(Found::Nothing(format!("{base} says that the metadata service is switched off")));
        }
        Ok(answer) => return Err(refused("token", &answer, "")),
        Err(failure) if failure.is_timeout => Token::None { is_timeout: true },
        Err(failure) if failure.is_unreachable => return nobody(&failure.err.to_string()),
        Err(failure) => return Err(failure.err),
    };
    if matches!(token, Token::None { .. }) && settings.says("AWS_EC2_METADATA_V1_DISABLED") {
        return Ok(Found::Nothing(format!("{base} gave no token and AWS_EC2_METADATA_V1_DISABLED is true")));
    }
    stop.check()?;
    let (header, lost) = match &token {
        Token::Given(token) => (Some((TOKEN, token.as_str())), false),
        Token::None { is_timeout } => (None, *is_timeout),
    };
    let secret = header.map_or("", |(_, token)| token);
    let headers = header.as_slice();
    let roles = match ask(Method::GET, &format!("{base}{ROLES}"), headers, &[], time, None) {
        Ok(HttpAnswer { status: 200, body }) => String::from_utf8_lossy(&body).into_owned(),
        Ok(HttpAnswer { status: 404, .. }) => {
            return Ok(Found::Nothing("no IAM role is attached to this instance".into()));
        }
        Ok(HttpAnswer { status: 401, .. }) if lost => {
            return Err(Error::new(
                Kind::Permanent,
                "the metadata service wants a token, and its answer with one does not arrive: in a container the \
                 instance's hop limit must be 2 (aws ec2 modify-instance-metadata-options --http-put-response-hop-limit 2)",
            ));
        }
        Ok(answer) => return Err(refused("roles", &answer, secret)),
        // The service has not answered at all.
        Err(failure) if lost && (failure.is_timeout || failure.is_unreachable) => {
            return nobody(&format!("nothing came within {time:?}"));
        }
        Err(failure) => return Err(failure.err),
    };
    let role = roles.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    if role.is_empty() {
        return Ok(Found::Nothing("no IAM role is attached to this instance".into()));
    }
    if !role.bytes().all(|c| c.is_ascii_alphanumeric() || b"_+=,.@-".contains(&c)) {
        return Err(wrong("the metadata service named a role that cannot be one"));
    }
    stop.check()?;
    let answer =
        ask(Method::GET, &format!("{base}{ROLES}{role}"), headers, &[], time, None).map_err(|failure| failure.err)?;
    if answer.status != 200 {
        return Err(refused("keys", &answer, secret));
    }
    let json = Json::parse(&answer.body)?;
    match json.code.as_deref() {
        None | Some("Success") => Ok(Found::Keys(json.keys()?.into())),
        Some(code) => {
            let message = format!("{code}: {}", json.message.as_deref().unwrap_or_default());
            let text = format!("the metadata service has no keys for role {role}: {}", quoted(&message, &[secret]));
            Err(Error::new(Kind::Retry, text))
        }
    }
}

fn wrong(text: &str) -> Error {
    Error::new(Kind::Permanent, text)
}

fn refused(what: &str, answer: &HttpAnswer, secret: &str) -> Error {
    let text = format!(
        "the metadata service answered {} when asked for {what}: {}",
        answer.status,
        quoted(&answer.text(), &[secret])
    );
    Error::new(kind(answer.status), text)
}

/// The service's URL without a slash at the end.
fn base(settings: &Settings) -> Result<String> {
    const NAME: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
    const MODE: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE";
    let Some(text) = settings.var(NAME) else {
        return match settings.var(MODE).unwrap_or_default().to_ascii_lowercase().as_str() {
            "" | "ipv4" => Ok("http://169.254.169.254".into()),
            "ipv6" => Ok("http://[fd00:ec2::254]".into()),
            _ => Err(wrong(&format!("{MODE} must be IPv4 or IPv6"))),
        };
    };
    let is_right = |url: &Url| {
        matches!(url.scheme(), "http" | "https") && url.has_host() && url.username().is_empty() && url.query().is_none()
    };
    match Url::parse(&text).ok().filter(is_right) {
        Some(url) => Ok(url.as_str().trim_end_matches('/').to_owned()),
        None => Err(wrong(&format!("{NAME} must be a URL such as http://169.254.169.254"))),
    }
}
