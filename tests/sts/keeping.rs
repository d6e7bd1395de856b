//! What is remembered: for how long, over a restart, and what changes it.

use std::fs;

use postroad::route::sts::{StsFolder, StsStore};

use super::*;

fn counts(found: &StsFound) -> Option<&str> {
    found.policy.as_ref().map(|policy| &*policy.id)
}

#[tokio::test]
async fn a_policy_is_kept_for_its_lifetime_and_then_gone() {
    let world = World::with("a.test", &text("enforce", "mx.test", 10 * DAY)).await;
    let policies = world.policies();
    find(&policies, "a.test").await;
    world.announce("a.test", &[]);
    world.web.reply("mta-sts.a.test", Reply::status(404));
    world.clock.by(10 * DAY - 60);
    assert_eq!(counts(&find(&policies, "a.test").await), Some("1"));
    world.clock.by(60);
    assert_eq!(find(&policies, "a.test").await, StsFound::default());
}

#[tokio::test]
async fn no_record_and_no_answer_take_nothing_back() {
    let world = World::with("a.test", &text("enforce", "mx.test", 10 * DAY)).await;
    let policies = world.policies();
    find(&policies, "a.test").await;
    let name = record_name("a.test");
    for (what, change) in [
        ("no record", Box::new(|| world.announce("a.test", &[])) as Box<dyn Fn()>),
        ("two records", Box::new(|| world.announce("a.test", &["v=STSv1; id=1", "v=STSv1; id=2"]))),
        ("a malformed record", Box::new(|| world.announce("a.test", &["v=STSv1; id=?"]))),
        ("no answer", Box::new(|| world.dns.fail(&name, RecordKind::Txt, RouteError::Dns))),
        ("a forged answer", Box::new(|| world.dns.fail(&name, RecordKind::Txt, RouteError::Bogus))),
    ] {
        change();
        world.clock.by(3600);
        let found = find(&policies, "a.test").await;
        assert_eq!((counts(&found), found.fault), (Some("1"), None), "{what}");
    }
    assert_eq!(world.requests("a.test"), 1);
}

#[tokio::test]
async fn another_id_is_another_policy() {
    let world = World::with("a.test", &text("enforce", "mx1.test", 10 * DAY)).await;
    let policies = world.policies();
    find(&policies, "a.test").await;
    world.publish("a.test", "2", &text("enforce", "mx2.test", 10 * DAY));
    // DNS is not asked for each message.
    assert_eq!(counts(&find(&policies, "a.test").await), Some("1"));
    world.clock.by(60);
    let found = find(&policies, "a.test").await;
    assert_eq!(shown(&found), (Some(("2", "mx2.test".into())), None));
    world.publish("a.test", "3", &text("none", "mx2.test", DAY));
    world.clock.by(60);
    assert_eq!(find(&policies, "a.test").await, StsFound::default());
    assert_eq!(world.requests("a.test"), 3);
}

#[tokio::test]
async fn the_old_policy_counts_while_the_new_one_cannot_be_had() {
    for (reply, certificate, fault) in [
        (Reply::status(500), Certificate::Valid, StsFault::Fetch),
        (Reply::status(200), Certificate::SelfSigned, StsFault::Certificate),
        (Reply::text("odd"), Certificate::Valid, StsFault::Invalid),
    ] {
        let world = World::with("a.test", &text("enforce", "mx.test", 10 * DAY)).await;
        let policies = world.policies();
        find(&policies, "a.test").await;
        world.announce("a.test", &["v=STSv1; id=2"]);
        world.web.reply("mta-sts.a.test", reply);
        world.web.certificate("mta-sts.a.test", certificate);
        world.clock.by(60);
        let found = find(&policies, "a.test").await;
        assert_eq!((counts(&found), found.fault), (Some("1"), Some(fault)));
        world.web.certificate("mta-sts.a.test", Certificate::Valid);
        world.web.policy("a.test", &text("enforce", "mx.test", 10 * DAY));
        world.clock.by(120);
        assert_eq!(counts(&find(&policies, "a.test").await), Some("1"), "not asked again so soon");
        world.clock.by(300);
        assert_eq!(counts(&find(&policies, "a.test").await), Some("2"));
    }
}

#[tokio::test]
async fn a_failed_fetch_is_not_repeated_for_five_minutes() {
    let world = World::with("a.test", "odd").await;
    let policies = world.policies();
    for _ in 0..3 {
        assert_eq!(find(&policies, "a.test").await.fault, Some(StsFault::Invalid));
    }
    assert_eq!(world.requests("a.test"), 1);
    world.clock.by(301);
    find(&policies, "a.test").await;
    assert_eq!(world.requests("a.test"), 2);
    // Another id is another matter.
    world.publish("a.test", "2", &text("enforce", "mx.test", DAY));
    assert_eq!(counts(&find(&policies, "a.test").await), Some("2"));
}

