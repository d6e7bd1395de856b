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

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tracing::debug;

use super::body::{self, Feed};
use super::handler::{Conversation, SessionInfo, Transaction, Verdict};
use super::serve::Setup;
use super::wire::{Read, Wire};
use crate::BoxFuture;
use crate::clock::{Clock, SystemClock};
use crate::net::Io;
use crate::smtp::params::{Mail, Rcpt};
use crate::smtp::reply::{EnhancedCode, Reply};
use crate::smtp::server::{Event, Login, Session};
use crate::smtp::{Input, Output, TlsInfo};

/// How a connection starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// In the clear, STARTTLS offered where there is a certificate.
    Plain,
    /// With a TLS handshake (RFC 8314).
    Tls,
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
    let mut config = setup.options.session.clone();
    config.starttls = setup.tls.is_some() && start == Start::Plain;
    let mut session = Session::new(config, SystemClock.now().mono);
    if start == Start::Tls {
        match handshake(&mut wire, setup).await {
            Some(tls) => {
                info.tls = Some(tls.clone());
                session.handle(SystemClock.now().mono, Input::TlsReady(tls));
            }
            None => return,
        }
    }
    let mut conversation = match setup.handler.connect(&info.peer).await {
        Ok(conversation) => conversation,
        Err(reply) => return refuse(wire, &reply).await,
    };
    let talk =
        Talk { setup, session, wire, info: Arc::new(info), unfed: false, until: None, transaction: None };
    talk.run(&mut *conversation, stop).await;
}

