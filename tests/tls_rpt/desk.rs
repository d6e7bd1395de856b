//! An engine over a network in memory, a collector, a table of DNS answers and a web that notes what is
//! posted: all that a reporter needs.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use flate2::read::GzDecoder;
use serde_json::Value;

use postroad::BoxFuture;
use postroad::attempt::Trial;
use postroad::clock::{Clock, Rng, SteppedClock, Timestamp};
use postroad::delivery::{Engine, Event, Observer};
use postroad::hop::{Host, PolicyKind, Require, TlsFault, TlsSeen};
use postroad::route::dns::{DnsName, Record, RecordKind, StaticDns};
use postroad::route::{Hosts, RouteError};
use postroad::smtp::address::{Domain, EhloName, Mailbox};
use postroad::spool::MemorySpool;
use postroad::tls_rpt::{
    Collector, PostError, PostReport, ReporterOptions, Submitter, TallyStore, TlsReporter,
};

use crate::world::World;

/// 2026-09-21T14:13:20Z.
pub const START: u64 = 1_790_000_000_000;
pub const MIDNIGHT: Duration = Duration::from_secs(35_200);
pub const HOUR: Duration = Duration::from_secs(3_600);
/// How often what was counted is written.
pub const WRITE: Duration = Duration::from_secs(60);

pub struct Desk {
    pub world: World,
    pub spool: MemorySpool,
    pub store: Arc<dyn TallyStore>,
    pub posts: Arc<Posts>,
    dns: StaticDns,
    clock: Arc<dyn Clock>,
    seed: u64,
    collector: Arc<Mutex<Arc<Collector>>>,
    engine: OnceLock<Engine>,
}

impl Desk {
    pub fn new(store: impl TallyStore) -> Self {
        Self::seeded(store, 7)
    }

    pub fn seeded(store: impl TallyStore, seed: u64) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SteppedClock::starting_at(Timestamp::from_millis(START)));
        let store: Arc<dyn TallyStore> = Arc::new(store);
        let collector = Collector::new(Arc::clone(&store), Arc::clone(&clock));
        Self {
            world: World::new(),
            spool: MemorySpool::new(),
            store,
            posts: Arc::default(),
            dns: StaticDns::new(),
            clock,
            seed,
            collector: Arc::new(Mutex::new(collector)),
            engine: OnceLock::new(),
        }
    }

    pub fn collector(&self) -> Arc<Collector> {
        Arc::clone(&self.collector.lock().unwrap())
    }

    /// Starts a reporter; another time with a collector that knows nothing, as after a restart.
    pub async fn start(&self) -> TlsReporter {
        if self.engine.get().is_none() {
            let engine = Engine::builder(self.spool.clone(), EhloName::new("us.test").unwrap())
                .direct(self.world.clone())
                .connect(Arc::new(self.world.clone()))
                .observer(Arc::new(Behind(Arc::clone(&self.collector))))
                .clock(Arc::clone(&self.clock))
                .rng(Rng::seeded(7));
            let _ = self.engine.set(engine.start().await.unwrap());
        } else {
            let new = Collector::new(Arc::clone(&self.store), Arc::clone(&self.clock));
            *self.collector.lock().unwrap() = new;
        }
        self.start_with(&self.collector()).await
    }

    /// Starts a reporter with a collector that goes on.
    pub async fn start_with(&self, collector: &Arc<Collector>) -> TlsReporter {
        let contact = Mailbox::parse("tls@us.test").unwrap();
        let submitter = Submitter::new("Us", contact, Domain::parse("us.test").unwrap());
        let mut options = ReporterOptions::new(submitter);
        options.rng = Rng::seeded(self.seed);
        // Days pass faster with fewer wake-ups.
        options.write = WRITE;
        let engine = self.engine.get().unwrap().clone();
        let (dns, post) = (Arc::new(self.dns.clone()), Arc::clone(&self.posts) as Arc<dyn PostReport>);
        TlsReporter::start(engine, Arc::clone(collector), dns, Some(post), options).await.unwrap()
    }

    /// The domain wants reports there.
    pub fn wants(&self, domain: &str, rua: &str) {
        let text = Record::Txt(format!("v=TLSRPTv1; rua={rua}").into());
        self.dns.set(&name(domain), RecordKind::Txt, vec![text], false);
    }

    /// DNS does not say whether it does.
    pub fn fails(&self, domain: &str) {
        self.dns.fail(&name(domain), RecordKind::Txt, RouteError::Dns);
    }

    /// The engine tells of a connection: good, or with this fault and in clear.
    pub fn tried(&self, destination: &str, fault: Option<TlsFault>) {
        let destination = Domain::parse(destination).unwrap();
        let host = Host::new(Domain::parse(&format!("mx.{destination}")).unwrap(), 25);
        let mut hosts = Hosts::new(vec![host.clone()], Require::Opportunistic).unproven();
        hosts.by_mx = true;
        let mut trial = Trial::new(Arc::new(host), PolicyKind::Opportunistic);
        trial.fault = fault;
        trial.tls = fault.is_none().then(|| TlsSeen::new("TLSv1.3", "X", None, false));
        let event = Event::TlsTried { destination: &destination, hosts: &hosts, trial: &trial };
        self.collector().on_event(&event);
    }
}

/// Tells the collector that is the latest.
#[derive(Debug)]
struct Behind(Arc<Mutex<Arc<Collector>>>);

impl Observer for Behind {
    fn on_event(&self, event: &Event<'_>) {
        self.0.lock().unwrap().on_event(event);
    }
}

fn name(domain: &str) -> DnsName {
    DnsName::new(&format!("_smtp._tls.{domain}")).unwrap()
}

/// A URI, a content type and a body.
type Post = (String, String, Vec<u8>);

#[derive(Debug, Default)]
pub struct Posts(Mutex<Web>);

#[derive(Debug, Default)]
struct Web {
    taken: Vec<Post>,
    tries: Vec<String>,
    answers: BTreeMap<String, VecDeque<Result<(), PostError>>>,
}

impl Posts {
    /// What is answered first, whatever the URI.
    pub fn answer(&self, answers: Vec<Result<(), PostError>>) {
        self.answer_to("", answers);
    }

    pub fn answer_to(&self, uri: &str, answers: Vec<Result<(), PostError>>) {
        self.0.lock().unwrap().answers.insert(uri.into(), answers.into());
    }

    pub fn taken(&self) -> Vec<Post> {
        self.0.lock().unwrap().taken.clone()
    }

    pub fn tries(&self) -> usize {
        self.0.lock().unwrap().tries.len()
    }

    pub fn tries_to(&self, uri: &str) -> usize {
        self.0.lock().unwrap().tries.iter().filter(|tried| *tried == uri).count()
    }
}

impl PostReport for Posts {
    fn post<'a>(&'a self, uri: &'a str, kind: &'a str, body: Bytes) -> BoxFuture<'a, Result<(), PostError>> {
        let mut web = self.0.lock().unwrap();
        web.tries.push(uri.into());
        let answer = ["", uri].iter().find_map(|key| web.answers.get_mut(*key)?.pop_front());
        if answer.is_none_or(|answer| answer.is_ok()) {
            web.taken.push((uri.into(), kind.into(), body.to_vec()));
        }
        Box::pin(std::future::ready(answer.unwrap_or(Ok(()))))
    }
}

/// The text of a compressed report.
pub fn json(gzip: &[u8]) -> Value {
    let mut text = String::new();
    GzDecoder::new(gzip).read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

pub fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}
