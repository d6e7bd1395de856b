//! A simulation kit: time, network, routes and a spool that do what a test says, for this crate's own
//! tests and for those of its users.
//!
//! Everything runs over the traits that the crate is made of, so what is tested is the real thing: real
//! sessions talk to real server sessions over connections in memory, and the engine is the engine. Under
//! a runtime with paused time ([`run`]) five days of retries pass in milliseconds.
//!
//! - [`Outbox`]: for an app's own tests: what was sent, as values
//! - [`Network`]: hosts that answer by rule, and fail at any step of a dialogue
//! - [`Routes`]: where mail for a domain goes, by a table that changes while a test runs
//! - [`FaultySpool`]: any spool, with calls that fail, hang, or succeed without saying so
//! - [`JumpingClock`]: wall time that is moved apart from monotonic time
//! - [`Simulation`]: one seed, one history, with all of these at once and the crate's promises checked
//!
//! It is not a benchmark, and it does not simulate disks: what a crash leaves on one is for the tests of
//! the spools.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use postroad::message::{Envelope, RawMessage};
//! use postroad::spool::MemorySpool;
//! use postroad::testing::{self, JumpingClock, Network};
//! use postroad::{EhloName, Engine};
//!
//! testing::run(async {
//!     let network = Network::new();
//!     network.rule("mx.example.org", |_, nth| if nth == 1 { 450 } else { 250 }); // greylisted
//!     let engine = Engine::builder(MemorySpool::new(), EhloName::new("mail.example.com")?)
//!         .direct(network.clone()) // example.org is served by mx.example.org
//!         .connect(Arc::new(network.clone()))
//!         .clock(Arc::new(JumpingClock::new()))
//!         .start()
//!         .await?;
//!     let mail = RawMessage::new(
//!         Envelope::parse("shop@example.com", ["ada@example.org"])?,
//!         "From: shop@example.com\r\n\r\nYour order.\r\n",
//!     );
//!     assert!(engine.submit(mail).await?.finished().await.is_complete());
//!     let taken = network.taken();
//!     assert_eq!((taken.len(), &*taken[0].to), (1, "ada@example.org"));
//!     assert!(taken[0].at >= Duration::from_secs(50), "after the first retry");
//!     Ok::<(), Box<dyn std::error::Error>>(())
//! })
//! # .unwrap();
//! ```

mod network;
mod outbox;
mod routes;
mod simulation;
mod spool;
mod time;

pub use network::{Act, Network, Step, Taken};
pub use outbox::{Outbox, Sent};
pub use routes::Routes;
pub use simulation::{Broken, History, NoHistory, Simulation, SimulationOptions};
pub use spool::{Call, FaultySpool, Method, SpoolFault};
pub use time::{JumpingClock, run};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is in there is changed in single steps: a panic elsewhere leaves it whole.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
