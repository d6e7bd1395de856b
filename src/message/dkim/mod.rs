//! DKIM says who vouches for a message: a domain signs its header and body, and publishes the key
//! (RFC 6376, RFC 8301, RFC 8463).
//!
//! A [`Signer`] has identities: domains with their keys. It is chosen by the From field, looks at a message
//! as it streams by ([`Hasher`]), and makes the fields that go in front of it:
//!
//! ```
//! use postroad::clock::Timestamp;
//! use postroad::message::dkim::{Identity, Selector, Signer, SigningKey};
//!
//! # fn run(pem: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
//! let key = SigningKey::from_pem(pem)?;
//! let identity = Identity::new("example.com".parse()?).key(Selector::parse("mail2026")?, key);
//! for record in identity.dns_records() {
//!     println!("{record}"); // mail2026._domainkey.example.com. IN TXT ( "v=DKIM1; k=rsa; p=…" )
//! }
//! let signer = Signer::new([identity])?;
//! let mut hasher = signer.hasher();
//! hasher.update(b"From: shop@example.com\r\nSubject: Your order\r\n");
//! hasher.update(b"\r\nIt is on its way.\r\n");
//! let fields = hasher.finish(b"").sign(Timestamp::from_millis(1_767_225_600_000))?.into_fields();
//! assert!(fields.starts_with(b"DKIM-Signature: v=1; a=rsa-sha256;"));
//! # Ok(()) }
//! ```
//!
//! An engine with a signer does this at acceptance, once, over the octets that it stores. What is signed:
//! who a message is from, to and about, when, what it answers, what it is made of, and how to leave a list;
//! most of these so that a second one breaks the signature, since readers differ in which they show. Never
//! a part of a body only (`l=`).
//!
//! Binary mail is signed as it is, too. It survives where hosts take BINARYMIME; where they do not, the
//! copy that is made for them is signed anew.
//!
//! It does not verify what others have signed, but where a chain is sealed (`arc`).

mod canon;
mod fold;
mod from;
mod hasher;
mod identity;
mod key;
mod record;
mod renew;
mod signature;
mod tags;

use std::fmt;
use std::sync::Arc;

pub use canon::Canon;
pub use hasher::{Digest, Hasher, Signed, Unsigned};
pub use identity::{Identity, MAX_KEYS, SelectedKey, Selector, SelectorError, SignerError};
pub use key::{KeyError, SigningKey};
pub use record::{DnsRecord, KeyRecord, KeyType, RecordError};

pub(in crate::message) use fold::TagWriter;
pub(in crate::message) use hasher::{MAX_OF_ONE, NAME, names};
pub(in crate::message) use identity::key_name;
pub(in crate::message) use signature::{Draft, Signature, append_own, body_hash, pick, seal, unsigned};
pub(crate) use tags::Tags;

use self::identity::Directory;
use super::{Renewed, Sign, SignError, Signing};
use crate::clock::Timestamp;

/// Signs messages of its identities. Clones share them.
#[derive(Clone)]
pub struct Signer(Arc<Directory>);

impl Signer {
    /// A signer with these identities.
    ///
    /// # Errors
    /// [`SignerError`] with what is wrong with one.
    pub fn new(identities: impl IntoIterator<Item = Identity>) -> Result<Self, SignerError> {
        Directory::new(identities).map(|directory| Self(Arc::new(directory)))
    }

    /// Looks at one message.
    #[must_use]
    pub fn hasher(&self) -> Hasher {
        Hasher::new(Arc::clone(&self.0))
    }

    /// Signs a message that is at hand.
    ///
    /// # Errors
    /// [`SignError`] when the library fails.
    pub fn sign(&self, message: &[u8], now: Timestamp) -> Result<Signed, SignError> {
        let mut hasher = self.hasher();
        hasher.update(message);
        hasher.finish(b"").sign(now)
    }

    /// What has to be published for all keys.
    pub fn dns_records(&self) -> impl Iterator<Item = DnsRecord> {
        self.0.all().flat_map(|identity| identity.dns_records())
    }
}

impl Sign for Signer {
    fn begin(&self) -> Box<dyn Signing> {
        Box::new(self.hasher())
    }

    fn renew(&self, original: &[u8], copy: &[u8], now: Timestamp) -> Result<Option<Renewed>, SignError> {
        renew::renew(self, &self.0, original, copy, now)
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let domains: Vec<_> = self.0.all().map(|identity| identity.domain.as_str()).collect();
        f.debug_struct("Signer").field("domains", &domains).finish()
    }
}

#[cfg(test)]
pub(in crate::message) mod tests;
