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
//! let relay = Relay::new(engine, rules);
//! let mut options = ServerOptions::new(hostname);
//! relay.offer(&mut options.session);
//! let server = Server::builder(relay, options)
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
//! An engine that signs does so for whoever may send to every domain, by the From field and nothing else:
//! each user, and each host in [`Rules::relay_from`], can have mail signed in the name of every domain that
//! the engine has a key for. Where these belong to different people, give each an engine with keys of its
//! own, or compare login and From in a [`Handler`] in front.
//!
//! It does not check who a sender is (SPF, DKIM, DMARC), and it looks into no mailbox: whether a user of a
//! local domain exists is the final delivery's to know. Wrap it in a [`Handler`] of your own for more.

mod gather;
mod senders;
#[cfg(test)]
mod tests;
mod users;

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tracing::{debug, info};

pub use senders::SenderCheck;
pub use users::{Authenticator, Users};

use self::gather::{Gathered, Unfit, gather};
use self::senders::no_such_return;
use crate::BoxFuture;
use crate::delivery::{Engine, NewMail, SubmitError};
use crate::message::{HeaderError, MessageId, Received, Srs, With};
use crate::server::{
    BodyStream, Conversation, Handler, Network, Peer, SessionInfo, Transaction, Verdict, bad_credentials,
    relaying_denied,
};
use crate::smtp::address::{Domain, EhloName, ForwardPath, Mailbox};
use crate::smtp::params::{MAX_ORCPT, Mail, OriginalRecipient, Priority, Rcpt, XText};
use crate::smtp::reply::{EnhancedCode, Reply};
use crate::smtp::sasl::{Login, ScramKeys};
use crate::smtp::server::{Config, Protocol};
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
    /// Networks whose hosts are believed when they say how urgent a message is (RFC 6710 §4), besides
    /// users and those in `relay_from`. Mail of others is never more urgent than 0. Default: none.
    pub priority_from: Vec<Network>,
    /// Checks the logins of users, who may send to every domain. Default: nobody can log in. Offer
    /// AUTH too, in the server's options.
    pub users: Option<Arc<dyn Authenticator>>,
    /// Where mail to a bare `<postmaster>` goes. Default: `postmaster` at the first local domain;
    /// without one it is refused (RFC 5321 §4.5.1 then does not ask for it).
    pub postmaster: Option<Mailbox>,
    /// Looks up the domains of strangers' senders at MAIL: mail from a domain that takes none is refused
    /// with 550 5.7.27 (RFC 7505 §4.2). Submitters, clients on this machine and the null sender are not
    /// looked up. Default: none, nobody is. Give it the DNS that the engine has, on a host that takes mail
    /// from everybody.
    pub sender_check: Option<SenderCheck>,
    /// What rewrote the senders of forwarded mail: what comes back to such an address, from whomever, goes
    /// to the original sender. Its domain need not be local. Default: none.
    pub srs: Option<Arc<Srs>>,
    /// How many hosts a message may have passed before it is taken to go round in circles. Default
    /// 100, as RFC 5321 §6.3 has it.
    pub max_hops: usize,
    /// How many octets of messages are held in memory at once, over all sessions, until they are
    /// stored. Beyond, messages go to the spool while they arrive, which costs it more writes; one
    /// whose header is not even complete gets 452 4.3.1. Default 64 MiB; raise it where many send
    /// at once and memory is plenty.
    pub max_in_memory: usize,
}

impl Rules {
    /// Nobody may send anything, through a host of this name.
    #[must_use]
    pub const fn new(hostname: EhloName) -> Self {
        Self {
            hostname,
            local: Vec::new(),
            relay_from: Vec::new(),
            priority_from: Vec::new(),
            users: None,
            postmaster: None,
            sender_check: None,
            srs: None,
            max_hops: 100,
            max_in_memory: 64 * 1024 * 1024,
        }
    }

    /// Whether mail from this session to this recipient is taken.
    #[must_use]
    pub fn admits(&self, to: &ForwardPath, peer: IpAddr, user: Option<&str>) -> bool {
        match to {
            ForwardPath::Postmaster => self.postmaster().is_some(),
            ForwardPath::Mailbox(mailbox) => {
                self.is_submitter(peer, user)
                    || self.local.contains(mailbox.domain())
                    || self.postmaster.as_ref() == Some(mailbox)
            }
        }
    }

