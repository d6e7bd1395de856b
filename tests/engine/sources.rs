//! Where the engine's mail comes from, and what it remembers of hosts that it did not reach.

use postroad::hop::Host;
use postroad::message::Tenant;
use postroad::net::connect::{Connect, ConnectError, Opened};
use postroad::net::source::{Source, Sources, When};

use super::*;

/// The way of one source into the world: who went through it, and whether it is open.
#[derive(Debug, Clone)]
struct Gate {
    world: World,
    name: &'static str,
    passed: Arc<Mutex<Vec<(&'static str, String)>>>,
    shut: Arc<Mutex<Option<&'static str>>>,
}

impl Connect for Gate {
    fn connect<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Result<Opened, ConnectError>> {
        self.passed.lock().unwrap().push((self.name, host.name.to_string()));
        if *self.shut.lock().unwrap() == Some(self.name) {
            return Box::pin(async { Err(ConnectError::TimedOut) });
        }
        self.world.connect(host)
    }
}

struct Gates {
    gate: Gate,
}

impl Gates {
    fn new(world: &World) -> Self {
        let gate = Gate { world: world.clone(), name: "", passed: Arc::default(), shut: Arc::default() };
        Self { gate }
    }

    fn source(&self, name: &'static str) -> Source {
        let ehlo = EhloName::new(&format!("{name}.us.test")).unwrap();
        Source::new(name.parse().unwrap(), ehlo, Gate { name, ..self.gate.clone() })
    }

    fn all(&self, names: &[&'static str]) -> Vec<Source> {
        names.iter().map(|name| self.source(name)).collect()
    }

    /// The sources by which a host was connected to, in order.
    fn to(&self, host: &str) -> Vec<&'static str> {
        let passed = self.gate.passed.lock().unwrap();
        passed.iter().filter(|(_, to)| to == host).map(|(name, _)| *name).collect()
    }

