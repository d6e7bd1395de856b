//! The address of something on an HTTPS host: `https://host[:port]/path[?query]` and nothing more.

use std::fmt;

use crate::smtp::address::Domain;

/// What to ask for, and of whom. The host has a name: an address could not be verified by those who
/// publish policies and take reports.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Url {
    host: Domain,
    port: u16,
    /// The path and the query, as they stand in the request.
    target: Box<str>,
}

/// Why a text is no [`Url`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// It does not begin with `https://`.
    #[error("not an https URL")]
    Scheme,
    /// No host name, or one that is no name, or with a user in front of it.
    #[error("no host name in the URL")]
    Host,
    /// No port number.
    #[error("not a port number in the URL")]
    Port,
    /// Not printable ASCII, not percent-encoded, a fragment, or longer than 2,048 octets.
    #[error("not a path in the URL")]
    Path,
}

impl Url {
    /// A URL from its parts; `path` begins with `/`.
    ///
    /// # Errors
    /// [`UrlError::Host`] for an address literal, [`UrlError::Path`].
    pub fn new(host: Domain, port: u16, path: &str) -> Result<Self, UrlError> {
        if host.as_literal().is_some() {
            return Err(UrlError::Host);
        }
        let is_fit = |b: u8| b.is_ascii_graphic() && !b"\"<>\\^`{|}#".contains(&b);
        if path.len() > MAX_PATH || !path.starts_with('/') || !path.bytes().all(is_fit) {
            return Err(UrlError::Path);
        }
        Ok(Self { host, port, target: path.into() })
    }

    /// Parses a URL (RFC 3986). The scheme is case-insensitive, the port is 443 where none is given.
    ///
    /// # Errors
    /// [`UrlError`], which says what part is wrong.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_at_checked(SCHEME.len()).ok_or(UrlError::Scheme)?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(UrlError::Scheme);
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at_checked(end).ok_or(UrlError::Host)?;
        let (host, port) = match authority.split_once(':') {
            None => (authority, 443),
            Some((host, "")) => (host, 443),
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => {
                (host, port.parse().ok().filter(|port| *port > 0).ok_or(UrlError::Port)?)
            }
            Some(_) => return Err(UrlError::Port),
        };
        let host = Domain::parse(host).map_err(|_| UrlError::Host)?;
        // An empty path is `/` (RFC 9110 §4.2.3).
        if target.starts_with('/') {
            Self::new(host, port, target)
        } else {
            Self::new(host, port, &format!("/{target}"))
        }
    }

    /// The host's name.
    #[must_use]
    pub const fn host(&self) -> &Domain {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The path and the query.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The host, and the port where it is not 443.
    pub(super) fn authority(&self) -> String {
        if self.port == 443 { self.host.to_string() } else { format!("{}:{}", self.host, self.port) }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}", self.authority(), self.target)
    }
}

const SCHEME: &str = "https://";
/// Longer than any that is published in a TXT record.
const MAX_PATH: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_name_a_port_and_a_path() {
        for (text, shown) in [
            ("https://mta-sts.example.com/.well-known/mta-sts.txt", None),
            ("HTTPS://Reports.Example.com", Some("https://reports.example.com/")),
            ("https://a.test:8443/in?x=1&y=%20", None),
            ("https://a.test:443?x", Some("https://a.test/?x")),
            ("https://a.test:/", Some("https://a.test/")),
            ("https://bücher.example/", Some("https://xn--bcher-kva.example/")),
        ] {
            assert_eq!(Url::parse(text).unwrap().to_string(), shown.unwrap_or(text));
        }
    }

    #[test]
    fn what_is_no_such_url_says_which_part_is_wrong() {
        let long = format!("https://a.test/{}", "x".repeat(MAX_PATH));
        for (text, error) in [
            ("", UrlError::Scheme),
            ("http://a.test/", UrlError::Scheme),
            ("mailto:a@b.test", UrlError::Scheme),
            ("httpsü//", UrlError::Scheme),
            ("https://", UrlError::Host),
            ("https:///x", UrlError::Host),
            ("https://user@a.test/", UrlError::Host),
            ("https://a..test/", UrlError::Host),
            ("https://[192.0.2.1]/", UrlError::Host),
            ("https://[::1]/", UrlError::Port),
            ("https://a.test:0/", UrlError::Port),
            ("https://a.test:65536/", UrlError::Port),
            ("https://a.test:+1/", UrlError::Port),
            ("https://u:pass@a.test/", UrlError::Port),
            ("https://a.test/#x", UrlError::Path),
            ("https://a.test/a b", UrlError::Path),
            ("https://a.test/ü", UrlError::Path),
            ("https://a.test/\r\nx: y", UrlError::Path),
            (&long, UrlError::Path),
        ] {
            assert_eq!(Url::parse(text), Err(error), "{text}");
        }
    }
}
