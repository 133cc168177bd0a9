//! A label matcher as Prometheus has it. Pure.

use std::fmt;

/// How a matcher compares; printed as PromQL's operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatchType {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Regex,
    /// `!~`
    NotRegex,
}

/// One comparison of a label with a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher {
    /// How `value` is compared.
    pub kind: MatchType,
    /// The label's name.
    pub name: String,
    /// The value or the pattern.
    pub value: String,
}

impl fmt::Display for MatchType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MatchType::Equal => "=",
            MatchType::NotEqual => "!=",
            MatchType::Regex => "=~",
            MatchType::NotRegex => "!~",
        })
    }
}
