//! The ledger holds what was promised and what came of it: what the spool inside has stored, what hosts
//! have taken, what the caller and the observers were told.
//!
//! It learns from the storage itself and not from the engine, and notes the first promise that is broken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use super::plan::{Kind, Mood, Plan, Submission};
use super::{Broken, History};
use crate::clock::{Clock, Timestamp};
use crate::delivery::{Event, Observer};
use crate::message::MessageId;
use crate::smtp::params::{Notify, Rcpt};
use crate::spool::{REPORT_ENTRY, RecipientState, Selection, Then};
use crate::testing::network::{Taken, address};
use crate::testing::spool::{FaultySpool, Settled, Stored, Watch};
use crate::testing::{JumpingClock, Network, lock};

pub(super) struct Ledger {
    plan: Arc<Plan>,
    network: Network,
    state: Mutex<State>,
}

struct State {
    clock: Option<Arc<JumpingClock>>,
    /// How far the history was when this life began, and when that was.
    from: Duration,
    began: Option<Instant>,
    /// How far it is, and what the clock shows; the latest that was seen.
    at: Duration,
    wall: Timestamp,
    latest: Timestamp,
    /// Since when nothing went wrong that concerns all: a start, a spool that fails, a jump.
    calm_at: Duration,
    calm_wall: Timestamp,
    mood: Mood,
    was_moody: bool,
    messages: BTreeMap<MessageId, Message>,
    submitted: BTreeMap<MessageId, (u64, usize, Duration)>,
    /// How many are being submitted.
    submitting: usize,
    /// What was taken for recipients that were settled already: right only if nobody was told of it.
    late: Vec<(Arc<OnceLock<Instant>>, String)>,
    history: History,
    record: bool,
    lines: VecDeque<String>,
    broken: Option<String>,
}

struct Message {
    /// The number and the size of the body, of one that was submitted.
    own: Option<(u64, usize)>,
    from: String,
    expires: Timestamp,
    /// When it may be sent.
    ready: Duration,
    recipients: BTreeMap<Box<str>, Party>,
}

/// A recipient.
struct Party {
    entry: u32,
    notify: Option<Notify>,
    state: RecipientState,
    /// In which life it was taken, and when the client was told.
    takes: Vec<(u64, Arc<OnceLock<Instant>>)>,
    /// In which lives observers were told of its end.
    told: Vec<u64>,
    /// How often its failure was reported.
    reports: u32,
}

impl Ledger {
    pub(super) fn new(plan: Arc<Plan>, network: Network, record: bool) -> Arc<Self> {
        let history = History { seed: plan.seed, hash: FNV_START, ..History::default() };
        let state = State {
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
            submitting: 0,
            late: Vec::new(),
            history,
            record,
            lines: VecDeque::new(),
            broken: None,
        };
        Arc::new(Self { plan, network, state: Mutex::new(state) })
    }

