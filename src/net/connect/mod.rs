//! A connector opens the stream of octets that a session runs over.
//!
//! It is a seam: [`TcpConnect`] is the real one, [`SocksConnect`] and [`ProxiedConnect`] go through a
//! proxy; an in-memory pair for tests or a network that loses packets on purpose is another. It knows
//! addresses and sockets, and nothing of TLS or SMTP.

mod family;
pub(crate) mod proxied;
mod race;
mod socks;
mod tcp;

use std::fmt;
use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::BoxFuture;
use crate::hop::Host;

pub use family::FamilyOrder;
pub use proxied::ProxiedConnect;
pub use socks::{NotALogin, SocksConnect, SocksLogin};
pub use tcp::TcpConnect;

/// A stream of octets in both directions.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

/// A stream that was opened, and between whom, as far as that is known.
pub struct Opened {
    /// The stream.
    pub io: Box<dyn Io>,
    /// The address of the host that answered; none where a proxy looks it up.
    pub remote: Option<IpAddr>,
    /// The address that the host sees.
    pub local: Option<IpAddr>,
}

impl Opened {
    /// A stream between ends that have no address, such as one in memory.
    #[must_use]
    pub fn new(io: impl Io) -> Self {
        Self { io: Box::new(io), remote: None, local: None }
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("remote", &self.remote)
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}

/// Opens streams to hosts.
pub trait Connect: Send + Sync + fmt::Debug + 'static {
    /// A stream to `host`, by the first of its addresses that answers.
    ///
    /// # Errors
    /// [`ConnectError`] when none did.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    fn connect<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Result<Opened, ConnectError>>;

    /// Of a host's addresses those that are tried, in that order: whoever tries only a few of them asks
    /// before it cuts. The default takes them as they are.
    fn usable(&self, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        addresses
    }
}

/// Why there is no stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The name has no address that can be used.
    #[error("the host has no address")]
    NoAddress,
    /// The connection was refused.
    #[error("connection refused")]
    Refused,
    /// No answer in time.
    #[error("connection timed out")]
    TimedOut,
    /// The network is in the way.
    #[error("host or network unreachable")]
    Unreachable,
    /// The proxy that was to connect cannot be reached, does not take us, or does not do its part: that
    /// says nothing about the host.
    #[error("the proxy does not open connections")]
    Proxy,
    /// This host lacks descriptors, ports, memory or permission.
    #[error("this host cannot open a connection")]
    Local,
}

impl ConnectError {
    /// What an error of the operating system means.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted => Self::Refused,
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown => Self::Unreachable,
            _ => Self::Local,
        }
    }

    /// How much it says about a host, of whose addresses each failed in its own way.
    const fn telling(self) -> u8 {
        match self {
            Self::Refused => 5,
            Self::TimedOut => 4,
            Self::Unreachable => 3,
            Self::Proxy => 2,
            Self::Local => 1,
            Self::NoAddress => 0,
        }
    }
}
