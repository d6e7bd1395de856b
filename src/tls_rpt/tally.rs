//! A tally is what a day's sessions showed, counted per domain and policy (RFC 8460 §4).
//!
//! It is bounded ([`Bounds`]). A domain beyond its number of domains is not counted, and that is
//! counted; a policy beyond those of one domain, the same. A failure beyond the details of a policy, or
//! of all, is counted without saying at which host it was found.

use std::collections::{BTreeMap, BTreeSet};

use super::journal::Line;
use super::record::ReportTo;
use super::result::{Failure, Finding, Policy};
use crate::smtp::address::Domain;

/// How much a tally takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bounds {
    /// Domains in a day. Default: 10,000, which is some 10 MB; each can cost a look-up and a mail.
    pub domains: usize,
    /// Policies of one domain: it may change it during the day. Default: 8.
    pub policies: usize,
    /// Policies of all domains. Default: 20,000, which is up to 90 MB where each is as long as may be.
    pub all_policies: usize,
    /// Kinds of failures of one policy, each a result at an address of a host. Default: 100, so that a
    /// report stays readable.
    pub details: usize,
    /// Kinds of failures of all. Default: 50,000, which is some 10 MB.
    pub all_details: usize,
}

impl Bounds {
    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self { domains: 10_000, policies: 8, all_policies: 20_000, details: 100, all_details: 50_000 }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self::new()
    }
}

/// What a day's sessions showed.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    bounds: Bounds,
    /// By domain the numbers of its policies.
    domains: BTreeMap<Domain, Vec<u64>>,
    policies: BTreeMap<u64, Counted>,
    next: u64,
    details: usize,
    /// Policies with something that is not written yet.
    changed: BTreeSet<u64>,
    left_out: u64,
    marks: Marks,
}

/// What was counted of one policy.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counted {
    /// The domain that mail was for.
    pub domain: Domain,
    /// The policy.
    pub policy: Policy,
    /// Sessions that were good.
    pub good: Count,
    /// Sessions that failed, by what was found.
    pub failed: BTreeMap<Failure, Count>,
    is_written: bool,
}

/// A count, and how much of it is not written yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    all: u64,
    unwritten: u64,
}

impl Count {
    /// The count.
    #[must_use]
    pub const fn all(self) -> u64 {
        self.all
    }

    const fn add(&mut self, count: u64) {
        self.all = self.all.saturating_add(count);
        self.unwritten = self.unwritten.saturating_add(count);
    }

    fn take(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.unwritten)).filter(|count| *count > 0)
    }
}

/// What was done about the reports of a day.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    sent: BTreeSet<(Domain, Box<str>)>,
    over: BTreeSet<Domain>,
}

