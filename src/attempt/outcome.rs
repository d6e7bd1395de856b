//! An outcome is the result of one try for one recipient; here, and only here, a reply becomes one.

use std::fmt;
use std::sync::Arc;

use crate::hop::{Demand, Host, PolicyKind, Refused, TlsSeen};
use crate::route::RouteError;
use crate::smtp::address::ForwardPath;
use crate::smtp::capability::Capabilities;
use crate::smtp::client::Feature;
use crate::smtp::params::DeliverBy;
use crate::smtp::reply::{EnhancedCode, Reply};

/// The result of one try for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The next hop, or the local store, has taken responsibility.
    Delivered(Accepted),
    /// Not now; trying again can help.
    Deferred(Cause),
    /// Not ever.
    Failed(Cause),
}

/// What became of a message: an outcome per recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a recipient may have been refused"]
pub struct Delivery {
    /// Each recipient once, in the order of the envelope.
    pub recipients: Vec<(ForwardPath, Outcome)>,
}

impl Delivery {
    /// Whether every recipient was delivered to.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.recipients.iter().all(|(_, outcome)| matches!(outcome, Outcome::Delivered(_)))
    }
}

/// Who took responsibility for a recipient, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Accepted {
    /// The host; `None` for local delivery.
    pub host: Option<Arc<Host>>,
    /// What it said to the end of the content; `None` for local delivery.
    pub reply: Option<Reply>,
    /// The TLS of the connection, if it had any.
    pub tls: Option<TlsSeen>,
    /// What TLS was demanded, and by whom; `None` for local delivery.
    pub demand: Option<Demand>,
    /// Whether the host offered DSN, so that it reports what was asked for (RFC 3461 §5.2.2).
    pub dsn: bool,
    /// Whether the host was told how much time is left: it offered DELIVERBY, and for no more time
    /// than that (RFC 2852).
    pub deliver_by: bool,
    /// What was noted of it, where it is recalled from the spool: then nothing else is known.
    pub noted: Option<Box<str>>,
}

impl Accepted {
    /// Taken by a host of which nothing more is known.
    #[must_use]
    pub const fn by(host: Arc<Host>, reply: Reply, tls: Option<TlsSeen>) -> Self {
        Self {
            host: Some(host),
            reply: Some(reply),
            tls,
            demand: None,
            dsn: false,
            deliver_by: false,
            noted: None,
        }
    }

    /// Taken by a local store.
    #[must_use]
    pub const fn locally() -> Self {
        Self::noted(None)
    }

    /// Recalled from the spool, with what was noted.
    #[must_use]
    pub const fn noted(noted: Option<Box<str>>) -> Self {
        Self { host: None, reply: None, tls: None, demand: None, dsn: false, deliver_by: false, noted }
    }
}

/// Why a recipient was not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// A server said so.
    Reply {
        /// Which one.
        host: Option<Arc<Host>>,
        /// To what.
        phase: Phase,
        /// What it said.
        reply: Reply,
    },
    /// There is no route.
    Route(RouteError),
    /// No host of the route could be reached, or none spoke SMTP; the last one's reason.
    Connect {
        /// The host that was tried last.
        host: Arc<Host>,
        /// What went wrong.
        fault: ConnectFault,
    },
    /// The host did not show the TLS that is required.
    Tls {
        /// Which one.
        host: Arc<Host>,
        /// What is required, and by whom.
        demand: Demand,
        /// What was missing.
        refused: Refused,
        /// What it showed, as far as it got.
        seen: Option<Arc<TlsSeen>>,
    },
    /// The host cannot carry what the message needs.
    Lacks {
        /// Which one.
        host: Arc<Host>,
        /// What it lacks.
        feature: Feature,
    },
    /// The connection ended after the last octet of the content and before the reply to it: the
    /// message may have been delivered (RFC 1047). Trying again may deliver it twice.
    Unknown {
        /// Which host.
        host: Arc<Host>,
    },
    /// The host takes fewer recipients at once; the others of the same try were accepted or refused.
    /// It belongs in the next transaction, at once, and is no failure (RFC 5321 §4.5.3.1.10).
    LeftOver {
        /// Which host.
        host: Arc<Host>,
    },
    /// Local delivery failed.
    Local(LocalFault),
    /// The time for delivering ran out; the last cause before that, if there was a try.
    Expired(Option<Box<str>>),
    /// The recipient is on a suppression list.
    Suppressed,
    /// The host program took it back.
    Cancelled,
    /// The spool lost the body.
    Damaged,
    /// Recalled from the spool, where this was noted of the cause.
    Noted(Option<Box<str>>),
}

/// To which command a server replied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// The greeting.
    Greeting,
    /// EHLO, HELO, STARTTLS.
    Hello,
    /// AUTH
    Auth,
    /// MAIL FROM
    Mail,
    /// RCPT TO
    Rcpt,
    /// DATA
    Data,
    /// The end of the content, by dot or by BDAT LAST.
    Content,
}

