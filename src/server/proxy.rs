//! A PROXY header is what a proxy says, before the first octet of a connection, about who connected
//! to it: versions 1 (one line of text) and 2 (binary) of haproxy's `proxy-protocol.txt`.
//!
//! Only its reading is here, without I/O. Whoever is believed is anybody it likes to be, so a header is
//! read from the proxies in [`ServerOptions::proxy_from`](super::ServerOptions::proxy_from) only, and
//! there it must be: a connection without one would have the proxy's own rights.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::net::connect::proxied::{FIXED, SIGNATURE, TCP4, TCP6};

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Header {
    /// The proxy itself connected, as for a health check: the addresses of the connection are the ones
    /// that count.
    Local,
    /// Somebody connected to the proxy, and it cannot say who.
    Unknown,
    /// Somebody connected to the proxy over TCP.
    Proxied {
        /// The client.
        source: SocketAddr,
        /// Where it connected to.
        destination: SocketAddr,
    },
}

/// How much of a header is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// At least so many octets more belong to it, never 0. Who reads no more than that at a time
    /// leaves what comes behind the header where it is.
    Missing(usize),
    /// All of it.
    Whole {
        /// What it says.
        header: Header,
        /// How many octets it is.
        length: usize,
    },
}

/// There is no header that could be believed. Nothing is said to such a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// The octets are no header, or a damaged one.
    #[error("not a PROXY header")]
    Malformed,
    /// It is longer than [`MAX_V1`] or [`MAX_V2`].
    #[error("the PROXY header is too long")]
    TooLong,
    /// It is about something that is not TCP: UDP or a socket of the local system.
    #[error("the PROXY header is not about TCP")]
    Family,
}

/// The longest header of version 1: the longest line of haproxy's specification, §2.1.
pub const MAX_V1: usize = 107;
/// The longest header of version 2: what fits the smallest segment that must pass (§2.2).
pub const MAX_V2: usize = 536;

/// Reads a header at the front of `octets`, which may be cut anywhere.
///
/// # Errors
/// [`ProxyError`], as soon as it is certain.
pub fn parse(octets: &[u8]) -> Result<Parsed, ProxyError> {
    // Text first: it has the shorter of the shortest headers, which is all that can be asked for
    // while nothing is there.
    if begins(octets, b"PROXY ") {
        return text(octets);
    }
    if begins(octets, SIGNATURE) {
        return binary(octets);
    }
    Err(ProxyError::Malformed)
}

/// Whether the one is the beginning of the other.
fn begins(octets: &[u8], with: &[u8]) -> bool {
    octets.iter().zip(with).all(|(octet, with)| octet == with)
}

/// Version 1: `PROXY TCP4 192.0.2.1 198.51.100.1 56324 25` and a CRLF.
fn text(octets: &[u8]) -> Result<Parsed, ProxyError> {
    // The line's CR, whose LF still fits.
    let seen = octets.get(..octets.len().min(MAX_V1 - 1)).unwrap_or_default();
    let Some(end) = seen.iter().position(|octet| matches!(octet, b'\r' | b'\n')) else {
        if octets.len() >= MAX_V1 - 1 {
            return Err(ProxyError::TooLong);
        }
        let shortest = if begins(seen, b"PROXY TCP") && seen.len() >= 9 { SHORTEST_TCP } else { SHORTEST };
        return Ok(Parsed::Missing(shortest.saturating_sub(seen.len()).max(2)));
    };
    match octets.get(end..) {
        Some([b'\r']) => return Ok(Parsed::Missing(1)),
        Some([b'\r', b'\n', ..]) => {}
        _ => return Err(ProxyError::Malformed),
    }
    let line = octets.get(..end).and_then(|line| std::str::from_utf8(line).ok());
    let mut words = line.ok_or(ProxyError::Malformed)?.split(' ').skip(1);
    let header = match words.next() {
        // What follows is to be ignored.
        Some("UNKNOWN") => Header::Unknown,
        Some("TCP4") => addresses::<Ipv4Addr>(words)?,
        Some("TCP6") => addresses::<Ipv6Addr>(words)?,
        _ => return Err(ProxyError::Malformed),
    };
    Ok(Parsed::Whole { header, length: end + 2 })
}

fn addresses<'a, A>(mut words: impl Iterator<Item = &'a str>) -> Result<Header, ProxyError>
where
    A: std::str::FromStr + Into<IpAddr>,
{
    let mut address = || words.next().and_then(|word| word.parse::<A>().ok()).map(Into::into);
    let (from, to) = (address(), address());
    let mut port = || words.next().and_then(port);
    let (from_port, to_port) = (port(), port());
    match (from, to, from_port, to_port, words.next()) {
        (Some(from), Some(to), Some(from_port), Some(to_port), None) => Ok(Header::Proxied {
            source: SocketAddr::new(from, from_port),
            destination: SocketAddr::new(to, to_port),
        }),
        _ => Err(ProxyError::Malformed),
    }
}

/// Digits without a sign or zeros in front, which the standard library lets pass.
fn port(word: &str) -> Option<u16> {
    let plain = word == "0" || !word.starts_with(['0', '+']);
    word.parse().ok().filter(|_| plain)
}

