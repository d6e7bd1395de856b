//! A finding is what one connection showed about one policy of a domain, in the terms of a report
//! (RFC 8460 §4.2, §4.3).
//!
//! A session is judged by the policy that was applied to it: the host's TLSA records where there are
//! any, else the domain's MTA-STS policy, enforced or in testing, else none. A session under no policy
//! fails only when it has no TLS: nobody has said what certificate it should show. A policy that is
//! announced and cannot be had is a failure of its own.

use std::net::IpAddr;
use std::sync::Arc;

use crate::attempt::Trial;
use crate::hop::{PolicyKind, Require, TlsFault, Tlsa, TlsaMatching, TlsaRecord, TlsaSelector, TlsaUsage};
use crate::route::sts::{MxPattern, StsFault, StsMode, StsPolicy};
use crate::route::{Hosts, Protocol};
use crate::smtp::address::Domain;

/// What kind of policy it is (§4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyType {
    /// TLSA records (RFC 7672).
    Tlsa,
    /// MTA-STS (RFC 8461), enforced or in testing.
    Sts,
    /// There is none.
    NoneFound,
}

impl PolicyType {
    /// As it is written in a report.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tlsa => "tlsa",
            Self::Sts => "sts",
            Self::NoneFound => "no-policy-found",
        }
    }

    /// What was written.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Tlsa, Self::Sts, Self::NoneFound].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A policy as a report shows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Policy {
    /// Its kind.
    pub kind: PolicyType,
    /// Its text: the lines of an MTA-STS policy, or TLSA records, one each.
    pub lines: Vec<Box<str>>,
    /// The domain that it is defined for: the recipient's, or the TLSA base domain (§1.1).
    pub domain: Domain,
    /// The patterns of hosts that it allows.
    pub hosts: Vec<Box<str>>,
}

/// Why a session failed (§4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResultType {
    /// What the connection showed.
    Tls(TlsFault),
    /// What the policy was.
    Sts(StsFault),
}

impl ResultType {
    /// As it is written in a report.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tls(fault) => fault.as_str(),
            Self::Sts(StsFault::Certificate) => "sts-webpki-invalid",
            Self::Sts(StsFault::Invalid) => "sts-policy-invalid",
            Self::Sts(_) => "sts-policy-fetch-error",
        }
    }

    /// What was written.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        RESULTS.into_iter().find(|result| result.as_str() == text)
    }
}

/// A failure, with what it was found at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Failure {
    /// Why.
    pub result: ResultType,
    /// Our address, where it is known.
    pub local: Option<IpAddr>,
    /// The host's name.
    pub host: Option<Box<str>>,
    /// Its address, where it is known.
    pub remote: Option<IpAddr>,
    /// More about why; empty when there is no more.
    pub reason: Box<str>,
}

/// What one connection showed about one policy.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The policy.
    pub policy: Policy,
    /// What was wrong; `None`: nothing.
    pub failure: Option<Failure>,
}

