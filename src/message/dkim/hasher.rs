//! A hasher looks at a message while it streams by, and keeps what a signature needs: the header, which
//! is bounded, and a hash of the body, which has one size.
//!
//! Who signs is known when the header ends, so a message that nobody here signs costs no hash.

use std::sync::Arc;

use bytes::Bytes;

use super::canon::BodyHash;
use super::fold::TagWriter;
use super::from::domains;
use super::identity::{Directory, Identity};
use super::signature::{Draft, pick, seal};
use super::tags::Tags;
use crate::clock::Timestamp;
use crate::message::body::is_clean_crlf;
use crate::message::header::{Field, Fields, Header, MAX_HEADER};
use crate::message::{SignError, Signing};

/// Why a message is not signed. None of this is an error: the message is sent without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unsigned {
    /// No From field, more than one, or one that is malformed. Of whom it is, nobody can vouch for.
    From,
    /// It is from a domain without a key, or from several that do not share one.
    NoKey,
    /// It is signed by all our keys for the domain already.
    Already,
    /// The header is none that every reader would read alike: a line in it is no field, or does not end in
    /// CRLF, a field stands there very often, or it has no end within 256 KiB.
    Header,
}

/// A message that streams by.
pub struct Hasher {
    directory: Arc<Directory>,
    state: State,
    header: Vec<u8>,
}

enum State {
    Header,
    Body(Arc<Identity>, Box<BodyHash>),
    Unsigned(Unsigned),
}

/// What a hasher found.
pub struct Digest(Result<Signable, Unsigned>);

struct Signable {
    identity: Arc<Identity>,
    header: Vec<u8>,
    body: [u8; 32],
}

impl Hasher {
    pub(super) fn new(directory: Arc<Directory>) -> Self {
        Self { directory, state: State::Header, header: Vec::new() }
    }

    /// The next octets, cut anywhere.
    pub fn update(&mut self, octets: &[u8]) {
        match &mut self.state {
            State::Header => self.header(octets),
            State::Body(_, hash) => hash.update(octets),
            State::Unsigned(_) => {}
        }
    }

    fn header(&mut self, octets: &[u8]) {
        let before = self.header.len();
        // The empty line belongs to it here.
        let room = MAX_HEADER + 2 - before;
        self.header.extend_from_slice(octets.get(..room).unwrap_or(octets));
        let from = before.saturating_sub(3);
        let end = if self.header.starts_with(b"\r\n") {
            Some(0)
        } else {
            let tail = self.header.get(from..).unwrap_or_default();
            memchr::memmem::find(tail, b"\r\n\r\n").map(|at| from + at + 2)
        };
        match end {
            Some(end) => {
                self.header.truncate(end);
                self.state = self.decide();
                let used = (end + 2).saturating_sub(before);
                self.update(octets.get(used..).unwrap_or_default());
            }
            None if self.header.len() >= MAX_HEADER + 2 => {
                self.header = Vec::new();
                self.state = State::Unsigned(Unsigned::Header);
            }
            None => {}
        }
    }

    /// The header is whole: who signs?
    fn decide(&mut self) -> State {
        match signed_by(&self.directory, &self.header) {
            Ok(identity) => {
                let hash = BodyHash::new(identity.body);
                State::Body(identity, Box::new(hash))
            }
            Err(why) => {
                self.header = Vec::new();
                State::Unsigned(why)
            }
        }
    }

    /// How many octets it holds.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.header.len()
    }

    /// All of it was seen. `front` is whole fields that stand before it and became known later.
    #[must_use]
    pub fn finish(mut self, front: &[u8]) -> Digest {
        if matches!(self.state, State::Header) {
            // It has no body.
            self.state = self.decide();
        }
        Digest(match self.state {
            State::Header => Err(Unsigned::Header),
            State::Unsigned(why) => Err(why),
            State::Body(identity, hash) => {
                let mut header = front.to_vec();
                header.append(&mut self.header);
                let sound = is_whole(front) && !Fields::of(front).any(|field| field.is("From"));
                let body = hash.finish();
                if sound { Ok(Signable { identity, header, body }) } else { Err(Unsigned::Header) }
            }
        })
    }
}

impl Signing for Hasher {
    fn update(&mut self, octets: &[u8]) {
        Self::update(self, octets);
    }

    fn finish(self: Box<Self>, front: &[u8], now: Timestamp) -> Result<Bytes, SignError> {
        Ok(Self::finish(*self, front).sign(now)?.into_fields())
    }
}

/// Whether these are fields that all end in CRLF.
fn is_whole(fields: &[u8]) -> bool {
    let whole = fields.is_empty() || fields.ends_with(b"\r\n");
    whole && is_clean_crlf(fields) && Header::scan(fields).is_ok_and(|header| header.octets() == fields)
}

fn signed_by(directory: &Directory, header: &[u8]) -> Result<Arc<Identity>, Unsigned> {
    if !is_whole(header) {
        return Err(Unsigned::Header);
    }
    let mut from = Fields::of(header).filter(|field| field.is("From"));
    let (Some(field), None) = (from.next(), from.next()) else { return Err(Unsigned::From) };
    let domains = domains(field.value).ok_or(Unsigned::From)?;
    let mut signers = domains.iter().map(|domain| directory.of(domain));
    let first = signers.next().flatten().ok_or(Unsigned::NoKey)?;
    if signers.all(|other| other.is_some_and(|other| Arc::ptr_eq(other, first))) {
        Ok(Arc::clone(first))
    } else {
        Err(Unsigned::NoKey)
    }
}

