//! A handler decides about mail: whom to talk to, what to accept, where it goes.
//!
//! [`Handler::connect`] is asked once per connection and gives a [`Conversation`], which keeps
//! whatever a session must remember; its methods are called in the order of the dialogue, one at a
//! time. What a method returns is what the client is told: replies are values. A decision that needs
//! no waiting costs next to nothing: return `Box::pin(async { Ok(()) })`.
//!
//! It does not deal with the protocol: order of commands, limits, TLS and pipelining are settled
//! before a method is called.

use std::net::SocketAddr;
use std::sync::Arc;

use super::body::BodyStream;
use crate::BoxFuture;
use crate::smtp::TlsInfo;
use crate::smtp::command::Lookup;
use crate::smtp::params::{Mail, Priority, Rcpt};
use crate::smtp::reply::{EnhancedCode, Reply};
use crate::smtp::sasl::Login;
use crate::smtp::server::Protocol;

/// Decides whom to talk to, and starts a [`Conversation`] with each.
pub trait Handler: Send + Sync + 'static {
    /// A connection came, before the greeting.
    ///
    /// # Errors
    /// The reply to greet with instead: `554`, `521` from a host that takes no mail at all
    /// ([`takes_no_mail`]), or `421`. After 5xx the client has ten seconds to take its leave, and hears
    /// 503 to all else (RFC 5321 §3.1); after 421 the connection is closed. The same is asked again
    /// when a trusted proxy names its client by XCLIENT.
    fn connect<'a>(&'a self, peer: &'a Peer) -> BoxFuture<'a, Result<Box<dyn Conversation>, Reply>>;
}

/// The handler's side of one session. Only [`Conversation::message`] must be written; as they are,
/// the other methods refuse every login and every recipient.
pub trait Conversation: Send {
    /// Somebody logs in. Called only where AUTH was offered. A refusal is delayed, longer each time.
    ///
    /// # Errors
    /// The reply that refuses: 535 5.7.8, the same for an unknown user and a wrong password.
    fn authenticate<'a>(
        &'a mut self,
        login: &'a Login,
        session: &'a SessionInfo,
    ) -> BoxFuture<'a, Result<(), Reply>> {
        let _ = (login, session);
        Box::pin(async { Err(bad_credentials()) })
    }

    /// MAIL: a transaction begins. The default accepts every sender.
    ///
    /// # Errors
    /// The reply that refuses the sender, 4xx or 5xx.
    fn sender<'a>(
        &'a mut self,
        mail: &'a Mail,
        session: &'a SessionInfo,
    ) -> BoxFuture<'a, Result<(), Reply>> {
        let _ = (mail, session);
        Box::pin(async { Ok(()) })
    }

    /// MAIL had a priority other than 0 (RFC 6710): the one that counts. What comes out here is in
    /// [`Transaction::mail`], and the client is told. The default takes it from users, and lets nobody
    /// else be more urgent than others.
    fn priority(&self, wanted: Priority, session: &SessionInfo) -> Priority {
        if session.user.is_some() { wanted } else { wanted.min(Priority::default()) }
    }

    /// RCPT: another recipient. The default refuses, because a server that takes mail for
    /// everybody from everybody is an open relay.
    ///
    /// # Errors
    /// The reply that refuses this recipient, 4xx or 5xx; the others stay.
    fn recipient<'a>(
        &'a mut self,
        rcpt: &'a Rcpt,
        session: &'a SessionInfo,
    ) -> BoxFuture<'a, Result<(), Reply>> {
        let _ = (rcpt, session);
        Box::pin(async { Err(relaying_denied()) })
    }

    /// The content comes. The future runs while the client sends; what it does not read from
    /// `body`, the client cannot send. A positive verdict takes responsibility for the message: give
    /// it only when the message is safe. When `body` ends in an error the message was broken off;
    /// nothing of it may be kept, and the verdict is not used.
    fn message(&mut self, transaction: Transaction, body: BodyStream) -> BoxFuture<'_, Verdict>;

    /// VRFY: who is that? Asked only where [`Config::vrfy`](crate::smtp::server::Config::vrfy) is set.
    /// What is in the reply (RFC 5321 §3.5.2) is given away to whoever asks; 16 KiB of it at most, and
    /// UTF-8 only to clients that read it. The default tells nothing.
    fn verify<'a>(&'a mut self, lookup: &'a Lookup, session: &'a SessionInfo) -> BoxFuture<'a, Reply> {
        let _ = (lookup, session);
        let text = "cannot verify, but will try to deliver";
        Box::pin(async move { Reply::new(252, EnhancedCode::new(2, 0, 0), text) })
    }

    /// EXPN: who is on that list? Asked only where [`Config::expn`](crate::smtp::server::Config::expn)
    /// is set; otherwise as [`Conversation::verify`], with a mailbox on each line of the reply.
    fn expand<'a>(&'a mut self, lookup: &'a Lookup, session: &'a SessionInfo) -> BoxFuture<'a, Reply> {
        let _ = (lookup, session);
        Box::pin(async { Reply::new(502, EnhancedCode::new(5, 5, 1), "EXPN is not offered") })
    }

    /// The transaction is over: its message was settled or broken off, or there will be none.
    fn reset(&mut self) {}
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Our address that it connected to.
    pub local: SocketAddr,
}

