//! Policies on routes, and what the engine tells of deliveries that failed by one.

use std::net::IpAddr;

use postroad::BoxFuture;
use postroad::hop::{Host, PolicyKind, Require};
use postroad::message::{Envelope, RawMessage};
use postroad::route::sts::StsResolver;
use postroad::route::{FixedRoutes, Hosts, LocalId, Match, Resolve, Route};
use postroad::spool::MemorySpool;
use postroad::{EhloName, Engine, Mailer};

use super::peer::Peer;
use super::*;

/// The same route for each domain, as from MX; and who was told what.
#[derive(Debug, Clone)]
struct Always {
    route: Result<Route, RouteError>,
    told: Log,
}

impl Always {
    fn new(route: Result<Route, RouteError>) -> Self {
        Self { route, told: Log::default() }
    }
}

impl Resolve for Always {
    fn route<'a>(&'a self, _: &'a Domain) -> BoxFuture<'a, Result<Route, RouteError>> {
        Box::pin(std::future::ready(self.route.clone()))
    }

    fn addresses<'a>(&'a self, _: &'a Domain) -> BoxFuture<'a, Result<Vec<IpAddr>, RouteError>> {
        Box::pin(async { Ok(vec![[192, 0, 2, 9].into()]) })
    }

    fn policy_failed(&self, destination: &Domain) {
        self.told.lock().unwrap().push(destination.to_string());
    }
}

fn hosts(names: &[&str]) -> Hosts {
    let hosts = names.iter().map(|name| Host::new(domain(name), 25)).collect();
    Hosts::new(hosts, Require::Opportunistic).unproven()
}

fn over(world: &World, inner: impl Resolve) -> StsResolver {
    StsResolver::with_policies(Arc::new(inner), world.policies())
}

