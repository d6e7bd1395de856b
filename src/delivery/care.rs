//! How much a message cares about TLS, as far as that changes its route.

use crate::message::Handling;
use crate::smtp::params::Mail;

/// How much a message cares about TLS, as far as it changes its route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) enum Care {
    /// As much as its destination does.
    #[default]
    Usual,
    /// Less: `TLS-Required: No` (RFC 8689 §4.2.2).
    Relaxed,
    /// More: REQUIRETLS, which overrules the other (RFC 8689 §3).
    Required,
}

impl Care {
    pub(crate) const fn of(mail: &Mail, handling: &Handling) -> Self {
        match (mail.require_tls, handling.tls_optional) {
            (true, _) => Self::Required,
            (false, true) => Self::Relaxed,
            (false, false) => Self::Usual,
        }
    }
}
