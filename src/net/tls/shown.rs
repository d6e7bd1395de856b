//! The certificates that a server shows, chosen by the name that the client asked for (SNI,
//! RFC 6066 §3).

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::TlsConfigError;
use crate::smtp::address::Domain;

/// All of them can be replaced while the server runs.
#[derive(Debug)]
pub(super) struct Shown(RwLock<Certificates>);

#[derive(Debug)]
struct Certificates {
    /// For clients that ask for no name, or for one that is not known: mail clients that do not verify
    /// go on with any certificate (RFC 7435), and would have none otherwise.
    default: Arc<CertifiedKey>,
    /// By name, in lower case; `*.` in front stands for one label.
    named: HashMap<Box<str>, Arc<CertifiedKey>>,
}

impl Shown {
    pub(super) fn new(default: CertifiedKey) -> Self {
        Self(RwLock::new(Certificates { default: Arc::new(default), named: HashMap::new() }))
    }

    pub(super) fn replace(&self, default: CertifiedKey) {
        self.write().default = Arc::new(default);
    }

    pub(super) fn name(&self, name: Box<str>, certificate: CertifiedKey) {
        self.write().named.insert(name, Arc::new(certificate));
    }

    pub(super) fn forget(&self, name: &str) {
        self.write().named.remove(name);
    }

    fn read(&self) -> RwLockReadGuard<'_, Certificates> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Certificates> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.read().of(hello.server_name())))
    }
}

impl Certificates {
    /// The name itself, then the wildcard over it, which stands for the first label alone (RFC 6125
    /// §6.4.3), then the default.
    fn of(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let Some(name) = name.filter(|_| !self.named.is_empty()) else { return &self.default };
        let name = name.to_ascii_lowercase();
        let above = || name.split_once('.').and_then(|(_, above)| self.named.get(&*format!("*.{above}")));
        self.named.get(&*name).or_else(above).unwrap_or(&self.default)
    }
}

/// The name as it is looked up.
pub(super) fn pattern(name: &str) -> Result<Box<str>, TlsConfigError> {
    let (wild, rest) = name.strip_prefix("*.").map_or(("", name), |rest| ("*.", rest));
    let domain = Domain::parse(rest).map_err(|_| TlsConfigError::Name)?;
    if domain.as_literal().is_some() {
        // RFC 6066 §3: addresses are not asked for.
        return Err(TlsConfigError::Name);
    }
    Ok(format!("{wild}{}", domain.as_str().to_ascii_lowercase()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_in_one_form() {
        for (name, looked_up) in [
            ("Mail.Example.org", Some("mail.example.org")),
            ("*.Example.org", Some("*.example.org")),
            ("b\u{fc}cher.test", Some("xn--bcher-kva.test")),
            ("*", None),
            ("*.*.test", None),
            ("[192.0.2.1]", None),
            ("", None),
            ("a b.test", None),
        ] {
            assert_eq!(pattern(name).ok().as_deref(), looked_up, "{name}");
        }
    }
}
