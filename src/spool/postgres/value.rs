//! Values as they stand in columns.

use std::error::Error;

use bytes::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

use crate::clock::{Clock, Timestamp};
use crate::message::MessageId;

/// A message's id, or a body's, in a column of type `uuid`: its 16 octets sort by time there too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id(pub(super) MessageId);

impl ToSql for Id {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.0.to_octets());
        Ok(IsNull::No)
    }

    accepts!(UUID);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for Id {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(MessageId::from_octets(raw.try_into()?)))
    }

    accepts!(UUID);
}

/// A number for a column. The spool's own never come near the limit.
pub(super) fn column(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The end of a lease for a column, with room for what the server's clock is ahead.
pub(super) fn lease_column(lease: Timestamp) -> i64 {
    column(lease.as_millis()).min(LATEST_LEASE)
}

/// As good as never.
const LATEST_LEASE: i64 = i64::MAX / 2;

/// The node's time when the statement is sent, and not when it began to wait for a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent<'a>(pub(super) &'a dyn Clock);

impl ToSql for Sent<'_> {
    fn to_sql(&self, of: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        column(self.0.now().wall.as_millis()).to_sql(of, out)
    }

    accepts!(INT8);
    to_sql_checked!();
}

/// An entry's number for a column; it has 20 bits.
pub(super) fn entry_column(entry: u32) -> i32 {
    i32::try_from(entry).unwrap_or(i32::MAX)
}

/// A count or size from a column, where less than nothing cannot be.
pub(super) fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

/// A time from a column.
pub(super) fn time(value: i64) -> Timestamp {
    Timestamp::from_millis(count(value))
}

/// Text for a column, which cannot hold NUL.
pub(super) fn text(value: &str) -> String {
    value.replace('\0', "\u{fffd}")
}
