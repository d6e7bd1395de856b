//! Where a mailer sends to, read from `host:port` or from a URL.

use std::net::IpAddr;

use super::MailerError;
use crate::hop::TlsStart;
use crate::smtp::address::Domain;
use crate::smtp::sasl::Credentials;

/// A relay.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) name: Domain,
    pub(super) port: u16,
    /// Where the port does not tell.
    pub(super) tls_start: Option<TlsStart>,
}

impl Target {
    /// `host`, `host:port`, `[address]` or `[address]:port`.
    pub(super) fn parse(text: &str, default_port: u16) -> Result<Self, MailerError> {
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']').ok_or(MailerError::Address)?;
                match port.strip_prefix(':') {
                    Some(port) => (address, Some(port)),
                    None if port.is_empty() => (address, None),
                    None => return Err(MailerError::Address),
                }
            }
            None => match text.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (text, None),
            },
        };
        let port = match port {
            None => default_port,
            // `parse` would take a sign.
            Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port > 0).ok_or(MailerError::Address)?
            }
            Some(_) => return Err(MailerError::Address),
        };
        let address = name.strip_prefix("IPv6:").unwrap_or(name).parse::<IpAddr>().ok();
        let name = match address {
            Some(address) => Domain::from(address),
            None if text.starts_with('[') => return Err(MailerError::Address),
            None => Domain::parse(name)?,
        };
        Ok(Self { name, port, tls_start: None })
    }

    /// `smtp://` or `smtps://`, a login or none, host and port.
    pub(super) fn from_url(url: &str) -> Result<(Self, Option<Credentials>), MailerError> {
        let (scheme, rest) = url.split_once("://").ok_or(MailerError::Url)?;
        let (start, default_port) = match scheme.to_ascii_lowercase().as_str() {
            "smtps" => (TlsStart::Implicit, 465),
            "smtp" => (TlsStart::StartTls, super::SUBMISSION),
            _ => return Err(MailerError::Url),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err(MailerError::Url);
        }
        let (login, host) = match rest.rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, rest),
        };
        let credentials = match login {
            Some(login) => {
                let (user, password) = login.split_once(':').ok_or(MailerError::Url)?;
                Some(Credentials::new(decode(user)?, decode(password)?))
            }
            None => None,
        };
        let mut target = Self::parse(host, default_port)?;
        target.tls_start = Some(start);
        Ok((target, credentials))
    }
}

/// RFC 3986 §2.1
fn decode(text: &str) -> Result<String, MailerError> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        if octet == b'%' {
            let mut digit = || rest.next().and_then(|d| char::from(d).to_digit(16)).ok_or(MailerError::Url);
            let value = digit()? * 16 + digit()?;
            octets.push(u8::try_from(value).map_err(|_| MailerError::Url)?);
        } else {
            octets.push(octet);
        }
    }
    String::from_utf8(octets).map_err(|_| MailerError::Url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        let of = |text| Target::parse(text, 587).map(|t| (t.name.to_string(), t.port)).ok();
        let is = |name: &str, port| Some((name.to_owned(), port));
        assert_eq!(of("smtp.a.test:2525"), is("smtp.a.test", 2525));
        assert_eq!(of("smtp.a.test"), is("smtp.a.test", 587));
        assert_eq!(of("127.0.0.1:25"), is("[127.0.0.1]", 25));
        assert_eq!(of("[127.0.0.1]:25"), is("[127.0.0.1]", 25));
        assert_eq!(of("[::1]:25"), is("[IPv6:::1]", 25));
        assert_eq!(of("[IPv6:::1]"), is("[IPv6:::1]", 587));
        for wrong in [
            "",
            ":25",
            "a.test:",
            "a.test:x",
            "a.test:+25",
            "a.test:0",
            "a.test:65536",
            "a b:25",
            "[a.test]:25",
            "[::1",
            "[::1]25",
            "::1",
            "a.test:25:26",
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_url_says_how_tls_begins_and_who_logs_in() {
        let of = |url| {
            Target::from_url(url).ok().map(|(target, login)| {
                let login = login.map(|l| (l.user().to_owned(), l.password().unwrap_or_default().to_owned()));
                (target.name.to_string(), target.port, target.tls_start.unwrap(), login)
            })
        };
        let login = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        let name = || "h.test".to_owned();
        assert_eq!(of("smtps://u:p@h.test"), Some((name(), 465, TlsStart::Implicit, login("u", "p"))));
        assert_eq!(of("smtp://u:p@h.test/"), Some((name(), 587, TlsStart::StartTls, login("u", "p"))));
        assert_eq!(of("SMTP://h.test:25"), Some((name(), 25, TlsStart::StartTls, None)));
        assert_eq!(
            of("smtps://a%40b.test:%70%3a%C3%A4:x@h.test"),
            Some((name(), 465, TlsStart::Implicit, login("a@b.test", "p:ä:x")))
        );
        for wrong in [
            "h.test",
            "http://h.test",
            "smtp://u@h.test",
            "smtp://u:%4@h.test",
            "smtp://u:%zz@h.test",
            "smtp://u:%ff@h.test",
            "smtp://h.test/x",
            "smtp://h.test?x",
            "smtp://",
            "smtp://u:p@",
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
