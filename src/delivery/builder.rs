//! The builder of an [`Engine`]: what it must know is asked for, the rest has defaults.

use std::sync::{Arc, Mutex, RwLock};

use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};

use crate::BoxFuture;
use crate::attempt::{Carrier, CarrierOptions, Deliver};
use crate::clock::{Clock, Rng, SystemClock};
use crate::hop::{Host, Require};
use crate::message::Sign;
use crate::net::connect::{Connect, TcpConnect};
use crate::net::source::Sources;
use crate::net::tls::{ClientTls, TlsConfigError, TlsOptions};
use crate::route::{Hosts, LocalId, Resolve, Route, RouteError};
use crate::smtp::address::{Domain, EhloName};
use crate::smtp::sasl::Credentials;
use crate::spool::{Spool, SpoolError};

use super::core::Core;
use super::dispatch::dispatch;
use super::engine::Engine;
use super::event::{Observer, Observers};
use super::options::EngineOptions;
use super::recall::Recall;
use super::receipt::Watchers;
use super::retry::Retry;
use super::settler::settle;
use super::shared::{Close, Counts, RUNNING, Settings, Shared};

/// Builds an engine; see [`Engine::builder`].
#[derive(Debug)]
#[must_use = "nothing runs before start()"]
pub struct EngineBuilder {
    spool: Arc<dyn Spool>,
    ehlo: EhloName,
    resolver: Option<Arc<dyn Resolve>>,
    credentials: Option<Credentials>,
    locals: Vec<(LocalId, Arc<dyn Deliver>)>,
    observers: Vec<Arc<dyn Observer>>,
    options: EngineOptions,
    retry: Retry,
    carrier: Option<CarrierOptions>,
    sources: Option<Sources>,
    connect: Arc<dyn Connect>,
    tls: Option<ClientTls>,
    signer: Option<Arc<dyn Sign>>,
    clock: Arc<dyn Clock>,
    rng: Rng,
}

/// Why an engine does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Nothing says where mail goes: give [`EngineBuilder::direct`], [`EngineBuilder::resolver`] or
    /// [`EngineBuilder::smarthost`].
    #[error("the engine has no routes")]
    NoRoutes,
    /// The spool does not answer.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// TLS cannot be set up: give [`EngineBuilder::tls`].
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
}

impl EngineBuilder {
    pub(crate) fn new(spool: Arc<dyn Spool>, ehlo: EhloName) -> Self {
        Self {
            spool,
            ehlo,
            resolver: None,
            credentials: None,
            locals: Vec::new(),
            observers: Vec::new(),
            options: EngineOptions::new(),
            retry: Retry::new(),
            carrier: None,
            sources: None,
            connect: Arc::new(TcpConnect::new()),
            tls: None,
            signer: None,
            clock: Arc::new(SystemClock),
            rng: Rng::from_entropy(),
        }
    }

    /// Mail goes to each destination's own hosts, as `resolver` finds them: an `MxResolver`, or a
    /// table of fixed routes.
    pub fn direct(self, resolver: impl Resolve) -> Self {
        self.resolver(Arc::new(resolver))
    }

    /// The same, shared.
    pub fn resolver(mut self, resolver: Arc<dyn Resolve>) -> Self {
        self.resolver = Some(resolver);
        self
    }

    /// All mail goes to one host, which knows the way. With credentials, `require` should be
    /// [`Require::Verified`]: they are never sent without TLS.
    pub fn smarthost(mut self, host: Host, require: Require, credentials: Option<Credentials>) -> Self {
        self.resolver = Some(Arc::new(Smarthost(Hosts::new(vec![host], require))));
        self.credentials = credentials;
        self
    }

    /// Mail whose route is [`Route::Local`] with this id is delivered by `deliver`.
    pub fn local(mut self, id: LocalId, deliver: Arc<dyn Deliver>) -> Self {
        self.locals.push((id, deliver));
        self
    }

    /// How much is done at once.
    pub fn options(mut self, options: EngineOptions) -> Self {
        self.options = options;
        self
    }

