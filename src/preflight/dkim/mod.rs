//! The keys that we sign with must be those that are published (RFC 6376 §3.6).

mod record;

use super::finding::{Check, Detail, Findings};
use crate::route::dns::{Answer, Dns, DnsName, Record, RecordKind};
use crate::smtp::address::Domain;
use record::{PublicKey, Published};

pub use record::KeyFault;

/// A key that our mail is signed with: its selector, its public part, and the domain that signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DkimKey {
    selector: DnsName,
    domain: Option<Domain>,
    public: PublicKey,
}

impl DkimKey {
    /// A key by the record that is to be published for it (`v=DKIM1; k=…; p=…`), or by the value of its
    /// `p=` alone. It signs for the domain that is checked.
    ///
    /// # Errors
    /// [`KeyFault`] when the selector can be none, or the record has no key.
    pub fn new(selector: &str, record: &str) -> Result<Self, KeyFault> {
        let selector = DnsName::new(selector).ok_or(KeyFault::Selector)?;
        let public = match record::parse(record.as_bytes()) {
            Ok(published) => published.key.ok_or(KeyFault::Missing)?,
            // The key alone; `=` at its end fills it up.
            Err(_) if !record.contains("p=") => record::bare(record)?,
            Err(fault) => return Err(fault),
        };
        Ok(Self { selector, domain: None, public })
    }

    /// The same for signatures of another domain (`d=`).
    #[must_use]
    pub fn of(self, domain: Domain) -> Self {
        Self { domain: Some(domain), ..self }
    }

    /// The domain that signs, where it is not that of the mail.
    #[must_use]
    pub const fn domain(&self) -> Option<&Domain> {
        self.domain.as_ref()
    }
}

/// Checks each of the keys of `domain`.
pub(super) async fn check(dns: &dyn Dns, domain: &Domain, keys: &[DkimKey]) -> Findings {
    let mut findings = Findings::default();
    if keys.is_empty() {
        findings.add(None, Detail::NoKeys);
    }
    for key in keys {
        let signer = DnsName::of(key.domain().unwrap_or(domain));
        let name = signer.and_then(|signer| signer.below(&format!("{}._domainkey", key.selector)));
        let Some(name) = name else {
            findings.add(None, Detail::KeyBroken(KeyFault::Selector));
            continue;
        };
        match dns.look_up(&name, RecordKind::Txt).await.answer {
            Answer::Failed(error) => findings.unasked(Check::Dkim, &name, error),
            Answer::NoData | Answer::NoName => findings.add(Some(&name), Detail::KeyMissing),
            Answer::Records(records) => compare(key, &name, &records, &mut findings),
        }
    }
    findings
}

fn compare(key: &DkimKey, name: &DnsName, records: &[Record], findings: &mut Findings) {
    let mut texts = records.iter().filter_map(|record| match record {
        Record::Txt(text) => Some(text),
        _ => None,
    });
    let published = match (texts.next(), texts.next()) {
        (None, _) => return findings.add(Some(name), Detail::KeyMissing),
        (Some(_), Some(_)) => return findings.add(Some(name), Detail::KeySeveral),
        (Some(text), None) => match record::parse(text) {
            Ok(published) => published,
            Err(fault) => return findings.add(Some(name), Detail::KeyBroken(fault)),
        },
    };
    let Published { key: public, testing, for_sha256, for_mail } = published;
    let Some(public) = public else { return findings.add(Some(name), Detail::KeyRevoked) };
    if public != key.public {
        findings.add(Some(name), Detail::KeyDiffers);
    }
    match public.bits() {
        Some(bits) if bits < LEAST_BITS => findings.add(Some(name), Detail::KeyTooShort(bits)),
        Some(bits) if bits < GOOD_BITS => findings.add(Some(name), Detail::KeyShort(bits)),
        _ => {}
    }
    for (is_so, detail) in [
        (testing, Detail::KeyTesting),
        (!for_sha256, Detail::KeyHash),
        (!for_mail, Detail::KeyService),
        (public == key.public, Detail::KeyFits),
    ] {
        if is_so {
            findings.add(Some(name), detail);
        }
    }
}

/// RFC 8301 §3.2: verifiers take shorter ones for no signature.
const LEAST_BITS: usize = 1024;
/// RFC 8301 §3.2: what signers should use.
const GOOD_BITS: usize = 2048;
