//! A pre-flight looks at a sender's domain as receivers will, before its first message.
//!
//! What they refuse mail for stands in DNS, and is nobody's fault in particular: an address that the SPF
//! record does not have, a key that was never published, a PTR that names somebody else. [`Preflight`] asks
//! for all of it and gives back [`Findings`]: values, each with the name that was asked for. It sends no
//! mail, and proves nothing about how a receiver's filters will judge.
//!
//! ```
//! use postroad::EhloName;
//! use postroad::preflight::{DkimKey, Preflight, Severity};
//! use postroad::route::dns::StaticDns;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let helo = EhloName::new("mail.example.com")?;
//! let mut preflight = Preflight::new("example.com".parse()?, helo, vec!["192.0.2.1".parse()?]);
//! let record = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
//! preflight.keys = vec![DkimKey::new("2026a", record)?];
//! # let dns = StaticDns::new();
//! let findings = preflight.check(&dns).await; // `dns`: whoever answers questions
//! for finding in &findings {
//!     println!("{finding}"); // such as `fault spf example.com: there is no SPF record`
//! }
//! assert_eq!(findings.worst(), Severity::Fault, "the table is empty");
//! # Ok(()) }
//! ```
//!
//! A question that could not be asked is a finding of its own, and never reads as "missing".

mod dkim;
mod dmarc;
mod finding;
mod hosts;
mod mail;
pub mod spf;
mod tags;

use std::net::IpAddr;

use crate::route::dns::Dns;

use crate::smtp::address::{Domain, EhloName};

pub use dkim::{DkimKey, KeyFault};
pub use dmarc::{DmarcFault, Policy};
pub use finding::{Check, Detail, Finding, Findings, Severity};

/// A sender, as receivers will see it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Preflight {
    /// The domain of the author (`From:`).
    pub domain: Domain,
    /// The name that we give in EHLO.
    pub helo: EhloName,
    /// The addresses that our mail comes from, as others see them. Without any, SPF and the names of hosts
    /// are not checked.
    pub addresses: Vec<IpAddr>,
    /// The keys that our mail is signed with. Default: none, which is a finding.
    pub keys: Vec<DkimKey>,
    /// The domain of the sender (`MAIL FROM`), to which reports go. Default: that of the author.
    pub return_path: Option<Domain>,
}

impl Preflight {
    /// A sender that signs nothing.
    #[must_use]
    pub const fn new(domain: Domain, helo: EhloName, addresses: Vec<IpAddr>) -> Self {
        Self { domain, helo, addresses, keys: Vec::new(), return_path: None }
    }

    /// Asks for all that receivers ask for. The checks run side by side, so that it takes about as long as
    /// the longest of them, whatever does not answer; how long one question takes is up to `dns`.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn check(&self, dns: &dyn Dns) -> Findings {
        let sender = self.return_path.as_ref().unwrap_or(&self.domain);
        let (mut findings, dkim, dmarc, hosts, mail, policies) = tokio::join!(
            spf::check(dns, self),
            dkim::check(dns, &self.domain, &self.keys),
            dmarc::check(dns, self),
            hosts::check(dns, self),
            mail::check(dns, sender),
            mail::announcements(dns, &self.domain),
        );
        for more in [dkim, dmarc, hosts, mail, policies] {
            findings.append(more);
        }
        findings
    }
}
