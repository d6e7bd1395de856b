//! Delivery is the engine between a spool that keeps mail and attempts that try to hand it over.
//!
//! [`Engine`] takes messages, stores them before it says yes, and works until every recipient is in a
//! terminal state: delivered, failed, expired or cancelled. What the sender wants to know of that is stored in
//! the same transaction: as a report, or, where a message has several destinations, as a note in the message's
//! report entry (`note`), of which one report is made when the rest is known. What is due is found per queue
//! (`schedule`), routed, put into the lane of its site (`lane`, `shape`), tried by runs, judged (`settle`,
//! `retry`), sent on where a recipient stands for others (`expand`), reported (`report`) and told (`event`,
//! `receipt`). What waits can be looked at and changed (`orders`, `take_back`). When a message is released, late
//! or overdue is `terms`'; what becomes of times when the clock is set back `set_back`'s.
//!
//! It does not speak SMTP, open sockets or write files: those are `attempt`'s and the spool's. It does
//! not accept connections: a server hands mail over with [`Engine::accept`].

mod aside;
mod builder;
mod care;
mod compose;
mod core;
mod dispatch;
mod engine;
mod event;
mod expand;
mod gather;
mod journal;
mod lane;
mod note;
mod options;
mod orders;
mod per_class;
mod plan;
mod recall;
mod receipt;
mod report;
mod retry;
mod routes;
mod run;
mod runs;
mod schedule;
mod set_back;
mod settle;
mod settler;
mod shape;
mod shared;
mod submit;
mod take_back;
mod terms;
mod todo;
mod trials;
mod wishes;

pub use builder::{EngineBuilder, StartError};
#[cfg(feature = "postgres")]
pub(crate) use compose::Composer;
pub use engine::{AnySpool, Engine, EngineStats, NewMail, SubmitError};
pub use event::{About, ChannelObserver, Event, EventRecord, Observer};
pub use options::EngineOptions;
pub use orders::Ordered;
pub use receipt::{Receipt, ReceiptError};
pub use retry::Retry;
pub use shared::Health;
pub use wishes::SubmitOptions;
