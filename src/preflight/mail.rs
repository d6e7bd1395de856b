//! Mail for the sender's domain must arrive: reports go there, and receivers ask whether they could.

use super::finding::{Check, Detail, Findings};
use super::spf::address;
use crate::route::dns::{Answer, Dns, DnsName, Record, RecordKind};
use crate::route::mx::Exchange;
use crate::smtp::address::Domain;

/// Checks the mail hosts of a domain.
pub(super) async fn check(dns: &dyn Dns, domain: &Domain) -> Findings {
    let mut findings = Findings::default();
    let Some(domain) = DnsName::of(domain) else {
        // An address literal.
        findings.add(None, Detail::NoDomain);
        return findings;
    };
    match dns.look_up(&domain, RecordKind::Mx).await.answer {
        Answer::Failed(error) => findings.unasked(Check::Mail, &domain, error),
        Answer::NoName => findings.add(Some(&domain), Detail::NoDomain),
        Answer::Records(records) if !records.is_empty() => hosts(dns, &domain, &records, &mut findings).await,
        // RFC 5321 §5.1: without any MX record the domain is its own host.
        Answer::NoData | Answer::Records(_) => match has_address(dns, &domain, &mut findings).await {
            Some(true) => findings.add(Some(&domain), Detail::Mail),
            Some(false) => findings.add(Some(&domain), Detail::NoMail),
            None => {}
        },
    }
    findings
}

async fn hosts(dns: &dyn Dns, domain: &DnsName, records: &[Record], findings: &mut Findings) {
    let exchanges = || {
        records
            .iter()
            .filter_map(|record| if let Record::Mx(mx) = record { Some(&mx.exchange) } else { None })
    };
    // RFC 7505 §3
    if exchanges().all(|exchange| *exchange == Exchange::Null) {
        return findings.add(Some(domain), Detail::NullMx);
    }
    let (mut usable, mut unknown) = (false, false);
    for exchange in exchanges().take(MAX_HOSTS) {
        let Exchange::Host(host) = exchange else { continue };
        let Some(host) = DnsName::of(host) else { continue };
        match has_address(dns, &host, findings).await {
            Some(true) => usable = true,
            Some(false) => findings.add(Some(&host), Detail::HostWithoutAddress),
            None => unknown = true,
        }
    }
    match (usable, unknown) {
        (true, _) => findings.add(Some(domain), Detail::Mail),
        (false, false) => findings.add(Some(domain), Detail::NoMail),
        // That they could not be asked was said.
        (false, true) => {}
    }
}

/// Whether a host has an address; `None` when that cannot be known, which is a finding.
async fn has_address(dns: &dyn Dns, host: &DnsName, findings: &mut Findings) -> Option<bool> {
    let mut failed = None;
    for kind in [RecordKind::A, RecordKind::Aaaa] {
        match dns.look_up(host, kind).await.answer {
            Answer::Records(records) if records.iter().any(|one| address(one).is_some()) => {
                return Some(true);
            }
            Answer::Failed(error) => failed = Some(error),
            _ => {}
        }
    }
    match failed {
        Some(error) => {
            findings.unasked(Check::Mail, host, error);
            None
        }
        None => Some(false),
    }
}

/// What a domain announces for those who send to it: a policy on TLS (RFC 8461 §3.1), and where reports go
/// (RFC 8460 §3). The policy itself is not fetched.
pub(super) async fn announcements(dns: &dyn Dns, domain: &Domain) -> Findings {
    let mut findings = Findings::default();
    let Some(domain) = DnsName::of(domain) else { return findings };
    for (labels, version, missing) in
        [("_mta-sts", &b"v=STSv1"[..], Detail::NoSts), ("_smtp._tls", b"v=TLSRPTv1", Detail::NoTlsReports)]
    {
        let Some(name) = domain.below(labels) else { continue };
        let is_one = |record: &Record| matches!(record, Record::Txt(text) if text.starts_with(version));
        match dns.look_up(&name, RecordKind::Txt).await.answer {
            Answer::Failed(error) => findings.unasked(Check::Policy, &name, error),
            Answer::Records(records) if records.iter().any(is_one) => {
                findings.add(Some(&name), Detail::Announced);
            }
            _ => findings.add(Some(&name), missing),
        }
    }
    findings
}

/// As many hosts as routing looks at.
const MAX_HOSTS: usize = 20;
