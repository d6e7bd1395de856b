//! Macros put what is known of a message into the name that is asked for (RFC 7208 §7).

use std::fmt::Write as _;
use std::net::IpAddr;

use super::SpfFault;
use crate::route::dns::DnsName;

/// A text with macros in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spec(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Macro(Macro),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Macro {
    /// In lower case.
    letter: char,
    /// Whether it was in upper case, which escapes what no URL may have.
    escape: bool,
    /// How many of the parts are left, from the right.
    keep: Option<usize>,
    reverse: bool,
    /// What the parts are separated by; a dot where there is nothing.
    delimiters: String,
}

/// What macros stand for.
#[derive(Debug, Clone)]
pub(crate) struct Values<'a> {
    pub(crate) local: &'a str,
    pub(crate) sender_domain: &'a str,
    /// The domain whose record it is.
    pub(crate) domain: &'a str,
    pub(crate) ip: IpAddr,
    pub(crate) helo: &'a str,
    /// The name of the address, if it was looked for.
    pub(crate) name: &'a str,
}

impl Spec {
    /// A `domain-spec`: it ends in a macro or in a label that can be a top-level domain's.
    pub(crate) fn domain(text: &str) -> Result<Self, SpfFault> {
        let spec = Self::text(text)?;
        match spec.0.last() {
            Some(Part::Macro(_)) => Ok(spec),
            Some(Part::Literal(end)) if ends_in_label(end) => Ok(spec),
            _ => Err(SpfFault::Syntax),
        }
    }

    /// A `macro-string`.
    pub(crate) fn text(text: &str) -> Result<Self, SpfFault> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            rest = rest.get(c.len_utf8()..).unwrap_or_default();
            if !c.is_ascii_graphic() {
                return Err(SpfFault::Syntax);
            }
            if c != '%' {
                literal.push(c);
                continue;
            }
            let (next, after) = rest.split_at_checked(1).ok_or(SpfFault::Syntax)?;
            rest = after;
            match next {
                "%" => literal.push('%'),
                "_" => literal.push(' '),
                "-" => literal.push_str("%20"),
                "{" => {
                    let (inner, after) = rest.split_once('}').ok_or(SpfFault::Syntax)?;
                    rest = after;
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::Macro(Macro::parse(inner)?));
                }
                _ => return Err(SpfFault::Syntax),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self(parts))
    }

    /// Whether the name of the address must be looked for.
    pub(crate) fn needs_name(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Macro(Macro { letter: 'p', .. })))
    }

    /// The name; `None` when what comes out can be none.
    pub(crate) fn name(&self, values: &Values<'_>) -> Option<DnsName> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Macro(of) => of.expand(values, &mut text),
            }
            // Each value is short, but there may be as many as the record has room for.
            if text.len() > MAX_EXPANDED {
                return None;
            }
        }
        // RFC 7208 §7.3: labels go from the left until it fits.
        let mut name = text.strip_suffix('.').unwrap_or(&text);
        while name.len() > MAX_NAME {
            name = name.split_once('.')?.1;
        }
        DnsName::new(name)
    }
}

impl Macro {
    fn parse(text: &str) -> Result<Self, SpfFault> {
        let mut chars = text.chars();
        let letter = chars.next().ok_or(SpfFault::Syntax)?;
        let rest = chars.as_str();
        // `c`, `r` and `t` are for explanations only.
        if !"slodiphv".contains(letter.to_ascii_lowercase()) {
            return Err(SpfFault::Syntax);
        }
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = rest.split_at_checked(digits).ok_or(SpfFault::Syntax)?;
        let keep = match number.trim_start_matches('0') {
            "" if number.is_empty() => None,
            // RFC 7208 §7.1: not zero.
            "" => return Err(SpfFault::Syntax),
            // No value has more parts than this can count.
            number => Some(number.parse().unwrap_or(usize::MAX)),
        };
        let (reverse, delimiters) = match rest.strip_prefix(['r', 'R']) {
            Some(delimiters) => (true, delimiters),
            None => (false, rest),
        };
        if !delimiters.chars().all(|c| ".-+,/_=".contains(c)) {
            return Err(SpfFault::Syntax);
        }
        let (escape, letter) = (letter.is_ascii_uppercase(), letter.to_ascii_lowercase());
        Ok(Self { letter, escape, keep, reverse, delimiters: delimiters.to_owned() })
    }