async fn routed(resolver: &impl Resolve, name: &str) -> Hosts {
    match resolver.route(&domain(name)).await.unwrap() {
        Route::Hosts(hosts) => hosts,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_route_carries_its_domains_policy() {
    let world = World::with("a.test", &text("enforce", "*.mx.test", DAY)).await;
    world.publish("b.test", "1", &text("testing", "other.test", DAY));
    world.publish("c.test", "1", &text("none", "other.test", DAY));
    world.publish("d.test", "1", "odd");
    let route = hosts(&["mx1.mx.test", "backup.test", "x.mx1.mx.test"]);
    let resolver = over(&world, Always::new(Ok(Route::Hosts(route.clone()))));

    let enforced = routed(&resolver, "a.test").await;
    assert_eq!((enforced.hosts.len(), enforced.proven), (3, false), "who sends applies it");
    let applied = enforced.clone().under_policy(false).unwrap();
    assert_eq!(applied.hosts, route.hosts[..1]);
    assert_eq!((applied.require, applied.by, applied.proven), (Require::Verified, PolicyKind::Sts, true));
    assert_eq!(enforced.under_policy(true).unwrap().hosts.len(), 3);

    let tested = routed(&resolver, "b.test").await;
    assert_eq!(tested.sts.as_ref().unwrap().mode, StsMode::Testing);
    let applied = tested.under_policy(false).unwrap();
    assert_eq!((applied.hosts.len(), applied.require), (3, Require::Opportunistic));

    assert_eq!(routed(&resolver, "c.test").await, route);
    assert_eq!(routed(&resolver, "d.test").await.sts_fault, Some(StsFault::Invalid));
    assert_eq!(routed(&resolver, "e.test").await, route);
    assert_eq!(resolver.addresses(&domain("x.test")).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_policy_that_allows_no_host_of_the_route_leaves_none() {
    let world = World::with("a.test", &text("enforce", "mx.test", DAY)).await;
    let resolver = over(&world, Always::new(Ok(Route::Hosts(hosts(&["forged.test"])))));
    let error = routed(&resolver, "a.test").await.under_policy(false).unwrap_err();
    assert_eq!(error, RouteError::Sts);
    assert!(error.is_transient());
}

#[tokio::test]
async fn only_routes_over_smtp_that_may_have_tls_get_a_policy() {
    let world = World::with("a.test", &text("enforce", "mx.test", DAY)).await;
    let mut clear = hosts(&["mx.test"]);
    clear.require = Require::Cleartext;
    for route in [
        Ok(Route::Hosts(clear)),
        Ok(Route::Hosts(hosts(&["mx.test"]).lmtp())),
        Ok(Route::Local(LocalId::new("x"))),
        Err(RouteError::NullMx),
        Err(RouteError::Dns),
    ] {
        let resolver = over(&world, Always::new(route.clone()));
        assert_eq!(resolver.route(&domain("a.test")).await, route);
    }
    // Below a table, what the table says is left alone.
    let by_mx = over(&world, Always::new(Ok(Route::Hosts(hosts(&["mx.test"])))));
    let table = FixedRoutes::new()
        .host(Match::Domain(domain("b.test")), Host::new(domain("x.test"), 25), Require::Opportunistic)
        .otherwise(Arc::new(by_mx));
    world.publish("b.test", "1", &text("enforce", "mx.test", DAY));
    assert_eq!(routed(&table, "b.test").await.sts, None);
    assert!(routed(&table, "a.test").await.sts.is_some());
}

#[tokio::test]
async fn what_is_told_of_a_failed_policy_goes_down_to_who_knows_it() {
    let world = World::with("a.test", &text("enforce", "mx.test", DAY)).await;
    let inner = Always::new(Ok(Route::Hosts(hosts(&["mx.test"]))));
    let told = Arc::clone(&inner.told);
    let table = FixedRoutes::new().no_mail(domain("b.test")).otherwise(Arc::new(over(&world, inner)));
    routed(&table, "a.test").await;
    table.policy_failed(&domain("a.test"));
    table.policy_failed(&domain("b.test"));
    assert_eq!(*told.lock().unwrap(), ["a.test"]);
    routed(&table, "a.test").await;
    assert_eq!(world.requests("a.test"), 2);
}

/// An engine that sends one message to `a.test` by this resolver, until something is told.
async fn told_by_the_engine(resolver: Always) -> Vec<String> {
    let told = Arc::clone(&resolver.told);
    let engine = Engine::builder(MemorySpool::new(), EhloName::new("client.test").unwrap())
        .direct(resolver)
        .start()
        .await
        .unwrap();
    let _ = engine.submit(mail()).await.unwrap();
    until(async || !told.lock().unwrap().is_empty()).await;
    engine.shutdown(Duration::ZERO).await;
    told.lock().unwrap().clone()
}

/// The same of a mailer.
async fn told_by_the_mailer(resolver: Always) -> Vec<String> {
    let told = Arc::clone(&resolver.told);
    let mailer = Mailer::direct(resolver, EhloName::new("client.test").unwrap()).unwrap();
    let _ = mailer.send(mail()).await.unwrap();
    told.lock().unwrap().clone()
}

fn mail() -> RawMessage {
    let envelope = Envelope::parse("me@client.test", ["ada@a.test"]).unwrap();
    RawMessage::new(envelope, "From: me@client.test\r\n\r\nHello\r\n")
}

#[tokio::test]
async fn who_sends_tells_when_no_host_is_allowed_and_when_one_shows_less_than_the_policy_wants() {
    let without_tls = Peer::on_tcp(|mut talk| async move {
        talk.say("220 mx").await;
        talk.until("EHLO").await;
        talk.say("250 mx").await;
        talk.until("QUIT").await;
    });
    let mut strict = Hosts::new(vec![without_tls.await.host("mx.test")], Require::Verified);
    strict.by = PolicyKind::Sts;
    for route in [Err(RouteError::Sts), Ok(Route::Hosts(strict))] {
        assert_eq!(told_by_the_engine(Always::new(route.clone())).await[0], "a.test", "{route:?}");
        assert_eq!(told_by_the_mailer(Always::new(route.clone())).await[0], "a.test", "{route:?}");
    }
    assert!(told_by_the_mailer(Always::new(Err(RouteError::Dns))).await.is_empty());
}