    fn shut(&self, name: Option<&'static str>) {
        *self.gate.shut.lock().unwrap() = name;
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_comes_from_the_same_source_each_time_also_after_a_restart() {
    let (world, spool) = (World::new(), MemorySpool::new());
    let gates = Gates::new(&world);
    let sources = Sources::equal(gates.all(&["a", "b", "c"])).unwrap();
    for n in 0..12 {
        // It wants to see a message three times from the same place.
        world.rule(&format!("mx.d{n}.test"), |_, nth| if nth < 4 { 450 } else { 250 });
    }
    let engine = builder(&world, &spool).sources(sources.clone()).start().await.unwrap();
    for n in 0..12 {
        drop(engine.submit(mail("", &[&format!("x@d{n}.test")])).await.unwrap());
    }
    sleep(MINUTE * 3).await;
    engine.shutdown(MINUTE).await;
    assert_eq!(world.reached().len(), 0);
    let clock = SteppedClock::starting_at(Timestamp::from_millis(1_790_000_190_000));
    let again = builder(&world, &spool).sources(sources).clock(Arc::new(clock)).start().await.unwrap();
    sleep(DAY).await;
    assert_eq!((world.reached().len(), again.stats().held), (12, 0));
    let mut used = std::collections::BTreeSet::new();
    for n in 0..12 {
        let from = gates.to(&format!("mx.d{n}.test"));
        assert_eq!(from.len(), 4, "{from:?}");
        assert!(from.iter().all(|name| *name == from[0]), "{from:?}");
        used.insert(from[0]);
    }
    assert_eq!(used.len(), 3, "and not all from one");
}

#[tokio::test(start_paused = true)]
async fn rules_by_sender_tenant_and_destination_choose_and_reports_go_by_the_default() {
    let (world, spool) = (World::new(), MemorySpool::new());
    let gates = Gates::new(&world);
    let one = |name| [(name, 1)];
    let sources = Sources::new(gates.all(&["rest", "news", "acme", "far"]), &one("rest"))
        .and_then(|all| all.rule(When::SenderDomain("news.test".parse().unwrap()), &one("news")))
        .and_then(|all| all.rule(When::Tenant(Tenant::new("acme").unwrap()), &one("acme")))
        .and_then(|all| all.rule(When::Destination("far.test".parse().unwrap()), &one("far")))
        .unwrap();
    world.rule("mx.no.test", |_, _| 550);
    let engine = builder(&world, &spool).sources(sources).start().await.unwrap();
    for (from, tenant, to) in [
        ("x@a.test", None, "x@plain.test"),
        ("x@news.test", None, "x@b.test"),
        ("x@a.test", Some("acme"), "x@c.test"),
        ("x@a.test", None, "x@sub.far.test"),
        ("x@news.test", None, "x@no.test"),
    ] {
        let rcpt = Rcpt::new(ForwardPath::parse(to).unwrap());
        let body = NewBody::Inline("Subject: x\r\n\r\nx\r\n".into());
        let mut mail =
            NewMail::new(engine.new_id(), Mail::parse(&format!("<{from}>")).unwrap(), vec![rcpt], body);
        mail.handling.tenant = tenant.and_then(Tenant::new);
        engine.accept(mail).await.unwrap();
    }
    sleep(MINUTE).await;
    for (host, expected) in [
        ("mx.plain.test", "rest"),
        ("mx.b.test", "news"),
        ("mx.c.test", "acme"),
        ("mx.sub.far.test", "far"),
        ("mx.no.test", "news"),
        // The report.
        ("mx.news.test", "rest"),
    ] {
        assert_eq!(gates.to(host), [expected], "{host}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_a_site_does_not_answer_holds_up_no_other() {
    let (world, spool) = (World::new(), MemorySpool::new());
    let gates = Gates::new(&world);
    gates.shut(Some("a"));
    let sources = Sources::new(gates.all(&["a", "b"]), &[("b", 1)])
        .and_then(|all| all.rule(When::SenderDomain("a.test".parse().unwrap()), &[("a", 1)]))
        .unwrap();
    let options = with(|o| (o.ready_per_site, o.runs_per_site) = (10, 2));
    let engine = builder(&world, &spool).options(options).sources(sources).start().await.unwrap();
    for _ in 0..50 {
        for from in ["x@a.test", "x@b.test"] {
            drop(engine.submit(mail(from, &["y@c.test"])).await.unwrap());
        }
    }
    sleep(Duration::from_secs(20)).await;
    assert_eq!(world.reached().len(), 50);
    assert!(world.net().got.iter().all(|got| got.from == "<x@b.test>" || got.from == "x@b.test"));
    let queues: Vec<_> =
        spool.queues(None, 9).await.unwrap().iter().map(|queue| queue.queue.to_string()).collect();
    assert!(queues.contains(&"mx.c.test:25 from a".into()), "{queues:?}");
    assert!(!queues.contains(&"mx.c.test:25 from b".into()), "{queues:?}");
    assert_eq!(engine.stats().sites_held, 1);
    gates.shut(None);
    sleep(MINUTE * 20).await;
    assert_eq!(world.reached().len(), 100);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_source_that_is_gone_goes_by_another() {
    let (world, spool) = (World::new(), MemorySpool::new());
    let gates = Gates::new(&world);
    gates.shut(Some("a"));
    let first = Sources::equal(gates.all(&["a"])).unwrap();
    let engine = builder(&world, &spool).sources(first).start().await.unwrap();
    for _ in 0..5 {
        drop(engine.submit(mail("", &["x@b.test"])).await.unwrap());
        // From the second on the route is known.
        sleep(Duration::from_secs(1)).await;
    }
    sleep(MINUTE * 2).await;
    engine.shutdown(MINUTE).await;
    let queues = spool.queues(None, 9).await.unwrap();
    assert!(queues.iter().any(|queue| queue.queue.as_str() == "mx.b.test:25 from a"), "{queues:?}");
    let second = Sources::equal(gates.all(&["b"])).unwrap();
    let clock = SteppedClock::starting_at(Timestamp::from_millis(1_790_000_130_000));
    let engine = builder(&world, &spool).sources(second).clock(Arc::new(clock)).start().await.unwrap();
    sleep(MINUTE * 10).await;
    assert_eq!((world.reached().len(), engine.stats().held), (5, 0));
    assert_eq!(gates.to("mx.b.test").last(), Some(&"b"));
}

#[tokio::test(start_paused = true)]
async fn final_delivery_by_lmtp_has_no_source() {
    let (world, spool) = (World::new(), MemorySpool::new());
    let gates = Gates::new(&world);
    world.hosted("b.test", "store.test").speaks_lmtp("b.test");
    let sources = Sources::equal(gates.all(&["a"])).unwrap();
    let engine = builder(&world, &spool).sources(sources).start().await.unwrap();
    drop(engine.submit(mail("", &["x@b.test"])).await.unwrap());
    sleep(Duration::from_secs(5)).await;
    assert_eq!((gates.to("store.test").len(), world.connects_to("store.test").len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_dead_host_of_many_destinations_is_tried_once_and_not_once_per_message() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.down("dead.test");
    let engine = engine(&world, &spool).await;
    let submit = async |to: String| {
        assert!(engine.submit(mail("", &[&to])).await.unwrap().finished().await.is_complete(), "{to}");
    };
    world.hosted_by("one.test", &["dead.test", "live.test"]);
    world.hosted_by("two.test", &["dead.test", "other.test"]);
    for _ in 0..5 {
        submit("x@one.test".into()).await;
        submit("x@two.test".into()).await;
        // Idle connections are closed: the next message needs another.
        sleep(Duration::from_secs(11)).await;
    }
    assert_eq!(world.connects_to("dead.test").len(), 1);
    assert!(world.connects_to("live.test").len() >= 5 && world.connects_to("other.test").len() >= 5);
    // Each time later.
    for _ in 0..240 {
        submit("x@one.test".into()).await;
        submit("x@two.test".into()).await;
        sleep(Duration::from_secs(15)).await;
    }
    let tried: Vec<_> = world.connects_to("dead.test").iter().map(Duration::as_secs).collect();
    let waits: Vec<_> = tried.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits.len() > 5, "{waits:?}");
    for (wait, least) in waits.iter().zip([60, 120, 240, 480].into_iter().chain(std::iter::repeat(900))) {
        assert!((least..least + 20).contains(wait), "{waits:?}");
    }
    // What comes back is used again, by the next that tries it and then by all.
    world.up("dead.test");
    sleep(MINUTE * 16).await;
    submit("x@one.test".into()).await;
    submit("x@two.test".into()).await;
    assert_eq!(world.connects_to("dead.test").len(), tried.len() + 2);
}

#[tokio::test(start_paused = true)]
async fn hosts_that_are_all_dead_are_tried_once_per_hold() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.down("one.test").down("two.test").hosted_by("b.test", &["one.test", "two.test"]);
    let engine = engine(&world, &spool).await;
    for _ in 0..30 {
        drop(engine.submit(mail("", &["x@b.test"])).await.unwrap());
    }
    sleep(MINUTE * 20).await;
    let (one, two) = (world.connects_to("one.test"), world.connects_to("two.test"));
    assert_eq!(one.len(), two.len(), "the one is tried as often as the other");
    assert!((3..9).contains(&one.len()), "{one:?}");
    assert!(one.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_secs(27)), "{one:?}");
    world.up("two.test");
    sleep(DAY).await;
    assert_eq!(world.reached().len(), 30);
}
