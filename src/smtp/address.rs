//! Addresses of the envelope: domains, mailboxes and paths, checked when they are made.
//!
//! Every value here is safe to print into a command: it holds no CR, LF, NUL or other control
//! octet, whatever the string it came from. There is deliberately no `From<String>`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use super::decimal::push_literal;

/// Why a string is not an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// There is nothing before the `@`, or a dot stands where none may.
    #[error("the local part is empty or malformed")]
    LocalPart,
    /// The domain is empty, too long, or holds a character no domain has.
    #[error("the domain is empty or malformed")]
    Domain,
    /// No `@`, where one is needed.
    #[error("the address has no domain")]
    NoDomain,
    /// The address is longer than any limit of RFC 5321 §4.5.3.1 can be read to allow.
    #[error("the address is too long")]
    TooLong,
    /// A control octet, which could forge a command.
    #[error("the address contains a control character")]
    Control,
}

/// A domain name or an address literal, as the right-hand side of an address and as a destination.
///
/// Names are kept in lower-case ASCII (A-labels, RFC 5890), so that two spellings of one domain are
/// one destination. No trailing dot. A clone shares the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(Arc<str>);

/// RFC 1035 §2.3.4 in presentation form.
const MAX_DOMAIN: usize = 253;
/// RFC 5321 §4.5.3.1.1 says 64, but VERP and SRS addresses in use are longer, and a relay that
/// refuses them loses bounces.
const MAX_LOCAL: usize = 255;

impl Domain {
    /// Parses a domain name, with U-labels allowed, or an address literal in square brackets.
    ///
    /// # Errors
    /// [`AddressError`] when it is neither.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.len() > 4 * MAX_DOMAIN {
            return Err(AddressError::TooLong);
        }
        if text.starts_with('[') {
            return literal(text).map(Self::from).ok_or(AddressError::Domain);
        }
        let ascii = if !text.is_ascii() {
            idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::EMPTY)
                .map_err(|_| AddressError::Domain)?
        } else if text.bytes().any(|octet| octet.is_ascii_uppercase()) {
            text.to_ascii_lowercase().into()
        } else {
            text.into()
        };
        if is_name(&ascii) { Ok(Self((&*ascii).into())) } else { Err(AddressError::Domain) }
    }

    /// The name in ASCII, or the literal with its brackets.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address, when this is an address literal (RFC 5321 §4.1.3).
    #[must_use]
    pub fn as_literal(&self) -> Option<IpAddr> {
        if self.0.starts_with('[') { literal(&self.0) } else { None }
    }
}

impl From<IpAddr> for Domain {
    fn from(ip: IpAddr) -> Self {
        let mut text = String::with_capacity("[255.255.255.255]".len());
        push_literal(&mut text, ip);
        Self(text.into())
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Domain {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

/// The name we give in EHLO and in Received: a domain or an address literal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EhloName(Domain);

impl EhloName {
    /// Parses the name. It should be the host's own, fully qualified, with an address record
    /// (RFC 5321 §2.3.5); many receivers refuse mail from hosts that say something else.
    ///
    /// # Errors
    /// [`AddressError`] when it is neither a domain name nor an address literal.
    pub fn new(name: &str) -> Result<Self, AddressError> {
        Domain::parse(name).map(Self)
    }

    /// As it is written in EHLO.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The same as a domain.
    #[must_use]
    pub const fn as_domain(&self) -> &Domain {
        &self.0
    }
}

impl From<IpAddr> for EhloName {
    /// The address literal, for a host without a name of its own.
    fn from(ip: IpAddr) -> Self {
        Self(ip.into())
    }
}

impl fmt::Display for EhloName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A mailbox: local part and domain. The local part is kept exactly as it was written
/// (RFC 5321 §2.4); the domain is kept for comparing and routing in ASCII and, where it was written
/// with U-labels, for showing as it was written. A clone shares the text.
#[derive(Clone)]
pub struct Mailbox {
    local: Arc<str>,
    domain: Domain,
    /// The domain as written, where that is not ASCII.
    shown: Option<Arc<str>>,
}

impl Mailbox {
    /// Parses `local@domain`, without angle brackets.
    ///
    /// # Errors
    /// [`AddressError`] with the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.chars().any(char::is_control) {
            return Err(AddressError::Control);
        }
        let at = local_end(text).ok_or(AddressError::LocalPart)?;
        let (local, rest) = text.split_at_checked(at).ok_or(AddressError::LocalPart)?;
        if local.is_empty() {
            return Err(AddressError::LocalPart);
        }
        let written = rest.strip_prefix('@').ok_or(AddressError::NoDomain)?;
        if local.len() > MAX_LOCAL {
            return Err(AddressError::TooLong);
        }
        let domain = Domain::parse(written)?;
        let shown = if written.is_ascii() { None } else { Some(written.into()) };
        Ok(Self { local: local.into(), domain, shown })
    }

    /// The local part as written, quotes included.
    #[must_use]
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The domain in ASCII: the destination.
    #[must_use]
    pub const fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Whether a hop without SMTPUTF8 can carry it as it is written (RFC 6531 §3.2).
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.local.is_ascii() && self.shown.is_none()
    }