    /// Whether a session may send to every domain: a user's, or one from `relay_from`. Only these may
    /// have mail held until a time of their own (RFC 4865 §4 is for submission).
    #[must_use]
    pub fn is_submitter(&self, peer: IpAddr, user: Option<&str>) -> bool {
        user.is_some() || self.relay_from.iter().any(|network| network.contains(peer))
    }

    /// The priority that a session's message gets, of the one that it asks for.
    #[must_use]
    pub fn priority(&self, asked: Priority, peer: IpAddr, user: Option<&str>) -> Priority {
        let believed =
            self.is_submitter(peer, user) || self.priority_from.iter().any(|network| network.contains(peer));
        if believed { asked } else { asked.min(Priority::default()) }
    }

    fn postmaster(&self) -> Option<Mailbox> {
        self.postmaster
            .clone()
            .or_else(|| Mailbox::parse(&format!("postmaster@{}", self.local.first()?)).ok())
    }
}

/// Accepts mail by [`Rules`] and hands it to an [`Engine`].
#[derive(Clone)]
pub struct Relay(Arc<RwLock<Arc<Shared>>>);

struct Shared {
    engine: Engine,
    rules: Rules,
    /// A permit for each octet of [`Rules::max_in_memory`] that is free.
    memory: Arc<Semaphore>,
}

impl Relay {
    /// A relay with these rules.
    #[must_use]
    pub fn new(engine: Engine, rules: Rules) -> Self {
        Self(Arc::new(RwLock::new(Shared::new(engine, rules))))
    }

    /// Goes on by other rules, without closing anything: sessions that begin from now on go by them, in
    /// all clones; those that are open keep theirs. Until they end, what they hold in memory is not counted
    /// in the new [`Rules::max_in_memory`].
    pub fn reload(&self, rules: Rules) {
        let mut shared = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *shared = Shared::new(shared.engine.clone(), rules);
    }

    fn now(&self) -> Arc<Shared> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has the server offer what the relay and its engine obey, and most servers do not offer: DELIVERBY,
    /// FUTURERELEASE for [`EngineOptions::max_hold`](crate::delivery::EngineOptions::max_hold),
    /// MT-PRIORITY, and, under TLS, REQUIRETLS. Who gets what it asks for, [`Rules`] say. Nothing of it is
    /// offered without this, and each can be taken back in the options.
    pub fn offer(&self, session: &mut Config) {
        session.deliver_by = Some(0);
        let longest = u32::try_from(self.now().engine.max_hold().as_secs()).unwrap_or(u32::MAX);
        session.future_release = (longest > 0).then_some(longest.min(LONGEST_HOLD));
        session.priority = true;
        session.offer_require_tls = true;
    }
}

impl Shared {
    fn new(engine: Engine, rules: Rules) -> Arc<Self> {
        let memory = Arc::new(Semaphore::new(rules.max_in_memory.min(Semaphore::MAX_PERMITS)));
        Arc::new(Self { engine, rules, memory })
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("rules", &self.now().rules).finish_non_exhaustive()
    }
}

