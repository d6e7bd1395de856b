//! A shop writes an order and enqueues its confirmation in one transaction, and has another rolled back.
//!
//! `cargo run --example outbox` needs nothing: the shop's database is a SQLite file in a temporary folder, and
//! the mail goes to a server in this process. With `--features postgres` and
//! `-- --database postgres://USER@HOST/DATABASE` it makes its tables in the schema `postroad_example` there.

mod common;

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use clap::Parser;
use postroad::hop::{Host, Require};
use postroad::message::{Envelope, RawMessage};
use postroad::outbox::{PumpOptions, SqliteOutbox, rusqlite};
use postroad::route::FixedRoutes;
use postroad::server::{
    BodyStream, Conversation, Handler, Peer, ServerOptions, SessionInfo, Transaction, Verdict,
};
use postroad::smtp::address::{AddressError, Domain};
use postroad::smtp::params::Rcpt;
use postroad::smtp::reply::{EnhancedCode, Reply};
use postroad::spool::Spool;
use postroad::{BoxFuture, DiskSpool, EhloName, Engine, Server};
use tokio::sync::mpsc;

/// A shop whose mail is sent if, and only if, its orders are committed.
#[derive(Parser)]
struct Flags {
    /// The shop's database; default: a SQLite file that is made for this.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let flags: Flags = common::flags();
    common::log();
    let (arrived, mut inbox) = mpsc::unbounded_channel();
    let server = Server::builder(Inbox(arrived), ServerOptions::new(EhloName::new("mx.example.org")?))
        .listen("127.0.0.1:0")
        .start()
        .await?;
    let address = *server.addresses().first().ok_or("the server listens nowhere")?;
    let host = Host::new(Domain::parse("mx.example.org")?, address.port()).with_addresses(vec![address.ip()]);
    let routes = FixedRoutes::new().smarthost(host, Require::Opportunistic);

    match &flags.database {
        None => {
            let folder = tempfile::tempdir()?;
            on_sqlite(folder.path(), routes, &mut inbox).await?;
        }
        Some(url) => on_postgres(url, routes, &mut inbox).await?,
    }
    server.shutdown(Duration::from_secs(5)).await;
    while let Ok(text) = inbox.try_recv() {
        println!("more than was committed:\n{text}");
    }
    Ok(())
}

