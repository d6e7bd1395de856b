//! A DMARC record (RFC 9989 §4.7).

use std::fmt;

use crate::preflight::tags::{is_space, tags, value};
use crate::smtp::address::Mailbox;

/// Why a record is no policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum DmarcFault {
    /// It is no list of tags that begins with the version.
    #[error("it is no list of tags that begins with v=DMARC1")]
    Syntax,
    /// `p=` or `sp=` or `np=` is none of none, quarantine and reject.
    #[error("a policy is none of none, quarantine and reject")]
    Policy,
    /// `adkim=` or `aspf=` is neither r nor s.
    #[error("an alignment is neither r nor s")]
    Alignment,
    /// `psd=` is none of y, n and u, or `t=` neither y nor n.
    #[error("psd= or t= has no such value")]
    Flag,
    /// `rua=` or `ruf=` is no list of addresses.
    #[error("an address for reports does not read")]
    Reports,
}

/// What receivers are asked to do with mail that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Policy {
    /// Nothing.
    None,
    /// To be suspicious.
    Quarantine,
    /// To refuse it.
    Reject,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Quarantine => "quarantine",
            Self::Reject => "reject",
        })
    }
}

/// A policy record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DmarcRecord {
    /// For the domain itself.
    pub(super) policy: Policy,
    /// For the domains below it.
    pub(super) below: Policy,
    pub(super) strict_dkim: bool,
    pub(super) strict_spf: bool,
    /// `psd=y`: the domain is one below which others register theirs. `psd=n`: it is an organization's.
    pub(super) psd: Option<bool>,
    pub(super) testing: bool,
    /// Where reports go by mail; other ways are left out.
    pub(super) reports: Vec<Mailbox>,
    /// Whether reports go anywhere.
    pub(super) has_reports: bool,
}

/// Whether a TXT record is one of DMARC: the others are not meant.
pub(super) fn is_one(text: &[u8]) -> bool {
    let text = std::str::from_utf8(text).unwrap_or_default();
    let first = text.split(';').next().and_then(|tag| tag.split_once('='));
    first.is_some_and(|(name, value)| {
        name.trim_matches(is_space) == "v" && value.trim_matches(is_space) == "DMARC1"
    })
}

pub(super) fn parse(text: &[u8]) -> Result<DmarcRecord, DmarcFault> {
    let tags = tags(text).filter(|_| is_one(text)).ok_or(DmarcFault::Syntax)?;
    let has_reports = value(&tags, "rua").is_some_and(|list| !list.is_empty());
    let policy = match (value(&tags, "p"), has_reports) {
        (Some(text), _) => policy(text)?,
        // RFC 9989 §4.7: `p` may be missing, and then nothing is asked for.
        (None, true) => Policy::None,
        (None, false) => return Err(DmarcFault::Policy),
    };
    let optional = |name: &str| value(&tags, name).map(self::policy).transpose();
    let below = optional("sp")?.unwrap_or(policy);
    optional("np")?;
    let strict = |name: &str| match value(&tags, name) {
        None | Some("r" | "R") => Ok(false),
        Some("s" | "S") => Ok(true),
        Some(_) => Err(DmarcFault::Alignment),
    };
    let psd = match value(&tags, "psd") {
        Some("y" | "Y") => Some(true),
        Some("n" | "N") => Some(false),
        None | Some("u" | "U") => None,
        Some(_) => return Err(DmarcFault::Flag),
    };
    let testing = match value(&tags, "t") {
        None | Some("n" | "N") => false,
        Some("y" | "Y") => true,
        Some(_) => return Err(DmarcFault::Flag),
    };
    let reports = addresses(value(&tags, "rua").unwrap_or_default())?;
    addresses(value(&tags, "ruf").unwrap_or_default())?;
    let (strict_dkim, strict_spf) = (strict("adkim")?, strict("aspf")?);
    Ok(DmarcRecord { policy, below, strict_dkim, strict_spf, psd, testing, reports, has_reports })
}

fn policy(text: &str) -> Result<Policy, DmarcFault> {
    match text.to_ascii_lowercase().as_str() {
        "none" => Ok(Policy::None),
        "quarantine" => Ok(Policy::Quarantine),
        "reject" => Ok(Policy::Reject),
        _ => Err(DmarcFault::Policy),
    }
}

/// The `mailto:` among a list of URIs.
fn addresses(list: &str) -> Result<Vec<Mailbox>, DmarcFault> {
    let mut found = Vec::new();
    for uri in list.split(',').map(|uri| uri.trim_matches(is_space)).filter(|uri| !uri.is_empty()) {
        let (scheme, rest) = uri.split_once(':').ok_or(DmarcFault::Reports)?;
        if !scheme.eq_ignore_ascii_case("mailto") {
            continue;
        }
        // A limit on the size, which RFC 7489 §6.2 had, or what RFC 6068 allows behind the address.
        let address = rest.split(['!', '?']).next().unwrap_or_default();
        found.push(Mailbox::parse(address).map_err(|_| DmarcFault::Reports)?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_makes_the_record() {
        for (text, is) in [
            ("v=DMARC1", true),
            (" v = DMARC1 ; p=none", true),
            ("v=dmarc1; p=none", false),
            ("v=DMARC11", false),
            ("p=none; v=DMARC1", false),
            ("v=spf1 -all", false),
            ("", false),
        ] {
            assert_eq!(is_one(text.as_bytes()), is, "{text:?}");
        }
    }

    #[test]
    fn records_are_read_or_say_what_is_wrong() {
        let read = |rest: &str| parse(format!("v=DMARC1; {rest}").as_bytes());
        let record =
            read("p=Reject; sp=none; adkim=s; psd=n; t=y; rua=mailto:a@b.test!10m , https://x; fo=1;");
        let record = record.unwrap();
        assert_eq!((record.policy, record.below), (Policy::Reject, Policy::None));
        assert_eq!((record.strict_dkim, record.strict_spf), (true, false));
        assert_eq!((record.psd, record.testing), (Some(false), true));
        assert_eq!(record.reports, ["a@b.test".parse().unwrap()]);
        let plain = read("p=quarantine").unwrap();
        assert_eq!((plain.below, plain.psd, plain.has_reports), (Policy::Quarantine, None, false));
        assert_eq!(read("rua=mailto:a@b.test").unwrap().policy, Policy::None);
        for (rest, fault) in [
            ("p", DmarcFault::Syntax),
            ("p=none; p=none", DmarcFault::Syntax),
            ("p=monitor", DmarcFault::Policy),
            ("p=", DmarcFault::Policy),
            ("fo=1", DmarcFault::Policy),
            ("p=none; sp=x", DmarcFault::Policy),
            ("p=none; np=x", DmarcFault::Policy),
            ("p=none; aspf=relaxed", DmarcFault::Alignment),
            ("p=none; psd=1", DmarcFault::Flag),
            ("p=none; t=1", DmarcFault::Flag),
            ("p=none; rua=a@b.test", DmarcFault::Reports),
            ("p=none; rua=mailto:b.test", DmarcFault::Reports),
            ("p=none; ruf=mailto:", DmarcFault::Reports),
        ] {
            assert_eq!(read(rest), Err(fault), "{rest}");
        }
    }
}
