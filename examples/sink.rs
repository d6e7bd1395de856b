//! A sink accepts mail and throws it away, counting: what a load source is pointed at.
//!
//! `cargo run --release --example sink -- --listen 127.0.0.1:2525`, then send SIGTERM: it prints
//! `messages=N recipients=N bytes=N connections=N`.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use clap::Parser;
use postroad::BoxFuture;
use postroad::server::{
    BodyStream, Conversation, Handler, Peer, Server, ServerOptions, SessionInfo, Transaction, Verdict,
};
use postroad::smtp::address::{EhloName, ForwardPath};
use postroad::smtp::params::Rcpt;
use postroad::smtp::reply::{EnhancedCode, Reply};
use tokio::io::AsyncWriteExt;

#[path = "common/mod.rs"]
mod common;

/// Accepts mail, counts it and throws it away.
#[derive(Parser)]
struct Flags {
    /// Where to listen; port 0 finds a free one.
    #[arg(long, value_name = "ADDR:PORT", required = true)]
    listen: Vec<String>,
    /// Offer STARTTLS, with a self-signed certificate.
    #[arg(long)]
    tls: bool,
    /// Wait this long before the reply to a message.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    reply_delay: u64,
    /// Refuse recipients that contain PATTERN with CODE (4xx or 5xx); may be given again.
    #[arg(long, value_name = "PATTERN=CODE", value_parser = refusal)]
    refuse: Vec<(String, u16)>,
    /// Keep each message as a file in DIR.
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
    /// Connections that may be open at once.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    max_connections: usize,
    /// Threads that serve; one is the cheapest per message.
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
}

fn refusal(text: &str) -> Result<(String, u16), String> {
    let (pattern, code) = text.rsplit_once('=').ok_or("needs PATTERN=CODE")?;
    match code.parse() {
        Ok(code @ 400..=599) => Ok((pattern.to_owned(), code)),
        _ => Err(format!("'{code}' is no code from 400 to 599")),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let flags: Flags = common::flags();
    common::log();
    let mut runtime = match flags.threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        more => {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            runtime.worker_threads(more);
            runtime
        }
    };
    runtime.enable_all().build()?.block_on(run(flags))
}

async fn run(flags: Flags) -> Result<(), Box<dyn Error>> {
    let terminated = common::terminated()?;
    if let Some(dir) = &flags.dump {
        tokio::fs::create_dir_all(dir).await?;
    }
    let mut options = ServerOptions::new(EhloName::new("sink.example")?);
    options.max_connections = flags.max_connections;
    options.max_per_network = flags.max_connections;
    // A load source does on purpose what gets others barred.
    (options.max_connection_rate, options.max_refused_recipients, options.max_mistakes) = (0, 0, 0);
    let rules = Rules {
        delay: Duration::from_millis(flags.reply_delay),
        refuse: flags.refuse,
        dump: flags.dump,
        number: AtomicU64::new(0),
    };
    let mut server = Server::builder(Sink(Arc::new(rules)), options);
    for address in flags.listen {
        server = server.listen(address);
    }
    if flags.tls {
        server = server.tls(common::self_signed("sink.example")?);
    }
    let server = server.start().await.unwrap_or_else(|error| common::refuse_start(&error));
    common::ready(server.addresses());
    terminated.await;
    let done = server.shutdown(Duration::from_secs(5)).await;
    println!(
        "messages={} recipients={} bytes={} connections={}",
        done.messages, done.recipients, done.octets, done.connections
    );
    Ok(())
}

struct Rules {
    delay: Duration,
    refuse: Vec<(String, u16)>,
    dump: Option<PathBuf>,
    number: AtomicU64,
}

struct Sink(Arc<Rules>);

impl Handler for Sink {
    fn connect<'a>(&'a self, _: &'a Peer) -> BoxFuture<'a, Result<Box<dyn Conversation>, Reply>> {
        let session = Session(Arc::clone(&self.0));
        Box::pin(async { Ok(Box::new(session) as Box<dyn Conversation>) })
    }
}

struct Session(Arc<Rules>);

impl Conversation for Session {
    fn recipient<'a>(&'a mut self, rcpt: &'a Rcpt, _: &'a SessionInfo) -> BoxFuture<'a, Result<(), Reply>> {
        Box::pin(async { self.0.judge(&rcpt.to) })
    }

    fn message(&mut self, _: Transaction, mut body: BodyStream) -> BoxFuture<'_, Verdict> {
        Box::pin(async move {
            let stored = match &self.0.dump {
                None => discard(&mut body).await,
                Some(dir) => {
                    let number = self.0.number.fetch_add(1, Relaxed);
                    dump(&mut body, dir.join(format!("{number:08}.eml"))).await
                }
            };
            if !self.0.delay.is_zero() {
                tokio::time::sleep(self.0.delay).await;
            }
            match stored {
                Ok(()) => Reply::new(250, EnhancedCode::new(2, 0, 0), "thrown away").into(),
                Err(_) => Reply::new(451, EnhancedCode::new(4, 3, 0), "could not be kept").into(),
            }
        })
    }
}

impl Rules {
    fn judge(&self, to: &ForwardPath) -> Result<(), Reply> {
        if self.refuse.is_empty() {
            return Ok(());
        }
        let to = to.to_string();
        match self.refuse.iter().find(|(pattern, _)| to.contains(pattern)) {
            None => Ok(()),
            Some((_, code @ 400..500)) => Err(Reply::new(*code, EnhancedCode::new(4, 2, 0), "not now")),
            Some((_, code)) => Err(Reply::new(*code, EnhancedCode::new(5, 1, 1), "not here")),
        }
    }
}

async fn discard(body: &mut BodyStream) -> std::io::Result<()> {
    while let Some(chunk) = body.chunk().await {
        chunk.map_err(std::io::Error::other)?;
    }
    Ok(())
}

async fn dump(body: &mut BodyStream, path: PathBuf) -> std::io::Result<()> {
    let part = path.with_extension("part");
    let mut file = tokio::fs::File::create(&part).await?;
    while let Some(chunk) = body.chunk().await {
        match chunk {
            Ok(octets) => file.write_all(&octets).await?,
            Err(error) => {
                tokio::fs::remove_file(&part).await?;
                return Err(std::io::Error::other(error));
            }
        }
    }
    file.flush().await?;
    tokio::fs::rename(part, path).await
}
