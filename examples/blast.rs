//! A load source: sends many copies of one message over kept or fresh connections and says how fast.
//!
//! The flags have the meaning that Postfix's `smtp-source` gives them.

mod common;

use std::collections::VecDeque;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use postroad::clock::{Clock, SystemClock};
use postroad::hop::{Host, Require};
use postroad::message::Content;
use postroad::net::connect::TcpConnect;
use postroad::net::tls::{ClientTls, TlsOptions};
use postroad::net::{ClientOptions, Connection, Dialer, Quirks, Step};
use postroad::smtp::address::{Domain, EhloName, ForwardPath, ReversePath};
use postroad::smtp::client::{Phase, Protocol, RecipientResult, Transaction, TransactionResult};
use postroad::smtp::params::{Mail, Rcpt};

/// Send many copies of one message and say how fast.
#[derive(Parser, Debug)]
struct Flags {
    /// How many connections work side by side.
    #[arg(short = 's', default_value_t = 1)]
    sessions: usize,
    /// How many messages are sent in all.
    #[arg(short = 'm', default_value_t = 1)]
    messages: usize,
    /// How long a message is, in octets.
    #[arg(short = 'l', default_value_t = 1024)]
    length: usize,
    /// The sender.
    #[arg(short = 'f', default_value = "s@a.example")]
    from: String,
    /// The recipient; of several, all but the first have their number in front.
    #[arg(short = 't', default_value = "r@b.example")]
    to: String,
    /// How many recipients each message has, at most 100.
    #[arg(short = 'r', default_value_t = 1)]
    recipients: usize,
    /// Keep each connection for all messages of its session.
    #[arg(short = 'd')]
    keep: bool,
    /// STARTTLS, with a certificate valid for the host's name (for 127.0.0.1: for localhost).
    #[arg(long)]
    tls: bool,
    /// Trust only the certificates in this PEM file, not the system's.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// Send envelope and content in one flight by BDAT, one transaction at a time.
    #[arg(long)]
    bdat: bool,
    /// Send the next transaction behind the end of the last one without waiting for its reply.
    #[arg(long)]
    chain: bool,
    /// How many transactions may be open at once. Default: 1, and 2 with --chain.
    #[arg(long)]
    window: Option<usize>,
    /// Also print how many messages took how long.
    #[arg(long)]
    latency: bool,
    /// Where to: HOST:PORT.
    target: String,
}

fn main() {
    let flags: Flags = common::flags();
    // One thread drives every connection: what bounds a load source is system calls, and a second
    // thread would pay for its wake-ups what it gains.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ran = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(flags)));
    match ran {
        Ok(0) => {}
        Ok(_) => std::process::exit(1),
        Err(error) => common::refuse(error),
    }
}

struct Load {
    dialer: Dialer,
    host: Arc<Host>,
    require: Require,
    mail: Mail,
    recipients: Vec<Rcpt>,
    body: Bytes,
    keep: bool,
    left: AtomicUsize,
}

#[derive(Default)]
struct Tally {
    micros: Vec<u32>,
    errors: usize,
    complaint: Option<String>,
}

