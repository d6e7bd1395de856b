//! A network in memory: hosts that speak SMTP by this crate's own server session, and answer by rule.
//!
//! A host that nothing is said about takes everything. What goes wrong is said by rules for the usual
//! things ([`Network::rule`], [`Network::down`], [`Network::thinks`] and others) and by one script for
//! everything else ([`Network::script`]): it is asked at each [`Step`] of each dialogue what the host does.
//! What happens is written down with its time.

mod act;
mod dialogue;
mod elapsed;
mod host;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::duplex;
use tokio::time::Instant;

pub use act::{Act, Step};

use self::dialogue::Dialogue;
pub(super) use self::dialogue::address;
use self::elapsed::Elapsed;
use self::host::Site;
use super::{Routes, lock};
use crate::BoxFuture;
use crate::hop::Host;
use crate::net::connect::{Connect, ConnectError, Opened};
use crate::route::{Resolve, Route, RouteError};
use crate::smtp::address::Domain;
use crate::smtp::params::{Mail, Rcpt};

/// A network in memory, and the routes in it. Clones are the same one. Give it to an engine both as
/// `resolver` and as `connect`.
///
/// ```
/// use postroad::smtp::reply::Reply;
/// use postroad::testing::{Act, Network, Step};
///
/// let network = Network::new();
/// network.down("mx.dead.example");
/// network.rule("mx.example.org", |to, _| if to == "nobody@example.org" { 550 } else { 250 });
/// let mut broken = 0;
/// network.script(move |host, step| match step {
///     // The first two messages are taken, and nobody is told.
///     Step::End(_) if host == "mx.example.org" && broken < 2 => {
///         broken += 1;
///         Act::Taken(Box::new(Act::Close))
///     }
///     Step::Hello if host == "mx.full.example" => Act::Reply(Reply::plain(421, "try later")),
///     _ => Act::Usual,
/// });
/// ```
#[derive(Clone)]
pub struct Network {
    state: Arc<Mutex<State>>,
    routes: Routes,
}

/// What a script is: what the host does at this step.
type Script = Box<dyn FnMut(&str, &Step<'_>) -> Act + Send>;

struct State {
    elapsed: Elapsed,
    hosts: HashMap<Box<str>, Site>,
    script: Option<Script>,
    taken: Vec<Taken>,
    /// How often which recipient was named.
    seen: HashMap<Box<str>, u32>,
    connects: Vec<(Box<str>, Duration)>,
    /// Messages being thought about now, and the most there ever were at one time, by host.
    busy: HashMap<Box<str>, (usize, usize)>,
}

/// A message that a host took for a recipient.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Taken {
    /// The host.
    pub host: Box<str>,
    /// What MAIL said.
    pub mail: Mail,
    /// What RCPT said.
    pub rcpt: Rcpt,
    /// The recipient's address, without brackets.
    pub to: Box<str>,
    /// Header and body.
    pub content: Bytes,
    /// When, counted from the first connection or the making of the network, whichever a runtime with
    /// timers saw first. In a runtime that comes behind another, as after a crash, it goes on from the
    /// last moment that was seen in the one before.
    pub at: Duration,
    /// When the message was there as a whole. An instant and not counted from the start, which may lie in
    /// another runtime, whose time was ahead.
    ended: Instant,
    told: Arc<OnceLock<Instant>>,
}

impl Taken {
    /// Whether the host could say that it took the message: a positive reply left as a whole, on a
    /// connection that was open. Otherwise the client cannot know, and may bring the message again; so too
    /// where the host took it and then refused it ([`Act::Taken`] with a 421).
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.told.get().is_some()
    }

    /// The same, for later, and when.
    pub(super) fn told(&self) -> Arc<OnceLock<Instant>> {
        Arc::clone(&self.told)
    }

    /// When the client had sent all of it. A host that thinks takes it later: then the client may have given
    /// up, and brought it again.
    pub(super) const fn ended(&self) -> Instant {
        self.ended
    }

    /// Header and body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.content).into_owned()
    }
}

