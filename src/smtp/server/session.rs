//! The session: one transition function over commands, and the ordered queue of what it wants.

use std::collections::VecDeque;
use std::slice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::Event;
use super::commands::lookup_refusal;
use super::config::{Config, Protocol, Timeouts};
use super::content::TIMED_OUT;
use super::heard::{Heard, Transcript};
use super::replies::mended;
use super::state::{Question, State, Timer, Transaction};
use crate::smtp::error::Misuse;
use crate::smtp::line::LineDecoder;
use crate::smtp::reply::Reply;
use crate::smtp::sasl::ScramKeys;
use crate::smtp::xclient::Told;
use crate::smtp::{Input, Output, TlsInfo};

/// One dialogue with a client. See the [module](super) for how to drive it.
#[derive(Debug)]
pub struct Session {
    pub(super) config: Arc<Config>,
    pub(super) state: State,
    /// Set while the host owes an answer; nothing is read meanwhile.
    pub(super) question: Option<Question>,
    pub(super) transaction: Option<Transaction>,
    pub(super) hello: Option<Hello>,
    pub(super) tls: Option<TlsInfo>,
    pub(super) user: Option<Box<str>>,

    pub(super) events: VecDeque<Event>,
    pub(super) timer: Timer,
    pub(super) lines: LineDecoder,
    pub(super) out: BytesMut,
    /// Octets polled and not yet taken by the transport.
    pub(super) unsent: usize,
    /// Octets of the greeting among both.
    pub(super) greeting: usize,
    pub(super) start_tls: bool,
    /// Octets were left in the caller's buffer that could be read as soon as nothing is in the way.
    unread: bool,
    /// The client will send nothing more.
    eof: bool,
    shutdown: Option<Reply>,
    /// Until when a refused client may take its leave.
    pub(super) refused: Option<Instant>,
    /// The wall time, in seconds since 1970, and when it was that.
    pub(super) wall: Option<(u64, Instant)>,
    /// The peer is a proxy that may say XCLIENT.
    pub(super) trusted: bool,
    /// What it has told of its client.
    pub(super) told: Told,

    pub(super) errors: u32,
    /// The host refused a sender or a recipient, or a chunk was refused: what a client has sent behind it
    /// without knowing (RFC 2920) is no mistake of its.
    pub(super) refused_before: bool,
    /// Transactions so far.
    pub(super) messages: u32,
    /// How long to wait for a command, where that is less than the options say.
    hurry: Option<Duration>,
    /// What was read, for a trace.
    pub(super) heard: Transcript,
    pub(super) auth_failures: u32,
    pub(super) idle_commands: u32,
    pub(super) refused_recipients: usize,
}

#[derive(Debug)]
pub(super) struct Hello {
    pub(super) name: Box<str>,
    pub(super) extended: bool,
}

impl Session {
    /// A session on a new connection; the greeting is ready to be polled.
    #[must_use]
    pub fn new(config: impl Into<Arc<Config>>, now: Instant) -> Self {
        let mut session = Self {
            config: config.into(),
            state: State::Command,
            question: None,
            transaction: None,
            hello: None,
            tls: None,
            user: None,
            events: VecDeque::new(),
            timer: Timer::new(now),
            lines: LineDecoder::default(),
            out: BytesMut::new(),
            unsent: 0,
            greeting: 0,
            start_tls: false,
            unread: false,
            eof: false,
            shutdown: None,
            refused: None,
            wall: None,
            trusted: false,
            told: Told::default(),
            errors: 0,
            refused_before: false,
            messages: 0,
            hurry: None,
            heard: Transcript::default(),
            auth_failures: 0,
            idle_commands: 0,
            refused_recipients: 0,
        };
        session.greet();
        session.greeting = session.out.len();
        session
    }

    /// A session on a connection that is encrypted from its first octet (RFC 8314).
    #[must_use]
    pub fn over_tls(config: impl Into<Arc<Config>>, tls: TlsInfo, now: Instant) -> Self {
        Self { tls: Some(tls), ..Self::new(config, now) }
    }

