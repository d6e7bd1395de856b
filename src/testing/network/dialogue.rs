//! One dialogue of one host with one client: the crate's server session, and what the script makes of it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::Instant;

use super::act::{Act, Step, reply};
use super::{Network, Taken, mono};
use crate::clock::{Clock, SystemClock};
use crate::smtp::params::{Mail, Rcpt};
use crate::smtp::reply::Reply;
use crate::smtp::server::{Event, Session};
use crate::smtp::{Input, Output};

pub(super) struct Dialogue {
    network: Network,
    host: Box<str>,
    io: DuplexStream,
    input: BytesMut,
    mail: Mail,
    to: Vec<Rcpt>,
    content: BytesMut,
    /// Taken, and the reply is not out yet.
    untold: Vec<Arc<OnceLock<Instant>>>,
}

/// The dialogue is over.
struct Over;

impl Dialogue {
    pub(super) fn new(network: Network, host: &str, io: DuplexStream) -> Self {
        Self {
            network,
            host: host.into(),
            io,
            input: BytesMut::new(),
            mail: Mail::default(),
            to: Vec::new(),
            content: BytesMut::new(),
            untold: Vec::new(),
        }
    }

    pub(super) async fn run(mut self) {
        let Some(config) = self.network.site(&self.host, |site| site.config.clone()) else { return };
        let mut session = Session::new(config, SystemClock.mono());
        let act = self.ask(&Step::Greeting).await;
        if self.last_word(act).await.is_err() {
            return;
        }
        while self.step(&mut session).await.is_ok() {}
    }

    /// What the session wants next, done.
    async fn step(&mut self, session: &mut Session) -> Result<(), Over> {
        match session.poll() {
            Output::Send(octets) | Output::SendSecret(octets) => {
                let len = octets.len();
                self.send(octets).await?;
                session.handle(SystemClock.mono(), Input::Sent(len));
            }
            Output::Event(event) => self.event(session, event).await?,
            Output::Wait { until } => {
                if session.can_read_on() {
                    session.handle(SystemClock.mono(), Input::Data(&mut self.input));
                    return Ok(());
                }
                self.input.reserve(READ);
                let read = self.io.read_buf(&mut self.input);
                let read = match until {
                    Some(until) => tokio::time::timeout_at(until.into(), read).await,
                    None => Ok(read.await),
                };
                let now = SystemClock.mono();
                match read {
                    Ok(Ok(n)) if n > 0 => session.handle(now, Input::Data(&mut self.input)),
                    Ok(_) => session.handle(now, Input::Eof),
                    Err(_) => session.handle(now, Input::Timeout),
                }
            }
            Output::Closed | Output::StartTls => return Err(Over),
        }
        Ok(())
    }

    async fn event(&mut self, session: &mut Session, event: Event) -> Result<(), Over> {
        match event {
            Event::Hello { .. } => {
                let act = self.ask(&Step::Hello).await;
                self.last_word(act).await
            }
            Event::Mail(mail) => {
                let act = self.ask(&Step::Mail(&mail)).await;
                let (breaks, silent) = self.network.site(&self.host, |site| (site.breaks, site.silent));
                let act = match act {
                    Act::Usual if breaks => Act::Close,
                    Act::Usual if silent => Act::Silence,
                    act => act,
                };
                (self.mail, self.to) = (mail, Vec::new());
                self.answer(session, act, reply(250)).await.map(|_| ())
            }
            Event::Rcpt(rcpt) => {
                let (name, nth) = self.named(&rcpt);
                let act = self.ask(&Step::Rcpt(&rcpt, nth)).await;
                let rule = |site: &mut super::Site| site.rule.as_mut().map_or(250, |rule| rule(&name, nth));
                let code = self.network.site(&self.host, rule);
                if self.answer(session, act, reply(code)).await? {
                    self.to.push(rcpt);
                }
                Ok(())
            }
            Event::MessageStart => {
                self.content.clear();
                let act = self.ask(&Step::Data).await;
                self.last_word_after(session, act).await
            }
            Event::Body(octets) => {
                self.content.extend_from_slice(&octets);
                let act = self.ask(&Step::Body(self.content.len() as u64)).await;
                self.last_word_after(session, act).await
            }
            Event::MessageEnd => self.end(session).await,
            _ => Ok(()),
        }
    }

    /// The end of a message: it is taken, or it is not, and the client may hear of that.
    async fn end(&mut self, session: &mut Session) -> Result<(), Over> {
        let content = self.content.split().freeze();
        let mut act = self.network.ask(&self.host, &Step::End(&content));
        let (think, code) = self.network.site(&self.host, |site| (site.think, site.content));
        let mut wait = if act == Act::Usual { think } else { Duration::ZERO };
        while let Act::After(time, next) = act {
            wait = wait.saturating_add(time);
            act = *next;
        }
        let takes = match &act {
            Act::Usual => (200..300).contains(&code),
            Act::Reply(reply) => reply.is_positive(),
            Act::Taken(_) => true,
            _ => false,
        };
        let told: Arc<OnceLock<Instant>> = Arc::default();
        let ended = mono();
        let mut taking = Taking {
            network: self.network.clone(),
            host: self.host.clone(),
            mail: std::mem::take(&mut self.mail),
            to: if takes { std::mem::take(&mut self.to) } else { Vec::new() },
            content,
            ended,
            told: Arc::clone(&told),
        };
        if !wait.is_zero() {
            self.network.begins(&self.host);
            tokio::time::sleep(wait).await;
            self.network.ends(&self.host);
        }
        taking.take();
        let act = match act {
            Act::Taken(then) => *then,
            act => act,
        };
        let tells = match &act {
            Act::Usual => (200..300).contains(&code),
            Act::Reply(reply) => reply.is_positive(),
            _ => false,
        };
        // One who took it and says otherwise has told nobody.
        if takes && tells {
            self.untold.push(told);
        }
        self.answer(session, act, reply(code)).await.map(|_| ())
    }

