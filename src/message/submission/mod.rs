//! A submission is a message that the host program hands over: an envelope, and octets that may go
//! over the wire as they are.
//!
//! Three things become one: a [`mail_builder::MessageBuilder`], whose envelope is taken from its
//! fields; the same with an envelope given ([`Enveloped`]); and octets with an envelope
//! ([`RawMessage`]). Whatever is wrong is told here, before anything is stored, as a typed error.
//!
//! Fields may be added or removed here, since the message begins here (RFC 6409 §8). On a message
//! that is only relayed nothing of this is done.

mod builder;
mod raw;
mod wishes;

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

pub use builder::Enveloped;
pub use raw::RawMessage;

use super::handling::{Handling, Tag, Tenant};
use super::header::{Header, HeaderError, TLS_REQUIRED};
use super::id::MessageId;
use crate::clock::Timestamp;
use crate::smtp::address::{AddressError, Domain, EhloName, ForwardPath, Mailbox, ReversePath};
use crate::smtp::data::LineRules;
use crate::smtp::params::{BodyKind, DeliverBy, Hold, Mail, Priority, Rcpt, Ret, XText};

/// A message ready to be stored or sent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Submission {
    /// Sender and parameters.
    pub mail: Mail,
    /// How it is to be handled besides.
    pub handling: Handling,
    /// The recipients, each once; at least one.
    pub recipients: Vec<Rcpt>,
    /// Fields that go in front of the content; may be empty.
    pub head: Bytes,
    /// The message: CRLF at the end of every line.
    pub content: Bytes,
}

impl Submission {
    /// A submission of parts that are right already: lines end in CRLF, recipients are at least one.
    #[must_use]
    pub fn new(mail: Mail, recipients: Vec<Rcpt>, head: Bytes, content: Bytes) -> Self {
        Self { mail, handling: Handling::new(), recipients, head, content }
    }

    /// The same with what its header says of its handling: `TLS-Required: No` makes it
    /// [`Handling::tls_optional`], unless its envelope has REQUIRETLS (RFC 8689 §3).
    #[must_use]
    pub fn handled(mut self) -> Self {
        if !self.mail.require_tls {
            let is_optional = match (Header::scan(&self.head), Header::scan(&self.content)) {
                (Ok(head), Ok(content)) => match (head.count(TLS_REQUIRED), content.count(TLS_REQUIRED)) {
                    (0, 1) => content.is_tls_optional(),
                    (1, 0) => head.is_tls_optional(),
                    _ => false,
                },
                _ => false,
            };
            self.handling.tls_optional |= is_optional;
        }
        self
    }
}

/// What the host program's message is made complete with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SubmitContext {
    /// Our name, for the right side of a Message-ID.
    pub hostname: EhloName,
    /// For Date.
    pub now: Timestamp,
    /// For the left side of a Message-ID.
    pub id: MessageId,
    /// How many recipients one message may have, 1,000 by default (RFC 5321 §4.5.3.1.8 asks for at
    /// least 100). Raise it for lists that are sent as one message.
    pub max_recipients: usize,
}

impl SubmitContext {
    /// With the default limit.
    #[must_use]
    pub const fn new(hostname: EhloName, now: Timestamp, id: MessageId) -> Self {
        Self { hostname, now, id, max_recipients: MAX_RECIPIENTS }
    }

    /// Our own Message-ID, without its brackets.
    fn message_id(&self) -> String {
        format!("{}@{}", self.id, self.hostname)
    }
}

/// What can be submitted.
pub trait IntoSubmission {
    /// The submission.
    ///
    /// # Errors
    /// [`SubmitError`] with what the message lacks or what is wrong in it.
    fn into_submission(self, context: &SubmitContext) -> Result<Submission, SubmitError>;
}

impl IntoSubmission for Submission {
    fn into_submission(self, context: &SubmitContext) -> Result<Submission, SubmitError> {
        if self.mail.body != BodyKind::Binary {
            check_lines([&self.head, &self.content])?;
        }
        Ok(Self { recipients: each_once(self.recipients, context.max_recipients)?, ..self })
    }
}