impl Tally {
    /// An empty one.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, ..Self::default() }
    }

    /// Counts what a session to a host of `domain` showed.
    pub fn count(&mut self, domain: &Domain, finding: Finding) {
        self.add(domain, finding.policy, finding.failure, 1);
    }

    /// The domains with results, in order.
    pub fn domains(&self) -> impl Iterator<Item = &Domain> {
        self.domains.keys()
    }

    /// What was counted for one domain, in the order in which its policies were first seen.
    pub fn of<'a>(&'a self, domain: &Domain) -> impl Iterator<Item = &'a Counted> + use<'a> {
        let numbers = self.domains.get(domain).map(Vec::as_slice).unwrap_or_default();
        numbers.iter().filter_map(|number| self.policies.get(number))
    }

    /// Sessions that found no room.
    #[must_use]
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// Whether something is not written yet.
    pub(crate) fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// What came since this was asked last, as lines to be appended to those from before.
    pub(crate) fn take_changes(&mut self) -> String {
        let mut text = String::new();
        for number in std::mem::take(&mut self.changed) {
            let Some(counted) = self.policies.get_mut(&number) else { continue };
            if !std::mem::replace(&mut counted.is_written, true) {
                text.push_str(&counted.introduced(number));
            }
            if let Some(count) = counted.good.take() {
                text.push_str(&Line::Good { number, count }.to_text());
            }
            for (failure, count) in &mut counted.failed {
                if let Some(count) = count.take() {
                    text.push_str(&Line::Failed { number, count, failure: failure.clone() }.to_text());
                }
            }
        }
        text
    }

    /// Nothing of it counts as written: what comes next takes the place of the lines from before.
    pub(crate) fn unwrite(&mut self) {
        for (number, counted) in &mut self.policies {
            self.changed.insert(*number);
            counted.is_written = false;
            counted.good.unwritten = counted.good.all;
            counted.failed.values_mut().for_each(|count| count.unwritten = count.all);
        }
    }

    /// What lines say. Those that are damaged are left out. All of it counts as written, but a policy is
    /// introduced again before more is counted: in the lines it may have had another number.
    #[must_use]
    pub fn read(lines: &[u8], bounds: Bounds) -> Self {
        let mut tally = Self::new(bounds);
        // The numbers in the file, which need not be ours: some may have found no room.
        let mut known: BTreeMap<u64, (Domain, Policy)> = BTreeMap::new();
        for line in lines.split(|octet| *octet == b'\n').filter_map(Line::parse) {
            match line {
                Line::Policy { number, domain, policy } => {
                    if known.len() < bounds.all_policies || known.contains_key(&number) {
                        known.insert(number, (domain, policy));
                    }
                }
                Line::Good { number, count } => {
                    if let Some((domain, policy)) = known.get(&number) {
                        tally.add(domain, policy.clone(), None, count);
                    }
                }
                Line::Failed { number, count, failure } => {
                    if let Some((domain, policy)) = known.get(&number) {
                        tally.add(domain, policy.clone(), Some(failure), count);
                    }
                }
                Line::Sent { domain, to } => tally.marks.sent(domain, to, bounds),
                Line::Over { domain } => tally.marks.over(domain, bounds),
            }
        }
        for counted in tally.policies.values_mut() {
            counted.good.unwritten = 0;
            counted.failed.values_mut().for_each(|count| count.unwritten = 0);
        }
        tally.changed.clear();
        tally
    }

    /// Takes in what another one counted and did not write: what it wrote is read from there.
    pub(crate) fn absorb(&mut self, other: Self) {
        for (_, counted) in other.policies {
            let Counted { domain, policy, good, failed, .. } = counted;
            for (failure, count) in failed {
                self.add(&domain, policy.clone(), Some(failure), count.unwritten);
            }
            self.add(&domain, policy, None, good.unwritten);
        }
        self.left_out = self.left_out.saturating_add(other.left_out);
    }

    /// Whether the day's report of a domain was sent there.
    pub(crate) fn is_sent(&self, domain: &Domain, to: &ReportTo) -> bool {
        self.marks.sent.contains(&(domain.clone(), to.to_string().into_boxed_str()))
    }

    /// Whether there is nothing more to do for a domain.
    pub(crate) fn is_over(&self, domain: &Domain) -> bool {
        self.marks.over.contains(domain)
    }

    fn add(&mut self, domain: &Domain, policy: Policy, failure: Option<Failure>, count: u64) {
        if count == 0 {
            return;
        }
        let Some(number) = self.number(domain, policy) else {
            self.left_out = self.left_out.saturating_add(count);
            return;
        };
        let Some(counted) = self.policies.get_mut(&number) else { return };
        self.changed.insert(number);
        let Some(mut failure) = failure else { return counted.good.add(count) };
        if !counted.failed.contains_key(&failure) {
            if counted.failed.len() >= self.bounds.details || self.details >= self.bounds.all_details {
                // No more of these than there are results.
                let (reason, result) = (Box::default(), failure.result);
                failure = Failure { result, local: None, host: None, remote: None, reason };
            }
            self.details += usize::from(!counted.failed.contains_key(&failure));
        }
        counted.failed.entry(failure).or_default().add(count);
    }

    /// The number of a policy; a new one where it was not seen before.
    fn number(&mut self, domain: &Domain, policy: Policy) -> Option<u64> {
        let is_known = self.domains.contains_key(domain);
        let numbers = self.domains.get(domain).map(Vec::as_slice).unwrap_or_default();
        let seen = |number: &&u64| self.policies.get(number).is_some_and(|known| known.policy == policy);
        if let Some(number) = numbers.iter().find(seen) {
            return Some(*number);
        }
        let is_full = numbers.len() >= self.bounds.policies
            || self.policies.len() >= self.bounds.all_policies
            || !is_known && self.domains.len() >= self.bounds.domains;
        if is_full {
            return None;
        }
        let number = self.next;
        self.next += 1;
        self.domains.entry(domain.clone()).or_default().push(number);
        self.policies.insert(number, Counted::new(domain.clone(), policy));
        Some(number)
    }
}

