//! Credentials are what a client has to prove who it is.

use std::fmt;

use super::Mechanism;
use super::secret::Secret;

/// A name with a password or an access token, or the leave to rely on a certificate. Never shown by
/// `Debug`, and wiped from memory on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials(pub(super) Kind);

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Password { user: Secret, password: Secret },
    Token { user: Secret, token: Secret },
    Certificate { act_as: Secret },
}

impl Credentials {
    /// The user name and password as the provider gave them. Used for SCRAM where the server has it, else
    /// for PLAIN, CRAM-MD5 or LOGIN.
    #[must_use]
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self(Kind::Password { user: user.into().into(), password: password.into().into() })
    }

    /// The user name and an OAuth 2.0 access token, for OAUTHBEARER and XOAUTH2 alone.
    #[must_use]
    pub fn token(user: impl Into<String>, token: impl Into<String>) -> Self {
        Self(Kind::Token { user: user.into().into(), token: token.into().into() })
    }

    /// Only EXTERNAL: the certificate that TLS showed says who we are. `user` is who that is, empty to
    /// leave it to the server.
    #[must_use]
    pub fn certificate(user: impl Into<String>) -> Self {
        Self(Kind::Certificate { act_as: user.into().into() })
    }

    /// The user name; for a certificate it may be empty.
    #[must_use]
    pub fn user(&self) -> &str {
        match &self.0 {
            Kind::Password { user, .. } | Kind::Token { user, .. } | Kind::Certificate { act_as: user } => {
                user.as_str()
            }
        }
    }

    /// The password, if that is what they hold.
    #[must_use]
    pub fn password(&self) -> Option<&str> {
        match &self.0 {
            Kind::Password { password, .. } => Some(password.as_str()),
            _ => None,
        }
    }

    /// Whether `mechanism` can carry them.
    #[must_use]
    pub fn fit(&self, mechanism: Mechanism) -> bool {
        use Mechanism::{
            CramMd5, External, Login, OAuthBearer, Plain, ScramSha256, ScramSha256Plus, XOAuth2,
        };
        match (&self.0, mechanism) {
            // RFC 4616 §2, RFC 5802 §7: NUL is no part of either, nor is a name empty.
            (Kind::Password { user, password }, Plain | ScramSha256 | ScramSha256Plus) => {
                is_text(user) && !password.as_bytes().contains(&0)
            }
            (Kind::Password { .. }, CramMd5 | Login) => true,
            // RFC 7628 §3.1: octet 1 separates, and a token is printable ASCII.
            (Kind::Token { user, token }, OAuthBearer | XOAuth2) => {
                is_text(user)
                    && !user.as_bytes().contains(&1)
                    && !token.as_bytes().is_empty()
                    && token.as_bytes().iter().all(u8::is_ascii_graphic)
            }
            (Kind::Certificate { act_as }, External) => !act_as.as_bytes().contains(&0),
            _ => false,
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

fn is_text(name: &Secret) -> bool {
    !name.as_bytes().is_empty() && !name.as_bytes().contains(&0)
}
