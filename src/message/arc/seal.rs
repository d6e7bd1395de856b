//! A sealer adds a set to the chain of a message that is passed on.

use bytes::Bytes;

use super::chain::{Chain, MESSAGE, RESULTS, SEAL};
use super::{ChainStatus, MAX_SETS};
use crate::clock::Timestamp;
use crate::message::SignError;
use crate::message::dkim::{
    Canon, Draft, MAX_OF_ONE, NAME, SelectedKey, Selector, SigningKey, TagWriter, body_hash, names, pick,
    seal,
};
use crate::message::field::{FieldError, write_field};
use crate::message::header::{Field, Header, HeaderError};
use crate::smtp::address::Domain;

/// Seals messages in the name of a domain, with one key: a set has one signature and one seal.
#[derive(Debug)]
pub struct Sealer {
    domain: Domain,
    key: SelectedKey,
}

/// Why a message is not sealed. It may be passed on as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The chain has failed before, and its newest seal says so (RFC 8617 §5.1).
    #[error("the chain has failed already")]
    Final,
    /// The chain has 50 sets (RFC 8617 §4.2.1).
    #[error("the chain has as many sets as it may")]
    Full,
    /// The status is of another message: there is a chain where it says none, or the other way round.
    #[error("the status is not this message's")]
    Status,
    /// There are no results, or what may not stand in a field.
    #[error("the results cannot be written as a field")]
    Results(#[from] FieldError),
    /// The header is not one that all read alike.
    #[error("the header is malformed")]
    Broken,
    /// The header passes the limits.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The key could not be used.
    #[error(transparent)]
    Sign(#[from] SignError),
}

impl Sealer {
    /// A sealer for this domain. The record of its key is where that of a DKIM key is, and the same key
    /// may be both.
    #[must_use]
    pub const fn new(domain: Domain, selector: Selector, key: SigningKey) -> Self {
        Self { domain, key: SelectedKey { selector, key } }
    }

    /// The three fields that go in front of a message as it is passed on, each ending in CRLF.
    ///
    /// `results` is what was found when the message came, as in Authentication-Results without its name
    /// (RFC 8601): `mx.example.org; spf=pass smtp.mailfrom=…; dkim=pass …; arc=none`. `status` is what
    /// [`verify`](super::verify) said of the message as it came. A chain that turns out to have failed is
    /// sealed once, with a seal that says so, over its own set only (RFC 8617 §5.1.2).
    ///
    /// Takes as long as reading the message and signing twice.
    ///
    /// # Errors
    /// [`SealError`]
    pub fn seal(
        &self,
        message: &[u8],
        results: &str,
        status: ChainStatus,
        now: Timestamp,
    ) -> Result<Bytes, SealError> {
        let header = Header::scan(message)?;
        if header.is_broken() {
            return Err(SealError::Broken);
        }
        let chain = Chain::read(&header);
        let is_sound = match (status, &chain.sets) {
            (ChainStatus::None, Ok(sets)) => sets.is_empty(),
            (ChainStatus::Pass, Ok(sets)) => !sets.is_empty(),
            (ChainStatus::Fail, Ok(sets)) => !sets.is_empty(),
            (ChainStatus::Fail, Err(_)) => true,
            (_, Err(_)) => false,
        };
        match () {
            () if chain.is_final => return Err(SealError::Final),
            () if !is_sound => return Err(SealError::Status),
            () if chain.highest >= MAX_SETS => return Err(SealError::Full),
            () if results.trim().is_empty() => return Err(FieldError::Value.into()),
            () => {}
        }
        let number = (chain.highest + 1).to_string();
        let mut own = Vec::new();
        write_field(&mut own, RESULTS, &format!("i={number}; {results}"))?;
        let body = header.body_start().and_then(|at| message.get(at..)).unwrap_or_default();
        let signature = self.sign(&header, body, &number, now)?;

        let mut about = Vec::new();
        if status == ChainStatus::Pass {
            chain.sets.iter().flatten().for_each(|set| set.append(&mut about));
        }
        Canon::Relaxed.field(&own, &mut about);
        Canon::Relaxed.field(&signature, &mut about);
        let mut writer = TagWriter::new(SEAL);
        writer.word("i", &number);
        writer.word("a", self.key.key.kind().algorithm());
        writer.word("t", &now.as_secs().to_string());
        writer.word("cv", status.as_str());
        writer.word("d", self.domain.as_str());
        writer.word("s", self.key.selector.as_str());
        let mut fields = seal(writer.into_unsealed(), Canon::Relaxed, &about, &self.key.key)?;
        fields.extend_from_slice(&signature);
        fields.extend_from_slice(&own);
        Ok(fields.into())
    }

    fn sign(
        &self,
        header: &Header<'_>,
        body: &[u8],
        number: &str,
        now: Timestamp,
    ) -> Result<Vec<u8>, SealError> {
        let fields: Vec<Field<'_>> = header.fields().collect();
        let mut names = names(&fields).ok_or(SealError::Broken)?;
        // RFC 8617 §4.1.2: those that are there belong to what was seen.
        let signatures = fields.iter().filter(|field| field.is(NAME)).count();
        if signatures > MAX_OF_ONE {
            return Err(SealError::Broken);
        }
        names.extend(std::iter::repeat_n(NAME, signatures));
        let mut about = Vec::new();
        pick(&fields, names.iter().map(|name| name.as_bytes()), Canon::Relaxed, &mut about);
        let mut writer = TagWriter::new(MESSAGE);
        writer.word("i", number);
        let draft = Draft {
            writer,
            kind: self.key.key.kind(),
            header: Canon::Relaxed,
            body: Canon::Relaxed,
            domain: self.domain.as_str(),
            selector: self.key.selector.as_str(),
            time: now,
            expires: None,
            agent: None,
            names: &names,
            body_hash: &body_hash(Canon::Relaxed, body),
        };
        Ok(seal(draft.write(), Canon::Relaxed, &about, &self.key.key)?)
    }
}
