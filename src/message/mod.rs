//! The message as a value: its octets, its fields, and what is made of them.
//!
//! What a host program hands over becomes a [`Submission`] (`submission`), with an envelope and with
//! octets that may go over the wire as they are. What a peer hands over gets a [`Received`] field.
//! What cannot be delivered becomes a [`Report`] to its sender (`dsn`); what is forwarded gets a sender to
//! which it can come back ([`Srs`]). Underneath are the octets
//! seen as lines (`body`) and made seven-bit (`convert`), the fields found in them (`header`) and the
//! fields written into them (`field`), each safe against whatever the values hold.
//!
//! A [`Sign`] signs messages as they are taken; with the feature `dkim` there is one, and seals for mail
//! that is passed on (`arc`).
//!
//! There is no I/O here, no clock and no MIME parser: a message is carried, and understood only as far as
//! a host that takes less than it has makes that necessary.

#[cfg(feature = "dkim")]
pub mod arc;
pub mod body;
mod content;
pub mod convert;
mod date;
mod digest;
#[cfg(feature = "dkim")]
pub mod dkim;
mod dsn;
mod field;
mod handling;
mod header;
mod id;
mod received;
mod sign;
mod srs;
mod submission;

pub use content::{Content, ReadBody};
pub use date::DateTime;
pub use dsn::{Report, ReportKind, ReportRecipient, wants_report};
pub use field::{FieldError, write_field};
pub use handling::{Handling, Tag, Tenant};
#[cfg(feature = "tokio")]
pub(crate) use header::TLS_REQUIRED;
pub use header::{Field, Fields, Header, HeaderError, MAX_FIELDS, MAX_HEADER};
pub use id::{MessageId, NotAnId};
pub use received::{Received, With};
pub use sign::{Renewed, Sign, SignError, Signing};
pub use srs::{Srs, SrsError};
pub use submission::{
    Envelope, Enveloped, IntoSubmission, RawMessage, Submission, SubmitContext, SubmitError, by_destination,
};
