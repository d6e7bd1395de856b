//! A relay: takes mail by SMTP, keeps it in a spool, delivers it. The whole crate in one program.
//!
//! ```text
//! cargo run --release --example relay -- --listen 127.0.0.1:2525 --hostname mail.example.com \
//!     --local example.com=maildir:./mail --relay-from 127.0.0.0/8 --route '*=smarthost.example.net:25'
//! ```

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use postroad::attempt::{CarrierOptions, Maildir};
use postroad::clock::SystemClock;
use postroad::delivery::{Engine, EngineOptions, Retry};
use postroad::hop::{Host, Require};
use postroad::message::dkim::{Identity, Selector, Signer, SigningKey};
use postroad::net::connect::TcpConnect;
use postroad::net::source::{Source, Sources};
use postroad::net::tls::{ClientTls, ServerTls, TlsOptions};
use postroad::relay::{Relay, Rules, SenderCheck, Users};
use postroad::route::sts::StsFolder;
use postroad::route::{FixedRoutes, Hosts, LocalId, Match, MxOptions, MxResolver, Route};
use postroad::server::{Network, Server, ServerOptions};
use postroad::smtp::address::{Domain, EhloName, Mailbox};
use postroad::smtp::sasl::Mechanism;
use postroad::smtp::server::AuthOffer;
use postroad::spool::{DiskSpool, MemorySpool, Spool};
use postroad::tls_rpt::{Collector, ReporterOptions, Submitter, TallyDirectory, TlsReporter};

#[path = "common/mod.rs"]
mod common;

/// A store-and-forward mail relay.
#[derive(Parser)]
struct Flags {
    /// Speak ESMTP here, with STARTTLS; may be given again. Port 0 finds a free one.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<String>,
    /// Speak ESMTP over TLS from the first octet here; may be given again.
    #[arg(long, value_name = "ADDR:PORT")]
    listen_tls: Vec<String>,
    /// Speak LMTP here, not on port 25; may be given again.
    #[arg(long, value_name = "ADDR:PORT")]
    listen_lmtp: Vec<String>,
    /// Our name: in the greeting, in EHLO and in Received.
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    hostname: String,
    /// Where mail is kept: a directory; `memory:`, which loses it when the program ends; or a PostgreSQL
    /// database that several relays share, postgres://USER:PASSWORD@HOST/DATABASE.
    #[arg(long, value_name = "DIR", default_value = "./spool")]
    spool: String,
    /// The DNS server to ask; default: the system's.
    #[arg(long, value_name = "ADDR:PORT")]
    resolver: Option<SocketAddr>,
    /// The port of MX hosts.
    #[arg(long, value_name = "PORT", default_value_t = 25)]
    mx_port: u16,
    /// A fixed next hop for a domain, or for all the rest: '*'; may be given again.
    #[arg(long, value_name = "DOMAIN=HOST:PORT", value_parser = route)]
    route: Vec<(Match, Host)>,
    /// A domain of ours, delivered to a Maildir or to an LMTP server: DOMAIN=maildir:PATH or
    /// DOMAIN=lmtp:HOST:PORT; may be given again.
    #[arg(long, value_name = "DOMAIN=STORE", value_parser = local)]
    local: Vec<(Domain, Store)>,
    /// The certificate chain, PEM; default: self-signed for --hostname.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// What TLS next hops must show.
    #[arg(long, value_name = "POLICY", default_value = "opportunistic")]
    tls_policy: TlsPolicy,
    /// An extra root, PEM, for verifying next hops.
    #[arg(long, value_name = "FILE")]
    trust_ca: Option<PathBuf>,
    /// A user who may send to every domain; may be given again. Turns AUTH on, under TLS.
    #[arg(long, value_name = "NAME:PASSWORD", value_parser = user)]
    user: Vec<(String, String)>,
    /// Offer AUTH without TLS too.
    #[arg(long)]
    auth_plaintext: bool,
    /// A network whose hosts may send to every domain; may be given again.
    #[arg(long, value_name = "CIDR")]
    relay_from: Vec<Network>,
    /// The largest message in octets.
    #[arg(long, value_name = "BYTES", default_value_t = 26_214_400)]
    max_message_size: u64,
    /// The waits between tries, such as 1s,2s,4s; the last repeats. Default: 1m,5m,15m,30m,1h,2h,4h.
    #[arg(long, value_name = "LIST", value_parser = common::durations)]
    retry: Option<Waits>,
    /// How long a message is tried before its sender is told.
    #[arg(long, value_name = "DUR", default_value = "5d", value_parser = common::duration)]
    expire: Duration,
    /// Sign what users and hosts in --relay-from send from this domain, with the key in this file, PEM; may
    /// be given again, for other domains and for other keys of the same. Prints what to publish.
    #[arg(long, value_name = "DOMAIN:SELECTOR:KEYFILE", value_parser = dkim)]
    dkim: Vec<(Domain, Selector, PathBuf)>,
    /// An address that outbound connections come from; may be given again, and then each gets an
    /// equal part of the messages.
    #[arg(long, value_name = "IP")]
    source: Vec<IpAddr>,
    /// Inbound connections at once.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    max_connections: usize,
    /// Caps every wait of the outbound client; for tests.
    #[arg(long, value_name = "DUR", value_parser = common::duration)]
    client_timeout: Option<Duration>,
    /// Caps every wait of the server; for tests.
    #[arg(long, value_name = "DUR", value_parser = common::duration)]
    server_timeout: Option<Duration>,
    /// Outbound connections per site.
    #[arg(long, value_name = "N", default_value_t = 20)]
    concurrency: usize,
    /// How long other relays on one database leave alone what this one is at; 10 s at least. After a crash that
    /// is how long its mail waits for them.
    #[arg(long, value_name = "DUR", default_value = "10m", value_parser = common::duration)]
    lease: Duration,
    /// Inbound connections from one IPv4 address or /64; loopback and --relay-from are exempt.
    #[arg(long, value_name = "N", default_value_t = 50)]
    max_connections_per_peer: usize,
    /// Where mail to a bare <postmaster> goes; default: postmaster at the first --local domain.
    #[arg(long, value_name = "ADDRESS")]
    postmaster: Option<Mailbox>,
    /// Serve metrics. Not there yet.
    #[arg(long, value_name = "ADDR:PORT")]
    http: Option<String>,
}

