//! An outbox takes mail in the host program's own transaction: with the order goes its confirmation, or
//! neither does. Rolled back means never sent, committed means sent.
//!
//! Without one, a program that writes to its database and then submits mail can die in between, and one
//! that does it the other way round can send what it then rolls back.
//!
//! [`SqliteOutbox`] is a table in the host's own SQLite file; a [`Pump`] hands what is committed there over to
//! an [`Engine`](crate::Engine), once, even when the program dies in the middle of that.
//! [`PostgresOutbox`] writes straight into the tables of a `PostgresSpool`, so that any engine on that spool
//! delivers it, and nothing is copied.
//!
//! # What it is not
//! It is no queue of its own: it knows nothing of retries, routes or reports. Those are the engine's.
//!
//! # Other drivers
//! What speaks to the database by another driver, an ORM or another language, can write the row itself:
//! [`SqliteOutbox::ENQUEUE`] is the statement, with what its parameters are.

mod error;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "disk")]
mod pump;
#[cfg(feature = "disk")]
mod sqlite;
#[cfg(feature = "disk")]
mod table;

pub use error::OutboxError;
#[cfg(feature = "postgres")]
pub use postgres::PostgresOutbox;
#[cfg(feature = "disk")]
pub use pump::{Pump, PumpOptions};
/// The version of `rusqlite` whose connections a [`SqliteOutbox`] takes.
#[cfg(feature = "disk")]
pub use rusqlite;
#[cfg(feature = "disk")]
pub use sqlite::{Refused, SqliteOutbox};
/// The version of `tokio_postgres` whose transactions a [`PostgresOutbox`] takes.
#[cfg(feature = "postgres")]
pub use tokio_postgres;
