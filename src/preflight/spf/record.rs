//! A record as RFC 7208 §12 has it: terms, each a mechanism or a modifier, all of them read before any is
//! used, so that a fault in the last one is no secret of those whose mail gets so far.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::SpfFault;
use super::macros::Spec;

/// An SPF record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// In order.
    pub(crate) directives: Vec<Directive>,
    /// Where to look when no directive matches.
    pub(crate) redirect: Option<Spec>,
}

/// A mechanism, and what it means when it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directive {
    pub(crate) qualifier: Qualifier,
    pub(crate) mechanism: Mechanism,
}

/// RFC 7208 §4.6.2
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Qualifier {
    Pass,
    Fail,
    SoftFail,
    Neutral,
}

/// RFC 7208 §5. Without a name it is about the domain of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mechanism {
    All,
    Include(Spec),
    A(Option<Spec>, Prefixes),
    Mx(Option<Spec>, Prefixes),
    Ptr(Option<Spec>),
    Ip4(Ipv4Addr, u8),
    Ip6(Ipv6Addr, u8),
    Exists(Spec),
}

/// How many bits of an address count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prefixes {
    pub(crate) v4: u8,
    pub(crate) v6: u8,
}

impl Record {
    /// Whether a TXT record is one of SPF (RFC 7208 §4.5): the version, then a space or nothing.
    pub(crate) fn is_one(text: &[u8]) -> bool {
        match text.split_at_checked(VERSION.len()) {
            Some((version, rest)) => {
                version.eq_ignore_ascii_case(VERSION.as_bytes()) && matches!(rest, [] | [b' ', ..])
            }
            None => false,
        }
    }

    /// Parses what [`Record::is_one`].
    pub(crate) fn parse(text: &[u8]) -> Result<Self, SpfFault> {
        if text.len() > MAX_RECORD {
            return Err(SpfFault::TooLong);
        }
        let text = std::str::from_utf8(text).ok().filter(|text| text.is_ascii()).ok_or(SpfFault::Syntax)?;
        let terms = text.get(VERSION.len()..).ok_or(SpfFault::Syntax)?;
        let mut record = Self { directives: Vec::new(), redirect: None };
        let mut explained = false;
        for term in terms.split(' ').filter(|term| !term.is_empty()) {
            match modifier(term) {
                Some((name, value)) if name.eq_ignore_ascii_case("redirect") => {
                    let spec = Spec::domain(value)?;
                    // RFC 7208 §6: each of the two once at most.
                    if record.redirect.replace(spec).is_some() {
                        return Err(SpfFault::Twice);
                    }
                }
                Some((name, value)) if name.eq_ignore_ascii_case("exp") => {
                    Spec::domain(value)?;
                    if std::mem::replace(&mut explained, true) {
                        return Err(SpfFault::Twice);
                    }
                }
                // RFC 7208 §6: what nobody knows must still read.
                Some((_, value)) => drop(Spec::text(value)?),
                None => record.directives.push(Directive::parse(term)?),
            }
        }
        Ok(record)
    }
}

/// `name=value`. A directive has no `=` before its first `:` or `/`.
fn modifier(term: &str) -> Option<(&str, &str)> {
    let (name, value) = term.split_once('=')?;
    let mut letters = name.bytes();
    let is_name = letters.next().is_some_and(|b| b.is_ascii_alphabetic())
        && letters.all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    is_name.then_some((name, value))
}

impl Directive {
    fn parse(term: &str) -> Result<Self, SpfFault> {
        let (qualifier, rest) = match term.split_at_checked(1) {
            Some(("+", rest)) => (Qualifier::Pass, rest),
            Some(("-", rest)) => (Qualifier::Fail, rest),
            Some(("~", rest)) => (Qualifier::SoftFail, rest),
            Some(("?", rest)) => (Qualifier::Neutral, rest),
            _ => (Qualifier::Pass, term),
        };
        let end = rest.find([':', '/']).unwrap_or(rest.len());
        let (name, argument) = rest.split_at_checked(end).ok_or(SpfFault::Syntax)?;
        let mechanism = match (name.to_ascii_lowercase().as_str(), argument) {
            ("all", "") => Mechanism::All,
            ("include", argument) => Mechanism::Include(required(argument)?),
            ("exists", argument) => Mechanism::Exists(required(argument)?),
            ("a", argument) => {
                let (name, prefixes) = dual(argument)?;
                Mechanism::A(optional(name)?, prefixes)
            }
            ("mx", argument) => {
                let (name, prefixes) = dual(argument)?;
                Mechanism::Mx(optional(name)?, prefixes)
            }
            ("ptr", argument) => Mechanism::Ptr(optional(argument)?),
            ("ip4", argument) => {
                let (address, bits) = network(argument, 32)?;
                Mechanism::Ip4(address.parse().map_err(|_| SpfFault::Syntax)?, bits)
            }
            ("ip6", argument) => {
                let (address, bits) = network(argument, 128)?;
                Mechanism::Ip6(address.parse().map_err(|_| SpfFault::Syntax)?, bits)
            }
            _ => return Err(SpfFault::Syntax),
        };
        Ok(Self { qualifier, mechanism })
    }
}

fn required(argument: &str) -> Result<Spec, SpfFault> {
    Spec::domain(argument.strip_prefix(':').ok_or(SpfFault::Syntax)?)
}

fn optional(argument: &str) -> Result<Option<Spec>, SpfFault> {
    if argument.is_empty() { Ok(None) } else { required(argument).map(Some) }
}

