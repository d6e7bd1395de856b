//! Routes by a table that a test changes while it runs.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::lock;
use crate::BoxFuture;
use crate::hop::{Host, Require};
use crate::route::{Hosts, LocalId, Resolve, Route, RouteError};
use crate::smtp::address::Domain;

/// Where mail for a domain goes. What nothing is said about is served by the host `mx.` and its name.
/// Clones are the same table.
///
/// For routes by DNS give an `MxResolver` a `StaticDns` (`route::dns`).
///
/// ```
/// # postroad::testing::run(async {
/// use postroad::route::{Resolve, RouteError};
/// use postroad::testing::Routes;
///
/// let routes = Routes::new();
/// let domain = "example.org".parse()?;
/// assert!(routes.route(&domain).await.is_ok());
/// routes.fails("example.org", RouteError::Dns);
/// assert_eq!(routes.route(&domain).await.err(), Some(RouteError::Dns));
/// routes.recovers("example.org");
/// assert!(routes.route(&domain).await.is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[derive(Clone, Default)]
pub struct Routes(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    known: BTreeMap<Box<str>, Result<Route, RouteError>>,
    /// Kept apart, so that a fault that goes leaves the route that was there.
    faults: BTreeMap<Box<str>, RouteError>,
    slow: BTreeMap<Box<str>, Duration>,
    lookups: usize,
}

#[allow(clippy::must_use_candidate, reason = "setters return themselves for whoever wants to go on")]
impl Routes {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `destination` is served by these hosts, in this order, over TLS where they offer it. Names that are
    /// none are left out.
    pub fn hosted_by(&self, destination: &str, hosts: &[&str]) -> &Self {
        let hosts = hosts.iter().filter_map(|name| Domain::parse(name).ok());
        let hosts = hosts.map(|name| Host::new(name, SMTP)).collect();
        self.set(destination, Ok(Route::Hosts(Hosts::new(hosts, Require::Opportunistic))))
    }

    /// `destination` has this route, or none for good.
    pub fn set(&self, destination: &str, route: Result<Route, RouteError>) -> &Self {
        lock(&self.0).known.insert(destination.into(), route);
        self
    }

    /// What serves `destination` is spoken to in LMTP.
    pub fn speaks_lmtp(&self, destination: &str) -> &Self {
        if let Some(Ok(Route::Hosts(hosts))) = lock(&self.0).known.get_mut(destination) {
            *hosts = hosts.clone().lmtp();
        }
        self
    }

    /// Mail for `destination` is delivered here, by what the engine knows under this id.
    pub fn locally(&self, destination: &str, id: &str) -> &Self {
        self.set(destination, Ok(Route::Local(LocalId::new(id))))
    }

    /// Looking `destination` up fails from now on.
    pub fn fails(&self, destination: &str, error: RouteError) -> &Self {
        lock(&self.0).faults.insert(destination.into(), error);
        self
    }

    /// Looking `destination` up takes this long from now on.
    pub fn takes(&self, destination: &str, time: Duration) -> &Self {
        lock(&self.0).slow.insert(destination.into(), time);
        self
    }

    /// Looking `destination` up works again, and at once.
    pub fn recovers(&self, destination: &str) -> &Self {
        let mut table = lock(&self.0);
        table.faults.remove(destination);
        table.slow.remove(destination);
        drop(table);
        self
    }

    /// How often routes were looked up.
    #[must_use]
    pub fn lookups(&self) -> usize {
        lock(&self.0).lookups
    }
}

impl Resolve for Routes {
    fn route<'a>(&'a self, destination: &'a Domain) -> BoxFuture<'a, Result<Route, RouteError>> {
        Box::pin(async move {
            let name = destination.as_str();
            let slow = {
                let mut table = lock(&self.0);
                table.lookups += 1;
                table.slow.get(name).copied()
            };
            if let Some(slow) = slow {
                tokio::time::sleep(slow).await;
            }
            let table = lock(&self.0);
            if let Some(error) = table.faults.get(name) {
                return Err(*error);
            }
            if let Some(route) = table.known.get(name) {
                return route.clone();
            }
            let host = Domain::parse(&format!("mx.{name}")).map_err(|_| RouteError::NoRoute)?;
            Ok(Route::Hosts(Hosts::new(vec![Host::new(host, SMTP)], Require::Opportunistic)))
        })
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routes").field("lookups", &self.lookups()).finish_non_exhaustive()
    }
}

const SMTP: u16 = 25;
