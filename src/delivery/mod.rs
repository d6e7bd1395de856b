//! Delivery is the engine between a spool that keeps mail and attempts that try to hand it over.
//!
//! [`Engine`] takes messages, stores them before it says yes, and works until every recipient is in a
//! terminal state: delivered, failed or expired. What the sender wants to know of that is reported to
//! it by a message that is stored in the same transaction. What is due is found per queue (`schedule`), routed, put into the
//! lane of its site (`lane`, `shape`), tried by runs, judged (`settle`, `retry`), reported (`report`)
//! and told (`event`, `receipt`). When a message is released, late or overdue is `terms`'.
//!
//! It does not speak SMTP, open sockets or write files: those are `attempt`'s and the spool's. It does
//! not accept connections: a server hands mail over with [`Engine::accept`].

mod builder;
mod care;
mod core;
mod dispatch;
mod engine;
mod event;
mod journal;
mod lane;
mod options;
mod recall;
mod receipt;
mod report;
mod retry;
mod routes;
mod run;
mod schedule;
mod settle;
mod settler;
mod shape;
mod shared;
mod submit;
mod terms;
mod todo;
mod trials;
mod wishes;

pub use builder::{EngineBuilder, StartError};
pub use engine::{AnySpool, Engine, EngineStats, NewMail, SubmitError};
pub use event::{About, ChannelObserver, Event, EventRecord, Observer};
pub use options::EngineOptions;
pub use receipt::{Receipt, ReceiptError};
pub use retry::Retry;
pub use shared::Health;
pub use wishes::SubmitOptions;
