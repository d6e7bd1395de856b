//! A copy that was changed on its way to a host is signed again, if the original was signed by us.
//!
//! That it was is not read but verified: a signature in a message that comes from elsewhere may say
//! anything, and signing what it stands on would vouch for a forgery. What a key of ours has signed, and
//! what nobody changed since, may be signed by it once more.

use bytes::Bytes;

use super::hasher::NAME;
use super::identity::Directory;
use super::signature::Signature;
use super::{Signed, Signer};
use crate::clock::Timestamp;
use crate::message::SignError;
use crate::message::header::{Field, Header};

pub(super) fn renew(
    signer: &Signer,
    directory: &Directory,
    original: &[u8],
    copy: Bytes,
    now: Timestamp,
) -> Result<Bytes, SignError> {
    let Ok(header) = Header::scan(original) else { return Ok(copy) };
    let fields: Vec<Field<'_>> = header.fields().collect();
    let body = header.body_start().and_then(|at| original.get(at..)).unwrap_or_default();
    let holds = |field: &&Field<'_>| {
        let signature = Signature::parse(**field);
        let key = signature.as_ref().and_then(|found| directory.key(found.domain, found.selector));
        signature.zip(key).is_some_and(|(signature, key)| signature.holds(&fields, body, key.record(), now))
    };
    let own = fields.iter().filter(|field| field.is(NAME) && is_ours(directory, field));
    // The first is the newest. Each costs a look at all of the body.
    if !own.take(MAX_LOOKS).any(|field| holds(&field)) {
        return Ok(copy);
    }
    let Ok(header) = Header::scan(&copy) else { return Ok(copy) };
    let mut bare = Vec::with_capacity(copy.len() + 1024);
    for field in header.fields().filter(|field| !(field.is(NAME) && is_ours(directory, field))) {
        bare.extend_from_slice(field.raw);
    }
    bare.extend_from_slice(copy.get(header.octets().len()..).unwrap_or_default());
    let Signed::Fields(fields) = signer.sign(&bare, now)? else { return Ok(copy) };
    let mut out = Vec::with_capacity(fields.len() + bare.len());
    out.extend_from_slice(&fields);
    out.extend_from_slice(&bare);
    Ok(out.into())
}

fn is_ours(directory: &Directory, field: &Field<'_>) -> bool {
    Signature::parse(*field).is_some_and(|found| directory.key(found.domain, found.selector).is_some())
}

/// As many as an identity has keys: those that we wrote stand first.
const MAX_LOOKS: usize = super::MAX_KEYS;
