//! A network in memory: hosts that speak real SMTP by the crate's own server session, and answer by
//! rule. Whatever happens in it is written down with its time.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::Instant;

use postroad::BoxFuture;
use postroad::clock::{Clock, SystemClock};
use postroad::hop::{Host, Require};
use postroad::net::connect::{Connect, ConnectError, Opened};
use postroad::route::{Hosts, LocalId, Resolve, Route, RouteError};
use postroad::smtp::address::{Domain, EhloName};
use postroad::smtp::reply::Reply;
use postroad::smtp::server::{Config, Event, Session};
use postroad::smtp::{Input, Output};

/// Says what a host answers to a recipient that it sees for the nth time (from 1): a code to RCPT.
pub type Rule = Box<dyn FnMut(&str, u32) -> u16 + Send>;

/// The network. Clones are the same one.
#[derive(Clone)]
pub struct World(Arc<Mutex<Net>>);

pub struct Net {
    start: Instant,
    hosts: BTreeMap<String, Site>,
    routes: BTreeMap<String, Result<Route, RouteError>>,
    pub got: Vec<Got>,
    seen: BTreeMap<String, u32>,
    /// When which host was connected to.
    pub connects: Vec<(String, Duration)>,
    pub lookups: usize,
    /// Messages being thought about now, and the most there ever were at one time, by host.
    busy: BTreeMap<String, usize>,
    pub most_busy: BTreeMap<String, usize>,
}

struct Site {
    up: bool,
    rule: Rule,
    /// Between the end of the content and its reply.
    think: Duration,
    /// What is said to the end of content.
    content: u16,
    /// Whether it closes the connection at MAIL.
    breaks: bool,
    /// Whether it says nothing any more at MAIL.
    silent: bool,
    /// Whether it knows nothing of DSN.
    no_dsn: bool,
    /// Whether it knows DELIVERBY, and its least time.
    deliver_by: Option<u32>,
    /// How many recipients it takes in one transaction.
    recipients: usize,
    /// In what words.
    says: String,
}

/// A message that a host took for a recipient.
#[derive(Debug, Clone)]
pub struct Got {
    pub host: String,
    pub from: String,
    pub to: String,
    /// The arguments of MAIL and RCPT.
    pub mail: String,
    pub rcpt: String,
    pub content: String,
    pub at: Duration,
}

