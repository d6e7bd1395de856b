//! The session: what its driver feeds it, what its caller asks of it, and what comes out.

use std::collections::VecDeque;
use std::mem;
use std::time::Instant;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::auth::Auth;
use super::content::{CHUNK, Content, Verb};
use super::pipeline::{Command, Pipeline};
use super::state::State;
use super::transaction::{Open, Plan};
use super::{
    BeginError, Config, Event, Failure, Feature, MAX_RECIPIENTS, Phase, Protocol, TlsUse, Transaction,
    command,
};
use crate::smtp::address::Domain;
use crate::smtp::capability::Capabilities;
use crate::smtp::error::{Misuse, ProtocolError};
use crate::smtp::params::BodyKind;
use crate::smtp::reply::{MAX_REPLY_LINE, Reply, ReplyParser};
use crate::smtp::{Input, Output, TlsInfo};

/// The client's side of one connection. See the [module](super) for how it works.
///
/// A driver calls [`poll`](Self::poll) until it says [`Output::Wait`], then feeds what happened to
/// [`handle`](Self::handle), and again. It must read while it writes, for the server may wait for its
/// replies to be read before it takes more (RFC 2920 §3.1), and give [`Input::Sent`] as soon as a
/// write is done.
#[derive(Debug)]
pub struct Session {
    pub(super) config: Config,
    pub(super) state: State,
    pub(super) caps: Capabilities,
    pub(super) tls: Option<TlsInfo>,
    pub(super) is_encrypted: bool,
    pub(super) is_logged_in: bool,
    pub(super) auth: Auth,
    pub(super) pipe: Pipeline,
    parser: ReplyParser,
    /// Oldest first. Only the youngest can still lack content.
    pub(super) open: VecDeque<Open>,
    pub(super) begun: u64,
    /// The domains named so far, where the server limits them.
    pub(super) domains: Vec<Domain>,
    quitting: bool,
    /// No transaction begins any more; the session ends like this when the open ones are answered.
    pub(super) ending: Option<Failure>,
    /// The server may still hold the envelope of the last transaction.
    pub(super) dirty: bool,
    /// How many transactions in a row had all their recipients refused.
    pub(super) refused_in_a_row: u8,
    pub(super) chain_refused: bool,
    pub(super) pipelining_broken: bool,
    /// A pipelined envelope was answered as it should be.
    pub(super) pipelining_works: bool,
}

impl Session {
    /// A session on a connection that was just made, at its first octet; with [`TlsUse::AlreadyOn`],
    /// after the handshake.
    #[must_use]
    pub fn new(config: Config, now: Instant) -> Self {
        Self {
            is_encrypted: config.tls == TlsUse::AlreadyOn,
            config,
            state: State::Opening,
            caps: Capabilities::default(),
            tls: None,
            is_logged_in: false,
            auth: Auth::default(),
            pipe: Pipeline::new(now),
            parser: ReplyParser::default(),
            open: VecDeque::new(),
            begun: 0,
            domains: Vec::new(),
            quitting: false,
            ending: None,
            dirty: false,
            refused_in_a_row: 0,
            chain_refused: false,
            pipelining_broken: false,
            pipelining_works: false,
        }
    }

    /// A session on a connection whose handshake is done and showed this: as [`Session::new`] with
    /// [`TlsUse::AlreadyOn`], with what a login can be bound to.
    #[must_use]
    pub fn over_tls(mut config: Config, tls: TlsInfo, now: Instant) -> Self {
        config.tls = TlsUse::AlreadyOn;
        Self { tls: Some(tls), ..Self::new(config, now) }
    }