    fn expand(&self, values: &Values<'_>, out: &mut String) {
        let value = match self.letter {
            's' => format!("{}@{}", values.local, values.sender_domain),
            'l' => values.local.to_owned(),
            'o' => values.sender_domain.to_owned(),
            'd' => values.domain.to_owned(),
            'i' => dotted(values.ip),
            'p' => values.name.to_owned(),
            'h' => values.helo.to_owned(),
            _ if values.ip.is_ipv4() => "in-addr".to_owned(),
            _ => "ip6".to_owned(),
        };
        let value = if self.keep.is_none() && !self.reverse && self.delimiters.is_empty() {
            value
        } else {
            let delimiters = if self.delimiters.is_empty() { "." } else { &self.delimiters };
            let mut parts: Vec<_> = value.split(|c| delimiters.contains(c)).collect();
            if self.reverse {
                parts.reverse();
            }
            let from = parts.len().saturating_sub(self.keep.unwrap_or(usize::MAX));
            parts.get(from..).unwrap_or_default().join(".")
        };
        if self.escape { escaped(&value, out) } else { out.push_str(&value) }
    }
}

/// RFC 7208 §7.3: an IPv6 address digit by digit.
fn dotted(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => {
            let digits: Vec<_> = format!("{:032x}", u128::from(v6)).chars().map(String::from).collect();
            digits.join(".")
        }
    }
}

/// RFC 3986 §2.3: all but the unreserved characters.
fn escaped(value: &str, out: &mut String) {
    for octet in value.bytes() {
        if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
            out.push(char::from(octet));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{octet:02X}");
        }
    }
}

/// RFC 7208 §7.1: `domain-end` and `toplabel`.
fn ends_in_label(literal: &str) -> bool {
    let literal = literal.strip_suffix('.').unwrap_or(literal);
    // A macro may stand before the dot.
    let Some((_, label)) = literal.rsplit_once('.') else { return false };
    !label.is_empty()
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
        && !label.bytes().all(|b| b.is_ascii_digit())
}

/// As long as a name can be (RFC 1035 §2.3.4).
const MAX_NAME: usize = 253;
/// Thirty times as long as a name: what is cut off in front has to be made first.
const MAX_EXPANDED: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str, ip: &str) -> Option<String> {
        let values = Values {
            local: "strong-bad",
            sender_domain: "email.example.com",
            domain: "email.example.com",
            ip: ip.parse().unwrap(),
            helo: "mx.example.org",
            name: "mx.example.org",
        };
        Spec::text(text).unwrap().name(&values).map(|name| name.to_string())
    }

    #[test]
    fn the_examples_of_the_rfc() {
        // RFC 7208 §7.4
        for (text, expected) in [
            ("%{s}", "strong-bad@email.example.com"),
            ("%{o}", "email.example.com"),
            ("%{d}", "email.example.com"),
            ("%{d4}", "email.example.com"),
            ("%{d3}", "email.example.com"),
            ("%{d2}", "example.com"),
            ("%{d1}", "com"),
            ("%{dr}", "com.example.email"),
            ("%{d2r}", "example.email"),
            ("%{l}", "strong-bad"),
            ("%{l-}", "strong.bad"),
            ("%{lr}", "strong-bad"),
            ("%{lr-}", "bad.strong"),
            ("%{l1r-}", "strong"),
            ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
            ("%{lr-}.lp._spf.%{d2}", "bad.strong.lp._spf.example.com"),
            ("%{lr-}.lp.%{ir}.%{v}._spf.%{d2}", "bad.strong.lp.3.2.0.192.in-addr._spf.example.com"),
            ("%{ir}.%{v}.%{l1r-}.lp._spf.%{d2}", "3.2.0.192.in-addr.strong.lp._spf.example.com"),
            ("%{d2}.trusted-domains.example.net", "example.com.trusted-domains.example.net"),
            ("%{h1}.%{p2}", "org.example.org"),
            ("%{S}", "strong-bad%40email.example.com"),
            ("a%%b%-c", "a%b%20c"),
            ("%{d00002}", "example.com"),
            ("%{d99999999999999999999}", "email.example.com"),
        ] {
            assert_eq!(expand(text, "192.0.2.3").as_deref(), Some(expected), "{text}");
        }
        assert_eq!(
            expand("%{ir}.%{v}._spf.%{d2}", "2001:db8::cb01").as_deref(),
            Some("1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6._spf.example.com")
        );
    }

    #[test]
    fn a_name_that_is_too_long_loses_labels_from_the_left_and_what_is_none_is_nothing() {
        let long = format!("{}end.test", "0123456789.".repeat(30));
        let name = expand(&long, "192.0.2.3").unwrap();
        assert!(name.len() <= 253 && name.len() > 240 && name.ends_with(".end.test"), "{name}");
        for text in ["a..test", "a%_b.test", &"x".repeat(64), &"x".repeat(300), &"%{s}".repeat(400), "."] {
            assert_eq!(expand(text, "192.0.2.3"), None, "{text}");
        }
    }
}
