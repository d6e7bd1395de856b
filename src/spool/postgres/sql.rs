//! All SQL of the spool in one place: the tables, and each statement with what it is for.
//!
//! `SCHEMA.` stands for the schema's quoted name. Times are milliseconds since 1970 as the spool was given
//! them, so that one that never comes can be written down; the view `postroad_mail` shows dates. Batches
//! come as one array a column: 64 rows in one statement cost the server a quarter of 64 statements.

/// Written to `postroad_meta`. A change of the tables raises it and brings a migration.
pub(super) const VERSION: i64 = 1;

/// What is known of the tables, by name.
pub(super) const META: &str =
    "CREATE TABLE SCHEMA.postroad_meta (key text PRIMARY KEY, value bigint NOT NULL)";

/// The tables. Ids are made by the client in time order, so that new rows go to the end of every index and an
/// unknown outcome is settled by doing it again.
///
/// - `postroad_entry.due` is when an entry is to be tried; `wake` is when it can be claimed: `due`, or the end
///   of its lease. `claim` is the number of the claim while it is claimed. `mark` is what is to be done with
///   an entry that was claimed when somebody wanted it: 'cancel', or 'hold' with the reason behind a space.
/// - Bodies have a table of their own, so that claims and retries never touch them; they are not compressed,
///   since mail is read once or twice and most of its octets are packed already. A body of more than one
///   piece was staged; `postroad_staged` names those that no message has named yet.
/// - `postroad_message.entries` counts those that are left.
/// - No foreign keys: each would lock the message's row for each entry, and every statement below changes
///   what belongs together.
///
/// A queue's rows die young: autovacuum is told to come after 1 % or 1,000 of them instead of 20 %, and not to
/// pause. `autovacuum_naptime` is the cluster's, and worth setting to 5 s.
pub(super) const TABLES: &str = "
CREATE TABLE SCHEMA.postroad_message (
  id uuid PRIMARY KEY,
  body uuid NOT NULL,
  sender text NOT NULL,
  handling text NOT NULL,
  tenant text,
  tags text[] NOT NULL,
  accepted bigint NOT NULL,
  expires bigint NOT NULL,
  size bigint NOT NULL,
  entries integer NOT NULL,
  keep bigint,
  head bytea NOT NULL
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_cost_delay = 0);
CREATE SEQUENCE SCHEMA.postroad_claim;
CREATE TABLE SCHEMA.postroad_entry (
  message uuid NOT NULL,
  entry integer NOT NULL,
  destination text NOT NULL,
  queue text NOT NULL,
  class smallint NOT NULL,
  due bigint NOT NULL,
  wake bigint NOT NULL,
  claim bigint,
  attempts integer NOT NULL DEFAULT 0,
  parked text,
  mark text,
  recipients text NOT NULL,
  PRIMARY KEY (message, entry)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_cost_delay = 0);
CREATE INDEX postroad_entry_wake ON SCHEMA.postroad_entry (queue, class, wake, message, entry)
  WHERE parked IS NULL;
CREATE TABLE SCHEMA.postroad_body (
  body uuid NOT NULL,
  piece integer NOT NULL,
  octets bytea NOT NULL,
  PRIMARY KEY (body, piece)
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_cost_delay = 0, toast.autovacuum_vacuum_scale_factor = 0.01,
  toast.autovacuum_vacuum_threshold = 1000, toast.autovacuum_vacuum_cost_delay = 0);