impl Counted {
    const fn new(domain: Domain, policy: Policy) -> Self {
        let good = Count { all: 0, unwritten: 0 };
        Self { domain, policy, good, failed: BTreeMap::new(), is_written: false }
    }

    fn introduced(&self, number: u64) -> String {
        Line::Policy { number, domain: self.domain.clone(), policy: self.policy.clone() }.to_text()
    }

    /// How many sessions failed.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failed.values().fold(0, |sum, count| sum.saturating_add(count.all))
    }
}

impl Marks {
    fn sent(&mut self, domain: Domain, to: Box<str>, bounds: Bounds) {
        if self.sent.len() < bounds.domains.saturating_mul(MAX_SENT) {
            self.sent.insert((domain, to));
        }
    }

    fn over(&mut self, domain: Domain, bounds: Bounds) {
        if self.over.len() < bounds.domains {
            self.over.insert(domain);
        }
    }
}

/// Addresses of one domain that a day's report was sent to: a record has five, and may change.
const MAX_SENT: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hop::TlsFault;
    use crate::tls_rpt::journal::sent;
    use crate::tls_rpt::journal::tests::{domain, failure, policy};
    use crate::tls_rpt::result::PolicyType;

    fn finding(failure: Option<Failure>) -> Finding {
        Finding { policy: policy(PolicyType::Sts, "b.test"), failure }
    }

    fn shown(tally: &Tally) -> Vec<String> {
        let of = |domain: &Domain| -> Vec<String> {
            let counts = |counted: &Counted| {
                let failed = counted.failed.iter().map(|(failure, count)| {
                    let at = failure.host.as_deref().unwrap_or("?");
                    format!(" {} at {at}: {}", failure.result.as_str(), count.all())
                });
                let failed: String = failed.collect();
                format!("{domain} {}: {}{failed}", counted.policy.kind.as_str(), counted.good.all())
            };
            tally.of(domain).map(counts).collect()
        };
        tally.domains().flat_map(of).collect()
    }

    #[test]
    fn what_was_written_in_pieces_is_what_was_counted() {
        let mut tally = Tally::new(Bounds::new());
        let mut file = String::new();
        let none = Finding { policy: policy(PolicyType::NoneFound, "b.test"), failure: None };
        for round in 0..4 {
            tally.count(&domain("b.test"), finding(None));
            if round % 2 == 0 {
                tally.count(&domain("b.test"), finding(Some(failure(TlsFault::Expired, "mx.b.test"))));
                tally.count(&domain("c.test"), none.clone());
            }
            file += &tally.take_changes();
            assert!(!tally.is_changed() && tally.take_changes().is_empty());
        }
        let expected = ["b.test sts: 4 certificate-expired at mx.b.test: 2", "c.test no-policy-found: 2"];
        assert_eq!(shown(&tally), expected);
        assert_eq!(shown(&Tally::read(file.as_bytes(), Bounds::new())), expected);
        assert_eq!(file.matches("\"policy\"").count(), 2, "{file}");
        tally.unwrite();
        let all = tally.take_changes();
        assert!(all.len() < file.len());
        assert_eq!(shown(&Tally::read(all.as_bytes(), Bounds::new())), expected);
        // A crash cut the last line, and what was appended behind it is another.
        let cut = format!("{}\n{all}", &all[..all.len() - 3]);
        let twice = ["b.test sts: 8 certificate-expired at mx.b.test: 4", "c.test no-policy-found: 2"];
        assert_eq!(shown(&Tally::read(cut.as_bytes(), Bounds::new())), twice);
    }

    #[test]
    fn what_is_counted_after_a_restart_is_added() {
        let mut before = Tally::new(Bounds::new());
        let other = Finding { policy: policy(PolicyType::Tlsa, "b.test"), failure: None };
        for n in 0..3 {
            before.count(&domain(&format!("{n}.test")), finding(None));
            before.count(&domain(&format!("{n}.test")), other.clone());
        }
        let lines = before.take_changes();
        // The first policy was damaged, so the others come to have other numbers.
        let mut file = lines.split_once('\n').unwrap().1.to_owned();
        let mut after = Tally::read(file.as_bytes(), Bounds::new());
        assert!(!after.is_changed());
        after.count(&domain("1.test"), finding(None));
        after.count(&domain("3.test"), finding(None));
        file += &after.take_changes();
        let expected = [
            "0.test tlsa: 1",
            "1.test sts: 2",
            "1.test tlsa: 1",
            "2.test sts: 1",
            "2.test tlsa: 1",
            "3.test sts: 1",
        ];
        assert_eq!(shown(&after), expected);
        assert_eq!(shown(&Tally::read(file.as_bytes(), Bounds::new())), expected);
    }

    #[test]
    fn what_two_counted_is_added_up() {
        let mut one = Tally::new(Bounds::new());
        one.count(&domain("b.test"), finding(None));
        one.take_changes();
        let mut other = Tally::new(Bounds::new());
        other.count(&domain("a.test"), finding(None));
        other.count(&domain("b.test"), finding(Some(failure(TlsFault::Expired, "mx.b.test"))));
        one.absorb(other);
        assert_eq!(shown(&one), ["a.test sts: 1", "b.test sts: 1 certificate-expired at mx.b.test: 1"]);
        let changes = one.take_changes();
        assert_eq!(changes.matches("good").count(), 1, "what was written is not written again: {changes}");
    }

    #[test]
    fn what_does_not_fit_is_counted_without_details_or_left_out() {
        let bounds = Bounds { domains: 2, policies: 2, details: 2, all_details: 3, ..Bounds::new() };
        let mut tally = Tally::new(bounds);
        for n in 0..5 {
            tally.count(&domain(&format!("{n}.test")), finding(None));
            let other = Finding { policy: policy(PolicyType::Tlsa, &format!("{n}.test")), failure: None };
            tally.count(&domain("0.test"), other);
        }
        assert_eq!(shown(&tally), ["0.test sts: 1", "0.test tlsa: 1", "1.test sts: 1"]);
        assert_eq!(tally.left_out(), 3 + 4);
        for n in 0..4 {
            let host = format!("mx{n}.test");
            tally.count(&domain("0.test"), finding(Some(failure(TlsFault::Expired, &host))));
            tally.count(&domain("1.test"), finding(Some(failure(TlsFault::NotTrusted, &host))));
        }
        assert_eq!(
            shown(&tally),
            [
                "0.test sts: 1 certificate-expired at ?: 2 certificate-expired at mx0.test: 1 \
                 certificate-expired at mx1.test: 1",
                "0.test tlsa: 1",
                "1.test sts: 1 certificate-not-trusted at ?: 3 certificate-not-trusted at mx0.test: 1",
            ]
        );
        tally.unwrite();
        assert_eq!(Tally::read(tally.take_changes().as_bytes(), bounds).domains().count(), 2);
        let mut tally = Tally::new(Bounds { all_policies: 3, ..Bounds::new() });
        (0..5).for_each(|n| tally.count(&domain(&format!("{n}.test")), finding(None)));
        assert_eq!((tally.domains().count(), tally.left_out()), (3, 2));
    }

    #[test]
    fn marks_are_remembered_and_bounded() {
        let bounds = Bounds { domains: 2, ..Bounds::new() };
        let to = |n: usize| ReportTo::Https(format!("https://b.test/{n}").into());
        let mut text = String::new();
        for n in 0..50 {
            text += &sent(&domain("b.test"), &to(n)).to_text();
            text += &Line::Over { domain: domain(&format!("{n}.test")) }.to_text();
        }
        let tally = Tally::read(text.as_bytes(), bounds);
        assert!(tally.is_sent(&domain("b.test"), &to(0)) && !tally.is_sent(&domain("c.test"), &to(0)));
        assert!(tally.is_over(&domain("0.test")) && !tally.is_over(&domain("b.test")));
        assert_eq!((tally.marks.sent.len(), tally.marks.over.len()), (20, 2));
    }
}