    /// Takes in what happened. `now` must not go back.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        self.pipe.notice(now);
        match input {
            Input::Data(octets) => self.read(now, octets),
            Input::Sent(octets) => self.pipe.sent(now, octets),
            Input::TlsReady(info) => self.encrypted(info),
            Input::Eof => self.fail(Failure::Lost),
            Input::Timeout if self.deadline().is_some_and(|at| now >= at) => self.fail(Failure::TimedOut),
            Input::Timeout => {}
        }
        self.pipe.notice(now);
    }

    /// What the session wants next. Until this is [`Output::Wait`] or [`Output::Closed`], there is
    /// more.
    pub fn poll(&mut self) -> Output<Event> {
        if let Some(output) = self.pipe.poll() {
            return output;
        }
        if self.state == State::Closed {
            return Output::Closed;
        }
        // Before the flight leaves, so that content which is at hand leaves with it.
        if self.pipe.unsent() < MAX_UNSENT
            && let Some(open) = self.open.back_mut()
            && open.content.ask()
        {
            return Output::Event(Event::WantBody { transaction: open.id });
        }
        self.pipe.poll_flight().unwrap_or_else(|| Output::Wait { until: self.deadline() })
    }

    /// What the server offers; empty until [`Event::Ready`].
    #[must_use]
    pub const fn capabilities(&self) -> &Capabilities {
        &self.caps
    }

    /// The TLS in use, as far as it is known: STARTTLS tells it, and [`Session::over_tls`].
    #[must_use]
    pub const fn tls(&self) -> Option<&TlsInfo> {
        self.tls.as_ref()
    }

    /// Whether [`begin`](Self::begin) can be called: the session is ready, the content of the
    /// transaction before is given completely, and the window and the server allow another.
    #[must_use]
    pub fn can_begin(&self) -> bool {
        if self.state != State::Ready || self.quitting || self.ending.is_some() || self.is_used_up() {
            return false;
        }
        let Some(last) = self.open.back() else { return self.pipe.is_quiet() };
        let verb_chains = last.content.verb != Verb::Data || self.config.chain;
        last.content.is_given()
            && verb_chains
            && self.pipelines()
            && !self.chain_refused
            && self.refused_in_a_row < REFUSED_UNTIL_UNCHAINED
            && self.open.len() < self.config.window.min(MAX_WINDOW)
            && self.pipe.unsent() < MAX_UNSENT
    }

    /// Whether nothing is open and a transaction can begin: the connection can go back to a pool.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.open.is_empty() && self.can_begin()
    }

    /// Whether nothing is open and nothing is awaited, be there more to come or not.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.state == State::Ready && self.open.is_empty() && self.pipe.is_quiet()
    }

    /// Whether the session is over.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Whether this server answered 503 to a transaction sent behind another. It should be remembered
    /// for the host, and later sessions have `chain` off, or a window of 1.
    #[must_use]
    pub const fn chain_refused(&self) -> bool {
        self.chain_refused
    }

    /// Whether this server broke under a pipelined envelope: it answered 503 to what was in order, or
    /// the connection died within. It should be remembered for the host, and later sessions have
    /// `pipelining` off; this one goes on one command at a time.
    #[must_use]
    pub const fn pipelining_broken(&self) -> bool {
        self.pipelining_broken
    }

    /// How many octets, counted from the session's first, have left when the server has the whole message
    /// of this open transaction and may deliver it: up to the last of its final dot, or of `BDAT LAST`.
    /// `None` until that is known, which is before the last of them comes out of [`poll`](Self::poll).
    #[must_use]
    pub fn ends_at(&self, transaction: u64) -> Option<u64> {
        self.open.iter().find(|open| open.id == transaction)?.content.ends_at()
    }

    /// What the server lacks that this transaction needs, if anything: [`begin`](Self::begin) would say the
    /// same, and have taken it.
    #[must_use]
    pub fn lacks(&self, transaction: &Transaction) -> Option<Feature> {
        match command::check(&self.caps, self.config.chunking, transaction) {
            Err(BeginError::Lacks(feature)) => Some(feature),
            _ => None,
        }
    }

    /// Begins a transaction and gives its number; they count from 1. Recipients beyond what the server
    /// takes in one transaction are not named to it, and are [`RecipientResult::LeftOver`].
    ///
    /// [`RecipientResult::LeftOver`]: super::RecipientResult::LeftOver
    ///
    /// # Errors
    /// [`BeginError`]; nothing was written then.
    pub fn begin(&mut self, transaction: Transaction) -> Result<u64, BeginError> {
        if !self.can_begin() {
            return Err(BeginError::NotReady);
        }
        let count = transaction.recipients.len();
        if count == 0 || count > MAX_RECIPIENTS {
            return Err(BeginError::Recipients);
        }
        let spelling = command::check(&self.caps, self.config.chunking, &transaction)?;
        if !self.takes(&transaction.recipients) {
            return Err(BeginError::UsedUp);
        }
        let pipelined = self.pipelines();
        // One command at a time, BDAT saves nothing, and DATA is what such a server does best.
        let chunking = pipelined && self.config.chunking && self.caps.chunking;
        let verb = match transaction.mail.body {
            // In LMTP nobody says how many replies there are to a LAST behind a refused chunk.
            _ if chunking && transaction.size > CHUNK && self.config.protocol == Protocol::Smtp => {
                Verb::Chunks
            }
            _ if chunking => Verb::Bdat,
            BodyKind::Binary => Verb::Bdat,
            _ => Verb::Data,
        };
        let plan = match verb {
            _ if !pipelined => Plan::Steps,
            Verb::Bdat | Verb::Chunks if transaction.size > MAX_UNASKED => Plan::Held,
            _ => Plan::Flight,
        };
        self.begun += 1;
        let chained = !self.open.is_empty();
        let reset = mem::take(&mut self.dirty) || chained;
        let room =
            ENVELOPE_ROOM * (count + 2) + usize::try_from(transaction.size.min(COPY_ROOM)).unwrap_or(0);
        let results = self.allot(&transaction.recipients);
        let any = transaction.is_lines || transaction.mail.body == BodyKind::Binary;
        let content = Content::new(verb, transaction.size, any);
        let open = Open::new(self.begun, transaction, results, spelling, plan, content, chained);
        self.pipe.reserve(room);
        self.open.push_back(open);
        self.write_envelope(reset);
        Ok(self.begun)
    }

    /// Gives a piece of the content that [`Event::WantBody`] asked for. What the server has refused in
    /// the meantime is dropped.
    ///
    /// # Errors
    /// [`Misuse::NotWanted`] when it did not, or when the transaction or the session has ended since.
    /// [`Misuse::TooLong`] when it is more than was declared, [`Misuse::LineEnd`] when it is not made of
    /// lines; the session is over then.
    pub fn body(&mut self, piece: Bytes) -> Result<(), Misuse> {
        let open = self.open.back_mut().filter(|open| open.content.takes()).ok_or(Misuse::NotWanted)?;
        match open.content.take(&mut self.pipe, piece) {
            Ok(()) => Ok(()),
            Err(misuse) => self.abandon(misuse),
        }
    }

    /// The content is complete.
    ///
    /// # Errors
    /// [`Misuse::NotWanted`] when no content was asked for, or when the transaction or the session has
    /// ended since.
    /// [`Misuse::TooShort`] when it is less than was declared, [`Misuse::LineEnd`] when it ends in a CR;
    /// the session is over then, and the message is not ended.
    pub fn end_body(&mut self) -> Result<(), Misuse> {
        let open = self.open.back_mut().filter(|open| open.content.takes_end()).ok_or(Misuse::NotWanted)?;
        match open.content.end(&mut self.pipe) {
            Ok(()) => Ok(()),
            Err(misuse) => self.abandon(misuse),
        }
    }

    /// On an idle session: sends RSET to see whether the connection is alive; [`Event::Reset`] says
    /// so. With transactions open: gives them up, which ends the session, for content that was begun
    /// cannot be taken back.
    pub fn reset(&mut self) {
        if self.is_idle() {
            self.dirty = false;
            self.pipe.command(Command::Reset, |to| to.put_slice(b"RSET\r\n"));
        } else if !self.open.is_empty() {
            self.fail(Failure::Abandoned);
        }
    }

    /// Ends the session politely: no more transactions begin, and QUIT is sent when the open ones are
    /// answered. A session that is not ready yet ends at once.
    pub fn quit(&mut self, now: Instant) {
        self.pipe.notice(now);
        self.quitting = true;
        match self.state {
            State::Ready => self.rest(),
            State::Quitting | State::Closed => {}
            _ => self.close(),
        }
        self.pipe.notice(now);
    }

    fn read(&mut self, now: Instant, octets: &mut BytesMut) {
        while self.state != State::Closed && !octets.is_empty() {
            if matches!(self.state, State::Handshake { .. }) {
                // RFC 3207 §4, CVE-2011-0411: what is there now came in clear.
                return self.fail(Failure::Protocol(ProtocolError::Injected));
            }
            let front = self.pipe.front();
            if let Some((command @ (Command::Rset | Command::Mail | Command::Rcpt), true)) = front
                && !self.parser.is_inside()
                && skip_positive(octets)
            {
                self.pipe.pop(now);
                self.accepted(command);
                continue;
            }
            match self.parser.next(octets) {
                Ok(Some(reply)) => self.reply(now, reply),
                Ok(None) => return,
                Err(error) => return self.fail(Failure::Protocol(error.into())),
            }
        }
    }

    fn reply(&mut self, now: Instant, reply: Reply) {
        if reply.code() == 421 {
            return self.closing(reply);
        }
        match self.pipe.front() {
            None => self.fail(Failure::Protocol(ProtocolError::Unasked)),
            Some((command, true)) => {
                self.pipe.pop(now);
                self.answered(now, command, reply);
            }
            Some((command, false)) => {
                // Content can be refused before it has ended, never accepted.
                if matches!(command, Command::Chunk | Command::Content)
                    && (reply.is_transient() || reply.is_permanent())
                {
                    self.judge_front(Phase::Content, reply);
                }
                self.fail(Failure::Protocol(ProtocolError::Premature));
            }
        }
    }

    fn answered(&mut self, now: Instant, command: Command, reply: Reply) {
        match command {
            Command::Rset
            | Command::Mail
            | Command::Rcpt
            | Command::Data
            | Command::Chunk
            | Command::Content
            | Command::LoneDot => self.transaction_reply(command, reply),
            Command::Reset if reply.is_positive() => {
                self.pipe.event(Event::Reset);
                self.rest();
            }
            Command::Reset => self.fail(Failure::Protocol(ProtocolError::WrongClass)),
            Command::Quit => self.close(),
            _ => self.opening(now, command, reply),
        }
    }

    /// 421: the server closes the connection, whatever it answers (RFC 5321 §3.8).
    fn closing(&mut self, reply: Reply) {
        let front = self.pipe.front();
        match front {
            Some((Command::Greeting, _)) => return self.fail(Failure::Greeting(reply)),
            Some((Command::Ehlo | Command::Helo, _)) => return self.fail(Failure::Hello(reply)),
            Some((Command::Auth, _)) => return self.fail(Failure::Auth(Some(reply))),
            Some((Command::Mail, true)) => self.judge_front(Phase::Mail, reply.clone()),
            Some((Command::Rcpt, true)) => self.judge_front(Phase::Rcpt, reply.clone()),
            Some((Command::Data, true)) => self.judge_front(Phase::Data, reply.clone()),
            Some((Command::Chunk | Command::Content, _)) => {
                self.judge_front(Phase::Content, reply.clone());
            }
            _ => {}
        }
        // What stands behind the command it answers, the server has not looked at; but in LMTP it may
        // have delivered to those whose reply would have come next.
        let one_each = self.config.protocol == Protocol::Lmtp;
        let looked_at = usize::from(one_each && matches!(front, Some((Command::Content, true))));
        self.open.iter_mut().skip(looked_at).for_each(Open::give_up);
        self.fail(Failure::Closing(reply));
    }

    /// Nothing is open: time to say QUIT, or to end, if that is what comes next.
    pub(super) fn rest(&mut self) {
        if !self.open.is_empty() || !self.pipe.is_quiet() || self.state != State::Ready {
            return;
        }
        if let Some(failure) = self.ending.take() {
            self.fail(failure);
        } else if self.quitting {
            // On its own: QUIT behind unanswered content makes some servers drop the answer.
            self.state = State::Quitting;
            self.pipe.command(Command::Quit, |to| to.put_slice(b"QUIT\r\n"));
        }
    }

    /// Ends the session; each open transaction gets its honest end.
    pub(super) fn fail(&mut self, failure: Failure) {
        if self.state == State::Closed {
            return;
        }
        if self.state == State::Quitting {
            return self.close();
        }
        let died = matches!(failure, Failure::Lost | Failure::TimedOut | Failure::Protocol(_));
        self.pipelining_broken |= died && !self.pipelining_works && self.is_inside_envelope();
        let mut open = mem::take(&mut self.open);
        self.pipe.shut();
        for transaction in open.drain(..) {
            self.pipe.event(transaction.died(&self.pipe));
        }
        self.pipe.event(Event::Failed(failure));
        self.state = State::Closed;
    }

    fn abandon(&mut self, misuse: Misuse) -> Result<(), Misuse> {
        self.fail(Failure::Abandoned);
        Err(misuse)
    }

    fn close(&mut self) {
        self.pipe.shut();
        self.state = State::Closed;
    }

    pub(super) fn pipelines(&self) -> bool {
        self.config.pipelining && self.caps.pipelining && !self.pipelining_broken
    }

    /// Whether a pipelined envelope is sent and only partly answered.
    fn is_inside_envelope(&self) -> bool {
        let envelope =
            matches!(self.pipe.front(), Some((Command::Mail | Command::Rcpt | Command::Data, true)));
        envelope && self.pipe.covered() > 1
    }

    fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Handshake { since } => since.checked_add(self.config.timeouts.hello),
            State::Closed => None,
            _ => self.pipe.deadline(&self.config.timeouts),
        }
    }
}

