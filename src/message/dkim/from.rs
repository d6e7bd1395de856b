//! Who a message says it is from: the domains of the addresses in a From field, and nothing else of it.
//!
//! A scanner over RFC 5322 §3.4: comments, quoted strings and display names are passed over, groups are
//! opened. What it is not sure of is `None`, and such a message is not signed.

use crate::smtp::address::Domain;

/// More authors than that sign nothing together.
const MAX_ADDRESSES: usize = 64;
/// Comments within comments.
const MAX_DEPTH: usize = 16;

/// The domains of all addresses of a field's value, in order; `None` when it is malformed or has none.
pub(super) fn domains(value: &[u8]) -> Option<Vec<Domain>> {
    let text: Vec<u8> = value.iter().copied().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
    let mut domains = Vec::new();
    // One address so far: what stands outside, and what stands between angle brackets.
    let (mut outside, mut angle) = (Vec::new(), None);
    let mut rest = &text[..];
    let mut group = false;
    while let Some((octet, tail)) = rest.split_first() {
        rest = tail;
        match octet {
            b'(' => rest = comment(rest)?,
            // Behind an address that was closed there is room for a comment only.
            octet if angle.is_some() && !matches!(octet, b' ' | b'\t' | b',' | b';') => return None,
            b'"' => {
                rest = quoted(rest)?;
                // What stands in it says nothing of the domain.
                outside.push(b'q');
            }
            b'<' if angle.is_none() => {
                let (inside, after) = angle_address(rest)?;
                (angle, rest) = (Some(inside), after);
            }
            b',' | b';' => {
                address(&outside, angle.take(), &mut domains)?;
                outside.clear();
                if *octet == b';' && !std::mem::take(&mut group) {
                    return None;
                }
            }
            // The name of a group is no address.
            b':' if !group && angle.is_none() && !outside.contains(&b'@') => {
                group = true;
                outside.clear();
            }
            b'<' | b'>' | b')' | b':' => return None,
            octet => outside.push(*octet),
        }
    }
    if group {
        return None;
    }
    address(&outside, angle, &mut domains)?;
    (!domains.is_empty()).then_some(domains)
}

/// Notes the domain of one address; nothing at all between two commas is none.
fn address(outside: &[u8], angle: Option<Vec<u8>>, domains: &mut Vec<Domain>) -> Option<()> {
    let outside = outside.trim_ascii();
    let address = match &angle {
        Some(inside) => inside.trim_ascii(),
        None if outside.is_empty() => return Some(()),
        None => outside,
    };
    let at = memchr::memrchr(b'@', address)?;
    let (local, domain) = (address.get(..at)?.trim_ascii(), address.get(at + 1..)?.trim_ascii());
    // White space within an address is obsolete, and a second address in it a trick.
    if local.is_empty()
        || memchr::memchr3(b'@', b' ', b'\t', local).is_some()
        || domains.len() == MAX_ADDRESSES
    {
        return None;
    }
    domains.push(Domain::parse(std::str::from_utf8(domain).ok()?).ok()?);
    Some(())
}

/// What stands between angle brackets, and what follows them.
fn angle_address(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut inside = Vec::new();
    loop {
        let (octet, tail) = rest.split_first()?;
        rest = tail;
        match octet {
            b'>' => return Some((inside, rest)),
            b'(' => rest = comment(rest)?,
            b'"' => {
                rest = quoted(rest)?;
                inside.push(b'q');
            }
            // A source route is obsolete, and a list a trick.
            b'<' | b',' | b';' | b':' if !inside.contains(&b'[') => return None,
            octet => inside.push(*octet),
        }
    }
}

/// What follows a comment whose bracket was read.
fn comment(mut rest: &[u8]) -> Option<&[u8]> {
    let mut depth = 1;
    while depth > 0 {
        let (octet, tail) = rest.split_first()?;
        rest = tail;
        match octet {
            b'\\' => rest = rest.get(1..)?,
            b'(' if depth == MAX_DEPTH => return None,
            b'(' => depth += 1,
            b')' => depth -= 1,
            _ => {}
        }
    }
    Some(rest)
}

/// What follows a quoted string whose first quote was read.
fn quoted(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let (octet, tail) = rest.split_first()?;
        rest = tail;
        match octet {
            b'"' => return Some(rest),
            b'\\' => rest = rest.get(1..)?,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_domains_of_addresses_are_found_and_nothing_that_looks_like_one() {
        for (value, found) in [
            ("a@b.test", Some("b.test")),
            (" Ada <a@B.Test> ", Some("b.test")),
            ("\"x@evil.test\" <a@b.test>", Some("b.test")),
            ("x@evil.test <a@b.test>", Some("b.test")),
            ("(x@evil.test (y)) a@b.test (z \\) w)", Some("b.test")),
            ("\"a b\\\"@c\"@b.test", Some("b.test")),
            ("Ada\r\n <a@b.test>", Some("b.test")),
            ("a@b.test, C <c@d.test>", Some("b.test d.test")),
            ("Us: a@b.test, c@d.test;", Some("b.test d.test")),
            ("a@b\u{fc}cher.test", Some("xn--bcher-kva.test")),
            ("a@[192.0.2.1]", Some("[192.0.2.1]")),
            ("=?utf-8?q?=40?= <a@b.test>", Some("b.test")),
            ("", None),
            ("Nobody:;", None),
            ("a", None),
            ("a@", None),
            ("@b.test", None),
            ("<a@b.test", None),
            ("a@b.test>", None),
            ("<a@b.test> <c@d.test>", None),
            ("<a@b.test> c@d.test", None),
            ("<a@b.test> \"c@d.test\"", None),
            ("<a@b.test>\t(c@d.test) ", Some("b.test")),
            ("c@d.test: a@b.test;", None),
            ("<a@evil.test@b.test>", None),
            ("a @evil.test x@b.test", None),
            ("<@r.test:a@b.test>", None),
            ("(a@b.test", None),
            ("\"a@b.test", None),
            ("Us: a@b.test", None),
            ("a@b.test;", None),
            ("a@b\u{7f}.test", None),
        ] {
            let domains = domains(value.as_bytes());
            let text = domains.map(|all| all.iter().map(Domain::as_str).collect::<Vec<_>>().join(" "));
            assert_eq!(text.as_deref(), found, "{value}");
        }
    }

    #[test]
    fn endless_addresses_and_comments_are_malformed() {
        let all = |n| vec!["a@b.test"; n].join(",");
        assert_eq!(domains(all(MAX_ADDRESSES).as_bytes()).unwrap().len(), MAX_ADDRESSES);
        assert!(domains(all(MAX_ADDRESSES + 1).as_bytes()).is_none());
        let nested = |n: usize| format!("{}{}a@b.test", "(".repeat(n), ")".repeat(n));
        assert!(domains(nested(MAX_DEPTH).as_bytes()).is_some());
        assert!(domains(nested(MAX_DEPTH + 1).as_bytes()).is_none());
    }
}
