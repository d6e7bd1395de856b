//! The whole road on one machine: submit, store durably, route, deliver, retry, bounce.
//!
//! `cargo run --release --example quickstart`: no arguments, no network beyond loopback, no set-up. A
//! receiving server (this library's own, with STARTTLS) plays four domains; an engine with a durable
//! spool in a temporary folder delivers some thousands of messages to them.

mod common;

use std::collections::{BTreeMap, HashSet};
use std::error::Error;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mail_builder::MessageBuilder;
use postroad::delivery::{Event, Observer, Retry};
use postroad::hop::{Host, Require};
use postroad::message::Header;
use postroad::route::FixedRoutes;
use postroad::server::{
    BodyStream, Conversation, Handler, Peer, ServerOptions, SessionInfo, Transaction, Verdict,
};
use postroad::smtp::address::{Domain, ReversePath};
use postroad::smtp::params::Rcpt;
use postroad::smtp::reply::{EnhancedCode, Reply};
use postroad::spool::RecipientState;
use postroad::{BoxFuture, DiskSpool, EhloName, Engine, Server};

/// Where the messages go, how that domain behaves, and how many go there.
const PLAN: [(&str, &str, usize); 4] = [
    ("friends.example", "takes everything", 6000),
    ("busy.example", "answers 451 at first", 1500),
    ("strict.example", "has no `nobody`", 500),
    ("nomail.example", "null MX: takes no mail", 1),
];
/// Of the messages to strict.example, every 25th goes to a mailbox that it does not have.
const NOBODY: usize = 25;
/// How many tasks submit side by side, as the requests of a web application would.
const SUBMITTERS: usize = 32;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let total: usize = PLAN.iter().map(|(_, _, count)| count).sum();
    println!("\n  {}", bold("postroad quickstart"));
    println!(
        "  {total} messages by SMTP over TCP and TLS on loopback; each is on disk before `submit` returns.\n"
    );

    // The far end: one server that plays every domain, and the sender's own.
    let world = Arc::new(World::default());
    let far_end = Server::builder(Far(Arc::clone(&world)), ServerOptions::new(EhloName::new("mx.example")?))
        .listen("127.0.0.1:0")
        .tls(common::self_signed("mx.example")?)
        .start()
        .await?;
    let address = *far_end.addresses().first().ok_or("nothing to listen on")?;

    // Our end: a durable spool, a fixed route table, an engine.
    let host = Host::new(Domain::parse("mx.example")?, address.port()).with_addresses(vec![address.ip()]);
    let mut routes = FixedRoutes::new().no_mail(Domain::parse("nomail.example")?);
    for domain in ["friends.example", "busy.example", "strict.example", "shop.example"] {
        routes = routes.host(Domain::parse(domain)?, host.clone(), Require::Opportunistic);
    }
    let mut retry = Retry::new();
    retry.steps = vec![Duration::from_millis(500)];
    let tally = Arc::new(Tally::default());
    let folder = tempfile::tempdir()?;
    let spool = DiskSpool::open(folder.path().join("spool"))?;
    let engine = Engine::builder(spool, EhloName::new("mail.shop.example")?)
        .direct(routes)
        .retry(retry)
        .observer(tally.clone())
        .start()
        .await?;

    let start = now();
    let mut submitters = tokio::task::JoinSet::new();
    for submitter in 0..SUBMITTERS {
        let engine = engine.clone();
        submitters.spawn(async move {
            for (number, domain) in letters().skip(submitter).step_by(SUBMITTERS) {
                let _ = engine.submit(letter(number, domain)).await?;
            }
            Ok::<_, postroad::delivery::SubmitError>(())
        });
    }
    let bar = Bar::new(total);
    let mut submitted = Duration::ZERO;
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    while tally.settled() < total || !submitters.is_empty() {
        tokio::select! {
            Some(done) = submitters.join_next(), if !submitters.is_empty() => {
                done??;
                submitted = now() - start;
            }
            _ = tick.tick() => bar.show(tally.settled()),
        }
        if now() - start > Duration::from_secs(60) {
            return Err("the messages were not all settled within a minute".into());
        }
    }
    let settled = tally.last_settled().map_or(submitted, |at| at - start);
    bar.show(total);

    // A bounce is mail, too: it comes back to the sender's domain the same way.
    let bounces = tally.reports();
    while world.with(|seen| seen.bounces.len()) < bounces && now() - start < Duration::from_secs(60) {
        tick.tick().await;
    }
    tally.print_table();
    let (distinct, copies, over_tls) = world.with(|seen| (seen.numbers.len(), seen.copies, seen.over_tls));
    let came_back = world.with(|seen| seen.bounces.len());
    println!(
        "  {:<11}{:>6.2} s  {:>7.0} messages/s, each on stable storage before `Ok`",
        "submitted",
        submitted.as_secs_f64(),
        per_second(total, submitted)
    );
    println!(
        "  {:<11}{:>6.2} s  {:>7.0} messages/s from the first submit to the last outcome, retries included",
        "settled",
        settled.as_secs_f64(),
        per_second(total, settled)
    );
    println!(
        "  {:<11}{distinct} messages at the far end in {copies} copies, {over_tls} of them over TLS",
        "received"
    );
    println!("  {:<11}{came_back} of {bounces} reports of failure came back to the sender\n", "bounced");
    if let Some(bounce) = world.with(|seen| seen.bounces.first().cloned()) {
        println!("  {}\n", bold("The first bounce, as the sender gets it"));
        for line in String::from_utf8_lossy(&bounce).lines() {
            println!("  {} {line}", dim("│"));
        }
        println!();
    }
    engine.shutdown(Duration::from_secs(5)).await;
    far_end.shutdown(Duration::from_secs(5)).await;
    let whole = distinct == copies && came_back == bounces;
    if whole { Ok(()) } else { Err("something was lost or doubled".into()) }
}