/// Takes a single-line positive reply off the front, without reading its text: to MAIL, RCPT and RSET
/// nobody asks for it. Anything else is left to the parser.
fn skip_positive(octets: &mut BytesMut) -> bool {
    let [b'2', b'0'..=b'9', b'0'..=b'9', b' ', ..] = octets.as_ref() else { return false };
    match memchr::memchr(b'\n', octets) {
        Some(end) if end < MAX_REPLY_LINE => {
            octets.advance(end + 1);
            true
        }
        _ => false,
    }
}

/// How much may wait for the transport before no more content is asked for: some round trips' worth
/// for one connection, little for thousands of them.
const MAX_UNSENT: u64 = 256 * 1024;
/// Content up to this goes out before the recipients are answered. Beyond, a round trip costs less
/// than sending in vain.
const MAX_UNASKED: u64 = 256 * 1024;
/// A bound for [`Config::window`]: each open transaction holds up to a hundred awaited replies.
const MAX_WINDOW: usize = 64;
/// After this many envelopes refused in a row, the next will likely be refused too, and its content
/// would be sent in vain.
const REFUSED_UNTIL_UNCHAINED: u8 = 2;
/// Octets of a usual MAIL or RCPT command.
const ENVELOPE_ROOM: usize = 64;
/// Content below this is copied behind the envelope.
const COPY_ROOM: u64 = 16 * 1024;
