//! Which destination a tried connection was tried for, so that observers can be told.
//!
//! A run makes its connection before it takes an entry: what was tried since the last one is about the
//! entry that is taken next, and where none is, about all that are put off because of it. A connection
//! that then carries mail to another destination is told of once more for that one. One that came from
//! the pool is not: it was told of when it was made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::attempt::Trial;
use crate::hop::{PolicyKind, TlsFault};
use crate::route::Hosts;
use crate::smtp::address::Domain;

use super::event::{Event, Observers};
use super::lane::{Entry, Routed, Way};
use super::settle::Finished;

/// The trials of one run.
#[derive(Debug, Default)]
pub(crate) struct Trials {
    /// Since the last entry that was taken.
    waiting: Vec<Trial>,
    /// The last, which is the connection at hand.
    at_hand: Option<Trial>,
    /// The destinations that it was told of for.
    told: BTreeSet<Domain>,
    /// The destinations of what was put off at the end.
    put_off: BTreeMap<Domain, Arc<Routed>>,
}

impl Trials {
    /// A connection was tried.
    pub(crate) fn add(&mut self, trial: Trial) {
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push(trial);
        }
    }

    /// An entry was taken, or waits for the connection that was tried.
    pub(crate) fn taken(&mut self, entry: &Entry, observers: &Observers) {
        let waiting = std::mem::take(&mut self.waiting);
        let is_new = !waiting.is_empty();
        if is_new {
            self.at_hand = waiting.last().cloned();
            self.told.clear();
        }
        let (destination, Some(routed)) = (&entry.claim.destination, counted(entry)) else { return };
        if self.told.contains(destination) || self.told.len() >= MAX_TOLD {
            return;
        }
        let trials = if is_new { waiting.as_slice() } else { self.at_hand.as_slice() };
        if trials.is_empty() {
            return;
        }
        trials.iter().for_each(|trial| tell(observers, destination, routed, trial));
        self.told.insert(destination.clone());
    }

    /// These were put off as no connection could be made.
    pub(crate) fn put_off(&mut self, finished: &[Finished]) {
        if self.waiting.is_empty() {
            return;
        }
        for entry in finished.iter().map(|finished| &finished.entry) {
            if let Some(routed) = counted(entry) {
                self.put_off.insert(entry.claim.destination.clone(), Arc::clone(routed));
            }
        }
    }

    /// Tells of the trials that were about what was put off.
    pub(crate) fn tell(self, observers: &Observers) {
        for (destination, routed) in &self.put_off {
            self.waiting.iter().for_each(|trial| tell(observers, destination, routed, trial));
        }
    }
}

/// Tells that the enforced policy of a destination lists none of its hosts, so that no connection is
/// tried: as of one to the first.
pub(crate) fn unlisted(observers: &Observers, destination: &Domain, hosts: &Hosts) {
    let Some(host) = hosts.hosts.first() else { return };
    let mut trial = Trial::new(Arc::new(host.clone()), PolicyKind::Sts);
    trial.fault = Some(TlsFault::NotValid);
    observers.tell(&Event::TlsTried { destination, hosts, trial: &trial });
}

/// The route of an entry whose connections are counted.
fn counted(entry: &Entry) -> Option<&Arc<Routed>> {
    let handling = &entry.claim.handling;
    entry.routed.as_ref().filter(|_| !handling.uncounted && !handling.tls_optional)
}

fn tell(observers: &Observers, destination: &Domain, routed: &Routed, trial: &Trial) {
    if let Way::Hosts(hosts) = &routed.way {
        observers.tell(&Event::TlsTried { destination, hosts, trial });
    }
}

