//! What the ledger knows, and the rules by which it notes a promise that is broken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{self, Write as _};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use super::content::{MESSAGE_ID, has_body, message_id};
use super::lists::members;
use super::orders::Running;
use super::plan::{Kind, Mood, Plan, Submission};
use super::{Broken, History, SimulationOptions};
use crate::clock::Timestamp;
use crate::message::{Handling, MessageId};
use crate::smtp::params::{Notify, Rcpt};
use crate::spool::set_back::released;
use crate::spool::{REPORT_ENTRY, RecipientState, Then};
use crate::testing::JumpingClock;
use crate::testing::network::{Taken, address};
use crate::testing::spool::{Settled, Stored};

pub(super) struct State {
    pub(super) options: SimulationOptions,
    pub(super) clock: Option<Arc<JumpingClock>>,
    /// How far the history was when this life began, and when that was.
    pub(super) from: Duration,
    pub(super) began: Option<Instant>,
    /// How far it is, and what the clock shows; the latest that was seen.
    pub(super) at: Duration,
    pub(super) wall: Timestamp,
    pub(super) latest: Timestamp,
    /// Since when nothing went wrong that concerns all: a start, a spool that fails, a jump.
    pub(super) calm_at: Duration,
    pub(super) calm_wall: Timestamp,
    pub(super) mood: Mood,
    pub(super) was_moody: bool,
    pub(super) messages: BTreeMap<MessageId, Message>,
    pub(super) submitted: BTreeMap<MessageId, (u64, usize, Duration)>,
    /// The messages with recipients that wait.
    pub(super) open: BTreeSet<MessageId>,
    /// Under which id the message with a number was stored.
    pub(super) numbers: BTreeMap<u64, MessageId>,
    /// Which message a key stands for, and until when that is remembered.
    pub(super) keys: BTreeMap<Box<str>, (MessageId, Timestamp)>,
    /// Keys that stood for another message before.
    pub(super) forgotten: BTreeSet<Box<str>>,
    /// Submissions under keys that were not answered yet: whoever made them does it over after a crash.
    pub(super) unanswered: BTreeMap<Box<str>, Submission>,
    /// Orders that are under way.
    pub(super) running: BTreeMap<u64, Running>,
    /// Since when entries are known to be held, and to be cancelled.
    pub(super) held: BTreeMap<(MessageId, u32), Duration>,
    pub(super) cancelled: BTreeMap<(MessageId, u32), Duration>,
    /// How many are being submitted.
    pub(super) submitting: usize,
    /// What was taken for recipients that were settled already: right only if nobody was told of it.
    pub(super) late: Vec<(Arc<OnceLock<Instant>>, String)>,
    pub(super) history: History,
    pub(super) record: bool,
    pub(super) lines: VecDeque<String>,
    pub(super) broken: Option<String>,
}

pub(super) struct Message {
    /// The number and the size of the body, of one that was submitted.
    pub(super) own: Option<(u64, usize)>,
    pub(super) from: String,
    pub(super) handling: Handling,
    pub(super) expires: Timestamp,
    pub(super) stored: Duration,
    /// When it may be sent, and by the clock: 0, where its sender does not say.
    pub(super) ready: Duration,
    pub(super) release: Timestamp,
    /// Orders were given about it, and until when they change when it is sent.
    pub(super) is_moved: bool,
    pub(super) touched: Timestamp,
    pub(super) may_be_cancelled: bool,
    /// The message that it was sent on from: its octets are that one's.
    pub(super) root: MessageId,
    /// Those that were sent on from it.
    sent_on: Vec<MessageId>,
    pub(super) recipients: BTreeMap<Box<str>, Party>,
}

