//! The configuration of a Swift container, which `crate::config` reads from YAML. Pure.

use crate::limits;
use crate::rest::HttpConfig;
use pillion_base::secret::Secret;

/// Where and how to reach a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwiftConfig {
    /// The URL that gives tokens: Keystone's with its version, or that of the older ways.
    pub auth_url: String,
    /// Who asks for tokens, and for what.
    pub auth: Auth,
    /// The region whose store is used; empty for the first of the catalogue.
    pub region: String,
    /// The container's name.
    pub container: String,
    /// The container of the segments of large objects.
    pub segments_container: String,
    /// Larger files go in segments of this size; `None` for one that suits breaks. `Units:` bytes.
    pub segment_bytes: Option<u64>,
    /// Large objects are those whose segments the store finds by their names, not by a list.
    pub is_dynamic: bool,
    /// Attempts for each request; 1 means no retry.
    pub max_attempts: u32,
    /// Names asked for with one listing.
    pub page_names: usize,
    /// Settings of the HTTP client.
    pub http: HttpConfig,
}

impl Default for SwiftConfig {
    fn default() -> Self {
        SwiftConfig {
            auth_url: String::new(),
            auth: Auth::V1 { user: String::new(), key: Secret::default() },
            region: String::new(),
            container: String::new(),
            segments_container: String::new(),
            segment_bytes: None,
            is_dynamic: false,
            max_attempts: limits::SWIFT_ATTEMPTS,
            page_names: limits::S3_PAGE_NAMES,
            http: HttpConfig { connect_timeout: limits::SWIFT_CONNECT_TIMEOUT, ..HttpConfig::default() },
        }
    }
}

/// How tokens are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// By Swift's own ways: tempauth and those like it.
    V1 {
        /// Such as `account:user`.
        user: String,
        /// The key.
        key: Secret,
    },
    /// By the second version of Keystone, which newer ones do not have.
    V2 {
        /// The user's name.
        user: String,
        /// The password, or an API key of Rackspace.
        password: Secret,
        /// The project; `None` for the user's own.
        project: Option<Named>,
    },
    /// By the third version of Keystone.
    V3 {
        /// Who asks.
        identity: Identity,
        /// The project; `None` for the user's own.
        project: Option<Project>,
    },
}

/// Who asks for a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// A user with the password.
    Password {
        /// The user.
        user: User,
        /// The password.
        password: Secret,
    },
    /// An application credential, which is of one project.
    Application {
        /// Which one.
        credential: Credential,
        /// Its secret.
        secret: Secret,
    },
    /// Whoever holds another token.
    Token(Secret),
}

/// An application credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// By its id.
    Id(String),
    /// By its name and whose it is.
    Name(String, User),
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// By the id.
    Id(String),
    /// By the name and its domain; `None` is left to the server to refuse.
    Name(String, Option<Named>),
}

/// A project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Project {
    /// By its id.
    Id(String),
    /// By its name and its domain.
    Name(String, Named),
}

/// Something that has an id and a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// Its id.
    Id(String),
    /// Its name.
    Name(String),
}
