//! A trial is one try to make a connection to a host ready, as reports about TLS count it (RFC 8460).

use std::net::IpAddr;
use std::sync::Arc;

use crate::hop::{Demand, Host, PolicyKind, TlsFault, TlsSeen};
use crate::net::Tried;

/// One try to make a connection ready. Only what got as far as TLS, or was stopped by what is known of it,
/// is a trial: a host that does not answer says nothing about its TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trial {
    /// Which host.
    pub host: Arc<Host>,
    /// Its address, where that is known.
    pub remote: Option<IpAddr>,
    /// Ours.
    pub local: Option<IpAddr>,
    /// Whose policy was asked for.
    pub by: PolicyKind,
    /// The TLS of a connection that was admitted: `None` where it is in clear.
    pub tls: Option<TlsSeen>,
    /// What was wrong, be it that the connection was refused or that it is used all the same: why the
    /// trusted roots do not vouch for the certificate too, where nobody asks for that, so that a policy
    /// under test can be reported on.
    pub fault: Option<TlsFault>,
}

impl Trial {
    /// A trial of a host of which nothing is known yet.
    #[must_use]
    pub const fn new(host: Arc<Host>, by: PolicyKind) -> Self {
        Self { host, remote: None, local: None, by, tls: None, fault: None }
    }

    /// What was noted when a connection to `host` was opened for `demand`.
    pub(super) fn of(host: &Arc<Host>, demand: Demand, tried: Tried) -> Self {
        Self {
            remote: tried.remote,
            local: tried.local,
            tls: tried.seen.filter(|_| tried.is_open),
            fault: tried.fault,
            ..Self::new(Arc::clone(host), demand.by())
        }
    }
}
