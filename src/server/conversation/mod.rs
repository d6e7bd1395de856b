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

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::sync::watch;

use self::answers::negative;
use self::opening::{finish, handshake};
use self::proxied::Nobody;
use super::body::Feed;
use super::handler::{Conversation, SessionInfo};
use super::serve::Setup;
use super::wire::{Read, Wire};
use crate::BoxFuture;
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

/// Serves one connection to its end.
pub(super) async fn serve(
    io: Box<dyn Io>,
    mut info: SessionInfo,
    start: Start,
    setup: &Setup,
    stop: watch::Receiver<bool>,
) {
    let mut wire = Wire::new(io, setup.options.write);
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
    session.set_wall(time.wall.as_secs(), now);
    if setup.options.xclient_from.iter().any(|network| network.contains(info.peer.address.ip())) {
        session.trust_xclient();
    }
    let mut talk = Talk {
        setup,
        session,
        wire,
        info: Arc::new(info),
        until: None,
        stalled: None,
        transaction: None,
        quit: false,
    };
    match conversation {
        Ok(conversation) => {
            talk.listen_first(now).await;
            talk.run(conversation, stop).await;
        }
        Err(reply) => {
            talk.session.refuse(&negative(reply), now);
            talk.run(Box::new(Nobody), stop).await;
        }
    }
    finish(talk.wire, !talk.quit).await;
}

struct Talk<'s> {
    setup: &'s Setup,
    session: Session,
    wire: Wire,
    info: Arc<SessionInfo>,
    /// The session's deadline.
    until: Option<Instant>,
    /// Since when nothing is read because the handler does not read.
    stalled: Option<Instant>,
    transaction: Option<(Mail, Vec<Rcpt>)>,
    quit: bool,
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
    async fn run(&mut self, mut conversation: Box<dyn Conversation>, mut stop: watch::Receiver<bool>) {
        let mut stopping = false;
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
                        () = stopped(&mut stop), if !stopping => {
                            stopping = true;
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
        loop {
            if self.session.can_read_on() {
                self.feed();
            }
            match self.session.poll() {
                Output::Send(octets) | Output::SendSecret(octets) => self.wire.queue(octets),
                Output::StartTls => return Drained::StartTls,
                Output::Event(event) => return Drained::Event(event),
                Output::Wait { until } => {
                    self.until = until;
                    return Drained::Waits;
                }
                Output::Closed => return Drained::Closed,
            }
        }
    }

    fn feed(&mut self) {
        self.session.handle(SystemClock.mono(), Input::Data(&mut self.wire.input));
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
            Turn::Read(Read::TimedOut) => self.session.handle(SystemClock.mono(), Input::Timeout),
        }
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>, content: Option<&Feed>) -> Poll<Turn> {
        if self.wire.has_output() {
            return self.wire.poll_write(cx).map(Turn::Wrote);
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
    async fn decide<T>(&mut self, mut future: BoxFuture<'_, T>) -> T {
        poll_fn(|cx| {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                return Poll::Ready(value);
            }
            loop {
                while self.wire.has_output() {
                    let taken = ready!(self.wire.poll_write(cx));
                    self.wrote(taken);
                }
                match self.session.poll() {
                    Output::Send(octets) | Output::SendSecret(octets) => self.wire.queue(octets),
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
