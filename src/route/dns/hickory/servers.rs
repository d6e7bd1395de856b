//! The name servers: one question to them, over UDP, then over TCP where the answer is too long.
//!
//! hickory-resolver's pool does that, and the retries. Its own resolver is not used above it: its cache
//! forgets the CNAMEs of a chain, mixes those of several questions, and keeps nothing of what does not
//! exist while it validates.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer, RetryDnsHandle};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{DnsRequest, DnsRequestOptions, Query};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};

use super::reply::{Reply, Trust};
use crate::route::RouteError;
use crate::route::dns::DnsOptions;

/// The name servers that are asked.
#[derive(Clone)]
pub(super) struct Servers {
    pub(super) pool: RetryDnsHandle<NameServerPool<TokioRuntimeProvider>>,
    /// How long one question takes at most.
    pub(super) limit: Duration,
}

impl Servers {
    pub(super) fn new(servers: Vec<NameServerConfig>, options: &DnsOptions) -> Result<Self, NetError> {
        let mut opts = ResolverOpts::default();
        opts.timeout = options.timeout;
        // Else questions over TCP are refused as "busy" before our own limit is reached.
        opts.max_active_requests = options.max_lookups;
        let context = Arc::new(PoolContext::new(opts, TlsConfig::new()?));
        let pool = NameServerPool::from_config(servers, context, TokioRuntimeProvider::default());
        // The library counts the retries.
        let retries = usize::try_from(options.attempts.saturating_sub(1)).unwrap_or(usize::MAX);
        let limit = options.timeout.saturating_mul(options.attempts.max(1));
        Ok(Self { pool: RetryDnsHandle::new(pool, retries), limit })
    }

    /// Asks one question. With `authentic`, also for the servers' word on whether the answer is (RFC
    /// 6840 §5.7).
    pub(super) async fn ask(
        &self,
        name: &Name,
        kind: RecordType,
        authentic: bool,
    ) -> Result<Reply, RouteError> {
        let query = Query::query(name.clone(), kind);
        let mut request = DnsRequest::from_query(query, DnsRequestOptions::default());
        request.metadata.authentic_data = authentic;
        match self.pool.send(request).first_answer().await {
            Ok(response) => {
                let trust = Trust::Word(authentic && response.metadata.authentic_data);
                Ok(Reply::new(name.clone(), response.into_message(), trust))
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => Ok(Reply::none(name.clone(), none)),
            Err(error) => Err(self.fault(&error)),
        }
    }

    /// What a failure means to a route.
    pub(super) const fn fault(&self, error: &NetError) -> RouteError {
        match error {
            NetError::Timeout => RouteError::Timeout(self.limit),
            _ => RouteError::Dns,
        }
    }
}

/// A name server at an address, asked over both transports.
pub(super) fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = address.port();
    }
    NameServerConfig::new(address.ip(), true, connections)
}

/// Whether a name server at this address is one of this machine, whose word may be its own. Docker's is
/// not: it hands on what a server elsewhere says, the AD bit with it.
pub(super) fn is_here(ip: IpAddr) -> bool {
    ip.is_loopback() && ip != DOCKER
}

/// In every container of a network that a user made.
const DOCKER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_server_that_hands_on_what_others_say_is_not_taken_at_its_word() {
        for (ip, here) in [
            ("127.0.0.1", true),
            ("127.0.0.53", true),
            ("::1", true),
            ("127.0.0.11", false),
            ("192.0.2.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_here(ip.parse().unwrap()), here, "{ip}");
        }
    }
}