/// `:address` or `:address/bits`
fn network(argument: &str, most: u8) -> Result<(&str, u8), SpfFault> {
    let argument = argument.strip_prefix(':').ok_or(SpfFault::Syntax)?;
    match argument.split_once('/') {
        Some((address, bits)) => Ok((address, prefix(bits, most)?)),
        None => Ok((argument, most)),
    }
}

/// Takes `/bits`, `//bits` or `/bits//bits` off the end. A slash may stand in a name, also in a macro; the
/// lengths begin where digits and slashes are all that is left.
fn dual(argument: &str) -> Result<(&str, Prefixes), SpfFault> {
    let mut prefixes = Prefixes { v4: 32, v6: 128 };
    let mut rest = argument;
    if let Some((before, bits)) = rest.rsplit_once("//").filter(|(_, bits)| is_number(bits)) {
        prefixes.v6 = prefix(bits, 128)?;
        rest = before;
    }
    if let Some((before, bits)) = rest.rsplit_once('/').filter(|(_, bits)| is_number(bits)) {
        prefixes.v4 = prefix(bits, 32)?;
        rest = before;
    }
    Ok((rest, prefixes))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn prefix(text: &str, most: u8) -> Result<u8, SpfFault> {
    // No sign, and no zero in front of another digit.
    let is_short = is_number(text) && (text.len() == 1 || !text.starts_with('0'));
    let bits = text.parse().ok().filter(|bits| is_short && *bits <= most);
    bits.ok_or(SpfFault::Syntax)
}

const VERSION: &str = "v=spf1";
/// Records in use have some hundred octets, and RFC 7208 §3.4 advises to stay within 450.
const MAX_RECORD: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_makes_the_record() {
        for (text, is) in [
            ("v=spf1", true),
            ("V=SPF1 -all", true),
            ("v=spf1  ", true),
            ("v=spf10", false),
            ("v=spf1\t-all", false),
            (" v=spf1", false),
            ("v=spf", false),
            ("", false),
        ] {
            assert_eq!(Record::is_one(text.as_bytes()), is, "{text:?}");
        }
    }

    #[test]
    fn terms_that_read() {
        for term in [
            "all",
            "-ALL",
            "~all",
            "?all",
            "a",
            "A:x.test",
            "a/24",
            "a//64",
            "a/24//64",
            "a:x.test/24//64",
            "mx",
            "mx/0",
            "mx:x.test//0",
            "mx/32//128",
            "ptr",
            "ptr:x.test",
            "ip4:192.0.2.1",
            "ip4:0.0.0.0/0",
            "ip6:::",
            "ip6:2001:db8::/32",
            "ip6:::ffff:192.0.2.1/128",
            "include:x.test",
            "include:x.test.",
            "exists:%{ir}.x.test",
            "exists:%{d}",
            "redirect=x.test",
            "exp=%{d}",
            "moo=cow",
            "moo.1-_=%%:/%_",
            "x=",
            "a:x_y.test",
            "a:%{d2}/24",
            "exists:%{l1r-}.%{d}",
            "include:a/b.test",
            "exists:x.%{h1R+}",
            "a:x-y.t-1",
            "redirect=%{D}",
        ] {
            let text = format!("v=spf1 {term}");
            assert!(Record::parse(text.as_bytes()).is_ok(), "{text}");
        }
        let record = Record::parse(b"v=spf1 a:x.test/8//16 +mx  ip4:192.0.2.0/24 redirect=y.test ").unwrap();
        assert_eq!(record.directives.len(), 3);
        assert_eq!(
            record.directives[0].mechanism,
            Mechanism::A(Some(Spec::domain("x.test").unwrap()), Prefixes { v4: 8, v6: 16 })
        );
        assert!(record.redirect.is_some());
    }

    #[test]
    fn terms_that_do_not() {
        for term in [
            "al",
            "all:",
            "all/8",
            "+",
            "--all",
            "include",
            "include:",
            "include:x",
            "include:x.1",
            "exists",
            "exists:",
            "a:",
            "a:/24",
            "a/33",
            "a/024",
            "a/",
            "a//129",
            "a//",
            "a/24/64",
            "a/24//",
            "a:x",
            "a=x y",
            "mx:",
            "ptr:",
            "ptr/24",
            "ip4",
            "ip4:",
            "ip4:1.2.3",
            "ip4:1.2.3.4/33",
            "ip4:1.2.3.4/",
            "ip4:::1",
            "ip4:1.2.3.4//24",
            "ip4:01.2.3.4",
            "ip6:",
            "ip6:1.2.3.4",
            "ip6:::1/129",
            "ip6:::1//64",
            "redirect=",
            "redirect=x",
            "exp=",
            "exp=x",
            "redirect=x.test redirect=y.test",
            "exp=x.test exp=y.test",
            "a:%{x}.test",
            "a:%{d0}.test",
            "a:%{d",
            "a:%x.test",
            "a:%",
            "a:%{d}x",
            "exists:%{c}.test",
            "moo=%{q}",
            "1x=y",
            "=y",
            "-moo=y",
            "a:x.-y",
            "a:x.y-",
            "a:%{d3x}",
            "a:x..",
            "a:%%",
        ] {
            let text = format!("v=spf1 {term}");
            assert!(Record::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(Record::parse(b"v=spf1 a:\xc3\xbc.test"), Err(SpfFault::Syntax));
        assert_eq!(Record::parse(&[b"v=spf1 ", &[b' '; 8186][..]].concat()), Err(SpfFault::TooLong));
        assert!(Record::parse(&[b"v=spf1 ", &[b' '; 8185][..]].concat()).is_ok());
    }
}
