//! Reports about TLS (RFC 8460): counted by an engine's observer, kept over a crash, sent when the day is
//! over. Days pass in milliseconds, under paused time.
#![cfg(feature = "tls-rpt")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test fails by panicking, and measures the runtime's own time"
)]

#[path = "kit/carry.rs"]
mod carry;
#[path = "kit/certs.rs"]
mod certs;
#[path = "kit/https.rs"]
mod https;
mod kit;
#[path = "kit/peer.rs"]
mod peer;

#[path = "tls_rpt/counting.rs"]
mod counting;
#[path = "tls_rpt/desk.rs"]
mod desk;
#[allow(dead_code, reason = "the engine's tests use the rest")]
#[path = "engine/world.rs"]
mod world;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio::time::sleep;

use postroad::BoxFuture;
use postroad::clock::Timestamp;
use postroad::hop::TlsFault;
use postroad::https::{FindHost, HttpsClient};
use postroad::net::tls::TlsOptions;
use postroad::smtp::address::Domain;
use postroad::spool::Spool;
use postroad::tls_rpt::{Day, PostError, PostReport, TallyDirectory, TallyMemory, TallyStore};

use desk::{Desk, HOUR, MIDNIGHT, WRITE, json, text};

/// The report in a mail's only base64 part.
fn attached(content: &str) -> Value {
    let part = content.split("Content-Transfer-Encoding: base64").nth(1).unwrap();
    let body = part.split("\r\n\r\n").nth(1).unwrap().replace("\r\n", "");
    json(&STANDARD.decode(body).unwrap())
}

