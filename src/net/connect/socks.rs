//! Connections through a SOCKS5 proxy (RFC 1928), with a user's name and password where it asks for them
//! (RFC 1929).
//!
//! It is asked for one address at a time, raced like those of a direct connection, or for a name, which it
//! then looks up itself. Its answers are read to the octet: what comes behind them is the host's.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{Connect, ConnectError, Opened, TcpConnect};
use crate::BoxFuture;
use crate::hop::Host;
use crate::smtp::address::Domain;

/// Opens connections through a SOCKS5 proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SocksConnect {
    /// The proxy.
    pub proxy: SocketAddr,
    /// Who we are to it. Default: nobody in particular.
    pub login: Option<SocksLogin>,
    /// Whether the proxy is given the name of each host, and looks it up. Default: only where the route
    /// has no addresses. Set it where names mean something else behind the proxy; the addresses of the
    /// route, and what DNSSEC says about them, are not used then.
    pub by_name: bool,
    /// The connections to the proxy: from which address of ours. Its limits and its families are about
    /// the addresses that the proxy is asked for.
    pub tcp: TcpConnect,
}

/// A user's name and password, for a proxy. Shown nowhere, and zeroized.
#[derive(Clone, PartialEq, Eq)]
pub struct SocksLogin {
    user: Box<str>,
    password: Zeroizing<Box<str>>,
}

/// The name or the password of a [`SocksLogin`] cannot be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a proxy's user and password have from 1 to 255 octets each")]
pub struct NotALogin;

impl SocksLogin {
    /// A login.
    ///
    /// # Errors
    /// [`NotALogin`] when one of them has not from 1 to 255 octets (RFC 1929 §2).
    pub fn new(user: &str, password: &str) -> Result<Self, NotALogin> {
        let fits = |text: &str| (1..=255).contains(&text.len());
        if !fits(user) || !fits(password) {
            return Err(NotALogin);
        }
        Ok(Self { user: user.into(), password: Zeroizing::new(password.into()) })
    }
}

impl fmt::Debug for SocksLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocksLogin").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What the proxy is asked for.
#[derive(Debug, Clone, Copy)]
enum Target<'a> {
    Ip(IpAddr),
    Name(&'a Domain),
}

impl SocksConnect {
    /// By a proxy that asks for no login.
    #[must_use]
    pub const fn new(proxy: SocketAddr) -> Self {
        Self { proxy, login: None, by_name: false, tcp: TcpConnect::new() }
    }

    async fn open(&self, host: &Host) -> Result<Opened, ConnectError> {
        let by_name = self.by_name || host.addresses.is_empty();
        if by_name && host.name.as_literal().is_none() {
            let asked = self.ask(Target::Name(&host.name), host.port);
            let asked = timeout(self.tcp.timeout, asked).await;
            let (stream, local) = asked.map_err(|_| ConnectError::TimedOut)??;
            return Ok(Opened { io: Box::new(stream), remote: None, local });
        }
        let known = host.name.as_literal().map_or_else(|| host.addresses.clone(), |ip| vec![ip]);
        let opened = self.tcp.race(self.usable(known), |ip| self.ask(Target::Ip(ip), host.port)).await?;
        let (remote, (stream, local)) = opened;
        Ok(Opened { io: Box::new(stream), remote: Some(remote), local })
    }

    /// One connection by the proxy, and from which address it says that it is.
    async fn ask(&self, target: Target<'_>, port: u16) -> Result<(TcpStream, Option<IpAddr>), ConnectError> {
        let asked = async {
            let mut stream = self.tcp.dial(self.proxy).await.map_err(|_| ConnectError::Proxy)?;
            self.introduce(&mut stream).await?;
            write(&mut stream, &request(target, port)?).await?;
            Ok(stream)
        };
        // A proxy that says nothing has not tried the host.
        let patience = PATIENCE.min(self.tcp.timeout / 2);
        let mut stream = timeout(patience, asked).await.map_err(|_| ConnectError::Proxy)??;
        let local = answer(&mut stream).await?;
        Ok((stream, local))
    }

