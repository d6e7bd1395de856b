//! One life of the process: from the start of an engine to its end, good or bad.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::callers::{Of, Order, What};
use super::ledger::Ledger;
use super::lists::{Lists, STORE};
use super::plan::{Happening, Mood, Plan, Submission};
use super::{orders, peers, submit};
use crate::clock::{Clock, Rng, SystemClock, Timestamp};
use crate::delivery::{Engine, EngineBuilder};
use crate::net::tls::{ClientTls, TlsOptions};
use crate::route::{LocalId, RouteError};
use crate::smtp::address::EhloName;
use crate::spool::Spool;
use crate::testing::spool::{Call, FaultySpool, Method, SpoolFault};
use crate::testing::{JumpingClock, Network};

pub(super) struct Life<'a> {
    pub(super) plan: &'a Arc<Plan>,
    pub(super) network: &'a Network,
    pub(super) spool: &'a FaultySpool,
    pub(super) ledger: &'a Arc<Ledger>,
    pub(super) change: Option<&'a dyn Fn(EngineBuilder) -> EngineBuilder>,
    /// How far the history is.
    pub(super) at: Duration,
    /// What the clock on the wall shows.
    pub(super) wall: Timestamp,
}

/// How a life ended.
pub(super) enum End {
    /// Everything is settled, or nothing ever will.
    Over { at: Duration },
    /// Another one begins then, at this event.
    Again { at: Duration, wall: Timestamp, next: usize },
}

impl Life<'_> {
    /// Lives from the event `next` on.
    pub(super) async fn run(self, next: usize) -> End {
        if self.at.is_zero() && next == 0 {
            peers::set_up(self.plan, self.network, Arc::clone(&self.ledger.cuts));
        }
        let clock = Arc::new(JumpingClock::starting_at(self.wall));
        let began = now();
        self.ledger.begins(&clock, self.at, began);
        self.network.goes_on(self.at);
        let Some(engine) = self.engine(&clock).await else {
            self.ledger.broken("the engine does not start");
            return End::Over { at: self.at };
        };
        for submission in self.ledger.unanswered() {
            self.submits(&engine, submission, false);
        }
        for (number, (at, event)) in self.plan.events.iter().enumerate().skip(next) {
            sleep_until(began + at.saturating_sub(self.at)).await;
            self.ledger.look();
            if number > self.plan.last_demand && self.is_done() {
                // What goes wrong now concerns nobody.
                self.ledger.mood(Mood::Well);
                self.spool.clear();
                break;
            }
            if self.ledger.is_broken() {
                return End::Over { at: *at };
            }
            if let Happening::End { grace, down } = event {
                self.ledger.ends(*grace);
                if let Some(grace) = grace {
                    engine.shutdown(*grace).await;
                }
                let at = self.at + began.elapsed() + *down;
                return End::Again { at, wall: clock.now().wall.after(*down), next: number + 1 };
            }
            self.happens(event, &engine, &clock).await;
        }
        let mut step = FIRST_LOOK;
        while !self.is_done() && !self.ledger.is_broken() {
            sleep(step).await;
            step = (step * 3 / 2).min(LONGEST_LOOK);
            if self.spool.stats().parked > 0 {
                // A hold has no end of its own.
                self.orders(&Order { what: What::Release, of: Of::Held }, &engine, &clock);
            }
            self.ledger.check(self.spool).await;
        }
        // What a host takes too late to say so.
        sleep(LAST_LOOK).await;
        engine.shutdown(LAST_LOOK).await;
        self.ledger.look();
        self.ledger.finish();
        End::Over { at: self.at + began.elapsed() }
    }

    /// Whether nothing waits, and nothing more comes of what was submitted.
    fn is_done(&self) -> bool {
        self.spool.stats().entries == 0 && !self.ledger.is_submitting()
    }

    async fn engine(&self, clock: &Arc<JumpingClock>) -> Option<Engine> {
        for _ in 0..2 {
            let lives = self.ledger.lives();
            let mut builder = Engine::builder(self.spool.clone(), EhloName::new("us.test").ok()?);
            if let Some(change) = self.change {
                builder = change(builder);
            } else {
                builder = builder.options(self.plan.engine.clone());
            }
            let builder = builder
                .direct(self.network.clone())
                .connect(Arc::new(self.network.clone()))
                .clock(Arc::<JumpingClock>::clone(clock))
                .retry(self.plan.retry.clone())
                .rng(Rng::seeded(self.plan.seed.rotate_left(17) ^ lives))
                .observer(self.ledger.observer())
                .local(LocalId::new(STORE), Arc::new(Lists::new(self.plan, self.ledger)))
                .tls(tls()?);
            if let Ok(engine) = builder.start().await {
                return Some(engine);
            }
            // It was in a mood in which nothing can start.
            self.ledger.mood(Mood::Well);
            self.spool.clear();
        }
        None
    }

    async fn happens(&self, event: &Happening, engine: &Engine, clock: &Arc<JumpingClock>) {
        let sites = &self.plan.sites;
        match event {
            Happening::Submit(submission) => {
                self.submits(engine, submission.clone(), true);
            }
            Happening::Again { submission, other } => {
                let (engine, ledger) = (engine.clone(), Arc::clone(self.ledger));
                ledger.will_submit();
                tokio::spawn(submit::again(engine, ledger, submission.clone(), *other));
            }
            Happening::Order(order) => self.orders(order, engine, clock),
            Happening::Down(site) => {
                if let Some(site) = sites.get(*site) {
                    self.network.down(&site.host);
                }
            }
            Happening::Up(site) => {
                if let Some(site) = sites.get(*site).filter(|site| site.kind != super::plan::Kind::Dead) {
                    self.network.up(&site.host);
                }
            }
            Happening::DnsFails(site, error) => {
                if let Some(site) = sites.get(*site) {
                    match error {
                        RouteError::Timeout(time) => self.network.routes().takes(&site.domain, *time),
                        error => self.network.routes().fails(&site.domain, *error),
                    };
                }
            }
            Happening::DnsWorks(site) => {
                if let Some(site) = sites.get(*site) {
                    self.network.routes().recovers(&site.domain);
                }
            }
            Happening::Spool(mood) => {
                self.ledger.mood(*mood);
                self.change_mood(*mood);
            }
            Happening::Jump { on, by } => {
                if *on {
                    clock.jump(*by)
                } else {
                    clock.jump_back(*by)
                }
                self.ledger.jumped(*on, *by);
            }
            Happening::Check => self.ledger.check(self.spool).await,
            Happening::End { .. } => {}
        }
    }

    fn submits(&self, engine: &Engine, submission: Submission, is_first: bool) {
        let (engine, ledger) = (engine.clone(), Arc::clone(self.ledger));
        ledger.will_submit();
        tokio::spawn(submit::submit(engine, ledger, submission, is_first));
    }

    fn orders(&self, order: &Order, engine: &Engine, clock: &Arc<JumpingClock>) {
        let (ledger, spool, clock) = (Arc::clone(self.ledger), self.spool.clone(), Arc::clone(clock));
        tokio::spawn(orders::give(order.clone(), engine.clone(), ledger, spool, clock));
    }

    fn change_mood(&self, mood: Mood) {
        if mood == Mood::Well {
            return self.spool.clear();
        }
        let rng = Rng::seeded(self.plan.seed.rotate_left(31) ^ self.spool.calls());
        self.spool.script(move |call| fault(mood, call, &rng));
    }
}

