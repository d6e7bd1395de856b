//! A lane is the running side of one site's queue: entries that are claimed and ready, and the runs
//! that work on them. Final delivery on this machine has lanes too, one per `LocalId`.
//!
//! A lane takes a run for each piece of ready work that no run is about to take, as long as its shape
//! allows, and doubles at most: a burst of twenty messages does not open twenty connections before
//! the first has shown that the host answers.
//!
//! Of what is ready, the highest priority goes first (RFC 6710), and in one priority what came first.
//! Every eighth time it is what came first of all, so that urgent mail slows down the rest but does
//! not stop it.
//!
//! It is bookkeeping only: it spawns nothing and asks no clock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::attempt::{Cause, ConnectFault, LocalFault};
use crate::clock::Timestamp;
use crate::net::source::SourceName;
use crate::route::{Hosts, LocalId, Protocol, Route, RouteError};
use crate::smtp::params::Priority;
use crate::spool::{Claim, QueueName};

use super::care::Care;
use super::shape::Shape;

/// A claimed entry on its way through the engine.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) claim: Claim,
    /// Where it comes from, where there are several sources.
    pub(crate) source: Option<SourceName>,
    /// Times in a row that a run took it and did not try it.
    pub(crate) untried: u8,
    /// Its destination's own route, once it is in a lane: other destinations share the lane.
    pub(crate) routed: Option<Arc<Routed>>,
    /// When it came into its lane: counted, not timed.
    came: u64,
}

impl Entry {
    pub(crate) const fn new(claim: Claim) -> Self {
        Self { claim, source: None, untried: 0, routed: None, came: 0 }
    }

    /// The same, to be sent from there.
    pub(crate) fn with_source(self, source: Option<SourceName>) -> Self {
        Self { source, ..self }
    }

    pub(crate) const fn care(&self) -> Care {
        Care::of(&self.claim.mail, &self.claim.handling)
    }

    /// Octets of memory that its body takes.
    pub(crate) fn weight(&self) -> usize {
        self.claim.body.at_hand.as_ref().map_or(0, bytes::Bytes::len)
    }
}

/// How a site is reached.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    Hosts(Arc<Hosts>),
    Local(LocalId),
}

impl Way {
    /// Why an entry was put off whose connections were lost before it was tried.
    pub(crate) fn lost(&self) -> Cause {
        let host = match self {
            Self::Hosts(hosts) => hosts.hosts.first().cloned(),
            Self::Local(_) => None,
        };
        match host {
            Some(host) => Cause::Connect { host: Arc::new(host), fault: ConnectFault::Lost },
            None => Cause::Local(LocalFault::Storage),
        }
    }
}

/// A route with the name of its site's queue.
#[derive(Debug, Clone)]
pub(crate) struct Routed {
    pub(crate) way: Way,
    pub(crate) site: QueueName,
}

impl Routed {
    /// The route as its policies leave it. Destinations that ask for different TLS do not share a lane,
    /// although they may share hosts: a connection opened for the one may not do for the other. Mail with
    /// REQUIRETLS has lanes of its own, because a lane goes by the latest of its destinations' routes, and
    /// with such mail it matters by which of them the hosts are proven.
    ///
    /// # Errors
    /// [`RouteError::Sts`], see [`Hosts::under_policy`].
    pub(crate) fn new(route: Route, care: Care) -> Result<Self, RouteError> {
        match route {
            Route::Hosts(hosts) => {
                let hosts = hosts.under_policy(care == Care::Relaxed)?;
                let own = match (care, hosts.proven) {
                    (Care::Usual | Care::Relaxed, _) => "",
                    (Care::Required, true) => "requiretls ",
                    (Care::Required, false) => "requiretls unproven ",
                };
                let site = QueueName::new(&format!("{own}{}", hosts.key()));
                Ok(Self { site, way: Way::Hosts(Arc::new(hosts)) })
            }
            Route::Local(id) => {
                let site = QueueName::new(&format!("local {}", id.as_str()));
                Ok(Self { site, way: Way::Local(id) })
            }
        }
    }

