//! What is going to happen, as a seed has it: decided before anything runs, so that what an engine does
//! cannot change what it is confronted with.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::callers::{self, Order};
use super::{SimulationOptions, lists};
use crate::clock::Rng;
use crate::delivery::{EngineOptions, Retry};
use crate::message::{Tag, Tenant};
use crate::route::RouteError;
use crate::smtp::params::{Notify, Priority};

pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) sites: Vec<Site>,
    /// Where in those a domain stands.
    places: HashMap<String, usize>,
    /// Behind this event, only faults come and go.
    pub(super) last_demand: usize,
    /// In order of time.
    pub(super) events: Vec<(Duration, Happening)>,
    pub(super) engine: EngineOptions,
    pub(super) retry: Retry,
    /// Whether the engine has room enough for no site to wait for another.
    pub(super) roomy: bool,
}

/// A domain and the host that serves it.
pub(super) struct Site {
    pub(super) domain: String,
    pub(super) host: String,
    pub(super) kind: Kind,
}

/// What is wrong with a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing.
    Well,
    /// It takes recipients when it has seen them so often.
    Grey(u32),
    /// It does not know those whose names begin with `no`.
    Refuses,
    /// It never takes anything.
    Defers,
    /// It thinks.
    Slow(Duration),
    /// So many steps in a thousand go wrong.
    Flaky(u64),
    /// It refuses connections for ever.
    Dead,
    /// It says nothing once it has greeted.
    Silent,
    /// The domain takes no mail.
    NoMail,
    /// It is never found.
    Lost,
    /// It takes so many recipients at once.
    Few(usize),
    /// Its addresses stand for others.
    Lists,
}

/// Something that happens.
#[derive(Debug, Clone)]
pub(super) enum Happening {
    Submit(Submission),
    /// It is submitted again under its key; `other`: with another content.
    Again {
        submission: Submission,
        other: bool,
    },
    Order(Order),
    Down(usize),
    Up(usize),
    DnsFails(usize, RouteError),
    DnsWorks(usize),
    Spool(Mood),
    Jump {
        on: bool,
        by: Duration,
    },
    /// The process ends, at once or in good order, and another one starts after a while.
    End {
        grace: Option<Duration>,
        down: Duration,
    },
    Check,
}

/// How the spool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Well,
    /// So many calls in a thousand fail, in any way.
    Fails(u64),
    Poisoned,
    Full,
    /// Settling fails, one way or another.
    NotSettling,
    /// It settles, and does not know it.
    Unsure,
    /// Bodies cannot be read.
    NoBodies,
    Slow(Duration),
}

/// A message that is submitted.
#[derive(Debug, Clone)]
pub(super) struct Submission {
    pub(super) number: u64,
    /// Empty for the null sender.
    pub(super) from: String,
    pub(super) to: Vec<(String, Option<Notify>)>,
    pub(super) size: usize,
    pub(super) priority: Option<Priority>,
    /// Held for so many seconds.
    pub(super) hold: Option<u32>,
    pub(super) key: Option<Box<str>>,
    pub(super) tenant: Option<Tenant>,
    pub(super) tag: Option<Tag>,
}

impl Plan {
    pub(super) fn new(seed: u64, options: &SimulationOptions) -> Self {
        let rng = Rng::seeded(seed);
        let mut sites = sites(&rng, options);
        let mut events = Vec::new();
        for number in 0..options.messages as u64 {
            let submission = submission(&rng, number, &sites);
            events.push((within(&rng, options.time), Happening::Submit(submission)));
        }
        if options.peer_faults {
            peer_faults(&rng, options, &sites, &mut events);
        }
        if options.spool_faults && rng.below(3) > 0 {
            for _ in 0..=rng.below(4) {
                let at = within(&rng, options.time);
                let lasts = Duration::from_secs(pick(&rng, &[2, 30, 300, 1800, 7200]));
                events.push((at, Happening::Spool(mood(&rng))));
                events.push((at.saturating_add(lasts), Happening::Spool(Mood::Well)));
            }
        }
        if options.jumps && rng.below(4) == 0 {
            for _ in 0..=rng.below(2) {
                let by = Duration::from_secs(pick(&rng, &[30, 90, 3600, 86_400, 10 * 86_400]));
                events.push((within(&rng, options.time), Happening::Jump { on: rng.below(2) == 0, by }));
            }
        }
        for _ in 0..rng.below(options.ends as u64 + 1) {
            let grace = (rng.below(3) == 0).then(|| Duration::from_secs(pick(&rng, &[0, 5, 60, 900])));
            let down = Duration::from_secs(pick(&rng, &[0, 0, 1, 60, 1200, 20_000]));
            events.push((within(&rng, options.time), Happening::End { grace, down }));
        }
        let (mut engine, roomy) = engine(&rng, options.messages);
        let retry = retry(&rng);
        lists::add(seed, options, &mut sites, &mut events);
        callers::add(seed, options, &sites, &mut events, &mut engine);
        let checks = 20;
        events.extend((1..=checks).map(|n| (options.time / checks * n, Happening::Check)));
        // In the order in which they were made, where the times are the same.
        events.sort_by_key(|(at, _)| *at);
        let is_demand = |event: &Happening| {
            matches!(event, Happening::Submit(_) | Happening::Again { .. } | Happening::Order(_))
        };
        let last_demand = events.iter().rposition(|(_, event)| is_demand(event)).unwrap_or_default();
        let places = sites.iter().zip(0..).map(|(site, at)| (site.domain.clone(), at)).collect();
        Self { seed, sites, places, last_demand, events, engine, retry, roomy }
    }

