//! The tables of the spool, as they are made and as a person finds them.
//!
//! `SCHEMA.` stands for the schema's quoted name, as in [`sql`](super::sql), where the statements are.

/// Written to `postroad_meta`. A change of the tables raises it and brings a migration.
pub(super) const VERSION: i64 = 1;

/// What is known of the tables, by name.
pub(super) const META: &str =
    "CREATE TABLE SCHEMA.postroad_meta (key text PRIMARY KEY, value bigint NOT NULL)";

/// The tables. Ids are made by the client in time order, so that new rows go to the end of every index and an
/// unknown outcome is settled by doing it again.
///
/// - `postroad_entry.due` is when an entry is to be tried; `wake` is when it can be claimed: `due`, or the end
///   of its lease. `claim` is the number of the claim while it is claimed. `mark` is what somebody wants done
///   with it: 'hold', with the reason behind a space, while it is claimed; 'cancel' until it is claimed the next
///   time, and 'cancelled' from then on.
/// - Bodies have a table of their own, so that claims and retries never touch them; they are not compressed,
///   since mail is read once or twice and most of its octets are packed already. A body of more than one
///   piece was staged; `postroad_staged` names those that no message has named yet.
/// - `postroad_message.entries` counts those that are left.
/// - A staged body that no message has named for a day is collected: see [`COLLECT_STAGED`](super::sql::COLLECT_STAGED).
/// - No foreign keys: each would lock the message's row for each entry, and every statement below changes
///   what belongs together.
///
/// A queue's rows die young: autovacuum is told to come after 1 % or 1,000 of them instead of 20 %, and not to
/// pause. `autovacuum_naptime` is the cluster's and a minute as a rule, so nodes clean up themselves: see
/// [`VACUUM`](super::sql::VACUUM).
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
CREATE SEQUENCE SCHEMA.postroad_log_number;
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
INSERT INTO SCHEMA.postroad_meta VALUES ('version', 1);
";