    /// The queue of what goes there from this source: a lane of its own, so that a source that a site
    /// does not take, or takes slowly, holds up no other. What waits must be told apart in the spool too,
    /// or claims for a lane that has room would find what another has none for.
    pub(crate) fn queue(&self, source: Option<&SourceName>) -> QueueName {
        match self.source(source) {
            Some(source) => QueueName::new(&format!("{} from {source}", self.site)),
            None => self.site.clone(),
        }
    }

    /// The source, for what goes out into the world: final delivery, also that by LMTP, is nearer than
    /// any of them.
    pub(crate) fn source<'a>(&self, source: Option<&'a SourceName>) -> Option<&'a SourceName> {
        source.filter(|_| matches!(&self.way, Way::Hosts(hosts) if hosts.protocol == Protocol::Smtp))
    }
}

/// The running side of a site's queue.
#[derive(Debug)]
pub(crate) struct Lane {
    /// How to reach it, as the latest route said.
    pub(crate) way: Way,
    /// From where.
    pub(crate) source: Option<SourceName>,
    pub(crate) shape: Shape,
    /// By priority, of which there are 19. A list that is empty stays, with its memory.
    ready: BTreeMap<Priority, VecDeque<Entry>>,
    /// How many those are.
    count: usize,
    /// How many ever came, and how many were taken.
    came: u64,
    taken: u64,
    weight: usize,
    /// Runs that exist, and those of them that have not asked for work yet.
    runs: usize,
    starting: usize,
    /// Those that were told to end because there are more than there may be.
    leaving: usize,
    /// Whether it stands in the row of those that wanted a run when there was none.
    pub(crate) starved: bool,
}

/// What lanes may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) ready: usize,
    pub(crate) weight: usize,
}

impl Limits {
    /// What one lane may take, when there is room for `free` entries in all lanes.
    fn share(self, free: usize) -> usize {
        self.ready.min(free.div_ceil(READY_SHARE))
    }
}

impl Lane {
    pub(crate) const fn new(way: Way, runs: usize) -> Self {
        Self {
            way,
            source: None,
            shape: Shape::new(runs),
            ready: BTreeMap::new(),
            count: 0,
            came: 0,
            taken: 0,
            weight: 0,
            runs: 0,
            starting: 0,
            leaving: 0,
            starved: false,
        }
    }

    /// How many more entries it takes, when there is room for `free` in all lanes. Never all of that,
    /// so that lanes that do not move leave room for the others whatever their number.
    pub(crate) fn room(&self, limits: Limits, free: usize) -> usize {
        limits.share(free).saturating_sub(self.count)
    }

    /// Whether there is room for a claim that is worth its while.
    pub(crate) fn has_room(&self, limits: Limits, free: usize) -> bool {
        self.count <= limits.share(free) / 2
    }

    /// Whether it must refuse even what was claimed for it. Twice the room: what comes by way of its
    /// destinations' queues was claimed without asking, and would else go to and fro.
    pub(crate) fn is_full(&self, limits: Limits, free: usize) -> bool {
        self.count >= 2 * limits.share(free)
    }

    pub(crate) const fn ready(&self) -> usize {
        self.count
    }

    pub(crate) const fn runs(&self) -> usize {
        self.runs
    }

    /// Adds an entry. A body that no longer fits in memory is let go, and read back later.
    pub(crate) fn push(&mut self, mut entry: Entry, limits: Limits) {
        if self.weight.saturating_add(entry.weight()) > limits.weight {
            entry.claim.body.at_hand = None;
        }
        self.came += 1;
        entry.came = self.came;
        self.weight += entry.weight();
        self.count += 1;
        self.ready.entry(priority(&entry)).or_default().push_back(entry);
    }

    /// Gives an entry back that a run took and did not try: it is the next of its priority.
    pub(crate) fn push_front(&mut self, entry: Entry) {
        self.weight += entry.weight();
        self.count += 1;
        self.ready.entry(priority(&entry)).or_default().push_front(entry);
    }

