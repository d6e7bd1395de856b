//! The routes at hand, and the entries that wait for one that is being looked up.
//!
//! Answers are kept for a minute at most, so that a busy destination is not asked for with every
//! message; how long an answer is valid is the resolver's, which is asked again then. Entries that
//! wait are grouped by destination: a thousand entries cost one lookup.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::route::RouteError;
use crate::smtp::address::Domain;

use super::care::Care;
use super::lane::{Entry, Routed};

/// What is known about a destination.
pub(crate) type Answer = Result<Arc<Routed>, RouteError>;

/// The routes at hand, apart by how much messages care about TLS.
#[derive(Debug, Default)]
pub(crate) struct Books {
    usual: Routes,
    relaxed: Routes,
    required: Routes,
    /// Of which kind was asked last.
    asked: Care,
}

impl Books {
    pub(crate) const fn of(&mut self, care: Care) -> &mut Routes {
        match care {
            Care::Usual => &mut self.usual,
            Care::Relaxed => &mut self.relaxed,
            Care::Required => &mut self.required,
        }
    }

    /// The next destination to ask for. The kinds take turns: lookups are few at a time, and one kind that
    /// always wants some would leave none to the others.
    pub(crate) fn ask(&mut self) -> Option<(Domain, Care)> {
        use Care::{Relaxed, Required, Usual};
        let turns = match self.asked {
            Usual => [Relaxed, Required, Usual],
            Relaxed => [Required, Usual, Relaxed],
            Required => [Usual, Relaxed, Required],
        };
        let next = turns.into_iter().find_map(|care| Some((self.of(care).ask()?, care)))?;
        self.asked = next.1;
        Some(next)
    }

    /// Takes what waits and is meant.
    pub(crate) fn take_if(&mut self, meant: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let kinds = [&mut self.usual, &mut self.relaxed, &mut self.required];
        // A destination that nobody waits for any more is asked for all the same.
        let waiting = kinds.into_iter().flat_map(|routes| routes.waiting.values_mut());
        waiting.flat_map(|entries| entries.extract_if(.., |entry| meant(entry)).collect::<Vec<_>>()).collect()
    }

    /// Everything that waits.
    pub(crate) fn drain(&mut self) -> Vec<Entry> {
        let mut waiting = self.usual.drain();
        waiting.extend(self.relaxed.drain());
        waiting.extend(self.required.drain());
        waiting
    }
}

/// The routes at hand for messages of one kind, and who waits for one.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    // Looked up by key only.
    known: HashMap<Domain, (Answer, Instant)>,
    /// In the order in which they were learnt, for forgetting.
    order: VecDeque<Domain>,
    waiting: BTreeMap<Domain, Vec<Entry>>,
    to_ask: VecDeque<Domain>,
}

impl Routes {
    /// The route, if it is at hand.
    pub(crate) fn get(&self, destination: &Domain, now: Instant) -> Option<&Answer> {
        self.known.get(destination).filter(|(_, until)| now < *until).map(|(answer, _)| answer)
    }

    /// An entry waits for its route.
    pub(crate) fn wait(&mut self, entry: Entry) {
        let destination = &entry.claim.destination;
        if let Some(waiting) = self.waiting.get_mut(destination) {
            return waiting.push(entry);
        }
        self.to_ask.push_back(destination.clone());
        self.waiting.insert(destination.clone(), vec![entry]);
    }

    /// How many entries wait for this destination's route.
    pub(crate) fn waiting_for(&self, destination: &Domain) -> usize {
        self.waiting.get(destination).map_or(0, Vec::len)
    }

    /// The next destination to ask for.
    fn ask(&mut self) -> Option<Domain> {
        self.to_ask.pop_front()
    }

    /// Keeps an answer and returns the entries that waited for it.
    pub(crate) fn answered(&mut self, destination: &Domain, answer: Answer, now: Instant) -> Vec<Entry> {
        let keep = match &answer {
            Err(error) if error.is_transient() => KEEP_FAILURE,
            _ => KEEP,
        };
        if self.known.insert(destination.clone(), (answer, now + keep)).is_none() {
            self.order.push_back(destination.clone());
        }
        while self.order.len() > MAX_KNOWN {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
        self.waiting.remove(destination).unwrap_or_default()
    }

    /// Everything that waits.
    fn drain(&mut self) -> Vec<Entry> {
        self.to_ask.clear();
        std::mem::take(&mut self.waiting).into_values().flatten().collect()
    }
}

/// Long enough to serve a burst, shorter than any sensible TTL.
const KEEP: Duration = Duration::from_secs(60);
/// A failure that may pass is asked again sooner, but not for each entry.
const KEEP_FAILURE: Duration = Duration::from_secs(10);
/// Some 3 MB, for each kind of message.
const MAX_KNOWN: usize = 10_000;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::clock::{Clock, SystemClock};
    use crate::delivery::lane::tests::claim;
    use crate::route::{LocalId, Route};

    fn domain(n: usize) -> Domain {
        Domain::parse(&format!("d{n}.test")).unwrap()
    }

    fn route() -> Answer {
        Routed::new(Route::Local(LocalId::new("x")), Care::Usual).map(Arc::new)
    }

    #[test]
    fn many_entries_wait_for_one_lookup() {
        let (mut routes, now) = (Routes::default(), SystemClock.mono());
        for n in 0..5 {
            routes.wait(Entry::new(claim(n, "<>", &["a@b.test"])));
        }
        let asked = routes.ask().unwrap();
        assert_eq!(routes.ask(), None);
        assert_eq!(routes.waiting_for(&asked), 5);
        assert_eq!(routes.answered(&asked, route(), now).len(), 5);
        assert!(routes.get(&asked, now).is_some());
        assert!(routes.get(&asked, now + KEEP).is_none());
        routes.answered(&asked, Err(RouteError::Dns), now);
        assert!(routes.get(&asked, now + KEEP_FAILURE).is_none());
    }

    #[test]
    fn mail_of_one_kind_does_not_keep_the_others_from_being_looked_up() {
        let mut books = Books::default();
        for n in 0..3 {
            for care in [Care::Usual, Care::Required, Care::Relaxed] {
                let mut claim = claim(n, "<>", &["a@b.test"]);
                claim.destination = domain(usize::try_from(n).unwrap());
                books.of(care).wait(Entry::new(claim));
            }
        }
        let asked: Vec<_> = std::iter::from_fn(|| books.ask()).collect();
        let kinds = |at: usize| asked[at..at + 3].iter().map(|(_, care)| *care).collect::<BTreeSet<_>>();
        assert_eq!((asked.len(), kinds(0).len(), kinds(3).len()), (9, 3, 3));
    }

    #[test]
    fn routes_at_hand_are_bounded() {
        let (mut routes, now) = (Routes::default(), SystemClock.mono());
        for n in 0..MAX_KNOWN + 5 {
            routes.answered(&domain(n), route(), now);
        }
        assert_eq!((routes.known.len(), routes.order.len()), (MAX_KNOWN, MAX_KNOWN));
        assert!(routes.get(&domain(4), now).is_none() && routes.get(&domain(5), now).is_some());
    }
}