/// The messages in the order in which they are submitted: the domains mixed, as in life.
fn letters() -> impl Iterator<Item = (usize, &'static str)> {
    let most = PLAN.iter().map(|(_, _, count)| *count).max().unwrap_or_default();
    let mixed = (0..most).flat_map(move |round| {
        let due = move |count: usize| (round + 1) * count / most > round * count / most;
        PLAN.iter()
            .filter(move |(_, _, count)| due(*count))
            .map(move |(domain, _, count)| ((round * count) / most, *domain))
    });
    mixed.map(|(nth, domain)| {
        if domain == "strict.example" && nth.is_multiple_of(NOBODY) { (0, domain) } else { (nth + 1, domain) }
    })
}

fn letter(number: usize, domain: &str) -> MessageBuilder<'static> {
    let user = if number == 0 { "nobody".to_owned() } else { format!("customer{number}") };
    MessageBuilder::new()
        .from(("The Shop", "shop@shop.example"))
        .subject(format!("Your order {number} is on its way"))
        .text_body(format!("Dear {user},\n\nyour order {number} has left our house today.\n\nThe Shop\n"))
        .to(format!("{user}@{domain}"))
}

/// What the far end has seen.
#[derive(Debug, Default)]
struct World(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    turned_away: HashSet<String>,
    numbers: HashSet<String>,
    copies: usize,
    over_tls: usize,
    bounces: Vec<Bytes>,
}

impl World {
    fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The receiving server's side: decides by recipient, counts what it takes.
struct Far(Arc<World>);

struct Talk(Arc<World>);

impl Handler for Far {
    fn connect<'a>(&'a self, _: &'a Peer) -> BoxFuture<'a, Result<Box<dyn Conversation>, Reply>> {
        Box::pin(async { Ok(Box::new(Talk(Arc::clone(&self.0))) as Box<dyn Conversation>) })
    }
}

impl Conversation for Talk {
    fn recipient<'a>(&'a mut self, rcpt: &'a Rcpt, _: &'a SessionInfo) -> BoxFuture<'a, Result<(), Reply>> {
        let to = rcpt.to.to_string();
        let verdict = if to.starts_with("<nobody@") {
            Err(Reply::new(550, EnhancedCode::new(5, 1, 1), "we have no mailbox of that name"))
        } else if to.ends_with("@busy.example>") && self.0.with(|seen| seen.turned_away.insert(to)) {
            Err(Reply::new(451, EnhancedCode::new(4, 7, 1), "greylisted, come back in a moment"))
        } else {
            Ok(())
        };
        Box::pin(async { verdict })
    }

    fn message(&mut self, transaction: Transaction, mut body: BodyStream) -> BoxFuture<'_, Verdict> {
        Box::pin(async move {
            let Ok(octets) = body.collect(1 << 20).await else {
                return Reply::new(451, EnhancedCode::new(4, 3, 0), "the message was broken off").into();
            };
            self.0.with(|seen| {
                let id = Header::scan(&octets)
                    .ok()
                    .and_then(|header| Some(header.first("message-id")?.unfolded().into_owned()));
                if transaction.mail.from == ReversePath::Null {
                    seen.bounces.push(octets);
                } else {
                    seen.copies += 1;
                    seen.over_tls += usize::from(transaction.session.tls.is_some());
                    seen.numbers.insert(String::from_utf8_lossy(&id.unwrap_or_default()).into_owned());
                }
            });
            Reply::new(250, EnhancedCode::new(2, 0, 0), "thank you").into()
        })
    }
}