    pub(crate) fn pop(&mut self) -> Option<Entry> {
        self.taken = self.taken.wrapping_add(1);
        let mut lists = self.ready.values_mut().rev().filter(|list| !list.is_empty());
        let list = if self.taken.is_multiple_of(OLDEST_EVERY) {
            lists.min_by_key(|list| list.front().map(|entry| entry.came))
        } else {
            lists.next()
        };
        let entry = list?.pop_front()?;
        self.count = self.count.saturating_sub(1);
        self.weight = self.weight.saturating_sub(entry.weight());
        Some(entry)
    }

    /// Takes what is ready and meant.
    pub(crate) fn take_if(&mut self, mut meant: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        let mut taken = Vec::new();
        for list in self.ready.values_mut() {
            if list.iter().any(&mut meant) {
                let (out, stay): (Vec<_>, Vec<_>) = std::mem::take(list).into_iter().partition(&mut meant);
                *list = stay.into();
                taken.extend(out);
            }
        }
        self.count = self.count.saturating_sub(taken.len());
        self.weight = self.weight.saturating_sub(taken.iter().map(Entry::weight).sum());
        taken
    }

    /// Takes everything that is ready.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Entry> {
        (self.weight, self.count) = (0, 0);
        std::mem::take(&mut self.ready).into_values().rev().flatten()
    }

    /// Whether it wants one more run, when all lanes together may start `free` more.
    pub(crate) fn wants_run(&mut self, now: Instant, free: usize) -> bool {
        if self.count <= self.starting || free == 0 {
            return false;
        }
        let working = self.runs - self.starting;
        // As with entries: lanes that do not move may not take all runs, so that the next lane has one.
        self.starting < working.max(1) && self.runs < self.shape.runs(now).min(free.div_ceil(RUN_SHARE))
    }

    pub(crate) const fn run_begins(&mut self) {
        self.runs += 1;
        self.starting += 1;
    }

    /// A run asks for work for the first time.
    pub(crate) const fn run_works(&mut self) {
        self.starting = self.starting.saturating_sub(1);
    }

    /// Whether a run is one too many since the limit was lowered; it then ends.
    pub(crate) const fn run_leaves(&mut self) -> bool {
        let beyond = self.runs.saturating_sub(self.leaving) > self.shape.limit();
        if beyond {
            self.leaving += 1;
        }
        beyond
    }

    pub(crate) const fn run_ends(&mut self, worked: bool, left: bool) {
        self.runs = self.runs.saturating_sub(1);
        if left {
            self.leaving = self.leaving.saturating_sub(1);
        }
        if !worked {
            self.starting = self.starting.saturating_sub(1);
        }
    }

    /// Whether it can be forgotten.
    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        self.count == 0 && self.runs == 0 && self.shape.is_plain(now)
    }

    /// When an entry that comes now is tried, if the site is held: a little behind the probe.
    pub(crate) fn held_until(&self, now: crate::clock::Now) -> Option<Timestamp> {
        let hold = self.shape.held(now.mono)?;
        Some(now.wall.after(hold.until.saturating_duration_since(now.mono) + BEHIND_HOLD))
    }
}

fn priority(entry: &Entry) -> Priority {
    entry.claim.mail.priority.unwrap_or_default()
}

/// Mail without priority gets an eighth of the turns at least, however much of the other there is.
const OLDEST_EVERY: u64 = 8;
/// A lane takes at most this part of the room that is left: with 20,000 places, more than a hundred
/// lanes that do not move leave room for the next one.
const READY_SHARE: usize = 16;
/// The same for runs: with 500, a site still gets 20 as long as 160 are free.
const RUN_SHARE: usize = 8;
/// So that rounding does not put an entry just before the end of a hold.
const BEHIND_HOLD: Duration = Duration::from_millis(20);