impl Phase {
    /// As it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Greeting => "the greeting",
            Self::Hello => "EHLO",
            Self::Auth => "AUTH",
            Self::Mail => "MAIL FROM",
            Self::Rcpt => "RCPT TO",
            Self::Data => "DATA",
            Self::Content => "the end of the message",
        }
    }
}

/// Why a host could not be spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectFault {
    /// The name has no address.
    #[error("the host has no address")]
    NoAddress,
    /// The connection was refused.
    #[error("connection refused")]
    Refused,
    /// No answer in time.
    #[error("connection timed out")]
    TimedOut,
    /// The network is in the way.
    #[error("host or network unreachable")]
    Unreachable,
    /// The TLS handshake failed.
    #[error("the TLS handshake failed")]
    Handshake,
    /// The peer broke the protocol.
    #[error("the host does not speak SMTP properly")]
    Protocol,
    /// The connection was lost before the message was sent.
    #[error("the connection was lost")]
    Lost,
    /// No leave to connect in time: limits are used up.
    #[error("no connection became free in time")]
    Busy,
    /// The host offers no way to log in that we have, or there was nothing to log in with.
    #[error("there is no way to log in")]
    NoLogin,
    /// The proxy that was to connect did not do its part.
    #[error("the proxy does not open connections")]
    Proxy,
    /// We lack sockets or other means.
    #[error("this host is out of resources")]
    Local,
}

/// Why local delivery failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum LocalFault {
    /// There is no such mailbox.
    #[error("no such mailbox here")]
    NoMailbox,
    /// The mailbox is full.
    #[error("the mailbox is full")]
    MailboxFull,
    /// The store failed; trying again can help.
    #[error("the local mail store failed")]
    Storage,
    /// Nobody is registered under the route's id.
    #[error("local delivery is not set up")]
    NotSetUp,
}

impl Outcome {
    /// What a reply means for a recipient: the one place where that is decided.
    ///
    /// 2xx to the end of the content is delivery. 421 is temporary whatever it answers
    /// (RFC 5321 §3.8). 552 to RCPT means too many recipients, which is temporary
    /// (RFC 5321 §4.5.3.1.10). 521 and 554 as a greeting refuse this host's mail for good
    /// (RFC 7504), any other greeting only this connection, as where our address is blocked for a
    /// while; a login that fails is our own fault, and the mail waits until somebody has put it
    /// right. Everything else that is not 5xx is tried again: a reply of the wrong class never
    /// is success.
    #[must_use]
    pub fn of_reply(host: &Arc<Host>, phase: Phase, reply: Reply, tls: Option<TlsSeen>) -> Self {
        if phase == Phase::Content && reply.is_positive() {
            return Self::Delivered(Accepted::by(Arc::clone(host), reply, tls));
        }
        let passes = match phase {
            Phase::Auth => true,
            Phase::Greeting => !matches!(reply.code(), 521 | 554),
            Phase::Rcpt => reply.code() == 552,
            _ => false,
        };
        let permanent = reply.is_permanent() && !passes;
        let cause = Cause::Reply { host: Some(Arc::clone(host)), phase, reply };
        if permanent { Self::Failed(cause) } else { Self::Deferred(cause) }
    }

    /// The same, with what the host had offered, for a message to be delivered `by` a time: who reports
    /// from here on depends on it.
    #[must_use]
    pub fn with_offers(mut self, offers: &Capabilities, by: Option<DeliverBy>) -> Self {
        if let Self::Delivered(accepted) = &mut self {
            accepted.dsn = offers.dsn;
            accepted.deliver_by = by.is_some_and(|by| offers.takes_time(by));
        }
        self
    }

    /// The same, with what TLS was demanded.
    #[must_use]
    pub const fn with_demand(mut self, demand: Demand) -> Self {
        if let Self::Delivered(accepted) = &mut self {
            accepted.demand = Some(demand);
        }
        self
    }

    /// Whether the destination's own policy is why: it allows none of the hosts, or one did not show
    /// the TLS that it should. There may be a new policy (RFC 8461 §5.1).
    #[must_use]
    pub(crate) fn is_by_policy(&self) -> bool {
        matches!(
            self.cause(),
            Some(
                Cause::Route(RouteError::Sts) | Cause::Tls { demand: Demand::Verified(PolicyKind::Sts), .. }
            )
        )
    }

    /// What it means for recipients that no host of their route could be used: what it said means what
    /// [`Outcome::of_reply`] says, and all else may pass.
    #[must_use]
    pub fn unreachable(cause: Cause) -> Self {
        match cause {
            Cause::Reply { host: Some(host), phase, reply } => Self::of_reply(&host, phase, reply, None),
            cause => Self::Deferred(cause),
        }
    }

    /// The cause, unless delivered.
    #[must_use]
    pub const fn cause(&self) -> Option<&Cause> {
        match self {
            Self::Delivered(_) => None,
            Self::Deferred(cause) | Self::Failed(cause) => Some(cause),
        }
    }
}

