//! The record with which a domain asks for reports: a text at `_smtp._tls` below it (RFC 8460 §3).

use std::fmt;

use crate::route::dns::{Answer, Dns, DnsName, Record, RecordKind};
use crate::smtp::address::{Domain, Mailbox};

/// Where a domain wants its reports.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReportRecord {
    /// The addresses, in the order in which they stand; at least one. A report goes to each.
    pub to: Vec<ReportTo>,
}

/// One place that reports are sent to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ReportTo {
    /// By mail.
    Mail(Mailbox),
    /// By a POST to this URI, which begins with `https://`.
    Https(Box<str>),
}

impl fmt::Display for ReportTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mail(mailbox) => write!(f, "mailto:{mailbox}"),
            Self::Https(uri) => f.write_str(uri),
        }
    }
}

impl ReportRecord {
    /// The record among the texts of the name: those that do not begin as one are left out, and more
    /// than one is none (§3).
    #[must_use]
    pub fn among<'a>(texts: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut records = texts.into_iter().filter(|text| is_record(text));
        match (records.next(), records.next()) {
            (Some(text), None) => Self::parse(text),
            _ => None,
        }
    }

    /// The record that this text is. Fields that are not known are left alone, and so are addresses of
    /// kinds that are not known; without any that is, there is no record.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() > MAX_RECORD || !is_record(text) {
            return None;
        }
        let text = std::str::from_utf8(text).ok()?;
        let mut to = None;
        let mut fields = text.split(';').map(|field| field.trim_matches(WSP)).skip(1).peekable();
        while let Some(field) = fields.next() {
            // One semicolon may end the record.
            if field.is_empty() && fields.peek().is_none() {
                break;
            }
            match field.split_once('=')? {
                // Which of two would count is not said.
                ("rua", _) if to.is_some() => return None,
                ("rua", uris) => to = Some(addresses(uris)?),
                (name, value) if is_name(name) && is_value(value) => {}
                _ => return None,
            }
        }
        to.filter(|to| !to.is_empty()).map(|to| Self { to })
    }

    /// Looks for the record of a domain. `Ok(None)`: it wants no reports.
    ///
    /// # Errors
    /// [`NoAnswer`] when DNS did not say.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn look_up(dns: &dyn Dns, domain: &Domain) -> Result<Option<Self>, NoAnswer> {
        let Some(name) = DnsName::of(domain).and_then(|name| name.below("_smtp._tls")) else {
            return Ok(None);
        };
        match dns.look_up(&name, RecordKind::Txt).await.answer {
            Answer::Records(records) => Ok(Self::among(records.iter().filter_map(|record| match record {
                Record::Txt(text) => Some(&text[..]),
                _ => None,
            }))),
            Answer::NoData | Answer::NoName => Ok(None),
            Answer::Failed(_) => Err(NoAnswer),
        }
    }
}

/// DNS did not say whether a domain wants reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name servers could not answer")]
pub struct NoAnswer;

/// `v=TLSRPTv1` and the end of that field.
fn is_record(text: &[u8]) -> bool {
    let rest = text.strip_prefix(VERSION);
    rest.is_some_and(|rest| rest.trim_ascii_start().first() == Some(&b';'))
}

/// The addresses of kinds that are known. `None` when one is no address at all.
fn addresses(uris: &str) -> Option<Vec<ReportTo>> {
    let mut to = Vec::new();
    for uri in uris.split(',').map(|uri| uri.trim_matches(WSP)) {
        let (scheme, rest) = uri.split_once(':')?;
        // RFC 3986 §3.1; and of the characters that stand for something here, none (§3).
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        if !is_scheme || !rest.bytes().all(|b| b.is_ascii_graphic() && b != b'!') {
            return None;
        }
        let found = match scheme.to_ascii_lowercase().as_str() {
            "mailto" => mailbox(rest).map(ReportTo::Mail),
            "https" if uri.len() <= MAX_URI && has_host(rest) => {
                Some(ReportTo::Https(format!("https:{rest}").into_boxed_str()))
            }
            _ => None,
        };
        let new = found.filter(|found| !to.contains(found) && to.len() < MAX_ADDRESSES);
        to.extend(new);
    }
    Some(to)
}

/// RFC 6068: one address, percent-encoded. What it asks of the header is not done.
fn mailbox(rest: &str) -> Option<Mailbox> {
    let encoded = rest.split(['?', '#']).next().unwrap_or_default();
    let decoded = percent_decoded(encoded)?;
    Mailbox::parse(&decoded).ok()
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        if octet != b'%' {
            octets.push(octet);
            continue;
        }
        let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
        let (high, low) = (digit()?, digit()?);
        octets.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(octets).ok()
}

fn has_host(rest: &str) -> bool {
    rest.strip_prefix("//").is_some_and(|rest| !rest.starts_with(['/', '?', '#', ':']) && !rest.is_empty())
}

fn is_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}

fn is_value(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic() && b != b'=')
}

