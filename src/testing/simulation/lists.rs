//! Addresses that stand for others: a local store that expands them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::SimulationOptions;
use super::ledger::Ledger;
use super::plan::{Happening, Kind, Plan, Site, pick};
use crate::BoxFuture;
use crate::attempt::{Cause, Deliver, Expansion, LocalFault, LocalItem, Outcome};
use crate::clock::Rng;
use crate::message::Content;
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::params::Rcpt;
use crate::testing::network::address;

/// Who a list stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Members {
    /// Of an alias there is none.
    pub(super) owner: Option<String>,
    pub(super) to: Vec<String>,
}

/// Adds the site of the lists, and recipients that are lists.
pub(super) fn add(
    seed: u64,
    options: &SimulationOptions,
    sites: &mut Vec<Site>,
    events: &mut [(Duration, Happening)],
) {
    if !options.lists {
        return;
    }
    let rng = Rng::seeded(seed ^ LISTS);
    for (_, event) in events {
        let Happening::Submit(submission) = event else { continue };
        if rng.below(5) > 0 {
            continue;
        }
        for at in 0..=rng.below(2) {
            let kind = if rng.below(2) == 0 { ALIAS } else { LIST };
            submission.to.push((format!("{kind}{at}n{}@{DOMAIN}", submission.number), None));
        }
    }
    sites.push(Site { domain: DOMAIN.into(), host: String::new(), kind: Kind::Lists });
}

/// Who an address stands for, by its name alone: whoever asks gets the same answer.
pub(super) fn members(plan: &Plan, list: &str) -> Option<Members> {
    let (name, domain) = list.split_once('@')?;
    let owner = name
        .starts_with(LIST)
        .then(|| format!("owner@{}", plan.sites.first().map_or("", |site| &site.domain)));
    let number = name.bytes().fold(plan.seed, |sum, octet| sum.wrapping_mul(31).wrapping_add(octet.into()));
    let rng = Rng::seeded(number);
    let count = pick(&rng, &[1, 2, 3, 7]);
    // Not the senders' own site and not that of the lists.
    let others = plan.sites.iter().skip(1).filter(|site| site.domain != domain).collect::<Vec<_>>();
    let to = (0..count).filter_map(|at| {
        let site = others.get(usize::try_from(rng.below(others.len() as u64)).ok()?)?;
        let what = if rng.below(6) == 0 { "no" } else { "m" };
        Some(format!("{what}{at}{name}@{}", site.domain))
    });
    (domain == DOMAIN).then(|| Members { owner, to: to.collect() })
}

/// The store.
pub(super) struct Lists {
    plan: Arc<Plan>,
    ledger: Arc<Ledger>,
    rng: Rng,
}

impl Lists {
    pub(super) fn new(plan: &Arc<Plan>, ledger: &Arc<Ledger>) -> Self {
        let rng = Rng::seeded(plan.seed.rotate_left(7) ^ ledger.lives());
        Self { plan: Arc::clone(plan), ledger: Arc::clone(ledger), rng }
    }

    fn outcome(&self, rcpt: &Rcpt) -> Option<Outcome> {
        let members = members(&self.plan, &address(rcpt))?;
        let rcpts = members.to.iter().filter_map(|to| ForwardPath::parse(to).ok()).map(Rcpt::new).collect();
        Some(Outcome::expanded(match members.owner {
            Some(owner) => Expansion::list(ReversePath::parse(&owner).ok()?, rcpts),
            None => Expansion::alias(rcpts),
        }))
    }
}

impl Deliver for Lists {
    fn deliver<'a>(&'a self, item: &'a LocalItem, _: Content) -> BoxFuture<'a, Vec<Outcome>> {
        Box::pin(async move {
            let later = || Outcome::Deferred(Cause::Local(LocalFault::Storage));
            tokio::time::sleep(Duration::from_secs(pick(&self.rng, &[0, 0, 0, 1, 30]))).await;
            if !item.is_ours() {
                return vec![later(); item.recipients.len()];
            }
            let expand = |rcpt| {
                let outcome = self.outcome(rcpt).filter(|_| self.rng.below(6) > 0);
                if outcome.is_some() {
                    self.ledger.expands(item.id, &address(rcpt));
                }
                outcome.unwrap_or_else(later)
            };
            item.recipients.iter().map(expand).collect()
        })
    }
}

impl fmt::Debug for Lists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lists")
    }
}

/// The name of the store in routes.
pub(super) const STORE: &str = "lists";
const DOMAIN: &str = "lists.test";
const LIST: &str = "list";
const ALIAS: &str = "alias";
const LISTS: u64 = 0x6c69_7374_7300_0001;
