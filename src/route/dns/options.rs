//! The options of asking name servers: which ones, how long to wait, and how far DNSSEC is believed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How name servers are asked.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DnsOptions {
    /// The name servers to ask. Default: none, which means those of the system
    /// (`/etc/resolv.conf`). Give recursive resolvers that you trust: who answers here decides who
    /// gets the mail, where DNSSEC does not.
    pub servers: Vec<SocketAddr>,
    /// How long to wait for a name server's answer before asking again. Default: 5 seconds, that
    /// of other resolvers.
    pub timeout: Duration,
    /// How often a question is asked in all, at least once. Default: 2.
    pub attempts: u32,
    /// How many questions may be open at the same time; others wait. Default: 128. Each may hold
    /// two sockets.
    pub max_lookups: usize,
    /// How many answers are remembered, each for as long as its TTL says, what does not exist
    /// among them. Default: 16,384, which is some 5,000 domains and 16 MiB; 0 remembers nothing.
    pub max_cached: u64,
    /// Whose word counts for DNSSEC. Default: [`Dnssec::Auto`].
    pub dnssec: Dnssec,
    /// The keys of the root. Default: those that IANA publishes. Only a closed network with a root
    /// of its own has a reason to change them.
    pub anchors: Anchors,
}

impl DnsOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self {
            servers: Vec::new(),
            timeout: Duration::from_secs(5),
            attempts: 2,
            max_lookups: 128,
            max_cached: 16_384,
            dnssec: Dnssec::Auto,
            anchors: Anchors::default(),
        }
    }
}

impl Default for DnsOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Who says whether an answer is proven by DNSSEC, on which DANE rests (RFC 7672).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Dnssec {
    /// The best that there is, found out with the first question: where all name servers are on this
    /// machine and validate, their word; else our own validation; and where the name servers leave
    /// out what that needs, none, with a warning in the log. Mail is never held up because DNSSEC is
    /// not to be had.
    #[default]
    Auto,
    /// Nobody: no answer counts as proven, and there is no DANE.
    Off,
    /// We: every answer is validated from the root's keys down. Behind name servers that leave out
    /// signatures every look-up then fails.
    Validate,
    /// The name servers: what they mark as authentic (the AD bit) counts. Only for validating
    /// resolvers on this machine, or behind a link that nobody can tamper with (RFC 7672 §2.2). Their
    /// word on what does not exist is not known, and nothing depends on it.
    Trust,
}

/// The public keys of the root, from which all validation starts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Anchors(Option<Arc<str>>);

impl Anchors {
    /// The keys that IANA publishes, as the resolver library has them built in.
    #[must_use]
    pub const fn iana() -> Self {
        Self(None)
    }

    /// Keys as DNSKEY records in a zone file's notation, a line each, owned by the root. They are read
    /// when a resolver is made, which fails where they are none.
    #[must_use]
    pub fn of_root(dnskeys: &str) -> Self {
        Self(Some(dnskeys.into()))
    }

    /// What [`Anchors::of_root`] was given.
    #[cfg(feature = "dns")]
    pub(super) fn as_text(&self) -> Option<&str> {
        self.0.as_deref()
    }
}
