//! A message of `mail_builder`, with its envelope taken from its fields or given.
//!
//! The builder writes what it is given, so it is checked first: it would write Bcc, a second Date
//! when the first is called `date`, and field names, ids, links and types with whatever is in them.
//! Then the finished header is looked at once more.

use std::borrow::Cow;

use bytes::Bytes;
use mail_builder::MessageBuilder;
use mail_builder::headers::HeaderType;
use mail_builder::headers::address::Address;
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::date::Date;
use mail_builder::mime::{BodyPart, MimePart};

use super::{
    Envelope, HIDDEN, IntoSubmission, MAX_DEPTH, Submission, SubmitContext, SubmitError, check_lines,
};
use crate::message::body::{has_long_line, is_seven_bit, to_crlf};
use crate::message::header::{Header, is_name};
use crate::smtp::address::{ForwardPath, Mailbox, ReversePath};
use crate::smtp::params::Rcpt;

/// A message of `mail_builder` with an envelope of its own, for lists, for VERP, for a null sender.
/// Its To, Cc and Bcc are shown or not, and nobody gets the message because of them.
#[derive(Debug, Clone)]
pub struct Enveloped<'x> {
    /// Who it is from and for.
    pub envelope: Envelope,
    /// The message.
    pub builder: MessageBuilder<'x>,
}

impl IntoSubmission for MessageBuilder<'_> {
    fn into_submission(mut self, context: &SubmitContext) -> Result<Submission, SubmitError> {
        check(&mut self)?;
        let envelope = envelope(&self, context.max_recipients)?;
        write(self, envelope, context)
    }
}

impl IntoSubmission for Enveloped<'_> {
    fn into_submission(mut self, context: &SubmitContext) -> Result<Submission, SubmitError> {
        check(&mut self.builder)?;
        if !self.builder.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("From")) {
            return Err(SubmitError::NoFrom);
        }
        write(self.builder, self.envelope, context)
    }
}

type Fields<'x> = Vec<(Cow<'x, str>, HeaderType<'x>)>;

/// Makes every field and every part safe to write, or says why it is not.
fn check(message: &mut MessageBuilder<'_>) -> Result<(), SubmitError> {
    check_fields(&mut message.headers)?;
    for field in ONCE {
        if message.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(field)).count() > 1 {
            return Err(SubmitError::Duplicate { field });
        }
    }
    let bodies = [&mut message.body, &mut message.text_body, &mut message.html_body];
    for part in bodies.into_iter().flatten().chain(message.attachments.iter_mut().flatten()) {
        check_part(part, 0)?;
    }
    Ok(())
}

fn check_part(part: &mut MimePart<'_>, depth: usize) -> Result<(), SubmitError> {
    if depth >= MAX_DEPTH {
        return Err(SubmitError::Nested);
    }
    check_fields(&mut part.headers)?;
    if let BodyPart::Multipart(parts) = &mut part.contents {
        // The builder reads a boundary out of a type that is given as text, and writes it unchecked.
        let as_text = |value: &HeaderType<'_>| matches!(value, HeaderType::Raw(_) | HeaderType::Text(_));
        if part.headers.iter().any(|(name, value)| name == "Content-Type" && as_text(value)) {
            return Err(SubmitError::FieldValue);
        }
        parts.iter_mut().try_for_each(|part| check_part(part, depth + 1))?;
    }
    Ok(())
}

fn check_fields(fields: &mut Fields<'_>) -> Result<(), SubmitError> {
    for (name, value) in fields {
        if !is_name(name.as_bytes()) {
            return Err(SubmitError::FieldName);
        }
        // The builder looks for these by their exact spelling and adds a second one if it differs.
        if let Some(known) = SPELLED.iter().find(|known| known.eq_ignore_ascii_case(name)) {
            *name = Cow::Borrowed(known);
        }
        check_value(name, value)?;
    }
    Ok(())
}

fn check_value(name: &str, value: &mut HeaderType<'_>) -> Result<(), SubmitError> {
    let sound = match value {
        HeaderType::Address(address) => {
            let field =
                *ADDRESSES.iter().find(|f| f.eq_ignore_ascii_case(name)).unwrap_or(&"an address field");
            return check_address(field, address, 0);
        }
        HeaderType::MessageId(ids) => {
            for id in &mut ids.id {
                // The builder adds the brackets, and people give them.
                if let Some(bare) = id.strip_prefix('<').and_then(|id| id.strip_suffix('>')) {
                    *id = Cow::Owned(bare.to_owned());
                }
            }
            ids.id.iter().all(|id| !id.is_empty() && !id.contains([' ', '<', '>']) && is_sound(id))
        }
        HeaderType::URL(urls) => urls.url.iter().all(|url| !url.contains([' ', '<', '>']) && is_sound(url)),
        HeaderType::ContentType(kind) => is_sound_type(kind),
        // The builder folds line ends away and encodes other controls in text, but not in raw values.
        HeaderType::Raw(raw) => raw.raw.chars().all(|c| !c.is_control() || matches!(c, '\t' | '\r' | '\n')),
        HeaderType::Text(_) | HeaderType::Date(_) => true,
    };
    if sound { Ok(()) } else { Err(SubmitError::FieldValue) }
}

fn is_sound(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// RFC 2045 §5.1 for the names of parameters, RFC 2046 §5.1.1 for a boundary; values are encoded by
/// the builder.
fn is_sound_type(kind: &ContentType<'_>) -> bool {
    let token = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&b))
    };
    let boundary = |text: &str| {
        (1..=70).contains(&text.len())
            && !text.ends_with(' ')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&b))
    };
    kind.c_type.split('/').count() <= 2
        && kind.c_type.split('/').all(token)
        && kind
            .attributes
            .iter()
            .all(|(key, value)| token(key) && (!key.eq_ignore_ascii_case("boundary") || boundary(value)))
}

