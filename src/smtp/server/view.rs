//! What a session says of itself.

use super::session::Session;
use crate::smtp::TlsInfo;

impl Session {
    /// The name the client gave, if it has.
    #[must_use]
    pub fn hello(&self) -> Option<&str> {
        self.hello.as_ref().map(|hello| &*hello.name)
    }

    /// Whether the client said EHLO or LHLO last, not HELO.
    #[must_use]
    pub fn is_extended(&self) -> bool {
        self.hello.as_ref().is_some_and(|hello| hello.extended)
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub const fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// The TLS in use.
    #[must_use]
    pub const fn tls(&self) -> Option<&TlsInfo> {
        self.tls.as_ref()
    }

    /// Who is logged in.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Whether a transaction is open.
    #[must_use]
    pub const fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// The accepted recipients of the open transaction.
    #[must_use]
    pub fn recipients(&self) -> usize {
        self.transaction.as_ref().map_or(0, |transaction| transaction.recipients)
    }
}