impl Handler for Relay {
    fn connect<'a>(&'a self, _: &'a Peer) -> BoxFuture<'a, Result<Box<dyn Conversation>, Reply>> {
        let session = Session(self.now());
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

    fn sender<'a>(
        &'a mut self,
        mail: &'a Mail,
        session: &'a SessionInfo,
    ) -> BoxFuture<'a, Result<(), Reply>> {
        let (rules, engine) = (&self.0.rules, &self.0.engine);
        let submitter = rules.is_submitter(session.peer.address.ip(), session.user.as_deref());
        let verdict = match mail.hold {
            Some(_) if !submitter => {
                Err(Reply::new(550, EnhancedCode::new(5, 7, 1), "you may not have mail held here"))
            }
            // What is wrong is said before the content comes. It is looked at again when it is stored.
            Some(_) => engine.check_times(mail).map_err(|error| refusal(&error.into())),
            // What runs on this machine is nobody from elsewhere.
            None if !submitter && !session.peer.address.ip().to_canonical().is_loopback() => {
                return Box::pin(async move {
                    let verdict = rules.check_sender(&mail.from).await;
                    if let Err(reply) = &verdict {
                        info!(peer = %session.peer.address, from = %mail.from, %reply, "sender refused");
                    }
                    verdict
                });
            }
            None => Ok(()),
        };
        Box::pin(std::future::ready(verdict))
    }

    fn priority(&self, wanted: Priority, session: &SessionInfo) -> Priority {
        self.0.rules.priority(wanted, session.peer.address.ip(), session.user.as_deref())
    }

    fn keys<'a>(
        &'a mut self,
        user: &'a str,
        _: &'a SessionInfo,
    ) -> BoxFuture<'a, Result<Option<ScramKeys>, Reply>> {
        Box::pin(async {
            match &self.0.rules.users {
                Some(users) => Ok(users.keys(user).await),
                None => Ok(None),
            }
        })
    }

    fn recipient<'a>(
        &'a mut self,
        rcpt: &'a Rcpt,
        session: &'a SessionInfo,
    ) -> BoxFuture<'a, Result<(), Reply>> {
        let rules = &self.0.rules;
        let verdict = match rules.returned(&rcpt.to, || self.0.engine.new_id().time()) {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => {
                debug!(peer = %session.peer.address, to = %rcpt.to, %error, "not a sender of ours");
                Err(no_such_return())
            }
            None if rules.admits(&rcpt.to, session.peer.address.ip(), session.user.as_deref()) => Ok(()),
            None => {
                debug!(peer = %session.peer.address, to = %rcpt.to, "relaying denied");
                Err(relaying_denied())
            }
        };
        Box::pin(std::future::ready(verdict))
    }

    fn message(&mut self, transaction: Transaction, body: BodyStream) -> BoxFuture<'_, Verdict> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            match shared.take(transaction, body).await {
                Ok(id) => {
                    let mut text = String::with_capacity("queued as ".len() + MessageId::TEXT);
                    text.push_str("queued as ");
                    id.push_to(&mut text);
                    Reply::new(250, EnhancedCode::new(2, 0, 0), &text).into()
                }
                Err(unfit) => {
                    info!(%unfit, "message not taken");
                    refusal(&unfit).into()
                }
            }
        })
    }
}

impl Shared {
    async fn take(&self, transaction: Transaction, body: BodyStream) -> Result<MessageId, Unfit> {
        let Transaction { mut mail, mut recipients, session, .. } = transaction;
        let (rules, spool) = (&self.rules, &**self.engine.spool());
        // What others send is passed on as it is, whoever it says that it is from.
        let is_ours = rules.is_submitter(session.peer.address.ip(), session.user.as_deref());
        let signing = if is_ours { self.engine.signing() } else { None };
        let Gathered { body, kind, utf8_header, tls_optional, signing, share: _share } =
            gather(body, mail.body, rules.max_hops, &self.memory, spool, signing).await?;
        // What a next hop must offer follows from the octets, not from what was declared.
        mail.body = kind;
        let id = self.engine.new_id();
        tracing::Span::current().record("id", tracing::field::display(id));
        let mut head = self.received(id, &mail, &recipients, &session);
        if let Some(signing) = signing {
            head = self.engine.signed_head(signing, head).await?;
        }
        // RFC 6531 §3.1: what is said of an ASCII message need not keep it from other hosts.
        mail.smtputf8 = mail.smtputf8 && utf8_header || needs_utf8(&mail, &recipients);
        // RFC 4954 §5: the next host believes us, so we believe only who is one of us.
        if mail.auth.is_some() && !rules.is_submitter(session.peer.address.ip(), None) {
            mail.auth = XText::new("<>", MAX_ORCPT).ok();
        }
        for rcpt in &mut recipients {
            if rcpt.to == ForwardPath::Postmaster
                && let Some(postmaster) = self.rules.postmaster()
            {
                rcpt.orcpt = rcpt.orcpt.take().or_else(|| self.original_postmaster());
                rcpt.to = postmaster.into();
            }
            // Where it has become too old since RCPT, it is refused at RCPT the next time.
            if let Some(original) = rules.returned(&rcpt.to, || id.time()).transpose()? {
                rcpt.orcpt = rcpt.orcpt.take().or_else(|| OriginalRecipient::rfc822(rcpt.to.mailbox()?));
                rcpt.to = original.into();
            }
        }
        let (from, count, octets) = (mail.from.clone(), recipients.len(), body.size());
        // RFC 8689 §3: the parameter overrules the field.
        let tls_optional = tls_optional && !mail.require_tls;
        let mut new = NewMail::new(id, mail, recipients, body);
        (new.head, new.handling.tls_optional) = (head, tls_optional);
        self.engine.accept(new).await?;
        info!(%id, peer = %session.peer.address, %from, recipients = count, octets, "message taken");
        Ok(id)
    }

