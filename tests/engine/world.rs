//! The kit's network, and what our tests like to see of it at once.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use postroad::BoxFuture;
use postroad::hop::Host;
use postroad::net::connect::{Connect, ConnectError, Opened};
use postroad::route::{Resolve, Route, RouteError};
use postroad::smtp::address::Domain;
use postroad::testing::{Network, Taken};

/// The network. Clones are the same one.
#[derive(Clone)]
pub struct World(Network);

/// What happened in it so far.
pub struct Net {
    pub got: Vec<Got>,
    /// When which host was connected to.
    pub connects: Vec<(String, Duration)>,
    pub most_busy: BTreeMap<String, usize>,
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

impl From<Taken> for Got {
    fn from(taken: Taken) -> Self {
        Self {
            host: taken.host.to_string(),
            from: taken.mail.from.to_string(),
            to: taken.to.to_string(),
            mail: taken.mail.to_string(),
            rcpt: taken.rcpt.to_string(),
            content: taken.text(),
            at: taken.at,
        }
    }
}

impl World {
    pub fn new() -> Self {
        Self(Network::new())
    }

    pub fn net(&self) -> Net {
        let connects = self.connects();
        let busy = |(host, _): &(String, Duration)| (host.clone(), self.most_busy(host));
        let most_busy = connects.iter().map(busy).collect();
        Net { got: self.taken().into_iter().map(Got::from).collect(), connects, most_busy }
    }

    /// It does not offer DSN.
    pub fn without_dsn(&self, host: &str) -> &Self {
        self.without(host, "DSN");
        self
    }

    /// It offers DELIVERBY.
    pub fn with_deliver_by(&self, host: &str) -> &Self {
        self.with_least_time(host, 0)
    }

    /// It offers DELIVERBY, for no less than so many seconds.
    pub fn with_least_time(&self, host: &str, least: u32) -> &Self {
        self.configured(host, |config| config.deliver_by = Some(least));
        self
    }

    /// It takes so many recipients in one transaction.
    pub fn takes(&self, host: &str, recipients: usize) -> &Self {
        self.configured(host, |config| config.max_recipients = recipients);
        self
    }

    /// What reached an address, in order.
    pub fn inbox(&self, to: &str) -> Vec<Got> {
        self.0.inbox(to).into_iter().map(Got::from).collect()
    }

    pub fn no_route(&self, destination: &str, error: RouteError) -> &Self {
        self.routes().set(destination, Err(error));
        self
    }

    pub fn locally(&self, destination: &str, id: &str) -> &Self {
        self.routes().locally(destination, id);
        self
    }

    /// `destination` is served by the host `mx`.
    pub fn hosted(&self, destination: &str, mx: &str) -> &Self {
        self.hosted_by(destination, &[mx])
    }

    /// `destination` is served by these hosts, in this order.
    pub fn hosted_by(&self, destination: &str, mxs: &[&str]) -> &Self {
        self.routes().hosted_by(destination, mxs);
        self
    }

    /// What serves `destination` is spoken to in LMTP.
    pub fn speaks_lmtp(&self, destination: &str) -> &Self {
        self.routes().speaks_lmtp(destination);
        self
    }
}

/// As the network's own, and then ours can follow.
impl World {
    pub fn rule(&self, host: &str, rule: impl FnMut(&str, u32) -> u16 + Send + 'static) -> &Self {
        self.0.rule(host, rule);
        self
    }

    pub fn down(&self, host: &str) -> &Self {
        self.0.down(host);
        self
    }

    pub fn up(&self, host: &str) -> &Self {
        self.0.up(host);
        self
    }

    pub fn thinks(&self, host: &str, think: Duration) -> &Self {
        self.0.thinks(host, think);
        self
    }

    pub fn content(&self, host: &str, code: u16) -> &Self {
        self.0.content(host, code);
        self
    }
}

impl Deref for World {
    type Target = Network;

    fn deref(&self) -> &Network {
        &self.0
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Resolve for World {
    fn route<'a>(&'a self, destination: &'a Domain) -> BoxFuture<'a, Result<Route, RouteError>> {
        self.0.route(destination)
    }
}

impl Connect for World {
    fn connect<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Result<Opened, ConnectError>> {
        self.0.connect(host)
    }
}