const VERSION: &[u8] = b"v=TLSRPTv1";
const WSP: [char; 2] = [' ', '\t'];
/// Some ten of the 255 octets that a text has in DNS: real ones have one.
const MAX_RECORD: usize = 2_560;
/// What web servers take in a request line is more, and nobody needs it.
const MAX_URI: usize = 1_024;
/// One domain makes us send no more copies than this.
const MAX_ADDRESSES: usize = 5;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::route::RouteError;
    use crate::route::dns::StaticDns;

    fn parsed(text: &str) -> Option<Vec<String>> {
        let record = ReportRecord::parse(text.as_bytes())?;
        Some(record.to.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_record_names_where_reports_go() {
        for (text, to) in [
            ("v=TLSRPTv1;rua=mailto:r@a.test", &["mailto:r@a.test"][..]),
            ("v=TLSRPTv1; rua=mailto:r@a.test;", &["mailto:r@a.test"]),
            ("v=TLSRPTv1 ;\trua=https://r.a.test/v1?x=1", &["https://r.a.test/v1?x=1"]),
            ("v=TLSRPTv1; rua=mailto:r@a.test , HTTPS://b.test/", &["mailto:r@a.test", "https://b.test/"]),
            ("v=TLSRPTv1; x-new=1; rua=mailto:r@a.test; other.thing=a:b", &["mailto:r@a.test"]),
            ("v=TLSRPTv1; rua=mailto:tls%2Crpt%40x%21@a.test", &[]),
            ("v=TLSRPTv1; rua=mailto:tls%2Brpt%21@a.test", &["mailto:tls+rpt!@a.test"]),
            ("v=TLSRPTv1; rua=mailto:r@a.test?subject=hi", &["mailto:r@a.test"]),
            ("v=TLSRPTv1; rua=mailto:r@a.test,mailto:r@a.test", &["mailto:r@a.test"]),
            ("v=TLSRPTv1; rua=ftp://a.test/,mailto:r@a.test", &["mailto:r@a.test"]),
        ] {
            let expected = (!to.is_empty()).then(|| to.iter().map(ToString::to_string).collect());
            assert_eq!(parsed(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_malformed_is_no_record() {
        for text in [
            "",
            "v=TLSRPTv1",
            "v=TLSRPTv1;",
            "v=TLSRPTv1; rua=",
            "v=TLSRPTv1; rua",
            "v=TLSRPTv1; rua=x",
            "v=TLSRPTv2; rua=mailto:r@a.test",
            "v=TLSRPTv10; rua=mailto:r@a.test",
            "V=TLSRPTv1; rua=mailto:r@a.test",
            " v=TLSRPTv1; rua=mailto:r@a.test",
            "v=TLSRPTv1; rua=mailto:r@a.test; rua=mailto:s@a.test",
            "v=TLSRPTv1; RUA=mailto:r@a.test",
            "v=TLSRPTv1; rua=mailto:r@a.test;; x=1",
            "v=TLSRPTv1; rua=mailto:r@a.test; =1",
            "v=TLSRPTv1; rua=mailto:r@a.test; x=",
            "v=TLSRPTv1; rua=mailto:r@a.test!10m",
            "v=TLSRPTv1; rua=mailto:r a@a.test",
            "v=TLSRPTv1; rua=mailto:r%4",
            "v=TLSRPTv1; rua=mailto:r%zz@a.test",
            "v=TLSRPTv1; rua=mailto:%ff@a.test",
            "v=TLSRPTv1; rua=mailto:a%0d%0a@a.test",
            "v=TLSRPTv1; rua=https://",
            "v=TLSRPTv1; rua=https:///x",
            "v=TLSRPTv1; rua=http://a.test/",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
        assert_eq!(ReportRecord::parse(b"v=TLSRPTv1; rua=mailto:r@\xff.test"), None);
    }

    #[test]
    fn a_record_is_bounded() {
        let many: Vec<_> = (0..50).map(|n| format!("mailto:r{n}@a.test")).collect();
        let to = parsed(&format!("v=TLSRPTv1; rua={}", many.join(","))).unwrap();
        assert_eq!(to, many[..MAX_ADDRESSES]);
        let long = format!("v=TLSRPTv1; rua=mailto:r@a.test; x={}", "y".repeat(MAX_RECORD));
        assert_eq!(parsed(&long), None);
        let long = format!("v=TLSRPTv1; rua=https://a.test/{}", "y".repeat(MAX_URI));
        assert_eq!(parsed(&long), None);
    }

    #[tokio::test]
    async fn of_several_texts_one_has_to_be_the_record() {
        let (dns, domain) = (StaticDns::new(), Domain::parse("a.test").unwrap());
        let name = DnsName::new("_smtp._tls.a.test").unwrap();
        let record = "v=TLSRPTv1; rua=mailto:r@a.test";
        for (texts, found) in [
            (&["v=spf1 -all", record][..], true),
            (&[record, record], false),
            (&["v=spf1 -all"], false),
            (&[], false),
        ] {
            let texts = texts.iter().map(|text| Record::Txt(Bytes::from_static(text.as_bytes())));
            dns.set(&name, RecordKind::Txt, texts.collect(), false);
            let answer = ReportRecord::look_up(&dns, &domain).await.unwrap();
            assert_eq!(answer.is_some(), found, "{answer:?}");
        }
        dns.fail(&name, RecordKind::Txt, RouteError::Dns);
        assert_eq!(ReportRecord::look_up(&dns, &domain).await, Err(NoAnswer));
        let literal = Domain::parse("[192.0.2.1]").unwrap();
        assert_eq!(ReportRecord::look_up(&dns, &literal).await, Ok(None));
    }
}
