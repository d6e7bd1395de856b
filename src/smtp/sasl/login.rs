//! A login is what a client gave to prove who it is, as a server received it.

use std::fmt;

use super::secret::Secret;
use super::{MAX_VALUE, Mechanism, SaslError};
use crate::smtp::PeerCertificate;

/// Who a client says it is, and what it gave as evidence. Whether that is enough is the host's to say.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    mechanism: Mechanism,
    user: Secret,
    evidence: Held,
}

#[derive(Clone, PartialEq, Eq)]
enum Held {
    Password(Secret),
    Token(Secret),
    Certificate(PeerCertificate),
    Proven,
}

/// What a client gave as evidence.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Evidence<'a> {
    /// A password to be checked (PLAIN, LOGIN).
    Password(&'a str),
    /// An OAuth access token to be checked; it must be one of this user's, for this service.
    Token(&'a str),
    /// A verified certificate (EXTERNAL). Whether it is this user's must be checked; a client that named
    /// nobody has the certificate's [fingerprint](PeerCertificate::fingerprint) as its user name.
    Certificate(&'a PeerCertificate),
    /// The client has proven that it knows the password behind the keys that the host gave: nothing is
    /// left to be checked but whether this user may log in now (SCRAM).
    Proven,
}

impl Login {
    pub(super) fn password_of(mechanism: Mechanism, user: &[u8], password: &[u8]) -> Result<Self, SaslError> {
        if password.len() > MAX_VALUE {
            return Err(SaslError::TooLong);
        }
        if password.contains(&0) || std::str::from_utf8(password).is_err() {
            return Err(SaslError::Malformed);
        }
        Self::made(mechanism, user, Held::Password(Secret::joined(&[password])))
    }

    pub(super) fn token_of(mechanism: Mechanism, user: &[u8], token: &[u8]) -> Result<Self, SaslError> {
        if token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
            return Err(SaslError::Malformed);
        }
        Self::made(mechanism, user, Held::Token(Secret::joined(&[token])))
    }

    pub(super) fn certificate_of(user: &[u8], certificate: PeerCertificate) -> Result<Self, SaslError> {
        if user.is_empty() {
            let name = certificate.fingerprint();
            return Self::made(Mechanism::External, name.as_bytes(), Held::Certificate(certificate));
        }
        Self::made(Mechanism::External, user, Held::Certificate(certificate))
    }

    pub(super) fn proven(mechanism: Mechanism, user: &str) -> Result<Self, SaslError> {
        Self::made(mechanism, user.as_bytes(), Held::Proven)
    }

    fn made(mechanism: Mechanism, user: &[u8], evidence: Held) -> Result<Self, SaslError> {
        if user.len() > MAX_VALUE {
            return Err(SaslError::TooLong);
        }
        if user.is_empty() || user.contains(&0) || std::str::from_utf8(user).is_err() {
            return Err(SaslError::Malformed);
        }
        Ok(Self { mechanism, user: Secret::joined(&[user]), evidence })
    }

    /// The mechanism that was used.
    #[must_use]
    pub const fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Who wants to log in.
    #[must_use]
    pub fn user(&self) -> &str {
        self.user.as_str()
    }

    /// What the client gave for it. An implementation that knows only passwords refuses everything else.
    #[must_use]
    pub fn evidence(&self) -> Evidence<'_> {
        match &self.evidence {
            Held::Password(password) => Evidence::Password(password.as_str()),
            Held::Token(token) => Evidence::Token(token.as_str()),
            Held::Certificate(certificate) => Evidence::Certificate(certificate),
            Held::Proven => Evidence::Proven,
        }
    }

    /// The password to check; `None` when the client gave something else.
    #[must_use]
    pub fn password(&self) -> Option<&str> {
        match self.evidence() {
            Evidence::Password(password) => Some(password),
            _ => None,
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("mechanism", &self.mechanism).finish_non_exhaustive()
    }
}

impl fmt::Debug for Evidence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password(..)",
            Self::Token(_) => "Token(..)",
            Self::Certificate(_) => "Certificate(..)",
            Self::Proven => "Proven",
        })
    }
}

/// A login that has failed before anybody was asked whether it is right.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// The mechanism that was used.
    pub mechanism: Mechanism,
    /// Who wanted to log in, as far as that was said.
    pub user: Option<Box<str>>,
    /// What was wrong. For logs: the client is told nothing of it.
    pub why: SaslError,
}

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A password that was typed for a name is not for logs.
        f.debug_struct("Refused")
            .field("mechanism", &self.mechanism)
            .field("why", &self.why)
            .finish_non_exhaustive()
    }
}