#[tokio::test]
async fn a_policy_is_renewed_long_before_its_end_and_nobody_waits() {
    let world = World::with("a.test", &text("enforce", "mx1.test", 10 * DAY)).await;
    let policies = world.policies();
    find(&policies, "a.test").await;
    // Under the same id: what the web serves counts.
    world.web.policy("a.test", &text("enforce", "mx2.test", 10 * DAY));
    world.clock.by(DAY - 60);
    find(&policies, "a.test").await;
    assert_eq!(world.requests("a.test"), 1);
    world.clock.by(60);
    let found = find(&policies, "a.test").await;
    assert_eq!(shown(&found).0, Some(("1", "mx1.test".into())));
    until(async || shown(&find(&policies, "a.test").await).0 == Some(("1", "mx2.test".into()))).await;
    assert_eq!(world.requests("a.test"), 2);
    world.clock.by(10 * DAY - 60);
    world.web.reply("mta-sts.a.test", Reply::status(500));
    assert_eq!(counts(&find(&policies, "a.test").await), Some("1"), "its lifetime began anew");
}

#[tokio::test]
async fn mail_for_one_domain_renews_the_policies_of_others() {
    let world = World::with("a.test", &text("enforce", "mx.test", 10 * DAY)).await;
    let policies = world.policies();
    find(&policies, "a.test").await;
    // DNS does not answer, which must not let it run out.
    world.dns.fail(&record_name("a.test"), RecordKind::Txt, RouteError::Dns);
    world.clock.by(2 * DAY);
    find(&policies, "b.test").await;
    until(async || world.requests("a.test") == 2).await;
    // A domain that announces nothing any more is left alone.
    until(async || {
        world.clock.by(60);
        find(&policies, "a.test").await.policy.is_some()
    })
    .await;
    world.announce("a.test", &[]);
    world.clock.by(2 * DAY);
    for _ in 0..100 {
        find(&policies, "b.test").await;
        tokio::task::yield_now().await;
    }
    assert_eq!(world.requests("a.test"), 2);
}

#[tokio::test]
async fn a_delivery_that_failed_by_a_policy_has_it_fetched_again_though_not_each_time() {
    let world = World::with("a.test", &text("enforce", "mx1.test", 10 * DAY)).await;
    let policies = world.policies();
    find(&policies, "a.test").await;
    world.web.policy("a.test", &text("enforce", "mx2.test", 10 * DAY));
    policies.failed(&domain("a.test"));
    assert_eq!(shown(&find(&policies, "a.test").await).0, Some(("1", "mx2.test".into())));
    policies.failed(&domain("a.test"));
    find(&policies, "a.test").await;
    assert_eq!(world.requests("a.test"), 2);
    world.clock.by(300);
    policies.failed(&domain("a.test"));
    find(&policies, "a.test").await;
    assert_eq!(world.requests("a.test"), 3);
    policies.failed(&domain("unknown.test"));
}

#[tokio::test]
async fn many_at_once_cost_one_fetch() {
    let world = World::with("a.test", &text("enforce", "mx.test", DAY)).await;
    let policies = world.policies();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let policies = policies.clone();
        tasks.spawn(async move { counts(&find(&policies, "a.test").await) == Some("1") });
    }
    assert!(tasks.join_all().await.into_iter().all(|found| found));
    assert_eq!(world.requests("a.test"), 1);
}

#[tokio::test]
async fn a_fetch_ends_also_when_nobody_waits_any_more() {
    let world = World::with("a.test", &text("enforce", "mx.test", DAY)).await;
    let policies = world.policies();
    let name = domain("a.test");
    let mut asked = Box::pin(policies.find(&name));
    // It is begun with the first look.
    assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(asked.as_mut().poll(cx))).await.is_pending());
    drop(asked);
    until(async || world.requests("a.test") == 1).await;
    world.web.reply("mta-sts.a.test", Reply::status(500));
    assert_eq!(counts(&find(&policies, "a.test").await), Some("1"));
}

#[tokio::test]
async fn so_many_fetches_at_once_and_no_more() {
    let world = World::with("slow.test", "").await;
    world.web.reply("mta-sts.slow.test", Reply::Silence);
    world.publish("a.test", "1", &text("enforce", "mx.test", DAY));
    let mut options = world.options();
    options.max_fetches = 1;
    options.limits.time = Duration::from_secs(2);
    let policies = world.policies_with(options);
    let slow = find(&policies, "slow.test");
    let other = async {
        until(async || world.requests("slow.test") == 1).await;
        find(&policies, "a.test").await
    };
    let (slow, other) = tokio::join!(slow, other);
    assert_eq!((slow.fault, slow.undecided), (Some(StsFault::Fetch), false));
    // Not "no policy": whoever holds all turns would take it away from everybody.
    assert_eq!((other.undecided, other.fault, counts(&other)), (true, None, None));
    assert_eq!((world.requests("a.test"), counts(&find(&policies, "a.test").await)), (0, Some("1")));
}

