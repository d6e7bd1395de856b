//! A server accepts mail: it listens, speaks the protocol and asks a [`Handler`] what to accept.
//!
//! A handler is written in a few lines, and what it returns is what clients are told:
//!
//! ```no_run
//! use postroad::BoxFuture;
//! use postroad::server::{
//!     BodyStream, Conversation, Handler, Peer, Server, ServerOptions, SessionInfo, Transaction, Verdict,
//! };
//! use postroad::smtp::address::EhloName;
//! use postroad::smtp::params::Rcpt;
//! use postroad::smtp::reply::{EnhancedCode, Reply};
//!
//! struct Inbox;
//! struct OneSession;
//!
//! impl Handler for Inbox {
//!     fn connect<'a>(&'a self, _: &'a Peer) -> BoxFuture<'a, Result<Box<dyn Conversation>, Reply>> {
//!         Box::pin(async { Ok(Box::new(OneSession) as Box<dyn Conversation>) })
//!     }
//! }
//!
//! impl Conversation for OneSession {
//!     fn recipient<'a>(
//!         &'a mut self,
//!         rcpt: &'a Rcpt,
//!         _: &'a SessionInfo,
//!     ) -> BoxFuture<'a, Result<(), Reply>> {
//!         Box::pin(async move {
//!             match rcpt.to.mailbox() {
//!                 Some(mailbox) if mailbox.domain().as_str() == "example.org" => Ok(()),
//!                 _ => Err(Reply::new(550, EnhancedCode::new(5, 7, 1), "not here")),
//!             }
//!         })
//!     }
//!
//!     fn message(&mut self, transaction: Transaction, mut body: BodyStream) -> BoxFuture<'_, Verdict> {
//!         Box::pin(async move {
//!             match body.collect(1 << 20).await {
//!                 Ok(octets) => {
//!                     println!("{} octets for {} people", octets.len(), transaction.recipients.len());
//!                     Reply::new(250, EnhancedCode::new(2, 0, 0), "thanks").into()
//!                 }
//!                 Err(_) => Reply::new(552, EnhancedCode::new(5, 3, 4), "too large").into(),
//!             }
//!         })
//!     }
//! }
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let options = ServerOptions::new(EhloName::new("mail.example.org")?);
//! let server = Server::builder(Inbox, options).listen("0.0.0.0:25").start().await?;
//! # Ok(()) }
//! ```
//!
//! From the bottom up: [`smtp::server`](crate::smtp::server) is the protocol, `wire` a socket with its
//! buffers, `conversation` one session on one wire, `accept` the sockets that listen, `serve` the whole.
//! What keeps one client from taking everything: `limits` on connections, `conduct` that is remembered,
//! a `budget` for content, a header from a [`proxy`] that says who it is. Nothing here stores or delivers mail: that is the
//! handler's, and [`relay`](crate::relay) has one that does.

mod accept;
mod body;
mod budget;
mod conduct;
mod conversation;
mod handler;
mod limits;
mod network;
mod options;
pub mod proxy;
mod serve;
mod trace;
mod wire;

pub use body::{BodyError, BodyStream};
pub use handler::{
    Conversation, Handler, Peer, SessionInfo, Transaction, Verdict, domain_takes_no_mail, takes_no_mail,
};
pub(crate) use handler::{bad_credentials, relaying_denied};
pub use network::{Network, NetworkError};
pub use options::{ServerOptions, SessionTrace};
pub use serve::{Builder, RunningServer, Server, ServerStats, StartError};
