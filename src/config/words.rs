//! Names, descriptions and VLAN identifiers that are what they must be.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// The name of a resource: 2-128 characters; letters, digits, `.`, `_`, `-`; starts with a letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The name, if it is one.
    pub fn new(text: &str) -> Option<Self> {
        let usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let well_formed = text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(usual);
        (well_formed && (2..=128).contains(&text.len())).then(|| Self(text.into()))
    }

    /// The text, to be shared.
    pub fn shared(&self) -> &Arc<str> {
        &self.0
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// A description: 2-256 characters, no web address at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description(Box<str>);

impl Description {
    /// The description, if it is one.
    pub fn new(text: &str) -> Option<Self> {
        let web = text.starts_with("http://") || text.starts_with("https://");
        (!web && (2..=256).contains(&text.chars().count())).then(|| Self(text.into()))
    }

    /// The description as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An 802.1Q VLAN identifier, 1-4094.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vlan(u16);

impl Vlan {
    /// The identifier, if it is one.
    pub const fn new(id: u16) -> Option<Self> {
        if id >= 1 && id <= 4094 { Some(Self(id)) } else { None }
    }

    /// The identifier as a number.
    pub const fn get(self) -> u16 {
        self.0
    }
}
