//! Reports about TLS tell domains how connections to their hosts went (RFC 8460).
//!
//! A [`Collector`] observes an engine and counts, per UTC day and recipient domain, under which policy
//! each connection was made and what was wrong ([`findings`], [`Tally`]). A [`TallyStore`] keeps that
//! over a crash. A [`TlsReporter`] writes it there every few seconds, and after the end of a day sends
//! each domain that asks for it ([`ReportRecord`]) its [`TlsReport`]: by mail, through the engine itself,
//! or by HTTPS. The connections that carry reports are not counted.
//!
//! What is not reported on: mail that goes to hosts which the host program names itself, mail whose
//! sender does without policies (`TLS-Required: No`), LMTP, and hosts that did not answer at all.

mod day;
mod journal;
mod record;
mod result;
mod tally;

pub use day::Day;
pub use record::{NoAnswer, ReportRecord, ReportTo};
pub use result::{Failure, Finding, Policy, PolicyType, ResultType, findings};
pub use tally::{Bounds, Count, Counted, Tally};