/// A recipient.
pub(super) struct Party {
    pub(super) entry: u32,
    pub(super) notify: Option<Notify>,
    pub(super) state: RecipientState,
    /// In which life it was taken, and when the client was told.
    pub(super) takes: Vec<(u64, Arc<OnceLock<Instant>>)>,
    /// Its message was over, and was submitted again by a caller that did not know that.
    pub(super) is_again: bool,
    /// In which lives observers were told of its end.
    pub(super) told: Vec<u64>,
    /// How often its failure was reported.
    pub(super) reports: u32,
}

impl State {
    pub(super) fn note(&mut self, what: fmt::Arguments<'_>) {
        let at = self.at.as_secs_f64();
        // Formatting into it cannot fail.
        let _ = write!(Digest(&mut self.history.hash), "{at:>14.3} {what}");
        if self.record {
            self.lines.push_back(format!("{at:>14.3} {what}"));
            if self.lines.len() > MAX_LINES {
                self.lines.pop_front();
            }
        }
    }

    /// Notes the first promise that is broken.
    pub(super) fn breaks(&mut self, what: fmt::Arguments<'_>) {
        self.note(format_args!("BROKEN {what}"));
        let at = self.at;
        self.broken.get_or_insert_with(|| format!("{what}, at {at:?}"));
    }

    pub(super) fn broken_off(&mut self) -> Broken {
        let what = self.broken.clone().unwrap_or_default();
        let (seed, options) = (self.history.seed, self.options.clone());
        Broken { seed, options, what, lines: std::mem::take(&mut self.lines).into() }
    }

