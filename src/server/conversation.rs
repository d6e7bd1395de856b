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

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::body::{self, Feed};
use super::handler::{Conversation, SessionInfo, Transaction, Verdict};
use super::serve::Setup;
use super::wire::{Read, Wire};
use crate::BoxFuture;
use crate::clock::{Clock, SystemClock};
use crate::net::connect::Io;
use crate::smtp::params::{Mail, Rcpt};
use crate::smtp::reply::{EnhancedCode, Reply};
use crate::smtp::sasl::Login;
use crate::smtp::server::{Event, Protocol, Session};
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
    if start == Start::Tls {
        info.tls = handshake(&mut wire, setup).await;
        if info.tls.is_none() {
            return;
        }
    }
    let conversation = setup.handler.connect(&info.peer).await;
    let (config, now) = (Arc::clone(&setup.session), SystemClock.mono());
    let session = match &info.tls {
        Some(tls) => Session::over_tls(config, tls.clone(), now),
        None => Session::new(config, now),
    };
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
        Ok(mut conversation) => {
            talk.listen_first(now).await;
            talk.run(&mut *conversation, stop).await;
        }
        Err(reply) => {
            talk.session.close(&negative(reply));
            while !matches!(talk.drain(), Drained::Closed) {}
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
    /// Before the greeting no client may talk (RFC 5321 §4.3.1); one that does is no mail server.
    async fn listen_first(&mut self, now: Instant) {
        let delay = self.setup.options.greeting_delay;
        let until = (!delay.is_zero()).then(|| now + delay);
        let read = poll_fn(|cx| match self.wire.poll_read(cx, until, false) {
            Poll::Pending if until.is_none() => Poll::Ready(Read::TimedOut),
            read => read,
        });
        match read.await {
            Read::TimedOut => {}
            Read::Octets => self.feed(),
            Read::Eof => self.session.handle(SystemClock.mono(), Input::Eof),
        }
    }

    async fn run(&mut self, conversation: &mut dyn Conversation, mut stop: watch::Receiver<bool>) {
        let mut stopping = false;
        loop {
            match self.drain() {
                Drained::Event(event) => self.on_event(event, conversation).await,
                Drained::StartTls => self.upgrade().await,
                Drained::Waits => {
                    self.settle(conversation);
                    tokio::select! {
                        biased;
                        () = self.turn(None) => {}
                        () = stopped(&mut stop), if !stopping => {
                            stopping = true;
                            self.session.shutdown(shutting_down());
                        }
                    }
                }
                Drained::Closed => return self.settle(conversation),
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

    async fn on_event(&mut self, event: Event, conversation: &mut dyn Conversation) {
        match event {
            Event::Hello { name, extended } => {
                self.settle(conversation);
                let info = Arc::make_mut(&mut self.info);
                (info.hello, info.extended) = (Some(name.into()), extended);
            }
            Event::Auth(login) => self.authenticate(&login, conversation).await,
            Event::Mail(mail) => {
                self.settle(conversation);
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
            Event::Quit => self.quit = true,
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
                let wait = self.setup.failures.failed(peer, first, SystemClock.mono());
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
        let taken = match &verdict {
            Verdict::All(reply) if reply.is_positive() => recipients,
            Verdict::All(_) => 0,
            Verdict::Each(replies) => replies.iter().filter(|reply| reply.is_positive()).count() as u64,
        };
        if taken > 0 {
            let counters = &self.setup.counters;
            counters.messages.fetch_add(1, Relaxed);
            counters.recipients.fetch_add(taken, Relaxed);
            counters.octets.fetch_add(octets, Relaxed);
        }
        match verdict {
            Verdict::All(reply) => self.respond(reply),
            Verdict::Each(replies) if self.setup.session.protocol == Protocol::Lmtp => {
                if let Err(error) = self.session.respond_each(&replies) {
                    warn!(%error, "the handler gave another number of replies than there are recipients");
                    self.respond(local_error());
                }
            }
            Verdict::Each(replies) => self.respond(together(replies)),
        }
    }

    fn respond(&mut self, reply: Reply) {
        // An error says that the session ended meanwhile, and then nobody listens.
        let _ = self.session.respond(reply);
    }

    async fn upgrade(&mut self) {
        while self.wire.has_output() {
            let taken = poll_fn(|cx| self.wire.poll_write(cx)).await;
            self.wrote(taken);
        }
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
                self.session.handle(SystemClock.mono(), Input::TlsReady(tls));
            }
            None => {
                self.wire.kill();
                self.session.handle(SystemClock.mono(), Input::Eof);
            }
        }
    }
}

/// The TLS handshake on what the wire holds; `None` when it failed or took too long.
async fn handshake(wire: &mut Wire, setup: &Setup) -> Option<TlsInfo> {
    let tls = setup.tls.as_ref()?;
    match tokio::time::timeout(setup.options.tls_handshake, tls.accept(wire.take())).await {
        Ok(Ok((io, info))) => {
            wire.put(Box::new(io));
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

/// Returns when the server is to end.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error says that the server is gone altogether.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Closes, after what was said last has gone out. With `linger` it reads on for a moment: closing a
/// socket with unread octets resets the connection, and the client may never see the reply.
async fn finish(mut wire: Wire, linger: bool) {
    while wire.has_output() {
        poll_fn(|cx| wire.poll_write(cx)).await;
    }
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
    if reply.is_transient() || reply.is_permanent() { reply } else { local_error() }
}

/// One reply for several recipients: see [`Verdict::Each`].
fn together(replies: Vec<Reply>) -> Reply {
    let rank = |reply: &Reply| match reply {
        reply if reply.is_positive() => 0,
        reply if reply.is_transient() => 1,
        _ => 2,
    };
    replies.into_iter().min_by_key(rank).unwrap_or_else(local_error)
}

fn local_error() -> Reply {
    Reply::new(451, EnhancedCode::new(4, 3, 0), "local error in processing")
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
