//! TLS to the server: who it is must be shown.

use std::sync::OnceLock;

use postroad::spool::{PostgresOptions, PostgresSpool, Spool, contract};
use tokio_postgres::NoTls;

use super::certs::Ca;
use super::cluster::Cluster;
use super::options;

/// A server with a certificate for `db.test`, and the authority that it is from.
fn server() -> Option<&'static (Cluster, String)> {
    static SERVER: OnceLock<Option<(Cluster, String)>> = OnceLock::new();
    let start = || {
        let ca = Ca::new("an authority");
        let cert = ca.issue("db.test");
        Some((Cluster::with_tls(&cert.chain_pem, &cert.key_pem)?, ca.pem().to_owned()))
    };
    SERVER.get_or_init(start).as_ref()
}

/// Connects to the server as `name`, trusting an authority.
async fn connect(cluster: &Cluster, name: &str, more: &str, ca: &str) -> Result<PostgresSpool, String> {
    let mut options: PostgresOptions = options(cluster);
    options.trust = Some(ca.as_bytes().to_vec());
    let port = cluster.port();
    let url = format!("host={name} hostaddr=127.0.0.1 port={port} user=postgres dbname=postgres {more}");
    PostgresSpool::connect(&url, options).await.map_err(|error| {
        let (mut text, mut source) = (error.to_string(), std::error::Error::source(&error));
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        text
    })
}

#[tokio::test]
async fn a_server_that_shows_who_it_is_is_spoken_to_over_tls() {
    let Some((cluster, ca)) = server() else { return };
    let spool = connect(cluster, "db.test", "application_name=over_tls sslmode=require", ca).await.unwrap();
    spool.enqueue(vec![contract::sample(1)], None).await.unwrap();
    let (shell, connection) = tokio_postgres::connect(&cluster.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    let sessions = "SELECT count(*), count(*) FILTER (WHERE s.ssl) FROM pg_stat_activity a
                    JOIN pg_stat_ssl s USING (pid) WHERE application_name = 'over_tls'";
    let row = shell.query_one(sessions, &[]).await.unwrap();
    let (all, secure): (i64, i64) = (row.get(0), row.get(1));
    assert!(all > 0 && all == secure, "{secure} of {all}");
}

#[tokio::test]
async fn a_server_elsewhere_is_not_spoken_to_in_clear_unless_that_is_asked_for() {
    let Some((cluster, ca)) = server() else { return };
    let (shell, connection) = tokio_postgres::connect(&cluster.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    let secure = async |application: &str| {
        let of = "SELECT bool_and(s.ssl) FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid)
                  WHERE application_name = $1";
        shell.query_one(of, &[&application]).await.unwrap().get::<_, Option<bool>>(0)
    };
    // Its name is not this machine's, though the address is.
    let _spool = connect(cluster, "db.test", "application_name=unasked", ca).await.unwrap();
    assert_eq!(secure("unasked").await, Some(true));
    let clear = "application_name=clear sslmode=disable";
    let _spool = connect(cluster, "db.test", clear, ca).await.unwrap();
    assert_eq!(secure("clear").await, Some(false));
}

#[tokio::test]
async fn a_server_with_another_name_or_from_another_authority_is_refused() {
    let Some((cluster, ca)) = server() else { return };
    for mode in ["", "sslmode=require", "sslmode=prefer"] {
        let wrong = connect(cluster, "other.test", mode, ca).await.unwrap_err();
        assert!(wrong.contains("not valid for name") || wrong.contains("NotValidForName"), "{mode}: {wrong}");
        let ca = Ca::new("another authority");
        let wrong = connect(cluster, "db.test", mode, ca.pem()).await.unwrap_err();
        assert!(wrong.contains("UnknownIssuer"), "{mode}: {wrong}");
    }
    let error = connect(cluster, "db.test", "", "rubbish").await.unwrap_err();
    assert!(error.contains("UnknownIssuer") || error.contains("PEM"), "{error}");
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_refused_where_it_must() {
    let Some(cluster) = Cluster::shared() else { return };
    let url = format!("{} sslmode=require", cluster.url());
    let error = PostgresSpool::connect(&url, options(cluster)).await.unwrap_err();
    let text = format!("{error:?}");
    assert!(text.contains("TLS") || text.contains("Tls"), "{text}");
}
