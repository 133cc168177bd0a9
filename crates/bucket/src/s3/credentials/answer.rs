//! Reads keys from the providers' answers, in JSON and in XML. Of an answer without keys it says what may be quoted.
//! Pure.

use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::Keys;
use crate::s3::xml;
use pillion_base::error::{Error, Kind, Result};
use pillion_base::secret::Secret;
use pillion_base::time::parse_rfc3339_ms;

/// The JSON of a metadata service, a container's endpoint or a process.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Json {
    #[serde(rename = "Version")]
    pub version: Option<i64>,
    #[serde(rename = "AccessKeyId")]
    access_key: Option<String>,
    #[serde(rename = "SecretAccessKey")]
    secret_key: Option<String>,
    #[serde(rename = "Token", alias = "SessionToken")]
    session_token: Option<String>,
    #[serde(rename = "Expiration")]
    expiration: Option<String>,
    #[serde(rename = "Code", alias = "code")]
    pub code: Option<String>,
    #[serde(rename = "Message", alias = "message")]
    pub message: Option<String>,
}

impl Json {
    /// Parses an answer.
    ///
    /// `Errors:` they never quote the answer, whose values may be keys.
    pub(super) fn parse(bytes: &[u8]) -> Result<Json> {
        serde_json::from_slice(bytes)
            .map_err(|err| wrong(format!("the answer is not the expected JSON, at line {} of it", err.line())))
    }

    /// The keys.
    pub(super) fn keys(self) -> Result<Keys> {
        let present = |value: Option<String>, name: &str| {
            value.filter(|value| !value.is_empty()).ok_or_else(|| wrong(format!("the answer has no {name}")))
        };
        let access_key = present(self.access_key, "AccessKeyId")?;
        let secret_key = present(self.secret_key, "SecretAccessKey")?;
        let expires = self.expiration.filter(|text| !text.is_empty()).map(|text| time(&text)).transpose()?;
        checked(access_key, secret_key, self.session_token.unwrap_or_default(), expires)
    }
}

/// The keys in the XML of STS.
pub(super) fn sts_keys(text: &str) -> Result<Keys> {
    let present = |name: &str| {
        element(text, name).filter(|text| !text.is_empty()).ok_or_else(|| wrong(format!("the answer has no {name}")))
    };
    let expires = time(&present("Expiration")?)?;
    checked(present("AccessKeyId")?, present("SecretAccessKey")?, present("SessionToken")?, Some(expires))
}

/// Checks that keys can be sent in a header. White space around them is removed, since it got there by accident.
pub(super) fn checked(access: String, secret: String, token: String, expires: Option<SystemTime>) -> Result<Keys> {
    let [access_key, secret_key, session_token] = [access, secret, token].map(|text| Secret(text.trim().to_owned()));
    let is_plain = |key: &Secret| key.0.bytes().all(|c| c.is_ascii_graphic());
    if access_key.0.is_empty() || secret_key.0.is_empty() {
        return Err(wrong("a key is empty"));
    }
    if ![&access_key, &secret_key, &session_token].into_iter().all(is_plain) {
        return Err(wrong("a key holds white space or other characters that no key has"));
    }
    Ok(Keys { access_key, secret_key, session_token, expires })
}

fn wrong(text: impl Into<String>) -> Error {
    Error::new(Kind::Permanent, text)
}

fn time(text: &str) -> Result<SystemTime> {
    let ms = parse_rfc3339_ms(text).map_err(|_| wrong("the Expiration of the answer is not a time"))?;
    // A time before 1970 is in the past, as 1970 is.
    Ok(SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
}

/// The text of the first element with a name, in any namespace and at any depth; `None` too if it is no XML.
pub(super) fn element(text: &str, name: &str) -> Option<String> {
    xml::first(text.as_bytes(), name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(expires_s: Option<u64>) -> Keys {
        let [access_key, secret_key, session_token] = ["AK", "sk", "st"].map(|text| Secret(text.into()));
        let expires = expires_s.map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s));
        Keys { access_key, secret_key, session_token, expires }
    }

    #[test]
    fn json_of_every_provider() {
        let check = |text: &str, expected: std::result::Result<Keys, &str>| {
            let got = Json::parse(text.as_bytes()).and_then(Json::keys).map_err(|err| err.to_string());
            assert_eq!(got.as_ref().map_err(String::as_str), expected.as_ref().map_err(|text| *text), "{text}");
        };
        let both = r#""AccessKeyId": "AK", "SecretAccessKey": "sk""#;
        check(&format!(r#"{{{both}, "Token": "st", "Expiration": "1970-01-01T00:01:00Z"}}"#), Ok(keys(Some(60))));
        check(&format!(r#"{{{both}, "SessionToken": "st", "Version": 1, "Other": [1]}}"#), Ok(keys(None)));
        check(&format!(r#"{{{both}, "Token": "st\n", "Expiration": ""}}"#), Ok(keys(None)));
        check(&format!(r#"{{{both}, "Expiration": "hunter2"}}"#), Err("the Expiration of the answer is not a time"));
        check(r#"{"AccessKeyId": "AK"}"#, Err("the answer has no SecretAccessKey"));
        check(r#"{"SecretAccessKey": "hunter2"}"#, Err("the answer has no AccessKeyId"));
        check(
            r#"{"AccessKeyId": "a b", "SecretAccessKey": "hunter2"}"#,
            Err("a key holds white space or other characters that no key has"),
        );
        check("{\n\"AccessKeyId\": hunter2}", Err("the answer is not the expected JSON, at line 2 of it"));
        check(r#"{"AccessKeyId": 7}"#, Err("the answer is not the expected JSON, at line 1 of it"));
        check("", Err("the answer is not the expected JSON, at line 1 of it"));
    }

    #[test]
    fn xml_of_sts() {
        let xml = |body: &str| {
            format!("<?xml version='1.0'?><R xmlns='https://sts.amazonaws.com/doc/2011-06-15/'>{body}</R>")
        };
        let right = xml(
            "<Result><Credentials a='b'>\n<AccessKeyId>AK</AccessKeyId><s:SecretAccessKey>sk</s:SecretAccessKey>\
             <SessionToken> st </SessionToken><Expiration>1970-01-01T00:01:00.000Z</Expiration></Credentials></Result>",
        );
        assert_eq!(sts_keys(&right).unwrap(), keys(Some(60)));
        for cut in 0..right.len() {
            // Cut anywhere it is an error or whole, never a panic or a piece of a key.
            if let Ok(got) = sts_keys(&right[..cut]) {
                assert_eq!(got, keys(Some(60)));
            }
        }
        let check = |name: &str, body: &str, expected: Option<&str>| {
            assert_eq!(element(&xml(body), name).as_deref(), expected, "{body}");
        };
        check("Code", "<Error><Code>A&amp;B&lt;&#65;&#x42;&apos;&quot;&gt;</Code></Error>", Some("A&B<AB'\">"));
        check("Code", "<Error><Code/><Code></Code></Error>", Some(""));
        check("Code", "<Coder>x</Coder>", None);
        check("Code", "<Code>x</Code>&no;", None);
    }
}