#[tokio::test]
async fn policies_survive_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let folder = Arc::new(StsFolder::open(home.path()).unwrap());
    let world = World::with("a.test", &text("enforce", "mx.test", 10 * DAY)).await;
    world.publish("b.test", "1", &text("none", "mx.test", 10 * DAY));
    let start = || {
        let mut options = world.options();
        options.store = Some(Arc::clone(&folder) as Arc<dyn StsStore>);
        world.policies_with(options)
    };
    let policies = start();
    find(&policies, "a.test").await;
    find(&policies, "b.test").await;
    drop(policies);
    // Somebody who stands in the way hides everything.
    world.dns.fail(&record_name("a.test"), RecordKind::Txt, RouteError::Dns);
    world.announce("b.test", &[]);
    world.web.reply("mta-sts.a.test", Reply::status(500));
    world.clock.by(DAY - 60);
    assert_eq!(counts(&find(&start(), "a.test").await), Some("1"));
    assert_eq!(counts(&find(&start(), "b.test").await), None);
    assert_eq!((world.requests("a.test"), world.requests("b.test")), (1, 1));
    world.clock.by(9 * DAY + 60);
    assert_eq!(counts(&find(&start(), "a.test").await), None, "it ends when it would have ended");
    // What is over does not stay on the disk.
    let policies = start();
    world.publish("c.test", "1", &text("enforce", "mx.test", DAY));
    find(&policies, "a.test").await;
    find(&policies, "b.test").await;
    find(&policies, "c.test").await;
    assert_eq!(folder.load().await.len(), 1);
}

#[tokio::test]
async fn a_damaged_file_is_as_if_it_were_not_there() {
    let home = tempfile::tempdir().unwrap();
    let world = World::with("a.test", &text("enforce", "mx.test", 10 * DAY)).await;
    let start = || {
        let mut options = world.options();
        options.store = Some(Arc::new(StsFolder::open(home.path()).unwrap()));
        world.policies_with(options)
    };
    find(&start(), "a.test").await;
    for damage in ["", "odd", "0\n"] {
        let file = fs::read_dir(home.path()).unwrap().next().unwrap().unwrap().path();
        fs::write(file, damage).unwrap();
        assert_eq!(counts(&find(&start(), "a.test").await), Some("1"));
    }
    assert_eq!(world.requests("a.test"), 4);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    find(&start(), "a.test").await;
    assert_eq!(world.requests("a.test"), 4);
}

#[tokio::test]
async fn a_store_that_cannot_be_written_costs_no_policy() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("gone");
    let folder = StsFolder::open(&path).unwrap();
    fs::remove_dir(&path).unwrap();
    let world = World::with("a.test", &text("enforce", "mx.test", 10 * DAY)).await;
    let mut options = world.options();
    options.store = Some(Arc::new(folder));
    let policies = world.policies_with(options);
    assert_eq!(counts(&find(&policies, "a.test").await), Some("1"));
    assert!(StsFolder::open(home.path().join("gone/x")).is_ok());
}

#[tokio::test]
async fn so_many_policies_are_kept_and_no_more() {
    let home = tempfile::tempdir().unwrap();
    let folder = Arc::new(StsFolder::open(home.path()).unwrap());
    let world = World::new().await;
    let mut options = world.options();
    options.max_domains = 2;
    options.store = Some(Arc::clone(&folder) as Arc<dyn StsStore>);
    let policies = world.policies_with(options.clone());
    for name in ["a.test", "b.test", "c.test"] {
        world.publish(name, "1", &text("enforce", "mx.test", 10 * DAY));
        assert!(find(&policies, name).await.policy.is_some());
        world.clock.by(1);
        // From now on nobody can fetch it.
        world.web.reply(&format!("mta-sts.{name}"), Reply::status(500));
    }
    let mut stored: Vec<_> =
        folder.load().await.into_iter().map(|stored| stored.domain.to_string()).collect();
    stored.sort();
    assert_eq!(stored, ["b.test", "c.test"]);
    assert_eq!(find(&policies, "a.test").await.policy, None);
    // Another process that keeps less.
    options.max_domains = 1;
    let policies = world.policies_with(options);
    assert!(find(&policies, "c.test").await.policy.is_some());
    assert_eq!(folder.load().await.len(), 1);
}
