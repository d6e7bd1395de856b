//! An embeddable library for SMTP, as layers that a host program wires together: protocol sessions
//! without I/O, MX routing, a connection pool, a durable store-and-forward engine and a server.
//!
//! It exists for programs that send their own mail and want it delivered, not merely handed over, and
//! for programs that are a relay, a gateway or a list server. It is not a mail store, not IMAP, not a
//! spam filter and not a MIME parser; it has no configuration language and no daemon.
//!
//! # The layers, bottom to top
//!
//! Each imports only from those before it, and is of use alone.
//!
//! - [`smtp`]: the protocol, both roles, as state machines that know no socket and no clock
//! - [`clock`]: time and randomness, as arguments
//! - [`hop`]: the next host, what TLS it must show, what it showed
//! - [`message`]: the message as a value: envelope, header, Received, reports
#![cfg_attr(
    feature = "preflight",
    doc = "- [`preflight`]: what DNS says of a sender, before its first message"
)]
#![cfg_attr(feature = "tokio", doc = "- [`pool`]: idle connections, and how many there may be")]
#![cfg_attr(feature = "tokio", doc = "- [`net`]: sockets, TLS, a connection that drives a client session")]
#![cfg_attr(feature = "mta-sts", doc = "- [`https`]: one request to a host with a valid certificate")]
#![cfg_attr(feature = "tokio", doc = "- [`route`]: where mail for a domain goes: by MX, by a table, or here")]
#![cfg_attr(
    feature = "tokio",
    doc = "- [`attempt`]: one try, now: [`Mailer`], the engine's carrier, Maildir"
)]
#![cfg_attr(feature = "tokio", doc = "- [`spool`]: what must not be lost: the durable queue")]
#![cfg_attr(feature = "tokio", doc = "- [`delivery`]: the engine over spool and attempt")]
#![cfg_attr(feature = "tokio", doc = "- [`server`]: accepting mail: sockets that listen, and a handler")]
#![cfg_attr(feature = "tls-rpt", doc = "- [`tls_rpt`]: reports to domains about their TLS")]
#![cfg_attr(feature = "tokio", doc = "- [`relay`]: server and delivery, joined")]
#![cfg_attr(feature = "testing", doc = "- [`testing`]: simulated time, hosts and faults, for tests")]
//!
//! # Paved paths
//!
//! *A program that wants its mail delivered*: durable, to each domain's own hosts, retried, reported.
#![cfg_attr(not(all(feature = "dns", feature = "disk")), doc = "```ignore")]
#![cfg_attr(all(feature = "dns", feature = "disk"), doc = "```no_run")]
//! # use mail_builder::MessageBuilder;
//! # use postroad::{DiskSpool, EhloName, Engine, MxResolver};
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::builder(DiskSpool::open("./spool")?, EhloName::new("mail.example.com")?)
//!     .direct(MxResolver::from_system()?)
//!     .start()
//!     .await?;
//! let mail = MessageBuilder::new()
//!     .from("shop@example.com")
//!     .to("ada@example.org")
//!     .subject("Your order")
//!     .text_body("It is on its way.");
//! let receipt = engine.submit(mail).await?; // on stable storage now
//! let delivery = receipt.finished().await; // an outcome for each recipient
//! # Ok(()) }
//! ```
//!
//! *A program with a provider to relay through*, that wants the answer now and keeps no queue:
#![cfg_attr(not(feature = "tokio"), doc = "```ignore")]
#![cfg_attr(feature = "tokio", doc = "```no_run")]
//! # use postroad::{Credentials, Mailer};
//! # async fn run(mail: mail_builder::MessageBuilder<'_>) -> Result<(), Box<dyn std::error::Error>> {
//! let login = Credentials::new("shop@example.com", "secret");
//! let delivery = Mailer::smarthost("smtp.provider.example:587", login)?.send(mail).await?;
//! # Ok(()) }
//! ```
//! TLS with a valid certificate is required there. `Mailer::cleartext` is a name of its own, and
//! `Mailer::direct` sends to each domain's own hosts.
//!
//! *A relay*: everything from its users, and from everybody what is for its own domains.
#![cfg_attr(not(feature = "tokio"), doc = "```ignore")]
#![cfg_attr(feature = "tokio", doc = "```no_run")]
//! # use postroad::{EhloName, Engine, Relay, Rules, Server, net::tls::ServerTls, server::ServerOptions};
//! # async fn run(engine: Engine, tls: ServerTls) -> Result<(), Box<dyn std::error::Error>> {
//! let hostname = EhloName::new("mail.example.com")?;
//! let mut rules = Rules::new(hostname.clone());
//! rules.local = vec!["example.com".parse()?];
//! let server = Server::builder(Relay::new(engine, rules), ServerOptions::new(hostname))
//!     .listen("0.0.0.0:25")
//!     .tls(tls)
//!     .start()
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! *A relay of your own*: implement `server::Handler`; and implement `route::Resolve`,
//! `net::connect::Connect`, `attempt::Deliver`, `spool::Spool` or `delivery::Observer` where yours
//! differs. The engine runs over other routes and other storage as it is:
#![cfg_attr(not(feature = "tokio"), doc = "```ignore")]
#![cfg_attr(feature = "tokio", doc = "```")]
//! use postroad::attempt::Outcome;
//! use postroad::message::{Envelope, RawMessage};
//! use postroad::route::FixedRoutes;
//! use postroad::smtp::address::Domain;
//! use postroad::spool::MemorySpool;
//! use postroad::{EhloName, Engine};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let routes = FixedRoutes::new().no_mail(Domain::parse("nomail.example")?);
//! let engine = Engine::builder(MemorySpool::new(), EhloName::new("mail.example.com")?)
//!     .direct(routes)
//!     .start()
//!     .await?;
//! let envelope = Envelope::parse("", ["ada@nomail.example"])?;
//! let receipt = engine.submit(RawMessage::new(envelope, "From: a@example.com\r\n\r\nHello\r\n")).await?;
//! let delivery = receipt.finished().await;
//! assert!(matches!(&delivery.recipients[..], [(_, Outcome::Failed(_))]), "{delivery:?}");
//! # Ok(()) }
//! ```
//!
//! *No runtime at all*: drive a session over any octets that you can read and write.
//! ```
//! use bytes::BytesMut;
//! use postroad::smtp::address::EhloName;
//! use postroad::smtp::{Input, Output, client};
//!
//! # let now = std::time::Instant::now();
//! let config = client::Config::new(EhloName::new("client.example")?, client::TlsUse::IfOffered);
//! let mut session = client::Session::new(config, now);
//! let mut input = BytesMut::from("220 mx.example.org\r\n");
//! session.handle(now, Input::Data(&mut input));
//! assert!(matches!(session.poll(), Output::Send(octets) if octets == "EHLO client.example\r\n"));
//! # Ok::<(), postroad::smtp::address::AddressError>(())
//! ```
//!
//! # Guarantees
//!
//! `Ok` from `Engine::submit`, and 250 from a relay, mean that the message is on stable storage. Each
//! recipient then comes to exactly one end. Where a connection ends between the last octet of a message
//! and the reply to it, nobody can know whether it arrived: that has a name, `attempt::Cause::Unknown`,
//! and is tried again. The README has the guarantees in full, the limits, and what is not there yet.
//!
//! # Features
//!
//! `dns` (default) is `MxResolver`, `disk` (default) is `DiskSpool`; both turn on `tokio`, which is all
//! that does I/O. `mta-sts` and `tls-rpt` (default) add policies and reports over HTTPS, `dkim` (default)
//! signatures, and `preflight` a look at a sender's DNS. `testing` is the kit for tests. Without features there are [`smtp`], [`message`], [`hop`] and [`clock`].

