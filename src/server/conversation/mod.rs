//! A talk is one session on one socket: it carries octets between the wire and the protocol's state
//! machine, and questions from that machine to the handler.
//!
//! One task does everything, the handler's futures included. Each turn first does all that needs no
//! waiting: whatever one read brought is answered before anything is written, so that the replies to
//! a pipelined flight leave in one write. While a handler thinks, replies that were made before go
//! out, but nothing more is read: a client is never further ahead than one read and one
//! [body window](super::body).
//!
//! It decides nothing: what is legal is the session's business, what is wanted the handler's.

mod answers;
mod content;
mod opening;
mod proxied;
mod tarpit;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::Sleep;
use tracing::field::Empty;
use tracing::{Instrument, Span, debug_span};

use self::answers::negative;
use self::opening::{encoded, finish, handshake, introduced};
use self::proxied::Nobody;
use super::body::Feed;
use super::handler::{Conversation, SessionInfo};
use super::limits::Place;
use super::serve::{SMTP_PORT, Setup};
use super::trace::Trace;
use super::wire::{Read, Wire};
use crate::clock::{Clock, SystemClock};
use crate::net::connect::Io;
use crate::smtp::params::{Mail, Rcpt};
use crate::smtp::reply::{EnhancedCode, Reply};
use crate::smtp::server::{Event, Session};
use crate::smtp::{Input, Output};

/// How a connection starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// In the clear, STARTTLS offered where there is a certificate.
    Plain,
    /// With a TLS handshake (RFC 8314).
    Tls,
    /// As `Plain`, for LMTP.
    Lmtp,
}

/// Serves one connection to its end. `place` is its place among those that are counted.
pub(super) async fn serve(
    io: Box<dyn Io>,
    info: SessionInfo,
    start: Start,
    setup: &Setup,
    stop: watch::Receiver<bool>,
    place: Option<Place>,
) {
    let span = debug_span!(
        "smtp_session",
        peer = %info.peer.address,
        listener = %info.peer.local,
        client = Empty,
        tls = Empty,
        user = Empty,
    );
    serve_inside(io, info, start, setup, stop, place).instrument(span).await;
}

async fn serve_inside(
    io: Box<dyn Io>,
    mut info: SessionInfo,
    start: Start,
    setup: &Setup,
    mut stop: watch::Receiver<bool>,
    mut place: Option<Place>,
) {
    let mut wire = Wire::new(io, setup.options.write);
    if setup.is_proxy(info.peer.address.ip()) {
        match introduced(&mut wire, &mut info.peer, &mut place).await {
            Ok(()) => {}
            Err(None) => return,
            Err(Some(why)) => {
                setup.refused(info.peer.address, why);
                if start != Start::Tls {
                    wire.queue(encoded(&why.reply()));
                    finish(wire, false).await;
                }
                return;
            }
        }
    }
    let trace = Trace::new(&setup.options, &info.peer);
    if start == Start::Tls {
        info.tls = handshake(&mut wire, setup).await;
        if info.tls.is_none() {
            return;
        }
    }
    let config = if start == Start::Lmtp { &setup.lmtp } else { &setup.session };
    info.protocol = config.protocol;
    let conversation = setup.handler.connect(&info.peer).await;
    let (config, time) = (Arc::clone(config), SystemClock.now());
    let now = time.mono;
    let mut session = match &info.tls {
        Some(tls) => Session::over_tls(config, tls.clone(), now),
        None => Session::new(config, now),
    };
    // RFC 4865 §4.2: mail is held for those who submit it, not for other servers.
    if info.peer.local.port() != SMTP_PORT {
        session.set_wall(time.wall.as_secs(), now);
    }
    if setup.options.xclient_from.iter().any(|network| network.contains(info.peer.address.ip())) {
        session.trust_xclient();
    }
    trace.begin(&mut session);
    if let Some(tls) = &info.tls {
        trace.secured(tls);
    }
    let mut talk = Talk {
        setup,
        session,
        wire,
        info: Arc::new(info),
        trace,
        place,
        now,
        until: None,
        stalled: None,
        transaction: None,
        mistakes: 0,
        penalty: None,
        stopping: false,
        quit: false,
    };
    match conversation {
        Ok(conversation) => {
            talk.listen_first(now).await;
            talk.run(conversation, &mut stop).await;
        }
        Err(reply) => {
            talk.session.refuse(&negative(reply), now);
            talk.run(Box::new(Nobody), &mut stop).await;
        }
    }
    if let Some(penalty) = talk.penalty.take() {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => {}
            () = penalty => {}
        }
    }
    finish(talk.wire, !talk.quit).await;
}

struct Talk<'s> {
    setup: &'s Setup,
    session: Session,
    wire: Wire,
    info: Arc<SessionInfo>,
    trace: Trace,
    place: Option<Place>,
    /// When something was last given to the session.
    now: Instant,
    /// When the session is to be given the time, at the latest.
    until: Option<Instant>,
    /// Since when nothing is read because the handler does not read.
    stalled: Option<Instant>,
    transaction: Option<Open>,
    /// Mistakes that are on record.
    mistakes: u32,
    /// Nothing is written before this.
    penalty: Option<Pin<Box<Sleep>>>,
    stopping: bool,
    quit: bool,
}

/// A transaction before its content.
struct Open {
    mail: Mail,
    recipients: Vec<Rcpt>,
    span: Span,
}