/// What a trial of a connection for mail to `destination`, whose route is `hosts`, says about the
/// domain's policies. Nothing, where the route is not the domain's own, or TLS was not to be tried.
#[must_use]
pub fn findings(destination: &Domain, hosts: &Hosts, trial: &Trial) -> Vec<Finding> {
    if !hosts.by_mx || hosts.protocol != Protocol::Smtp || hosts.require == Require::Cleartext {
        return Vec::new();
    }
    let failure = |result, reason: &str| Failure {
        result,
        local: trial.local,
        host: Some(trial.host.name.as_str().into()),
        remote: trial.remote,
        reason: reason.into(),
    };
    let tls = |fault| failure(ResultType::Tls(fault), "");
    let no_tls = trial.tls.is_none().then_some(TlsFault::NotOffered);
    let sts = hosts.sts.as_ref().filter(|policy| policy.mode != StsMode::None);
    let mut found = Vec::new();
    if trial.by == PolicyKind::Dane {
        // What the roots say of a certificate does not count where its records vouch for it.
        let fault = match trial.host.tlsa {
            Tlsa::Unusable => Some(TlsFault::TlsaInvalid),
            Tlsa::Failed => Some(TlsFault::DnssecInvalid),
            Tlsa::Records(_) | Tlsa::Absent => no_tls.map(|none| trial.fault.unwrap_or(none)),
        };
        found.push(Finding { policy: of_records(destination, trial), failure: fault.map(tls) });
    } else if let Some(policy) = sts {
        let verified = trial.tls.as_ref().is_some_and(|tls| tls.verified.as_ref() == Some(&trial.host.name));
        let failure = if !policy.matches(&trial.host.name) {
            Some(failure(ResultType::Tls(TlsFault::NotValid), NOT_LISTED))
        } else if verified && trial.fault.is_none() {
            None
        } else {
            Some(tls(trial.fault.or(no_tls).unwrap_or(TlsFault::NotValid)))
        };
        found.push(Finding { policy: of_domain(destination, Some(policy)), failure });
    } else if hosts.sts_fault.is_none() {
        let policy = plain(PolicyType::NoneFound, destination);
        let fault = no_tls.map(|none| trial.fault.unwrap_or(none));
        // That we or a message ask for more than the domain says is no fault of the domain's.
        let asked = matches!(trial.by, PolicyKind::Own | PolicyKind::Message);
        if !asked || fault.is_none_or(|fault| fault == TlsFault::NotOffered) {
            found.push(Finding { policy, failure: fault.map(tls) });
        }
    }
    if let (Some(fault), None) = (hosts.sts_fault, sts) {
        let failure = Some(failure(ResultType::Sts(fault), ""));
        found.push(Finding { policy: of_domain(destination, None), failure });
    }
    found
}

fn plain(kind: PolicyType, domain: &Domain) -> Policy {
    Policy { kind, lines: Vec::new(), domain: domain.clone(), hosts: Vec::new() }
}

fn of_domain(destination: &Domain, policy: Option<&Arc<StsPolicy>>) -> Policy {
    let mut shown = plain(PolicyType::Sts, destination);
    if let Some(policy) = policy {
        shown.lines = bounded(policy.lines.iter().map(|line| &**line));
        let pattern = |mx: &MxPattern| format!("{}{}", if mx.wildcard { "*." } else { "" }, mx.name);
        let patterns: Vec<_> = policy.mx.iter().take(MAX_LINES).map(pattern).collect();
        shown.hosts = bounded(patterns.iter().map(String::as_str));
    }
    shown
}

fn of_records(destination: &Domain, trial: &Trial) -> Policy {
    match &trial.host.tlsa {
        Tlsa::Records(set) => {
            let record = |record: &TlsaRecord| {
                let usage = match record.usage {
                    TlsaUsage::DaneTa => 2,
                    TlsaUsage::DaneEe => 3,
                };
                let selector = match record.selector {
                    TlsaSelector::Certificate => 0,
                    TlsaSelector::PublicKey => 1,
                };
                let matching = match record.matching {
                    TlsaMatching::Full => 0,
                    TlsaMatching::Sha256 => 1,
                    TlsaMatching::Sha512 => 2,
                };
                let mut line = format!("{usage} {selector} {matching} ");
                // A certificate in full would be most of the report.
                for octet in record.data.iter().take(MAX_LINE / 2) {
                    line.push_str(&format!("{octet:02X}"));
                }
                line
            };
            let lines: Vec<_> = set.records.iter().take(MAX_LINES).map(record).collect();
            let lines = bounded(lines.iter().map(String::as_str));
            Policy { lines, ..plain(PolicyType::Tlsa, &set.base) }
        }
        // The base is not known where the records are not.
        _ if trial.host.name.as_literal().is_none() => plain(PolicyType::Tlsa, &trial.host.name),
        _ => plain(PolicyType::Tlsa, destination),
    }
}

/// The lines that a report has room for.
fn bounded<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Box<str>> {
    let mut room = MAX_TEXT;
    let mut kept = Vec::new();
    for line in lines.take(MAX_LINES) {
        let line: Box<str> = line.chars().take(MAX_LINE).filter(|c| !c.is_control()).collect();
        let Some(left) = room.checked_sub(line.len()) else { break };
        room = left;
        kept.push(line);
    }
    kept
}