impl World {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Net {
            start: Instant::now(),
            hosts: BTreeMap::new(),
            routes: BTreeMap::new(),
            got: Vec::new(),
            seen: BTreeMap::new(),
            connects: Vec::new(),
            lookups: 0,
            busy: BTreeMap::new(),
            most_busy: BTreeMap::new(),
        })))
    }

    pub fn net(&self) -> MutexGuard<'_, Net> {
        self.0.lock().unwrap()
    }

    /// What `host` answers to RCPT. A host that nothing is said about takes everything.
    pub fn rule(&self, host: &str, rule: impl FnMut(&str, u32) -> u16 + Send + 'static) -> &Self {
        self.net().site(host).rule = Box::new(rule);
        self
    }

    pub fn down(&self, host: &str) -> &Self {
        self.net().site(host).up = false;
        self
    }

    pub fn up(&self, host: &str) -> &Self {
        self.net().site(host).up = true;
        self
    }

    pub fn thinks(&self, host: &str, think: Duration) -> &Self {
        self.net().site(host).think = think;
        self
    }

    pub fn content(&self, host: &str, code: u16) -> &Self {
        self.net().site(host).content = code;
        self
    }

    /// It greets, and closes the connection when mail is to be sent.
    pub fn breaks(&self, host: &str) -> &Self {
        self.net().site(host).breaks = true;
        self
    }

    /// It greets, and says nothing more when mail is to be sent.
    pub fn silent(&self, host: &str) -> &Self {
        self.net().site(host).silent = true;
        self
    }

    /// It does not offer DSN.
    pub fn without_dsn(&self, host: &str) -> &Self {
        self.net().site(host).no_dsn = true;
        self
    }

    /// It offers DELIVERBY.
    pub fn with_deliver_by(&self, host: &str) -> &Self {
        self.with_least_time(host, 0)
    }

    /// It offers DELIVERBY, for no less than so many seconds.
    pub fn with_least_time(&self, host: &str, least: u32) -> &Self {
        self.net().site(host).deliver_by = Some(least);
        self
    }

    /// It takes so many recipients in one transaction.
    pub fn takes(&self, host: &str, recipients: usize) -> &Self {
        self.net().site(host).recipients = recipients;
        self
    }

    /// What it says with every code.
    pub fn says(&self, host: &str, text: &str) -> &Self {
        self.net().site(host).says = text.into();
        self
    }

    /// What reached an address, in order.
    pub fn inbox(&self, to: &str) -> Vec<Got> {
        self.net().got.iter().filter(|got| got.to == to).cloned().collect()
    }

    pub fn no_route(&self, destination: &str, error: RouteError) -> &Self {
        self.net().routes.insert(destination.into(), Err(error));
        self
    }

    pub fn locally(&self, destination: &str, id: &str) -> &Self {
        self.net().routes.insert(destination.into(), Ok(Route::Local(LocalId::new(id))));
        self
    }

    /// `destination` is served by the host `mx`.
    pub fn hosted(&self, destination: &str, mx: &str) -> &Self {
        self.net().routes.insert(destination.into(), Ok(route(mx)));
        self
    }

    /// `destination` is served by these hosts, in this order.
    pub fn hosted_by(&self, destination: &str, mxs: &[&str]) -> &Self {
        let hosts = mxs.iter().map(|mx| Host::new(Domain::parse(mx).unwrap(), 25)).collect();
        let route = Route::Hosts(Hosts::new(hosts, Require::Opportunistic));
        self.net().routes.insert(destination.into(), Ok(route));
        self
    }

    /// What serves `destination` is spoken to in LMTP.
    pub fn speaks_lmtp(&self, destination: &str) -> &Self {
        if let Some(Ok(Route::Hosts(hosts))) = self.net().routes.get_mut(destination) {
            *hosts = hosts.clone().lmtp();
        }
        self
    }

    /// When a host was connected to.
    pub fn connects_to(&self, host: &str) -> Vec<Duration> {
        self.net().connects.iter().filter(|(name, _)| name == host).map(|(_, at)| *at).collect()
    }

    /// Who got a message, in order of recipients; more than once if it came more than once.
    pub fn reached(&self) -> Vec<String> {
        let mut reached: Vec<_> = self.net().got.iter().map(|got| got.to.clone()).collect();
        reached.sort();
        reached
    }
}

fn route(mx: &str) -> Route {
    Route::Hosts(Hosts::new(vec![Host::new(Domain::parse(mx).unwrap(), 25)], Require::Opportunistic))
}

impl Net {
    fn site(&mut self, host: &str) -> &mut Site {
        self.hosts.entry(host.into()).or_insert_with(|| Site {
            up: true,
            rule: Box::new(|_, _| 250),
            think: Duration::ZERO,
            content: 250,
            breaks: false,
            silent: false,
            no_dsn: false,
            deliver_by: None,
            recipients: 1_000,
            says: "as the test has it".into(),
        })
    }

    fn begins(&mut self, host: &str) {
        let busy = self.busy.entry(host.into()).or_default();
        *busy += 1;
        let most = self.most_busy.entry(host.into()).or_default();
        *most = (*most).max(*busy);
    }

