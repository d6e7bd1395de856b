//! An event is something that happened to a message, a recipient or a site, told to observers.
//!
//! Events exist for metrics, logs and the host program's own records. They are told after what they
//! tell of is settled in the spool, outside all locks, in the order of settling; a recipient's
//! terminal event comes at most once per process, and is known by message, recipient and state. An
//! observer that panics is caught and counted. Events decide nothing: the engine does not look at
//! what an observer does.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::attempt::{Accepted, Cause, Trial};
use crate::clock::Timestamp;
use crate::message::{MessageId, ReportKind};
use crate::route::Hosts;
use crate::smtp::address::Domain;
use crate::smtp::params::{Mail, Rcpt};
use crate::spool::{QueueName, RecipientState};

/// Is told what happens. Called from the engine's tasks: return soon, and hand over to a channel
/// ([`ChannelObserver`]) whatever takes time.
pub trait Observer: Send + Sync + fmt::Debug + 'static {
    /// Something happened. The default does nothing.
    fn on_event(&self, event: &Event<'_>) {
        let _ = event;
    }
}

/// Something that happened.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A message is in the spool.
    Accepted {
        /// Its id.
        message: MessageId,
        /// Its envelope.
        mail: &'a Mail,
        /// How many recipients it has.
        recipients: usize,
        /// Its size in octets, head included.
        size: u64,
    },
    /// The next hop has taken responsibility for a recipient. Terminal.
    Delivered {
        /// Whom it is about.
        about: About<'a>,
        /// Who took it.
        accepted: &'a Accepted,
    },
    /// A recipient was put off.
    Deferred {
        /// Whom it is about.
        about: About<'a>,
        /// Why.
        cause: &'a Cause,
        /// When it is tried again.
        until: Timestamp,
    },
    /// A recipient was refused for good. Terminal.
    Failed {
        /// Whom it is about.
        about: About<'a>,
        /// Why.
        cause: &'a Cause,
    },
    /// A recipient's time ran out. Terminal.
    Expired {
        /// Whom it is about.
        about: About<'a>,
        /// [`Cause::Expired`], with what was in the way last.
        cause: &'a Cause,
    },
    /// A recipient was taken back ([`Engine::cancel`](super::Engine::cancel)). Terminal.
    Cancelled {
        /// Whom it is about.
        about: About<'a>,
    },
    /// The sender of a message is told what became of recipients.
    Reported {
        /// The message reported on.
        message: MessageId,
        /// The report, a message of its own.
        report: MessageId,
        /// What it says.
        kind: ReportKind,
        /// How many recipients it is about.
        recipients: usize,
    },
    /// Recipients of a message, which are delivered, stand for others: they are sent it as a message of its own.
    Expanded {
        /// The message.
        message: MessageId,
        /// What the others are sent.
        into: MessageId,
    },
    /// A connection was tried for mail to a destination, or one that is open is used for it too: once
    /// for each connection and destination. Not told of mail whose handling says that it is not counted,
    /// or that TLS is optional for it.
    TlsTried {
        /// The domain that the mail is for.
        destination: &'a Domain,
        /// Its route, with its policies.
        hosts: &'a Hosts,
        /// What was seen.
        trial: &'a Trial,
    },
    /// No host of a site could be used: it is left alone for a while.
    SiteHeld {
        /// The site.
        site: &'a QueueName,
        /// What was found.
        cause: &'a Cause,
        /// For how long.
        wait: Duration,
    },
    /// A site that was held works again.
    SiteReleased {
        /// The site.
        site: &'a QueueName,
    },
    /// An entry cannot be read: the spool or its body is damaged. All others are served. Where the body is
    /// damaged, the entry waits until its deadline, expires then and is reported like any other; once the
    /// body is back, [`super::Engine::requeue`] has it tried at once. Where it is the entry's own record, nobody can
    /// say who its recipients were, so it is parked until it is cancelled or mended.
    SetAside {
        /// The message, where that much could be read.
        message: Option<MessageId>,
        /// Which of its entries.
        entry: u32,
        /// Where it waited.
        queue: &'a QueueName,
        /// What was wrong, for people.
        reason: &'a str,
    },
    /// The spool does not work. While it is poisoned nothing new is claimed.
    SpoolFailed {
        /// Whether it must be opened again.
        poisoned: bool,
    },
    /// The spool works again.
    SpoolRecovered,
}