    /// The same mailbox in ASCII, with the domain in A-labels; `None` when the local part is not
    /// ASCII, for which there is no such form.
    #[must_use]
    pub fn to_ascii(&self) -> Option<Self> {
        self.local.is_ascii().then(|| Self { shown: None, ..self.clone() })
    }
}

impl PartialEq for Mailbox {
    fn eq(&self, other: &Self) -> bool {
        self.local == other.local && self.domain == other.domain
    }
}

impl Eq for Mailbox {}

impl std::hash::Hash for Mailbox {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.local.hash(state);
        self.domain.hash(state);
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.local)?;
        f.write_str("@")?;
        f.write_str(self.shown.as_deref().unwrap_or_else(|| self.domain.as_str()))
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mailbox {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

/// The argument of MAIL FROM: a mailbox, or the null path of reports, to which nothing is ever
/// reported back (RFC 5321 §4.5.5).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum ReversePath {
    /// `<>`
    #[default]
    Null,
    /// `<local@domain>`
    Mailbox(Mailbox),
}

impl ReversePath {
    /// The mailbox, if there is one.
    #[must_use]
    pub const fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            Self::Null => None,
            Self::Mailbox(mailbox) => Some(mailbox),
        }
    }

    /// Whether a hop without SMTPUTF8 can carry it.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.mailbox().is_none_or(Mailbox::is_ascii)
    }

    /// Parses the path without its angle brackets; an empty string is the null path. A source
    /// route is accepted and dropped (RFC 5321 appendix C).
    ///
    /// # Errors
    /// [`AddressError`] with the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() { Ok(Self::Null) } else { Mailbox::parse(without_route(text)?).map(Self::Mailbox) }
    }
}

impl From<Mailbox> for ReversePath {
    fn from(mailbox: Mailbox) -> Self {
        Self::Mailbox(mailbox)
    }
}

impl fmt::Display for ReversePath {
    /// With angle brackets, as on the wire.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("<>"),
            Self::Mailbox(mailbox) => in_brackets(mailbox, f),
        }
    }
}

/// The argument of RCPT TO: a mailbox, or a bare `postmaster` (RFC 5321 §4.5.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ForwardPath {
    /// `<Postmaster>`, the one recipient that needs no domain.
    Postmaster,
    /// `<local@domain>`
    Mailbox(Mailbox),
}

impl ForwardPath {
    /// The mailbox, if it has a domain.
    #[must_use]
    pub const fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            Self::Postmaster => None,
            Self::Mailbox(mailbox) => Some(mailbox),
        }
    }

    /// Parses the path without its angle brackets; a source route is accepted and dropped.
    ///
    /// # Errors
    /// [`AddressError`] with the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.eq_ignore_ascii_case("postmaster") {
            Ok(Self::Postmaster)
        } else {
            Mailbox::parse(without_route(text)?).map(Self::Mailbox)
        }
    }
}

impl From<Mailbox> for ForwardPath {
    fn from(mailbox: Mailbox) -> Self {
        Self::Mailbox(mailbox)
    }
}

impl fmt::Display for ForwardPath {
    /// With angle brackets, as on the wire.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postmaster => f.write_str("<postmaster>"),
            Self::Mailbox(mailbox) => in_brackets(mailbox, f),
        }
    }
}

fn in_brackets(mailbox: &Mailbox, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("<")?;
    fmt::Display::fmt(mailbox, f)?;
    f.write_str(">")
}

