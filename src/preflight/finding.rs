//! A finding is one thing that was looked at: where, what it is, and whether it is in the way.
//!
//! How bad each is, and which check it belongs to, stands in one table: [`Detail`].

use std::fmt;
use std::net::IpAddr;

use super::dkim::KeyFault;
use super::dmarc::{DmarcFault, Policy};
use super::spf::{SpfFault, SpfResult};
use crate::route::RouteError;
use crate::route::dns::DnsName;

/// All that was found, in the order of the checks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Finding> {
        self.0.iter()
    }

    /// The worst of all; [`Severity::Fine`] when there are none.
    #[must_use]
    pub fn worst(&self) -> Severity {
        self.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Fine)
    }

    /// Whether mail may go: no fault was found, and every question was answered.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.worst() < Severity::Unasked
    }

    pub(super) fn add(&mut self, name: Option<&DnsName>, detail: Detail) {
        let (severity, check) = detail.row();
        self.0.push(Finding { severity, check, name: name.cloned(), detail });
    }

    /// A question that was not answered is no answer.
    pub(super) fn unasked(&mut self, check: Check, name: &DnsName, error: RouteError) {
        self.add(Some(name), Detail::Unasked(check, error));
    }

    pub(super) fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }

    pub(super) fn dedup(&mut self) {
        let mut seen: Vec<Finding> = Vec::with_capacity(self.0.len());
        for finding in self.0.drain(..) {
            if !seen.contains(&finding) {
                seen.push(finding);
            }
        }
        self.0 = seen;
    }
}

impl<'a> IntoIterator for &'a Findings {
    type Item = &'a Finding;
    type IntoIter = std::slice::Iter<'a, Finding>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl IntoIterator for Findings {
    type Item = Finding;
    type IntoIter = std::vec::IntoIter<Finding>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// One thing that was looked at. Shown as `fault spf example.com: …`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Which check it belongs to.
    pub check: Check,
    /// The name that was asked for, where one was.
    pub name: Option<DnsName>,
    /// What it is.
    pub detail: Detail,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.severity, self.check)?;
        match &self.name {
            Some(name) => write!(f, " {name}: {}", self.detail),
            None => write!(f, ": {}", self.detail),
        }
    }
}

/// How bad a finding is, from the best on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Severity {
    /// As it should be.
    Fine,
    /// Something that would be good to have.
    Hint,
    /// Some receivers will mind.
    Warning,
    /// It could not be found out.
    Unasked,
    /// Mail will be refused, or taken for spam.
    Fault,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fine => "fine",
            Self::Hint => "hint",
            Self::Warning => "warning",
            Self::Unasked => "unasked",
            Self::Fault => "fault",
        })
    }
}

