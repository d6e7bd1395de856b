//! A domain's policy, and whether our mail is aligned with it (RFC 9989).
//!
//! Two domains are aligned when they belong to one organization, or, where a record asks for it, when they
//! are the same. What an organization's domain is says DNS itself: the walk up the tree finds the records
//! of the domains above (RFC 9989 §4.10). No list of public suffixes is needed, which would be old one day.

mod record;

use super::Preflight;
use super::finding::{Check, Detail, Findings};
use crate::route::RouteError;
use crate::route::dns::{Answer, Dns, DnsName, Record, RecordKind};
use crate::smtp::address::Domain;
use record::DmarcRecord;

pub use record::{DmarcFault, Policy};

/// Checks the policy of the domain, and the alignment of the sender and of the signatures.
pub(super) async fn check(dns: &dyn Dns, preflight: &Preflight) -> Findings {
    let mut findings = Findings::default();
    let Some(author) = DnsName::of(&preflight.domain) else { return findings };
    let walk = match Walk::from(dns, &author, &mut findings).await {
        Ok(walk) => walk,
        Err((name, error)) => {
            findings.unasked(Check::Dmarc, &name, error);
            return findings;
        }
    };
    let organization = walk.organization();
    let Some((at, record)) = walk.policy(&organization) else {
        // What is broken is not missing as well.
        if findings.iter().next().is_none() {
            findings.add(below(&author).as_ref(), Detail::DmarcMissing);
        }
        return findings;
    };
    let name = below(at);
    let name = name.as_ref();
    match if *at == author { record.policy } else { record.below } {
        Policy::None => findings.add(name, Detail::DmarcNothing),
        policy => findings.add(name, Detail::DmarcPolicy(policy)),
    }
    if record.testing {
        findings.add(name, Detail::DmarcTesting);
    }
    if !record.has_reports {
        findings.add(name, Detail::DmarcNoReports);
    }
    agreed(dns, at, &organization, record, &mut findings).await;

    let own = (&author, &organization);
    let sender = preflight.return_path.as_ref().unwrap_or(&preflight.domain);
    let spf = aligned(dns, own, sender, record.strict_spf, &mut findings).await;
    let mut dkim = Vec::new();
    let mut signers: Vec<&Domain> = Vec::new();
    for key in &preflight.keys {
        let signer = key.domain().unwrap_or(&preflight.domain);
        if !signers.contains(&signer) {
            signers.push(signer);
            dkim.push((signer, aligned(dns, own, signer, record.strict_dkim, &mut findings).await));
        }
    }
    let one = |domain: &Domain, is: Option<bool>, yes: Detail, no: Detail, findings: &mut Findings| {
        if let Some(is) = is {
            findings.add(DnsName::of(domain).as_ref(), if is { yes } else { no });
        }
    };
    one(sender, spf, Detail::SpfAligned, Detail::SpfUnaligned, &mut findings);
    for (signer, is) in &dkim {
        one(signer, *is, Detail::DkimAligned, Detail::DkimUnaligned, &mut findings);
    }
    if spf == Some(false) && dkim.iter().all(|(_, is)| *is == Some(false)) {
        findings.add(Some(&author), Detail::NothingAligned);
    }
    findings
}

/// Whether a domain is aligned with the author's; `None` when that cannot be found out.
async fn aligned(
    dns: &dyn Dns,
    (author, organization): (&DnsName, &DnsName),
    other: &Domain,
    strict: bool,
    findings: &mut Findings,
) -> Option<bool> {
    let Some(other) = DnsName::of(other) else { return Some(false) };
    if other == *author {
        return Some(true);
    }
    if strict {
        return Some(false);
    }
    // What is wrong with the records of others is theirs.
    match Walk::from(dns, &other, &mut Findings::default()).await {
        Ok(walk) => Some(walk.organization() == *organization),
        Err((name, error)) => {
            findings.unasked(Check::Dmarc, &name, error);
            None
        }
    }
}

