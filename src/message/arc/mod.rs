//! ARC lets who passes mail on say what it looked like when it came (RFC 8617): each such host adds a set
//! of three fields, and a seal over the sets before it.
//!
//! A host that changes mail, as a list does, breaks its signatures. With a chain, who receives it can still
//! see what the host saw, if it trusts the host. [`verify`] tells whether the chain of a message holds,
//! with keys that the caller has looked up by the names that [`needed_keys`] gives; a [`Sealer`] adds a
//! set.
//!
//! It judges no message: what its results mean is for the caller to decide, and so is whom to trust.

mod chain;
mod seal;

pub use seal::{SealError, Sealer};

use self::chain::Chain;
use super::dkim::KeyRecord;
use super::header::Header;
use crate::clock::Timestamp;

/// What holds of the chain of a message (RFC 8617 §4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChainStatus {
    /// There is none.
    None,
    /// All seals hold, and so does the newest signature of the message.
    Pass,
    /// Something does not, or a host before has said so. That is final.
    Fail,
}

impl ChainStatus {
    /// Its name in `cv=`, and in `arc=` of Authentication-Results.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pass => "pass",
            Self::Fail => "fail",
        }
    }
}

/// The names of the TXT records that [`verify`] will ask for, each once: at most 51. None where the chain
/// needs no key to fail.
#[must_use]
pub fn needed_keys(message: &[u8]) -> Vec<Box<str>> {
    let Ok(header) = Header::scan(message) else { return Vec::new() };
    Chain::read(&header).sets.map(|sets| chain::key_names(&sets)).unwrap_or_default()
}

/// Whether the chain of a message holds (RFC 8617 §5.2). `key` gives the record under a name; `None` where
/// there is none that can be used. Where a look-up failed for now, ask again later instead: what fails here
/// fails for good.
///
/// Takes as long as reading the message, and up to 51 verifications of some 30 µs.
pub fn verify(message: &[u8], now: Timestamp, mut key: impl FnMut(&str) -> Option<KeyRecord>) -> ChainStatus {
    let Ok(header) = Header::scan(message) else { return ChainStatus::Fail };
    let body = header.body_start().and_then(|at| message.get(at..)).unwrap_or_default();
    let chain = Chain::read(&header);
    match chain.sets {
        Ok(sets) if sets.is_empty() => ChainStatus::None,
        Ok(sets) if chain::hold(&sets, &header, body, now, &mut key) => ChainStatus::Pass,
        _ => ChainStatus::Fail,
    }
}

/// RFC 8617 §4.2.1
pub const MAX_SETS: usize = 50;

#[cfg(test)]
mod tests;
