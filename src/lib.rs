//! An embeddable SMTP road: protocol sessions without I/O, MX routing, a connection pool, a durable
//! store-and-forward engine and a server layer, as types that a host program wires together.

use std::pin::Pin;

/// A boxed future, as the methods of the crate's object-safe traits return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

#[cfg(feature = "tokio")]
pub mod attempt;
pub mod clock;
#[cfg(feature = "tokio")]
pub mod delivery;
pub mod hop;
pub mod message;
#[cfg(feature = "tokio")]
pub mod net;
#[cfg(feature = "tokio")]
pub mod pool;
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
