//! The collector observes an engine and counts what its connections showed, day by day.

use std::sync::{Arc, Mutex, PoisonError};

use super::result::findings;
use super::{Bounds, Day, Tally, TallyStore};
use crate::clock::Clock;
use crate::delivery::{Event, Observer};

/// Counts what the connections of an engine show. Give it to the engine's builder as an observer, and to
/// a [`TlsReporter`](super::TlsReporter).
#[derive(Debug)]
pub struct Collector {
    bounds: Bounds,
    store: Arc<dyn TallyStore>,
    clock: Arc<dyn Clock>,
    days: Mutex<Days>,
}

#[derive(Debug)]
struct Days {
    today: (Day, Tally),
    /// The day before, until it is written.
    before: Option<(Day, Tally)>,
}

impl Collector {
    /// A collector with the default bounds, whose days are kept in `store`. The clock says which day it
    /// is.
    #[must_use]
    pub fn new(store: Arc<dyn TallyStore>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::with_bounds(store, clock, Bounds::new())
    }

    /// One with bounds of the caller's choice.
    #[must_use]
    pub fn with_bounds(store: Arc<dyn TallyStore>, clock: Arc<dyn Clock>, bounds: Bounds) -> Arc<Self> {
        let today = (Day::of(clock.now().wall), Tally::new(bounds));
        Arc::new(Self { bounds, store, clock, days: Mutex::new(Days { today, before: None }) })
    }

    pub(crate) const fn bounds(&self) -> Bounds {
        self.bounds
    }

    pub(crate) fn store(&self) -> &Arc<dyn TallyStore> {
        &self.store
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// What was counted today, so far. A copy.
    #[must_use]
    pub fn today(&self) -> Tally {
        self.with(|days| days.today.1.clone())
    }

    /// The days that may have something to write, the oldest first.
    pub(crate) fn days(&self) -> Vec<Day> {
        self.with(|days| days.before.iter().chain([&days.today]).map(|(day, _)| *day).collect())
    }

    /// Works on a day that is here.
    pub(crate) fn on<T>(&self, day: Day, work: impl FnOnce(&mut Tally) -> T) -> Option<T> {
        self.with(|days| {
            let found = days.before.iter_mut().chain([&mut days.today]).find(|(known, _)| *known == day);
            found.map(|(_, tally)| work(tally))
        })
    }

    /// A day that is over was written.
    pub(crate) fn is_written(&self, day: Day) {
        self.with(|days| {
            days.before.take_if(|(known, tally)| *known == day && !tally.is_changed());
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut Days) -> T) -> T {
        let now = Day::of(self.clock.now().wall);
        let mut days = self.days.lock().unwrap_or_else(PoisonError::into_inner);
        // Never back: a clock that is set back a little does not begin yesterday again.
        if now > days.today.0 {
            let over = std::mem::replace(&mut days.today, (now, Tally::new(self.bounds)));
            if over.1.is_changed() && days.before.replace(over).is_some() {
                tracing::error!("the TLS results of a day were not written for a whole day, and are lost");
            }
        }
        work(&mut days)
    }
}

impl Observer for Collector {
    fn on_event(&self, event: &Event<'_>) {
        let Event::TlsTried { destination, hosts, trial } = event else { return };
        // Nobody can ask for reports about an address.
        if destination.as_literal().is_some() {
            return;
        }
        let findings = findings(destination, hosts, trial);
        if !findings.is_empty() {
            self.with(|days| findings.into_iter().for_each(|found| days.today.1.count(destination, found)));
        }
    }
}