/// Each address is one, and is ASCII where the same mailbox can be.
fn check_address(field: &'static str, address: &mut Address<'_>, depth: usize) -> Result<(), SubmitError> {
    if depth >= MAX_DEPTH {
        return Err(SubmitError::Nested);
    }
    let list = match address {
        Address::Address(one) => {
            let mailbox =
                Mailbox::parse(&one.email).map_err(|error| SubmitError::Address { field, error })?;
            if !mailbox.is_ascii()
                && let Some(ascii) = mailbox.to_ascii()
            {
                one.email = Cow::Owned(ascii.to_string());
            }
            return Ok(());
        }
        Address::Group(group) => &mut group.addresses,
        Address::List(list) => list,
    };
    list.iter_mut().try_for_each(|address| check_address(field, address, depth + 1))
}

/// The envelope that the fields tell: Sender, else From, to all of To, Cc and Bcc.
fn envelope(message: &MessageBuilder<'_>, limit: usize) -> Result<Envelope, SubmitError> {
    let mailboxes = |field: &'static str| -> Result<Vec<Mailbox>, SubmitError> {
        let mut found = Vec::new();
        for (_, value) in message.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(field)) {
            let HeaderType::Address(address) = value else {
                return Err(SubmitError::NotAddresses { field });
            };
            collect(field, address, limit, &mut found)?;
        }
        Ok(found)
    };
    let (senders, authors) = (mailboxes("Sender")?, mailboxes("From")?);
    if authors.is_empty() {
        return Err(SubmitError::NoFrom);
    }
    let has_sender = message.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("Sender"));
    let from = match (senders.as_slice(), authors.as_slice()) {
        ([sender], _) => sender.clone(),
        ([], [author]) if !has_sender => author.clone(),
        _ => return Err(SubmitError::Sender),
    };
    let mut recipients = Vec::new();
    for field in ["To", "Cc", "Bcc"] {
        recipients.extend(mailboxes(field)?.into_iter().map(|to| Rcpt::new(ForwardPath::from(to))));
    }
    Ok(Envelope::new(ReversePath::from(from), recipients))
}

fn collect(
    field: &'static str,
    address: &Address<'_>,
    limit: usize,
    into: &mut Vec<Mailbox>,
) -> Result<(), SubmitError> {
    match address {
        Address::Address(one) => {
            // With doubles still in it, so with room for each to be there several times.
            if into.len() >= limit.saturating_mul(DOUBLES) {
                return Err(SubmitError::TooManyRecipients { limit });
            }
            let mailbox = Mailbox::parse(&one.email);
            into.push(mailbox.map_err(|error| SubmitError::Address { field, error })?);
            Ok(())
        }
        Address::Group(group) => group.addresses.iter().try_for_each(|a| collect(field, a, limit, into)),
        Address::List(list) => list.iter().try_for_each(|a| collect(field, a, limit, into)),
    }
}

fn write(
    mut message: MessageBuilder<'_>,
    envelope: Envelope,
    context: &SubmitContext,
) -> Result<Submission, SubmitError> {
    message.headers.retain(|(name, _)| !HIDDEN.iter().any(|hidden| hidden.eq_ignore_ascii_case(name)));
    let has =
        |message: &MessageBuilder<'_>, field: &str| message.headers.iter().any(|(name, _)| name == field);
    if !has(&message, "Date") {
        let secs = i64::try_from(context.now.as_secs()).unwrap_or(i64::MAX);
        message.headers.push((Cow::Borrowed("Date"), HeaderType::Date(Date::new(secs))));
    }
    if !has(&message, "Message-ID") {
        message = message.message_id(context.message_id());
    }
    let mut octets = Vec::new();
    message.serialize(&mut octets);
    let content = to_crlf(Bytes::from(octets));
    check_lines([&[], &content])?;
    if has_long_line(&content) {
        return Err(SubmitError::LongLine);
    }
    // A part without fields of its own is written into the header as it is, so what it brings is
    // seen only here.
    let header = Header::scan(&content)?;
    if header.is_broken() {
        return Err(SubmitError::FieldValue);
    }
    if let Some(field) = HIDDEN.iter().find(|field| header.first(field).is_some()) {
        return Err(SubmitError::Duplicate { field });
    }
    if let Some(field) = ONCE.iter().find(|field| header.count(field) > 1) {
        return Err(SubmitError::Duplicate { field });
    }
    let utf8 = !is_seven_bit(header.octets());
    let (mail, recipients, handling) = envelope.seal(context, utf8, is_seven_bit(&content))?;
    Ok(Submission { handling, ..Submission::new(mail, recipients, Bytes::new(), content) })
}

/// RFC 5322 §3.6, RFC 2045 §3: these stand once at most.
const ONCE: [&str; 12] = [
    "Date",
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Message-ID",
    "In-Reply-To",
    "References",
    "Subject",
    "MIME-Version",
    "Content-Type",
];
/// What the builder compares with case.
const SPELLED: [&str; 6] = [
    "Date",
    "Message-ID",
    "MIME-Version",
    "Content-Type",
    "Content-Disposition",
    "Content-Transfer-Encoding",
];
/// Fields of addresses that an error can name.
const ADDRESSES: [&str; 6] = ["From", "Sender", "To", "Cc", "Bcc", "Reply-To"];
/// How often one recipient may be named on average before a list is no mistake but too long.
const DOUBLES: usize = 4;
