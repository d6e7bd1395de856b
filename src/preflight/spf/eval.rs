//! The evaluation of a record, and of those that it leads to, within the limits of RFC 7208 §4.6.4.

use std::net::IpAddr;

use super::macros::{Spec, Values};
use super::record::{Directive, Mechanism, Prefixes, Qualifier, Record};
use super::{Evaluation, SpfFault, SpfResult};
use crate::BoxFuture;
use crate::route::RouteError;
use crate::route::dns::{self, Answer, Dns, DnsName, RecordKind};
use crate::route::mx::Exchange;

/// One check, with what it has used up.
pub(super) struct Eval<'a> {
    dns: &'a dyn Dns,
    ip: IpAddr,
    local: &'a str,
    sender_domain: &'a str,
    helo: &'a str,
    look_ups: usize,
    voids: usize,
    used_ptr: bool,
    /// The names of the address that lead back to it, once they were looked for.
    names: Option<Vec<DnsName>>,
}

/// Why an evaluation ends before it has a result.
enum End {
    Temp(RouteError),
    Perm(SpfFault),
    /// In another record, which has been named.
    Inner(SpfResult),
}

impl<'a> Eval<'a> {
    pub(super) const fn new(
        dns: &'a dyn Dns,
        ip: IpAddr,
        local: &'a str,
        sender_domain: &'a str,
        helo: &'a str,
    ) -> Self {
        Self { dns, ip, local, sender_domain, helo, look_ups: 0, voids: 0, used_ptr: false, names: None }
    }

    pub(super) fn finish(self, result: SpfResult) -> Evaluation {
        Evaluation { result, look_ups: self.look_ups, used_ptr: self.used_ptr }
    }