    /// A life begins.
    pub(super) fn begins(&self, clock: &Arc<JumpingClock>, at: Duration, began: Instant) {
        let mut state = lock(&self.state);
        (state.clock, state.from, state.began) = (Some(Arc::clone(clock)), at, Some(began));
        state.history.lives += 1;
        state.submitting = 0;
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
        state.note(format_args!("{} is submitted: {submission:?}", Short(id)));
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
        let mut queued = BTreeSet::new();
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
        for (id, message) in &state.messages {
            let waiting =
                message.recipients.iter().filter(|(_, party)| party.state == RecipientState::Waiting);
            for (to, _) in waiting {
                if !queued.contains(&(*id, to.clone())) {
                    faults.push(format!("{} {to} is lost", Short(*id)));
                } else if state.mood == Mood::Well && wall > message.expires.max(calm).after(slack) {
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
        History { time, calls, lines, ..state.history.clone() }
    }

    /// The state, with all that happened up to now.
    fn now(&self) -> MutexGuard<'_, State> {
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

impl State {
    fn look_at_clock(&mut self) {
        // Without a runtime there is no time that means anything.
        if let (Some(clock), Some(began), Ok(_)) =
            (&self.clock, self.began, tokio::runtime::Handle::try_current())
        {
            self.at = self.from + began.elapsed();
            self.wall = clock.now().wall;
            self.latest = self.latest.max(self.wall);
        }
    }

    fn is_not_calm(&mut self) {
        (self.calm_at, self.calm_wall) = (self.at, self.wall);
    }

    fn note(&mut self, what: fmt::Arguments<'_>) {
        let line = format!("{:>14.3} {what}", self.at.as_secs_f64());
        for octet in line.bytes() {
            self.history.hash = (self.history.hash ^ u64::from(octet)).wrapping_mul(FNV_PRIME);
        }
        if self.record {
            self.lines.push_back(line);
            if self.lines.len() > MAX_LINES {
                self.lines.pop_front();
            }
        }
    }

    /// Notes the first promise that is broken.
    fn breaks(&mut self, what: fmt::Arguments<'_>) {
        self.note(format_args!("BROKEN {what}"));
        let at = self.at;
        self.broken.get_or_insert_with(|| format!("{what}, at {at:?}"));
    }

    fn broken_off(&mut self) -> Broken {
        let what = self.broken.clone().unwrap_or_default();
        Broken { seed: self.history.seed, what, lines: std::mem::take(&mut self.lines).into() }
    }

    fn taken(&mut self, plan: &Plan, taken: &Taken) {
        self.history.deliveries += 1;
        let (to, host, life) = (&taken.to, &taken.host, self.history.lives);
        let Some(id) = message_id(&taken.content) else {
            return self.breaks(format_args!("{host} took a message that nobody knows"));
        };
        let name = Short(id);
        self.note(format_args!("{name} is taken for {to} by {host}"));
        if plan.site(to).is_none_or(|site| site.host != **host) {
            self.breaks(format_args!("{name} for {to} was given to {host}"));
        }
        let Some(message) = self.messages.get_mut(&id) else {
            return self.breaks(format_args!("{name} is not in the spool, and was delivered"));
        };
        let mut faults = Vec::new();
        let from = taken.mail.from.mailbox().map(ToString::to_string).unwrap_or_default();
        if from != message.from {
            faults.push(format!("{name} is from {from}"));
        }
        if let Some((number, size)) = message.own
            && !taken.content.ends_with(&body(number, size))
        {
            faults.push(format!("{name} has not the octets that were submitted"));
        }
        let told = taken.told();
        match message.recipients.get_mut(to) {
            None => faults.push(format!("{name} was given to {to}, who is not its recipient")),
            Some(party) => {
                self.history.doubles += u64::from(!party.takes.is_empty());
                // Only what was sent after it was known to be taken is a double that could have been
                // avoided. A host that thinks for longer than its client waits takes the first copy
                // when the second was sent, and answered, long ago.
                let knew = |told: &OnceLock<Instant>| told.get().is_some_and(|at| *at <= taken.ended());
                if party.takes.iter().any(|(before, told)| *before == life && knew(told)) {
                    faults.push(format!("{name} was given to {to} twice"));
                }
                if party.state.is_terminal() {
                    let what = format!("{name} was given to {to}, who was {:?}", party.state);
                    self.late.push((Arc::clone(&told), what));
                }
                party.takes.push((life, told));
            }
        }
        for fault in faults {
            self.breaks(format_args!("{fault}"));
        }
    }

    fn stored(&mut self, stored: Stored, report: bool) {
        if self.messages.contains_key(&stored.id) {
            return;
        }
        let submitted = self.submitted.get(&stored.id).copied();
        self.history.recipients += stored.recipients.len() as u64;
        self.note(format_args!("{} is stored", Short(stored.id)));
        let party = |(entry, rcpt): &(u32, Rcpt)| {
            let party = Party {
                entry: *entry,
                notify: rcpt.notify,
                state: RecipientState::Waiting,
                takes: Vec::new(),
                told: Vec::new(),
                reports: 0,
            };
            (address(rcpt), party)
        };
        let message = Message {
            own: submitted.map(|(number, size, _)| (number, size)),
            from: stored.mail.from.mailbox().map(ToString::to_string).unwrap_or_default(),
            expires: stored.expires,
            ready: submitted.map_or(self.at, |(.., ready)| ready.max(self.at)),
            recipients: stored.recipients.iter().map(party).collect(),
        };
        let is_from_nobody = message.from.is_empty();
        self.messages.insert(stored.id, message);
        if report {
            self.history.reports += 1;
            if !is_from_nobody {
                self.breaks(format_args!("the report {} has a sender", Short(stored.id)));
            }
            self.reported(&stored);
        }
    }

    /// Reads a report as its recipient would.
    fn reported(&mut self, report: &Stored) {
        let text = String::from_utf8_lossy(&report.body);
        let Some(id) =
            text.rfind(MESSAGE_ID).and_then(|at| text.get(at..)).and_then(|rest| message_id(rest.as_bytes()))
        else {
            return self.breaks(format_args!("the report {} says not of what", Short(report.id)));
        };
        let mut about = "";
        for line in text.lines() {
            if let Some(address) = line.strip_prefix("Final-Recipient: rfc822; ") {
                about = address;
            } else if line == "Action: failed" {
                self.failure_reported(id, about, report);
            }
        }
    }

    fn failure_reported(&mut self, id: MessageId, to: &str, report: &Stored) {
        self.note(format_args!("{} reports that {} failed for {to}", Short(report.id), Short(id)));
        let Some(message) = self.messages.get_mut(&id) else {
            return self.breaks(format_args!("a report on {}, which is not stored", Short(id)));
        };
        let back = report.recipients.iter().all(|(_, rcpt)| *address(rcpt) == *message.from);
        let from_nobody = message.from.is_empty();
        let Some(party) = message.recipients.get_mut(to) else {
            return self.breaks(format_args!("a report on {to}, who is no recipient of {}", Short(id)));
        };
        party.reports += 1;
        let (reports, notify, state) = (party.reports, party.notify, party.state);
        if from_nobody || !back {
            self.breaks(format_args!("a report on {} goes to somebody else than its sender", Short(id)));
        }
        if reports > 1 {
            self.breaks(format_args!("{} is reported twice on {to}", Short(id)));
        }
        if notify.is_some_and(|notify| !notify.failure) {
            self.breaks(format_args!("{} is reported on {to} against the sender's wish", Short(id)));
        }
        if !matches!(state, RecipientState::Failed | RecipientState::Expired) {
            self.breaks(format_args!("{} is reported to have failed for {to}, who is {state:?}", Short(id)));
        }
    }

    fn settled(&mut self, plan: &Plan, settled: Settled, slack: Duration) {
        let (id, entry) = (settled.token.message, settled.token.entry);
        let name = Short(id);
        let mut faults = Vec::new();
        let mut notes = Vec::new();
        if entry != REPORT_ENTRY {
            let Some(message) = self.messages.get_mut(&id) else {
                return self.breaks(format_args!("{name} is settled and was never stored"));
            };
            let parties = message.recipients.values().filter(|party| party.entry == entry).count();
            if parties != settled.recipients.len() {
                faults.push(format!("{name} had {parties} recipients and has {}", settled.recipients.len()));
            }
            for recipient in &settled.recipients {
                let (to, state) = (address(&recipient.rcpt), recipient.state);
                let Some(party) = message.recipients.get_mut(&to) else {
                    faults.push(format!("{name} is settled for {to}, who is no recipient"));
                    continue;
                };
                if party.state == state {
                    continue;
                }
                notes.push(format!(
                    "{name} {to} is {state:?}: {}",
                    recipient.note.as_deref().unwrap_or_default()
                ));
                if party.state.is_terminal() {
                    faults.push(format!("{name} {to} was {:?} and is {state:?}", party.state));
                }
                party.state = state;
                let well = plan.site(&to).is_some_and(|site| site.kind == Kind::Well);
                match state {
                    RecipientState::Delivered => {
                        if party.takes.is_empty() {
                            faults.push(format!("{name} {to} is delivered, and no host has it"));
                        }
                        let since = message.ready.max(self.calm_at);
                        let took = self.at.saturating_sub(since);
                        if well && plan.roomy && took > slack && self.mood == Mood::Well {
                            faults.push(format!("{name} {to} was held up for {took:?}"));
                        }
                    }
                    RecipientState::Expired => {
                        self.history.expired += 1;
                        if self.latest < message.expires {
                            faults.push(format!("{name} {to} expired early"));
                        }
                    }
                    RecipientState::Failed => self.history.failed += 1,
                    RecipientState::Waiting | RecipientState::Cancelled => {}
                }
                if well && state != RecipientState::Delivered && !self.was_moody {
                    faults.push(format!("{name} {to} is {state:?}, and its host is well"));
                }
            }
            let open =
                message.recipients.values().filter(|p| p.entry == entry && !p.state.is_terminal()).count();
            if settled.then == Then::Remove && open > 0 {
                faults.push(format!("{name} is gone, with {open} recipients that wait"));
            }
        }
        for note in notes {
            self.note(format_args!("{note}"));
        }
        for fault in faults {
            self.breaks(format_args!("{fault}"));
        }
        for report in settled.submit {
            self.stored(report, true);
        }
    }
}

impl Watch for Ledger {
    fn stored(&self, messages: Vec<Stored>) {
        let mut state = self.now();
        for message in messages {
            state.stored(message, false);
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
        let (is, before) = (party.state, party.told.contains(&self.life));
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

/// The end of an id, which is enough to tell one message from another.
#[derive(Clone, Copy)]
struct Short(MessageId);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        f.write_str(text.get(20..).unwrap_or(&text))
    }
}

/// The body of a message: made again to compare.
pub(super) fn body(number: u64, size: usize) -> Vec<u8> {
    let mut octets = Vec::with_capacity(size + 40);
    while octets.len() < size {
        // Dots in front, which are doubled on the way.
        octets.extend_from_slice(format!(".{number} and {}\r\n", octets.len()).as_bytes());
    }
    octets.extend_from_slice(format!("end of {number}\r\n").as_bytes());
    octets
}

/// The first Message-ID that is one of ours.
fn message_id(content: &[u8]) -> Option<MessageId> {
    let at = memchr::memmem::find(content, MESSAGE_ID.as_bytes())? + MESSAGE_ID.len();
    let id = content.get(at..)?.split(|octet| *octet == b'@').next()?;
    std::str::from_utf8(id).ok()?.parse().ok()
}

const MESSAGE_ID: &str = "Message-ID: <";
const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;
/// Of a long history the end.
const MAX_LINES: usize = 2_000;
const PAGE: usize = 1_000;
/// An attempt has an hour, whatever its host does, and a site that cannot be reached is looked at again
/// within minutes.
const ONE_TRY: Duration = Duration::from_secs(3 * 3600);
/// What a message may take whose hosts are well: connections are opened, and turns are taken.
const ISOLATED: Duration = Duration::from_secs(300);