/// Counts outcomes by destination, from the engine's events.
#[derive(Debug, Default)]
struct Tally(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    rows: BTreeMap<String, Row>,
    settled: usize,
    last: Option<Instant>,
    reports: usize,
}

#[derive(Debug, Default, Clone)]
struct Row {
    delivered: usize,
    failed: usize,
    deferrals: usize,
    tries: u32,
    why: String,
}

impl Observer for Tally {
    fn on_event(&self, event: &Event<'_>) {
        self.with(|counts| match event {
            Event::Delivered { about, .. } if about.destination.as_str() != "shop.example" => {
                let row = counts.rows.entry(about.destination.to_string()).or_default();
                row.delivered += 1;
                row.tries = row.tries.max(about.attempt);
                counts.settled();
            }
            Event::Deferred { about, cause, .. } => {
                let row = counts.rows.entry(about.destination.to_string()).or_default();
                row.deferrals += 1;
                row.why = cause.reply().map_or_else(|| cause.to_string(), ToString::to_string);
            }
            Event::Failed { about, cause } | Event::Expired { about, cause }
                if about.state != RecipientState::Waiting =>
            {
                let row = counts.rows.entry(about.destination.to_string()).or_default();
                row.failed += 1;
                row.why = cause.reply().map_or_else(|| cause.to_string(), ToString::to_string);
                counts.settled();
            }
            Event::Reported { .. } => counts.reports += 1,
            _ => {}
        });
    }
}

impl Counts {
    fn settled(&mut self) {
        self.settled += 1;
        self.last = Some(now());
    }
}

impl Tally {
    fn with<T>(&self, look: impl FnOnce(&mut Counts) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn settled(&self) -> usize {
        self.with(|counts| counts.settled)
    }

    fn last_settled(&self) -> Option<Instant> {
        self.with(|counts| counts.last)
    }

    fn reports(&self) -> usize {
        self.with(|counts| counts.reports)
    }

    fn print_table(&self) {
        let rule = format!("  {}", dim(&"─".repeat(98)));
        println!(
            "\n  {}",
            bold("destination      which                   sent  delivered  failed  put off  why")
        );
        println!("{rule}");
        for (domain, nature, count) in PLAN {
            let row = self.with(|counts| counts.rows.get(domain).cloned()).unwrap_or_default();
            println!(
                "  {domain:<15}  {nature:<22} {count:>5}  {}  {}  {:>7}  {}",
                green(&format!("{:>9}", row.delivered)),
                red(&format!("{:>6}", row.failed), row.failed),
                row.deferrals,
                row.why
            );
        }
        println!("{rule}\n");
    }
}

/// A progress bar on a terminal, a line at each quarter elsewhere.
struct Bar {
    total: usize,
    live: bool,
    shown: std::cell::Cell<usize>,
}

impl Bar {
    fn new(total: usize) -> Self {
        Self { total, live: std::io::stdout().is_terminal(), shown: std::cell::Cell::new(0) }
    }

    fn show(&self, done: usize) {
        const WIDTH: usize = 50;
        let percent = done * 100 / self.total.max(1);
        let full = done * WIDTH / self.total.max(1);
        let bar = format!(
            "  {}{} {percent:>3} %  {done}/{}",
            "█".repeat(full),
            dim(&"░".repeat(WIDTH - full)),
            self.total
        );
        if self.live {
            print!("\r{bar}");
            let _ = std::io::stdout().flush();
            if done == self.total && self.shown.get() != done {
                println!();
            }
        } else if percent / 25 > self.shown.get() * 100 / self.total.max(1) / 25 {
            println!("{bar}");
        } else {
            return;
        }
        self.shown.set(done);
    }
}

fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(1e-9)
}

fn paint(code: &str, text: &str) -> String {
    if std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

fn bold(text: &str) -> String {
    paint("1", text)
}

fn dim(text: &str) -> String {
    paint("2", text)
}

fn green(text: &str) -> String {
    paint("32", text)
}

fn red(text: &str, count: usize) -> String {
    if count == 0 { text.to_owned() } else { paint("31", text) }
}

#[allow(clippy::disallowed_methods, reason = "the outermost program is where time is measured")]
fn now() -> Instant {
    Instant::now()
}
