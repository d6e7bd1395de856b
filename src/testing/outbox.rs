//! An outbox is what an app's own tests look at: what was sent, as values.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::watch;

use super::lock;
use super::network::address;
use crate::BoxFuture;
use crate::attempt::{Accepted, Cause, Deliver, LocalFault, LocalItem, Outcome, Phase};
use crate::delivery::{Engine, EngineBuilder, Event, Observer, StartError};
use crate::message::{Content, MessageId};
use crate::route::{LocalId, Resolve, Route, RouteError};
use crate::smtp::address::{Domain, EhloName};
use crate::smtp::params::{Mail, Rcpt};
use crate::smtp::reply::{EnhancedCode, Reply};
use crate::spool::MemorySpool;

/// Takes what an engine sends, in place of the world. Clones are the same one.
///
/// Nothing leaves the process: every domain is delivered to the outbox. What the app's code gets is a real
/// [`Engine`], over a spool in memory.
///
/// ```
/// # use mail_builder::MessageBuilder;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use postroad::testing::Outbox;
///
/// let outbox = Outbox::new();
/// outbox.refuse("nobody@example.org");
/// let engine = outbox.engine().await?;
///
/// // The code under test.
/// let mail = MessageBuilder::new()
///     .from("shop@example.com")
///     .to(vec!["ada@example.org", "nobody@example.org"])
///     .subject("Your order")
///     .text_body("It is on its way.");
/// let delivery = engine.submit(mail).await?.finished().await;
/// assert!(!delivery.is_complete(), "one of them was refused");
///
/// let sent = &outbox.sent()[0];
/// assert_eq!(sent.from(), "shop@example.com");
/// assert_eq!(sent.to(), ["ada@example.org"]);
/// assert_eq!(sent.field("Subject").as_deref(), Some("Your order"));
/// assert!(sent.body().starts_with(b"It is on its way."));
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct Outbox {
    state: Arc<Mutex<State>>,
    count: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    /// The messages in the order in which they were accepted.
    order: Vec<MessageId>,
    sent: BTreeMap<MessageId, Sent>,
    refused: BTreeMap<Box<str>, Reply>,
}

/// A message that was sent.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Sent {
    /// Its id, as the receipt has it.
    pub id: MessageId,
    /// The sender and what it asked for.
    pub mail: Mail,
    /// Whom it was delivered to, those of one domain together.
    pub recipients: Vec<Rcpt>,
    /// Header and body, as they would go over the wire.
    pub content: Bytes,
}

impl Sent {
    /// The sender's address; empty for the null sender, which reports have.
    #[must_use]
    pub fn from(&self) -> String {
        self.mail.from.mailbox().map(ToString::to_string).unwrap_or_default()
    }

    /// The recipients' addresses.
    #[must_use]
    pub fn to(&self) -> Vec<String> {
        self.recipients.iter().map(|rcpt| address(rcpt).into()).collect()
    }

    /// The octets of the header, with the empty line behind it.
    #[must_use]
    pub fn header(&self) -> Bytes {
        self.content.slice(..self.body_at())
    }

    /// The octets behind the header.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.content.slice(self.body_at()..)
    }

    /// The first field of this name, unfolded and without white space around it.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<String> {
        let header = self.header();
        let text = String::from_utf8_lossy(&header).replace("\r\n ", " ").replace("\r\n\t", " ");
        text.lines().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.trim_end().eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }

    fn body_at(&self) -> usize {
        memchr::memmem::find(&self.content, b"\r\n\r\n").map_or(self.content.len(), |at| at + 4)
    }
}

impl Outbox {
    /// An empty outbox.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An engine over a spool in memory, whose mail all goes here. Several may be started.
    ///
    /// # Errors
    /// [`StartError`]
    pub async fn engine(&self) -> Result<Engine, StartError> {
        let name = EhloName::new(NAME).map_err(|_| StartError::NoRoutes)?;
        self.attach(Engine::builder(MemorySpool::new(), name)).start().await
    }

    /// Makes the outbox the place where all mail of an engine goes: for one with options, a signer or a
    /// spool of its own. Takes the place of its routes.
    pub fn attach(&self, builder: EngineBuilder) -> EngineBuilder {
        builder
            .direct(Here)
            .local(LocalId::new(OUTBOX), Arc::new(self.clone()))
            .observer(Arc::new(Order(Arc::clone(&self.state))))
    }

    /// Mail to this address is refused for good from now on (550 5.1.1), and its sender told, as ever, by
    /// a report, which is found here too.
    pub fn refuse(&self, address: &str) {
        self.refuse_with(address, Reply::new(550, EnhancedCode::new(5, 1, 1), "no such mailbox"));
    }

