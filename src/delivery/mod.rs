//! Delivery is the engine between a spool that keeps mail and attempts that try to hand it over.
//!
//! [`Engine`] takes messages, stores them before it says yes, and works until every recipient is in a
//! terminal state: delivered, failed or expired, the last two with a report to the sender that is
//! stored in the same transaction. What is due is found per queue (`schedule`), routed, put into the
//! lane of its site (`lane`, `shape`), tried by runs, judged (`settle`, `retry`), reported (`report`)
//! and told (`event`, `receipt`).
//!
//! It does not speak SMTP, open sockets or write files: those are `attempt`'s and the spool's. It does
//! not accept connections: a server hands mail over with [`Engine::accept`].
//!
//! [`Engine`]: engine::Engine

mod event;
mod lane;
mod receipt;
mod retry;
mod schedule;
mod settle;
mod shape;

pub use event::{About, ChannelObserver, Event, EventRecord, Observer};
pub use receipt::{Receipt, ReceiptError};
pub use retry::Retry;