    /// The site of a recipient's address.
    pub(super) fn site(&self, address: &str) -> Option<&Site> {
        let (_, domain) = address.rsplit_once('@')?;
        self.sites.get(*self.places.get(domain)?)
    }
}

fn sites(rng: &Rng, options: &SimulationOptions) -> Vec<Site> {
    let kind = |rng: &Rng| match rng.below(18) {
        _ if !options.peer_faults => Kind::Well,
        0..=5 => Kind::Well,
        6 => Kind::Grey(2 + u32::try_from(rng.below(3)).unwrap_or_default()),
        7 => Kind::Refuses,
        8 => Kind::Defers,
        9 => Kind::Slow(Duration::from_secs(pick(rng, &[1, 30, 290]))),
        10 => Kind::Slow(Duration::from_secs(pick(rng, &[30, 590, 700]))),
        11 | 12 => Kind::Flaky(pick(rng, &[20, 100, 400])),
        13 => Kind::Dead,
        14 => Kind::Silent,
        15 => Kind::NoMail,
        16 => Kind::Lost,
        _ => Kind::Few(1 + usize::try_from(rng.below(2)).unwrap_or_default()),
    };
    let mut sites = vec![Site {
        domain: HOME.into(),
        host: format!("mx.{HOME}"),
        kind: if rng.below(3) == 0 { kind(rng) } else { Kind::Well },
    }];
    // Some are served by the same host.
    let shared = kind(rng);
    for n in 0..options.destinations {
        let domain = format!("d{n}.test");
        let site = if rng.below(5) == 0 {
            Site { domain, host: "mx.shared.test".into(), kind: shared }
        } else {
            Site { host: format!("mx.{domain}"), domain, kind: kind(rng) }
        };
        sites.push(site);
    }
    let mut troubled = HashSet::new();
    for site in sites.iter_mut().filter(|site| site.kind != Kind::Well) {
        if troubled.len() < options.troubled {
            troubled.insert(site.host.clone());
        } else if !troubled.contains(&site.host) {
            site.kind = Kind::Well;
        }
    }
    sites
}

fn submission(rng: &Rng, number: u64, sites: &[Site]) -> Submission {
    let from = match rng.below(5) {
        0 => String::new(),
        n => format!("s{n}@{HOME}"),
    };
    let count = pick(rng, &[1, 1, 1, 2, 4, 9]);
    let mut to: Vec<(String, Option<Notify>)> = Vec::new();
    for _ in 0..count {
        let at = usize::try_from(1 + rng.below(sites.len().saturating_sub(1) as u64)).unwrap_or_default();
        let Some(site) = sites.get(at) else { continue };
        let name = if rng.below(6) == 0 { "no" } else { "u" };
        // Names of their own, so that what a host has seen of one message says nothing of another.
        let address = format!("{name}{}n{number}@{}", rng.below(4), site.domain);
        let notify = match rng.below(8) {
            0 => Some(Notify::NEVER),
            1 => Some(Notify { success: true, failure: true, delay: false }),
            2 => Some(Notify { success: false, failure: false, delay: true }),
            _ => None,
        };
        if to.iter().all(|(known, _)| *known != address) {
            to.push((address, notify));
        }
    }
    let size = pick(rng, &[60, 60, 200, 2_000, 2_000, 70_000]);
    let priority =
        (rng.below(6) == 0).then(|| Priority::new(i8::try_from(rng.below(19)).unwrap_or_default() - 9));
    Submission {
        number,
        from,
        to,
        size: usize::try_from(size).unwrap_or_default(),
        priority: priority.and_then(Result::ok),
        hold: (rng.below(8) == 0).then(|| u32::try_from(pick(rng, &[1, 600, 20_000])).unwrap_or_default()),
        key: None,
        tenant: None,
        tag: None,
    }
}