#[tokio::test(start_paused = true)]
async fn yesterdays_report_is_sent_by_mail_and_by_https_once() {
    let desk = Desk::new(TallyMemory::new());
    desk.wants("b.test", "mailto:tls@b.test,https://r.b.test/v1");
    let running = desk.start().await;
    desk.tried("b.test", None);
    desk.tried("b.test", Some(TlsFault::NotOffered));
    desk.tried("silent.test", None);
    sleep(MIDNIGHT - WRITE).await;
    assert!(desk.world.reached().is_empty(), "the day is not over");
    sleep(HOUR * 4 + WRITE * 3).await;
    assert_eq!(desk.world.reached(), ["tls@b.test"]);
    let got = desk.world.net().got[0].clone();
    let behind = got.at - MIDNIGHT;
    assert!(behind < HOUR * 4 + WRITE * 2, "{behind:?}");
    assert_eq!((got.host.as_str(), got.from.as_str()), ("mx.b.test", "<tls@us.test>"));
    assert!(got.rcpt.contains("NOTIFY=NEVER"), "{}", got.rcpt);
    let report = attached(&got.content);
    assert_eq!(report["date-range"]["start-datetime"], "2026-09-21T00:00:00Z");
    let policy = &report["policies"][0];
    assert_eq!(policy["policy"]["policy-type"], "no-policy-found");
    assert_eq!(policy["policy"]["policy-domain"], "b.test");
    assert_eq!(policy["summary"]["total-successful-session-count"], 1);
    assert_eq!(policy["summary"]["total-failure-session-count"], 1);
    assert_eq!(policy["failure-details"][0]["result-type"], "starttls-not-supported");
    let posts = desk.posts.taken();
    assert_eq!(posts.len(), 1);
    assert_eq!(
        (posts[0].0.as_str(), posts[0].1.as_str()),
        ("https://r.b.test/v1", "application/tlsrpt+gzip")
    );
    assert_eq!(json(&posts[0].2), report);
    assert!(desk.store.days().await.unwrap().is_empty(), "what was reported is removed");
    // The connection of the report itself was not counted: there is nothing to report the day after.
    sleep(HOUR * 48).await;
    running.stop().await;
    assert_eq!((desk.world.reached().len(), desk.posts.taken().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_delay_is_drawn_at_random() {
    let mut delays = Vec::new();
    for seed in 0..5 {
        let desk = Desk::seeded(TallyMemory::new(), seed);
        desk.wants("b.test", "mailto:tls@b.test");
        let running = desk.start().await;
        desk.tried("b.test", None);
        sleep(MIDNIGHT + HOUR * 5).await;
        delays.push(desk.world.net().got[0].at - MIDNIGHT);
        running.stop().await;
    }
    assert!(delays.iter().all(|delay| *delay < HOUR * 4 + WRITE * 2), "{delays:?}");
    delays.sort();
    assert!(delays[4] - delays[0] > HOUR, "{delays:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reporter_that_is_started_again_counts_nothing_twice() {
    let desk = Desk::new(TallyMemory::new());
    let collector = desk.collector();
    let first = desk.start().await;
    desk.tried("b.test", None);
    sleep(WRITE * 2).await;
    first.stop().await;
    for tried in 2..5 {
        // With the same collector, which goes on counting while there is no reporter.
        let before = desk.start_with(&collector).await;
        before.stop().await;
        desk.tried("b.test", None);
        let running = desk.start_with(&collector).await;
        let domain = Domain::parse("b.test").unwrap();
        assert_eq!(collector.today().of(&domain).next().unwrap().good.all(), tried);
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_before_a_restart_is_not_sent_again() {
    let store = TallyMemory::new();
    let desk = Desk::new(store.clone());
    desk.wants("b.test", "mailto:tls@b.test,https://r.b.test/v1");
    desk.posts.answer(vec![Err(PostError::Status(503)); 100]);
    let running = desk.start().await;
    desk.tried("b.test", None);
    sleep(MIDNIGHT + HOUR * 4 + WRITE * 2).await;
    running.stop().await;
    assert_eq!(desk.world.reached(), ["tls@b.test"]);
    assert!(desk.posts.taken().is_empty() && desk.posts.tries() > 0, "the POST waits to be tried again");
    desk.posts.answer(Vec::new());
    let running = desk.start().await;
    sleep(HOUR * 24).await;
    running.stop().await;
    assert_eq!(desk.world.reached(), ["tls@b.test"], "not again");
    assert_eq!(desk.posts.taken().len(), 1);
    assert!(store.days().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_report_whose_note_was_lost_is_stored_once() {
    let store = TallyMemory::new();
    let desk = Desk::new(store.clone());
    desk.wants("b.test", "mailto:tls@b.test");
    // It stays in the spool.
    desk.world.down("mx.b.test");
    let running = desk.start().await;
    desk.tried("b.test", None);
    sleep(WRITE * 2).await;
    let day = store.days().await.unwrap()[0];
    let lines = String::from_utf8(store.read(day).await.unwrap()).unwrap();
    sleep(MIDNIGHT + HOUR * 4).await;
    running.stop().await;
    assert_eq!(desk.spool.stats().messages, 1);
    // As if the process had died before it could note it.
    store.replace(day, lines).await.unwrap();
    let running = desk.start().await;
    sleep(HOUR * 4).await;
    assert_eq!(desk.spool.stats().messages, 1, "under the same id");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_for_a_day_and_then_dropped() {
    let store = TallyMemory::new();
    let desk = Desk::new(store.clone());
    desk.wants("post.test", "https://r.post.test/");
    desk.wants("refused.test", "https://r.refused.test/");
    desk.fails("dns.test");
    desk.posts.answer_to("https://r.post.test/", vec![Err(PostError::NoAnswer); 100]);
    desk.posts.answer_to("https://r.refused.test/", vec![Err(PostError::Status(404)); 100]);
    let running = desk.start().await;
    for domain in ["post.test", "refused.test", "dns.test"] {
        desk.tried(domain, None);
    }
    sleep(MIDNIGHT + HOUR * 18).await;
    assert!(!store.days().await.unwrap().is_empty());
    sleep(HOUR * 12).await;
    assert!(store.days().await.unwrap().is_empty());
    // At 0, 5, 15, 35, 75, 155, 315, 635 and 1,275 minutes; and once.
    let tries = |uri| desk.posts.tries_to(uri);
    assert_eq!((tries("https://r.post.test/"), tries("https://r.refused.test/")), (9, 1));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_domain_that_answers_late_gets_its_report() {
    let desk = Desk::new(TallyMemory::new());
    desk.fails("b.test");
    let running = desk.start().await;
    desk.tried("b.test", None);
    sleep(MIDNIGHT + HOUR * 4).await;
    desk.wants("b.test", "mailto:tls@b.test");
    sleep(HOUR * 12).await;
    assert_eq!(desk.world.reached(), ["tls@b.test"]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_report_that_comes_days_too_late_is_dropped() {
    for (days, sent) in [(2, 1), (6, 0)] {
        let store = TallyMemory::new();
        let desk = Desk::new(store.clone());
        desk.wants("b.test", "mailto:tls@b.test");
        let running = desk.start().await;
        desk.tried("b.test", None);
        running.stop().await;
        // The process was away.
        sleep(HOUR * 24 * days).await;
        let running = desk.start().await;
        sleep(HOUR * 5).await;
        assert_eq!(desk.world.reached().len(), sent, "{days} days late");
        assert!(store.days().await.unwrap().is_empty());
        running.stop().await;
    }
}

#[test]
fn what_was_counted_is_there_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let paused = || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().start_paused(true).build().unwrap()
    };
    let day = Day::of(Timestamp::from_millis(desk::START));
    let runtime = paused();
    runtime.block_on(async {
        let desk = Desk::new(TallyDirectory::open(folder.path()).unwrap());
        let running = desk.start().await;
        (0..3).for_each(|_| desk.tried("b.test", None));
        sleep(WRITE * 2).await;
        // Too late to be written.
        desk.tried("b.test", None);
        std::mem::forget(running);
    });
    // Nothing gets a chance to write any more.
    drop(runtime);
    let file = folder.path().join(format!("{day}.tally"));
    let mut lines = std::fs::read(&file).unwrap();
    lines.extend_from_slice(b"[\"good\",0,");
    std::fs::write(&file, lines).unwrap();
    let got = paused().block_on(async {
        let desk = Desk::new(TallyDirectory::open(folder.path()).unwrap());
        desk.wants("b.test", "mailto:tls@b.test");
        let running = desk.start().await;
        desk.tried("b.test", None);
        sleep(MIDNIGHT + HOUR * 5).await;
        running.stop().await;
        desk.world.inbox("tls@b.test")
    });
    assert_eq!(got.len(), 1);
    assert_eq!(attached(&got[0].content)["policies"][0]["summary"]["total-successful-session-count"], 4);
    assert!(!file.exists(), "{}", text(&std::fs::read(&file).unwrap_or_default()));
}

#[tokio::test(start_paused = true)]
async fn what_was_counted_before_the_start_is_added_to_what_was_kept() {
    let store = TallyMemory::new();
    let desk = Desk::new(store.clone());
    let running = desk.start().await;
    desk.tried("b.test", None);
    running.stop().await;
    let next = Desk::new(store.clone());
    next.tried("b.test", None);
    let running = next.start().await;
    running.stop().await;
    let tally = next.collector().today();
    let counted = tally.domains().flat_map(|domain| tally.of(domain)).map(|counted| counted.good.all());
    assert_eq!(counted.collect::<Vec<_>>(), [2]);
    let lines = store.read(store.days().await.unwrap()[0]).await.unwrap();
    assert_eq!(text(&lines).matches("\"good\",0,1").count(), 2, "{}", text(&lines));
}

#[derive(Debug)]
struct Here;

impl FindHost for Here {
    fn find<'a>(&'a self, _: &'a Domain) -> BoxFuture<'a, Vec<std::net::IpAddr>> {
        Box::pin(async { vec![[127, 0, 0, 1].into()] })
    }
}

#[tokio::test]
async fn a_report_is_posted_to_a_web_server_with_a_valid_certificate() {
    use https::{Certificate, HttpsServer, Reply};
    let web = HttpsServer::start().await;
    let clock = std::sync::Arc::new(postroad::clock::SystemClock);
    let client = HttpsClient::new(web.trust(TlsOptions::new()), std::sync::Arc::new(Here), clock).unwrap();
    let (port, body) = (web.port(), bytes::Bytes::from_static(b"\x1f\x8bx"));
    for (status, taken) in [
        (200, Ok(())),
        (201, Ok(())),
        (307, Err(PostError::Status(307))),
        (404, Err(PostError::Status(404))),
        (503, Err(PostError::Status(503))),
    ] {
        web.reply("r.test", Reply::status(status));
        let uri = format!("https://r.test:{port}/v1?x=1");
        let posted = PostReport::post(&client, &uri, "application/tlsrpt+gzip", body.clone()).await;
        assert_eq!(posted, taken);
        let asked = web.asked().pop().unwrap();
        assert_eq!((asked.line.as_str(), &asked.body[..]), ("POST /v1?x=1 HTTP/1.1", &body[..]));
        assert_eq!(asked.fields["content-type"], "application/tlsrpt+gzip");
    }
    web.certificate("bad.test", Certificate::SelfSigned);
    for (uri, error) in [
        (format!("https://bad.test:{port}/"), PostError::NoAnswer),
        ("https://[192.0.2.1]/".to_owned(), PostError::Uri),
    ] {
        let posted = PostReport::post(&client, &uri, "application/tlsrpt+gzip", body.clone()).await;
        assert_eq!(posted, Err(error));
    }
}