/// What is known about a session.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SessionInfo {
    /// Who is at the other end: the client itself, where a trusted proxy named it by XCLIENT.
    pub peer: Peer,
    /// Which protocol is spoken.
    pub protocol: Protocol,
    /// The name that the client gave, as it gave it; `None` before EHLO or HELO. It proves nothing.
    pub hello: Option<Box<str>>,
    /// Whether the client said EHLO.
    pub extended: bool,
    /// The TLS in use.
    pub tls: Option<TlsInfo>,
    /// The user that logged in.
    pub user: Option<Box<str>>,
}

impl SessionInfo {
    /// A session that has just begun.
    #[must_use]
    pub const fn new(peer: Peer) -> Self {
        Self { peer, protocol: Protocol::Smtp, hello: None, extended: false, tls: None, user: None }
    }
}

/// The envelope of a message that is being received.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Transaction {
    /// The sender and the message's parameters.
    pub mail: Mail,
    /// The recipients that were accepted, in order; at least one.
    pub recipients: Vec<Rcpt>,
    /// The session that it comes from.
    pub session: Arc<SessionInfo>,
}

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// One reply for all recipients.
    All(Reply),
    /// One reply for each recipient, in order. SMTP has room for one only: where it is spoken, 2xx
    /// for any recipient stands for all, else the client would send the message again.
    Each(Vec<Reply>),
}

impl From<Reply> for Verdict {
    fn from(reply: Reply) -> Self {
        Self::All(reply)
    }
}

/// 521 5.3.2, the greeting of a host that takes no mail at all (RFC 7504 §3).
#[must_use]
pub fn takes_no_mail() -> Reply {
    Reply::new(521, EnhancedCode::new(5, 3, 2), "this host takes no mail")
}

/// 556 5.1.10, the answer to a recipient in a domain that says by its DNS that it takes no mail
/// (RFC 7504 §3, RFC 7505 §4.1).
#[must_use]
pub fn domain_takes_no_mail() -> Reply {
    Reply::new(556, EnhancedCode::new(5, 1, 10), "the recipient's domain takes no mail")
}

/// 535 5.7.8, which says neither that the user exists nor that it does not.
pub(crate) fn bad_credentials() -> Reply {
    Reply::new(535, EnhancedCode::new(5, 7, 8), "authentication credentials invalid")
}

/// 550 5.7.1
pub(crate) fn relaying_denied() -> Reply {
    Reply::new(550, EnhancedCode::new(5, 7, 1), "relaying denied")
}
