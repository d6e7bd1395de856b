//! Finding a domain's policy: what is at hand, what DNS announces, what the policy host serves.
//!
//! What is to be done is decided in [`book`](super::book); here it is done. A fetch is a task of its own,
//! so that it comes to its end also when the one who asked has gone, and is made once however many ask.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use super::book::{Book, BookLimits, Said, Step};
use super::{StoredPolicy, StsFault, StsMode, StsOptions, StsPolicy, StsRecord};
use crate::BoxFuture;
use crate::clock::Now;
use crate::https::{FindHost, HttpsClient, Url};
use crate::net::tls::TlsConfigError;
use crate::route::dns::{Answer, Dns, DnsName, Record, RecordKind};
use crate::smtp::address::Domain;

/// Finds the policies of domains and remembers them. Clones share what is remembered.
#[derive(Clone)]
pub struct StsPolicies {
    shared: Arc<Shared>,
}

/// What was found for a domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StsFound {
    /// The policy that counts now. One of the mode `none` is none.
    pub policy: Option<Arc<StsPolicy>>,
    /// Why a policy that is announced is not there; also beside an older one that still counts.
    pub fault: Option<StsFault>,
    /// A policy is announced that nothing is known of, and too many others were being fetched to look: there
    /// may be one, so ask again later.
    pub undecided: bool,
}

struct Shared {
    dns: Arc<dyn Dns>,
    https: HttpsClient,
    options: StsOptions,
    book: Mutex<Book>,
    loaded: OnceCell<()>,
    fetching: Mutex<BTreeMap<Domain, Fetching>>,
    /// One permit for each fetch.
    permits: Arc<Semaphore>,
}

/// How a fetch that is under way ended, once it has.
type Fetching = watch::Receiver<Option<Result<(), StsFault>>>;

