//! Our addresses have names, and the name that we give in EHLO has our addresses (RFC 8601 §3, "iprev", and
//! what the largest receivers ask of senders).

use std::net::IpAddr;

use super::Preflight;
use super::finding::{Check, Detail, Findings};
use super::spf::address;
use crate::route::dns::{Answer, Dns, DnsName, Record, RecordKind};

/// Checks the names of the addresses, and then the name in EHLO.
pub(super) async fn check(dns: &dyn Dns, preflight: &Preflight) -> Findings {
    let mut findings = Findings::default();
    let helo = DnsName::of(preflight.helo.as_domain()).filter(|name| name.as_str().contains('.'));
    if helo.is_none() {
        findings.add(None, Detail::HeloNotAName);
    }
    for &ip in &preflight.addresses {
        let ip = ip.to_canonical();
        let names = names(dns, ip, &mut findings).await;
        let Some(helo) = &helo else { continue };
        match addresses(dns, helo, ip).await {
            Answer::Failed(error) => findings.unasked(Check::Helo, helo, error),
            Answer::Records(found) if found.contains(&ip) => {
                findings.add(Some(helo), Detail::Helo(ip));
                if names.is_some_and(|names| !names.contains(helo)) {
                    findings.add(Some(helo), Detail::HeloNotPtr(ip));
                }
            }
            Answer::Records(_) => findings.add(Some(helo), Detail::HeloFalse(ip)),
            // It may have one of the other family.
            Answer::NoData => findings.add(Some(helo), Detail::HeloFalse(ip)),
            Answer::NoName => findings.add(Some(helo), Detail::HeloNoAddress),
        }
    }
    findings
}

/// The names of an address that have it; `None` when there are none, which is a finding.
async fn names(dns: &dyn Dns, ip: IpAddr, findings: &mut Findings) -> Option<Vec<DnsName>> {
    let reverse = DnsName::reverse(ip);
    let records = match dns.look_up(&reverse, RecordKind::Ptr).await.answer {
        Answer::Failed(error) => {
            findings.unasked(Check::Ptr, &reverse, error);
            return None;
        }
        Answer::NoData | Answer::NoName => Vec::new(),
        Answer::Records(records) => records,
    };
    if records.is_empty() {
        findings.add(Some(&reverse), Detail::PtrMissing(ip));
        return None;
    }
    let (mut confirmed, mut failed) = (Vec::new(), None);
    for record in records.into_iter().take(MAX_NAMES) {
        let Record::Ptr(name) = record else { continue };
        match addresses(dns, &name, ip).await {
            Answer::Records(found) if found.contains(&ip) => confirmed.push(name),
            Answer::Failed(error) => failed = Some((name, error)),
            _ => {}
        }
    }
    match (confirmed.first(), failed) {
        (Some(name), _) => findings.add(Some(&reverse), Detail::Ptr(ip, name.clone())),
        // The one that was not answered may be the one.
        (None, Some((name, error))) => findings.unasked(Check::Ptr, &name, error),
        (None, None) => findings.add(Some(&reverse), Detail::PtrFalse(ip)),
    }
    if confirmed.is_empty() { None } else { Some(confirmed) }
}

/// The addresses of a name, of the family of this one.
async fn addresses(dns: &dyn Dns, name: &DnsName, of: IpAddr) -> Answer<IpAddr> {
    let kind = if of.is_ipv4() { RecordKind::A } else { RecordKind::Aaaa };
    dns.look_up(name, kind).await.answer.filter_map(|record| address(&record))
}

/// As many names of an address as RFC 7208 §4.6.4 looks at.
const MAX_NAMES: usize = 10;