/// `@one,@two:local@domain` without the part that nobody follows any more.
fn without_route(text: &str) -> Result<&str, AddressError> {
    if !text.starts_with('@') {
        return Ok(text);
    }
    let (route, rest) = text.split_once(':').ok_or(AddressError::NoDomain)?;
    for hop in route.split(',') {
        Domain::parse(hop.strip_prefix('@').ok_or(AddressError::Domain)?)?;
    }
    Ok(rest)
}

/// Where the local part ends, or `None` when it is malformed: a dot-string or a quoted string of
/// RFC 5321 §4.1.2, with the UTF-8 of RFC 6531 §3.3.
fn local_end(text: &str) -> Option<usize> {
    if text.starts_with('"') {
        let mut escaped = false;
        for (at, c) in text.char_indices().skip(1) {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => return Some(at + 1),
                _ => {}
            }
        }
        return None;
    }
    let end = text.find('@').unwrap_or(text.len());
    let local = text.get(..end)?;
    local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext)).then_some(end)
}

fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || (!c.is_ascii() && !c.is_control())
}

fn is_name(name: &str) -> bool {
    name.len() <= MAX_DOMAIN
        && name.split('.').all(|label| {
            // The underscore is no letter of a host name, yet mail domains with one exist.
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

fn literal(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    match inner.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => {
            inner.get(5..)?.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
        }
        _ => inner.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_forge_a_command_is_no_address() {
        for text in [
            "a@b\r\nRCPT TO:<c@d>",
            "a\n@b",
            "\"a\rb\"@c",
            "a\0@b",
            "a@b\0",
            "\"a\u{7f}\"@b",
            "a@b>",
            "a b@c",
            "<a@b",
        ] {
            assert!(Mailbox::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn mailboxes_that_are_in_use_parse_and_print_as_written() {
        for text in [
            "ada@example.org",
            "\"odd local\"@example.org",
            "a+b=c@x-y.example",
            "o'hara@b.test",
            "u@[192.0.2.1]",
            "u@[IPv6:2001:db8::1]",
            "\"a\\\"b@c\"@d.test",
            "grün@example.org",
            "postmaster@localhost",
        ] {
            assert_eq!(Mailbox::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn malformed_mailboxes_say_which_part_is_wrong() {
        for (text, error) in [
            ("@b", AddressError::LocalPart),
            ("a..b@c", AddressError::LocalPart),
            (".a@c", AddressError::LocalPart),
            ("a", AddressError::NoDomain),
            ("a@", AddressError::Domain),
            ("a@b..c", AddressError::Domain),
            ("a@-b", AddressError::Domain),
            ("a@[1.2.3]", AddressError::Domain),
            ("\"a@b", AddressError::LocalPart),
            ("a@b@c", AddressError::Domain),
        ] {
            assert_eq!(Mailbox::parse(text), Err(error), "{text}");
        }
        assert_eq!(Mailbox::parse(&format!("{}@b", "a".repeat(256))), Err(AddressError::TooLong));
        assert!(Mailbox::parse(&format!("a@{}", "b.".repeat(200))).is_err());
    }

    #[test]
    fn domains_compare_without_case_and_in_a_labels() {
        assert_eq!(Domain::parse("EXAMPLE.org").unwrap(), Domain::parse("example.ORG").unwrap());
        let bucher = Mailbox::parse("x@bücher.example").unwrap();
        assert_eq!(bucher.domain().as_str(), "xn--bcher-kva.example");
        assert!(!bucher.is_ascii());
        assert_eq!(bucher.to_ascii().unwrap().to_string(), "x@xn--bcher-kva.example");
        assert!(Mailbox::parse("grün@example.org").unwrap().to_ascii().is_none());
    }

    #[test]
    fn the_local_part_keeps_its_case() {
        // RFC 5321 §2.4
        assert_ne!(Mailbox::parse("Ada@x.test").unwrap(), Mailbox::parse("ada@x.test").unwrap());
    }

    #[test]
    fn source_routes_are_dropped() {
        // RFC 5321 appendix C
        assert_eq!(ForwardPath::parse("@a.test,@b.test:c@d.test").unwrap().to_string(), "<c@d.test>");
        assert!(ForwardPath::parse("@a b:c@d").is_err());
        assert_eq!(ForwardPath::parse("PostMaster").unwrap(), ForwardPath::Postmaster);
        assert_eq!(ReversePath::parse("").unwrap(), ReversePath::Null);
    }
}