    /// Which way of logging in, and the login (RFC 1928 §3, RFC 1929 §2).
    async fn introduce(&self, stream: &mut TcpStream) -> Result<(), ConnectError> {
        let methods: &[u8] =
            if self.login.is_some() { &[VERSION, 2, NO_LOGIN, PASSWORD] } else { &[VERSION, 1, NO_LOGIN] };
        write(stream, methods).await?;
        match (read::<2>(stream).await?, &self.login) {
            ([VERSION, NO_LOGIN], _) => Ok(()),
            ([VERSION, PASSWORD], Some(login)) => {
                let mut said = Zeroizing::new(Vec::with_capacity(3 + 255 + 255));
                said.push(LOGIN_VERSION);
                for text in [&*login.user, &**login.password] {
                    said.push(u8::try_from(text.len()).map_err(|_| ConnectError::Proxy)?);
                    said.extend_from_slice(text.as_bytes());
                }
                write(stream, &said).await?;
                // The version of this answer is not looked at: some say 5.
                match read::<2>(stream).await? {
                    [_, 0] => Ok(()),
                    _ => Err(ConnectError::Proxy),
                }
            }
            _ => Err(ConnectError::Proxy),
        }
    }
}

impl Connect for SocksConnect {
    fn connect<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Result<Opened, ConnectError>> {
        Box::pin(self.open(host))
    }

    fn usable(&self, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        // The address that it is connected to from says nothing about the families behind it.
        self.tcp.families.sort(addresses)
    }
}

/// RFC 1928 §4
fn request(target: Target<'_>, port: u16) -> Result<Vec<u8>, ConnectError> {
    let mut octets = vec![VERSION, CONNECT, 0];
    match target {
        Target::Ip(IpAddr::V4(ip)) => {
            octets.push(IPV4);
            octets.extend_from_slice(&ip.octets());
        }
        Target::Ip(IpAddr::V6(ip)) => {
            octets.push(IPV6);
            octets.extend_from_slice(&ip.octets());
        }
        Target::Name(name) => {
            octets.push(NAME);
            octets.push(u8::try_from(name.as_str().len()).map_err(|_| ConnectError::NoAddress)?);
            octets.extend_from_slice(name.as_str().as_bytes());
        }
    }
    octets.extend_from_slice(&port.to_be_bytes());
    Ok(octets)
}

/// RFC 1928 §6: what became of it, and the address that the proxy connects from, where it says one.
async fn answer(stream: &mut TcpStream) -> Result<Option<IpAddr>, ConnectError> {
    let [version, became, _, kind] = read::<4>(stream).await?;
    if version != VERSION {
        return Err(ConnectError::Proxy);
    }
    match became {
        0 => {}
        3 | 4 => return Err(ConnectError::Unreachable),
        5 => return Err(ConnectError::Refused),
        6 => return Err(ConnectError::TimedOut),
        // It failed, its rules forbid it, or it knows no such request or address.
        _ => return Err(ConnectError::Proxy),
    }
    let from: Option<IpAddr> = match kind {
        IPV4 => Some(Ipv4Addr::from(read::<4>(stream).await?).into()),
        IPV6 => Some(Ipv6Addr::from(read::<16>(stream).await?).into()),
        NAME => {
            // At most 255 octets, as one says how many.
            let [count] = read::<1>(stream).await?;
            for _ in 0..count {
                read::<1>(stream).await?;
            }
            None
        }
        _ => return Err(ConnectError::Proxy),
    };
    read::<2>(stream).await?;
    Ok(from.filter(|ip| !ip.is_unspecified()))
}

async fn write(stream: &mut TcpStream, octets: &[u8]) -> Result<(), ConnectError> {
    stream.write_all(octets).await.map_err(|_| ConnectError::Proxy)
}

async fn read<const N: usize>(stream: &mut TcpStream) -> Result<[u8; N], ConnectError> {
    let mut octets = [0; N];
    stream.read_exact(&mut octets).await.map_err(|_| ConnectError::Proxy)?;
    Ok(octets)
}

const VERSION: u8 = 5;
const LOGIN_VERSION: u8 = 1;
const NO_LOGIN: u8 = 0;
const PASSWORD: u8 = 2;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;
/// For the proxy itself, which is near: what it takes to reach a host is counted apart.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
