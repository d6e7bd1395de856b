//! An identity is a domain that signs, with its keys, and how its signatures are to be.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::canon::Canon;
use super::key::SigningKey;
use super::record::DnsRecord;
use crate::smtp::address::Domain;

/// A domain that signs.
#[derive(Debug)]
#[non_exhaustive]
pub struct Identity {
    /// The domain that vouches, `d=`.
    pub domain: Domain,
    /// Its keys; each makes a signature. Two at once, RSA and Ed25519, is what RFC 8463 has in mind: who
    /// cannot verify the one verifies the other. At most [`MAX_KEYS`].
    pub keys: Vec<SelectedKey>,
    /// Whether it also signs mail from the domains below it that have no identity of their own. Default:
    /// no; receivers count that as alignment unless the domain asks for a strict one (RFC 7489 §3.1.1).
    pub subdomains: bool,
    /// How fields are looked at. Default: relaxed.
    pub header: Canon,
    /// How bodies are looked at. Default: relaxed.
    pub body: Canon,
    /// For how long a signature is to be taken, `x=`. Default: for ever, as most do. Deliveries are tried
    /// for days, so less than a week makes mail fail that was only late.
    pub valid_for: Option<Duration>,
    /// The part of the domain on whose behalf it is signed, `i=@…`: the domain, or one below it. Default:
    /// none, which means the domain.
    pub agent: Option<Domain>,
}

/// A key under the name by which verifiers find it.
#[derive(Debug)]
pub struct SelectedKey {
    /// The name.
    pub selector: Selector,
    /// The key.
    pub key: SigningKey,
}

impl Identity {
    /// An identity without keys yet.
    #[must_use]
    pub const fn new(domain: Domain) -> Self {
        Self {
            domain,
            keys: Vec::new(),
            subdomains: false,
            header: Canon::Relaxed,
            body: Canon::Relaxed,
            valid_for: None,
            agent: None,
        }
    }

    /// With this key too.
    #[must_use]
    pub fn key(mut self, selector: Selector, key: SigningKey) -> Self {
        self.keys.push(SelectedKey { selector, key });
        self
    }

    /// What has to be published for its keys.
    pub fn dns_records(&self) -> impl Iterator<Item = DnsRecord> {
        self.keys.iter().map(|key| DnsRecord {
            name: key_name(key.selector.as_str(), self.domain.as_str()),
            text: key.key.record().to_string().into(),
        })
    }
}

/// Where the record of a key is (RFC 6376 §3.6.2.1).
pub(crate) fn key_name(selector: &str, domain: &str) -> Box<str> {
    format!("{selector}._domainkey.{domain}").into()
}

/// The name of a key within its domain: labels of letters, digits and hyphens (RFC 6376 §3.1), kept in
/// lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector(Box<str>);

impl Selector {
    /// Parses a selector.
    ///
    /// # Errors
    /// [`SelectorError`]
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        // It must leave room for the domain.
        if text.len() <= MAX_SELECTOR && text.split('.').all(is_label) {
            Ok(Self(text.to_ascii_lowercase().into()))
        } else {
            Err(SelectorError)
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Selector {
    type Err = SelectorError;
    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A selector is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a selector is labels of letters, digits and hyphens")]
pub struct SelectorError;

/// Why identities make no signer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignerError {
    /// An identity has no key, or more than [`MAX_KEYS`].
    #[error("an identity has no key, or more than {MAX_KEYS}")]
    Keys,
    /// Two keys of an identity have the same selector.
    #[error("two keys have the same selector")]
    Selector,
    /// Two identities are for the same domain.
    #[error("two identities are for the same domain")]
    Twice,
    /// A domain is an address literal, or too long for its keys' names, or an agent's is not below it.
    #[error("a domain cannot sign, or an agent's domain is not below it")]
    Domain,
}

/// The identities by domain.
#[derive(Debug)]
pub(super) struct Directory(BTreeMap<Domain, Arc<Identity>>);

impl Directory {
    pub(super) fn new(identities: impl IntoIterator<Item = Identity>) -> Result<Self, SignerError> {
        let mut directory = BTreeMap::new();
        for identity in identities {
            identity.check()?;
            if directory.insert(identity.domain.clone(), Arc::new(identity)).is_some() {
                return Err(SignerError::Twice);
            }
        }
        Ok(Self(directory))
    }

    /// Who signs for a domain: itself, else the nearest above it that does so for those below.
    pub(super) fn of(&self, domain: &Domain) -> Option<&Arc<Identity>> {
        if let Some(own) = self.0.get(domain) {
            return Some(own);
        }
        let mut name = domain.as_str();
        while let Some((_, above)) = name.split_once('.') {
            let identity = Domain::parse(above).ok().and_then(|above| self.0.get(&above));
            if let Some(identity) = identity.filter(|identity| identity.subdomains) {
                return Some(identity);
            }
            name = above;
        }
        None
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Identity>> {
        self.0.values()
    }

    /// The key that a signature names.
    pub(super) fn key(&self, domain: &str, selector: &str) -> Option<&SigningKey> {
        let identity = self.0.get(&Domain::parse(domain).ok()?)?;
        let named = |key: &&SelectedKey| key.selector.as_str().eq_ignore_ascii_case(selector);
        identity.keys.iter().find(named).map(|key| &key.key)
    }
}

impl Identity {
    fn check(&self) -> Result<(), SignerError> {
        if self.keys.is_empty() || self.keys.len() > MAX_KEYS {
            return Err(SignerError::Keys);
        }
        let domain = self.domain.as_str();
        let agent = self.agent.as_ref().map_or(domain, Domain::as_str);
        let below = agent.strip_suffix(domain).is_some_and(|front| front.is_empty() || front.ends_with('.'));
        let named = |key: &SelectedKey| key_name(key.selector.as_str(), domain).len() <= MAX_NAME;
        if self.domain.as_literal().is_some() || !below || !self.keys.iter().all(named) {
            return Err(SignerError::Domain);
        }
        let mut selectors: Vec<_> = self.keys.iter().map(|key| &key.selector).collect();
        selectors.sort();
        selectors.dedup();
        if selectors.len() < self.keys.len() { Err(SignerError::Selector) } else { Ok(()) }
    }
}

/// The most keys of one identity: two kinds, and the next of each while they are changed.
pub const MAX_KEYS: usize = 4;
/// A selector of a date and a service has some twenty.
const MAX_SELECTOR: usize = 100;
/// RFC 1035 §2.3.4 in presentation form.
const MAX_NAME: usize = 253;