    /// What reports call a bare postmaster, whose mail goes elsewhere (RFC 3461 §5.2.1 (d)).
    fn original_postmaster(&self) -> Option<OriginalRecipient> {
        let postmaster = Mailbox::parse(&format!("postmaster@{}", self.rules.hostname)).ok()?;
        OriginalRecipient::rfc822(&postmaster)
    }

    fn received(&self, id: MessageId, mail: &Mail, recipients: &[Rcpt], session: &SessionInfo) -> Bytes {
        // The id was made from the wall time of this very moment.
        let mut received = Received::new(self.rules.hostname.clone(), id, id.time());
        received.hello.clone_from(&session.hello);
        received.address = Some(session.peer.address.ip().to_canonical());
        received.with = With {
            extended: session.extended,
            lmtp: session.protocol == Protocol::Lmtp,
            authenticated: session.user.is_some(),
            smtputf8: mail.smtputf8,
        };
        received.tls = session.tls.as_ref().map(|tls| format!("{} {}", tls.version, tls.cipher).into());
        received.recipient = Received::single(recipients);
        received.priority = mail.priority;
        received.to_field()
    }
}

/// RFC 4865 §3: what nine digits can say.
const LONGEST_HOLD: u32 = 999_999_999;

/// Whether no form of an address is ASCII; a domain alone always has one.
fn needs_utf8(mail: &Mail, recipients: &[Rcpt]) -> bool {
    let mut mailboxes = recipients.iter().filter_map(|rcpt| rcpt.to.mailbox()).chain(mail.from.mailbox());
    mailboxes.any(|mailbox| !mailbox.local().is_ascii())
}

/// What a client is told about a message that is not taken.
fn refusal(unfit: &Unfit) -> Reply {
    let (code, enhanced, text) = match unfit {
        Unfit::Header(HeaderError::TooLong | HeaderError::TooManyFields) => {
            (552, EnhancedCode::new(5, 3, 4), "the header is too large")
        }
        Unfit::Loop(_) => (554, EnhancedCode::new(5, 4, 6), "too many hops, this message goes in circles"),
        Unfit::Busy => (452, EnhancedCode::new(4, 3, 1), "too much mail at once, try later"),
        Unfit::Spool(error) | Unfit::Engine(SubmitError::Spool(error)) => match error {
            SpoolError::Full => (452, EnhancedCode::new(4, 3, 1), "insufficient system storage, try later"),
            SpoolError::TooLarge => (552, EnhancedCode::new(5, 3, 4), "message too large"),
            SpoolError::Invalid(_) => (554, EnhancedCode::new(5, 6, 0), "the message cannot be stored"),
            _ => (451, EnhancedCode::new(4, 3, 0), "local error in processing, try later"),
        },
        Unfit::Engine(SubmitError::Message(_)) => {
            (554, EnhancedCode::new(5, 6, 0), "the message cannot be stored")
        }
        Unfit::Engine(error @ (SubmitError::Hold | SubmitError::Release)) => {
            return Reply::new(501, EnhancedCode::new(5, 5, 4), &error.to_string());
        }
        Unfit::Engine(SubmitError::Closed) => {
            (421, EnhancedCode::new(4, 3, 2), "service shutting down, try again later")
        }
        // `Body` is never heard: the session ended the message itself.
        _ => (451, EnhancedCode::new(4, 3, 0), "local error in processing, try later"),
    };
    Reply::new(code, enhanced, text)
}