/// The checks, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Check {
    /// Whether the domain lets our addresses send (RFC 7208).
    Spf,
    /// Whether the keys that we sign with are published (RFC 6376).
    Dkim,
    /// Whether the domain has a policy, and whether our mail is aligned with it (RFC 9989).
    Dmarc,
    /// Whether each address has a name that has the address.
    Ptr,
    /// Whether the name in EHLO has our addresses.
    Helo,
    /// Whether reports can come back to the domain.
    Mail,
    /// Whether mail to the domain is protected, and reported on.
    Policy,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Spf => "spf",
            Self::Dkim => "dkim",
            Self::Dmarc => "dmarc",
            Self::Ptr => "ptr",
            Self::Helo => "helo",
            Self::Mail => "mail",
            Self::Policy => "policy",
        })
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Detail {
    /// The question could not be asked, so nothing is known.
    #[error("could not be asked: {1}")]
    Unasked(Check, RouteError),

    /// The domain lets this address send.
    #[error("{0} may send")]
    SpfPass(IpAddr),
    /// The domain has no record.
    #[error("there is no SPF record")]
    SpfNone,
    /// The domain does not let this address send; the result is never `Pass`.
    #[error("{0} may not send: {result}", result = spf_word(.1))]
    SpfNot(IpAddr, SpfResult),
    /// The record, or one that it leads to, is at fault: the finding's name says which.
    #[error(transparent)]
    SpfBroken(SpfFault),
    /// The address matched by `ptr`, or by its name in a macro.
    #[error("the record asks for the name of the address, which is slow and often not done")]
    SpfPtr,
    /// The record lets everybody send.
    #[error("the record lets everybody send")]
    SpfOpen,
    /// Nothing is said of other hosts.
    #[error("the record says nothing of other hosts: it should end in -all or ~all")]
    SpfNoEnd,
    /// As many terms that ask as are allowed (RFC 7208 §4.6.4).
    #[error("the record takes all ten look-ups that it may: one more anywhere breaks it")]
    SpfAtLimit,
    /// The record has so many octets, of which 450 are safe (RFC 7208 §3.4).
    #[error("the record has {0} octets, which may not fit into an answer")]
    SpfLong(usize),

    /// There is no key to compare.
    #[error("no DKIM key was given")]
    NoKeys,
    /// The key is published.
    #[error("the key is published")]
    KeyFits,
    /// It is not.
    #[error("no key is published")]
    KeyMissing,
    /// Several records: which one is used is not defined (RFC 6376 §3.6.2.2).
    #[error("there are several records, where one key must be alone")]
    KeySeveral,
    /// The record does not read.
    #[error("the published key cannot be used: {0}")]
    KeyBroken(KeyFault),
    /// It was taken back.
    #[error("the key was revoked")]
    KeyRevoked,
    /// Another key is published.
    #[error("another key is published than that which signs")]
    KeyDiffers,
    /// An RSA key of so few bits that nobody accepts it (RFC 8301 §3.2).
    #[error("an RSA key of {0} bits is accepted by nobody")]
    KeyTooShort(usize),
    /// An RSA key of fewer bits than it should have.
    #[error("an RSA key should have 2048 bits, not {0}")]
    KeyShort(usize),
    /// The key is for tests.
    #[error("the key is marked as one for tests (t=y)")]
    KeyTesting,
    /// The key is not for the hash that is used.
    #[error("the key is not for SHA-256 (h=)")]
    KeyHash,
    /// The key is not for mail.
    #[error("the key is not for mail (s=)")]
    KeyService,

    /// Neither the domain nor one above it has a policy.
    #[error("there is no DMARC policy")]
    DmarcMissing,
    /// Several records, which count as none.
    #[error("there are several DMARC records, which count as none")]
    DmarcSeveral,
    /// The record does not read.
    #[error("the DMARC record cannot be used: {0}")]
    DmarcBroken(DmarcFault),
    /// The policy.
    #[error("the policy is {0}")]
    DmarcPolicy(Policy),
    /// A policy that protects nothing.
    #[error("the policy is none, which protects nothing")]
    DmarcNothing,
    /// The policy is not to be applied yet.
    #[error("the policy is being tested (t=y)")]
    DmarcTesting,
    /// Nobody gets reports.
    #[error("nobody gets reports (rua=)")]
    DmarcNoReports,
    /// The domain to which reports are to go has not agreed (RFC 9990 §4).
    #[error("reports are to go to another domain, which has not agreed to it")]
    DmarcReports,
    /// The sender's domain is aligned.
    #[error("the sender's domain is aligned")]
    SpfAligned,
    /// It is not, so that only DKIM counts.
    #[error("the sender's domain is not aligned: only DKIM counts for DMARC")]
    SpfUnaligned,
    /// The signature's domain is aligned.
    #[error("the signature's domain is aligned")]
    DkimAligned,
    /// It is not.
    #[error("the signature's domain is not aligned")]
    DkimUnaligned,
    /// Neither is, so that all mail fails.
    #[error("neither the sender's domain nor a signature's is aligned: all mail fails DMARC")]
    NothingAligned,

    /// The address has this name, which has the address.
    #[error("{0} is {1}")]
    Ptr(IpAddr, DnsName),
    /// The address has no name.
    #[error("{0} has no name")]
    PtrMissing(IpAddr),
    /// No name of the address has the address.
    #[error("no name of {0} has this address")]
    PtrFalse(IpAddr),
    /// The name in EHLO has this address.
    #[error("it has {0}")]
    Helo(IpAddr),
    /// The name in EHLO is none: an address literal, or a single label.
    #[error("the name in EHLO is no full name of a host")]
    HeloNotAName,
    /// The name in EHLO has no address.
    #[error("the name in EHLO has no address")]
    HeloNoAddress,
    /// The name in EHLO has other addresses.
    #[error("the name in EHLO does not have {0}")]
    HeloFalse(IpAddr),
    /// The address has another name than that in EHLO.
    #[error("the name in EHLO is not the name of {0}")]
    HeloNotPtr(IpAddr),

    /// Mail for the domain has a host.
    #[error("it takes mail")]
    Mail,
    /// The domain takes no mail, so others need not take any from it (RFC 7505 §4.2).
    #[error("it takes no mail (null MX): others will refuse its own, with 550 5.7.27")]
    NullMx,
    /// The domain is not there.
    #[error("the domain does not exist")]
    NoDomain,
    /// The domain has neither MX nor address.
    #[error("it has no mail server: reports cannot come back, and others will refuse its mail")]
    NoMail,
    /// A mail host has no address.
    #[error("the mail host has no address")]
    HostWithoutAddress,
    /// The domain announces a policy on TLS (RFC 8461), or that it wants reports (RFC 8460).
    #[error("it is announced")]
    Announced,
    /// It announces no policy on TLS.
    #[error("there is no MTA-STS policy")]
    NoSts,
    /// It wants no reports on TLS.
    #[error("nobody gets reports on TLS")]
    NoTlsReports,
}

