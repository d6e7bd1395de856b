//! Reports about TLS tell domains how connections to their hosts went (RFC 8460).
//!
//! A [`Collector`] observes an engine and counts, per UTC day and recipient domain, under which policy
//! each connection was made and what was wrong ([`findings`], [`Tally`]). A [`TallyStore`] keeps that
//! over a crash. A [`TlsReporter`] writes it there every few seconds, and after the end of a day sends
//! each domain that asks for it ([`ReportRecord`]) its [`TlsReport`]: by mail, through the engine itself,
//! or by HTTPS. The connections that carry reports are not counted.
//!
//! What is not reported on: mail that goes to hosts of a table of ours and not by MX, mail whose
//! sender does without policies (`TLS-Required: No`), LMTP, and hosts that did not answer at all.

mod collector;
mod day;
mod journal;
mod mail;
mod post;
mod record;
mod report;
mod reporter;
mod result;
mod send;
mod store;
mod tally;

pub use collector::Collector;
pub use day::Day;
pub use post::{PostError, PostReport};
pub use record::{NoAnswer, ReportRecord, ReportTo};
pub use report::{Submitter, TlsReport};
pub use reporter::{ReporterOptions, TlsReporter};
pub use result::{Failure, Finding, Policy, PolicyType, ResultType, findings};
pub use store::{TallyDirectory, TallyMemory, TallyStore};
pub use tally::{Bounds, Count, Counted, Tally};
