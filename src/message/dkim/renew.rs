//! A copy that was changed on its way to a host is signed again, if the original was signed by us.
//!
//! That it was is not read but verified: a signature in a message that comes from elsewhere may say
//! anything, and signing what it stands on would vouch for a forgery. What a key of ours has signed, and
//! what nobody changed or added to since, may be signed by it once more.

use super::hasher::{NAME, names};
use super::identity::Directory;
use super::signature::Signature;
use super::{MAX_KEYS, Signed, Signer};
use crate::clock::Timestamp;
use crate::message::header::{Field, Header};
use crate::message::{Renewed, SignError};

pub(super) fn renew(
    signer: &Signer,
    directory: &Directory,
    original: &[u8],
    copy: &[u8],
    now: Timestamp,
) -> Result<Option<Renewed>, SignError> {
    if !is_signed(directory, original, now) {
        return Ok(None);
    }
    let Ok(header) = Header::scan(copy) else { return Ok(None) };
    let replaces = header.octets().len();
    let mut bare = Vec::with_capacity(replaces);
    for field in header.fields().filter(|field| !(field.is(NAME) && is_ours(directory, field))) {
        bare.extend_from_slice(field.raw);
    }
    let mut hasher = signer.hasher();
    hasher.update(&bare);
    hasher.update(copy.get(replaces..).unwrap_or_default());
    let mut header = match hasher.finish(b"").sign(now)? {
        Signed::Fields(fields) => Vec::from(fields),
        Signed::Not(_) => return Ok(None),
    };
    header.append(&mut bare);
    Ok(Some(Renewed { header: header.into(), replaces }))
}

/// Whether a signature of ours holds on it.
fn is_signed(directory: &Directory, message: &[u8], now: Timestamp) -> bool {
    let Ok(header) = Header::scan(message) else { return false };
    let fields: Vec<Field<'_>> = header.fields().collect();
    let body = header.body_start().and_then(|at| message.get(at..)).unwrap_or_default();
    // What we would sign now must have been signed then: a field that is not may have been added since.
    let Some(mut names) = names(&fields) else { return false };
    names.dedup();
    let holds = |field: &Field<'_>| {
        let signature = Signature::parse(*field).filter(|found| found.covers_all(&fields, &names));
        let key = signature.as_ref().and_then(|found| directory.key(found.domain, found.selector));
        signature.zip(key).is_some_and(|(signature, key)| signature.holds(&fields, body, key.record(), now))
    };
    let own = fields.iter().filter(|field| field.is(NAME) && is_ours(directory, field));
    // The first is the newest. Each costs a look at all of the body.
    own.take(MAX_KEYS).any(holds)
}

fn is_ours(directory: &Directory, field: &Field<'_>) -> bool {
    Signature::parse(*field).is_some_and(|found| directory.key(found.domain, found.selector).is_some())
}