impl Detail {
    /// How bad it is, and the check that it belongs to.
    const fn row(&self) -> (Severity, Check) {
        use Severity::{Fault, Fine, Hint, Unasked, Warning};
        match self {
            Self::Unasked(check, _) => (Unasked, *check),
            Self::SpfPass(_) => (Fine, Check::Spf),
            Self::SpfPtr | Self::SpfOpen | Self::SpfNoEnd | Self::SpfAtLimit | Self::SpfLong(_) => {
                (Warning, Check::Spf)
            }
            Self::SpfNone | Self::SpfNot(..) | Self::SpfBroken(_) => (Fault, Check::Spf),
            Self::KeyFits => (Fine, Check::Dkim),
            Self::NoKeys | Self::KeyShort(_) | Self::KeyTesting => (Warning, Check::Dkim),
            Self::KeyMissing
            | Self::KeySeveral
            | Self::KeyBroken(_)
            | Self::KeyRevoked
            | Self::KeyDiffers
            | Self::KeyTooShort(_)
            | Self::KeyHash
            | Self::KeyService => (Fault, Check::Dkim),
            Self::DmarcPolicy(_) | Self::SpfAligned | Self::DkimAligned => (Fine, Check::Dmarc),
            Self::DmarcNoReports => (Hint, Check::Dmarc),
            Self::DmarcNothing
            | Self::DmarcTesting
            | Self::DmarcReports
            | Self::SpfUnaligned
            | Self::DkimUnaligned => (Warning, Check::Dmarc),
            Self::DmarcMissing | Self::DmarcSeveral | Self::DmarcBroken(_) | Self::NothingAligned => {
                (Fault, Check::Dmarc)
            }
            Self::Ptr(..) => (Fine, Check::Ptr),
            Self::PtrMissing(_) | Self::PtrFalse(_) => (Fault, Check::Ptr),
            Self::Helo(_) => (Fine, Check::Helo),
            Self::HeloNotPtr(_) => (Warning, Check::Helo),
            Self::HeloNotAName | Self::HeloNoAddress | Self::HeloFalse(_) => (Fault, Check::Helo),
            Self::Mail => (Fine, Check::Mail),
            Self::NullMx | Self::HostWithoutAddress => (Warning, Check::Mail),
            Self::NoDomain | Self::NoMail => (Fault, Check::Mail),
            Self::Announced => (Fine, Check::Policy),
            Self::NoSts | Self::NoTlsReports => (Hint, Check::Policy),
        }
    }
}

/// As receivers write it (RFC 7208 §2.6).
const fn spf_word(result: &SpfResult) -> &'static str {
    match result {
        SpfResult::None => "none",
        SpfResult::Neutral => "neutral",
        SpfResult::Pass => "pass",
        SpfResult::Fail => "fail",
        SpfResult::SoftFail => "softfail",
        SpfResult::TempError(_) => "temperror",
        SpfResult::PermError(..) => "permerror",
    }
}
