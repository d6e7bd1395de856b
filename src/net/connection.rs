//! A connection is a session with its stream: it does what the session says, in the order it says it.
//!
//! The driver makes no decision of the protocol. It writes a whole flight before it reads, feeds content
//! when the session asks for it, and tells the session what left and what came, with the time. A
//! connection is opened by a [`Dialer`](super::Dialer), carries transactions up to the session's window
//! at once, and is handed back idle or closed.

mod gated;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::field::Empty;
use tracing::{Instrument, Span, debug, debug_span};

use super::trace::{TraceLine, Tracer};
use super::wire::{Stream, Turn, Wire};
use crate::clock::{Clock, Gate};
use crate::hop::{Demand, Host, Seen, TlsSeen};
use crate::message::Content;
use crate::smtp::capability::Capabilities;
use crate::smtp::client::{BeginError, Event, Failure, Feature, Session, Transaction, TransactionResult};
use crate::smtp::params::Rcpt;
use crate::smtp::{Input, Output, TlsInfo};

/// An SMTP connection on which transactions can be made.
pub struct Connection {
    host: Arc<Host>,
    opened_for: Demand,
    seen: Seen,
    wire: Wire,
    session: Session,
    clock: Arc<dyn Clock>,
    tracer: Tracer,
    span: Span,
    /// The content of open transactions, in order.
    feeds: VecDeque<Feed>,
    wanted: Option<u64>,
    done: VecDeque<(u64, TransactionResult)>,
    progress: Progress,
    until: Option<Instant>,
    /// How long content may take to be read.
    patience: Duration,
    content_failed: Option<u64>,
    /// The first transaction whose message must not be ended any more.
    barred: Option<u64>,
    /// Whether content is being read: when that is found set, somebody dropped the future over it.
    reading: bool,
}

/// What became of waiting for a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A transaction, by its number, is over.
    Done(u64, TransactionResult),
    /// Another transaction can begin.
    Room,
    /// Nothing is open, or the session has ended.
    Over,
}

struct Feed {
    transaction: u64,
    content: Content,
    /// Until the wire has it.
    gate: Option<Gate>,
    span: Span,
}

/// How far the session is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Progress {
    /// Still opening.
    Opening,
    /// The session waits for a handshake, as soon as everything before it has left.
    StartTls,
    Ready,
    Over(Failure),
}

impl Connection {
    pub(super) fn new(
        host: Arc<Host>,
        opened_for: Demand,
        stream: Stream,
        session: Session,
        patience: Duration,
        clock: Arc<dyn Clock>,
        tracer: Tracer,
    ) -> Self {
        let span = debug_span!("smtp_connection", host = %host.name, port = host.port, tls = Empty);
        Self {
            host,
            opened_for,
            seen: Seen::default(),
            wire: Wire::new(stream),
            session,
            clock,
            tracer,
            span,
            feeds: VecDeque::new(),
            wanted: None,
            done: VecDeque::new(),
            progress: Progress::Opening,
            until: None,
            patience,
            content_failed: None,
            barred: None,
            reading: false,
        }
    }

    /// The host at the other end.
    #[must_use]
    pub const fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// What the connection showed.
    #[must_use]
    pub const fn seen(&self) -> &Seen {
        &self.seen
    }

    /// What it was opened for: a connection on which TLS was not even tried is not for those who
    /// would have had it.
    #[must_use]
    pub const fn opened_for(&self) -> Demand {
        self.opened_for
    }