/// What the list of waits is called, so that the flag is not taken for a repeated one.
type Waits = Vec<Duration>;

/// Where mail for a domain of ours ends.
#[derive(Clone)]
enum Store {
    Maildir(PathBuf),
    Lmtp(Host),
}

#[derive(Clone, Copy, ValueEnum)]
enum TlsPolicy {
    /// Do not even try.
    None,
    /// Use it where it is offered.
    Opportunistic,
    /// Demand a certificate that is valid for the host's name.
    Verify,
}

impl From<TlsPolicy> for Require {
    fn from(policy: TlsPolicy) -> Self {
        match policy {
            TlsPolicy::None => Self::Cleartext,
            TlsPolicy::Opportunistic => Self::Opportunistic,
            TlsPolicy::Verify => Self::Verified,
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let flags: Flags = common::flags();
    common::log();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(flags))
}

async fn run(flags: Flags) -> Result<(), Box<dyn Error>> {
    if let Some(why) = flags.lacks() {
        common::refuse(why);
    }
    let terminated = common::terminated()?;
    let hostname = EhloName::new(&flags.hostname).unwrap_or_else(|error| common::refuse(error));
    let spool = flags.spool().await;
    let road = flags.engine(&hostname, &spool).await.unwrap_or_else(|error| common::refuse(error));
    let (engine, reports) = (road.engine, road.reports);
    let mut rules = flags.rules(&hostname);
    rules.sender_check = Some(SenderCheck::new(Arc::clone(road.resolver.dns())));
    let relay = Relay::new(engine.clone(), rules);
    let mut options = flags.server_options(&hostname);
    relay.offer(&mut options.session);
    let server = Server::builder(relay, options)
        .tls(flags.certificate().unwrap_or_else(|error| common::refuse(error)));
    let server = flags.listen.iter().fold(server, |server, address| server.listen(address));
    let server = flags.listen_tls.iter().fold(server, |server, address| server.listen_tls(address));
    let server = flags.listen_lmtp.iter().fold(server, |server, address| server.listen_lmtp(address));
    let server = server.start().await.unwrap_or_else(|error| common::refuse_start(&error));
    common::ready(server.addresses());
    terminated.await;
    server.shutdown(Duration::from_secs(10)).await;
    if let Some(reports) = reports {
        reports.stop().await;
    }
    engine.shutdown(Duration::from_secs(20)).await;
    spool.flush().await?;
    Ok(())
}

/// What carries the mail on.
struct Road {
    engine: Engine,
    resolver: Arc<MxResolver>,
    reports: Option<TlsReporter>,
}

impl Flags {
    /// A flag that asks for what is not there: better refused than ignored.
    fn lacks(&self) -> Option<&'static str> {
        [
            (
                self.listen.is_empty() && self.listen_tls.is_empty() && self.listen_lmtp.is_empty(),
                "--listen, --listen-tls or --listen-lmtp is needed",
            ),
            (self.http.is_some(), "--http is not supported yet"),
            (
                self.is_postgres() && !cfg!(feature = "postgres"),
                "--spool postgres: needs a relay that was built with --features postgres",
            ),
            (self.auth_plaintext && self.user.is_empty(), "--auth-plaintext needs --user"),
        ]
        .into_iter()
        .find_map(|(asked, why)| asked.then_some(why))
    }