impl Digest {
    /// Why the message is not signed, where that is known before it is tried.
    #[must_use]
    pub fn unsigned(&self) -> Option<Unsigned> {
        self.0.as_ref().err().copied()
    }

    /// Signs: one field for each key, folded, each ending in CRLF, to stand in front of everything.
    ///
    /// # Errors
    /// [`SignError`] when the library fails.
    pub fn sign(&self, now: Timestamp) -> Result<Signed, SignError> {
        match &self.0 {
            Ok(signable) => signable.sign(now),
            Err(why) => Ok(Signed::Not(*why)),
        }
    }
}

/// What became of a message that was to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signed {
    /// These fields are to stand in front of everything.
    Fields(Bytes),
    /// It is sent without.
    Not(Unsigned),
}

impl Signed {
    /// The fields; empty when there are none.
    #[must_use]
    pub fn into_fields(self) -> Bytes {
        match self {
            Self::Fields(fields) => fields,
            Self::Not(_) => Bytes::new(),
        }
    }
}

impl Signable {
    fn sign(&self, now: Timestamp) -> Result<Signed, SignError> {
        let identity = &*self.identity;
        let fields: Vec<Field<'_>> = Fields::of(&self.header).collect();
        let Some(names) = names(&fields) else { return Ok(Signed::Not(Unsigned::Header)) };
        let mut about = Vec::with_capacity(self.header.len().min(8192));
        pick(&fields, names.iter().map(|name| name.as_bytes()), identity.header, &mut about);
        let mut out = Vec::new();
        for key in &identity.keys {
            if fields.iter().any(|field| is_by(field, identity.domain.as_str(), key.selector.as_str())) {
                continue;
            }
            let mut writer = TagWriter::new(NAME);
            writer.word("v", "1");
            let draft = Draft {
                writer,
                kind: key.key.kind(),
                header: identity.header,
                body: identity.body,
                domain: identity.domain.as_str(),
                selector: key.selector.as_str(),
                time: now,
                expires: identity.valid_for.map(|length| now.after(length)),
                agent: identity.agent.as_ref().map(crate::smtp::address::Domain::as_str),
                names: &names,
                body_hash: &self.body,
            };
            out.append(&mut seal(draft.write(), identity.header, &about, &key.key)?);
        }
        Ok(if out.is_empty() { Signed::Not(Unsigned::Already) } else { Signed::Fields(out.into()) })
    }
}

/// Whether a field is a signature by this key.
fn is_by(field: &Field<'_>, domain: &str, selector: &str) -> bool {
    if !field.is(NAME) {
        return false;
    }
    let tags = Tags::parse(field.value);
    let has = |tag, value: &str| {
        tags.as_ref().and_then(|tags| tags.text(tag)).is_some_and(|text| text.eq_ignore_ascii_case(value))
    };
    has("d", domain) && has("s", selector)
}

/// The names for `h=`: each as often as the field is there, and once more where no other is to be added.
pub(crate) fn names(fields: &[Field<'_>]) -> Option<Vec<&'static str>> {
    let mut names = Vec::with_capacity(40);
    for (name, more) in SIGNED {
        let count = fields.iter().filter(|field| field.name.len() == name.len() && field.is(name)).count();
        let again = match more {
            More::Never => true,
            More::Second => count > 0,
        };
        if count > MAX_OF_ONE {
            return None;
        }
        names.extend(std::iter::repeat_n(*name, count + usize::from(again)));
    }
    Some(names)
}

/// Which further fields break a signature.
#[derive(Clone, Copy)]
enum More {
    /// Any: who reads the message sees this field, so its absence is signed too.
    Never,
    /// A second. A list may add its own to a message without.
    Second,
}

/// What is signed (RFC 6376 §5.4.1), and the fields of a one-click unsubscription (RFC 8058 §4). Not the
/// trace, nor what is there to be added on the way.
const SIGNED: &[(&str, More)] = &[
    ("From", More::Never),
    ("Sender", More::Second),
    ("Reply-To", More::Never),
    ("Subject", More::Never),
    ("Date", More::Never),
    ("Message-ID", More::Never),
    ("To", More::Never),
    ("Cc", More::Never),
    ("In-Reply-To", More::Never),
    ("References", More::Never),
    ("MIME-Version", More::Never),
    ("Content-Type", More::Never),
    ("Content-Transfer-Encoding", More::Never),
    ("Content-Disposition", More::Second),
    ("Content-Language", More::Second),
    ("Auto-Submitted", More::Second),
    ("List-Id", More::Second),
    ("List-Help", More::Second),
    ("List-Unsubscribe", More::Second),
    ("List-Unsubscribe-Post", More::Second),
    ("List-Subscribe", More::Second),
    ("List-Post", More::Second),
    ("List-Owner", More::Second),
    ("List-Archive", More::Second),
    ("Feedback-ID", More::Second),
    ("TLS-Required", More::Second),
];
/// Fields that may stand once stand once; some programs write a few more. Hundreds would make a signature
/// longer than the message.
pub(crate) const MAX_OF_ONE: usize = 10;
/// The field.
pub(crate) const NAME: &str = "DKIM-Signature";
