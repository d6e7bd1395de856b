//! What may be asked for when a message is submitted, besides what it says itself.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::message::{Handling, MessageId, Tag, Tenant};
use crate::spool::{Key, KeyError};

use super::options::EngineOptions;

/// How a message is to be submitted, for [`Engine::submit_with`](super::Engine::submit_with). What is not
/// asked for is as with [`Engine::submit`](super::Engine::submit).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SubmitOptions {
    /// Under which id; default: a new one. Submitting it again stores nothing while the spool has it. For
    /// longer than that there is the key.
    pub id: Option<MessageId>,
    /// The caller's own name for the message, 1 to 255 octets, such as an order's number: while it is
    /// remembered ([`EngineOptions::keep_keys`]), a message with the same name and content is not sent again,
    /// and one with another content is refused. Default: none.
    pub key: Option<Box<str>>,
    /// On whose behalf it is sent; each tenant has keys of its own. Default: what the message says, which is
    /// nobody unless it was made with one.
    pub tenant: Option<Tenant>,
    /// Names by which it is found again, in front of those that the message brings. Default: none.
    pub tags: Vec<Tag>,
    /// How long it is remembered how each recipient stands, counted from when the last is settled. Default:
    /// [`EngineOptions::keep_results`] with a key, not at all without one, since it costs a row for each
    /// entry.
    pub keep: Option<Duration>,
}

impl SubmitOptions {
    /// Nothing in particular.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Once under this key.
    #[must_use]
    pub fn once(key: &str) -> Self {
        Self { key: Some(key.into()), ..Self::default() }
    }

    /// The message's handling with what was asked for.
    pub(crate) fn handle(&mut self, handling: &mut Handling) {
        if let Some(tenant) = self.tenant.take() {
            handling.tenant = Some(tenant);
        }
        let tags = std::mem::take(&mut self.tags);
        handling.tags.splice(0..0, tags);
    }
}

/// What the spool is to remember of a message.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// Its key, and the digest of what it stands for.
    key: Option<(Box<str>, [u8; 32])>,
    keep: Option<Duration>,
}

impl Wishes {
    pub(crate) fn new(
        key: Option<Box<str>>,
        digest: impl FnOnce() -> [u8; 32],
        keep: Option<Duration>,
    ) -> Self {
        Self { key: key.map(|key| (key, digest())), keep }
    }

    /// How long its results are kept.
    pub(crate) fn keep(&self, options: &EngineOptions) -> Option<Duration> {
        self.keep.or(self.key.as_ref().map(|_| options.keep_results)).filter(|keep| !keep.is_zero())
    }

    /// Its key, remembered for as long as it may wait at least.
    pub(crate) fn key(
        &self,
        tenant: Option<&Tenant>,
        options: &EngineOptions,
        now: Timestamp,
        expires: Timestamp,
    ) -> Result<Option<Key>, KeyError> {
        let Some((name, digest)) = &self.key else { return Ok(None) };
        let until = now.after(options.keep_keys).max(expires);
        Key::new(tenant.cloned(), name, *digest, until).map(Some)
    }
}
