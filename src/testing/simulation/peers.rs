//! What the hosts of a plan do.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::lists::STORE;
use super::plan::{Kind, Plan, pick};
use crate::clock::Rng;
use crate::route::RouteError;
use crate::testing::network::{Act, Network, Step};

/// Tells the network how its hosts are. `cuts` counts large bodies that are broken off.
pub(super) fn set_up(plan: &Plan, network: &Network, cuts: Arc<AtomicU64>) {
    let mut kinds = HashMap::new();
    for site in &plan.sites {
        let host = site.host.as_str();
        kinds.insert(site.host.clone(), site.kind);
        network.routes().hosted_by(&site.domain, &[host]);
        match site.kind {
            Kind::Well | Kind::Flaky(_) | Kind::Silent => {}
            Kind::Grey(times) => {
                network.rule(host, move |_, nth| if nth < times { 450 } else { 250 });
            }
            Kind::Refuses => {
                network.rule(host, |to, _| if to.starts_with("no") { 550 } else { 250 });
            }
            Kind::Defers => {
                network.rule(host, |_, _| 451);
            }
            Kind::Slow(think) => {
                network.thinks(host, think);
            }
            Kind::Dead => {
                network.down(host);
            }
            Kind::NoMail => {
                network.routes().set(&site.domain, Err(RouteError::NullMx));
            }
            Kind::Lost => {
                network.routes().set(&site.domain, Err(RouteError::Dns));
            }
            Kind::Lists => {
                network.routes().locally(&site.domain, STORE);
            }
            Kind::Few(recipients) => {
                network.configured(host, |config| config.max_recipients = recipients);
            }
        }
    }
    let rng = Rng::seeded(plan.seed ^ 0x9e37_79b9_7f4a_7c15);
    network.script(move |host, step| match kinds.get(host) {
        Some(Kind::Flaky(often)) if rng.below(1_000) < *often => {
            let act = mischief(&rng, step);
            let goes_on = matches!(act, Act::Usual | Act::After(..));
            if !goes_on && matches!(step, Step::Body(came) if MIDDLE.contains(came)) {
                cuts.fetch_add(1, Ordering::Relaxed);
            }
            act
        }
        Some(Kind::Silent) if matches!(step, Step::Mail(_)) => Act::Silence,
        _ => Act::Usual,
    });
}

/// Something that goes wrong at this step.
fn mischief(rng: &Rng, step: &Step<'_>) -> Act {
    let after = |seconds, act| Act::After(Duration::from_secs(seconds), Box::new(act));
    let common = match rng.below(12) {
        0..=2 => Some(Act::Close),
        3 => Some(Act::Silence),
        4 => Some(Act::Half),
        5 => Some(Act::Octets(Bytes::from_static(b"\xff\x00garbage\r\n"))),
        6 => Some(after(pick(rng, &[1, 20, 400]), Act::Usual)),
        7 => Some(Act::code(421)),
        _ => None,
    };
    match (step, common) {
        (Step::Connect, Some(act @ (Act::Close | Act::Silence | Act::After(..)))) => act,
        (Step::Connect, _) => Act::Close,
        (Step::End(_), common) => match rng.below(6) {
            0 => Act::Taken(Box::new(Act::Close)),
            1 => Act::Taken(Box::new(common.unwrap_or(Act::Half))),
            2 => after(700, Act::Taken(Box::new(Act::code(250)))),
            3 => Act::code(451),
            4 => Act::code(554),
            _ => common.unwrap_or(Act::Close),
        },
        // There are more of these.
        (Step::Body(_), _) if rng.below(4) > 0 => Act::Usual,
        (_, Some(act)) => act,
        (Step::Rcpt(..), None) => Act::code(
            *[450_u16, 452, 550].get(usize::try_from(rng.below(3)).unwrap_or_default()).unwrap_or(&450),
        ),
        (Step::Mail(_), None) => Act::code(if rng.below(4) == 0 { 552 } else { 451 }),
        (_, None) => Act::code(if rng.below(4) == 0 { 554 } else { 451 }),
    }
}

/// So much comes of the largest bodies alone, and then more is to come.
const MIDDLE: Range<u64> = 8_000..70_000;