/// Whom an event is about.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct About<'a> {
    /// The message.
    pub message: MessageId,
    /// Which of its entries.
    pub entry: u32,
    /// The recipient.
    pub recipient: &'a Rcpt,
    /// How the recipient stands now.
    pub state: RecipientState,
    /// The domain it was delivered to.
    pub destination: &'a Domain,
    /// The queue it waited in: its site's, once that was known.
    pub queue: &'a QueueName,
    /// Which try this was, counted from 1.
    pub attempt: u32,
}

impl Event<'_> {
    /// A short name for metrics and logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::Delivered { .. } => "delivered",
            Self::Deferred { .. } => "deferred",
            Self::Failed { .. } => "failed",
            Self::Expired { .. } => "expired",
            Self::Cancelled { .. } => "cancelled",
            Self::Reported { .. } => "reported",
            Self::Expanded { .. } => "expanded",
            Self::TlsTried { .. } => "tls tried",
            Self::SiteHeld { .. } => "site held",
            Self::SiteReleased { .. } => "site released",
            Self::SetAside { .. } => "set aside",
            Self::SpoolFailed { .. } => "spool failed",
            Self::SpoolRecovered => "spool recovered",
        }
    }

    /// The event as a value that can be kept.
    #[must_use]
    pub fn to_record(&self) -> EventRecord {
        let mut record = EventRecord { name: self.name(), ..EventRecord::default() };
        match *self {
            Self::Accepted { message, recipients, size, .. } => {
                record.message = Some(message);
                record.text = format!("{recipients} recipients, {size} octets").into();
            }
            Self::Delivered { about, accepted } => {
                record.about(&about);
                record.host = accepted.host.as_ref().map(|host| host.to_string().into());
                record.text = accepted.reply.as_ref().map(ToString::to_string).unwrap_or_default().into();
            }
            Self::Deferred { about, cause, until } => {
                record.about(&about);
                record.cause(cause);
                record.until = Some(until);
            }
            Self::Failed { about, cause } | Self::Expired { about, cause } => {
                record.about(&about);
                record.cause(cause);
            }
            Self::Cancelled { about } => record.about(&about),
            Self::Reported { message, report, kind, recipients } => {
                record.message = Some(message);
                record.report = Some(report);
                record.text = format!("{}, {recipients} recipients", kind.action()).into();
            }
            Self::Expanded { message, into } => {
                record.message = Some(message);
                record.report = Some(into);
            }
            Self::TlsTried { destination, trial, .. } => {
                record.destination = Some(destination.clone());
                record.host = Some(trial.host.to_string().into());
                record.text = match (&trial.tls, trial.fault) {
                    (_, Some(fault)) => fault.as_str().into(),
                    (Some(tls), None) => tls.version.clone(),
                    (None, None) => "in clear".into(),
                };
            }
            Self::SiteHeld { site, cause, wait } => {
                record.queue = Some(site.clone());
                record.cause(cause);
                record.text = format!("{} s: {cause}", wait.as_secs()).into();
            }
            Self::SiteReleased { site } => record.queue = Some(site.clone()),
            Self::SetAside { message, entry, queue, reason } => {
                (record.message, record.entry) = (message, Some(entry));
                record.queue = Some(queue.clone());
                record.text = reason.into();
            }
            Self::SpoolFailed { poisoned: true } => record.text = "poisoned".into(),
            Self::SpoolFailed { .. } | Self::SpoolRecovered => {}
        }
        record
    }
}

