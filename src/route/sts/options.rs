//! The options of MTA-STS: whom to trust, where policies outlive the process, and the limits.

use std::sync::Arc;

use super::StsStore;
use crate::clock::{Clock, SystemClock};
use crate::https::HttpsLimits;
use crate::net::connect::{Connect, TcpConnect};
use crate::net::tls::TlsOptions;

/// How policies are found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StsOptions {
    /// Where policies outlive the process. Default: none, they are fetched anew after a restart. Give a
    /// [`StsFolder`](super::StsFolder) wherever there is a disk: who has forgotten a policy can be kept
    /// from finding it again (RFC 8461 §10.2).
    pub store: Option<Arc<dyn StsStore>>,
    /// Which certificates of policy hosts are trusted. Default: the system's roots.
    pub trust: TlsOptions,
    /// How connections to policy hosts are made. Default: over TCP, from any address.
    pub connect: Arc<dyn Connect>,
    /// The port of policy hosts. Default: 443. Only a test has a reason to change it.
    pub port: u16,
    /// What one fetch may cost. Default: 60 s and 64 KiB (RFC 8461 §3.3).
    pub limits: HttpsLimits,
    /// How many policies are fetched at the same time; others wait. Default: 64, each with a socket and
    /// up to 100 KiB.
    pub max_fetches: usize,
    /// How many policies are remembered. Default: 20,000; the one that was fetched first is forgotten
    /// for another.
    pub max_domains: usize,
    /// How large they may be together, in octets. Default: 32 MiB, which is 20,000 of twice the usual
    /// size.
    pub max_octets: usize,
    /// Where time comes from. Default: the system's clock.
    pub clock: Arc<dyn Clock>,
}

impl StsOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self {
            store: None,
            trust: TlsOptions::new(),
            connect: Arc::new(TcpConnect::new()),
            port: 443,
            limits: HttpsLimits::new(),
            max_fetches: 64,
            max_domains: 20_000,
            max_octets: 32 * 1024 * 1024,
            clock: Arc::new(SystemClock),
        }
    }
}

impl Default for StsOptions {
    fn default() -> Self {
        Self::new()
    }
}
