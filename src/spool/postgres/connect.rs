//! Connections to the server: a handful, opened when they are needed and kept while they are good.
//!
//! One goes back only when a call has come to its end on it; a call that was dropped, failed or ran out of
//! time closes its connection, and with it whatever it had begun.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Transaction};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::super::SpoolError;
use super::PostgresOptions;
use super::error::Failure;
use super::tables::{On, Prepared, Tables};

/// The way to the server, and the connections that are idle.
#[derive(Debug)]
pub(super) struct Link {
    config: Config,
    tls: Option<Arc<ClientConfig>>,
    pub(super) tables: Tables,
    limit: Duration,
    idle: Mutex<Vec<Conn>>,
    permits: Semaphore,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) client: Client,
    pub(super) prepared: Prepared,
}

impl Conn {
    /// Where statements are run.
    pub(super) const fn on<'a>(&'a self, tables: &'a Tables) -> On<'a, Client> {
        On::prepared(&self.client, tables, &self.prepared)
    }
}

/// A transaction.
pub(super) struct Tx<'a> {
    tx: Transaction<'a>,
    prepared: &'a Prepared,
    tables: &'a Tables,
}

impl Conn {
    pub(super) async fn begin<'a>(&'a mut self, link: &'a Link) -> Result<Tx<'a>, Failure> {
        let begin = self.client.transaction();
        let tx = link.timed(async { Ok(begin.await?) }).await?;
        Ok(Tx { tx, prepared: &self.prepared, tables: &link.tables })
    }
}

impl<'a> Tx<'a> {
    /// Where its statements are run.
    pub(super) const fn on(&self) -> On<'_, Transaction<'a>> {
        On::prepared(&self.tx, self.tables, self.prepared)
    }

    /// Runs what says nothing of interest, such as a setting.
    pub(super) async fn execute(&self, sql: &str) -> Result<(), Failure> {
        Ok(self.tx.batch_execute(sql).await?)
    }

    pub(super) async fn commit(self, link: &Link) -> Result<(), Failure> {
        let commit = async { Ok(self.tx.commit().await?) };
        link.timed(commit).await.map_err(Failure::of_statement)
    }
}

/// A connection in use. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Held<'a> {
    link: &'a Link,
    conn: Conn,
    _permit: SemaphorePermit<'a>,
}

impl Held<'_> {
    /// The connection.
    pub(super) const fn conn(&mut self) -> &mut Conn {
        &mut self.conn
    }

    /// Keeps it for the next call.
    pub(super) fn release(self) {
        if !self.conn.client.is_closed() {
            self.link.idle.lock().unwrap_or_else(PoisonError::into_inner).push(self.conn);
        }
    }
}

impl Link {
    pub(super) async fn new(url: &str, options: &PostgresOptions) -> Result<Self, SpoolError> {
        let mut config: Config = url.parse().map_err(|error| SpoolError::Storage(io::Error::other(error)))?;
        if config.get_application_name().is_none() {
            config.application_name("postroad");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(options.statement_timeout);
        }
        let tls = if is_private(&config) { None } else { Some(Arc::new(tls(options).await?)) };
        if tls.is_some() {
            config.ssl_mode(SslMode::Require);
        }
        Ok(Self {
            config,
            tls,
            tables: Tables::new(&options.schema)?,
            limit: options.statement_timeout,
            idle: Mutex::default(),
            permits: Semaphore::new(options.connections.max(MIN_CONNECTIONS)),
        })
    }