/// More than the addresses that a run tries, twice each.
const MAX_WAITING: usize = 16;
/// More destinations than connections are used for.
const MAX_TOLD: usize = 1_000;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::delivery::Observer;
    use crate::delivery::care::Care;
    use crate::delivery::lane::tests::claim;
    use crate::delivery::settle::Verdict;
    use crate::hop::{Host, Require};
    use crate::route::Route;

    /// `host for destination`, in the order of telling.
    #[derive(Debug, Default)]
    struct Told(Mutex<Vec<String>>);

    impl Observer for Told {
        fn on_event(&self, event: &Event<'_>) {
            let Event::TlsTried { destination, hosts, trial } = event else { return };
            let route = hosts.hosts.first().unwrap();
            let line = format!("{} for {destination} by {}", trial.host.name, route.name);
            self.0.lock().unwrap().push(line);
        }
    }

    fn host(n: u16) -> Host {
        Host::new(Domain::parse(&format!("mx{n}.test")).unwrap(), 25)
    }

    fn trial(n: u16) -> Trial {
        Trial::new(Arc::new(host(n)), PolicyKind::Opportunistic)
    }

    /// An entry for a destination whose route is a host of that number.
    fn entry(destination: &str, n: u16) -> Entry {
        let mut claim = claim(1, "<a@a.test>", &["x@b.test"]);
        claim.destination = Domain::parse(destination).unwrap();
        let mut entry = Entry::unbound(claim);
        let hosts = Hosts::new(vec![host(n)], Require::Opportunistic);
        entry.routed = Some(Arc::new(Routed::new(Route::Hosts(hosts), Care::Usual).unwrap()));
        entry
    }

    fn uncounted(destination: &str) -> Entry {
        let mut entry = entry(destination, 1);
        entry.claim.handling.uncounted = true;
        entry
    }

    #[test]
    fn a_connection_is_told_of_once_for_each_destination() {
        let told = Arc::new(Told::default());
        let observers = Observers::new(vec![told.clone()]);
        let mut trials = Trials::default();
        trials.taken(&entry("pooled.test", 1), &observers);
        (1..=2).for_each(|n| trials.add(trial(n)));
        for destination in ["a.test", "a.test", "b.test", "a.test"] {
            trials.taken(&entry(destination, 7), &observers);
        }
        trials.add(trial(3));
        trials.taken(&entry("a.test", 8), &observers);
        trials.tell(&observers);
        let expected = [
            "mx1.test for a.test by mx7.test",
            "mx2.test for a.test by mx7.test",
            "mx2.test for b.test by mx7.test",
            "mx3.test for a.test by mx8.test",
        ];
        assert_eq!(*told.0.lock().unwrap(), expected);
    }

    #[test]
    fn what_could_not_be_connected_is_told_for_all_that_is_put_off() {
        let told = Arc::new(Told::default());
        let observers = Observers::new(vec![told.clone()]);
        let mut trials = Trials::default();
        trials.add(trial(1));
        let mut optional = entry("optional.test", 1);
        optional.claim.handling.tls_optional = true;
        let entries =
            [entry("b.test", 7), entry("a.test", 8), entry("b.test", 7), uncounted("c.test"), optional];
        let finished = entries.map(|entry| Finished { entry, verdict: Verdict::Expired });
        trials.put_off(&finished);
        trials.tell(&observers);
        let expected = ["mx1.test for a.test by mx8.test", "mx1.test for b.test by mx7.test"];
        assert_eq!(*told.0.lock().unwrap(), expected);
    }

    #[test]
    fn a_connection_made_for_a_report_counts_for_the_mail_that_follows() {
        let told = Arc::new(Told::default());
        let observers = Observers::new(vec![told.clone()]);
        let mut trials = Trials::default();
        (1..=2).for_each(|n| trials.add(trial(n)));
        trials.taken(&uncounted("a.test"), &observers);
        assert!(told.0.lock().unwrap().is_empty());
        trials.taken(&entry("a.test", 7), &observers);
        assert_eq!(*told.0.lock().unwrap(), ["mx2.test for a.test by mx7.test"]);
    }

    #[test]
    fn trials_are_bounded() {
        let told = Arc::new(Told::default());
        let observers = Observers::new(vec![told.clone()]);
        let mut trials = Trials::default();
        (0..100).for_each(|n| trials.add(trial(n)));
        trials.taken(&entry("a.test", 7), &observers);
        for n in 0..2 * MAX_TOLD {
            trials.taken(&entry(&format!("d{n}.test"), 7), &observers);
        }
        assert_eq!(told.0.lock().unwrap().len(), MAX_WAITING + MAX_TOLD - 1);
    }
}