    /// What is done at a step that the session answers by itself: nothing, or the end.
    async fn last_word(&mut self, act: Act) -> Result<(), Over> {
        match act {
            Act::Usual => Ok(()),
            act => {
                self.perform(act).await;
                Err(Over)
            }
        }
    }

    /// The same where replies to earlier commands may wait.
    async fn last_word_after(&mut self, session: &mut Session, act: Act) -> Result<(), Over> {
        // A content that begins goes with a 354 that must not be heard.
        if act != Act::Usual && !matches!(act, Act::Reply(_)) {
            self.flush(session).await?;
        }
        self.last_word(act).await
    }

    /// Answers a question of the session. Returns whether the answer was positive.
    async fn answer(&mut self, session: &mut Session, act: Act, usual: Reply) -> Result<bool, Over> {
        let reply = match act {
            Act::Usual => usual,
            Act::Reply(reply) => reply,
            act => {
                self.flush(session).await?;
                self.perform(act).await;
                return Err(Over);
            }
        };
        let positive = reply.is_positive();
        // Refused when the session ended meanwhile.
        session.respond(reply).map_err(|_| Over)?;
        Ok(positive)
    }

    /// Lets replies go that were given before.
    async fn flush(&mut self, session: &mut Session) -> Result<(), Over> {
        while let Output::Send(octets) | Output::SendSecret(octets) = session.poll() {
            let len = octets.len();
            self.send(octets).await?;
            session.handle(SystemClock.mono(), Input::Sent(len));
        }
        Ok(())
    }

    async fn send(&mut self, mut octets: Bytes) -> Result<(), Over> {
        let lacks = self.network.site(&self.host, |site| site.lacks.clone());
        if !lacks.is_empty() && octets.starts_with(b"250-") {
            octets = without(&octets, &lacks);
        }
        self.io.write_all(&octets).await.map_err(|_| Over)?;
        if !self.untold.is_empty() {
            let at = mono();
            for told in self.untold.drain(..) {
                told.get_or_init(|| at);
            }
        }
        Ok(())
    }

    /// The last thing that is done on a connection.
    async fn perform(&mut self, act: Act) {
        let (octets, closes) = match act {
            Act::Reply(reply) => {
                let mut octets = BytesMut::new();
                reply.encode(&mut octets);
                (octets.freeze(), true)
            }
            Act::Half => (Bytes::from_static(b"250 2.0"), true),
            Act::Octets(octets) => (octets, false),
            Act::Silence => (Bytes::new(), false),
            Act::Usual | Act::Close | Act::Taken(_) | Act::After(..) => return,
        };
        if self.io.write_all(&octets).await.is_err() || closes {
            return;
        }
        // Until the client closes.
        while matches!(self.io.read_buf(&mut self.input).await, Ok(n) if n > 0) {
            self.input.clear();
        }
    }

    /// Asks the script, and waits as it says.
    async fn ask(&self, step: &Step<'_>) -> Act {
        let mut act = self.network.ask(&self.host, step);
        loop {
            act = match act {
                Act::After(wait, next) => {
                    tokio::time::sleep(wait).await;
                    *next
                }
                Act::Taken(next) => *next,
                act => return act,
            }
        }
    }

    fn named(&self, rcpt: &Rcpt) -> (Box<str>, u32) {
        let name = address(rcpt);
        let mut state = self.network.state();
        let seen = state.seen.entry(name.clone()).or_default();
        *seen += 1;
        let nth = *seen;
        drop(state);
        (name, nth)
    }
}

/// A message that is about to be taken. A host that has it takes it, also when the world of its client
/// ends meanwhile.
struct Taking {
    network: Network,
    host: Box<str>,
    mail: Mail,
    to: Vec<Rcpt>,
    content: Bytes,
    ended: Instant,
    told: Arc<OnceLock<Instant>>,
}

impl Taking {
    fn take(&mut self) {
        let mut state = self.network.state();
        let at = state.elapsed.now();
        for rcpt in self.to.drain(..) {
            let taken = Taken {
                host: self.host.clone(),
                mail: self.mail.clone(),
                to: address(&rcpt),
                rcpt,
                content: self.content.clone(),
                at,
                ended: self.ended,
                told: Arc::clone(&self.told),
            };
            state.taken.push(taken);
        }
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.take();
    }
}

/// Room for what a client sends at once: a read into less would cut a message into hundreds of steps.
const READ: usize = 8 << 10;

/// The address of a recipient, without brackets.
pub(in crate::testing) fn address(rcpt: &Rcpt) -> Box<str> {
    let name = rcpt.to.to_string();
    name.trim_matches(['<', '>']).into()
}

/// A reply to EHLO without the lines of these extensions.
fn without(octets: &Bytes, lacks: &[Box<str>]) -> Bytes {
    let text = String::from_utf8_lossy(octets);
    let is_lacking = |line: &str| {
        let name = line.get(4..).and_then(|rest| rest.split_whitespace().next());
        name.is_some_and(|name| lacks.iter().any(|lack| lack.eq_ignore_ascii_case(name)))
    };
    let kept = |line: &str| {
        if is_lacking(line) {
            format!("{}NONE\r\n", line.get(..4).unwrap_or_default())
        } else {
            line.to_owned()
        }
    };
    text.split_inclusive('\n').map(kept).collect::<String>().into()
}
