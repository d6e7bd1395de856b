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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::address::ReversePath;

    #[test]
    fn the_parameter_overrules_the_field() {
        for (require_tls, tls_optional, care) in [
            (false, false, Care::Usual),
            (false, true, Care::Relaxed),
            (true, false, Care::Required),
            (true, true, Care::Required),
        ] {
            let mail = Mail { require_tls, ..Mail::new(ReversePath::Null) };
            let handling = Handling { tls_optional, ..Handling::new() };
            assert_eq!(Care::of(&mail, &handling), care);
        }
    }
}
