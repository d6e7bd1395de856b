//! Sockets: everything that touches the network on behalf of the protocol.
//!
//! A [`Source`](source::Source) says from where, and by which [`Connect`](connect::Connect). A [`Dialer`] opens a [`Connection`]: a stream from a [`Connect`](connect::Connect), TLS from
//! [`tls`], and a client session driven over both. Nothing here chooses hosts, keeps connections for
//! later or decides what a reply means.
pub mod connect;
mod connection;
mod credentials;
mod dial;
mod gates;
pub mod source;
pub mod tls;
mod trace;
mod wire;

pub use connection::{Connection, Step};
pub use credentials::{CredentialSource, NoCredentials};
pub use dial::{ClientOptions, Dialer, MAX_ADDRESSES, OpenError, Quirks, Tried};
pub(crate) use trace::Tracer;
pub use trace::{TraceFn, TraceLine};