async fn on_sqlite(folder: &Path, routes: FixedRoutes, inbox: &mut Arrivals) -> Result<(), Box<dyn Error>> {
    let file = folder.join("shop.db");
    let mut shop = rusqlite::Connection::open(&file)?;
    shop.execute_batch("CREATE TABLE orders (number INTEGER PRIMARY KEY)")?;
    SqliteOutbox::create_tables(&shop)?;
    let outbox = SqliteOutbox::new(EhloName::new("mail.example.com")?);

    let engine = engine(DiskSpool::open(folder.join("spool"))?, routes).await?;
    let pump = outbox.pump(rusqlite::Connection::open(&file)?, engine.clone(), PumpOptions::new());

    let transaction = shop.transaction()?;
    transaction.execute("INSERT INTO orders VALUES (4711)", [])?;
    let id = outbox.enqueue(&transaction, confirmation(4711)?, Some("order 4711"))?;
    transaction.commit()?;
    pump.nudge();
    println!("order 4711 is committed, its mail is {id}");

    let transaction = shop.transaction()?;
    transaction.execute("INSERT INTO orders VALUES (4712)", [])?;
    outbox.enqueue(&transaction, confirmation(4712)?, Some("order 4712"))?;
    transaction.rollback()?;
    println!("order 4712 is rolled back, and its mail with it");

    let again = outbox.enqueue(&shop, confirmation(4711)?, Some("order 4711"))?;
    println!("order 4711 once more, as after a crash: it is mail {again}, which is not sent twice");

    report(inbox).await?;
    pump.stop().await;
    engine.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

#[cfg(feature = "postgres")]
async fn on_postgres(url: &str, routes: FixedRoutes, inbox: &mut Arrivals) -> Result<(), Box<dyn Error>> {
    use postroad::outbox::{PostgresOutbox, tokio_postgres};
    use postroad::spool::{PostgresOptions, PostgresSpool};

    let (mut shop, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    let mut options = PostgresOptions::new();
    options.schema = "postroad_example".to_owned();
    let spool = PostgresSpool::connect(url, options).await?;
    shop.batch_execute("CREATE TABLE IF NOT EXISTS postroad_example.orders (number bigint)").await?;
    let outbox = PostgresOutbox::new(spool.clone(), EhloName::new("mail.example.com")?);
    let engine = engine(spool, routes).await?;
    let insert = "INSERT INTO postroad_example.orders VALUES ($1)";

    // Each run of this program is an order of its own.
    let number = i64::from(std::process::id());
    let key = format!("order {} {number}", engine.new_id());
    let mut transaction = shop.transaction().await?;
    transaction.execute(insert, &[&number]).await?;
    let id = outbox.enqueue(&mut transaction, confirmation(number)?, Some(&key)).await?;
    transaction.commit().await?;
    outbox.nudge();
    println!("order {number} is committed, its mail is {id}");

    let mut transaction = shop.transaction().await?;
    transaction.execute(insert, &[&(number + 1)]).await?;
    outbox.enqueue(&mut transaction, confirmation(number + 1)?, None).await?;
    transaction.rollback().await?;
    println!("order {} is rolled back, and its mail with it", number + 1);

    let mut transaction = shop.transaction().await?;
    let again = outbox.enqueue(&mut transaction, confirmation(number)?, Some(&key)).await?;
    transaction.commit().await?;
    println!("order {number} once more, as after a crash: it is mail {again}, which is not sent twice");

    report(inbox).await?;
    engine.shutdown(Duration::from_secs(5)).await;
    connection.abort();
    Ok(())
}

#[cfg(not(feature = "postgres"))]
async fn on_postgres(_: &str, _: FixedRoutes, _: &mut Arrivals) -> Result<(), Box<dyn Error>> {
    common::refuse("--database needs --features postgres")
}

async fn engine(spool: impl Spool, routes: FixedRoutes) -> Result<Engine, Box<dyn Error>> {
    Ok(Engine::builder(spool, EhloName::new("mail.example.com")?).direct(routes).start().await?)
}

fn confirmation(number: i64) -> Result<RawMessage, AddressError> {
    let envelope = Envelope::parse("shop@example.com", ["ada@example.org"])?;
    let text = format!(
        "From: shop@example.com\r\nTo: ada@example.org\r\nSubject: Order {number}\r\n\r\nThanks!\r\n"
    );
    Ok(RawMessage::new(envelope, text.into_bytes()))
}

/// Shows the mail that came.
async fn report(inbox: &mut Arrivals) -> Result<(), Box<dyn Error>> {
    let text =
        tokio::time::timeout(Duration::from_secs(30), inbox.recv()).await?.ok_or("the server is gone")?;
    let subject = text.lines().find(|line| line.starts_with("Subject:")).unwrap_or("no subject");
    println!("ada@example.org got a message: {subject}");
    Ok(())
}

type Arrivals = mpsc::UnboundedReceiver<String>;

/// A server that takes everything.
struct Inbox(mpsc::UnboundedSender<String>);

impl Handler for Inbox {
    fn connect<'a>(&'a self, _: &'a Peer) -> BoxFuture<'a, Result<Box<dyn Conversation>, Reply>> {
        let session: Box<dyn Conversation> = Box::new(Session(self.0.clone()));
        Box::pin(async { Ok(session) })
    }
}

struct Session(mpsc::UnboundedSender<String>);

impl Conversation for Session {
    fn recipient<'a>(&'a mut self, _: &'a Rcpt, _: &'a SessionInfo) -> BoxFuture<'a, Result<(), Reply>> {
        Box::pin(async { Ok(()) })
    }

    fn message(&mut self, _: Transaction, mut body: BodyStream) -> BoxFuture<'_, Verdict> {
        Box::pin(async move {
            let mut octets = Vec::new();
            while let Some(chunk) = body.chunk().await {
                match chunk {
                    Ok(chunk) => octets.extend_from_slice(&chunk),
                    Err(_) => return Reply::new(451, EnhancedCode::new(4, 3, 0), "not all there").into(),
                }
            }
            let _ = self.0.send(String::from_utf8_lossy(&octets).into_owned());
            Reply::new(250, EnhancedCode::new(2, 0, 0), "thank you").into()
        })
    }
}