    /// `check_host()` of one domain. It goes no deeper than there are look-ups.
    pub(super) fn check(&mut self, domain: DnsName) -> BoxFuture<'_, SpfResult> {
        Box::pin(async move {
            match self.judge(&domain).await {
                Ok(result) | Err(End::Inner(result)) => result,
                Err(End::Temp(error)) => SpfResult::TempError(error),
                Err(End::Perm(fault)) => SpfResult::PermError(fault, domain),
            }
        })
    }

    async fn judge(&mut self, domain: &DnsName) -> Result<SpfResult, End> {
        let Some(record) = self.record(domain).await? else { return Ok(SpfResult::None) };
        for Directive { qualifier, mechanism } in &record.directives {
            if self.matches(mechanism, domain).await? {
                return Ok(match qualifier {
                    Qualifier::Pass => SpfResult::Pass,
                    Qualifier::Fail => SpfResult::Fail,
                    Qualifier::SoftFail => SpfResult::SoftFail,
                    Qualifier::Neutral => SpfResult::Neutral,
                });
            }
        }
        let Some(redirect) = &record.redirect else { return Ok(SpfResult::Neutral) };
        self.count()?;
        // RFC 7208 §6.1
        let Some(target) = self.name(redirect, domain).await else {
            return Err(End::Perm(SpfFault::NoRecord));
        };
        match self.check(target).await {
            SpfResult::None => Err(End::Perm(SpfFault::NoRecord)),
            result => Ok(result),
        }
    }

    /// RFC 7208 §4.4 and §4.5
    async fn record(&self, domain: &DnsName) -> Result<Option<Record>, End> {
        let records = match self.dns.look_up(domain, RecordKind::Txt).await.answer {
            Answer::Records(records) => records,
            Answer::NoData | Answer::NoName => return Ok(None),
            Answer::Failed(error) => return Err(End::Temp(error)),
        };
        let mut ours = records.iter().filter_map(|record| match record {
            dns::Record::Txt(text) if Record::is_one(text) => Some(text),
            _ => None,
        });
        match (ours.next(), ours.next()) {
            (None, _) => Ok(None),
            (Some(text), None) => Record::parse(text).map(Some).map_err(End::Perm),
            (Some(_), Some(_)) => Err(End::Perm(SpfFault::Several)),
        }
    }

    async fn matches(&mut self, mechanism: &Mechanism, domain: &DnsName) -> Result<bool, End> {
        match mechanism {
            Mechanism::All => Ok(true),
            Mechanism::Ip4(network, bits) => Ok(is_within(self.ip, (*network).into(), *bits)),
            Mechanism::Ip6(network, bits) => Ok(is_within(self.ip, (*network).into(), *bits)),
            Mechanism::Include(spec) => {
                self.count()?;
                let Some(target) = self.name(spec, domain).await else {
                    return Err(End::Perm(SpfFault::NoRecord));
                };
                // RFC 7208 §5.2
                match self.check(target).await {
                    SpfResult::Pass => Ok(true),
                    SpfResult::Fail | SpfResult::SoftFail | SpfResult::Neutral => Ok(false),
                    SpfResult::None => Err(End::Perm(SpfFault::NoRecord)),
                    error => Err(End::Inner(error)),
                }
            }
            Mechanism::A(spec, prefixes) => {
                self.count()?;
                let Some(name) = self.target(spec.as_ref(), domain).await else { return Ok(false) };
                let found = self.ask(&name, self.family()).await?;
                Ok(self.is_among(&found, *prefixes))
            }
            Mechanism::Mx(spec, prefixes) => {
                self.count()?;
                let Some(name) = self.target(spec.as_ref(), domain).await else { return Ok(false) };
                self.has_host(&name, *prefixes).await
            }
            Mechanism::Exists(spec) => {
                self.count()?;
                let Some(name) = self.name(spec, domain).await else { return Ok(false) };
                // RFC 7208 §5.7: of IPv4 even when the host's is not.
                Ok(!self.ask(&name, RecordKind::A).await?.is_empty())
            }
            Mechanism::Ptr(spec) => {
                self.count()?;
                self.used_ptr = true;
                let Some(target) = self.target(spec.as_ref(), domain).await else { return Ok(false) };
                let names = self.names().await;
                Ok(names.iter().any(|name| name.is_at_or_below(&target)))
            }
        }
    }

    /// RFC 7208 §5.4
    async fn has_host(&mut self, name: &DnsName, prefixes: Prefixes) -> Result<bool, End> {
        let hosts = self.ask(name, RecordKind::Mx).await?;
        if hosts.len() > MAX_NAMES {
            return Err(End::Perm(SpfFault::Hosts));
        }
        for host in hosts {
            let dns::Record::Mx(mx) = host else { continue };
            let Exchange::Host(host) = mx.exchange else { continue };
            let Some(host) = DnsName::of(&host) else { continue };
            // The term has its answer: a host without an address of this family is no void of its own.
            match self.dns.look_up(&host, self.family()).await.answer {
                Answer::Records(found) if self.is_among(&found, prefixes) => return Ok(true),
                Answer::Failed(error) => return Err(End::Temp(error)),
                _ => {}
            }
        }
        Ok(false)
    }

    fn is_among(&self, records: &[dns::Record], prefixes: Prefixes) -> bool {
        records.iter().filter_map(address).any(|found| {
            let bits = if found.is_ipv4() { prefixes.v4 } else { prefixes.v6 };
            is_within(self.ip, found, bits)
        })
    }

    /// The one question of a term; two of them may stay without an answer.
    async fn ask(&mut self, name: &DnsName, kind: RecordKind) -> Result<Vec<dns::Record>, End> {
        match self.dns.look_up(name, kind).await.answer {
            Answer::Records(records) if !records.is_empty() => Ok(records),
            Answer::Failed(error) => Err(End::Temp(error)),
            Answer::Records(_) | Answer::NoData | Answer::NoName => {
                self.voids += 1;
                if self.voids > MAX_VOIDS { Err(End::Perm(SpfFault::Void)) } else { Ok(Vec::new()) }
            }
        }
    }

    /// The names of the address that have it (RFC 7208 §5.5). What fails here matches nothing.
    async fn names(&mut self) -> Vec<DnsName> {
        if let Some(names) = &self.names {
            return names.clone();
        }
        let mut names = Vec::new();
        let reverse = DnsName::reverse(self.ip);
        if let Answer::Records(records) = self.dns.look_up(&reverse, RecordKind::Ptr).await.answer {
            // More are not looked at (RFC 7208 §4.6.4).
            for record in records.into_iter().take(MAX_NAMES) {
                let dns::Record::Ptr(name) = record else { continue };
                let whole = Prefixes { v4: 32, v6: 128 };
                if let Answer::Records(found) = self.dns.look_up(&name, self.family()).await.answer
                    && self.is_among(&found, whole)
                {
                    names.push(name);
                }
            }
        }
        self.names = Some(names.clone());
        names
    }

    /// The domain of a mechanism; that of the record where it names none.
    async fn target(&mut self, spec: Option<&Spec>, domain: &DnsName) -> Option<DnsName> {
        match spec {
            Some(spec) => self.name(spec, domain).await,
            None => Some(domain.clone()),
        }
    }

    async fn name(&mut self, spec: &Spec, domain: &DnsName) -> Option<DnsName> {
        let named = if spec.needs_name() { self.validated(domain).await } else { None };
        spec.name(&Values {
            local: self.local,
            sender_domain: self.sender_domain,
            domain: domain.as_str(),
            ip: self.ip,
            helo: self.helo,
            name: named.as_ref().map_or("unknown", DnsName::as_str),
        })
    }

    /// RFC 7208 §7.3: the domain itself before a name below it before any other.
    async fn validated(&mut self, domain: &DnsName) -> Option<DnsName> {
        self.used_ptr = true;
        let names = self.names().await;
        let best = names.iter().find(|name| *name == domain);
        best.or_else(|| names.iter().find(|name| name.is_at_or_below(domain)))
            .or_else(|| names.first())
            .cloned()
    }

    const fn family(&self) -> RecordKind {
        if self.ip.is_ipv4() { RecordKind::A } else { RecordKind::Aaaa }
    }

    /// A term that asks.
    const fn count(&mut self) -> Result<(), End> {
        if self.look_ups == MAX_LOOK_UPS {
            return Err(End::Perm(SpfFault::LookUps));
        }
        self.look_ups += 1;
        Ok(())
    }
}

pub(in crate::preflight) fn address(record: &dns::Record) -> Option<IpAddr> {
    match record {
        dns::Record::A(v4) => Some((*v4).into()),
        dns::Record::Aaaa(v6) => Some((*v6).into()),
        _ => None,
    }
}

fn is_within(ip: IpAddr, network: IpAddr, bits: u8) -> bool {
    let bits = u32::from(bits);
    match (ip, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            (u32::from(a) ^ u32::from(b)).checked_shr(32_u32.saturating_sub(bits)).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            (u128::from(a) ^ u128::from(b)).checked_shr(128_u32.saturating_sub(bits)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// RFC 7208 §4.6.4
pub(super) const MAX_LOOK_UPS: usize = 10;
/// RFC 7208 §4.6.4
const MAX_VOIDS: usize = 2;
/// RFC 7208 §4.6.4: hosts of an MX, names of an address.
const MAX_NAMES: usize = 10;
