//! What SPF says of our addresses, and what of the record is unwise though it works.

use std::net::IpAddr;

use super::record::{Mechanism, Qualifier, Record};
use super::{Evaluation, SpfResult, evaluate};
use crate::preflight::Preflight;
use crate::preflight::finding::{Check, Detail, Findings};
use crate::route::dns::{self, Answer, Dns, DnsName, RecordKind};
use crate::smtp::address::{Domain, Mailbox, ReversePath};

/// Checks each address for the sender's domain, and for the name in EHLO, under which reports go.
pub(in crate::preflight) async fn check(dns: &dyn Dns, preflight: &Preflight) -> Findings {
    let mut findings = Findings::default();
    let sender = preflight.return_path.as_ref().unwrap_or(&preflight.domain);
    // The local part counts only where a record asks for it.
    let path = Mailbox::parse(&format!("postmaster@{sender}")).map_or(ReversePath::Null, ReversePath::from);
    for &ip in &preflight.addresses {
        let found = evaluate(dns, ip, sender, &path, &preflight.helo).await;
        judge(sender, ip, found, true, &mut findings);
    }
    advise(dns, sender, &mut findings).await;
    if preflight.helo.as_domain() != sender {
        for &ip in &preflight.addresses {
            let helo = preflight.helo.as_domain();
            let found = evaluate(dns, ip, helo, &ReversePath::Null, &preflight.helo).await;
            judge(helo, ip, found, false, &mut findings);
        }
    }
    findings.dedup();
    findings
}

fn judge(domain: &Domain, ip: IpAddr, found: Evaluation, must_be: bool, findings: &mut Findings) {
    let name = DnsName::of(domain);
    let name = name.as_ref();
    let passes = found.result == SpfResult::Pass;
    match found.result {
        SpfResult::Pass => findings.add(name, Detail::SpfPass(ip)),
        SpfResult::None if must_be => findings.add(name, Detail::SpfNone),
        // RFC 7208 §2.3: a host may have a record; few do.
        SpfResult::None => {}
        SpfResult::PermError(fault, at) => findings.add(Some(&at), Detail::SpfBroken(fault)),
        SpfResult::TempError(error) => findings.add(name, Detail::Unasked(Check::Spf, error)),
        result => findings.add(name, Detail::SpfNot(ip, result)),
    }
    if passes && found.used_ptr {
        findings.add(name, Detail::SpfPtr);
    }
    if passes && found.look_ups >= super::eval::MAX_LOOK_UPS {
        findings.add(name, Detail::SpfAtLimit);
    }
}

/// Looks at the record itself. What is wrong with it was said.
async fn advise(dns: &dyn Dns, domain: &Domain, findings: &mut Findings) {
    let Some(name) = DnsName::of(domain) else { return };
    let records = match dns.look_up(&name, RecordKind::Txt).await.answer {
        Answer::Records(records) => records,
        Answer::NoData | Answer::NoName => return,
        // Without an address nobody else has asked.
        Answer::Failed(error) => return findings.unasked(Check::Spf, &name, error),
    };
    let text = records.iter().find_map(|record| match record {
        dns::Record::Txt(text) if Record::is_one(text) => Some(text),
        _ => None,
    });
    let Some(text) = text else { return };
    let Ok(record) = Record::parse(text) else { return };
    if text.len() > SAFE_OCTETS {
        findings.add(Some(&name), Detail::SpfLong(text.len()));
    }
    let all = record.directives.iter().find(|directive| directive.mechanism == Mechanism::All);
    match all.map(|all| all.qualifier) {
        Some(Qualifier::Pass) => findings.add(Some(&name), Detail::SpfOpen),
        Some(Qualifier::Fail | Qualifier::SoftFail) => {}
        None if record.redirect.is_some() => {}
        Some(Qualifier::Neutral) | None => findings.add(Some(&name), Detail::SpfNoEnd),
    }
}

/// RFC 7208 §3.4: what fits into an answer together with the rest.
const SAFE_OCTETS: usize = 450;