    pub(super) fn taken(&mut self, plan: &Plan, taken: &Taken) {
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
        // What stands for others has the same octets as what they get.
        let id = self.of(id, to);
        let ended = self.from
            + self.began.map_or(Duration::ZERO, |began| taken.ended().saturating_duration_since(began));
        let is_early = self.is_early(id, ended);
        let Some(message) = self.messages.get_mut(&id) else {
            return self.breaks(format_args!("{name} is not in the spool, and was delivered"));
        };
        let mut faults = Vec::new();
        let from = taken.mail.from.mailbox().map(ToString::to_string).unwrap_or_default();
        if from != message.from {
            faults.push(format!("{name} is from {from}"));
        }
        if let Some((number, size)) = message.own
            && !has_body(&taken.content, number, size)
        {
            faults.push(format!("{name} has not the octets that were submitted"));
        }
        if is_early {
            faults.push(format!("{name} was given to {to} before its time"));
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
                if !party.is_again && party.takes.iter().any(|(before, told)| *before == life && knew(told)) {
                    faults.push(format!("{name} was given to {to} twice"));
                }
                if party.state.is_terminal() {
                    let what = format!("{name} was given to {to}, who was {:?}", party.state);
                    self.late.push((Arc::clone(&told), what));
                }
                let was_so = |since: &BTreeMap<_, Duration>| {
                    since.get(&(id, party.entry)).is_some_and(|at| ended > *at)
                };
                if was_so(&self.held) {
                    faults.push(format!("{name} was given to {to}, and was held"));
                }
                if was_so(&self.cancelled) {
                    faults.push(format!("{name} was given to {to}, and was cancelled"));
                }
                party.takes.push((life, told));
            }
        }
        for fault in faults {
            self.breaks(format_args!("{fault}"));
        }
    }

    /// The message that went to this recipient, of one and those that were sent on from it.
    fn of(&self, id: MessageId, to: &str) -> MessageId {
        let has =
            |id: &MessageId| self.messages.get(id).is_some_and(|message| message.recipients.contains_key(to));
        let sent_on = self.messages.get(&id).map(|message| message.sent_on.as_slice()).unwrap_or_default();
        std::iter::once(&id).chain(sent_on).copied().find(has).unwrap_or(id)
    }

    /// A key never stands for two messages.
    fn has_key(&mut self, id: MessageId, key: &str, until: Timestamp) {
        if let Some((first, known)) = self.keys.get(key).copied()
            && (self.latest < known || self.open.contains(&first))
        {
            self.breaks(format_args!("{} and {} are stored under one key", Short(first), Short(id)));
        }
        if self.keys.insert(key.into(), (id, until)).is_some() {
            self.forgotten.insert(key.into());
        }
    }

    /// Whether the key stood for another message before, so that it may stand for another content now.
    pub(super) fn was_forgotten(&self, key: &str) -> bool {
        self.forgotten.contains(key)
    }

    /// A message is in the spool: one that was submitted, a report, or one that was sent on from `of`.
    pub(super) fn stored(&mut self, stored: Stored, report: bool, of: Option<MessageId>) {
        if self.open.contains(&stored.id) {
            if report {
                self.reported(&stored);
            }
            // What follows from a message has an id that follows from it, too.
            if report || of.is_some() {
                return;
            }
            return self.breaks(format_args!("{} was stored, and is stored again", Short(stored.id)));
        }
        // Its caller did not know that it was stored, and it was over before it was submitted again: nothing of it
        // was left that it could be known by. For that there are keys.
        self.cancelled.retain(|(id, _), _| *id != stored.id);
        let before = self.messages.remove(&stored.id);
        // What an entry is sent on as is written with its end, which comes once. A report of a delay comes again
        // when the clock is set back across it.
        let is_again = |of: &MessageId| {
            self.messages.get(of).is_some_and(|of| of.recipients.values().any(|party| party.is_again))
        };
        if before.is_some() && of.as_ref().is_some_and(|of| !is_again(of)) {
            self.breaks(format_args!("{} was over, and is stored again", Short(stored.id)));
        }
        if let Some((key, until)) = &stored.key {
            self.has_key(stored.id, key, *until);
        }
        let of = of.and_then(|of| self.messages.get(&of)).map(|message| (message.root, message.own));
        let submitted = self.submitted.get(&stored.id).copied();
        self.history.recipients += stored.recipients.len() as u64;
        self.note(format_args!("{} is stored", Short(stored.id)));
        let party = |(entry, rcpt): &(u32, Rcpt)| {
            let party = Party {
                entry: *entry,
                notify: rcpt.notify,
                state: RecipientState::Waiting,
                takes: Vec::new(),
                is_again: false,
                told: Vec::new(),
                reports: 0,
            };
            (address(rcpt), party)
        };
        let release = released(&stored.mail, self.wall);
        let ready = submitted.map_or(self.at, |(.., ready)| ready.max(self.at));
        let message = Message {
            own: of.map_or_else(|| submitted.map(|(number, size, _)| (number, size)), |(_, own)| own),
            from: stored.mail.from.mailbox().map(ToString::to_string).unwrap_or_default(),
            handling: stored.handling.clone(),
            expires: stored.expires,
            stored: self.at,
            // The clock may have been set back while it was on its way into the spool.
            ready: ready.max(self.at + release.since(self.wall)),
            release,
            is_moved: false,
            touched: Timestamp::default(),
            may_be_cancelled: false,
            root: of.map_or(stored.id, |(root, _)| root),
            sent_on: Vec::new(),
            recipients: stored.recipients.iter().map(party).collect(),
        };
        let is_from_nobody = message.from.is_empty();
        let mut message = message;
        if let Some(before) = before {
            message.sent_on = before.sent_on;
            for (to, party) in before.recipients {
                // What the engine still has to settle of the one before settles this one.
                if let Some(again) = message.recipients.get_mut(&to) {
                    (again.takes, again.is_again) = (party.takes, true);
                }
            }
        }
        self.messages.insert(stored.id, message);
        self.open.insert(stored.id);
        self.is_ordered(stored.id);
        if let Some((number, ..)) = submitted {
            self.numbers.insert(number, stored.id);
        }
        if let Some(root) = of.and_then(|(root, _)| self.messages.get_mut(&root)) {
            root.sent_on.push(stored.id);
            self.history.sent_on += 1;
        }
        if report {
            self.history.reports += 1;
            if !is_from_nobody {
                self.breaks(format_args!("the report {} has a sender", Short(stored.id)));
            }
            self.reported(&stored);
        }
    }

    /// Reads a report as its recipient would.
    pub(super) fn reported(&mut self, report: &Stored) {
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

    pub(super) fn failure_reported(&mut self, id: MessageId, to: &str, report: &Stored) {
        let id = self.of(id, to);
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

    pub(super) fn settled(&mut self, plan: &Plan, settled: Settled, slack: Duration) {
        let (id, entry) = (settled.token.message, settled.token.entry);
        let name = Short(id);
        let mut faults = Vec::new();
        let mut notes = Vec::new();
        let mut others = BTreeSet::new();
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
                if self.held.contains_key(&(id, entry)) {
                    faults.push(format!("{name} {to} is {state:?}, and was held"));
                }
                if self.cancelled.contains_key(&(id, entry)) && state != RecipientState::Cancelled {
                    faults.push(format!("{name} {to} is {state:?}, and was cancelled"));
                }
                let well = plan.site(&to).is_some_and(|site| site.kind == Kind::Well);
                match state {
                    RecipientState::Delivered => {
                        if party.takes.is_empty() {
                            faults.push(format!("{name} {to} is delivered, and no host has it"));
                        }
                        others.extend(members(plan, &to).map(|members| members.to).unwrap_or_default());
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
                    RecipientState::Cancelled => {
                        self.history.cancelled += 1;
                        if !message.may_be_cancelled {
                            faults.push(format!("{name} {to} is cancelled, and nobody wanted that"));
                        }
                    }
                    RecipientState::Waiting => {}
                }
                let wanted = state == RecipientState::Delivered
                    || state == RecipientState::Cancelled
                    || state == RecipientState::Expired && message.is_moved;
                if well && !wanted && !self.was_moody {
                    faults.push(format!("{name} {to} is {state:?}, and its host is well"));
                }
            }
            let open =
                message.recipients.values().filter(|p| p.entry == entry && !p.state.is_terminal()).count();
            if settled.then == Then::Remove && open > 0 {
                faults.push(format!("{name} is gone, with {open} recipients that wait"));
            }
            if message.recipients.values().all(|party| party.state.is_terminal()) {
                self.open.remove(&id);
            }
        }
        for note in notes {
            self.note(format_args!("{note}"));
        }
        for fault in faults {
            self.breaks(format_args!("{fault}"));
        }
        for message in settled.submit {
            let is_sent_on = message.handling.expansions > 0 && !is_report(&message);
            if is_sent_on {
                for (_, rcpt) in &message.recipients {
                    if !others.remove(address(rcpt).as_ref()) {
                        self.breaks(format_args!("{name} is sent on to {}, for whom nobody stands", rcpt.to));
                    }
                }
            }
            self.stored(message, !is_sent_on, is_sent_on.then_some(id));
        }
        if let Some(other) = others.first() {
            self.breaks(format_args!("{name} was not sent on to {other}"));
        }
    }
}

/// Whether a message is a report: those have a body of their own.
fn is_report(message: &Stored) -> bool {
    memchr::memmem::find(&message.body, b"Final-Recipient: ").is_some()
}

/// The end of an id, which is enough to tell one message from another.
#[derive(Clone, Copy)]
pub(super) struct Short(pub(super) MessageId);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        f.write_str(text.get(20..).unwrap_or(&text))
    }
}

/// Octets that are digested as they are written, so that lines nobody keeps are not made.
struct Digest<'a>(&'a mut u64);

impl fmt::Write for Digest<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        *self.0 = text.bytes().fold(*self.0, |hash, octet| (hash ^ u64::from(octet)).wrapping_mul(FNV_PRIME));
        Ok(())
    }
}

pub(super) const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;
/// Of a long history the end.
const MAX_LINES: usize = 2_000;
