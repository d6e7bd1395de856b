//! One try, now: a message to a host or to a local store, and what became of each recipient.
//!
//! A [`Carrier`] takes jobs to the hosts of a route over pooled connections. An [`Outcome`] is what each
//! recipient gets, decided in one place from what was said. Nothing here waits to try again or keeps
//! anything for later: that is the engine's.
mod budget;
mod carrier;
mod expansion;
mod local;
mod mailer;
mod outcome;
mod quirks;
mod reach;
mod run;
mod signatory;
mod trial;

pub use carrier::{Carrier, CarrierOptions, Job, Report, RunEnd, RunPermit, Work};
pub use expansion::Expansion;
pub use local::{Deliver, LocalItem, Maildir};
pub use mailer::{Mailer, MailerError, MailerOptions, SendError};
pub use outcome::{Accepted, Cause, ConnectFault, Delivery, LocalFault, Outcome, Phase};
pub(crate) use signatory::Signatory;
pub use trial::Trial;

pub use crate::smtp::client::Feature;