struct Talk<'s> {
    setup: &'s Setup,
    session: Session,
    wire: Wire,
    info: Arc<SessionInfo>,
    /// The session may take more of the input that is there.
    unfed: bool,
    until: Option<Instant>,
    transaction: Option<(Mail, Vec<Rcpt>)>,
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
    async fn run(mut self, conversation: &mut dyn Conversation, mut stop: watch::Receiver<bool>) {
        let mut quit = false;
        loop {
            match self.drain() {
                Drained::Event(Event::Quit) => quit = true,
                Drained::Event(event) => self.on_event(event, conversation).await,
                Drained::StartTls => self.upgrade().await,
                Drained::Waits => {
                    let idle = self.transaction.is_none();
                    tokio::select! {
                        biased;
                        () = self.turn(None) => {}
                        () = stopped(&mut stop), if idle => return refuse(self.wire, &shutting_down()).await,
                    }
                }
                Drained::Closed => break,
            }
        }
        if self.transaction.take().is_some() {
            conversation.reset();
        }
        finish(self.wire, !quit).await;
    }

    /// Does all that needs no waiting.
    fn drain(&mut self) -> Drained {
        loop {
            if self.wire.is_full() {
                return Drained::Waits;
            }
            match self.session.poll() {
                Output::Send(octets) | Output::SendSecret(octets) => self.wire.queue(octets),
                Output::StartTls => return Drained::StartTls,
                Output::Event(event) => {
                    self.unfed = true;
                    return Drained::Event(event);
                }
                Output::Wait { .. } if self.unfed && !self.wire.input.is_empty() => self.feed(),
                Output::Wait { until } => {
                    self.until = until;
                    return Drained::Waits;
                }
                Output::Closed => return Drained::Closed,
            }
        }
    }

    fn feed(&mut self) {
        self.unfed = false;
        self.session.handle(SystemClock.now().mono, Input::Data(&mut self.wire.input));
    }

    /// Lets the socket do one thing. May be dropped and called again.
    async fn turn(&mut self, content: Option<&Feed>) {
        let turn = poll_fn(|cx| self.poll_turn(cx, content)).await;
        let now = SystemClock.now().mono;
        match turn {
            Turn::Wrote(0) => {}
            Turn::Wrote(taken) => self.session.handle(now, Input::Sent(taken)),
            Turn::Read(Read::Octets) => self.feed(),
            Turn::Read(Read::Eof) => self.session.handle(now, Input::Eof),
            Turn::Read(Read::TimedOut) => self.session.handle(now, Input::Timeout),
        }
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>, content: Option<&Feed>) -> Poll<Turn> {
        if self.wire.has_output() {
            return self.wire.poll_write(cx).map(Turn::Wrote);
        }
        if let Some(feed) = content {
            ready!(feed.poll_room(cx));
        }
        self.wire.poll_read(cx, self.until, content.is_some()).map(Turn::Read)
    }

    /// Waits for a handler, and lets replies that were made before go out meanwhile.
    async fn decide<T>(&mut self, mut future: BoxFuture<'_, T>) -> T {
        poll_fn(|cx| {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                return Poll::Ready(value);
            }
            while self.wire.has_output() {
                let taken = ready!(self.wire.poll_write(cx));
                if taken > 0 {
                    self.session.handle(SystemClock.now().mono, Input::Sent(taken));
                }
            }
            Poll::Pending
        })
        .await
    }

    async fn on_event(&mut self, event: Event, conversation: &mut dyn Conversation) {
        match event {
            Event::Hello { name, extended } => {
                let info = Arc::make_mut(&mut self.info);
                (info.hello, info.extended) = (Some(name.into()), extended);
            }
            Event::Auth(login) => self.authenticate(&login, conversation).await,
            Event::Mail(mail) => {
                let info = Arc::clone(&self.info);
                let reply = match self.decide(conversation.sender(&mail, &info)).await {
                    Ok(()) => {
                        self.transaction = Some((mail, Vec::new()));
                        Reply::new(250, EnhancedCode::new(2, 1, 0), "sender ok")
                    }
                    Err(reply) => negative(reply),
                };
                self.respond(reply);
            }
            Event::Rcpt(rcpt) => {
                let info = Arc::clone(&self.info);
                let reply = match self.decide(conversation.recipient(&rcpt, &info)).await {
                    Ok(()) => {
                        if let Some((_, recipients)) = &mut self.transaction {
                            recipients.push(rcpt);
                        }
                        Reply::new(250, EnhancedCode::new(2, 1, 5), "recipient ok")
                    }
                    Err(reply) => negative(reply),
                };
                self.respond(reply);
            }
            Event::MessageStart => {
                if let Some((mail, recipients)) = self.transaction.take() {
                    let session = Arc::clone(&self.info);
                    self.message(Transaction { mail, recipients, session }, conversation).await;
                }
                conversation.reset();
            }
            Event::MessageAborted => {
                if self.transaction.take().is_some() {
                    conversation.reset();
                }
            }
            _ => {}
        }
    }

    async fn authenticate(&mut self, login: &Login, conversation: &mut dyn Conversation) {
        let info = Arc::clone(&self.info);
        let peer = info.peer.address.ip();
        match self.decide(conversation.authenticate(login, &info)).await {
            Ok(()) => {
                self.setup.failures.succeeded(peer);
                Arc::make_mut(&mut self.info).user = Some(login.user().into());
                self.respond(Reply::new(235, EnhancedCode::new(2, 7, 0), "authentication succeeded"));
            }
            Err(reply) => {
                let first = self.setup.options.auth_delay;
                let wait = self.setup.failures.failed(peer, first, SystemClock.now().mono);
                debug!(%peer, ?wait, "login refused");
                self.decide(Box::pin(tokio::time::sleep(wait))).await;
                self.respond(negative(reply));
            }
        }
    }

    async fn message(&mut self, transaction: Transaction, conversation: &mut dyn Conversation) {
        let recipients = transaction.recipients.len() as u64;
        let (feed, stream) = body::stream();
        let mut octets = 0;
        let mut verdict = None;
        let mut future = conversation.message(transaction, stream);
        let whole = loop {
            match self.drain() {
                Drained::Event(Event::Body(chunk)) => {
                    octets += chunk.len() as u64;
                    feed.push(chunk);
                }
                Drained::Event(Event::MessageEnd) => break true,
                Drained::Event(Event::MessageAborted) | Drained::StartTls | Drained::Closed => break false,
                Drained::Event(_) => {}
                Drained::Waits => tokio::select! {
                    biased;
                    given = &mut future, if verdict.is_none() => verdict = Some(given),
                    () = self.turn(Some(&feed)) => {}
                },
            }
        };
        if !whole {
            drop(feed);
            if verdict.is_none() {
                // The handler learns of it and tidies up; it may not keep the session for ever.
                let _ = tokio::time::timeout(TIDY, future).await;
            }
            return;
        }
        feed.finish();
        let verdict = match verdict {
            Some(verdict) => verdict,
            None => self.decide(future).await,
        };
        let reply = match verdict {
            Verdict::All(reply) => reply,
            Verdict::Each(replies) => together(replies),
        };
        if reply.is_positive() {
            let counters = &self.setup.counters;
            counters.messages.fetch_add(1, Relaxed);
            counters.recipients.fetch_add(recipients, Relaxed);
            counters.octets.fetch_add(octets, Relaxed);
        }
        self.respond(reply);
    }

    fn respond(&mut self, reply: Reply) {
        self.session.respond(reply);
        self.unfed = true;
    }

    async fn upgrade(&mut self) {
        flush(&mut self.wire).await;
        // CVE-2011-0411: what was sent in the clear behind STARTTLS must never be read as if it had
        // come inside. The session refuses it too; here it cannot even be left over.
        if !self.wire.input.is_empty() {
            self.wire.kill();
        }
        match handshake(&mut self.wire, self.setup).await {
            Some(tls) => {
                let info = Arc::make_mut(&mut self.info);
                // RFC 3207 §4.2: nothing learnt before survives.
                (info.tls, info.hello, info.extended, info.user) = (Some(tls.clone()), None, false, None);
                self.session.handle(SystemClock.now().mono, Input::TlsReady(tls));
            }
            None => {
                self.wire.kill();
                self.session.handle(SystemClock.now().mono, Input::Eof);
            }
        }
    }
}