/// Where doing all that needs no waiting ended.
enum Drained {
    Event(Event),
    StartTls,
    /// The socket must take or bring something.
    Waits,
    Closed,
}

/// What the socket did.
enum Turn {
    Wrote(usize),
    Read(Read),
}

impl Talk<'_> {
    async fn run(&mut self, mut conversation: Box<dyn Conversation>, stop: &mut watch::Receiver<bool>) {
        loop {
            match self.drain() {
                Drained::Event(Event::Xclient(told)) => self.introduce(&told, &mut conversation).await,
                Drained::Event(event) => self.on_event(event, &mut *conversation).await,
                Drained::StartTls => self.upgrade().await,
                Drained::Waits => {
                    self.settle(&mut *conversation);
                    tokio::select! {
                        biased;
                        () = self.turn(None) => {}
                        () = stopped(stop), if !self.stopping => {
                            self.stopping = true;
                            self.penalty = None;
                            self.session.shutdown(shutting_down());
                        }
                    }
                }
                Drained::Closed => return self.settle(&mut *conversation),
            }
        }
    }

    /// Tells the handler of a transaction that ended without a message.
    fn settle(&mut self, conversation: &mut dyn Conversation) {
        if !self.session.in_transaction() && self.transaction.take().is_some() {
            conversation.reset();
        }
    }

    /// Does all that needs no waiting. What was read is used up before replies are asked for, so
    /// that they come together.
    fn drain(&mut self) -> Drained {
        if let Some(place) = &self.place {
            self.session.hurry(place.is_hurried().then_some(HURRIED));
        }
        loop {
            if self.session.can_read_on() {
                self.feed();
            }
            match self.session.poll() {
                Output::Send(octets) | Output::SendSecret(octets) => self.queue(octets),
                Output::StartTls => return Drained::StartTls,
                Output::Event(event) => return Drained::Event(event),
                Output::Wait { until } => {
                    // Whether there is a hurry by then is found out then.
                    let look = self.place.as_ref().and_then(|_| self.now.checked_add(HURRIED));
                    self.until = until.into_iter().chain(look).min();
                    return Drained::Waits;
                }
                Output::Closed => return Drained::Closed,
            }
        }
    }

    fn feed(&mut self) {
        self.now = SystemClock.mono();
        self.session.handle(self.now, Input::Data(&mut self.wire.input));
        self.trace.heard(&mut self.session);
    }

    fn timed_out(&mut self) {
        self.now = SystemClock.mono();
        self.session.handle(self.now, Input::Timeout);
    }

    /// Lets the socket do one thing. May be dropped and called again.
    async fn turn(&mut self, content: Option<&Feed>) {
        let turn = poll_fn(|cx| self.poll_turn(cx, content)).await;
        match turn {
            Turn::Wrote(taken) => self.wrote(taken),
            Turn::Read(Read::Octets) => self.feed(),
            Turn::Read(Read::Eof) => {
                if self.wire.is_dead() {
                    // What is left unread could only be answered to nobody, and the session, which
                    // waits for its replies to be taken, would wait for ever.
                    self.wire.input.clear();
                    self.feed();
                }
                self.session.handle(SystemClock.mono(), Input::Eof);
            }
            Turn::Read(Read::TimedOut) => self.timed_out(),
        }
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>, content: Option<&Feed>) -> Poll<Turn> {
        if self.wire.has_output() {
            return self.poll_write(cx).map(Turn::Wrote);
        }
        if let Some(feed) = content {
            if feed.poll_room(cx).is_pending() {
                self.stalled.get_or_insert_with(|| SystemClock.mono());
                return Poll::Pending;
            }
            if let Some(since) = self.stalled.take() {
                // The client is not late by the time that it could not send.
                let lost = SystemClock.mono().saturating_duration_since(since);
                self.session.excuse(lost);
                self.until = self.until.and_then(|until| until.checked_add(lost));
            }
        }
        self.wire.poll_read(cx, self.until, content.is_some()).map(Turn::Read)
    }

    fn wrote(&mut self, taken: usize) {
        if taken > 0 {
            self.session.handle(SystemClock.mono(), Input::Sent(taken));
        }
    }

    /// Waits for a handler. While it thinks, replies that were made before go out.
    async fn decide<T>(&mut self, mut future: impl Future<Output = T> + Unpin) -> T {
        poll_fn(|cx| {
            if let Poll::Ready(value) = Pin::new(&mut future).poll(cx) {
                return Poll::Ready(value);
            }
            loop {
                while self.wire.has_output() {
                    let taken = ready!(self.poll_write(cx));
                    self.wrote(taken);
                }
                match self.session.poll() {
                    Output::Send(octets) | Output::SendSecret(octets) => self.queue(octets),
                    // While it is paused, there is nothing else.
                    _ => return Poll::Pending,
                }
            }
        })
        .await
    }

    fn respond(&mut self, reply: Reply) {
        // An error says that the session ended meanwhile, and then nobody listens.
        let _ = self.session.respond(reply);
    }
}

/// Returns when the server is to end.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error says that the server is gone altogether.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn shutting_down() -> Reply {
    Reply::new(421, EnhancedCode::new(4, 3, 2), "service shutting down, try again later")
}

/// How long a client is waited for between commands when connections run out, against the five minutes
/// of RFC 5321 §4.5.3.2.7: a client with something to say needs no more. Also how often it is looked
/// whether they do.
const HURRIED: Duration = Duration::from_secs(30);
