//! Where a client's credentials come from, for each connection anew: access tokens expire.

use std::error::Error;
use std::fmt;

use crate::BoxFuture;
use crate::hop::Host;
use crate::smtp::sasl::Credentials;

/// Gives the credentials for a connection that is about to be opened. [`Credentials`] are a source that
/// gives itself; one for OAuth keeps a token and fetches another before it expires.
///
/// It is asked before the host is connected to, once for each connection, and may be asked for several at
/// the same time. What takes longer than the session's `hello` timeout counts as a failure.
pub trait CredentialSource: Send + Sync + fmt::Debug + 'static {
    /// The credentials for `host`; `None` to go on without a login.
    ///
    /// # Errors
    /// [`NoCredentials`]: there is no connection then, and mail waits.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time.
    fn credentials<'a>(&'a self, host: &'a Host)
    -> BoxFuture<'a, Result<Option<Credentials>, NoCredentials>>;

    /// The host refused to let these in: a token that is kept should be fetched anew. Not called where it
    /// only put the login off (454). Does nothing by default.
    fn refused(&self, host: &Host, credentials: &Credentials) {
        let _ = (host, credentials);
    }
}

impl CredentialSource for Credentials {
    fn credentials<'a>(&'a self, _: &'a Host) -> BoxFuture<'a, Result<Option<Credentials>, NoCredentials>> {
        Box::pin(async { Ok(Some(self.clone())) })
    }
}

/// Why a source has nothing to give, or that it took too long.
#[derive(Debug, thiserror::Error)]
#[error("there are no credentials to log in with")]
pub struct NoCredentials(#[source] Option<Box<dyn Error + Send + Sync>>);

impl NoCredentials {
    /// For this reason. It may be logged: put no secret into it.
    #[must_use]
    pub fn because(reason: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Some(reason.into()))
    }

    pub(super) const fn too_late() -> Self {
        Self(None)
    }
}
