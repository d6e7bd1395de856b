//! A hop is the next host a message goes to: who it is, what TLS it must show, what it showed.
//!
//! What a host must show is a [`Demand`], made from the policies in one table. Whether a connection may
//! carry a message is decided in one function, [`Demand::admits`], and nowhere else.

mod fault;
mod policy;
mod tlsa;

use std::fmt;
use std::net::IpAddr;

use crate::smtp::address::Domain;

pub use fault::TlsFault;
pub use policy::Demand;
pub use tlsa::{Tlsa, TlsaMatching, TlsaRecord, TlsaSelector, TlsaSet, TlsaUsage};

/// When TLS starts on a connection to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum TlsStart {
    /// After STARTTLS (RFC 3207): ports 25 and 587.
    #[default]
    StartTls,
    /// With the first octet (RFC 8314): port 465.
    Implicit,
}

/// One host of a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Host {
    /// Its name, for SNI, for verification and for reports; or an address literal.
    pub name: Domain,
    /// Its addresses in the order to try them. Empty: whoever connects looks the name up.
    pub addresses: Vec<IpAddr>,
    /// The port, 25 between MTAs.
    pub port: u16,
    /// When TLS starts.
    pub tls_start: TlsStart,
    /// What DNSSEC says about its certificate. Default: nothing.
    pub tlsa: Tlsa,
}

impl Host {
    /// A host on `port`, its addresses not yet looked up, TLS by STARTTLS (by implicit TLS on 465).
    #[must_use]
    pub fn new(name: Domain, port: u16) -> Self {
        let addresses = name.as_literal().into_iter().collect();
        let tls_start = if port == 465 { TlsStart::Implicit } else { TlsStart::StartTls };
        Self { name, addresses, port, tls_start, tlsa: Tlsa::Absent }
    }

    /// The same host with its addresses known.
    #[must_use]
    pub fn with_addresses(mut self, addresses: Vec<IpAddr>) -> Self {
        self.addresses = addresses;
        self
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}

/// What TLS all hosts of a route must show before they are given a message, whatever is known of each
/// besides: the floor of its [`Demand`]. Ordered from weak to strict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Require {
    /// TLS is not even tried. For loopback and for tests.
    Cleartext,
    /// TLS where the host offers it, whatever its certificate; cleartext where it does not, or
    /// where the handshake fails (RFC 7435). What the network's other mail servers do.
    Opportunistic,
    /// TLS, whatever the certificate: nobody on the way reads along who does not also tamper.
    Encrypted,
    /// TLS with a certificate that is valid for the host's name; never anything less.
    Verified,
}

/// Who demands the TLS that a host must show. In the order in which they are asked: the first that has
/// something to say about a host decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum PolicyKind {
    /// The host's operator, by TLSA records (RFC 7672).
    Dane,
    /// The recipient domain, by a policy over HTTPS (RFC 8461).
    Sts,
    /// The message, by REQUIRETLS (RFC 8689).
    Message,
    /// The host program, by the [`Require`] of its routes.
    Own,
    /// Nobody.
    #[default]
    Opportunistic,
}

impl PolicyKind {
    /// As it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dane => "DANE",
            Self::Sts => "MTA-STS",
            Self::Message => "REQUIRETLS",
            Self::Own => "our own policy",
            Self::Opportunistic => "nobody",
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a connection showed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Seen {
    /// The TLS in use, if any.
    pub tls: Option<TlsSeen>,
}

impl Seen {
    /// A connection with this TLS.
    #[must_use]
    pub const fn tls(tls: TlsSeen) -> Self {
        Self { tls: Some(tls) }
    }
}

/// The TLS of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsSeen {
    /// The protocol version, such as `TLSv1.3`.
    pub version: Box<str>,
    /// The cipher suite's name.
    pub cipher: Box<str>,
    /// The name that the certificate was found valid for by the configured roots; `None` when it
    /// was not.
    pub verified: Option<Domain>,
    /// Whether the certificate matched a TLSA record of the host (RFC 7672).
    pub dane: bool,
    /// What is wrong with the certificate: by the host's TLSA records where it has some, by the roots
    /// where it has none.
    pub fault: Option<TlsFault>,
    /// Whether the session was resumed.
    pub resumed: bool,
}

impl TlsSeen {
    /// What a handshake showed.
    #[must_use]
    pub fn new(version: &str, cipher: &str, verified: Option<Domain>, resumed: bool) -> Self {
        Self { version: version.into(), cipher: cipher.into(), verified, dane: false, fault: None, resumed }
    }
}

impl fmt::Display for TlsSeen {
    /// Version, cipher, and by what the certificate was verified.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verified = match (self.dane, &self.verified) {
            (true, _) => "verified by DANE",
            (false, Some(_)) => "verified by the trusted roots",
            (false, None) => "not verified",
        };
        write!(f, "{} {}, {verified}", self.version, self.cipher)
    }
}

/// Why a connection may not carry a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// TLS is required and the connection has none.
    #[error("the host does not offer TLS")]
    NoTls,
    /// The certificate is not valid for the host's name.
    #[error("{0}")]
    NotVerified(TlsFault),
    /// The certificate matches none of the host's TLSA records.
    #[error("{0}")]
    NoMatch(TlsFault),
    /// What is required could not be found out, so nothing was tried.
    #[error("its TLSA records could not be looked up")]
    Unknown,
}

impl Refused {
    /// The same as reports about TLS have it.
    #[must_use]
    pub const fn fault(self) -> TlsFault {
        match self {
            Self::NoTls => TlsFault::NotOffered,
            Self::NotVerified(fault) | Self::NoMatch(fault) => fault,
            Self::Unknown => TlsFault::DnssecInvalid,
        }
    }
}