    /// Mail to this address is answered so from now on: put off with a 4xx reply, and tried again on the
    /// engine's retry curve.
    pub fn refuse_with(&self, address: &str, reply: Reply) {
        lock(&self.state).refused.insert(address.to_ascii_lowercase().into(), reply);
    }

    /// Mail to this address is taken again.
    pub fn accept(&self, address: &str) {
        lock(&self.state).refused.remove(address.to_ascii_lowercase().as_str());
    }

    /// What was sent so far, in the order in which it was submitted. Reports to senders are among it.
    #[must_use]
    pub fn sent(&self) -> Vec<Sent> {
        let state = lock(&self.state);
        let known = state.order.iter().filter_map(|id| state.sent.get(id));
        // Reports are not submitted.
        let others = state.sent.iter().filter(|(id, _)| !state.order.contains(id)).map(|(_, sent)| sent);
        known.chain(others).cloned().collect()
    }

    /// What was sent to an address.
    #[must_use]
    pub fn sent_to(&self, address: &str) -> Vec<Sent> {
        let is_meant = |to: &String| to.eq_ignore_ascii_case(address);
        self.sent().into_iter().filter(|sent| sent.to().iter().any(is_meant)).collect()
    }

    /// Waits until so many messages were sent, and returns them: for code that submits and drops the
    /// receipt.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn wait_for(&self, messages: usize) -> Vec<Sent> {
        let mut count = self.count.subscribe();
        // Fails only when the outbox is gone.
        let _ = count.wait_for(|count| *count >= messages).await;
        self.sent()
    }

    /// Forgets what was sent.
    pub fn clear(&self) {
        let mut state = lock(&self.state);
        state.order.clear();
        state.sent.clear();
        drop(state);
        self.count.send_replace(0);
    }

    fn take(&self, item: &LocalItem, content: Bytes) -> Vec<Outcome> {
        let mut state = lock(&self.state);
        let mut outcomes = Vec::with_capacity(item.recipients.len());
        let mut taken = Vec::new();
        for rcpt in &item.recipients {
            let refused = state.refused.get(address(rcpt).to_ascii_lowercase().as_str()).cloned();
            outcomes.push(match refused {
                None => {
                    taken.push(rcpt.clone());
                    Outcome::Delivered(Accepted::locally())
                }
                Some(reply) => {
                    let permanent = reply.is_permanent();
                    let cause = Cause::Reply { host: None, phase: Phase::Rcpt, reply };
                    if permanent { Outcome::Failed(cause) } else { Outcome::Deferred(cause) }
                }
            });
        }
        if !taken.is_empty() {
            let sent = state.sent.entry(item.id).or_insert_with(|| Sent {
                id: item.id,
                mail: item.mail.clone(),
                recipients: Vec::new(),
                content,
            });
            sent.recipients.extend(taken);
        }
        let count = state.sent.len();
        drop(state);
        self.count.send_replace(count);
        outcomes
    }
}

impl Deliver for Outbox {
    fn deliver<'a>(&'a self, item: &'a LocalItem, content: Content) -> BoxFuture<'a, Vec<Outcome>> {
        Box::pin(async move {
            match whole(content).await {
                Some(content) => self.take(item, content),
                None => {
                    vec![Outcome::Deferred(Cause::Local(LocalFault::Storage)); item.recipients.len()]
                }
            }
        })
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("sent", &lock(&self.state).sent.len()).finish()
    }
}

async fn whole(content: Content) -> Option<Bytes> {
    match content {
        Content::Whole(octets) => Some(octets),
        Content::Stream { mut reader, .. } => {
            let mut octets = Vec::new();
            while let Some(chunk) = reader.chunk().await.ok()? {
                octets.extend_from_slice(&chunk);
            }
            Some(octets.into())
        }
    }
}

/// Every domain is served here.
#[derive(Debug)]
struct Here;

impl Resolve for Here {
    fn route<'a>(&'a self, _: &'a Domain) -> BoxFuture<'a, Result<Route, RouteError>> {
        Box::pin(async { Ok(Route::Local(LocalId::new(OUTBOX))) })
    }
}

/// Notes the order in which messages are accepted.
struct Order(Arc<Mutex<State>>);

impl Observer for Order {
    fn on_event(&self, event: &Event<'_>) {
        if let Event::Accepted { message, .. } = event {
            lock(&self.0).order.push(*message);
        }
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Order")
    }
}

const NAME: &str = "outbox.invalid";
const OUTBOX: &str = "outbox";
