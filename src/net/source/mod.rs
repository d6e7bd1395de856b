//! A source is where our mail comes from: an address or a proxy, and the name that is given in EHLO there.
//!
//! A host that sends for many has several, so that what one customer or one kind of mail does to the
//! reputation of an address does not touch the others. [`Sources`] chooses among them.

mod choice;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::connect::Connect;
use crate::smtp::address::EhloName;

pub use choice::{ChooseSource, Sending, SetupError, Sources, When};

/// Where mail comes from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Source {
    /// What it is called, by us: in rules, and in the names of queues.
    pub name: SourceName,
    /// What it is called in EHLO. It should be the name that its address has in DNS.
    pub ehlo: EhloName,
    /// How it connects: a [`TcpConnect`](super::connect::TcpConnect) that has an address, a
    /// [`SocksConnect`](super::connect::SocksConnect), a
    /// [`ProxiedConnect`](super::connect::ProxiedConnect), or the host program's own.
    pub connect: Arc<dyn Connect>,
}

impl Source {
    /// A source.
    #[must_use]
    pub fn new(name: SourceName, ehlo: EhloName, connect: impl Connect) -> Self {
        Self { name, ehlo, connect: Arc::new(connect) }
    }
}

/// The name of a source. It is part of the names of queues that are stored, so it should stay.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceName(Arc<str>);

/// A string that is not the name of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name of a source is 1 to 39 letters, digits, `.`, `:`, `-` and `_`")]
pub struct NotASource;

impl SourceName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SourceName {
    type Err = NotASource;

    /// 1 to 39 octets of ASCII letters, digits, `.`, `:`, `-` and `_`.
    fn from_str(name: &str) -> Result<Self, NotASource> {
        // No space: one separates it in the name of a queue. Of 255 octets there, it takes a few.
        let is_plain = |octet: u8| octet.is_ascii_alphanumeric() || b".:-_".contains(&octet);
        let fits = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_plain);
        if fits { Ok(Self(name.into())) } else { Err(NotASource) }
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// As long as an IPv6 address is, which makes a name too.
const MAX_NAME: usize = 39;
