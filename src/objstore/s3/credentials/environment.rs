//! Keys in environment variables, in both spellings that are in use. Pure: the environment is an argument.

use super::{Found, Keys, Surroundings, answer};
use crate::error::{Error, Kind, Result};

const ACCESS: [&str; 2] = ["AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY"];
const SECRET: [&str; 2] = ["AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY"];

/// The keys of the environment.
///
/// `Errors:` when one of the two is set without the other.
/// `Differs:` minio-go looks on as if neither was set.
pub(super) fn fetch(around: &Surroundings) -> Result<Found> {
    let first = |names: [&str; 2]| names.iter().find_map(|name| around.var(name));
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
            let session_token = around.var("AWS_SESSION_TOKEN").unwrap_or_default();
            Ok(Found::Keys(answer::checked(access_key, secret_key, session_token, None)?.into()))
        }
    }
}

/// Keys for a role that is assumed with what the environment has.
pub(super) fn keys(around: &Surroundings) -> Result<Keys> {
    match fetch(around)? {
        Found::Keys(fetched) => Ok(fetched.keys),
        Found::Nothing(why) => Err(Error::new(Kind::Permanent, why)),
    }
}