impl Cause {
    /// The status code for reports (RFC 3463), of class 4 or 5 as the outcome has it.
    #[must_use]
    pub fn status(&self, permanent: bool) -> EnhancedCode {
        let class = if permanent { 5 } else { 4 };
        let code = match self {
            Self::Reply { reply, .. } => {
                return match reply.enhanced() {
                    Some(code) if code.class == class => code,
                    _ => EnhancedCode::new(class, 0, 0),
                };
            }
            Self::Route(error) => error.status(),
            Self::Connect { .. } | Self::Unknown { .. } => EnhancedCode::new(class, 4, 1),
            Self::Tls { .. } => EnhancedCode::new(class, 7, 10),
            Self::Lacks { feature, .. } => feature.status(),
            Self::LeftOver { .. } => EnhancedCode::new(class, 5, 3),
            Self::Local(LocalFault::NoMailbox) => EnhancedCode::new(class, 1, 1),
            Self::Local(LocalFault::MailboxFull) => EnhancedCode::new(class, 2, 2),
            Self::Local(_) => EnhancedCode::new(class, 3, 0),
            Self::Expired(_) => EnhancedCode::new(class, 4, 7),
            Self::Suppressed => EnhancedCode::new(class, 7, 1),
            Self::Cancelled | Self::Damaged | Self::Noted(_) => EnhancedCode::new(class, 0, 0),
        };
        EnhancedCode { class, ..code }
    }

    /// The host it is about, if any.
    #[must_use]
    pub fn host(&self) -> Option<&Arc<Host>> {
        match self {
            Self::Reply { host, .. } => host.as_ref(),
            Self::Connect { host, .. }
            | Self::Tls { host, .. }
            | Self::Lacks { host, .. }
            | Self::LeftOver { host }
            | Self::Unknown { host } => Some(host),
            _ => None,
        }
    }

    /// The reply it is about, if any.
    #[must_use]
    pub const fn reply(&self) -> Option<&Reply> {
        match self {
            Self::Reply { reply, .. } => Some(reply),
            _ => None,
        }
    }
}

impl fmt::Display for Cause {
    /// One line for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reply { host: Some(host), phase, reply } => {
                write!(f, "{host} said in reply to {}: {reply}", phase.as_str())
            }
            Self::Reply { host: None, phase, reply } => write!(f, "in reply to {}: {reply}", phase.as_str()),
            Self::Route(error) => write!(f, "{error}"),
            Self::Connect { host, fault } => write!(f, "{host}: {fault}"),
            Self::Tls { host, demand: Demand::Verified(by), refused, .. } => {
                write!(f, "{by} requires a certificate valid for {}; {refused}", host.name)
            }
            Self::Tls { host, demand, refused, .. } => write!(f, "{host}: {demand}; {refused}"),
            Self::Lacks { host, feature } => write!(f, "{host}: {feature}"),
            Self::Unknown { host } => {
                write!(
                    f,
                    "{host}: the connection ended before the message was answered; it may have been delivered"
                )
            }
            Self::LeftOver { host } => write!(f, "{host} takes fewer recipients at once"),
            Self::Local(fault) => write!(f, "{fault}"),
            Self::Expired(None) => f.write_str("could not be delivered in time"),
            Self::Expired(Some(last)) => write!(f, "could not be delivered in time; last: {last}"),
            Self::Suppressed => f.write_str("the recipient is suppressed"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Damaged => f.write_str("the stored message is damaged"),
            Self::Noted(None) => f.write_str("it failed, and why was not noted"),
            Self::Noted(Some(note)) => f.write_str(note),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::address::Domain;

    #[test]
    fn a_reply_means_the_same_everywhere() {
        let host = Arc::new(Host::new(Domain::parse("mx.test").unwrap(), 25));
        let of = |phase, code| Outcome::of_reply(&host, phase, Reply::plain(code, "x"), None);
        assert!(matches!(of(Phase::Content, 250), Outcome::Delivered(_)));
        for (phase, code) in [
            (Phase::Rcpt, 452),
            (Phase::Rcpt, 552), // RFC 5321 §4.5.3.1.10
            (Phase::Mail, 421),
            (Phase::Content, 354), // of the wrong class, so never success
            (Phase::Rcpt, 250),
            (Phase::Data, 250),
            (Phase::Greeting, 421),
            (Phase::Greeting, 550), // blocked, which is no word about the recipients
            (Phase::Auth, 535),
        ] {
            assert!(matches!(of(phase, code), Outcome::Deferred(_)), "{phase:?} {code}");
        }
        for (phase, code) in [
            (Phase::Rcpt, 550),
            (Phase::Content, 552),
            (Phase::Greeting, 521),
            (Phase::Greeting, 554),
            (Phase::Mail, 553),
        ] {
            assert!(matches!(of(phase, code), Outcome::Failed(_)), "{phase:?} {code}");
        }
    }

    #[test]
    fn a_status_has_the_class_of_the_outcome() {
        let odd = Cause::Reply { host: None, phase: Phase::Rcpt, reply: Reply::plain(552, "full") };
        assert_eq!(odd.status(false).to_string(), "4.0.0");
        assert_eq!(Cause::Route(RouteError::NullMx).status(true).to_string(), "5.1.10");
        assert_eq!(Cause::Expired(None).status(true).to_string(), "5.4.7");
    }
}