    fn rcpt(&mut self, host: &str, to: &str) -> u16 {
        let seen = self.seen.entry(to.into()).or_default();
        *seen += 1;
        let nth = *seen;
        (self.site(host).rule)(to, nth)
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}

impl Resolve for World {
    fn route<'a>(&'a self, destination: &'a Domain) -> BoxFuture<'a, Result<Route, RouteError>> {
        Box::pin(async move {
            let mut net = self.net();
            net.lookups += 1;
            let known = net.routes.get(destination.as_str()).cloned();
            known.unwrap_or_else(|| Ok(route(&format!("mx.{destination}"))))
        })
    }
}

impl Connect for World {
    fn connect<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Result<Opened, ConnectError>> {
        Box::pin(async move {
            let name = host.name.as_str().to_owned();
            let mut net = self.net();
            let at = net.start.elapsed();
            net.connects.push((name.clone(), at));
            if !net.site(&name).up {
                return Err(ConnectError::Refused);
            }
            drop(net);
            let (ours, theirs) = duplex(64 * 1024);
            let world = self.clone();
            tokio::spawn(async move { serve(&world, &name, theirs).await });
            Ok(Opened::new(ours))
        })
    }
}

async fn serve(world: &World, host: &str, mut io: DuplexStream) {
    let now = || SystemClock.now().mono;
    let mut config = Config::new(EhloName::new(host).unwrap());
    {
        let mut net = world.net();
        let site = net.site(host);
        config.deliver_by = site.deliver_by;
        config.max_recipients = site.recipients;
    }
    let mut session = Session::new(config, now());
    let mut input = BytesMut::new();
    let (mut from, mut to, mut content) = (String::new(), Vec::<(String, String)>::new(), Vec::new());
    let mut argument = String::new();
    loop {
        match session.poll() {
            Output::Send(mut octets) | Output::SendSecret(mut octets) => {
                if world.net().site(host).no_dsn {
                    let text = String::from_utf8_lossy(&octets);
                    octets = text.replace("250-DSN\r\n", "250-NONE\r\n").into();
                }
                if io.write_all(&octets).await.is_err() {
                    return;
                }
                session.handle(now(), Input::Sent(octets.len()));
            }
            Output::Event(event) => {
                let code = match event {
                    Event::Mail(_) if world.net().site(host).breaks => return,
                    Event::Mail(_) if world.net().site(host).silent => {
                        tokio::time::sleep(Duration::from_secs(3600)).await;
                        return;
                    }
                    Event::Mail(mail) => {
                        (from, to, argument) = (mail.from.to_string(), Vec::new(), mail.to_string());
                        250
                    }
                    Event::Rcpt(rcpt) => {
                        let name = rcpt.to.to_string();
                        let name = name.trim_matches(['<', '>']).to_owned();
                        let code = world.net().rcpt(host, &name);
                        if code == 250 {
                            to.push((name, rcpt.to_string()));
                        }
                        code
                    }
                    Event::MessageStart => {
                        content.clear();
                        continue;
                    }
                    Event::Body(octets) => {
                        content.extend_from_slice(&octets);
                        continue;
                    }
                    Event::MessageEnd => {
                        let think = world.net().site(host).think;
                        if !think.is_zero() {
                            world.net().begins(host);
                            tokio::time::sleep(think).await;
                            *world.net().busy.get_mut(host).unwrap() -= 1;
                        }
                        let mut net = world.net();
                        let code = net.site(host).content;
                        let at = net.start.elapsed();
                        if code == 250 {
                            net.got.extend(to.drain(..).map(|(to, rcpt)| Got {
                                host: host.into(),
                                from: from.clone(),
                                to,
                                mail: argument.clone(),
                                rcpt,
                                content: String::from_utf8_lossy(&content).into_owned(),
                                at,
                            }));
                        }
                        code
                    }
                    _ => continue,
                };
                let says = world.net().site(host).says.clone();
                session.respond(Reply::plain(code, &says)).unwrap();
            }
            Output::Wait { .. } => {
                if session.can_read_on() {
                    session.handle(now(), Input::Data(&mut input));
                    continue;
                }
                match io.read_buf(&mut input).await {
                    Ok(n) if n > 0 => session.handle(now(), Input::Data(&mut input)),
                    _ => session.handle(now(), Input::Eof),
                }
            }
            Output::Closed => return,
            Output::StartTls => unreachable!("not offered"),
        }
    }
}
