//! The ledger holds what was promised and what came of it: what the spool inside has stored, what hosts
//! have taken, what the caller and the observers were told.
//!
//! It learns from the storage itself and not from the engine, and notes the first promise that is broken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::plan::{Mood, Plan, Submission};
use super::state::{FNV_START, Short, State};
use super::{Broken, History, SimulationOptions};
use crate::clock::Timestamp;
use crate::delivery::{Event, Observer, SubmitError};
use crate::message::MessageId;
use crate::spool::{REPORT_ENTRY, RecipientState, Selection};
use crate::testing::network::address;
use crate::testing::spool::{FaultySpool, Settled, Stored, Watch};
use crate::testing::{JumpingClock, Network, lock};

/// Why what an order holds is held. What is parked for any other reason is stuck.
pub(super) const HELD: &str = "the simulation wants it";

pub(super) struct Ledger {
    plan: Arc<Plan>,
    network: Network,
    pub(super) state: Mutex<State>,
    /// Large bodies that a host broke off. Not in the state: hosts are asked while the network is locked.
    pub(super) cuts: Arc<AtomicU64>,
}

impl Ledger {
    pub(super) fn new(
        plan: Arc<Plan>,
        network: Network,
        options: &SimulationOptions,
        record: bool,
    ) -> Arc<Self> {
        let history = History { seed: plan.seed, hash: FNV_START, ..History::default() };
        let state = State {
            options: options.clone(),
            clock: None,
            from: Duration::ZERO,
            began: None,
            at: Duration::ZERO,
            wall: Timestamp::default(),
            latest: Timestamp::default(),
            calm_at: Duration::ZERO,
            calm_wall: Timestamp::default(),
            mood: Mood::Well,
            was_moody: false,
            messages: BTreeMap::new(),
            submitted: BTreeMap::new(),
            open: BTreeSet::new(),
            numbers: BTreeMap::new(),
            keys: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            unanswered: BTreeMap::new(),
            running: BTreeMap::new(),
            held: BTreeMap::new(),
            cancelled: BTreeMap::new(),
            submitting: 0,
            late: Vec::new(),
            history,
            record,
            lines: VecDeque::new(),
            broken: None,
        };
        Arc::new(Self { plan, network, state: Mutex::new(state), cuts: Arc::default() })
    }

    /// A life begins.
    pub(super) fn begins(&self, clock: &Arc<JumpingClock>, at: Duration, began: Instant) {
        let mut state = lock(&self.state);
        (state.clock, state.from, state.began) = (Some(Arc::clone(clock)), at, Some(began));
        state.history.lives += 1;
        state.submitting = 0;
        state.running.clear();
        state.look_at_clock();
        state.is_not_calm();
        let life = state.history.lives;
        state.note(format_args!("life {life} begins"));
    }

    pub(super) fn lives(&self) -> u64 {
        lock(&self.state).history.lives
    }

    pub(super) fn ends(&self, grace: Option<Duration>) {
        lock(&self.state).note(format_args!("the process ends, with grace {grace:?}"));
    }

    pub(super) fn mood(&self, mood: Mood) {
        let mut state = self.now();
        state.mood = mood;
        state.was_moody |= mood != Mood::Well;
        state.is_not_calm();
        state.note(format_args!("the spool is {mood:?}"));
    }

    pub(super) fn jumped(&self, on: bool, by: Duration) {
        let mut state = self.now();
        state.is_not_calm();
        if !on {
            state.is_set_back();
        }
        state.note(format_args!("the clock jumps {} {by:?}", if on { "on" } else { "back" }));
    }

    pub(super) fn will_submit(&self) {
        lock(&self.state).submitting += 1;
    }

    pub(super) fn is_submitting(&self) -> bool {
        lock(&self.state).submitting > 0
    }

    /// The caller never learns whether a message is stored.
    pub(super) fn gives_up(&self) {
        let mut state = lock(&self.state);
        state.submitting = state.submitting.saturating_sub(1);
    }

    pub(super) fn submits(&self, id: MessageId, submission: &Submission) {
        let mut state = self.now();
        let ready = state.at + Duration::from_secs(submission.hold.unwrap_or_default().into());
        state.submitted.insert(id, (submission.number, submission.size, ready));
        if let Some(key) = &submission.key {
            state.unanswered.insert(key.clone(), submission.clone());
        }
        state.note(format_args!("{} is submitted: {submission:?}", Short(id)));
    }

    /// Submissions under keys whose answer the process did not live to see.
    pub(super) fn unanswered(&self) -> Vec<Submission> {
        lock(&self.state).unanswered.values().cloned().collect()
    }

    /// Whoever submitted under this key has an answer, or does not want one any more.
    pub(super) fn answered(&self, submission: &Submission) {
        if let Some(key) = &submission.key {
            lock(&self.state).unanswered.remove(key);
        }
    }

