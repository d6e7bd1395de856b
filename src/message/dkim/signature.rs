//! A signature over header and body: which fields it is about, how it is written, and whether one holds.
//!
//! DKIM-Signature and ARC-Message-Signature are the same but for their names and a tag or two, so both
//! are made and looked at here.

use super::canon::{BodyHash, Canon};
use super::fold::{TagWriter, Unsealed};
use super::key::SigningKey;
use super::record::{KeyRecord, KeyType};
use super::tags::{Tags, without_signature};
use crate::clock::Timestamp;
use crate::message::SignError;
use crate::message::header::Field;

/// Appends the fields of these names, of each name the last first (RFC 6376 §5.4.2). A name that is given
/// once more than the field is there stands for its absence.
pub(crate) fn pick<'n>(
    fields: &[Field<'_>],
    names: impl Iterator<Item = &'n [u8]>,
    canon: Canon,
    out: &mut Vec<u8>,
) {
    let mut taken = vec![false; fields.len()];
    for name in names {
        let open = fields.iter().zip(&mut taken).rev().find(|(field, taken)| {
            !**taken && field.name.len() == name.len() && field.name.eq_ignore_ascii_case(name)
        });
        if let Some((field, taken)) = open {
            *taken = true;
            canon.field(field.raw, out);
        }
    }
}

/// Signs a field together with what it is about.
pub(crate) fn seal(
    field: Unsealed,
    canon: Canon,
    about: &[u8],
    key: &SigningKey,
) -> Result<Vec<u8>, SignError> {
    let mut input = Vec::with_capacity(about.len() + field.octets().len() + 2);
    input.extend_from_slice(about);
    append_own(canon, field.octets(), &mut input);
    Ok(field.seal(&key.sign(&input)?))
}

/// The signature's own field comes last and without a line end (RFC 6376 §3.7).
pub(crate) fn append_own(canon: Canon, field: &[u8], out: &mut Vec<u8>) {
    canon.field(field, out);
    out.truncate(out.strip_suffix(b"\r\n").unwrap_or(out).len());
}

/// The tags that all signatures over header and body have.
pub(crate) struct Draft<'a> {
    /// The name of the field, and the tags that go first.
    pub(crate) writer: TagWriter,
    pub(crate) kind: KeyType,
    pub(crate) header: Canon,
    pub(crate) body: Canon,
    pub(crate) domain: &'a str,
    pub(crate) selector: &'a str,
    pub(crate) time: Timestamp,
    pub(crate) expires: Option<Timestamp>,
    pub(crate) agent: Option<&'a str>,
    pub(crate) names: &'a [&'a str],
    pub(crate) body_hash: &'a [u8; 32],
}

impl Draft<'_> {
    pub(crate) fn write(self) -> Unsealed {
        let mut writer = self.writer;
        writer.word("a", self.kind.algorithm());
        writer.word("c", &format!("{}/{}", self.header.as_str(), self.body.as_str()));
        writer.word("d", self.domain);
        writer.word("s", self.selector);
        if let Some(agent) = self.agent {
            writer.word("i", &format!("@{agent}"));
        }
        writer.word("t", &self.time.as_secs().to_string());
        if let Some(expires) = self.expires {
            writer.word("x", &expires.as_secs().to_string());
        }
        writer.list("h", self.names.iter().copied());
        writer.base64("bh", self.body_hash);
        writer.into_unsealed()
    }
}

/// A signature that came with a message.
#[derive(Debug)]
pub(crate) struct Signature<'a> {
    field: Field<'a>,
    kind: KeyType,
    pub(crate) domain: &'a str,
    pub(crate) selector: &'a str,
    header: Canon,
    body: Canon,
    names: Vec<&'a [u8]>,
    body_hash: Vec<u8>,
    signature: Vec<u8>,
    expires: Option<u64>,
}

impl<'a> Signature<'a> {
    /// `None` when it is malformed, or of a kind that is not trusted: over a part of the body (`l=`), or
    /// not over From.
    pub(crate) fn parse(field: Field<'a>) -> Option<Self> {
        let tags = Tags::parse(field.value)?;
        let (header, body) = match tags.get("c") {
            None => (Canon::Simple, Canon::Simple),
            Some(names) => match memchr::memchr(b'/', names) {
                Some(at) => (Canon::parse(names.get(..at)?)?, Canon::parse(names.get(at + 1..)?)?),
                None => (Canon::parse(names)?, Canon::Simple),
            },
        };
        let names: Vec<&[u8]> = tags.get("h")?.split(|b| *b == b':').map(<[u8]>::trim_ascii).collect();
        let from = names.iter().any(|name| name.eq_ignore_ascii_case(b"From"));
        if !from || names.len() > MAX_NAMES || tags.get("l").is_some() {
            return None;
        }
        Some(Self {
            field,
            kind: KeyType::of_algorithm(tags.text("a")?)?,
            domain: tags.text("d").filter(|text| !text.is_empty())?,
            selector: tags.text("s").filter(|text| !text.is_empty())?,
            header,
            body,
            names,
            body_hash: tags.octets("bh")?,
            signature: tags.octets("b")?,
            expires: match tags.get("x") {
                Some(_) => Some(tags.number("x")?),
                None => None,
            },
        })
    }

    /// Whether a name is among the fields that it is about.
    pub(crate) fn covers(&self, name: &str) -> bool {
        self.names.iter().any(|known| known.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// Whether it is about all fields of these names.
    pub(crate) fn covers_all(&self, fields: &[Field<'_>], names: &[&str]) -> bool {
        names.iter().all(|name| {
            let there = fields.iter().filter(|field| field.is(name)).count();
            let covered = self.names.iter().filter(|known| known.eq_ignore_ascii_case(name.as_bytes()));
            covered.count() >= there
        })
    }

    /// Whether it is about this message and made by this key.
    pub(crate) fn holds(&self, fields: &[Field<'_>], body: &[u8], key: &KeyRecord, now: Timestamp) -> bool {
        if self.kind != key.kind() || self.expires.is_some_and(|at| now.as_secs() > at) {
            return false;
        }
        let mut input = Vec::new();
        pick(fields, self.names.iter().copied(), self.header, &mut input);
        append_own(self.header, &unsigned(&self.field), &mut input);
        // The body, which may be long, only for a signature that is genuine.
        key.verifies(&input, &self.signature) && self.body_hash == body_hash(self.body, body)
    }
}

/// The hash of a body that is at hand.
pub(crate) fn body_hash(canon: Canon, body: &[u8]) -> [u8; 32] {
    let mut hash = BodyHash::new(canon);
    hash.update(body);
    hash.finish()
}

/// A signature's field as it was before there was a signature in it.
pub(crate) fn unsigned(field: &Field<'_>) -> Vec<u8> {
    let colon = memchr::memchr(b':', field.raw).unwrap_or_default();
    let mut out = field.raw.get(..=colon).unwrap_or_default().to_vec();
    out.extend_from_slice(&without_signature(field.value));
    out.extend_from_slice(b"\r\n");
    out
}

/// More fields than a message has.
const MAX_NAMES: usize = 1000;