fn fault(mood: Mood, call: &Call, rng: &Rng) -> SpoolFault {
    let any = |rng: &Rng| match rng.below(4) {
        0 => SpoolFault::Before,
        1 => SpoolFault::After,
        2 => SpoolFault::Unknown,
        _ => SpoolFault::Full,
    };
    match (mood, call.method) {
        (_, Method::Wait) => SpoolFault::None,
        (Mood::Fails(often), _) if rng.below(1_000) < often => any(rng),
        (Mood::Poisoned, _) => SpoolFault::Poisoned,
        (Mood::Full, _) if call.adds => SpoolFault::Full,
        (Mood::NotSettling, Method::Settle) => any(rng),
        (Mood::Unsure, Method::Settle | Method::Enqueue) => SpoolFault::After,
        (Mood::NoBodies, Method::Body) => SpoolFault::Before,
        (Mood::Slow(time), _) => SpoolFault::Delay(time, Box::new(SpoolFault::None)),
        _ => SpoolFault::None,
    }
}

/// One for all: making it costs more than a short history.
fn tls() -> Option<ClientTls> {
    static TLS: OnceLock<Option<ClientTls>> = OnceLock::new();
    let make = || {
        let mut options = TlsOptions::new();
        options.without_native_roots = true;
        ClientTls::new(options, Arc::new(SystemClock)).ok()
    };
    TLS.get_or_init(make).clone()
}

#[allow(clippy::disallowed_methods, reason = "a simulation goes by the runtime's own time")]
fn now() -> Instant {
    Instant::now()
}

const FIRST_LOOK: Duration = Duration::from_secs(600);
const LONGEST_LOOK: Duration = Duration::from_secs(6 * 3600);
/// Longer than any host of a plan thinks.
const LAST_LOOK: Duration = Duration::from_secs(1_000);
