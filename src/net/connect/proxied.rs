//! Connections through a proxy that is told by a PROXY header, version 2 of haproxy's
//! `proxy-protocol.txt`, from which address to connect to which.
//!
//! That is how one machine sends from the addresses of others: the proxy runs there, connects from the
//! header's source to its destination, and passes octets on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::tcp::from_both;
use super::{Connect, ConnectError, Opened, TcpConnect};
use crate::BoxFuture;
use crate::hop::{Host, TlsStart};

/// Opens connections by a proxy that reads a PROXY header of version 2, such as haproxy as a transparent
/// proxy. Where no address to come from is given, it opens none.
///
/// Such a proxy has taken the connection before it has reached the host, so a host's addresses are not
/// raced but tried in turn, and one counts as open when its host says something: the greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProxiedConnect {
    /// The proxy. It must believe us: that is set up there.
    pub proxy: SocketAddr,
    /// The IPv4 address of the proxy's to come from. Default: none, and then IPv4 is not used.
    pub ipv4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub ipv6: Option<Ipv6Addr>,
    /// The connections to the proxy: from which address of ours. Its limits and its families are about
    /// the addresses of hosts.
    pub tcp: TcpConnect,
}

impl ProxiedConnect {
    /// By this proxy, from this address of its own.
    #[must_use]
    pub const fn new(proxy: SocketAddr, from: IpAddr) -> Self {
        let tcp = TcpConnect::new();
        match from {
            IpAddr::V4(v4) => Self { proxy, ipv4: Some(v4), ipv6: None, tcp },
            IpAddr::V6(v6) => Self { proxy, ipv4: None, ipv6: Some(v6), tcp },
        }
    }

    async fn open(&self, host: &Host) -> Result<Opened, ConnectError> {
        let known =
            if host.addresses.is_empty() { self.tcp.look_up(host).await? } else { host.addresses.clone() };
        let mut worst = ConnectError::NoAddress;
        for ip in self.usable(known).into_iter().take(self.tcp.max_addresses.max(1)) {
            let to = SocketAddr::new(ip, host.port);
            let Some((from, header)) = self.header(to) else { continue };
            let dialled = timeout(self.tcp.timeout, self.tcp.dial(self.proxy));
            let mut stream = dialled
                .await
                .map_or(Err(ConnectError::Proxy), |dialled| dialled.map_err(|_| ConnectError::Proxy))?;
            stream.write_all(&header).await.map_err(|_| ConnectError::Proxy)?;
            match self.listen(&stream, host.tls_start).await {
                Ok(()) => return Ok(Opened { io: Box::new(stream), remote: Some(ip), local: Some(from) }),
                Err(error) if error.telling() >= worst.telling() => worst = error,
                Err(_) => {}
            }
        }
        Err(worst)
    }

    /// Who we say that we are, and how.
    fn header(&self, to: SocketAddr) -> Option<(IpAddr, Vec<u8>)> {
        let (from, family, addresses): (IpAddr, _, _) = match to.ip() {
            IpAddr::V4(to) => (self.ipv4?.into(), TCP4, [&self.ipv4?.octets()[..], &to.octets()].concat()),
            IpAddr::V6(to) => (self.ipv6?.into(), TCP6, [&self.ipv6?.octets()[..], &to.octets()].concat()),
        };
        // The length: two addresses, two ports. Our port is for the proxy to choose.
        let length = u16::try_from(addresses.len() + 4).ok()?.to_be_bytes();
        let fixed = [VERSION_AND_PROXY, family];
        Some((from, [SIGNATURE, &fixed, &length, &addresses, &[0, 0], &to.port().to_be_bytes()].concat()))
    }

    /// Waits for the host to say something, which it is the first to do unless TLS comes first. One that
    /// takes its time may say it later: it is for the session to lose patience.
    async fn listen(&self, stream: &TcpStream, start: TlsStart) -> Result<(), ConnectError> {
        if start == TlsStart::Implicit {
            return Ok(());
        }
        match timeout(self.tcp.timeout, stream.peek(&mut [0])).await {
            // Closed, or reset: the proxy did not reach it.
            Ok(Ok(0) | Err(_)) => Err(ConnectError::Refused),
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    }
}

impl Connect for ProxiedConnect {
    fn connect<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Result<Opened, ConnectError>> {
        Box::pin(self.open(host))
    }

    fn usable(&self, mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        if self.ipv4.is_none() && self.ipv6.is_none() {
            return Vec::new();
        }
        from_both(&mut addresses, self.ipv4.is_some(), self.ipv6.is_some());
        self.tcp.families.sort(addresses)
    }
}

/// What no text of any protocol begins with.
pub(crate) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature and the four octets behind it.
pub(crate) const FIXED: usize = SIGNATURE.len() + 4;
/// The family octets.
pub(crate) const TCP4: u8 = 0x11;
pub(crate) const TCP6: u8 = 0x21;
/// Version 2, and that the connection is somebody else's than the proxy's own.
const VERSION_AND_PROXY: u8 = 0x21;

#[cfg(test)]
mod tests;
