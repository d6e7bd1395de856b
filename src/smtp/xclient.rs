//! XCLIENT is a proxy's word for the client behind it, as Postfix defined it (`XCLIENT_README`).
//!
//! Whoever may say it decides who a session is with, so that a server believes it from peers it was
//! told to trust, and from nobody else.

use std::net::IpAddr;

use super::command::name;
use super::params::XText;

/// The attributes of one XCLIENT command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Xclient {
    /// `NAME`: the client's host name by its address.
    pub name: Attribute<Box<str>>,
    /// `ADDR`: the client's address.
    pub address: Attribute<IpAddr>,
    /// `PORT`: the client's port.
    pub port: Attribute<u16>,
    /// `PROTO`: whether the client said EHLO, not HELO.
    pub extended: Attribute<bool>,
    /// `HELO`: the name that the client gave.
    pub hello: Attribute<Box<str>>,
    /// `LOGIN`: the user that the proxy let in.
    pub login: Attribute<Box<str>>,
    /// `DESTADDR`: the address that the client connected to.
    pub local_address: Attribute<IpAddr>,
    /// `DESTPORT`: the port that the client connected to.
    pub local_port: Attribute<u16>,
}

/// Which of the attributes were told, in the order of [`Xclient`].
pub(super) type Told = [bool; 8];

/// What a proxy says about one thing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Attribute<T> {
    /// Nothing: what was told before stays.
    #[default]
    Untold,
    /// `[UNAVAILABLE]`: there is none, or the proxy does not know.
    Unavailable,
    /// `[TEMPUNAVAIL]`: asking again later may help.
    NotNow,
    /// This.
    Is(T),
}

impl<T> Attribute<T> {
    /// The value, where one was told.
    pub const fn value(&self) -> Option<&T> {
        match self {
            Self::Is(value) => Some(value),
            Self::Untold | Self::Unavailable | Self::NotNow => None,
        }
    }

    /// Whether the proxy said nothing about it.
    #[must_use]
    pub const fn is_untold(&self) -> bool {
        matches!(self, Self::Untold)
    }

    /// False when it was told already, or cannot be read.
    fn tell(&mut self, wire: &str, read: impl FnOnce(&str) -> Option<T>) -> bool {
        let Ok(text) = XText::decode(wire, MAX_VALUE) else { return false };
        let told = match text.as_str() {
            word if word.eq_ignore_ascii_case("[UNAVAILABLE]") => Some(Self::Unavailable),
            word if word.eq_ignore_ascii_case("[TEMPUNAVAIL]") => Some(Self::NotNow),
            word => read(word).map(Self::Is),
        };
        let fits = self.is_untold() && told.is_some();
        *self = told.unwrap_or_default();
        fits
    }
}

impl Xclient {
    /// The names of all attributes, as they are announced behind `XCLIENT`.
    pub(crate) const ATTRIBUTES: &str = "NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT";

    /// Reads the argument of the command: at least one `NAME=value`, none twice.
    pub(super) fn parse(argument: &str) -> Option<Self> {
        let mut told = Self::default();
        for word in argument.split(' ').filter(|word| !word.is_empty()) {
            let (attribute, wire) = word.split_once('=')?;
            let fits = match attribute.to_ascii_uppercase().as_str() {
                "NAME" => told.name.tell(wire, |word| name(word).ok()),
                "ADDR" => told.address.tell(wire, address),
                "PORT" => told.port.tell(wire, port),
                "PROTO" => told.extended.tell(wire, protocol),
                "HELO" => told.hello.tell(wire, |word| name(word).ok()),
                "LOGIN" => told.login.tell(wire, login),
                "DESTADDR" => told.local_address.tell(wire, address),
                "DESTPORT" => told.local_port.tell(wire, port),
                _ => false,
            };
            if !fits {
                return None;
            }
        }
        (told != Self::default()).then_some(told)
    }

    /// Which attributes were told.
    pub(super) const fn told(&self) -> Told {
        [
            !self.name.is_untold(),
            !self.address.is_untold(),
            !self.port.is_untold(),
            !self.extended.is_untold(),
            !self.hello.is_untold(),
            !self.login.is_untold(),
            !self.local_address.is_untold(),
            !self.local_port.is_untold(),
        ]
    }
}

/// IPv6 has `IPV6:` in front, but not all proxies know.
fn address(text: &str) -> Option<IpAddr> {
    match text.split_at_checked(5) {
        Some((tag, rest)) if tag.eq_ignore_ascii_case("IPV6:") => {
            rest.parse().ok().filter(|address: &IpAddr| address.is_ipv6())
        }
        _ => text.parse().ok(),
    }
}

fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()))
}

fn protocol(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("ESMTP") {
        Some(true)
    } else {
        text.eq_ignore_ascii_case("SMTP").then_some(false)
    }
}

fn login(text: &str) -> Option<Box<str>> {
    (1..=MAX_LOGIN).contains(&text.len()).then(|| text.into())
}

/// A name of 255 characters, each of them encoded.
const MAX_VALUE: usize = 3 * 255;
/// As long as a name may be.
const MAX_LOGIN: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_postfix_defined_them() {
        let told = Xclient::parse(
            "NAME=spike.test ADDR=192.0.2.7 port=4321 PROTO=esmtp HELO=[192.0.2.7] LOGIN=ada+20l+2B \
             DESTADDR=IPV6:2001:db8::1 DESTPORT=25",
        )
        .unwrap();
        assert_eq!(told.name, Attribute::Is("spike.test".into()));
        assert_eq!(told.address.value().unwrap().to_string(), "192.0.2.7");
        assert_eq!((told.port.value(), told.extended.value()), (Some(&4321), Some(&true)));
        assert_eq!(told.hello, Attribute::Is("[192.0.2.7]".into()));
        assert_eq!(told.login, Attribute::Is("ada l+".into()));
        assert_eq!(told.local_address.value().unwrap().to_string(), "2001:db8::1");
        assert_eq!(told.local_port, Attribute::Is(25));
        let told = Xclient::parse("NAME=[tempunavail]  LOGIN=[UNAVAILABLE] ").unwrap();
        assert_eq!((told.name, told.login), (Attribute::NotNow, Attribute::Unavailable));
        assert!(told.address.is_untold());
    }

    #[test]
    fn what_cannot_be_read_is_no_command() {
        let long = format!("LOGIN={}", "x".repeat(256));
        for argument in [
            "",
            "NAME",
            "NAME=",
            "FOO=1",
            "NAME=a NAME=b",
            "NAME=[UNAVAILABLE] NAME=b",
            "NAME=a+2",
            "NAME=a+0Ab",
            "NAME=a(b",
            "HELO=a+20b",
            "ADDR=192.0.2",
            "ADDR=[192.0.2.1]",
            "ADDR=IPV6:192.0.2.1",
            "PORT=65536",
            "PORT=+1",
            "PROTO=LMTP",
            "LOGIN=",
            &long,
        ] {
            assert_eq!(Xclient::parse(argument), None, "{argument}");
        }
    }
}
