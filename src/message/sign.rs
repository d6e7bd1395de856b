//! The seam to whatever signs messages as they are accepted.
//!
//! The layers above sign through this and know no algorithm: a signer sees the octets as they come, and
//! then names the fields that are to stand in front of them. With the feature `dkim` there is one,
//! `dkim::Signer`. There is none by default, and nothing is signed.

use std::fmt;

use bytes::Bytes;

use crate::clock::Timestamp;

/// Signs messages.
pub trait Sign: fmt::Debug + Send + Sync + 'static {
    /// Begins to look at one message.
    fn begin(&self) -> Box<dyn Signing>;

    /// A message was changed on its way, which no signature survives. When one of ours held on `original`,
    /// the new header of `copy` has new ones, and all that say that we made them are taken out of it: they
    /// are about octets that the next host never sees. `None` when no signature of ours held, whoever the
    /// message says that it is from.
    ///
    /// Takes as long as reading both and signing one.
    ///
    /// # Errors
    /// [`SignError`]; the copy must not be sent then.
    fn renew(&self, original: &[u8], copy: &[u8], now: Timestamp) -> Result<Option<Renewed>, SignError>;
}

/// The header of a copy that was signed again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// All fields, without the empty line behind them.
    pub header: Bytes,
    /// How many octets at the front of the copy it stands for.
    pub replaces: usize,
}

/// One message that is being looked at.
pub trait Signing: Send + 'static {
    /// The next octets of the message, cut anywhere.
    fn update(&mut self, octets: &[u8]);

    /// The signatures, as whole fields that each end in CRLF, to stand before `front`. That is whole
    /// fields too, which stand before what was given and were not known when it began. Empty when this
    /// message is not to be signed.
    ///
    /// Takes about a millisecond: do it where nobody waits.
    ///
    /// # Errors
    /// [`SignError`]; the message must not be sent then.
    fn finish(self: Box<Self>, front: &[u8], now: Timestamp) -> Result<Bytes, SignError>;
}

/// A message that is to be signed could not be. It is refused for now, never sent without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The library could not use the key, as when memory is short.
    #[error("the message cannot be signed now")]
    Failed,
}