    /// Whether mail is kept in a database, with nothing beside it.
    fn is_postgres(&self) -> bool {
        ["postgres:", "postgresql:"].iter().any(|scheme| self.spool.starts_with(scheme))
    }

    async fn spool(&self) -> Arc<dyn Spool> {
        match self.spool.as_str() {
            "memory:" => Arc::new(MemorySpool::new()),
            #[cfg(feature = "postgres")]
            url if self.is_postgres() => {
                let options = postroad::spool::PostgresOptions::new();
                match postroad::spool::PostgresSpool::connect(url, options).await {
                    Ok(spool) => Arc::new(spool),
                    Err(error) => common::refuse_start(&error),
                }
            }
            directory => match DiskSpool::open(directory) {
                Ok(spool) => Arc::new(spool),
                Err(error) => common::refuse_start(&error),
            },
        }
    }

    async fn engine(&self, hostname: &EhloName, spool: &Arc<dyn Spool>) -> Result<Road, Box<dyn Error>> {
        let mut options = EngineOptions::new();
        options.runs_per_site = self.concurrency;
        options.lease = self.lease;
        let mut carrier = CarrierOptions::new(hostname.clone());
        carrier.client.longest_wait = self.client_timeout;
        carrier.limits.per_key = self.concurrency;
        carrier.limits.total = options.runs;
        let mut retry = Retry::new();
        if let Some(steps) = &self.retry {
            retry.steps.clone_from(steps);
        }
        retry.expire_null_sender = retry.expire_null_sender.min(self.expire);
        retry.expire = self.expire;
        let mut trust = TlsOptions::new();
        if let Some(ca) = &self.trust_ca {
            trust = trust.trust_pem(&common::read(ca)?)?;
        }
        let sources = self.sources(hostname)?;
        let resolver = Arc::new(self.resolver(hostname)?);
        let mut engine = Engine::builder(Arc::clone(spool), hostname.clone())
            .direct(self.routes(&resolver))
            .options(options)
            .carrier(carrier)
            .retry(retry)
            .tls(ClientTls::new(trust, Arc::new(SystemClock))?);
        engine = match sources.as_slice() {
            [] => engine,
            // It needs no name, and no queues of its own.
            [source] => engine.connect(Arc::clone(&source.connect)),
            _ => engine.sources(Sources::equal(sources)?),
        };
        if let Some(signer) = self.signer()? {
            engine = engine.signer(Arc::new(signer));
        }
        let maildirs = self.local.iter().filter_map(|(domain, store)| match store {
            Store::Maildir(path) => Some((domain, path)),
            Store::Lmtp(_) => None,
        });
        for (domain, path) in maildirs {
            let maildir = Maildir::open(path, Arc::new(SystemClock))?;
            engine = engine.local(LocalId::new(domain.as_str()), Arc::new(maildir));
        }
        let collector = self.collector(hostname)?;
        if let Some(collector) = &collector {
            engine = engine.observer(collector.clone());
        }
        let engine = engine.start().await?;
        let reports = match collector {
            Some(collector) => Some(self.report(hostname, &engine, &resolver, collector).await?),
            None => None,
        };
        Ok(Road { engine, resolver, reports })
    }