/// Who a message is from and who it is for, apart from what its header says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Envelope {
    /// Who is told when it cannot be delivered.
    pub from: ReversePath,
    /// Who gets it, with what each asks of reports.
    pub recipients: Vec<Rcpt>,
    /// How much of the message a report returns. Default: what RFC 3461 leaves to us.
    pub ret: Option<Ret>,
    /// The sender's name for this message in reports. Default: none.
    pub envid: Option<XText>,
    /// No host may be given the message but over TLS that was verified, and only one that promises the
    /// same (RFC 8689). Default: off; most hosts do not offer it, and mail to them fails.
    pub require_tls: bool,
    /// How soon it has to be delivered, and what happens else (RFC 2852). Default: as soon as can be,
    /// for as long as it is tried.
    pub by: Option<DeliverBy>,
    /// When it may be sent. Default: now. An engine holds it itself.
    pub hold: Option<Hold>,
    /// How urgent it is: of what waits for the same hosts, it goes before what is less so
    /// (RFC 6710). Default: 0.
    pub priority: Option<Priority>,
    /// On whose behalf it is sent, see [`Handling::tenant`]. Default: nobody's.
    pub tenant: Option<Tenant>,
    /// Names by which it is found again, see [`Handling::tags`]. Default: none.
    pub tags: Vec<Tag>,
}

impl Envelope {
    /// An envelope without further wishes.
    #[must_use]
    pub const fn new(from: ReversePath, recipients: Vec<Rcpt>) -> Self {
        Self {
            from,
            recipients,
            ret: None,
            envid: None,
            require_tls: false,
            by: None,
            hold: None,
            priority: None,
            tenant: None,
            tags: Vec::new(),
        }
    }

    /// The same from text: `local@domain`, and for the sender an empty string for the null path.
    ///
    /// # Errors
    /// [`AddressError`] of the first that is no address.
    pub fn parse<'a>(from: &str, to: impl IntoIterator<Item = &'a str>) -> Result<Self, AddressError> {
        let recipients = to.into_iter().map(|to| ForwardPath::parse(to).map(Rcpt::new));
        Ok(Self::new(ReversePath::parse(from)?, recipients.collect::<Result<_, _>>()?))
    }

    /// Its two sides as they go over the wire, for a message with these octets, and what does not.
    fn seal(
        self,
        context: &SubmitContext,
        utf8_header: bool,
        seven_bit: bool,
    ) -> Result<(Mail, Vec<Rcpt>, Handling), SubmitError> {
        let mut recipients = self.recipients;
        for rcpt in &mut recipients {
            if let ForwardPath::Mailbox(mailbox) = &mut rcpt.to {
                plainest(mailbox);
            }
        }
        let recipients = each_once(recipients, context.max_recipients)?;
        let mut mail = Mail::new(self.from);
        if let ReversePath::Mailbox(mailbox) = &mut mail.from {
            plainest(mailbox);
        }
        let utf8_path = |rcpt: &Rcpt| rcpt.to.mailbox().is_some_and(|mailbox| !mailbox.is_ascii());
        mail.smtputf8 = utf8_header || !mail.from.is_ascii() || recipients.iter().any(utf8_path);
        mail.body = if seven_bit { BodyKind::SevenBit } else { BodyKind::EightBit };
        mail.ret = self.ret;
        mail.envid = self.envid;
        mail.require_tls = self.require_tls;
        (mail.by, mail.hold, mail.priority) = (self.by, self.hold, self.priority);
        let handling = Handling { tenant: self.tenant, tags: self.tags, ..Handling::new() };
        Ok((mail, recipients, handling))
    }
}

