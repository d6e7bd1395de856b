//! The PostgreSQL spool is a set of tables that several processes work on at once.

mod error;
mod insert;
mod sql;
mod tables;
mod value;

use std::collections::HashMap;

use tokio_postgres::GenericClient;

use super::{Known, NewMessage, SpoolError};
use tables::On;
pub(crate) use tables::Tables;

/// Stores a batch in the transaction that the caller has open: it is there when that commits, and otherwise
/// never was. Bodies must be inline. The transaction must be rolled back, at least to a savepoint before this
/// call, when it fails. Returns the messages that were stored before under their keys.
///
/// # Errors
/// [`SpoolError::KeyConflict`], [`SpoolError::Invalid`], [`SpoolError::TooLarge`], [`SpoolError::Full`],
/// [`SpoolError::Storage`].
pub(crate) async fn enqueue_in<C: GenericClient + Sync>(
    client: &C,
    tables: &Tables,
    batch: &[NewMessage],
) -> Result<Vec<Known>, SpoolError> {
    insert::check(batch)?;
    let stored = insert::insert(&On::new(client, tables), batch, &HashMap::new(), None).await;
    Ok(stored.map_err(SpoolError::from)?.known)
}

/// How many messages one statement stores: past 64 the server's share of the work grows again (measured).
const BATCH_MESSAGES: usize = 64;

/// Octets of heads and bodies in one statement, which is in memory three times on its way.
const BATCH_OCTETS: u64 = 4 << 20;

/// The size of a piece of a body: one row, and at most so much of a streamed body is in memory.
const PIECE: usize = 256 << 10;
