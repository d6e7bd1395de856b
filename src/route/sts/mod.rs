//! MTA-STS is a recipient domain's word, over HTTPS, that its hosts show a valid certificate (RFC 8461).
//!
//! A record in DNS announces a policy, a web server under the domain's name serves it, and it counts for
//! weeks: whoever sits between the hosts can hide both, yet not take back a policy that is known. The texts
//! and the values are always here; with the feature `mta-sts`, [`StsResolver`] finds policies and
//! remembers them. That a policy is obeyed is the business of [`Hosts::under_policy`] and of the attempt.
//!
//! [`Hosts::under_policy`]: super::Hosts::under_policy
#![cfg_attr(not(feature = "mta-sts"), doc = "[`StsResolver`]: super::Resolve")]

#[cfg(feature = "mta-sts")]
mod book;
#[cfg(feature = "mta-sts")]
mod options;
mod parse;
#[cfg(feature = "mta-sts")]
mod policies;
#[cfg(feature = "mta-sts")]
mod resolver;
#[cfg(feature = "mta-sts")]
mod store;

use std::time::Duration;

use crate::smtp::address::Domain;

#[cfg(feature = "mta-sts")]
pub use options::StsOptions;
pub use parse::{StsRecord, StsSyntaxError};
#[cfg(feature = "mta-sts")]
pub use policies::{DnsHosts, StsFound, StsPolicies};
#[cfg(feature = "mta-sts")]
pub use resolver::StsResolver;
#[cfg(feature = "mta-sts")]
pub use store::{StoredPolicy, StsFolder, StsStore};

/// A domain's policy (RFC 8461 §3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StsPolicy {
    /// The id under which DNS announced it.
    pub id: Box<str>,
    /// What is asked for.
    pub mode: StsMode,
    /// The hosts that may take the domain's mail. At least one, unless the mode is `none`.
    pub mx: Vec<MxPattern>,
    /// How long it may be kept.
    pub max_age: Duration,
    /// The policy's lines as they were fetched, for reports (RFC 8460 §4.2); without line ends.
    pub lines: Vec<Box<str>>,
}

impl StsPolicy {
    /// Whether a host may take the domain's mail.
    #[must_use]
    pub fn matches(&self, host: &Domain) -> bool {
        self.mx.iter().any(|pattern| pattern.matches(host))
    }
}

/// What a policy asks for (RFC 8461 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StsMode {
    /// Nothing is sent to hosts that do not match or do not show a valid certificate.
    Enforce,
    /// It is, and reported (RFC 8460).
    Testing,
    /// There is no policy any longer.
    None,
}

/// One host or a family of hosts (RFC 8461 §4.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MxPattern {
    /// `*.` stood in front of the name: it is any one label.
    pub wildcard: bool,
    /// The name.
    pub name: Domain,
}

impl MxPattern {
    /// Whether a host's name is one of these.
    #[must_use]
    pub fn matches(&self, host: &Domain) -> bool {
        if !self.wildcard {
            return *host == self.name;
        }
        let rest = host.as_str().split_once('.').map(|(_, rest)| rest);
        rest.is_some_and(|rest| rest.eq_ignore_ascii_case(self.name.as_str()))
    }
}

/// Why a domain that announces a policy has none that can be used (RFC 8460 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum StsFault {
    /// It could not be fetched.
    #[error("the policy could not be fetched")]
    Fetch,
    /// The policy host's certificate is not valid.
    #[error("the policy host's certificate is not valid")]
    Certificate,
    /// What was fetched is no policy.
    #[error("the policy is malformed")]
    Invalid,
}