/// The TLS handshake on what the wire holds; `None` when it failed or took too long.
async fn handshake(wire: &mut Wire, setup: &Setup) -> Option<TlsInfo> {
    let tls = setup.tls.as_ref()?;
    match tokio::time::timeout(setup.options.tls_handshake, tls.accept(wire.take())).await {
        Ok(Ok((io, info))) => {
            wire.put(io);
            Some(info)
        }
        Ok(Err(error)) => {
            debug!(%error, "TLS handshake failed");
            None
        }
        Err(_) => {
            debug!("TLS handshake took too long");
            None
        }
    }
}

/// Says `reply` and closes.
pub(super) async fn refuse(mut wire: Wire, reply: &Reply) {
    let mut octets = BytesMut::new();
    reply.encode(&mut octets);
    wire.queue(octets.freeze());
    finish(wire, true).await;
}

/// Returns when the server is to end.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error says that the server is gone altogether.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn flush(wire: &mut Wire) {
    while wire.has_output() {
        poll_fn(|cx| wire.poll_write(cx)).await;
    }
}

/// Closes, after what was said last has gone out. With `linger` it reads on for a moment: closing a
/// socket with unread octets resets the connection, and the client may never see the reply.
async fn finish(mut wire: Wire, linger: bool) {
    flush(&mut wire).await;
    if wire.is_dead() {
        return;
    }
    let mut io = wire.take();
    let close = async {
        if io.shutdown().await.is_ok() && linger {
            let _ = tokio::io::copy(&mut (&mut io).take(LINGER_OCTETS), &mut tokio::io::sink()).await;
        }
    };
    let _ = tokio::time::timeout(LINGER, close).await;
}

/// A handler refuses with 4xx or 5xx; anything else from it would say that it accepted.
fn negative(reply: Reply) -> Reply {
    if reply.is_transient() || reply.is_permanent() {
        reply
    } else {
        Reply::new(451, EnhancedCode::new(4, 3, 0), "local error in processing")
    }
}

/// One reply for several recipients: see [`Verdict::Each`].
fn together(replies: Vec<Reply>) -> Reply {
    let rank = |reply: &Reply| match reply {
        reply if reply.is_positive() => 0,
        reply if reply.is_transient() => 1,
        _ => 2,
    };
    replies
        .into_iter()
        .min_by_key(rank)
        .unwrap_or_else(|| Reply::new(451, EnhancedCode::new(4, 3, 0), "local error in processing"))
}

fn shutting_down() -> Reply {
    Reply::new(421, EnhancedCode::new(4, 3, 2), "service shutting down, try again later")
}

/// Enough for a handler to drop what it staged.
const TIDY: Duration = Duration::from_secs(10);
/// A client that keeps sending after its end holds a connection this long at most.
const LINGER: Duration = Duration::from_secs(2);
/// More than a client has in flight when it stops at a refusal.
const LINGER_OCTETS: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(code: u16) -> Reply {
        Reply::plain(code, "x")
    }

    #[test]
    fn one_accepted_recipient_keeps_the_client_from_sending_again() {
        for (codes, one) in [(&[550, 250, 450][..], 250), (&[550, 450], 450), (&[550, 551], 550), (&[], 451)]
        {
            assert_eq!(together(codes.iter().map(|code| reply(*code)).collect()).code(), one, "{codes:?}");
        }
    }

    #[test]
    fn a_refusal_is_never_positive() {
        for (code, said) in [(250, 451), (354, 451), (450, 450), (550, 550)] {
            assert_eq!(negative(reply(code)).code(), said);
        }
    }
}