    /// Where something is kept beside the spool; nowhere when that is in memory or in a database.
    fn beside(&self, folder: &str) -> Option<PathBuf> {
        (self.spool != "memory:" && !self.is_postgres()).then(|| PathBuf::from(&self.spool).join(folder))
    }

    /// Counts how hosts fare with TLS, so that their domains can be told (RFC 8460). Only under a name that
    /// others can write to.
    fn collector(&self, hostname: &EhloName) -> Result<Option<Arc<Collector>>, Box<dyn Error>> {
        let Some(folder) = self.beside("tls-rpt").filter(|_| hostname.as_domain().as_str().contains('.'))
        else {
            return Ok(None);
        };
        Ok(Some(Collector::new(Arc::new(TallyDirectory::open(folder)?), Arc::new(SystemClock))))
    }

    async fn report(
        &self,
        hostname: &EhloName,
        engine: &Engine,
        resolver: &MxResolver,
        collector: Arc<Collector>,
    ) -> Result<TlsReporter, Box<dyn Error>> {
        let contact = match &self.postmaster {
            Some(postmaster) => postmaster.clone(),
            None => Mailbox::parse(&format!("postmaster@{hostname}"))?,
        };
        let submitter = Submitter::new(&self.hostname, contact, hostname.as_domain().clone());
        let https = resolver.policies().map(|policies| Arc::new(policies.https().clone()) as _);
        let options = ReporterOptions::new(submitter);
        let dns = Arc::clone(resolver.dns());
        Ok(TlsReporter::start(engine.clone(), collector, dns, https, options).await?)
    }

    /// What --source says. Where there are addresses of both families each source has one of either: a
    /// host may have only one.
    fn sources(&self, hostname: &EhloName) -> Result<Vec<Source>, Box<dyn Error>> {
        let v4: Vec<_> = self.source.iter().filter(|ip| ip.is_ipv4()).collect();
        let v6: Vec<_> = self.source.iter().filter(|ip| ip.is_ipv6()).collect();
        let names = if v4.len() >= v6.len() { &v4 } else { &v6 };
        let source = |(at, name): (usize, &&IpAddr)| -> Result<Source, Box<dyn Error>> {
            let mut connect = TcpConnect::new();
            for ip in v4.iter().cycle().nth(at).into_iter().chain(v6.iter().cycle().nth(at)) {
                match ip {
                    IpAddr::V4(ip) => connect.ipv4 = Some(*ip),
                    IpAddr::V6(ip) => connect.ipv6 = Some(*ip),
                }
            }
            Ok(Source::new(name.to_string().parse()?, hostname.clone(), connect))
        };
        names.iter().enumerate().map(source).collect()
    }

    fn signer(&self) -> Result<Option<Signer>, Box<dyn Error>> {
        let mut identities: Vec<Identity> = Vec::new();
        for (domain, selector, file) in &self.dkim {
            let key = SigningKey::from_pem(&common::read(file)?)
                .map_err(|error| format!("{}: {error}", file.display()))?;
            let at = identities.iter().position(|identity| identity.domain == *domain);
            let identity = match at {
                Some(at) => identities.swap_remove(at),
                None => Identity::new(domain.clone()),
            };
            identities.push(identity.key(selector.clone(), key));
        }
        if identities.is_empty() {
            return Ok(None);
        }
        let signer = Signer::new(identities)?;
        signer.dns_records().for_each(|record| eprintln!("publish: {record}"));
        Ok(Some(signer))
    }

    fn resolver(&self, hostname: &EhloName) -> Result<MxResolver, Box<dyn Error>> {
        let mut mx = MxOptions::new();
        mx.servers = self.resolver.into_iter().collect();
        mx.port = self.mx_port;
        mx.require = self.tls_policy.into();
        mx.own_names = vec![hostname.as_domain().clone()];
        let port = |address: &String| address.rsplit_once(':')?.1.parse().ok();
        mx.own_ports = self.listen.iter().filter_map(port).collect();
        if let (Some(sts), Some(folder)) = (&mut mx.sts, self.beside("sts")) {
            sts.store = Some(Arc::new(StsFolder::open(folder)?));
        }
        Ok(MxResolver::new(mx)?)
    }