    /// Takes in what happened. Octets that cannot be used yet stay in the buffer.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        self.timer.input(now);
        match input {
            Input::Data(octets) => self.read(now, octets),
            Input::Sent(octets) => {
                self.unsent = self.unsent.saturating_sub(octets);
                self.greeting = self.greeting.saturating_sub(octets);
                if !self.timer.is_inside_line() {
                    self.timer.progress(now);
                }
            }
            Input::TlsReady(tls) => {
                if matches!(self.state, State::Handshake) {
                    // RFC 3207 §4.2
                    self.hello = None;
                    self.user = None;
                    self.transaction = None;
                    self.tls = Some(tls);
                    self.state = State::Command;
                    self.timer.line_complete(now);
                    self.settle();
                }
            }
            Input::Eof => {
                self.eof = true;
                self.settle();
            }
            Input::Timeout => {
                if self.deadline().is_some_and(|deadline| deadline <= now) {
                    self.end(TIMED_OUT);
                }
            }
        }
    }

    /// What the session wants next.
    pub fn poll(&mut self) -> Output<Event> {
        if let Some(event) = self.events.pop_front() {
            return Output::Event(event);
        }
        if !self.out.is_empty() {
            self.unsent = self.unsent.saturating_add(self.out.len());
            return Output::Send(self.out.split().freeze());
        }
        if std::mem::take(&mut self.start_tls) {
            return Output::StartTls;
        }
        match self.state {
            State::Closed => Output::Closed,
            _ => Output::Wait { until: self.deadline() },
        }
    }

    /// Answers the last event that asked. The answer to [`Event::Xclient`] is heard only when it is
    /// negative; otherwise the session greets again. A reply without an enhanced code gets the general one of its
    /// class (RFC 2034 §4); an intermediate reply, which no question has, becomes 451. A 421 ends the
    /// session. In LMTP the reply to a message is given for each of its recipients.
    ///
    /// # Errors
    /// [`Misuse::NothingAsked`] when nothing waits for an answer, as when the session ended meanwhile.
    pub fn respond(&mut self, reply: Reply) -> Result<(), Misuse> {
        let question = self.question.take().ok_or(Misuse::NothingAsked)?;
        let times = match question {
            Question::Message if self.config.protocol == Protocol::Lmtp => self.recipients(),
            _ => 1,
        };
        self.answered(question, slice::from_ref(&reply), times);
        Ok(())
    }

    /// Answers [`Event::AuthKeys`]; `None` when there is no such user, or one without keys, from which
    /// the client does not learn that.
    ///
    /// # Errors
    /// [`Misuse::NothingAsked`] when no keys are asked for, as when the session ended meanwhile.
    pub fn respond_keys(&mut self, keys: Option<ScramKeys>) -> Result<(), Misuse> {
        match self.question.take() {
            Some(Question::Keys(exchange)) => {
                self.timer.host_answered();
                self.auth_keys(exchange, keys);
                self.settle();
                Ok(())
            }
            other => {
                self.question = other;
                Err(Misuse::NothingAsked)
            }
        }
    }

    /// Answers [`Event::MessageEnd`] with a reply for each accepted recipient, in their order: LMTP
    /// (RFC 2033 §4.2). In SMTP there is one reply.
    ///
    /// # Errors
    /// [`Misuse::NothingAsked`] when no message waits for its answer, [`Misuse::WrongCount`] when it
    /// waits for another number of them; it then still waits.
    pub fn respond_each(&mut self, replies: &[Reply]) -> Result<(), Misuse> {
        let expected = match (&self.question, self.config.protocol) {
            (Some(Question::Message), Protocol::Lmtp) => self.recipients(),
            (Some(Question::Message), Protocol::Smtp) => 1,
            _ => return Err(Misuse::NothingAsked),
        };
        let question = if replies.len() == expected { self.question.take() } else { None };
        self.answered(question.ok_or(Misuse::WrongCount)?, replies, 1);
        Ok(())
    }

    /// The caller did not read for `time` while content flowed: the client is not late by that, save
    /// against [`Timeouts::content`](super::Timeouts::content). The next [`Output::Wait`] says until when.
    pub fn excuse(&mut self, time: Duration) {
        self.timer.excuse(time);
    }

    /// The caller runs out of connections: from now on the client is waited for between commands no
    /// longer than this, whatever [`Timeouts::command`] says; `None` ends
    /// the hurry. The next [`Output::Wait`] says until when.
    pub const fn hurry(&mut self, wait: Option<Duration>) {
        self.hurry = wait;
    }

    /// How many commands the session refused so far, as wrong or out of order: what
    /// [`Config::max_errors`] limits. Refusals by the host are not among them.
    #[must_use]
    pub const fn errors(&self) -> u32 {
        self.errors
    }

    /// From now on the session notes what it reads, for [`Session::take_heard`].
    pub fn listen(&mut self) {
        self.heard.begin();
    }

    /// What was read since the last call, in order; nothing unless [`Session::listen`] was called.
    /// Take it after each [`Session::handle`]: it holds as much as was handed in.
    pub fn take_heard(&mut self) -> Vec<Heard> {
        self.heard.take()
    }

    /// Whether octets were left unread in the caller's buffer that can be read now: give
    /// [`Input::Data`] with them, best before the next [`Session::poll`].
    #[must_use]
    pub fn can_read_on(&self) -> bool {
        self.unread && !self.is_blocked()
    }

    /// Whether an event waits for [`Session::respond`].
    #[must_use]
    pub const fn is_paused(&self) -> bool {
        self.question.is_some()
    }

    /// Ends the session with `reply` (a 421) as soon as no transaction is open and no answer owed: at
    /// once between messages, else behind the reply to the current one.
    pub fn shutdown(&mut self, reply: Reply) {
        self.shutdown = Some(reply);
        self.settle();
    }

    /// Ends the session with `reply` now, whatever it is doing. Before the greeting was polled the
    /// reply takes its place: a 421 for a client that may come again. [`Session::refuse`] is for those
    /// that may not.
    pub fn close(&mut self, reply: &Reply) {
        if !matches!(self.state, State::Closed) {
            self.drop_unpolled_greeting();
            self.abort_message();
            self.question = None;
            if !self.is_between_tls() {
                mended(reply).as_ref().unwrap_or(reply).encode(&mut self.out);
            }
            self.start_tls = false;
            self.state = State::Closed;
        }
    }

    fn deadline(&self) -> Option<Instant> {
        // While the host thinks, the client is not late.
        if self.question.is_some() || matches!(self.state, State::Closed) {
            return None;
        }
        let timeouts = &self.config.timeouts;
        let command = self.hurry.map_or(timeouts.command, |wait| wait.min(timeouts.command));
        // Between the chunks of a message it is on its way.
        let is_coming = self.transaction.as_ref().is_some_and(|open| open.content.is_some());
        let late = self.timer.deadline(&Timeouts { command, ..*timeouts }, !is_coming);
        late.into_iter().chain(self.refused).min()
    }

    /// Whether reading must wait for the host, or for the client to take its replies.
    fn is_blocked(&self) -> bool {
        self.question.is_some()
            || self.events.len() >= MAX_EVENTS
            || self.out.len().saturating_add(self.unsent) > MAX_UNSENT
    }

    fn read(&mut self, now: Instant, input: &mut BytesMut) {
        if self.greeting > 0 && self.config.refuse_early_talk && !input.is_empty() {
            self.drop_unpolled_greeting();
            self.end("554 5.5.1 Client talked before its turn, closing connection");
        }
        loop {
            if matches!(self.state, State::Closed) {
                input.clear();
                break;
            }
            if self.is_blocked() {
                self.unread = !input.is_empty();
                return self.settle();
            }
            let went_on = match self.state {
                State::Command => self.read_command(now, input),
                State::Auth(_) => self.read_auth(now, input),
                State::Data(_) => self.read_data(now, input),
                State::Chunk(_) => self.read_chunk(now, input),
                State::Handshake => self.read_injected(input),
                State::Closed => false,
            };
            if !went_on {
                break;
            }
            self.unread = false;
            self.settle_shutdown();
        }
        self.unread = false;
        self.settle();
    }

    /// `replies`, all of them `times` over.
    fn answered(&mut self, question: Question, replies: &[Reply], times: usize) {
        self.timer.host_answered();
        let positive = replies.first().is_some_and(Reply::is_positive);
        match question {
            Question::Xclient { user, told } if positive => {
                self.begin_anew(user, told);
                return self.settle();
            }
            Question::Lookup { smtputf8 } => {
                if let Some(line) = replies.first().and_then(|reply| lookup_refusal(reply, smtputf8)) {
                    self.say(line);
                    return self.settle();
                }
            }
            Question::Xclient { .. } => {}
            Question::Auth { user, .. } if positive => self.user = Some(user),
            Question::Auth { mechanism, .. } => {
                return replies.first().map_or((), |reply| self.auth_refused(Some(mechanism), reply));
            }
            Question::Keys(_) | Question::Refused => {
                return replies.first().map_or((), |reply| self.auth_refused(None, reply));
            }
            Question::Mail(transaction) if positive => {
                self.messages = self.messages.saturating_add(1);
                self.refused_before = false;
                self.transaction = Some(transaction);
            }
            Question::Rcpt { domain } if positive => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.recipients += 1;
                    transaction.domains.extend(domain);
                }
            }
            Question::Mail(_) => {
                self.refused_before = true;
                if self.is_idle_too_long() {
                    return;
                }
            }
            Question::Rcpt { .. } => {
                self.refused_before = true;
                if self.is_harvesting() {
                    return;
                }
            }
            Question::Message => {
                self.transaction = None;
                self.timer.message_answered();
                self.idle_commands = 0;
                self.refused_recipients = 0;
            }
        }
        for _ in 0..times {
            for reply in replies {
                match mended(reply) {
                    None => reply.encode(&mut self.out),
                    Some(mended) => mended.encode(&mut self.out),
                }
            }
        }
        if replies.iter().any(|reply| reply.code() == 421) {
            // RFC 5321 §3.8
            self.state = State::Closed;
        }
        self.settle();
    }

    /// Ends what waits for a quiet moment: a shutdown, or a client that is gone.
    pub(super) fn settle(&mut self) {
        self.settle_shutdown();
        if self.eof && self.question.is_none() && !self.unread {
            self.abort_message();
            self.start_tls = false;
            self.state = State::Closed;
        }
    }

    fn settle_shutdown(&mut self) {
        let quiet =
            self.question.is_none() && self.transaction.is_none() && matches!(self.state, State::Command);
        if quiet && let Some(reply) = self.shutdown.take() {
            self.close(&reply);
        }
    }

    pub(super) fn end_transaction(&mut self) {
        self.refused_before = false;
        self.abort_message();
        self.transaction = None;
    }

    pub(super) fn drop_unpolled_greeting(&mut self) {
        if self.greeting > 0 && self.unsent == 0 {
            self.out.clear();
        }
    }
}

/// The events of one message and some; the caller polls before there are more.
const MAX_EVENTS: usize = 16;
/// A client that does not take its replies gets no more of them.
const MAX_UNSENT: usize = 64 * 1024;