    /// When what was put off is tried again.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Is told what happens. More than one may be given.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observers.push(observer);
        self
    }

    /// How connections behave and how many there may be. Default: the protocol's own timeouts, and
    /// as many connections as [`EngineOptions`] has runs.
    pub fn carrier(mut self, options: CarrierOptions) -> Self {
        self.carrier = Some(options);
        self
    }

    /// Where mail comes from, where that is not the same for all: each source has its own name in EHLO
    /// and its own way to connect, so that [`connect`](Self::connect) is asked for final delivery by LMTP
    /// alone. Every (site, source) has its own queue, connections and limits. Default: one source, with
    /// the engine's own name.
    pub fn sources(mut self, sources: Sources) -> Self {
        self.sources = Some(sources);
        self
    }

    /// What opens connections. Default: TCP.
    pub fn connect(mut self, connect: Arc<dyn Connect>) -> Self {
        self.connect = connect;
        self
    }

    /// How certificates are judged. Default: by the system's roots.
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Signs what is submitted, the engine's own reports, and what a relay takes from those who may send
    /// to every domain; each once, when it is accepted. What is converted for a host is signed again. With
    /// the feature `dkim`: a `message::dkim::Signer`. Default: nothing is signed.
    pub fn signer(mut self, signer: Arc<dyn Sign>) -> Self {
        self.signer = Some(signer);
        self
    }

    /// Where time comes from. Default: the system. For tests.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where ids and jitter come from. Default: the system. For tests.
    pub fn rng(mut self, rng: Rng) -> Self {
        self.rng = rng;
        self
    }

    /// Starts the engine on the current runtime. What the spool holds from before is delivered too.
    ///
    /// # Errors
    /// [`StartError`]
    ///
    /// # Cancel safety
    /// Dropping the future starts nothing.
    pub async fn start(self) -> Result<Engine, StartError> {
        let resolver = self.resolver.ok_or(StartError::NoRoutes)?;
        let options = self.options.sound();
        let tls = match self.tls {
            Some(tls) => tls,
            None => ClientTls::new(TlsOptions::new(), Arc::clone(&self.clock))?,
        };
        let own_limits = self.carrier.is_none();
        let mut carrier = self.carrier.unwrap_or_else(|| {
            let mut carrier = CarrierOptions::new(self.ehlo.clone());
            carrier.limits.per_key = options.runs_per_site;
            carrier.limits.total = options.runs;
            carrier
        });
        if self.sources.is_some() {
            carrier.sources = self.sources;
        }
        if self.credentials.is_some() {
            carrier.client.session.credentials = self.credentials;
        }
        carrier.signer = self.signer.or(carrier.signer);
        self.spool.queues(None, 1).await?;
        let now = self.clock.now();
        let (settler, from) = mpsc::unbounded_channel();
        let (close, closing) = watch::channel(Close::Open);
        let shared = Arc::new(Shared {
            core: Mutex::new(Core::new(options.clone(), self.retry.clone(), self.rng.clone(), now)),
            carrier: Carrier::new(carrier, self.connect, tls, Arc::clone(&self.clock)),
            watchers: Watchers::new(options.receipts),
            recall: Recall::new(Arc::clone(&self.spool)),
            observers: Observers::new(self.observers),
            spool: self.spool,
            locals: self.locals,
            clock: self.clock,
            rng: self.rng,
            ehlo: self.ehlo,
            wake: Notify::new(),
            abort: watch::Sender::new(false),
            health: RUNNING.into(),
            counts: Counts::default(),
            runtime: Handle::current(),
            own_limits,
            settings: RwLock::new(Arc::new(Settings { options, retry: self.retry })),
            resolver,
            settler,
            close,
        });
        tokio::spawn(settle(Arc::clone(&shared), from));
        tokio::spawn(dispatch(Arc::clone(&shared), closing));
        Ok(Engine::new(shared))
    }
}

/// One route for everything.
#[derive(Debug)]
struct Smarthost(Hosts);

impl Resolve for Smarthost {
    fn route<'a>(&'a self, _: &'a Domain) -> BoxFuture<'a, Result<Route, RouteError>> {
        Box::pin(async { Ok(Route::Hosts(self.0.clone())) })
    }
}