use std::pin::Pin;

/// A boxed future, as the methods of the crate's object-safe traits return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

#[cfg(feature = "tokio")]
pub mod attempt;
pub mod clock;
#[cfg(feature = "tokio")]
pub mod delivery;
pub mod hop;
#[cfg(feature = "mta-sts")]
pub mod https;
pub mod message;
#[cfg(feature = "tokio")]
pub mod net;
#[cfg(any(feature = "disk", feature = "postgres"))]
pub mod outbox;
#[cfg(feature = "tokio")]
pub mod pool;
#[cfg(feature = "preflight")]
pub mod preflight;
#[cfg(feature = "tokio")]
pub mod relay;
#[cfg(feature = "tokio")]
pub mod route;
#[cfg(feature = "tokio")]
pub mod server;
pub mod smtp;
#[cfg(feature = "tokio")]
pub mod spool;
#[cfg(feature = "tokio")]
mod table;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "tls-rpt")]
pub mod tls_rpt;

#[cfg(feature = "tokio")]
pub use self::attempt::Mailer;
#[cfg(feature = "tokio")]
pub use self::delivery::{Engine, Receipt};
#[cfg(feature = "tokio")]
pub use self::relay::{Relay, Rules};
#[cfg(feature = "dns")]
pub use self::route::MxResolver;
#[cfg(feature = "tokio")]
pub use self::server::Server;
pub use self::smtp::address::EhloName;
pub use self::smtp::sasl::Credentials;
#[cfg(feature = "disk")]
pub use self::spool::DiskSpool;

/// The examples of the README, so that they are compiled.
#[cfg(all(doctest, feature = "dns", feature = "disk"))]
#[doc = include_str!("../README.md")]
struct Readme;
