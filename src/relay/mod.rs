//! A relay is a handler that stores what it accepts in the engine, which delivers it.
//!
//! It joins the two halves of the crate and is the only part that knows both:
//!
//! ```no_run
//! # async fn run(engine: postroad::delivery::Engine, tls: postroad::net::tls::ServerTls)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! use postroad::relay::{Relay, Rules};
//! use postroad::server::{Server, ServerOptions};
//! use postroad::smtp::address::EhloName;
//!
//! let hostname = EhloName::new("mail.example.com")?;
//! let mut rules = Rules::new(hostname.clone());
//! rules.local = vec!["example.com".parse()?];
//! rules.relay_from = vec!["192.0.2.0/24".parse()?];
//! let server = Server::builder(Relay::new(engine, rules), ServerOptions::new(hostname))
//!     .listen("0.0.0.0:25")
//!     .tls(tls)
//!     .start()
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! Who may send what is decided at RCPT by the *parsed* domain and nothing else: `user%else@where`,
//! source routes and quoted local parts are letters of a local part, which nobody here reads. 250 is
//! said when the message is on stable storage, and never before.
//!
//! It does not check senders (SPF, DKIM, DMARC), and it looks into no mailbox: whether a user of a
//! local domain exists is the final delivery's to know. Wrap it in a [`Handler`] of your own for more.

mod gather;
mod users;

use std::net::IpAddr;
use std::sync::Arc;

use tracing::{debug, info};

pub use users::{Authenticator, Users};

use self::gather::{Unfit, gather};
use crate::BoxFuture;
use crate::delivery::Engine;
use crate::message::{MessageId, Received, With};
use crate::server::{
    BodyStream, Conversation, Handler, Network, Peer, SessionInfo, Transaction, Verdict, bad_credentials,
    relaying_denied,
};
use crate::smtp::address::{Domain, EhloName, ForwardPath, Mailbox};
use crate::smtp::params::{Mail, Rcpt};
use crate::smtp::reply::{EnhancedCode, Reply};
use crate::smtp::sasl::Login;
use crate::spool::SpoolError;

/// Who may send mail where. The defaults let nobody send anything.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Rules {
    /// Our name, for Received.
    pub hostname: EhloName,
    /// Domains whose mail is taken from everybody. Default: none.
    pub local: Vec<Domain>,
    /// Networks whose hosts may send to every domain. Default: none, not even loopback: a web
    /// server on the same machine may be talked into connecting.
    pub relay_from: Vec<Network>,
    /// Checks the logins of users, who may send to every domain. Default: nobody can log in. Offer
    /// AUTH too, in the server's options.
    pub users: Option<Arc<dyn Authenticator>>,
    /// Where mail to a bare `<postmaster>` goes. Default: `postmaster` at the first local domain;
    /// without one it is refused (RFC 5321 §4.5.1 then does not ask for it).
    pub postmaster: Option<Mailbox>,
    /// How many hosts a message may have passed before it is taken to go round in circles. Default
    /// 100, as RFC 5321 §6.3 has it.
    pub max_hops: usize,
}

impl Rules {
    /// Nobody may send anything, through a host of this name.
    #[must_use]
    pub const fn new(hostname: EhloName) -> Self {
        Self {
            hostname,
            local: Vec::new(),
            relay_from: Vec::new(),
            users: None,
            postmaster: None,
            max_hops: 100,
        }
    }

    /// Whether mail from this session to this recipient is taken.
    #[must_use]
    pub fn admits(&self, to: &ForwardPath, peer: IpAddr, user: Option<&str>) -> bool {
        match to {
            ForwardPath::Postmaster => self.postmaster().is_some(),
            ForwardPath::Mailbox(mailbox) => {
                user.is_some()
                    || self.local.contains(mailbox.domain())
                    || self.postmaster.as_ref() == Some(mailbox)
                    || self.relay_from.iter().any(|network| network.contains(peer))
            }
        }
    }

    fn postmaster(&self) -> Option<Mailbox> {
        self.postmaster.clone().or_else(|| Mailbox::parse(&format!("postmaster@{}", self.local.first()?)).ok())
    }
}

/// Accepts mail by [`Rules`] and hands it to an [`Engine`].
#[derive(Debug, Clone)]
pub struct Relay(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    engine: Engine,
    rules: Rules,
}

impl Relay {
    /// A relay with these rules.
    #[must_use]
    pub fn new(engine: Engine, rules: Rules) -> Self {
        Self(Arc::new(Shared { engine, rules }))
    }
}

impl Handler for Relay {
    fn connect<'a>(&'a self, _: &'a Peer) -> BoxFuture<'a, Result<Box<dyn Conversation>, Reply>> {
        let session = Session(Arc::clone(&self.0));
        Box::pin(async { Ok(Box::new(session) as Box<dyn Conversation>) })
    }
}

struct Session(Arc<Shared>);

impl Conversation for Session {
    fn authenticate<'a>(
        &'a mut self,
        login: &'a Login,
        session: &'a SessionInfo,
    ) -> BoxFuture<'a, Result<(), Reply>> {
        Box::pin(async {
            let Some(users) = &self.0.rules.users else { return Err(bad_credentials()) };
            if users.is_valid(login).await {
                info!(peer = %session.peer.address, user = login.user(), "logged in");
                Ok(())
            } else {
                info!(peer = %session.peer.address, "login refused");
                Err(bad_credentials())
            }
        })
    }

    fn recipient<'a>(
        &'a mut self,
        rcpt: &'a Rcpt,
        session: &'a SessionInfo,
    ) -> BoxFuture<'a, Result<(), Reply>> {
        let admitted = self.0.rules.admits(&rcpt.to, session.peer.address.ip(), session.user.as_deref());
        if !admitted {
            debug!(peer = %session.peer.address, to = %rcpt.to, "relaying denied");
        }
        Box::pin(async move { if admitted { Ok(()) } else { Err(relaying_denied()) } })
    }

    fn message(&mut self, transaction: Transaction, body: BodyStream) -> BoxFuture<'_, Verdict> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            match shared.take(transaction, body).await {
                Ok(id) => Reply::new(250, EnhancedCode::new(2, 0, 0), &format!("queued as {id}")).into(),
                Err(unfit) => {
                    info!(%unfit, "message not taken");
                    refusal(&unfit).into()
                }
            }
        })
    }
}
