//! What is known about domains' policies, as pure bookkeeping: no I/O, and time is an argument.
//!
//! A policy counts from its fetch until its lifetime is over, whatever DNS and the web say meanwhile
//! (RFC 8461 §3.3): somebody on the way who makes both fail must not be able to end it. It ends earlier
//! only by another policy, which may say `none`. What is asked for, and when:
//!
//! | known | DNS says | then |
//! |---|---|---|
//! | nothing | nothing, or does not answer | there is no policy |
//! | nothing | an id | fetch; after a failure not again for five minutes |
//! | a policy | its id, nothing, or does not answer | the policy counts |
//! | a policy | another id | fetch; the policy counts if that fails |
//! | a policy in doubt | any id | fetch; the policy counts if that fails |
//!
//! Besides, policies are fetched again once a day, or at half their lifetime, for as long as somebody has
//! mail for the domain.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{StoredPolicy, StsFault, StsPolicy};
use crate::clock::{Now, Timestamp};
use crate::smtp::address::Domain;

/// The policies at hand, and what could not be fetched.
#[derive(Debug)]
pub(super) struct Book {
    known: BTreeMap<Domain, Known>,
    /// When each of these is to be fetched again.
    due: BTreeSet<(Instant, Domain)>,
    failed: BTreeMap<Domain, Failure>,
    /// The failures in the order in which they came, for forgetting.
    failed_order: VecDeque<Domain>,
    /// How large the policies are together.
    octets: usize,
    limits: BookLimits,
    /// What was let go and is to be removed from where it is stored.
    dropped: Vec<Domain>,
}

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct BookLimits {
    pub(super) domains: usize,
    pub(super) octets: usize,
}

#[derive(Debug)]
struct Known {
    policy: Arc<StsPolicy>,
    fetched: Timestamp,
    /// The end of its lifetime.
    until: Timestamp,
    due: Instant,
    /// When DNS was last asked.
    checked: Option<Instant>,
    /// When it last counted for somebody.
    used: Instant,
    /// A delivery failed by it: perhaps there is a new one.
    in_doubt: bool,
    /// When a delivery last put it in doubt.
    doubted: Option<Instant>,
}

#[derive(Debug)]
struct Failure {
    id: Box<str>,
    at: Instant,
    fault: StsFault,
}

/// What DNS says of a domain's policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// There is one, under this id.
    Id(Box<str>),
    /// There is none.
    Nothing,
    /// It could not be asked.
    Unknown,
}

/// What is at hand before DNS is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Recalled {
    pub(super) policy: Option<Arc<StsPolicy>>,
    /// Whether DNS is to be asked.
    pub(super) ask: bool,
}

/// What to do, now that DNS was asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// This is the policy, or there is none.
    Use(Option<Arc<StsPolicy>>),
    /// It could not be fetched a short while ago.
    Failed(StsFault),
    /// It is to be fetched.
    Fetch(Box<str>),
}

impl Book {
    pub(super) const fn new(limits: BookLimits) -> Self {
        Self {
            known: BTreeMap::new(),
            due: BTreeSet::new(),
            failed: BTreeMap::new(),
            failed_order: VecDeque::new(),
            octets: 0,
            limits,
            dropped: Vec::new(),
        }
    }

    /// What is known without asking anybody.
    pub(super) fn recall(&mut self, domain: &Domain, now: Now) -> Recalled {
        let Some(known) = self.valid(domain, now) else { return Recalled { policy: None, ask: true } };
        known.used = now.mono;
        let ask = known.in_doubt || known.checked.is_none_or(|at| now.mono >= at + CHECK);
        Recalled { policy: Some(Arc::clone(&known.policy)), ask }
    }

    /// The policy that counts, without a sign that it is used.
    pub(super) fn held(&mut self, domain: &Domain, now: Now) -> Option<Arc<StsPolicy>> {
        self.valid(domain, now).map(|known| Arc::clone(&known.policy))
    }

    /// What to do now that DNS has `said` something.
    pub(super) fn decide(&mut self, domain: &Domain, said: &Said, now: Now) -> Step {
        let recent = self.failed.get(domain).filter(|failure| now.mono < failure.at + RETRY).map(|failure| {
            let same = matches!(said, Said::Id(id) if *id == failure.id);
            (same, failure.fault)
        });
        let Some(known) = self.valid(domain, now) else {
            return match (said, recent) {
                (Said::Id(_), Some((true, fault))) => Step::Failed(fault),
                (Said::Id(id), _) => Step::Fetch(id.clone()),
                _ => Step::Use(None),
            };
        };
        if *said != Said::Unknown {
            known.checked = Some(now.mono);
        }
        match said {
            Said::Id(id) if *id != known.policy.id || known.in_doubt => {
                known.in_doubt = false;
                match recent {
                    Some((true, _)) => Step::Use(Some(Arc::clone(&known.policy))),
                    _ => Step::Fetch(id.clone()),
                }
            }
            _ => {
                known.in_doubt = false;
                Step::Use(Some(Arc::clone(&known.policy)))
            }
        }
    }

    /// A policy was fetched, and takes the place of what there was.
    pub(super) fn fetched(&mut self, domain: &Domain, policy: Arc<StsPolicy>, now: Now) {
        self.put(StoredPolicy { domain: domain.clone(), policy, fetched: now.wall }, now);
        if let Some(known) = self.known.get_mut(domain) {
            known.checked = Some(now.mono);
        }
    }

