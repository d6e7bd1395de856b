//! Our own validation: each response is verified from the root's keys down.
//!
//! The library's validator does the work on every response; what its verdict on a single record means is
//! decided in [`reply`](super::reply). Below it the keys of zones and the proofs of delegations are
//! remembered, which it would ask for again with every question.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hickory_resolver::net::dnssec::DnssecDnsHandle;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, DnsResponseStream, FirstAnswer};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::dnssec::{Proof, TrustAnchors};
use hickory_resolver::proto::op::{DnsRequest, DnsRequestOptions, DnsResponse, Query};
use hickory_resolver::proto::rr::{Name, RecordType};

use super::MAX_NEGATIVE_TTL;
use super::reply::{Denial, Reply, Trust};
use super::servers::Servers;
use crate::clock::{Clock, SystemClock};
use crate::route::RouteError;
use crate::route::dns::cache::Cache;

/// A validator with what it remembers.
pub(super) struct Validator {
    handle: DnssecDnsHandle<Chain>,
    chain: Chain,
    anchors: Arc<TrustAnchors>,
    cached: usize,
}

/// Asks for the keys and delegations that a chain of trust is made of.
#[derive(Clone)]
struct Chain {
    servers: Servers,
    keys: Arc<Cache<(Name, RecordType), Result<DnsResponse, NetError>>>,
    /// Whether what is remembered is not to be used.
    afresh: bool,
    /// Whether a question got no answer.
    failed: Arc<AtomicBool>,
}

impl Validator {
    pub(super) fn new(servers: Servers, anchors: Arc<TrustAnchors>, max_cached: u64) -> Self {
        let keys = Arc::new(Cache::new(max_cached.min(MAX_KEYS)));
        let chain = Chain { servers, keys, afresh: false, failed: Arc::default() };
        Self::over(chain, anchors, usize::try_from(max_cached).unwrap_or(usize::MAX))
    }

    /// The same without a memory, which might be what is wrong.
    pub(super) fn afresh(&self) -> Self {
        let chain = Chain { afresh: true, failed: Arc::default(), ..self.chain.clone() };
        Self::over(chain, Arc::clone(&self.anchors), self.cached)
    }

    fn over(chain: Chain, anchors: Arc<TrustAnchors>, cached: usize) -> Self {
        let handle = DnssecDnsHandle::with_trust_anchor(chain.clone(), Arc::clone(&anchors))
            .validation_cache_size(cached.max(1));
        Self { handle, chain, anchors, cached }
    }

    /// Whether a question of this validator got no answer, so that its verdict may only be a want of keys.
    pub(super) fn has_failed(&self) -> bool {
        self.chain.failed.load(Ordering::Relaxed)
    }

    pub(super) async fn ask(&self, name: &Name, kind: RecordType) -> Result<Reply, RouteError> {
        let mut options = DnsRequestOptions::default();
        options.edns_set_dnssec_ok = true;
        let query = Query::query(name.clone(), kind);
        let (response, denial) = match self.handle.lookup(query, options).first_answer().await {
            Ok(response) => (response, Denial::Sound),
            // The answers in it may still be proven: only what it says about other names is not.
            Err(NetError::Dns(DnsError::Nsec { response, proof, .. })) => {
                (*response, if proof == Proof::Insecure { Denial::Weak } else { Denial::Broken })
            }
            Err(error) => return Err(self.chain.servers.fault(&error)),
        };
        Ok(Reply::new(name.clone(), response.into_message(), Trust::Proofs(denial)))
    }
}

impl DnsHandle for Chain {
    type Response = DnsResponseStream;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, mut request: DnsRequest) -> Self::Response {
        // RFC 6840 §5.9: a validator behind another wants the data, not its verdict, which would be
        // SERVFAIL, as any failure is.
        request.metadata.checking_disabled = true;
        let chain = self.clone();
        Box::pin(async move { chain.answer(request).await }).into()
    }
}

impl Chain {
    async fn answer(&self, request: DnsRequest) -> Result<DnsResponse, NetError> {
        let is_key = |kind| matches!(kind, RecordType::DNSKEY | RecordType::DS | RecordType::NS);
        let key = request.queries.first().filter(|query| is_key(query.query_type()));
        let key = key.map(|query| (query.name().clone(), query.query_type()));
        let now = SystemClock.mono();
        if let Some(known) = key.as_ref().filter(|_| !self.afresh).and_then(|key| self.keys.get(key, now)) {
            return known;
        }
        let answer = self.servers.pool.send(request).first_answer().await;
        let seconds = match &answer {
            Ok(response) if response.answers.is_empty() => response.negative_ttl(),
            Ok(response) => response.answers.iter().map(|record| record.ttl).min(),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => none.negative_ttl,
            Err(_) => {
                self.failed.store(true, Ordering::Relaxed);
                None
            }
        };
        if let (Some(key), Some(seconds)) = (key, seconds) {
            let ttl = Duration::from_secs(seconds.into()).min(MAX_NEGATIVE_TTL);
            self.keys.put(key, answer.clone(), now, ttl);
        }
        answer
    }
}

/// How many keys and delegations are remembered, three for each zone; some KiB each.
const MAX_KEYS: u64 = 4096;
