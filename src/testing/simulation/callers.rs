//! What the host program does besides submitting: it submits under keys and does it over, and it gives orders
//! about what waits.
//!
//! Planned from random sources of its own, so that the rest of a history is the same with it and without.

use std::time::Duration;

use super::SimulationOptions;
use super::plan::{Happening, Site, Submission, pick, within};
use crate::clock::Rng;
use crate::delivery::EngineOptions;
use crate::message::{Tag, Tenant};
use crate::smtp::address::Domain;

/// Something that is wanted of what waits.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) what: What,
    pub(super) of: Of,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Hold,
    Release,
    Cancel,
    /// To be tried so much later.
    Reschedule(Duration),
    Requeue,
}

/// Of which entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Of {
    /// Of the message with this number.
    Message(u64),
    Tenant(Tenant),
    Tag(Tag),
    Destination(Domain),
    /// All that is held.
    Held,
}

/// Gives submissions keys, tenants and tags, and adds what is done with them later.
pub(super) fn add(
    seed: u64,
    options: &SimulationOptions,
    sites: &[Site],
    events: &mut Vec<(Duration, Happening)>,
    engine: &mut EngineOptions,
) {
    let rng = Rng::seeded(seed ^ NAMES);
    if rng.below(4) == 0 {
        // So short that keys are forgotten within a history.
        engine.keep_keys = Duration::from_secs(1_800);
    }
    for (_, submission) in submissions(events) {
        submission.tenant = Tenant::new(&name("t", rng.below(4))).filter(|_| rng.below(2) == 0);
        submission.tag = Tag::new(&name("c", rng.below(4))).filter(|_| rng.below(2) == 0);
    }
    if options.keys {
        keys(&Rng::seeded(seed ^ KEYS), options, events);
    }
    if options.orders {
        orders(&Rng::seeded(seed ^ ORDERS), options, sites, events);
    }
}

fn keys(rng: &Rng, options: &SimulationOptions, events: &mut Vec<(Duration, Happening)>) {
    let mut again = Vec::new();
    for (at, submission) in submissions(events) {
        if rng.below(3) > 0 {
            continue;
        }
        submission.key = Some(format!("order {}", submission.number).into());
        for _ in 0..rng.below(3) {
            let at = *at + within(rng, options.time);
            again.push((at, Happening::Again { submission: submission.clone(), other: rng.below(3) == 0 }));
        }
    }
    events.extend(again);
}

fn orders(rng: &Rng, options: &SimulationOptions, sites: &[Site], events: &mut Vec<(Duration, Happening)>) {
    if rng.below(4) == 0 {
        return;
    }
    // Each goes through all that waits.
    let count = 1 + rng.below((options.messages as u64 / 2).clamp(1, 200));
    for _ in 0..count {
        let what = match rng.below(12) {
            0..=3 => What::Hold,
            4..=6 => What::Release,
            7 | 8 => What::Cancel,
            9 | 10 => What::Reschedule(Duration::from_secs(pick(rng, &[0, 60, 3_600, 40_000]))),
            _ => What::Requeue,
        };
        let site = usize::try_from(rng.below(sites.len() as u64)).unwrap_or_default();
        let of = match rng.below(8) {
            0 => Tenant::new(&name("t", rng.below(4))).map(Of::Tenant),
            1 => Tag::new(&name("c", rng.below(4))).map(Of::Tag),
            2 => sites.get(site).and_then(|site| site.domain.parse().ok()).map(Of::Destination),
            3 => Some(Of::Held),
            _ => Some(Of::Message(rng.below(options.messages as u64))),
        };
        if let Some(of) = of {
            events.push((within(rng, options.time), Happening::Order(Order { what, of })));
        }
    }
    // An order about a message is most often about one that was submitted just now.
    let soon: Vec<_> = submissions(events).map(|(at, submission)| (*at, submission.number)).collect();
    for (at, event) in events {
        if let Happening::Order(Order { of: Of::Message(number), .. }) = event
            && let Some((submitted, _)) = soon.iter().find(|(_, known)| known == number)
            && rng.below(3) > 0
        {
            *at = *submitted + Duration::from_millis(pick(rng, &[0, 3, 500, 20_000, 700_000, 5_000_000]));
        }
    }
}

fn name(kind: &str, number: u64) -> String {
    format!("{kind}{number}")
}

fn submissions(
    events: &mut [(Duration, Happening)],
) -> impl Iterator<Item = (&mut Duration, &mut Submission)> {
    events.iter_mut().filter_map(|(at, event)| match event {
        Happening::Submit(submission) => Some((at, submission)),
        _ => None,
    })
}

const NAMES: u64 = 0x6e61_6d65_7300_0001;
const KEYS: u64 = 0x6b65_7973_0000_0001;
const ORDERS: u64 = 0x6f72_6465_7273_0001;
