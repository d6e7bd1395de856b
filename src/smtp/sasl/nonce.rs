//! Where nonces come from.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The source of nonces for SCRAM. A nonce that somebody foresees lets old exchanges be played again, so
/// they come from the operating system's source for keys; a test fixes them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Nonces(Option<Box<str>>);

impl Nonces {
    /// From the operating system. This is the default.
    #[must_use]
    pub const fn system() -> Self {
        Self(None)
    }

    /// Always the same one: printable ASCII without comma. For tests only.
    #[must_use]
    pub fn fixed(nonce: &str) -> Self {
        Self(Some(nonce.into()))
    }

    /// A nonce; `None` when the system has no randomness to give.
    pub(super) fn draw(&self) -> Option<Box<str>> {
        match &self.0 {
            Some(fixed) => Some(fixed.clone()),
            None => Some(STANDARD.encode(random::<NONCE>()?).into()),
        }
    }
}

/// Octets from the operating system.
pub(super) fn random<const N: usize>() -> Option<[u8; N]> {
    let mut octets = [0; N];
    getrandom::fill(&mut octets).ok().map(|()| octets)
}

/// 144 bits, which fill 24 letters of Base64 without padding; 128 would do.
const NONCE: usize = 18;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_nonces_are_alike() {
        let (one, other) = (Nonces::system().draw().unwrap(), Nonces::system().draw().unwrap());
        assert_ne!(one, other);
        assert!(one.len() == 24 && !one.contains(','), "{one}");
    }
}
