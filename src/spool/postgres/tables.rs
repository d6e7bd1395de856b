//! The tables are one schema's: its name is in every statement, so that the caller's search path, in whose
//! transaction some of them run, does not matter.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use tokio_postgres::types::ToSql;
use tokio_postgres::{GenericClient, Row, Statement};

use super::super::SpoolError;
use super::error::Failure;
use super::{schema, sql};

/// The statements for one schema.
#[derive(Debug)]
pub(crate) struct Tables {
    schema: String,
    texts: Vec<String>,
}

impl Tables {
    /// The tables in this schema.
    ///
    /// # Errors
    /// [`SpoolError::Invalid`] when it can be no schema's name.
    pub(crate) fn new(schema: &str) -> Result<Self, SpoolError> {
        // The channel for notifications has a prefix and may have 63 octets, as any name.
        if schema.is_empty() || schema.len() > 48 || schema.contains(char::is_control) {
            return Err(SpoolError::Invalid("the schema's name is empty, too long, or holds a control"));
        }
        let quoted = quote(schema);
        let texts = Call::SQL.iter().map(|text| in_schema(text, &quoted)).collect();
        Ok(Self { schema: schema.to_owned(), texts })
    }

    /// The name of the channel on which nodes tell each other of new mail.
    pub(super) fn channel(&self) -> String {
        format!("postroad.{}", self.schema)
    }

    /// SQL for this schema.
    pub(super) fn text(&self, call: Call) -> &str {
        self.texts.get(call as usize).map_or("", String::as_str)
    }

    /// Makes the tables where there are none. Several nodes may do this at once.
    ///
    /// # Errors
    /// [`SpoolError::Version`] when a newer version made them.
    pub(crate) async fn migrate(&self, client: &mut tokio_postgres::Client) -> Result<(), SpoolError> {
        Ok(self.make(client).await?)
    }

    async fn make(&self, client: &mut tokio_postgres::Client) -> Result<(), Failure> {
        let quoted = quote(&self.schema);
        let of_schema = |sql: &str| in_schema(sql, &quoted);
        let tx = client.transaction().await?;
        let encoding: String = tx.query_one("SHOW server_encoding", &[]).await?.try_get(0)?;
        if encoding != "UTF8" {
            let error = io::Error::new(io::ErrorKind::Unsupported, "the database's encoding is not UTF8");
            return Err(SpoolError::Storage(error).into());
        }
        // Whoever may not make a schema can still use one that is there.
        tx.query("SELECT pg_advisory_xact_lock(hashtextextended('postroad ' || $1, 0))", &[&self.schema])
            .await?;
        let there = "SELECT to_regnamespace($1) IS NOT NULL, to_regclass($2) IS NOT NULL";
        let there = tx.query_one(there, &[&quoted, &format!("{quoted}.postroad_meta")]).await?;
        let (schema, tables): (bool, bool) = (there.try_get(0)?, there.try_get(1)?);
        if !schema {
            tx.batch_execute(&format!("CREATE SCHEMA {quoted}")).await?;
        }
        if !tables {
            tx.batch_execute(&of_schema(schema::META)).await?;
            tx.batch_execute(&of_schema(schema::TABLES)).await?;
        }
        let version = of_schema("SELECT value FROM SCHEMA.postroad_meta WHERE key = 'version'");
        let found: i64 = tx.query_one(&version, &[]).await?.try_get(0)?;
        if found != schema::VERSION {
            return Err(SpoolError::Version { found, supported: schema::VERSION }.into());
        }
        tx.commit().await?;
        Ok(())
    }
}

/// SQL with the schema's name in it, which is a part of a literal where a sequence or a table is a value.
fn in_schema(sql: &str, quoted: &str) -> String {
    let literal = quoted.replace('\'', "''");
    let mut parts = sql.split("SCHEMA.");
    let mut text = parts.next().unwrap_or_default().to_owned();
    // In one pass: the name may be anything, this placeholder too.
    for part in parts {
        text.push_str(if text.ends_with('\'') { &literal } else { quoted });
        text.push('.');
        text.push_str(part);
    }
    text
}

/// A name as SQL writes it.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

macro_rules! calls {
    ($($name:ident = $sql:ident)*) => {
        /// A statement.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(super) enum Call {
            $($name),*
        }

        impl Call {
            const SQL: &[&str] = &[$(sql::$sql),*];
        }
    };
}

calls! {
    Enqueue = ENQUEUE
    TakeStaged = TAKE_STAGED
    InsertKeys = INSERT_KEYS
    FindKeys = FIND_KEYS
    DropBodies = DROP_BODIES
    StageBody = STAGE_BODY
    Piece = PIECE
    DropStaged = DROP_STAGED
    CollectStaged = COLLECT_STAGED
    Claim = CLAIM
    SetAside = SET_ASIDE
    Extend = EXTEND
    Body = BODY
    Settle = SETTLE
    Hasten = HASTEN
    Queues = QUEUES
    Scan = SCAN
    Results = RESULTS
    LogLast = LOG_LAST
    LogHorizon = LOG_HORIZON
    Log = LOG
    Standing = STANDING
    Page = PAGE
    Alter = ALTER
    IsThere = IS_THERE
    PruneKeys = PRUNE_KEYS
    PruneResults = PRUNE_RESULTS
    PruneLog = PRUNE_LOG
    Vacuum = VACUUM
    Count = COUNT
    Estimate = ESTIMATE
    Health = HEALTH
}

/// The statements that one connection has prepared.
#[derive(Debug, Default)]
pub(super) struct Prepared(Mutex<HashMap<Call, Statement>>);

/// Where statements are run: a connection of ours, or the caller's own transaction.
#[derive(Debug)]
pub(crate) struct On<'a, C> {
    client: &'a C,
    tables: &'a Tables,
    prepared: Option<&'a Prepared>,
}

impl<'a, C: GenericClient + Sync> On<'a, C> {
    /// A connection, or a transaction, of somebody who has prepared nothing.
    pub(crate) const fn new(client: &'a C, tables: &'a Tables) -> Self {
        Self { client, tables, prepared: None }
    }

    /// One that remembers what was prepared on its connection.
    pub(super) const fn prepared(client: &'a C, tables: &'a Tables, prepared: &'a Prepared) -> Self {
        Self { client, tables, prepared: Some(prepared) }
    }

    /// Runs one statement.
    pub(super) async fn query(
        &self,
        call: Call,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Failure> {
        let text = self.tables.text(call);
        let Some(Prepared(prepared)) = self.prepared else {
            return Ok(self.client.query(text, params).await?);
        };
        let known = prepared.lock().unwrap_or_else(PoisonError::into_inner).get(&call).cloned();
        let statement = match known {
            Some(statement) => statement,
            None => {
                let statement = self.client.prepare(text).await?;
                prepared.lock().unwrap_or_else(PoisonError::into_inner).insert(call, statement.clone());
                statement
            }
        };
        Ok(self.client.query(&statement, params).await?)
    }
}