    /// What the host offers.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        self.session.capabilities()
    }

    /// Whether a transaction can begin now.
    #[must_use]
    pub fn can_begin(&self) -> bool {
        self.progress == Progress::Ready && self.session.can_begin() && self.barred.is_none()
    }

    /// Whether a transaction with these recipients would reach any of them on this connection, see
    /// [`Session::takes`]. Where it would not, another connection is needed.
    #[must_use]
    pub fn takes(&self, recipients: &[Rcpt]) -> bool {
        self.session.takes(recipients)
    }

    /// Whether the host takes no more transactions on this connection (RFC 9422 §4.1): the open ones go
    /// on, the next one needs another connection. That is no failure.
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        self.progress == Progress::Ready && self.session.is_used_up()
    }

    /// Whether nothing is open and nothing is on its way, so that anybody could go on from here.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.can_begin() && self.session.is_idle() && self.wire.is_drained() && self.feeds.is_empty()
    }

    /// Why the session is over, if it is.
    #[must_use]
    pub const fn failure(&self) -> Option<&Failure> {
        match &self.progress {
            Progress::Over(failure) => Some(failure),
            _ => None,
        }
    }

    /// The transaction whose content could not be read, if that is what ended the session.
    #[must_use]
    pub const fn content_failed(&self) -> Option<u64> {
        self.content_failed
    }

    /// Whether the host broke its promise to take commands together.
    #[must_use]
    pub fn pipelining_broken(&self) -> bool {
        self.session.pipelining_broken()
    }

    /// Whether the host refused a transaction behind the end of another.
    #[must_use]
    pub fn chain_refused(&self) -> bool {
        self.session.chain_refused()
    }

    /// What the host lacks that this transaction needs, if anything. Its `size` is to be the content's.
    #[must_use]
    pub fn lacks(&self, transaction: &Transaction) -> Option<Feature> {
        self.session.lacks(transaction)
    }

    /// Begins a transaction and returns its number. Nothing is sent before
    /// [`next_done`](Self::next_done), so that what is begun together leaves together.
    ///
    /// # Errors
    /// [`BeginError`]: not now, or never on this connection. The content is gone then.
    pub fn begin(&mut self, transaction: Transaction, content: Content) -> Result<u64, BeginError> {
        self.begin_gated(transaction, content, None)
    }

    /// As [`begin`](Self::begin), with a gate in front of the last octet of the message, which is asked before
    /// each write until that octet has left. Once it is found shut, the message is never ended: what is
    /// open before it is finished, and then the connection ends, with this transaction not attempted.
    /// Only where TLS holds that octet back, the connection ends at once.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub fn begin_gated(
        &mut self,
        mut transaction: Transaction,
        content: Content,
        gate: Option<Gate>,
    ) -> Result<u64, BeginError> {
        if self.progress != Progress::Ready || self.barred.is_some() {
            return Err(BeginError::NotReady);
        }
        transaction.size = content.size();
        let span =
            debug_span!(parent: &self.span, "transaction", number = Empty, sender = %transaction.mail.from);
        let number = self.session.begin(transaction)?;
        span.record("number", number);
        debug!(parent: &span, "transaction begun");
        self.feeds.push_back(Feed { transaction: number, content, gate, span });
        // What is in memory is given at once: the next transaction can begin behind it.
        self.pump();
        Ok(number)
    }

    /// The result of the oldest open transaction; `None` when none is open. When the session ends,
    /// each open transaction has its result first; [`failure`](Self::failure) then says why.
    ///
    /// # Cancel safety
    /// Drop the connection, too, when the future is dropped: what was sent cannot be taken back, and a
    /// reader of content may have lost a piece.
    pub async fn next_done(&mut self) -> Option<(u64, TransactionResult)> {
        loop {
            match self.next_step(false).await {
                Step::Done(number, result) => return Some((number, result)),
                Step::Room => {}
                Step::Over => return None,
            }
        }
    }

    /// As [`next_done`](Self::next_done); with `or_room`, for one who found that nothing could begin,
    /// also until something can. What is begun then leaves in the same write as the end of the
    /// transaction before it.
    ///
    /// # Cancel safety
    /// As [`next_done`](Self::next_done).
    pub async fn next_step(&mut self, or_room: bool) -> Step {
        loop {
            self.pump();
            self.give_way();
            if let Some((number, result)) = self.done.pop_front() {
                self.feeds.retain(|feed| feed.transaction != number);
                return Step::Done(number, result);
            }
            if self.failure().is_some() || (self.session.is_at_rest() && self.wire.is_drained()) {
                return Step::Over;
            }
            if or_room && self.can_begin() {
                return Step::Room;
            }
            match self.wanted.take() {
                Some(number) => self.read_content(number).await,
                None => self.turn().await,
            }
        }
    }

    /// Ends the session without waiting for the host's goodbye.
    pub fn quit(mut self) {
        self.quit_now();
    }

    pub(crate) fn quit_now(&mut self) {
        if self.failure().is_none() && self.wire.is_drained() {
            self.session.quit(self.now());
            self.pump();
        }
        self.wire.close_now();
    }

    /// Whether the host has neither ended the connection nor said anything since it went idle. Asks
    /// without waiting.
    pub fn is_alive(&mut self) -> bool {
        self.is_reusable() && self.wire.is_silent()
    }

    /// Frees what an idle connection does not need.
    pub(crate) fn rest(&mut self) {
        self.wire.rest();
        self.feeds.shrink_to(0);
        self.done.shrink_to(0);
    }

    pub(super) const fn progress(&self) -> &Progress {
        &self.progress
    }

    pub(super) fn is_drained(&self) -> bool {
        self.wire.is_drained()
    }

    pub(super) fn take_stream(&mut self) -> Stream {
        self.wire.take_stream()
    }

    pub(super) fn set_stream(&mut self, stream: Stream) {
        self.wire.set_stream(stream);
    }

    /// TLS is on, from the start or since STARTTLS, of which the session hears.
    pub(super) fn secured(&mut self, stream: Stream, seen: TlsSeen, started: Option<TlsInfo>) {
        self.tracer.show(TraceLine::Tls {
            version: &seen.version,
            cipher: &seen.cipher,
            verified: Some(seen.verified.is_some()),
        });
        self.span.record("tls", &*seen.version);
        self.wire.set_stream(stream);
        if let Some(info) = started {
            let now = self.now();
            self.progress = Progress::Opening;
            self.session.handle(now, Input::TlsReady(info));
        }
        self.seen = Seen::tls(seen);
    }

    /// Does what the session wants done, as far as that goes without waiting.
    pub(super) fn pump(&mut self) {
        // Content that has to be read first: the flight waits for it, or goes without it in a turn.
        while self.wanted.is_none() {
            match self.session.poll() {
                Output::Send(octets) => {
                    self.tracer.sent(&octets);
                    self.wire.push(octets);
                }
                Output::SendSecret(octets) => {
                    self.tracer.secret();
                    self.wire.push(octets);
                }
                Output::StartTls => self.progress = Progress::StartTls,
                Output::Event(event) => self.on(event),
                Output::Wait { until } => {
                    self.until = until;
                    break;
                }
                Output::Closed => {
                    if self.failure().is_none() {
                        self.progress = Progress::Over(Failure::Lost);
                    }
                    break;
                }
            }
        }
        self.set_gates();
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Ready => {
                debug!(parent: &self.span, "ready");
                self.progress = Progress::Ready;
            }
            Event::WantBody { transaction } => self.feed(transaction),
            Event::Done { transaction, result } => {
                if self.wanted == Some(transaction) {
                    self.wanted = None;
                }
                if let Some(feed) = self.feeds.iter().find(|feed| feed.transaction == transaction) {
                    debug!(parent: &feed.span, recipients = ?result.recipients, "transaction over");
                }
                self.done.push_back((transaction, result));
            }
            Event::Failed(failure) => {
                // What is still queued must not leave: it belongs to transactions that are settled.
                self.wire.discard();
                debug!(parent: &self.span, ?failure, "session over");
                self.progress = Progress::Over(failure);
            }
            _ => {}
        }
    }

    /// Waits for the next thing to happen on the wire.
    pub(super) async fn turn(&mut self) {
        let turn = self.wire.turn(self.until).await;
        let now = self.now();
        match turn {
            Turn::Sent(octets) => self.session.handle(now, Input::Sent(octets)),
            Turn::Received(new) => {
                let received = self.wire.input.get(self.wire.input.len() - new..).unwrap_or_default();
                self.tracer.received(received);
                self.session.handle(now, Input::Data(&mut self.wire.input));
            }
            Turn::Eof => self.session.handle(now, Input::Eof),
            // The timer may be a moment ahead of the clock.
            Turn::Due => {
                let now = self.until.map_or(now, |until| now.max(until));
                self.session.handle(now, Input::Timeout);
            }
            Turn::Barred(transaction) => self.barred = Some(transaction),
        }
    }

    /// Gives the session the next chunk of content, or notes that it has to be read.
    fn feed(&mut self, number: u64) {
        let Some(feed) = self.feeds.iter_mut().find(|feed| feed.transaction == number) else { return };
        match &mut feed.content {
            Content::Whole(octets) => {
                let chunk = octets.split_to(octets.len().min(CHUNK));
                let last = octets.is_empty();
                self.give(number, (!chunk.is_empty()).then_some(chunk), last);
            }
            Content::Stream { .. } => self.wanted = Some(number),
        }
    }

    /// Reads the next chunk of content and gives it to the session.
    async fn read_content(&mut self, number: u64) {
        let Some(feed) = self.feeds.iter_mut().find(|feed| feed.transaction == number) else { return };
        let Content::Stream { reader, .. } = &mut feed.content else { return };
        if std::mem::replace(&mut self.reading, true) {
            return self.give_up(number);
        }
        let chunk = reader.chunk().instrument(feed.span.clone());
        let read = tokio::time::timeout(self.patience, chunk).await;
        self.reading = false;
        match read {
            Ok(Ok(Some(chunk))) => self.give(number, Some(chunk), false),
            Ok(Ok(None)) => self.give(number, None, true),
            Ok(Err(_)) | Err(_) => self.give_up(number),
        }
    }

    fn give(&mut self, number: u64, chunk: Option<Bytes>, last: bool) {
        // A misuse ends the session, and that is how it comes back.
        let given = chunk.map_or(Ok(()), |chunk| self.session.body(chunk));
        let ended = if last && given.is_ok() { self.session.end_body() } else { given };
        if ended.is_err() {
            self.content_failed = Some(number);
        }
    }

    /// The content cannot be read: nothing cut short may be taken for a message.
    fn give_up(&mut self, number: u64) {
        self.content_failed = Some(number);
        self.session.reset();
    }

    fn now(&self) -> Instant {
        self.clock.mono()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("host", &self.host)
            .field("seen", &self.seen)
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}

/// How much content is given at once; the chunks of a large message are a multiple of it. Large, because it costs nothing: chunks are slices of what is in
/// memory; bounded, so that dots in a large body do not fill the queue with slices.
const CHUNK: usize = 256 * 1024;