    /// Takes a policy that was stored by an earlier process.
    pub(super) fn put(&mut self, stored: StoredPolicy, now: Now) {
        let StoredPolicy { domain, policy, fetched } = stored;
        self.failed.remove(&domain);
        self.failed_order.retain(|failed| *failed != domain);
        let before = self.remove(&domain);
        // A clock that was ahead must not make it last longer.
        let fetched = fetched.min(now.wall);
        let lifetime = policy.max_age.max(RETRY);
        let wait = REFRESH.min(lifetime / 2).saturating_sub(now.wall.since(fetched));
        let known = Known {
            fetched,
            until: fetched.after(lifetime),
            due: now.mono + wait,
            checked: None,
            used: before.as_ref().map_or(now.mono, |before| before.used),
            in_doubt: false,
            doubted: before.and_then(|before| before.doubted),
            policy,
        };
        self.octets = self.octets.saturating_add(size(&known.policy));
        self.due.insert((known.due, domain.clone()));
        self.known.insert(domain.clone(), known);
        while self.known.len() > 1
            && (self.known.len() > self.limits.domains || self.octets > self.limits.octets)
        {
            let first = if self.octets > self.limits.octets {
                // A few that are huge must not drive out all others.
                let others = self.known.iter().filter(|(known, _)| **known != domain);
                others.max_by_key(|(_, known)| (size(&known.policy), Reverse(known.fetched)))
            } else {
                // Who is sent mail to is fetched every day; so the oldest is the least missed.
                self.known.iter().min_by_key(|(_, known)| known.fetched)
            };
            let Some(first) = first.map(|(domain, _)| domain.clone()) else { break };
            self.drop_known(&first);
        }
    }

    /// A policy could not be fetched.
    pub(super) fn failed(&mut self, domain: &Domain, id: &str, fault: StsFault, now: Now) {
        if let Some(known) = self.known.get_mut(domain) {
            self.due.remove(&(known.due, domain.clone()));
            known.due = now.mono + REFRESH_AGAIN;
            self.due.insert((known.due, domain.clone()));
        }
        let failure = Failure { id: id.into(), at: now.mono, fault };
        if self.failed.insert(domain.clone(), failure).is_none() {
            self.failed_order.push_back(domain.clone());
        }
        while self.failed_order.len() > MAX_FAILED {
            if let Some(oldest) = self.failed_order.pop_front() {
                self.failed.remove(&oldest);
            }
        }
    }

    /// A delivery failed by this policy.
    pub(super) fn doubt(&mut self, domain: &Domain, now: Now) {
        if let Some(known) = self.valid(domain, now)
            && known.doubted.is_none_or(|at| now.mono >= at + RETRY)
        {
            known.in_doubt = true;
            known.doubted = Some(now.mono);
        }
    }

    /// A policy that is to be fetched again. It is not named again for an hour, unless it is fetched.
    pub(super) fn next_due(&mut self, now: Now) -> Option<(Domain, Arc<StsPolicy>)> {
        loop {
            if self.due.first().is_none_or(|(due, _)| now.mono < *due) {
                return None;
            }
            let (_, domain) = self.due.pop_first()?;
            let known = self.known.get_mut(&domain)?;
            if known.until <= now.wall {
                self.drop_known(&domain);
                continue;
            }
            known.due = now.mono + REFRESH_AGAIN;
            self.due.insert((known.due, domain.clone()));
            // It lives as long as it was published for, and is not asked after.
            if now.mono.saturating_duration_since(known.used) < UNUSED {
                return Some((domain, Arc::clone(&known.policy)));
            }
        }
    }

    /// A policy is to be fetched again no earlier than tomorrow: its domain no longer announces one.
    pub(super) fn leave(&mut self, domain: &Domain, now: Now) {
        if let Some(known) = self.known.get_mut(domain) {
            self.due.remove(&(known.due, domain.clone()));
            known.due = now.mono + REFRESH;
            self.due.insert((known.due, domain.clone()));
        }
    }

    /// What was let go since this was last asked.
    pub(super) fn dropped(&mut self) -> Vec<Domain> {
        std::mem::take(&mut self.dropped)
    }

    /// The policy whose lifetime is not over.
    fn valid(&mut self, domain: &Domain, now: Now) -> Option<&mut Known> {
        if self.known.get(domain).is_some_and(|known| known.until <= now.wall) {
            self.drop_known(domain);
        }
        self.known.get_mut(domain)
    }

    fn drop_known(&mut self, domain: &Domain) {
        if self.remove(domain).is_some() {
            self.dropped.push(domain.clone());
        }
    }

    fn remove(&mut self, domain: &Domain) -> Option<Known> {
        let known = self.known.remove(domain)?;
        self.due.remove(&(known.due, domain.clone()));
        self.octets = self.octets.saturating_sub(size(&known.policy));
        Some(known)
    }
}

/// What a policy takes in memory, about.
fn size(policy: &StsPolicy) -> usize {
    let lines: usize = policy.lines.iter().map(|line| line.len() + 16).sum();
    let names: usize = policy.mx.iter().map(|pattern| pattern.name.as_str().len() + 24).sum();
    lines.saturating_add(names).saturating_add(512)
}

/// For as long as this DNS is not asked again: the engine keeps routes as long, so that a burst of mail
/// costs one question.
const CHECK: Duration = Duration::from_secs(60);
/// RFC 8461 §3.3: five minutes or longer. A lifetime that is shorter is as long, or each message would
/// fetch.
const RETRY: Duration = Duration::from_secs(300);
/// RFC 8461 §3.3: once a day.
const REFRESH: Duration = Duration::from_secs(24 * 3600);
/// Some 20 tries in a day, before a policy of a few days ends.
const REFRESH_AGAIN: Duration = Duration::from_secs(3600);
/// Longer than any queue keeps mail: nobody writes to the domain any more.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);
/// Some 500 KB.
const MAX_FAILED: usize = 4096;

#[cfg(test)]
mod tests;
