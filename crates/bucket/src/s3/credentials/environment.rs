//! Keys from environment variables, in both spellings that are in use. The environment is an argument. Pure.

use super::{Found, Keys, Settings, answer};
use pillion_base::error::{Error, Kind, Result};

const ACCESS: [&str; 2] = ["AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY"];
const SECRET: [&str; 2] = ["AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY"];

/// The keys of the environment.
///
/// `Errors:` when one of the two is set without the other.
/// `Differs:` minio-go goes on to the next provider.
pub(super) fn fetch(settings: &Settings) -> Result<Found> {
    let first = |names: [&str; 2]| names.iter().find_map(|name| settings.var(name));
    let missing = |there: &str, absent: &str| {
        let text = format!("{there} is set in the environment and {absent} is not: set both, or none of them");
        Err(Error::new(Kind::Permanent, text))
    };
    let [access_name, secret_name] = [ACCESS, SECRET].map(|[name, _]| name);
    match (first(ACCESS), first(SECRET)) {
        (None, None) => Ok(Found::Nothing(format!("{access_name} is not set"))),
        (Some(_), None) => missing(access_name, secret_name),
        (None, Some(_)) => missing(secret_name, access_name),
        (Some(access_key), Some(secret_key)) => {
            let session_token = settings.var("AWS_SESSION_TOKEN").unwrap_or_default();
            Ok(Found::Keys(answer::checked(access_key, secret_key, session_token, None)?.into()))
        }
    }
}

/// The keys of the environment, for a role that is assumed with them.
pub(super) fn keys(settings: &Settings) -> Result<Keys> {
    match fetch(settings)? {
        Found::Keys(fetched) => Ok(fetched.keys),
        Found::Nothing(why) => Err(Error::new(Kind::Permanent, why)),
    }
}