    pub(super) fn accepted(&self, id: MessageId) {
        let mut state = self.now();
        state.history.messages += 1;
        state.submitting = state.submitting.saturating_sub(1);
        if !state.messages.contains_key(&id) {
            state.breaks(format_args!("{} was accepted and is not stored", Short(id)));
        }
        state.note(format_args!("{} is accepted", Short(id)));
    }

    /// Whether something is stored under the key.
    pub(super) fn knows_key(&self, submission: &Submission) -> bool {
        submission.key.as_ref().is_some_and(|key| lock(&self.state).keys.contains_key(key))
    }

    /// What was submitted under its key is submitted again: as far as that is remembered, it is no message.
    pub(super) fn submits_again(&self, id: MessageId, submission: &Submission) {
        let mut state = self.now();
        let ready = state.at + Duration::from_secs(submission.hold.unwrap_or_default().into());
        state.submitted.insert(id, (submission.number, submission.size, ready));
        state.note(format_args!("{} is submitted again: {submission:?}", Short(id)));
    }

    /// The answer to that: under which id it is stored, and whether it was before. `other`: its content is
    /// another one.
    pub(super) fn again(
        &self,
        submission: &Submission,
        given: MessageId,
        other: bool,
        answer: &Result<(MessageId, bool), SubmitError>,
    ) {
        let mut state = self.now();
        let key = submission.key.as_deref().unwrap_or_default();
        let stands_for = state.keys.get(key).map(|(id, _)| *id);
        let is_new = state.messages.contains_key(&given);
        state.note(format_args!("{} under {key} again: {answer:?}", Short(given)));
        state.history.repeats += 1;
        match answer {
            Ok((id, _)) if Some(*id) != stands_for => {
                state.breaks(format_args!(
                    "{key} is said to stand for {}, not for {stands_for:?}",
                    Short(*id)
                ));
            }
            Ok((id, known)) if *known == is_new => {
                state.breaks(format_args!("{key} is said to be known: {known}, for {}", Short(*id)));
            }
            Ok((_, true)) if other && !state.was_forgotten(key) => {
                state.breaks(format_args!("{key} stands for two contents"))
            }
            Err(SubmitError::KeyConflict) if !other && !state.was_forgotten(key) => {
                state.breaks(format_args!("{key} is in conflict with itself"));
            }
            Err(SubmitError::KeyConflict) if is_new => {
                state.breaks(format_args!("{} was refused for its key, and is stored", Short(given)));
            }
            Ok(_) | Err(_) => {}
        }
    }

    /// A store here found out for whom a recipient stands.
    pub(super) fn expands(&self, id: MessageId, to: &str) {
        let mut state = self.now();
        let life = state.history.lives;
        state.note(format_args!("{} {to} stands for others", Short(id)));
        if let Some(party) = state.messages.get_mut(&id).and_then(|message| message.recipients.get_mut(to)) {
            party.takes.push((life, Arc::default()));
        }
    }

    pub(super) fn refused(&self, id: MessageId) {
        let mut state = self.now();
        state.submitting = state.submitting.saturating_sub(1);
        if state.messages.contains_key(&id) {
            state.breaks(format_args!("{} was refused and is stored", Short(id)));
        }
        state.note(format_args!("{} is refused", Short(id)));
    }

    /// The observer for an engine of this life.
    pub(super) fn observer(self: &Arc<Self>) -> Arc<dyn Observer> {
        Arc::new(Told { ledger: Arc::clone(self), life: self.lives() })
    }

    /// Looks at what the hosts have taken.
    pub(super) fn look(&self) {
        drop(self.now());
    }

    /// Looks through the spool: everything that is not at its end is there.
    pub(super) async fn check(&self, spool: &FaultySpool) {
        let (mut queued, mut held) = (BTreeSet::new(), BTreeSet::new());
        let mut after = None;
        loop {
            let page = spool.inner().scan(Selection::all(), after, PAGE).await;
            let mut state = self.now();
            let Ok(page) = page else { return state.breaks(format_args!("the spool inside fails")) };
            for entry in &page {
                after = Some((entry.message, entry.entry));
                if entry.entry == REPORT_ENTRY {
                    continue;
                }
                for recipient in &entry.recipients {
                    let to = address(&recipient.rcpt);
                    let known = state.messages.get(&entry.message).and_then(|m| m.recipients.get(&to));
                    let known = known.map(|party| party.state);
                    if known != Some(recipient.state) {
                        let is = recipient.state;
                        state.breaks(format_args!(
                            "{} {to} is stored as {is:?}, not {known:?}",
                            Short(entry.message)
                        ));
                    }
                    if recipient.state == RecipientState::Waiting {
                        if entry.parked.as_deref() == Some(HELD) {
                            held.insert((entry.message, to.clone()));
                        }
                        queued.insert((entry.message, to));
                    }
                }
            }
            if page.len() < PAGE {
                break;
            }
        }
        let mut state = self.now();
        let slack = self.slack();
        let (wall, calm) = (state.wall, state.calm_wall);
        let mut faults = Vec::new();
        for id in &state.open {
            let Some(message) = state.messages.get(id) else { continue };
            let waiting =
                message.recipients.iter().filter(|(_, party)| party.state == RecipientState::Waiting);
            for (to, _) in waiting {
                let key = (*id, to.clone());
                let end = message.expires.max(calm).max(message.touched);
                if !queued.contains(&key) {
                    faults.push(format!("{} {to} is lost", Short(*id)));
                } else if state.mood == Mood::Well && wall > end.after(slack) && !held.contains(&key) {
                    faults.push(format!(
                        "{} {to} is stuck, since {:?}",
                        Short(*id),
                        wall.since(message.expires)
                    ));
                }
            }
        }
        for fault in faults {
            state.breaks(format_args!("{fault}"));
        }
    }