    /// A connection: an idle one, or a new one. Waits while all are in use.
    pub(super) async fn take(&self) -> Result<Held<'_>, Failure> {
        let permit = self.permits.acquire().await.map_err(|_| Failure::Spool(SpoolError::Closed))?;
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match idle {
                Some(conn) if conn.client.is_closed() => {}
                Some(conn) => return Ok(Held { link: self, conn, _permit: permit }),
                None => break,
            }
        }
        let conn = Conn { client: self.open(|_| {}).await?, prepared: Prepared::default() };
        Ok(Held { link: self, conn, _permit: permit })
    }

    /// Opens a connection; `heard` is told what the server says without being asked.
    pub(super) async fn open(
        &self,
        heard: impl FnMut(tokio_postgres::Notification) + Send + 'static,
    ) -> Result<Client, Failure> {
        let client = match &self.tls {
            Some(tls) => {
                let tls = MakeRustlsConnect::new(ClientConfig::clone(tls));
                // The timeout of the configuration is for TCP alone.
                let (client, connection) = self.timed(async { Ok(self.config.connect(tls).await?) }).await?;
                tokio::spawn(drive(connection, heard));
                client
            }
            None => {
                let (client, connection) =
                    self.timed(async { Ok(self.config.connect(NoTls).await?) }).await?;
                tokio::spawn(drive(connection, heard));
                client
            }
        };
        let millis = self.limit.as_millis();
        self.timed(async { Ok(client.batch_execute(&session(millis)).await?) }).await?;
        Ok(client)
    }

    /// Bounds a call: the server is told to give up first, so this is for one that has fallen silent.
    pub(super) async fn timed<T>(
        &self,
        call: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(self.limit + SILENCE, call).await {
            Ok(result) => result,
            Err(_) => Err(Failure::Silent),
        }
    }

    /// Nothing more is begun.
    pub(super) fn close(&self) {
        self.permits.close();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.permits.is_closed()
    }
}

/// Does the reading and writing of one connection until it ends.
async fn drive<S, T>(
    mut connection: tokio_postgres::Connection<S, T>,
    mut heard: impl FnMut(tokio_postgres::Notification),
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
        match message {
            Ok(AsyncMessage::Notification(notification)) => heard(notification),
            Ok(_) => {}
            // Whoever waits for an answer is told the same.
            Err(error) => return tracing::debug!(%error, "a connection to the database has ended"),
        }
    }
}

/// How a session differs from what the server gives: no statement waits for ever; a commit is durable, whatever
/// the cluster's default; and every statement probes an index, since the planner's figures for a table that
/// was empty a minute ago would have it read the whole.
fn session(millis: u128) -> String {
    format!(
        "SET statement_timeout = {millis}; SET lock_timeout = {millis};
         SET idle_in_transaction_session_timeout = {millis};
         SET default_transaction_isolation = 'read committed';
         SET jit = off; SET plan_cache_mode = force_generic_plan;
         SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
         SELECT set_config('synchronous_commit', 'on', false)
         WHERE current_setting('synchronous_commit') IN ('off', 'local')"
    )
}

/// Whether the way to the server is inside this machine, or the caller has said that it need not be protected.
fn is_private(config: &Config) -> bool {
    let at_hand = |host: &Host| match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    };
    match config.get_ssl_mode() {
        SslMode::Disable => true,
        SslMode::Prefer => {
            config.get_hosts().iter().all(at_hand) && config.get_hostaddrs().iter().all(IpAddr::is_loopback)
        }
        _ => false,
    }
}

/// TLS that shows who the server is: by the roots given, or by the system's.
async fn tls(options: &PostgresOptions) -> Result<ClientConfig, SpoolError> {
    let invalid = |error| SpoolError::Storage(io::Error::new(io::ErrorKind::InvalidInput, error));
    let mut roots = RootCertStore::empty();
    if let Some(pem) = &options.trust {
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|_| invalid("the roots to trust are not PEM".into()))?;
            roots.add(certificate).map_err(|error| invalid(Box::from(error)))?;
        }
    } else {
        let native = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
        roots.add_parsable_certificates(native.map(|found| found.certs).unwrap_or_default());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(Box::<dyn std::error::Error + Send + Sync>::from(error)))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// One for what is enqueued, one for what is settled, one for all the rest: fewer would have them wait for
/// each other.
const MIN_CONNECTIONS: usize = 3;

/// A server on the same network answers in milliseconds.
const CONNECT: Duration = Duration::from_secs(5);

/// How much longer than the server's own limit its answer may take.
const SILENCE: Duration = Duration::from_secs(5);