/// Why a message cannot be submitted. The message is the caller's to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// Nobody to send it to.
    #[error("the message has no recipient")]
    NoRecipients,
    /// More than [`SubmitContext::max_recipients`].
    #[error("the message has more than {limit} recipients")]
    TooManyRecipients {
        /// How many it may have.
        limit: usize,
    },
    /// A message is from somebody (RFC 5322 §3.6).
    #[error("the message has no From address")]
    NoFrom,
    /// From several authors, a message has one Sender (RFC 5322 §3.6.2).
    #[error("a message from several addresses needs a Sender of exactly one")]
    Sender,
    /// A field that may stand once only stands twice (RFC 5322 §3.6).
    #[error("the field {field} is there more than once")]
    Duplicate {
        /// Which.
        field: &'static str,
    },
    /// The envelope can be taken from addresses only: give them as `Address`, not as text.
    #[error("the field {field} was given as text where addresses are needed")]
    NotAddresses {
        /// Which.
        field: &'static str,
    },
    /// A field holds something that is no address.
    #[error("the field {field} holds an address that is none: {error}")]
    Address {
        /// Which; `an address field` when it is not one of the common ones.
        field: &'static str,
        /// What is wrong with it.
        error: AddressError,
    },
    /// The name of a field holds more than printable ASCII without a colon.
    #[error("a field name is malformed")]
    FieldName,
    /// The value of a field holds something that could forge another field or another part.
    #[error("a field value holds what may not stand there")]
    FieldValue,
    /// Lists or parts are nested too deep.
    #[error("addresses or parts are nested more than {MAX_DEPTH} deep")]
    Nested,
    /// RFC 5322 §2.1.1: 998 octets without the line end.
    #[error("a line is longer than 998 octets")]
    LongLine,
    /// A line end is not CRLF, or a line begins with NUL, which may make a dot alone on its line of what
    /// follows. Only a [`Submission`] put together by hand has the former; the others are put right.
    #[error("a line does not end in CRLF, or begins with NUL")]
    LineEnd,
    /// More than [`Handling::MAX_TAGS`].
    #[error("the message has more than {} tags", Handling::MAX_TAGS)]
    TooManyTags,
    /// The header passes the limits.
    #[error(transparent)]
    Header(#[from] HeaderError),
}

/// Recipients sorted into the units that are stored, tried and settled: each for one destination, at
/// most 100 each (which every host takes in one transaction, RFC 5321 §4.5.3.1.8), in the order in
/// which they came. A bare `postmaster` is at `postmaster_domain`.
#[must_use]
pub fn by_destination(recipients: Vec<Rcpt>, postmaster_domain: &Domain) -> Vec<(Domain, Vec<Rcpt>)> {
    // As most messages have one.
    if let [only] = recipients.as_slice() {
        return vec![(destination(only, postmaster_domain).clone(), recipients)];
    }
    let mut units: Vec<(Domain, Vec<Rcpt>)> = Vec::new();
    // Which unit of a domain still has room.
    let mut open: HashMap<Domain, usize> = HashMap::new();
    for rcpt in recipients {
        let domain = destination(&rcpt, postmaster_domain);
        let at = open.get(domain).copied();
        match at.and_then(|at| units.get_mut(at)).filter(|(_, unit)| unit.len() < MAX_PER_UNIT) {
            Some((_, unit)) => unit.push(rcpt),
            None => {
                let domain = domain.clone();
                open.insert(domain.clone(), units.len());
                units.push((domain, vec![rcpt]));
            }
        }
    }
    units
}

fn destination<'a>(rcpt: &'a Rcpt, postmaster_domain: &'a Domain) -> &'a Domain {
    rcpt.to.mailbox().map_or(postmaster_domain, Mailbox::domain)
}

/// The mailbox with its domain in A-labels, where that makes it ASCII: one host more can carry it,
/// and it is the same mailbox (RFC 6531 §3.2, RFC 5891 §4).
fn plainest(mailbox: &mut Mailbox) {
    if !mailbox.is_ascii()
        && let Some(ascii) = mailbox.to_ascii()
    {
        *mailbox = ascii;
    }
}

/// No session would send what fails here.
fn check_lines(pieces: [&[u8]; 2]) -> Result<(), SubmitError> {
    let mut rules = LineRules::default();
    pieces.into_iter().for_each(|piece| rules.check(piece));
    rules.finish();
    if rules.is_refused() { Err(SubmitError::LineEnd) } else { Ok(()) }
}

/// Each recipient once, the first with its parameters.
fn each_once(mut recipients: Vec<Rcpt>, limit: usize) -> Result<Vec<Rcpt>, SubmitError> {
    let mut seen = HashSet::with_capacity(recipients.len());
    recipients.retain(|rcpt| seen.insert(rcpt.to.clone()));
    match recipients.len() {
        0 => Err(SubmitError::NoRecipients),
        n if n > limit => Err(SubmitError::TooManyRecipients { limit }),
        _ => Ok(recipients),
    }
}

/// Fields that tell what nobody else is to know (RFC 5322 §3.6.3).
const HIDDEN: [&str; 2] = ["Bcc", "Resent-Bcc"];
/// Ten times what RFC 5321 §4.5.3.1.8 asks every host to take.
const MAX_RECIPIENTS: usize = 1000;
/// One transaction.
const MAX_PER_UNIT: usize = 100;
/// A group within a list is the deepest that a header can show.
const MAX_DEPTH: usize = 16;

#[cfg(test)]
mod tests;