    /// Everything is settled: whether all was told that had to be.
    pub(super) fn finish(&self) {
        let mut state = self.now();
        let mut faults = Vec::new();
        for (id, message) in &state.messages {
            for (to, party) in &message.recipients {
                let failed = matches!(party.state, RecipientState::Failed | RecipientState::Expired);
                let wanted = !message.from.is_empty() && party.notify.is_none_or(|notify| notify.failure);
                if !party.state.is_terminal() {
                    faults.push(format!("{} {to} has no end", Short(*id)));
                } else if party.reports != u32::from(failed && wanted) {
                    let is = party.state;
                    faults.push(format!(
                        "{} {to} is {is:?} and was reported {} times",
                        Short(*id),
                        party.reports
                    ));
                }
            }
        }
        let late = state.late.iter().filter(|(told, _)| told.get().is_some());
        faults.extend(late.map(|(_, what)| what.clone()));
        for fault in faults {
            state.breaks(format_args!("{fault}"));
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        lock(&self.state).broken.is_some()
    }

    /// Notes that something is broken.
    pub(super) fn broken(&self, what: &str) -> Broken {
        let mut state = lock(&self.state);
        state.breaks(format_args!("{what}"));
        state.broken_off()
    }

    pub(super) fn verdict(&self) -> Result<(), Broken> {
        let mut state = lock(&self.state);
        if state.broken.is_some() { Err(state.broken_off()) } else { Ok(()) }
    }

    pub(super) fn history(&self, time: Duration, calls: u64) -> History {
        let mut state = lock(&self.state);
        let lines = if state.record { std::mem::take(&mut state.lines).into() } else { Vec::new() };
        let cuts = self.cuts.load(Ordering::Relaxed);
        History { time, calls, cuts, lines, ..state.history.clone() }
    }

    /// The state, with all that happened up to now.
    pub(super) fn now(&self) -> MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        state.look_at_clock();
        for taken in self.network.drain() {
            state.taken(&self.plan, &taken);
        }
        state
    }

    /// What it may take past a deadline: leases of lives that ended are waited for, then one try is made,
    /// which may take as long as any wait of the protocol, and its turn comes within the grid of the
    /// schedule.
    fn slack(&self) -> Duration {
        self.plan.engine.lease + self.plan.engine.sweep * 2 + ONE_TRY
    }
}

impl Watch for Ledger {
    fn stored(&self, messages: Vec<Stored>) {
        let mut state = self.now();
        for message in messages {
            state.stored(message, false, None);
        }
    }

    fn settled(&self, settlements: Vec<Settled>) {
        let mut state = self.now();
        for settled in settlements {
            state.settled(
                &self.plan,
                settled,
                ISOLATED + self.plan.engine.lease + self.plan.engine.sweep * 2,
            );
        }
    }
}

/// What observers are told in one life.
struct Told {
    ledger: Arc<Ledger>,
    life: u64,
}

impl Observer for Told {
    fn on_event(&self, event: &Event<'_>) {
        let (Event::Delivered { about, .. }
        | Event::Failed { about, .. }
        | Event::Expired { about, .. }
        | Event::Cancelled { about }) = event
        else {
            return;
        };
        let mut state = self.ledger.now();
        let (name, to) = (Short(about.message), address(about.recipient));
        let party = state.messages.get_mut(&about.message).and_then(|m| m.recipients.get_mut(&to));
        let Some(party) = party else {
            return state.breaks(format_args!("{name} {to} is told of, and not stored"));
        };
        let (is, before) = (party.state, party.told.contains(&self.life) && !party.is_again);
        party.told.push(self.life);
        if is != about.state {
            state.breaks(format_args!("{name} {to} is told to be {:?} and is {is:?}", about.state));
        }
        if before {
            state.breaks(format_args!("{name} {to} is told of twice"));
        }
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Told").field("life", &self.life).finish_non_exhaustive()
    }
}

const PAGE: usize = 1_000;
/// An attempt has an hour, whatever its host does, and a site that cannot be reached is looked at again
/// within minutes.
const ONE_TRY: Duration = Duration::from_secs(3 * 3600);
/// What a message may take whose hosts are well: connections are opened, and turns are taken.
const ISOLATED: Duration = Duration::from_secs(300);