fn peer_faults(
    rng: &Rng,
    options: &SimulationOptions,
    sites: &[Site],
    events: &mut Vec<(Duration, Happening)>,
) {
    for (at, site) in sites.iter().enumerate() {
        // Those that are well stay so.
        if site.kind == Kind::Well || rng.below(3) > 0 {
            continue;
        }
        let from = within(rng, options.time);
        let until = from + Duration::from_secs(pick(rng, &[60, 1_000, 10_000, 400_000]));
        if rng.below(2) == 0 {
            events.push((from, Happening::Down(at)));
            events.push((until, Happening::Up(at)));
        } else {
            let error = match rng.below(3) {
                0 => RouteError::Bogus,
                1 => RouteError::Timeout(Duration::from_secs(600)),
                _ => RouteError::Dns,
            };
            events.push((from, Happening::DnsFails(at, error)));
            events.push((until, Happening::DnsWorks(at)));
        }
    }
}

fn mood(rng: &Rng) -> Mood {
    match rng.below(8) {
        0 | 1 => Mood::Fails(pick(rng, &[50, 300])),
        2 => Mood::Poisoned,
        3 => Mood::Full,
        4 => Mood::NotSettling,
        5 => Mood::Unsure,
        6 => Mood::NoBodies,
        _ => Mood::Slow(Duration::from_millis(pick(rng, &[10, 5_000, 60_000]))),
    }
}

fn engine(rng: &Rng, messages: usize) -> (EngineOptions, bool) {
    let mut options = EngineOptions::new();
    // An engine for a hundred messages cannot keep time with a hundred thousand: they have the larger half.
    let count = |rng: &Rng, of: &[u64]| {
        let of = if messages > MANY { of.split_at(of.len() / 2).1 } else { of };
        usize::try_from(pick(rng, of)).unwrap_or(usize::MAX)
    };
    options.entries = count(rng, &[20, 300, 20_000, 20_000]);
    options.ready_per_site = count(rng, &[2, 20, 2_000]);
    options.runs_per_site = count(rng, &[1, 2, 20, 20]);
    options.runs = count(rng, &[8, 200, 500, 500, 500, 500]);
    options.lookups = count(rng, &[20, 128]);
    options.bodies = count(rng, &[0, 1_000, 256 << 20]);
    options.lease = Duration::from_secs(pick(rng, &[60, 300, 600, 600, 600, 600]));
    options.sweep = Duration::from_secs(pick(rng, &[120, 600, 1_800, 1_800, 1_800]));
    options.delay_notice = (rng.below(4) == 0).then(|| Duration::from_secs(pick(rng, &[600, 14_400])));
    let roomy = options.entries >= 300 && options.runs >= 200 && options.lookups > 20;
    (options, roomy)
}

fn retry(rng: &Rng) -> Retry {
    let mut retry = Retry::new();
    retry.expire = Duration::from_secs(pick(
        rng,
        &[1_800, 7_200, 7_200, 4 * 3600, 4 * 3600, 4 * 3600, 4 * 3600, 86_400],
    ));
    retry.expire_null_sender = retry.expire / u32::try_from(1 + rng.below(3)).unwrap_or(1);
    if rng.below(4) == 0 {
        retry.steps = vec![Duration::from_secs(20), Duration::from_secs(300)];
    }
    retry
}

pub(super) fn pick(rng: &Rng, of: &[u64]) -> u64 {
    usize::try_from(rng.below(of.len() as u64)).ok().and_then(|at| of.get(at)).copied().unwrap_or_default()
}

pub(super) fn within(rng: &Rng, time: Duration) -> Duration {
    Duration::from_millis(rng.below(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
}

/// More messages than these need room.
const MANY: usize = 1_000;
/// Where senders are.
const HOME: &str = "home.test";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_hosts_are_in_trouble_than_the_options_say() {
        let mut options = SimulationOptions::new();
        (options.destinations, options.lists) = (60, false);
        let troubled = |seed, options: &SimulationOptions| {
            let plan = Plan::new(seed, options);
            let is_well =
                |host: &str| plan.sites.iter().all(|site| site.host != host || site.kind == Kind::Well);
            let hosts: HashSet<_> = plan.sites.iter().map(|site| site.host.as_str()).collect();
            hosts.into_iter().filter(|host| !is_well(host)).count()
        };
        for seed in 0..50 {
            options.troubled = usize::MAX;
            let all = troubled(seed, &options);
            options.troubled = 6;
            assert!(all > 20 && troubled(seed, &options) == 6, "seed {seed}: {all}");
            options.troubled = 0;
            assert_eq!(troubled(seed, &options), 0);
        }
    }
}