impl StsPolicies {
    /// Asks this DNS, also for the addresses of policy hosts.
    ///
    /// # Errors
    /// [`TlsConfigError::Unusable`] when the crypto provider cannot do TLS.
    pub fn new(dns: Arc<dyn Dns>, options: StsOptions) -> Result<Self, TlsConfigError> {
        let find = Arc::new(DnsHosts::new(Arc::clone(&dns)));
        let https = HttpsClient::new(options.trust.clone(), find, Arc::clone(&options.clock))?
            .connect_by(Arc::clone(&options.connect))
            .limits(options.limits);
        let limits = BookLimits { domains: options.max_domains.max(1), octets: options.max_octets };
        let permits = Arc::new(Semaphore::new(options.max_fetches.clamp(1, Semaphore::MAX_PERMITS)));
        let shared = Shared {
            dns,
            https,
            options,
            book: Mutex::new(Book::new(limits)),
            loaded: OnceCell::new(),
            fetching: Mutex::default(),
            permits,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The policy of a domain (RFC 8461 §3.3, §5.1). An address literal has none.
    ///
    /// # Cancel safety
    /// May be dropped at any time; a fetch that was begun is finished.
    pub async fn find(&self, domain: &Domain) -> StsFound {
        self.load().await;
        self.refresh();
        let recalled = self.book().recall(domain, self.now());
        if !recalled.ask {
            return StsFound::new(recalled.policy, None);
        }
        let Some(name) = DnsName::of(domain).and_then(|name| name.below(RECORD)) else {
            return StsFound::default();
        };
        let said = self.announced(&name).await;
        let step = self.book().decide(domain, &said, self.now());
        match step {
            Step::Use(policy) => StsFound::new(policy, None),
            Step::Failed(fault) => StsFound::new(None, Some(fault)),
            Step::Fetch(id) => {
                let fetched = self.fetch(domain, id).await;
                let policy = self.book().recall(domain, self.now()).policy;
                let undecided = fetched.is_none() && policy.is_none();
                StsFound { undecided, ..StsFound::new(policy, fetched.and_then(Result::err)) }
            }
        }
    }

    /// A delivery failed by the policy of this domain: it is asked for again before the next one (RFC 8461
    /// §5.1), though not more often than every five minutes.
    pub fn failed(&self, domain: &Domain) {
        self.book().doubt(domain, self.now());
    }

    /// The client that fetches policies, for others who speak HTTPS to recipient domains.
    #[must_use]
    pub fn https(&self) -> &HttpsClient {
        &self.shared.https
    }

    async fn load(&self) {
        let load = async {
            let Some(store) = &self.shared.options.store else { return };
            let found = store.load().await;
            let now = self.now();
            let dropped = {
                let mut book = self.book();
                found.into_iter().for_each(|stored| book.put(stored, now));
                book.dropped()
            };
            for domain in dropped {
                store.forget(domain).await;
            }
        };
        self.shared.loaded.get_or_init(|| load).await;
    }

    /// What DNS says of a domain's policy.
    async fn announced(&self, name: &DnsName) -> Said {
        match self.shared.dns.look_up(name, RecordKind::Txt).await.answer {
            Answer::Records(records) => {
                StsRecord::among(&records).map_or(Said::Nothing, |record| Said::Id(record.id))
            }
            Answer::NoData | Answer::NoName => Said::Nothing,
            Answer::Failed(_) => Said::Unknown,
        }
    }

    /// Fetches a policy, or waits for a fetch that is under way. `None`: too many others are.
    async fn fetch(&self, domain: &Domain, id: Box<str>) -> Option<Result<(), StsFault>> {
        let under_way = self.fetching().get(domain).cloned();
        let mut fetching = match under_way {
            Some(fetching) => fetching,
            None => {
                let permits = Arc::clone(&self.shared.permits);
                let wait = self.shared.options.limits.time / FOR_PERMIT;
                let permit = timeout(wait, permits.acquire_owned()).await;
                self.start(domain, Some(id), permit.ok()?.ok()?)
            }
        };
        let ended = fetching.wait_for(Option::is_some).await;
        Some(ended.ok().and_then(|ended| *ended).unwrap_or(Err(StsFault::Fetch)))
    }

    /// Begins to fetch one policy again that is due, if there is one.
    fn refresh(&self) {
        let Ok(permit) = Arc::clone(&self.shared.permits).try_acquire_owned() else { return };
        let due = self.book().next_due(self.now());
        if let Some((domain, _)) = due {
            drop(self.start(&domain, None, permit));
        }
    }

    /// Begins a fetch, unless there is one. Without an id DNS is asked first.
    fn start(&self, domain: &Domain, id: Option<Box<str>>, permit: OwnedSemaphorePermit) -> Fetching {
        let mut fetching = self.fetching();
        if let Some(under_way) = fetching.get(domain) {
            return under_way.clone();
        }
        let (ended, waiting) = watch::channel(None);
        fetching.insert(domain.clone(), waiting.clone());
        drop(fetching);
        let entry = Entry { policies: self.clone(), domain: domain.clone() };
        tokio::spawn(async move {
            let result = entry.policies.renew(&entry.domain, id).await;
            // Who asks from now on finds what there is.
            drop(entry);
            ended.send_replace(Some(result));
            drop(permit);
        });
        waiting
    }

    async fn renew(&self, domain: &Domain, id: Option<Box<str>>) -> Result<(), StsFault> {
        let id = match id {
            Some(id) => id,
            None => match self.still_announced(domain).await {
                Some(id) => id,
                None => {
                    self.book().leave(domain, self.now());
                    return Ok(());
                }
            },
        };
        match self.request(domain, &id).await {
            Ok(policy) => {
                let policy = Arc::new(policy);
                let now = self.now();
                let dropped = {
                    let mut book = self.book();
                    book.fetched(domain, Arc::clone(&policy), now);
                    book.dropped()
                };
                self.store(StoredPolicy { domain: domain.clone(), policy, fetched: now.wall }, dropped).await;
                Ok(())
            }
            Err(fault) => {
                let now = self.now();
                let held = {
                    let mut book = self.book();
                    book.failed(domain, &id, fault, now);
                    book.held(domain, now)
                };
                // RFC 8461 §3.3: whoever runs this should hear of it, unless there is no policy to lose.
                if held.is_some_and(|policy| policy.mode != StsMode::None) {
                    tracing::warn!(%domain, %fault, "MTA-STS policy not renewed");
                } else {
                    tracing::debug!(%domain, %fault, "no MTA-STS policy");
                }
                Err(fault)
            }
        }
    }

    /// The id of the policy that is to be fetched again; that of the one at hand while DNS does not answer.
    async fn still_announced(&self, domain: &Domain) -> Option<Box<str>> {
        let name = DnsName::of(domain)?.below(RECORD)?;
        match self.announced(&name).await {
            Said::Id(id) => Some(id),
            Said::Nothing => None,
            Said::Unknown => self.book().recall(domain, self.now()).policy.map(|policy| policy.id.clone()),
        }
    }

    async fn request(&self, domain: &Domain, id: &str) -> Result<StsPolicy, StsFault> {
        // A name that is too long for a policy host has none.
        let host = Domain::parse(&format!("{HOST}.{domain}")).map_err(|_| StsFault::Fetch)?;
        let url = Url::new(host, self.shared.options.port, PATH).map_err(|_| StsFault::Fetch)?;
        let fetched = self.shared.https.get(&url).await.map_err(|error| {
            tracing::debug!(%domain, %error, "MTA-STS policy not fetched");
            if error.is_certificate() { StsFault::Certificate } else { StsFault::Fetch }
        })?;
        // RFC 8461 §3.2: or whoever may put a picture or a page there could publish a policy.
        if !fetched.is_plain_text() {
            return Err(StsFault::Invalid);
        }
        StsPolicy::parse(id, &fetched.body).map_err(|error| {
            tracing::debug!(%domain, %error, "MTA-STS policy malformed");
            StsFault::Invalid
        })
    }

    async fn store(&self, stored: StoredPolicy, dropped: Vec<Domain>) {
        let Some(store) = &self.shared.options.store else { return };
        let domain = stored.domain.clone();
        if let Err(error) = store.keep(stored).await {
            tracing::warn!(%domain, %error, "MTA-STS policy not stored");
        }
        for domain in dropped {
            store.forget(domain).await;
        }
    }

    fn now(&self) -> Now {
        self.shared.options.clock.now()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.shared.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fetching(&self) -> MutexGuard<'_, BTreeMap<Domain, Fetching>> {
        self.shared.fetching.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for StsPolicies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StsPolicies").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

impl StsFound {
    fn new(policy: Option<Arc<StsPolicy>>, fault: Option<StsFault>) -> Self {
        Self { policy: policy.filter(|policy| policy.mode != StsMode::None), fault, undecided: false }
    }
}

/// Strikes a fetch off the list when it ends, however it does.
struct Entry {
    policies: StsPolicies,
    domain: Domain,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.policies.fetching().remove(&self.domain);
    }
}

/// Finds the addresses of hosts by a [`Dns`], both families.
#[derive(Debug, Clone)]
pub struct DnsHosts(Arc<dyn Dns>);

impl DnsHosts {
    /// Asks this DNS.
    #[must_use]
    pub fn new(dns: Arc<dyn Dns>) -> Self {
        Self(dns)
    }
}

impl FindHost for DnsHosts {
    fn find<'a>(&'a self, host: &'a Domain) -> BoxFuture<'a, Vec<std::net::IpAddr>> {
        Box::pin(async move {
            let Some(name) = DnsName::of(host) else { return Vec::new() };
            let (v6, v4) =
                tokio::join!(self.0.look_up(&name, RecordKind::Aaaa), self.0.look_up(&name, RecordKind::A));
            let records = [v6, v4].into_iter().flat_map(|found| match found.answer {
                Answer::Records(records) => records,
                _ => Vec::new(),
            });
            let addresses = records.filter_map(|record| match record {
                Record::A(ip) => Some(ip.into()),
                Record::Aaaa(ip) => Some(ip.into()),
                _ => None,
            });
            addresses.collect()
        })
    }
}

/// The part of a fetch's time for which another waits to begin: 10 s by default. Policy hosts that never
/// answer can hold all turns; mail to others is then put off rather than sent as if they had no policy, and
/// holds no look-up for long.
const FOR_PERMIT: u32 = 6;
/// RFC 8461 §3.1
const RECORD: &str = "_mta-sts";
/// RFC 8461 §3.3
const HOST: &str = "mta-sts";
const PATH: &str = "/.well-known/mta-sts.txt";
