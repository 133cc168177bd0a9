//! Keeps the token that authorises requests, and fetches another before it ends, once for all threads.
//!
//! The first place that is configured decides; if it fails, that is the error. Going on with another identity would end
//! in an error that nobody understands.

use std::sync::Arc;
use std::time::SystemTime;

use super::config::Auth;
use super::identity::{self, Found, Proof};
use crate::rest::{Clock, Env, Token, TokenCache};
use pillion_base::error::{Error, Kind, Result};
use pillion_base::secret::Secret;
use pillion_base::stop::Stop;

/// The token of a configuration.
pub(super) struct Tokens(TokenCache);

/// Where tokens come from.
struct Places {
    auth: Auth,
    env: Env,
}

impl Tokens {
    /// Nothing is fetched yet. `env` gives environment variables.
    pub(super) fn new(auth: Auth, env: Env) -> Tokens {
        Tokens::with_clock(auth, env, Arc::new(SystemTime::now))
    }

    pub(super) fn with_clock(auth: Auth, env: Env, clock: Clock) -> Tokens {
        let places = Places { auth, env };
        Tokens(TokenCache::with_clock(move |now| places.look(now), clock))
    }

    /// The token to send now. `Errors:` of class `credentials`. `Blocks:` while one is fetched, for a bounded time.
    pub(super) fn token(&self, stop: &Stop) -> Result<Secret> {
        self.0.token(stop)
    }

    /// Another token than `used`, which the store has refused. `Errors:` and `Blocks:` as [`Tokens::token`].
    pub(super) fn renew(&self, used: &Secret, stop: &Stop) -> Result<Secret> {
        self.0.renew(used, stop)
    }
}

impl Places {
    /// Asks the place that the configuration names, or the first that has something.
    fn look(&self, now: SystemTime) -> Result<(&'static str, Token)> {
        let env = &self.env;
        match &self.auth {
            Auth::ClientSecret { tenant, client, secret } => {
                let token = identity::application(env, tenant, client, &Proof::Secret(secret), now)
                    .map_err(|err| err.context("get a token for client_id"))?;
                Ok(("client secret", token))
            }
            Auth::ManagedIdentity { client } => match identity::managed(env, Some(client), true, now)? {
                Found::Token(token) => Ok(("managed identity", token)),
                Found::Nothing(why) => Err(Error::new(Kind::Permanent, format!("no managed identity: {why}"))),
            },
            Auth::Default => self.look_around(now),
            Auth::Key(_) | Auth::Sas(_) => Err(Error::new(Kind::Permanent, "this configuration needs no token")),
        }
    }

    /// `Source:` azidentity `DefaultAzureCredential`. `Differs:` its last places, the tools of developers, are not asked.
    fn look_around(&self, now: SystemTime) -> Result<(&'static str, Token)> {
        const PLACES: [&str; 3] = ["EnvironmentCredential", "WorkloadIdentityCredential", "ManagedIdentityCredential"];
        let chosen = identity::var(&self.env, "AZURE_TOKEN_CREDENTIALS").unwrap_or_default();
        let is_one = |place: &&str| place.eq_ignore_ascii_case(&chosen);
        let places: Vec<&str> = match chosen.to_ascii_lowercase().as_str() {
            "" | "prod" => PLACES.to_vec(),
            _ if PLACES.iter().any(is_one) => PLACES.into_iter().filter(|place| is_one(place)).collect(),
            _ => {
                let text = "AZURE_TOKEN_CREDENTIALS must be prod, EnvironmentCredential, WorkloadIdentityCredential or \
                            ManagedIdentityCredential: the tools of developers (Azure CLI and others) are not asked";
                return Err(Error::new(Kind::Permanent, text));
            }
        };
        let client = identity::var(&self.env, "AZURE_CLIENT_ID");
        let is_only = places.len() == 1;
        let mut looked = Vec::new();
        for place in places {
            let found = match place {
                "EnvironmentCredential" => identity::environment(&self.env, now),
                "WorkloadIdentityCredential" => identity::workload(&self.env, now),
                _ => identity::managed(&self.env, client.as_deref(), is_only, now),
            };
            match found.map_err(|err| err.context(format!("get a token from {place}")))? {
                Found::Token(token) => return Ok((place, token)),
                Found::Nothing(why) => looked.push(format!("{place} ({why})")),
            }
        }
        Err(Error::new(
            Kind::Permanent,
            format!(
                "no credentials found: set storage_account_key, storage_connection_string, or client_id with az_tenant_id \
                 and client_secret, or fill one of the places that were looked at: {}; Azure CLI and other tools of \
                 developers are not asked",
                looked.join(", ")
            ),
        ))
    }
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