/// What a report says of a host that the domain's policy does not list.
const NOT_LISTED: &str = "mx-host-not-in-policy";
/// Of one policy: there are policies of 64 KiB, and a report is not where to read them.
const MAX_TEXT: usize = 2_048;
const MAX_LINES: usize = 64;
const MAX_LINE: usize = 512;
/// All that there are.
const RESULTS: [ResultType; 11] = [
    ResultType::Tls(TlsFault::NotOffered),
    ResultType::Tls(TlsFault::WrongName),
    ResultType::Tls(TlsFault::Expired),
    ResultType::Tls(TlsFault::NotTrusted),
    ResultType::Tls(TlsFault::NotValid),
    ResultType::Tls(TlsFault::TlsaInvalid),
    ResultType::Tls(TlsFault::DnssecInvalid),
    ResultType::Tls(TlsFault::DaneRequired),
    ResultType::Sts(StsFault::Fetch),
    ResultType::Sts(StsFault::Certificate),
    ResultType::Sts(StsFault::Invalid),
];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::hop::{Host, TlsSeen, TlsaSet};

    fn name(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    fn sts(mode: StsMode, mx: &str) -> Option<Arc<StsPolicy>> {
        let mx = vec![MxPattern { wildcard: true, name: name(mx) }];
        let lines = vec!["version: STSv1".into(), "max_age: 9".into()];
        Some(Arc::new(StsPolicy { id: "1".into(), mode, mx, max_age: Duration::from_secs(9), lines }))
    }

    fn host() -> Host {
        Host::new(name("mx.b.test"), 25)
    }

    fn route(policy: Option<Arc<StsPolicy>>) -> Hosts {
        let mut hosts = Hosts::new(vec![host()], Require::Opportunistic).unproven();
        (hosts.sts, hosts.by_mx) = (policy, true);
        hosts
    }

    fn trial(by: PolicyKind, verified: Option<bool>, fault: Option<TlsFault>) -> Trial {
        let seen = |ok: bool| TlsSeen::new("TLSv1.3", "X", ok.then(|| host().name), false);
        Trial { tls: verified.map(seen), fault, ..Trial::new(Arc::new(host()), by) }
    }

    fn found(hosts: &Hosts, trial: &Trial) -> Vec<String> {
        let shown = |finding: Finding| {
            let failure = finding.failure.map_or("ok", |failure| failure.result.as_str());
            format!("{} {failure}", finding.policy.kind.as_str())
        };
        findings(&name("b.test"), hosts, trial).into_iter().map(shown).collect()
    }

    #[test]
    fn a_session_is_judged_by_the_policy_that_was_applied() {
        use PolicyKind::{Dane, Opportunistic, Sts};
        use TlsFault::{DnssecInvalid, Expired, NotOffered, NotTrusted, NotValid, WrongName};
        let none = route(None);
        let enforced = route(sts(StsMode::Enforce, "b.test"));
        let testing = route(sts(StsMode::Testing, "b.test"));
        let others = route(sts(StsMode::Testing, "c.test"));
        let off = route(sts(StsMode::None, "b.test"));
        for (hosts, by, tls, fault, expected) in [
            (&none, Opportunistic, Some(true), None, "no-policy-found ok"),
            (&none, Opportunistic, Some(false), Some(NotTrusted), "no-policy-found ok"),
            (&none, Opportunistic, None, Some(NotOffered), "no-policy-found starttls-not-supported"),
            (&none, Opportunistic, None, None, "no-policy-found starttls-not-supported"),
            (&none, Opportunistic, None, Some(NotValid), "no-policy-found validation-failure"),
            (&off, Opportunistic, Some(false), Some(Expired), "no-policy-found ok"),
            (&enforced, Sts, Some(true), None, "sts ok"),
            (&enforced, Sts, None, Some(WrongName), "sts certificate-host-mismatch"),
            (&testing, Opportunistic, Some(true), None, "sts ok"),
            (&testing, Opportunistic, Some(false), Some(Expired), "sts certificate-expired"),
            (&testing, Opportunistic, Some(false), None, "sts validation-failure"),
            (&testing, Opportunistic, None, None, "sts starttls-not-supported"),
            (&others, Opportunistic, Some(true), None, "sts validation-failure"),
            (&enforced, Dane, Some(false), None, "tlsa ok"),
            (&none, Dane, None, Some(NotValid), "tlsa validation-failure"),
            (&none, Dane, Some(false), Some(NotTrusted), "tlsa ok"),
            (&none, Dane, None, Some(DnssecInvalid), "tlsa dnssec-invalid"),
            (&none, Dane, None, None, "tlsa starttls-not-supported"),
        ] {
            assert_eq!(found(hosts, &trial(by, tls, fault)), [expected], "{by:?} {tls:?} {fault:?}");
        }
    }

    #[test]
    fn records_that_cannot_be_used_are_a_failure_whatever_the_connection_shows() {
        for (tlsa, expected) in [(Tlsa::Unusable, "tlsa tlsa-invalid"), (Tlsa::Failed, "tlsa dnssec-invalid")]
        {
            let host = Host { tlsa, ..host() };
            let trial = Trial { host: Arc::new(host), ..trial(PolicyKind::Dane, Some(true), None) };
            assert_eq!(found(&route(None), &trial), [expected]);
        }
    }

    #[test]
    fn a_policy_that_cannot_be_had_is_a_failure_of_its_own() {
        for (fault, expected) in [
            (StsFault::Fetch, "sts sts-policy-fetch-error"),
            (StsFault::Certificate, "sts sts-webpki-invalid"),
            (StsFault::Invalid, "sts sts-policy-invalid"),
        ] {
            let mut hosts = route(None);
            hosts.sts_fault = Some(fault);
            let plain = trial(PolicyKind::Opportunistic, Some(true), None);
            assert_eq!(found(&hosts, &plain), [expected]);
            let dane = trial(PolicyKind::Dane, Some(true), None);
            assert_eq!(found(&hosts, &dane), ["tlsa ok", expected]);
        }
    }

    #[test]
    fn what_we_ask_for_besides_is_no_fault_of_the_domains() {
        let mut hosts = route(None);
        (hosts.require, hosts.by) = (Require::Verified, PolicyKind::Own);
        for by in [PolicyKind::Own, PolicyKind::Message] {
            assert_eq!(found(&hosts, &trial(by, Some(true), None)), ["no-policy-found ok"]);
            assert!(found(&hosts, &trial(by, None, Some(TlsFault::Expired))).is_empty());
            let none = trial(by, None, Some(TlsFault::NotOffered));
            assert_eq!(found(&hosts, &none), ["no-policy-found starttls-not-supported"]);
        }
    }

    #[test]
    fn routes_of_our_own_are_not_reported_on() {
        let plain = trial(PolicyKind::Opportunistic, Some(true), None);
        let own = |require| Hosts::new(vec![host()], require);
        let mut clear = route(None);
        clear.require = Require::Cleartext;
        for hosts in [own(Require::Verified), own(Require::Opportunistic), clear, route(None).lmtp()] {
            assert_eq!(found(&hosts, &plain), <[String; 0]>::default());
        }
    }

    #[test]
    fn a_policy_is_shown_as_it_was_applied() {
        let tried = |trial: &Trial, hosts: &Hosts| findings(&name("b.test"), hosts, trial).remove(0).policy;
        let policy =
            tried(&trial(PolicyKind::Sts, Some(true), None), &route(sts(StsMode::Enforce, "b.test")));
        assert_eq!(policy.lines, ["version: STSv1".into(), "max_age: 9".into()]);
        assert_eq!((policy.hosts, policy.domain), (vec!["*.b.test".into()], name("b.test")));
        let record = TlsaRecord::new(3, 1, 1, Bytes::from(vec![0xab; 32])).unwrap();
        let mut host = host();
        host.tlsa = Tlsa::Records(Arc::new(TlsaSet::new(name("base.test"), vec![record; 100])));
        let policy = tried(&Trial::new(Arc::new(host), PolicyKind::Dane), &route(None));
        assert_eq!(*policy.lines[0], *format!("3 1 1 {}", "AB".repeat(32)));
        assert_eq!((policy.lines.len(), policy.domain), (29, name("base.test")));
    }

    #[test]
    fn what_is_written_is_read_again() {
        for result in RESULTS {
            assert_eq!(ResultType::parse(result.as_str()), Some(result));
        }
        assert_eq!(ResultType::parse("x"), None);
        assert_eq!(PolicyType::parse("sts"), Some(PolicyType::Sts));
    }
}
