//! The messages of OAUTHBEARER (RFC 7628) and of XOAUTH2, which is the same without a GS2 header.
//!
//! Both consist of pairs that octet 1 separates. Only the token and the name are looked at: `host` and
//! `port` say nothing that the connection does not, and are not sent.

use super::scram::{escaped, unescaped};
use super::secret::Secret;
use super::{Login, Mechanism, SaslError};

/// What a client sends first.
pub(super) fn message(mechanism: Mechanism, user: &Secret, token: &Secret) -> Secret {
    if mechanism == Mechanism::XOAuth2 {
        return Secret::joined(&[
            b"user=",
            user.as_bytes(),
            b"\x01auth=Bearer ",
            token.as_bytes(),
            b"\x01\x01",
        ]);
    }
    // RFC 7628 §3.1
    let user = escaped(user.as_str());
    Secret::joined(&[b"n,a=", user.as_bytes(), b",\x01auth=Bearer ", token.as_bytes(), b"\x01\x01"])
}

/// What a client answers to a challenge, which in these mechanisms says what is wrong.
pub(super) fn dummy(mechanism: Mechanism) -> Secret {
    // RFC 7628 §3.2.3; XOAUTH2 wants an empty one.
    Secret::joined(if mechanism == Mechanism::XOAuth2 { &[] } else { &[b"\x01"] })
}

/// What a server says to a token that it refuses, before it answers the command.
pub(super) const fn refusal(mechanism: Mechanism) -> Option<&'static str> {
    match mechanism {
        // RFC 7628 §3.2.2: {"status":"invalid_token"}
        Mechanism::OAuthBearer => Some("eyJzdGF0dXMiOiJpbnZhbGlkX3Rva2VuIn0="),
        // {"status":"401","schemes":"Bearer"}
        Mechanism::XOAuth2 => Some("eyJzdGF0dXMiOiI0MDEiLCJzY2hlbWVzIjoiQmVhcmVyIn0="),
        _ => None,
    }
}

/// Reads what a client sent first. A message of OAUTHBEARER without a name is refused: the token may
/// imply one, but only its issuer knows.
pub(super) fn read(mechanism: Mechanism, message: &Secret) -> Result<Login, SaslError> {
    let text = std::str::from_utf8(message.as_bytes()).map_err(|_| SaslError::Malformed)?;
    let pairs = text.strip_suffix('\x01').ok_or(SaslError::Malformed)?;
    let (user, pairs) = if mechanism == Mechanism::XOAuth2 {
        let (user, pairs) = pairs.split_once('\x01').ok_or(SaslError::Malformed)?;
        (Secret::from(user.strip_prefix("user=").ok_or(SaslError::Malformed)?.to_owned()), pairs)
    } else {
        let (header, pairs) = pairs.split_once('\x01').ok_or(SaslError::Malformed)?;
        let name = ["n,a=", "y,a="].iter().find_map(|start| header.strip_prefix(start));
        let name = name.and_then(|name| name.strip_suffix(',')).ok_or(SaslError::Malformed)?;
        (unescaped(name)?, pairs)
    };
    let mut token = None;
    for pair in pairs.strip_suffix('\x01').ok_or(SaslError::Malformed)?.split('\x01') {
        let (key, value) = pair.split_once('=').ok_or(SaslError::Malformed)?;
        if key == "auth" && token.replace(value).is_some() {
            return Err(SaslError::Malformed);
        }
    }
    // RFC 7235 §2.1: the scheme's name in any case.
    let (scheme, token) = token.and_then(|auth| auth.split_once(' ')).ok_or(SaslError::Malformed)?;
    if !scheme.eq_ignore_ascii_case("Bearer") {
        return Err(SaslError::Malformed);
    }
    Login::token_of(mechanism, user.as_bytes(), token.trim_start_matches(' ').as_bytes())
}
