//! How a session begins, and begins anew: the greeting, the refusal in its place, and XCLIENT, which
//! puts somebody else at the other end.

use std::time::{Duration, Instant};

use super::Event;
use super::config::Protocol;
use super::replies::mended;
use super::session::Session;
use super::state::{Question, State};
use crate::smtp::reply::Reply;
use crate::smtp::xclient::{Attribute, Told, Xclient};

impl Session {
    pub(super) fn greet(&mut self) {
        let protocol = match self.config.protocol {
            Protocol::Smtp => "ESMTP",
            Protocol::Lmtp => "LMTP",
        };
        self.say(&format!("220 {} {protocol}", self.config.hostname));
    }

    /// Tells the session what time it is, in seconds since 1970: without it FUTURERELEASE is not
    /// offered, because a session knows no clock. Once is enough: from then on `now` tells.
    pub const fn set_wall(&mut self, unix: u64, now: Instant) {
        self.wall = Some((unix, now));
    }

    /// Offers XCLIENT, and believes it. Only for a peer known to be a proxy of one's own: it decides
    /// who its client is, and which user. It may need several commands for that, none of which tells
    /// anything anew; with the hello behind them the trust is over, because from then on what comes
    /// may be the client's own words.
    pub const fn trust_xclient(&mut self) {
        self.trusted = true;
    }

    /// Refuses the client for good: `reply` (554, or 521 from a host that takes no mail at all) takes
    /// the place of the greeting when that was not polled yet, or is the answer to
    /// [`Event::Xclient`]. The session goes on until the client takes its leave, as RFC 5321 §3.1
    /// demands, and answers everything else with 503, for ten seconds and five commands at most. A
    /// reply other than 5xx ends it at once, as [`Session::close`] does.
    pub fn refuse(&mut self, reply: &Reply, now: Instant) {
        if !reply.is_permanent() {
            return self.close(reply);
        }
        if matches!(self.state, State::Closed) {
            return;
        }
        let unheard = self.greeting > 0 && self.unsent == 0;
        self.drop_unpolled_greeting();
        self.end_transaction();
        self.question = None;
        mended(reply).as_ref().unwrap_or(reply).encode(&mut self.out);
        if unheard {
            self.greeting = self.out.len();
        }
        self.refused = now.checked_add(REFUSED_WAIT);
        self.errors = 0;
    }

    pub(super) fn xclient(&mut self, told: Box<Xclient>) {
        if !self.trusted {
            return self.fault("550 5.7.0 XCLIENT is not for you");
        }
        if self.transaction.is_some() {
            return self.fault("503 5.5.1 A transaction is open");
        }
        let tells = told.told();
        if self.told.iter().zip(tells).any(|(before, now)| *before && now) {
            return self.fault("550 5.7.0 That was told already");
        }
        if self.is_idle_too_long() {
            return;
        }
        let user = match &told.login {
            Attribute::Is(user) => Some(user.clone()),
            // What an earlier command said; a login of the proxy's own has a hello before it.
            Attribute::Untold if self.hello.is_none() => self.user.clone(),
            _ => None,
        };
        self.question = Some(Question::Xclient { user, told: tells });
        self.events.push_back(Event::Xclient(told));
    }

    /// The host has accepted whom XCLIENT named.
    pub(super) fn begin_anew(&mut self, user: Option<Box<str>>, told: Told) {
        self.hello = None;
        self.user = user;
        self.told.iter_mut().zip(told).for_each(|(all, now)| *all |= now);
        if let Some(tls) = &mut self.tls {
            // Between the proxy and us: its certificate would let its clients in as the proxy.
            (tls.binding, tls.certificate) = (None, None);
        }
        self.greet();
    }

    /// A client said hello. Was it one that a proxy named, it is no proxy.
    pub(super) fn end_trust(&mut self) {
        self.trusted = self.trusted && !self.told.contains(&true);
    }
}

pub(super) const REFUSED: &str = "503 5.5.1 No mail is taken from you, QUIT is what is left";
pub(super) const REFUSED_CHUNK: &str = "503 5.5.1 No mail is taken from you, closing connection";

/// Long enough for a client that takes its leave as it should, short enough for the connection that
/// a refused one costs.
const REFUSED_WAIT: Duration = Duration::from_secs(10);
/// A client that pipelines behind the greeting it did not wait for has said no more than a flight.
pub(super) const REFUSED_COMMANDS: u32 = 6;