    fn routes(&self, resolver: &Arc<MxResolver>) -> FixedRoutes {
        let mut routes = FixedRoutes::new().otherwise(Arc::clone(resolver) as _);
        for (on, host) in &self.route {
            routes = routes.host(on.clone(), host.clone(), self.tls_policy.into());
        }
        for (domain, store) in &self.local {
            routes = match store {
                Store::Maildir(_) => routes.local(domain.clone(), LocalId::new(domain.as_str())),
                Store::Lmtp(host) => {
                    let at_hand =
                        !host.addresses.is_empty() && host.addresses.iter().all(IpAddr::is_loopback);
                    let require = if at_hand { Require::Cleartext } else { Require::Opportunistic };
                    let hosts = Hosts::new(vec![host.clone()], require).lmtp();
                    routes.set(domain.clone(), Route::Hosts(hosts))
                }
            };
        }
        routes
    }

    fn rules(&self, hostname: &EhloName) -> Rules {
        let mut rules = Rules::new(hostname.clone());
        rules.local = self.local.iter().map(|(domain, _)| domain.clone()).collect();
        rules.relay_from.clone_from(&self.relay_from);
        rules.postmaster.clone_from(&self.postmaster);
        if !self.user.is_empty() {
            let users = self.user.iter().fold(Users::new(), |users, (name, word)| users.with(name, word));
            rules.users = Some(Arc::new(users));
        }
        rules
    }

    fn server_options(&self, hostname: &EhloName) -> ServerOptions {
        let mut options = ServerOptions::new(hostname.clone());
        options.session.max_message_size = self.max_message_size;
        options.session.auth = match (self.user.is_empty(), self.auth_plaintext) {
            (true, _) => AuthOffer::Never,
            (false, false) => AuthOffer::UnderTls,
            (false, true) => AuthOffer::Always,
        };
        options.session.mechanisms = Mechanism::STORED_KEYS.to_vec();
        options.max_connections = self.max_connections;
        options.max_per_network = self.max_connections_per_peer;
        options.exempt.clone_from(&self.relay_from);
        if let Some(cap) = self.server_timeout {
            options.session.timeouts = options.session.timeouts.at_most(cap);
            options.tls_handshake = options.tls_handshake.min(cap);
            options.write = options.write.min(cap);
        }
        options
    }

    fn certificate(&self) -> Result<ServerTls, Box<dyn Error>> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(chain), Some(key)) => common::certificate(chain, key),
            _ => common::self_signed(&self.hostname),
        }
    }
}

fn route(text: &str) -> Result<(Match, Host), String> {
    let (on, to) = text.split_once('=').ok_or("needs DOMAIN=HOST:PORT")?;
    let on = on.parse().map_err(|error| format!("'{on}': {error}"))?;
    Ok((on, common::host(to)?))
}

fn dkim(text: &str) -> Result<(Domain, Selector, PathBuf), String> {
    let mut parts = text.splitn(3, ':');
    let (Some(domain), Some(selector), Some(file)) = (parts.next(), parts.next(), parts.next()) else {
        return Err("needs DOMAIN:SELECTOR:KEYFILE".into());
    };
    let domain = domain.parse().map_err(|error| format!("'{domain}': {error}"))?;
    let selector = selector.parse().map_err(|error| format!("'{selector}': {error}"))?;
    Ok((domain, selector, file.into()))
}

fn local(text: &str) -> Result<(Domain, Store), String> {
    let (domain, store) = text.split_once('=').ok_or("needs DOMAIN=maildir:PATH or DOMAIN=lmtp:HOST:PORT")?;
    let domain = domain.parse().map_err(|error| format!("'{domain}': {error}"))?;
    match store.split_once(':') {
        Some(("maildir", path)) if !path.is_empty() => Ok((domain, Store::Maildir(path.into()))),
        Some(("lmtp", address)) => match common::host(address)? {
            host if host.port == 25 => Err("LMTP is never spoken on port 25".into()),
            host => Ok((domain, Store::Lmtp(host))),
        },
        _ => Err(format!("'{store}' is no store: maildir:PATH and lmtp:HOST:PORT are")),
    }
}

fn user(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, password)) if !name.is_empty() => Ok((name.to_owned(), password.to_owned())),
        _ => Err("needs NAME:PASSWORD".into()),
    }
}