ALTER TABLE SCHEMA.postroad_body ALTER COLUMN octets SET STORAGE EXTERNAL;
CREATE TABLE SCHEMA.postroad_staged (
  body uuid PRIMARY KEY,
  touched timestamptz NOT NULL
);
CREATE TABLE SCHEMA.postroad_key (
  tenant text NOT NULL,
  name text NOT NULL,
  digest bytea NOT NULL,
  message uuid NOT NULL,
  until bigint NOT NULL,
  PRIMARY KEY (tenant, name)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX postroad_key_until ON SCHEMA.postroad_key (until);
CREATE TABLE SCHEMA.postroad_result (
  message uuid NOT NULL,
  entry integer NOT NULL,
  recipients text NOT NULL,
  until bigint,
  PRIMARY KEY (message, entry)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX postroad_result_until ON SCHEMA.postroad_result (until) WHERE until IS NOT NULL;
CREATE SEQUENCE SCHEMA.postroad_log_order;
CREATE TABLE SCHEMA.postroad_log (
  number bigint PRIMARY KEY,
  at bigint NOT NULL,
  message uuid NOT NULL,
  entry integer,
  kind text NOT NULL,
  recipient text,
  attempt integer NOT NULL,
  note text
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE VIEW SCHEMA.postroad_mail AS SELECT
  m.id, e.entry, m.sender, e.destination, e.queue, e.attempts,
  CASE WHEN e.due < 253402300800000 THEN to_timestamp(e.due / 1000.0) ELSE 'infinity' END AS due,
  e.claim IS NOT NULL AS claimed, e.parked, e.mark,
  to_timestamp(m.accepted / 1000.0) AS accepted,
  CASE WHEN m.expires < 253402300800000 THEN to_timestamp(m.expires / 1000.0) ELSE 'infinity' END AS expires,
  m.size, m.tenant, m.tags, e.recipients, m.handling, encode(m.head, 'escape') AS head
FROM SCHEMA.postroad_message m JOIN SCHEMA.postroad_entry e ON e.message = m.id;
INSERT INTO SCHEMA.postroad_meta VALUES ('version', 1), ('log_base', 0);
";

/// One statement is one transaction: the batch is there or it is not. Rows are inserted in the order of
/// their ids, so that two batches with the same ids wait for each other in one order. Returns the entries
/// that are new, in order, with their claims.
///
/// A number in the log is made of the transaction's own number and a counter: transactions that write at once
/// need not wait for each other, and a reader stops before the first that is still under way.
pub(super) const ENQUEUE: &str = "
WITH fresh AS (
  INSERT INTO SCHEMA.postroad_message
    (id, body, sender, handling, tenant, tags, accepted, expires, size, entries, keep, head)
  SELECT id, body, sender, handling, tenant, string_to_array(tags, ' '), accepted, expires, size, entries,
    keep, head
  FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[],
    $8::bigint[], $9::bigint[], $10::integer[], $11::bigint[], $12::bytea[])
    AS m(id, body, sender, handling, tenant, tags, accepted, expires, size, entries, keep, head)
  ORDER BY id
  ON CONFLICT (id) DO NOTHING
  RETURNING id
), octets AS (
  INSERT INTO SCHEMA.postroad_body (body, piece, octets)
  SELECT b.body, b.piece, b.octets
  FROM unnest($13::uuid[], $14::integer[], $15::bytea[]) AS b(body, piece, octets)
  JOIN fresh ON fresh.id = b.body
), logged AS (
  INSERT INTO SCHEMA.postroad_log (number, at, message, entry, kind, recipient, attempt, note)
  SELECT
    (SELECT value FROM SCHEMA.postroad_meta WHERE key = 'log_base')
      + (pg_current_xact_id()::text::bigint << 20) + (nextval('SCHEMA.postroad_log_order') & 1048575),
    l.at, l.message, l.entry, l.kind, l.recipient, l.attempt, l.note
  FROM (
    SELECT l.* FROM unnest($16::uuid[], $17::bigint[], $18::uuid[], $19::integer[], $20::text[], $21::text[],
      $22::integer[], $23::text[])
      WITH ORDINALITY AS l(owner, at, message, entry, kind, recipient, attempt, note, place)
    JOIN fresh ON fresh.id = l.owner
    ORDER BY l.place
  ) l
), stored AS (
  INSERT INTO SCHEMA.postroad_entry (message, entry, destination, queue, class, due, wake, claim, recipients)
  SELECT e.message, e.entry, e.destination, e.queue, e.class, e.due, greatest(e.due, $31::bigint),
    CASE WHEN $31::bigint IS NOT NULL THEN nextval('SCHEMA.postroad_claim') END, e.recipients
  FROM unnest($24::uuid[], $25::integer[], $26::text[], $27::text[], $28::smallint[], $29::bigint[],
    $30::text[]) AS e(message, entry, destination, queue, class, due, recipients)
  JOIN fresh ON fresh.id = e.message
  RETURNING message, entry, claim
)
SELECT message, entry, claim FROM stored ORDER BY message, entry";

/// Takes staged bodies for messages. Returns those that are still there.
pub(super) const TAKE_STAGED: &str =
    "DELETE FROM SCHEMA.postroad_staged WHERE body = ANY($1::uuid[]) RETURNING body";

/// Keys whose time is over stand for nothing any more.
pub(super) const DROP_KEYS: &str = "
DELETE FROM SCHEMA.postroad_key k USING unnest($1::text[], $2::text[], $3::bigint[]) AS n(tenant, name, now)
WHERE k.tenant = n.tenant AND k.name = n.name AND k.until <= n.now";

/// Remembers keys, in order, so that two batches wait for each other in one order. Returns the new ones.
pub(super) const INSERT_KEYS: &str = "
INSERT INTO SCHEMA.postroad_key (tenant, name, digest, message, until)
SELECT tenant, name, digest, message, until
FROM unnest($1::text[], $2::text[], $3::bytea[], $4::uuid[], $5::bigint[])
  AS k(tenant, name, digest, message, until)
ORDER BY tenant, name
ON CONFLICT (tenant, name) DO NOTHING
RETURNING tenant, name, message";

/// What keys stand for.
pub(super) const FIND_KEYS: &str = "
SELECT k.tenant, k.name, k.digest, k.message
FROM SCHEMA.postroad_key k JOIN unnest($1::text[], $2::text[]) AS n(tenant, name)
  ON k.tenant = n.tenant AND k.name = n.name";