/// An event as a value of its own: what does not apply is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct EventRecord {
    /// [`Event::name`]
    pub name: &'static str,
    /// The message.
    pub message: Option<MessageId>,
    /// Which of its entries.
    pub entry: Option<u32>,
    /// The recipient.
    pub recipient: Option<Rcpt>,
    /// How the recipient stands now.
    pub state: Option<RecipientState>,
    /// The domain it was delivered to.
    pub destination: Option<Domain>,
    /// The queue or site.
    pub queue: Option<QueueName>,
    /// The host that it was about.
    pub host: Option<Box<str>>,
    /// Which try it was, counted from 1.
    pub attempt: Option<u32>,
    /// When it is tried again.
    pub until: Option<Timestamp>,
    /// The message that reports it, or that others are sent.
    pub report: Option<MessageId>,
    /// The reply or the cause, for people.
    pub text: Box<str>,
}

impl EventRecord {
    fn about(&mut self, about: &About<'_>) {
        self.message = Some(about.message);
        self.entry = Some(about.entry);
        self.recipient = Some(about.recipient.clone());
        self.state = Some(about.state);
        self.destination = Some(about.destination.clone());
        self.queue = Some(about.queue.clone());
        self.attempt = Some(about.attempt);
    }

    fn cause(&mut self, cause: &Cause) {
        self.host = cause.host().map(|host| host.to_string().into());
        self.text = cause.to_string().into();
    }
}

/// An observer that puts events into a bounded channel. When nobody takes them it drops new ones and
/// counts them: it never delays the engine.
#[derive(Debug)]
pub struct ChannelObserver {
    to: mpsc::Sender<EventRecord>,
    dropped: AtomicU64,
}

impl ChannelObserver {
    /// An observer and the end that its events come out of. At most `room` events wait (1 at least).
    #[must_use]
    pub fn new(room: usize) -> (Arc<Self>, mpsc::Receiver<EventRecord>) {
        let (to, from) = mpsc::channel(room.clamp(1, MAX_CHANNEL));
        (Arc::new(Self { to, dropped: AtomicU64::new(0) }), from)
    }

    /// How many events found no room.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Observer for ChannelObserver {
    fn on_event(&self, event: &Event<'_>) {
        // The room first: making a record costs allocations.
        match self.to.try_reserve() {
            Ok(place) => place.send(event.to_record()),
            Err(_) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// All observers of an engine.
#[derive(Debug, Default)]
pub(crate) struct Observers {
    all: Vec<Arc<dyn Observer>>,
    panics: AtomicU64,
}

impl Observers {
    pub(crate) fn new(all: Vec<Arc<dyn Observer>>) -> Self {
        Self { all, panics: AtomicU64::new(0) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(crate) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Tells everybody. Not to be called with a lock held.
    pub(crate) fn tell(&self, event: &Event<'_>) {
        for observer in &self.all {
            // Unwind safety: we hold nothing that a panic in there could leave half done.
            if catch_unwind(AssertUnwindSafe(|| observer.on_event(event))).is_err() {
                self.panics.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// More events than this waiting is a leak, not a buffer.
const MAX_CHANNEL: usize = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_channel_drops_and_counts() {
        let (observer, mut events) = ChannelObserver::new(2);
        for _ in 0..5 {
            observer.on_event(&Event::SpoolRecovered);
        }
        assert_eq!(observer.dropped(), 3);
        assert_eq!(events.try_recv().unwrap().name, "spool recovered");
    }

    #[test]
    fn an_observer_that_panics_is_counted_and_the_others_are_told() {
        #[derive(Debug)]
        struct Broken;
        impl Observer for Broken {
            fn on_event(&self, _: &Event<'_>) {
                panic!("an observer's own fault");
            }
        }
        let (good, mut events) = ChannelObserver::new(2);
        let all = Observers::new(vec![Arc::new(Broken), good]);
        all.tell(&Event::SpoolRecovered);
        assert_eq!(all.panics(), 1);
        assert!(events.try_recv().is_ok());
    }
}