#[allow(clippy::must_use_candidate, reason = "setters return themselves for whoever wants to go on")]
impl Network {
    /// A network where every host takes everything.
    #[must_use]
    pub fn new() -> Self {
        let state = State {
            elapsed: Elapsed::new(),
            hosts: HashMap::new(),
            script: None,
            taken: Vec::new(),
            seen: HashMap::new(),
            connects: Vec::new(),
            busy: HashMap::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), routes: Routes::new() }
    }

    /// Where mail goes in this network.
    #[must_use]
    pub const fn routes(&self) -> &Routes {
        &self.routes
    }

    /// What hosts do, before any rule: asked with the host's name at each step of each dialogue, one at a
    /// time. [`Act::Usual`] leaves it to the rules. Takes the place of the script before.
    pub fn script(&self, script: impl FnMut(&str, &Step<'_>) -> Act + Send + 'static) -> &Self {
        self.state().script = Some(Box::new(script));
        self
    }

    /// What was taken so far, in order.
    #[must_use]
    pub fn taken(&self) -> Vec<Taken> {
        self.state().taken.clone()
    }

    /// The same, and forgets it: for histories that are longer than memory.
    #[must_use]
    pub fn drain(&self) -> Vec<Taken> {
        let mut state = self.state();
        state.connects.clear();
        std::mem::take(&mut state.taken)
    }

    /// What was taken for an address, in order.
    #[must_use]
    pub fn inbox(&self, to: &str) -> Vec<Taken> {
        self.state().taken.iter().filter(|taken| *taken.to == *to).cloned().collect()
    }

    /// Who got a message, in alphabetical order; more than once if it came more than once.
    #[must_use]
    pub fn reached(&self) -> Vec<String> {
        let mut reached: Vec<_> = self.state().taken.iter().map(|taken| taken.to.to_string()).collect();
        reached.sort();
        reached
    }

    /// Which host was connected to, and when.
    #[must_use]
    pub fn connects(&self) -> Vec<(String, Duration)> {
        self.state().connects.iter().map(|(host, at)| (host.to_string(), *at)).collect()
    }

    /// When a host was connected to.
    #[must_use]
    pub fn connects_to(&self, host: &str) -> Vec<Duration> {
        self.state().connects.iter().filter(|(name, _)| **name == *host).map(|(_, at)| *at).collect()
    }

    /// The most messages that a host ever thought about at one time ([`Network::thinks`]).
    #[must_use]
    pub fn most_busy(&self, host: &str) -> usize {
        self.state().busy.get(host).map_or(0, |(_, most)| *most)
    }

    /// The same, counted anew from now on.
    #[must_use]
    pub fn take_most_busy(&self, host: &str) -> usize {
        self.state().busy.get_mut(host).map_or(0, |(_, most)| std::mem::take(most))
    }

    /// It is so late now, whatever was seen so far.
    pub(super) fn goes_on(&self, at: Duration) {
        self.state().elapsed.goes_on(at);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn site<T>(&self, host: &str, look: impl FnOnce(&mut Site) -> T) -> T {
        let mut state = self.state();
        match state.hosts.get_mut(host) {
            Some(site) => look(site),
            None => look(state.hosts.entry(host.into()).or_insert_with(|| Site::new(host))),
        }
    }

    /// What the host does at this step, without the rules.
    fn ask(&self, host: &str, step: &Step<'_>) -> Act {
        match &mut self.state().script {
            Some(script) => script(host, step),
            None => Act::Usual,
        }
    }

    fn begins(&self, host: &str) {
        let mut state = self.state();
        let (busy, most) = state.busy.entry(host.into()).or_default();
        *busy += 1;
        *most = (*most).max(*busy);
    }

    fn ends(&self, host: &str) {
        if let Some((busy, _)) = self.state().busy.get_mut(host) {
            *busy = busy.saturating_sub(1);
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("taken", &self.state().taken.len()).finish_non_exhaustive()
    }
}

impl Resolve for Network {
    fn route<'a>(&'a self, destination: &'a Domain) -> BoxFuture<'a, Result<Route, RouteError>> {
        self.routes.route(destination)
    }
}

impl Connect for Network {
    fn connect<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Result<Opened, ConnectError>> {
        Box::pin(async move {
            let name = host.name.as_str();
            {
                let mut state = self.state();
                let at = state.elapsed.now();
                state.connects.push((name.into(), at));
            }
            let mut act = self.ask(name, &Step::Connect);
            while let Act::After(wait, next) = act {
                tokio::time::sleep(wait).await;
                act = *next;
            }
            match act {
                Act::Usual if !self.site(name, |site| site.up) => return Err(ConnectError::Refused),
                Act::Usual | Act::Taken(_) => {}
                Act::Silence => std::future::pending().await,
                Act::Close | Act::Reply(_) | Act::Half | Act::Octets(_) => return Err(ConnectError::Refused),
                Act::After(..) => {}
            }
            let (ours, theirs) = duplex(PIPE);
            let dialogue = Dialogue::new(self.clone(), name, theirs);
            tokio::spawn(dialogue.run());
            Ok(Opened::new(ours))
        })
    }
}

/// The time that the runtime's timers go by.
#[allow(clippy::disallowed_methods, reason = "the network is a part of the runtime's simulated world")]
fn mono() -> Instant {
    Instant::now()
}

/// As much as a socket's buffer holds, so that a client that sends more waits for the host to read.
const PIPE: usize = 64 * 1024;