/// Whether those to whom reports are to go have agreed to it (RFC 9990 §4).
async fn agreed(
    dns: &dyn Dns,
    at: &DnsName,
    organization: &DnsName,
    record: &DmarcRecord,
    findings: &mut Findings,
) {
    for address in record.reports.iter().take(MAX_REPORTS) {
        let Some(to) = DnsName::of(address.domain()) else { continue };
        if to.is_at_or_below(organization) {
            continue;
        }
        let Some(name) = to.below(&format!("{at}._report._dmarc")) else { continue };
        match dns.look_up(&name, RecordKind::Txt).await.answer {
            Answer::Failed(error) => findings.unasked(Check::Dmarc, &name, error),
            Answer::Records(records)
                if records.iter().any(|one| matches!(one, Record::Txt(text) if record::is_one(text))) => {}
            _ => findings.add(Some(&name), Detail::DmarcReports),
        }
    }
}

/// The records of a domain and of those above it (RFC 9989 §4.10).
struct Walk {
    start: DnsName,
    /// From the start upwards.
    records: Vec<(DnsName, DmarcRecord)>,
}

impl Walk {
    /// Asks eight times at most. What is no good record counts as none, and is a finding.
    async fn from(
        dns: &dyn Dns,
        start: &DnsName,
        findings: &mut Findings,
    ) -> Result<Self, (DnsName, RouteError)> {
        let mut walk = Self { start: start.clone(), records: Vec::new() };
        let mut next = Some(start.clone());
        while let Some(domain) = next {
            next = above(&domain);
            let Some(name) = below(&domain) else { continue };
            let texts: Vec<_> = match dns.look_up(&name, RecordKind::Txt).await.answer {
                Answer::Failed(error) => return Err((name, error)),
                Answer::NoData | Answer::NoName => continue,
                Answer::Records(records) => records
                    .into_iter()
                    .filter_map(|record| match record {
                        Record::Txt(text) if record::is_one(&text) => Some(text),
                        _ => None,
                    })
                    .collect(),
            };
            match &texts[..] {
                [] => {}
                [text] => match record::parse(text) {
                    Ok(record) => {
                        let ends = record.psd == Some(false) || record.psd == Some(true) && domain != *start;
                        walk.records.push((domain, record));
                        if ends {
                            break;
                        }
                    }
                    Err(fault) => findings.add(Some(&name), Detail::DmarcBroken(fault)),
                },
                _ => findings.add(Some(&name), Detail::DmarcSeveral),
            }
        }
        Ok(walk)
    }

    /// RFC 9989 §4.10.2
    fn organization(&self) -> DnsName {
        let Some((top, record)) = self.records.last() else { return self.start.clone() };
        if record.psd == Some(true) && *top != self.start {
            // One label below, on the way to where we began.
            let mut domain = self.start.clone();
            while let Some(parent) = domain.parent()
                && parent != *top
            {
                domain = parent;
            }
            return domain;
        }
        top.clone()
    }

    /// RFC 9989 §4.10.1: the domain's own, else its organization's, else that of what is above.
    fn policy(&self, organization: &DnsName) -> Option<(&DnsName, &DmarcRecord)> {
        let of = |domain: &DnsName| self.records.iter().find(|(name, _)| name == domain);
        let found = of(&self.start).or_else(|| of(organization)).or_else(|| self.records.last());
        found.map(|(name, record)| (name, record))
    }
}

fn below(domain: &DnsName) -> Option<DnsName> {
    domain.below("_dmarc")
}

/// The next domain of the walk: from a long name to seven labels at once, so that nobody makes us ask for
/// every label (RFC 9989 §4.10).
fn above(domain: &DnsName) -> Option<DnsName> {
    let mut next = domain.parent()?;
    while next.as_str().split('.').count() > MAX_LABELS {
        next = next.parent()?;
    }
    Some(next)
}

const MAX_LABELS: usize = 7;
/// More are not asked; RFC 9990 §3.5.3 has receivers send to as many as they like.
const MAX_REPORTS: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_cut_to_seven_labels_at_once() {
        let mut names = vec![DnsName::new("a.b.c.d.e.f.g.h.i.j.mail.example.com").unwrap()];
        while let Some(next) = above(names.last().unwrap()) {
            names.push(next);
        }
        let labels: Vec<_> = names.iter().map(|name| name.as_str().split('.').count()).collect();
        assert_eq!(labels, [13, 7, 6, 5, 4, 3, 2, 1]);
    }
}