async fn run(flags: Flags) -> Result<usize, Box<dyn Error>> {
    if !(1..=100).contains(&flags.recipients) {
        common::refuse("-r takes 1 to 100");
    }
    let (name, port) = flags.target.rsplit_once(':').ok_or("the target is HOST:PORT")?;
    let port = port.parse().map_err(|_| "the target is HOST:PORT")?;
    let address =
        tokio::net::lookup_host((name.trim_matches(['[', ']']), port)).await?.next().ok_or("no such host")?;
    let name = if address.ip().is_loopback() { "localhost" } else { name };
    let host = Host::new(Domain::parse(name)?, port).with_addresses(vec![address.ip()]);

    let mut options = ClientOptions::new(EhloName::new("blast.example")?);
    options.session.chunking = flags.bdat;
    options.session.chain = flags.chain;
    options.session.window = flags.window.unwrap_or(if flags.chain { 2 } else { 1 });
    let mut trust = TlsOptions::new();
    if let Some(ca) = &flags.ca {
        trust.without_native_roots = true;
        trust = trust.trust_pem(&std::fs::read(ca)?)?;
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let tls = ClientTls::new(trust, Arc::clone(&clock))?;
    let load = Arc::new(Load {
        dialer: Dialer::new(options, Arc::new(TcpConnect::new()), tls, clock),
        host: Arc::new(host),
        require: if flags.tls { Require::Verified } else { Require::Cleartext },
        mail: Mail::new(ReversePath::parse(&flags.from)?),
        recipients: (0..flags.recipients)
            .map(|n| {
                let to = if n == 0 { flags.to.clone() } else { format!("{n}{}", flags.to) };
                ForwardPath::parse(&to).map(Rcpt::new)
            })
            .collect::<Result<_, _>>()?,
        body: letter(&flags),
        keep: flags.keep,
        left: AtomicUsize::new(flags.messages),
    });

    let start = now();
    let tasks: Vec<_> =
        (0..flags.sessions.max(1)).map(|_| tokio::spawn(session(Arc::clone(&load)))).collect();
    let mut all = Tally::default();
    for task in tasks {
        let tally = task.await?;
        all.micros.extend(tally.micros);
        all.errors += tally.errors;
        all.complaint = all.complaint.or(tally.complaint);
    }
    let seconds = (now() - start).as_secs_f64();
    if let Some(complaint) = all.complaint {
        eprintln!("first error: {complaint}");
    }
    all.micros.sort_unstable();
    if flags.latency {
        for (name, share) in [("p10", 10), ("p50", 50), ("p90", 90), ("p99", 99), ("max", 100)] {
            println!("{name} {} us", quantile(&all.micros, share));
        }
    }
    let sent = all.micros.len();
    println!(
        "messages={sent} seconds={seconds:.3} rate={:.0} p50_us={} p99_us={} errors={}",
        sent as f64 / seconds,
        quantile(&all.micros, 50),
        quantile(&all.micros, 99),
        all.errors
    );
    Ok(all.errors)
}

/// One session: a connection after the other, or one for all.
async fn session(load: Arc<Load>) -> Tally {
    let mut tally = Tally::default();
    while load.left.load(Ordering::Relaxed) > 0 {
        match load.dialer.open(&load.host, Protocol::Smtp, load.require, Quirks::default()).await {
            Ok(connection) => load.send(connection, &mut tally).await,
            Err(error) => {
                // The messages of a connection that cannot be made are not sent.
                let lost = if load.take() { 1 } else { 0 };
                tally.errors += lost;
                tally.complaint.get_or_insert_with(|| error.to_string());
            }
        }
    }
    tally
}

impl Load {
    /// Whether there is another message to send.
    fn take(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    async fn send(&self, mut connection: Connection, tally: &mut Tally) {
        let mut begun: VecDeque<Instant> = VecDeque::new();
        let mut more = true;
        loop {
            while more && connection.can_begin() && self.take() {
                let transaction =
                    Transaction::new(self.mail.clone(), self.recipients.clone(), self.body.len() as u64);
                if let Err(error) = connection.begin(transaction, Content::Whole(self.body.clone())) {
                    tally.errors += 1;
                    tally.complaint.get_or_insert_with(|| error.to_string());
                    break;
                }
                begun.push_back(now());
                more = self.keep;
            }
            match connection.next_step(more && self.left.load(Ordering::Relaxed) > 0).await {
                Step::Done(_, result) => {
                    let took = begun.pop_front().map_or(Duration::ZERO, |at| now() - at);
                    tally.count(result, took);
                }
                Step::Room => {}
                Step::Over => break,
            }
        }
        if let Some(failure) = connection.failure() {
            tally.complaint.get_or_insert_with(|| format!("{failure:?}"));
        }
        connection.quit();
    }
}

impl Tally {
    fn count(&mut self, result: TransactionResult, took: Duration) {
        let bad = result.recipients.into_iter().find(|recipient| {
            !matches!(recipient, RecipientResult::Replied { phase: Phase::Content, reply } if reply.is_positive())
        });
        match bad {
            None => self.micros.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX)),
            Some(bad) => {
                self.errors += 1;
                self.complaint.get_or_insert_with(|| format!("{bad:?}"));
            }
        }
    }
}

/// A message of the wanted length: a header, then lines of 70 octets.
fn letter(flags: &Flags) -> Bytes {
    let mut text = format!("From: <{}>\r\nTo: <{}>\r\nSubject: blast\r\n\r\n", flags.from, flags.to);
    while text.len() + 2 < flags.length {
        let line = (flags.length - text.len() - 2).min(70);
        text.extend(std::iter::repeat_n('x', line));
        text.push_str("\r\n");
    }
    text.into()
}

fn quantile(sorted: &[u32], percent: usize) -> u32 {
    sorted
        .get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

#[allow(clippy::disallowed_methods, reason = "a load source measures")]
fn now() -> Instant {
    Instant::now()
}
