//! The one error type: a kind, which tells the caller what to do next, and a chain of contexts, which tells a person
//! what was being done. Pure.

use std::fmt;

/// What the caller does next. A new kind is added only when some caller acts differently on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The peer or the disk may answer differently later: try again on the next tick.
    Retry,
    /// Trying again cannot help until somebody changes something.
    Permanent,
    /// The thing asked for does not exist.
    NotFound,
    /// A configured or built-in limit was hit.
    Limit,
    /// The caller's request is wrong.
    BadRequest,
    /// Bytes from outside are not what their format says.
    Corrupt,
    /// The work was given up because the daemon stops or the client went away.
    Stopped,
}

/// An error with its kind and its context chain, outermost context first when printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    /// What is at fault, in a word for metrics; `None` where the kind says enough.
    class: Option<&'static str>,
    /// Innermost first; printed in reverse.
    chain: Vec<String>,
}

/// The result type of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` whose innermost text is `text`.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Error { kind, class: None, chain: vec![text.into()] }
    }

    /// An I/O error, classified by what a later attempt could change.
    pub fn io(err: &std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match err.kind() {
            Io::NotFound => Kind::NotFound,
            Io::InvalidData => Kind::Corrupt,
            Io::Unsupported | Io::InvalidInput => Kind::Permanent,
            _ => Kind::Retry,
        };
        Error::new(kind, err.to_string())
    }

    /// What the caller does next.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The same error, to be handled as another kind.
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// The same error with a word for what is at fault, such as `throttled`. Nobody acts on it: it is a label of metrics.
    pub fn classed(mut self, class: &'static str) -> Self {
        self.class = Some(class);
        self
    }

    /// What is at fault, in a word.
    pub fn class(&self) -> &'static str {
        self.class.unwrap_or(match self.kind {
            Kind::Retry => "transient",
            Kind::Permanent | Kind::BadRequest => "permanent",
            Kind::NotFound => "missing",
            Kind::Limit => "limit",
            Kind::Corrupt => "corrupt",
            Kind::Stopped => "stopped",
        })
    }

    /// Adds one outer context: verb, noun, which one.
    pub fn context(mut self, text: impl Into<String>) -> Self {
        self.chain.push(text.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (idx, text) in self.chain.iter().rev().enumerate() {
            if idx > 0 {
                f.write_str(": ")?;
            }
            f.write_str(text)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.kind)
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(err: std::io::Error) -> Self {
        Error::io(&err)
    }
}

/// Adds context to a result on its way up.
pub trait Context<T> {
    /// Adds one outer context; the text is only built when there is an error.
    fn context<S: Into<String>>(self, text: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context<S: Into<String>>(self, text: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|err| err.into().context(text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_printed_outermost_first() {
        let err = Error::new(Kind::Corrupt, "unexpected end").context("parse meta.json").context("read block 01A");
        assert_eq!(err.to_string(), "read block 01A: parse meta.json: unexpected end");
        assert_eq!(err.kind(), Kind::Corrupt);
    }

    #[test]
    fn io_errors_are_classified() {
        let missing = std::fs::read("/nonexistent/x").context(|| "read x").unwrap_err();
        assert_eq!(missing.kind(), Kind::NotFound);
        assert!(missing.to_string().starts_with("read x: "), "{missing}");
    }
}