/// Version 2: signature, version and command, family, length, addresses, and more that is not used.
fn binary(octets: &[u8]) -> Result<Parsed, ProxyError> {
    let Some((&[version, family, high, low], rest)) =
        octets.get(SIGNATURE.len()..).and_then(<[u8]>::split_first_chunk)
    else {
        return Ok(Parsed::Missing(FIXED - octets.len()));
    };
    let proxied = match version {
        0x20 => false,
        0x21 => true,
        _ => return Err(ProxyError::Malformed),
    };
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_V2 {
        return Err(ProxyError::TooLong);
    }
    if proxied && !matches!(family, UNSPECIFIED | TCP4 | TCP6) {
        return Err(ProxyError::Family);
    }
    let Some(rest) = rest.get(..length - FIXED) else {
        return Ok(Parsed::Missing(length - octets.len()));
    };
    let header = match family {
        // §2.2: the addresses of a local connection, and those of no family, are to be ignored.
        _ if !proxied => Header::Local,
        UNSPECIFIED => Header::Unknown,
        TCP4 => endpoints::<4, Ipv4Addr>(rest)?,
        _ => endpoints::<16, Ipv6Addr>(rest)?,
    };
    Ok(Parsed::Whole { header, length })
}

fn endpoints<const N: usize, A: From<[u8; N]> + Into<IpAddr>>(octets: &[u8]) -> Result<Header, ProxyError> {
    let read = || {
        let (from, rest) = octets.split_first_chunk::<N>()?;
        let (to, rest) = rest.split_first_chunk::<N>()?;
        let (from_port, rest) = rest.split_first_chunk::<2>()?;
        let to_port = rest.first_chunk::<2>()?;
        let at = |ip: [u8; N], port| SocketAddr::new(A::from(ip).into(), u16::from_be_bytes(port));
        Some(Header::Proxied { source: at(*from, *from_port), destination: at(*to, *to_port) })
    };
    read().ok_or(ProxyError::Malformed)
}

/// `PROXY UNKNOWN` and a CRLF.
const SHORTEST: usize = 15;
/// `PROXY TCP6 :: :: 0 0` and a CRLF.
const SHORTEST_TCP: usize = 22;
/// The family octet of version 2 for none.
const UNSPECIFIED: u8 = 0x00;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_both_versions_say_who_connected() {
        let proxied = |from: &str, to: &str| Header::Proxied {
            source: from.parse().unwrap(),
            destination: to.parse().unwrap(),
        };
        let v2 = |command: u8, family: u8, rest: &[u8]| {
            let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
            [SIGNATURE, &[command, family], &length, rest].concat()
        };
        for (octets, header) in [
            (b"PROXY UNKNOWN\r\n".to_vec(), Header::Unknown),
            (b"PROXY UNKNOWN whatever it is\r\n".to_vec(), Header::Unknown),
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 25\r\n".to_vec(),
                proxied("192.0.2.1:56324", "198.51.100.1:25"),
            ),
            (b"PROXY TCP6 :: ::1 0 65535\r\n".to_vec(), proxied("[::]:0", "[::1]:65535")),
            (v2(0x20, 0, b""), Header::Local),
            (v2(0x20, 0x31, b"rubbish"), Header::Local),
            (v2(0x21, 0, b"rubbish"), Header::Unknown),
            (
                v2(0x21, TCP4, &[192, 0, 2, 1, 198, 51, 100, 1, 1, 0, 0, 25]),
                proxied("192.0.2.1:256", "198.51.100.1:25"),
            ),
            (
                v2(
                    0x21,
                    TCP6,
                    &[[0; 16], [1; 16], [0, 1, 0, 2, 3, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat(),
                ),
                proxied("[::]:1", "[101:101:101:101:101:101:101:101]:2"),
            ),
        ] {
            let whole = Parsed::Whole { header, length: octets.len() };
            assert_eq!(parse(&octets), Ok(whole), "{}", octets.escape_ascii());
            let behind = [&octets[..], b"EHLO x\r\n"].concat();
            assert_eq!(parse(&behind), Ok(whole), "what comes behind is not looked at");
        }
    }

    #[test]
    fn what_is_no_header_about_tcp_is_refused() {
        use ProxyError::{Family, Malformed, TooLong};
        let v2 = |fixed: [u8; 4]| [SIGNATURE, &fixed, &[0; 64]].concat();
        let long = |count: usize| [b"PROXY UNKNOWN ", &vec![b'x'; count][..], b"\r\n"].concat();
        for (octets, error) in [
            (&b"EHLO c.test\r\n"[..], Malformed),
            (b"proxy TCP4", Malformed),
            (b"PROXY\r\n", Malformed),
            (b"PROXY TCP4\r\n", Malformed),
            (b"PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n", Malformed),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n", Malformed),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\rx", Malformed),
            (b"PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n", Malformed),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n", Malformed),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", Malformed),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n", Malformed),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", Malformed),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n", Malformed),
            (b"PROXY TCP4 192.0.2.1 ::1 1 2\r\n", Malformed),
            (b"PROXY TCP6 192.0.2.1 192.0.2.1 1 2\r\n", Malformed),
            (b"PROXY \xff\r\n", Malformed),
            (&long(92), TooLong),
            (&long(500), TooLong),
            (&v2([0x11, TCP4, 0, 12]), Malformed),
            (&v2([0x22, TCP4, 0, 12]), Malformed),
            (&v2([0x21, TCP4, 0, 11]), Malformed),
            (&v2([0x21, TCP6, 0, 35]), Malformed),
            (&v2([0x21, 0x12, 0, 12]), Family),
            (&v2([0x21, 0x22, 0, 36]), Family),
            (&v2([0x21, 0x31, 0, 64]), Family),
            (&v2([0x20, 0, 2, 9]), TooLong),
            (&v2([0x21, TCP4, 255, 255]), TooLong),
        ] {
            assert_eq!(parse(octets), Err(error), "{}", octets.escape_ascii());
        }
        assert!(matches!(parse(&long(91)), Ok(Parsed::Whole { length: MAX_V1, .. })));
        let longest = [&v2([0x21, TCP4, 2, 8])[..], &[0; 520]].concat();
        assert!(matches!(parse(&longest), Ok(Parsed::Whole { length: MAX_V2, .. })));
    }
}