#[cfg(test)]
pub(crate) mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clock::{Clock, Rng, SystemClock};
    use crate::hop::{Require, Tlsa, TlsaRecord, TlsaSet};
    use crate::message::{Handling, MessageId};
    use crate::route::sts::{MxPattern, StsMode, StsPolicy};
    use crate::smtp::address::Domain;
    use crate::smtp::params::{Mail, Rcpt};
    use crate::spool::{BodyRef, Recipient, Token};

    pub(crate) const T0: Timestamp = Timestamp::from_millis(1_790_000_000_000);

    pub(crate) fn claim(n: u64, from: &str, to: &[&str]) -> Claim {
        let message = MessageId::new(T0, &Rng::seeded(n));
        let recipient = |to: &&str| Recipient::new(Rcpt::parse(&format!("<{to}>")).unwrap());
        Claim {
            token: Token { message, entry: 0, number: 1 },
            mail: Mail::parse(from).unwrap(),
            handling: Handling::new(),
            head: Bytes::new(),
            body: BodyRef { message, number: n, size: 10, at_hand: Some(Bytes::from_static(b"Subject: x")) },
            accepted: T0,
            expires: T0.after(Duration::from_secs(86_400)),
            destination: Domain::parse("b.test").unwrap(),
            queue: QueueName::new("b.test"),
            due: T0,
            attempts: 0,
            cancelled: false,
            recipients: to.iter().map(recipient).collect(),
        }
    }

    fn entry(n: u64) -> Entry {
        Entry::new(claim(n, "<a@a.test>", &["x@b.test"]))
    }

    fn lane() -> Lane {
        Lane::new(Way::Local(LocalId::new("x")), 20)
    }

    const LIMITS: Limits = Limits { ready: 100, weight: 25 };

    #[test]
    fn a_burst_opens_connections_by_doubling() {
        let (mut lane, now) = (lane(), SystemClock.mono());
        for n in 0..100 {
            lane.push(entry(n), LIMITS);
        }
        let mut steps = Vec::new();
        while lane.runs() < 20 {
            let mut begun = 0;
            while lane.wants_run(now, 500) {
                lane.run_begins();
                begun += 1;
            }
            (0..begun).for_each(|_| lane.run_works());
            steps.push(begun);
        }
        assert_eq!(steps, [1, 1, 2, 4, 8, 4]);
        assert!(!lane.wants_run(now, 500));
    }

    #[test]
    fn work_that_a_starting_run_will_take_asks_for_no_other() {
        let (mut lane, now) = (lane(), SystemClock.mono());
        assert!(!lane.wants_run(now, 500));
        lane.push(entry(1), LIMITS);
        assert!(lane.wants_run(now, 500));
        assert!(!lane.wants_run(now, 0));
        lane.run_begins();
        assert!(!lane.wants_run(now, 500));
    }

    #[test]
    fn urgent_mail_goes_first_and_slows_the_rest_down_without_stopping_it() {
        let mut lane = lane();
        let priorities = ["", " MT-PRIORITY=3", " MT-PRIORITY=-9", " MT-PRIORITY=3"];
        for (n, priority) in (0..40).zip(priorities.into_iter().cycle()) {
            lane.push(Entry::new(claim(n, &format!("<a@a.test>{priority}"), &["x@b.test"])), LIMITS);
        }
        let mut pop = || lane.pop().map(|entry| entry.claim.body.number);
        let first: Vec<_> = std::iter::from_fn(&mut pop).take(10).collect();
        assert_eq!(first, [1, 3, 5, 7, 9, 11, 13, 0, 15, 17], "the eighth is the oldest");
        let rest: Vec<_> = std::iter::from_fn(&mut pop).collect();
        assert_eq!(rest.len(), 30);
        let of = |kind| rest.iter().filter(|n| *n % 4 == kind).collect::<Vec<_>>();
        for kind in 0..4 {
            assert!(of(kind).is_sorted(), "within a priority what came first");
        }
        let at = |n| rest.iter().position(|place| *place == n).unwrap();
        assert!(at(39) < at(28) && at(36) < at(30), "{rest:?}");
        assert_eq!(lane.ready(), 0);
    }

    #[test]
    fn what_was_not_tried_is_the_next_of_its_priority() {
        let mut lane = lane();
        (0..2).for_each(|n| lane.push(entry(n), LIMITS));
        let taken = lane.pop().unwrap();
        lane.push_front(taken);
        assert_eq!((lane.ready(), lane.pop().unwrap().claim.body.number), (2, 0));
        assert_eq!(lane.drain().count(), 1);
        assert_eq!((lane.ready(), lane.weight), (0, 0));
    }

    #[test]
    fn bodies_that_do_not_fit_are_let_go() {
        let mut lane = lane();
        for n in 0..5 {
            lane.push(entry(n), LIMITS);
        }
        let kept = std::iter::from_fn(|| lane.pop()).filter(|e| e.claim.body.at_hand.is_some()).count();
        assert_eq!((kept, lane.weight), (2, 0));
    }

    #[test]
    fn lanes_that_do_not_move_leave_room_for_others() {
        let (limits, mut entries, mut runs) = (Limits { ready: 2_000, weight: 0 }, 20_000, 500);
        let now = SystemClock.mono();
        let mut lanes: Vec<_> = (0..40).map(|_| lane()).collect();
        for lane in &mut lanes {
            let room = lane.room(limits, entries);
            assert!(room > 0);
            (0..room.min(40)).for_each(|n| lane.push(entry(n as u64), limits));
            entries -= room;
            while lane.wants_run(now, runs) {
                lane.run_begins();
                lane.run_works();
                runs -= 1;
            }
        }
        assert!(lanes.iter().all(|lane| lane.runs() > 0) && entries > 0 && runs > 0);
        assert_eq!(lanes[0].runs(), 20);
    }

    fn domain(name: &str) -> Domain {
        Domain::parse(name).unwrap()
    }

    /// Under a policy that allows this host.
    fn sts(mut hosts: Hosts, mx: &str) -> Hosts {
        hosts.sts = Some(Arc::new(StsPolicy {
            id: "1".into(),
            mode: StsMode::Enforce,
            mx: vec![MxPattern { wildcard: false, name: domain(mx) }],
            max_age: Duration::from_secs(86_400),
            lines: Vec::new(),
        }));
        hosts
    }

    #[test]
    fn a_site_asked_for_other_tls_is_another_lane() {
        let host = || vec![crate::hop::Host::new(Domain::parse("mx.test").unwrap(), 25)];
        let name = |hosts, care| Routed::new(Route::Hosts(hosts), care).unwrap().site.to_string();
        let usual = |require| name(Hosts::new(host(), require), Care::Usual);
        assert_eq!(usual(Require::Opportunistic), "mx.test:25");
        assert_eq!(usual(Require::Encrypted), "encrypted mx.test:25");
        assert_eq!(usual(Require::Verified), "verified mx.test:25");
        assert_eq!(usual(Require::Cleartext), "cleartext mx.test:25");

        let record = |usage| TlsaRecord::new(usage, 1, 1, Bytes::from_static(&[7; 32])).unwrap();
        let secured = |tlsa| {
            let mut hosts = Hosts::new(host(), Require::Opportunistic);
            hosts.hosts[0].tlsa = tlsa;
            hosts
        };
        let set = |usage, names: &[&str]| {
            let mut set = TlsaSet::new(domain("mx.test"), vec![record(usage)]);
            set.names.extend(names.iter().map(|name| domain(name)));
            secured(Tlsa::Records(Arc::new(set)))
        };
        for (hosts, care, expected) in [
            (set(3, &["b.test"]), Care::Usual, "dane mx.test:25"),
            (set(2, &[]), Care::Usual, "dane mx.test:25"),
            (set(2, &["c.test", "b.test"]), Care::Usual, "dane mx.test:25 as b.test,c.test"),
            (secured(Tlsa::Failed), Care::Usual, "dane mx.test:25"),
            (secured(Tlsa::Unusable), Care::Required, "requiretls dane mx.test:25"),
            (secured(Tlsa::Unusable).unproven(), Care::Required, "requiretls unproven dane mx.test:25"),
            (set(3, &[]), Care::Relaxed, "mx.test:25"),
            (sts(set(3, &[]), "mx.test"), Care::Usual, "dane sts mx.test:25"),
            (sts(secured(Tlsa::Absent), "mx.test"), Care::Usual, "sts mx.test:25"),
            (sts(secured(Tlsa::Absent), "mx.test"), Care::Relaxed, "mx.test:25"),
        ] {
            assert_eq!(name(hosts, care), expected);
        }
        let refused = Routed::new(Route::Hosts(sts(secured(Tlsa::Absent), "mx2.test")), Care::Usual);
        assert_eq!(refused.unwrap_err(), RouteError::Sts);
    }
}
