//! All statements of the spool in one place, each with what it is for. The tables are in `schema`.
//!
//! `SCHEMA.` stands for the schema's quoted name. Times are milliseconds since 1970 as the spool was given
//! them, so that one that never comes can be written down; the view `postroad_mail` shows dates. Batches
//! come as one array a column: 64 rows in one statement cost the server a quarter of 64 statements.

/// How far the server's clock is ahead of the node's, which said its own time when it sent the statement; 0
/// when they agree to within 750 ms. So leases begin and end by one clock, the server's, whatever a node's
/// shows. What the statement took on its way counts as a difference, which makes leases longer and claims
/// later. Two nodes may still be 1.5 s apart unseen: less than the sixth of the shortest lease, 10 s, in which
/// no message is ended any more.
macro_rules! ahead {
    ($sent:literal) => {
        concat!(
            "(SELECT CASE WHEN abs(ms) < 750 THEN 0 ELSE ms END FROM (
    SELECT (extract(epoch FROM statement_timestamp()) * 1000)::bigint - ",
            $sent,
            "::bigint AS ms) clocks)"
        )
    };
}

/// Says, once in a transaction, that it may add to the log behind the number that was the last by then: readers
/// go no further before it has ended.
macro_rules! announced {
    () => {
        "announced AS MATERIALIZED (
  SELECT CASE WHEN coalesce(current_setting(name, true), '') = '' THEN
    pg_advisory_xact_lock_shared(log::integer,
      ((last_value - (NOT is_called)::integer) & 2147483647)::integer)::text || set_config(name, '1', true) END
  FROM SCHEMA.postroad_log_number, (
    SELECT log, 'postroad.log_' || log AS name FROM (SELECT 'SCHEMA.postroad_log'::regclass::oid AS log) l
  ) l
"
    };
}

/// One statement is one transaction: the batch is there or it is not. Rows are inserted in the order of
/// their ids, so that two batches with the same ids wait for each other in one order. Returns the entries
/// that are new, in order, with their claims. `IS TRUE` keeps the planner from making a join of the question
/// whether a message is new, which it would answer row by row with all the others.
///
/// Whoever writes to the log announces first from where on, by a lock that stops nobody and ends with the
/// transaction; see [`LOG_HORIZON`]. Once in a transaction, and a setting that ends with it says that it was
/// done: a host program may store thousands of messages in one, and the server's table of locks is small.
pub(super) const ENQUEUE: &str = concat!(
    "
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
  WHERE (b.body IN (SELECT id FROM fresh)) IS TRUE
), ",
    announced!(),
    "), logged AS (
  INSERT INTO SCHEMA.postroad_log (number, at, message, entry, kind, recipient, attempt, note)
  SELECT nextval('SCHEMA.postroad_log_number'), l.at, l.message, l.entry, l.kind, l.recipient, l.attempt, l.note
  FROM (
    SELECT l.* FROM unnest($16::uuid[], $17::bigint[], $18::uuid[], $19::integer[], $20::text[], $21::text[],
      $22::integer[], $23::text[])
      WITH ORDINALITY AS l(owner, at, message, entry, kind, recipient, attempt, note, place)
    JOIN fresh ON fresh.id = l.owner
    ORDER BY l.place
  ) l CROSS JOIN announced
), stored AS (
  INSERT INTO SCHEMA.postroad_entry (message, entry, destination, queue, class, due, wake, claim, recipients)
  SELECT e.message, e.entry, e.destination, e.queue, e.class, e.due, greatest(e.due, e.lease + ",
    ahead!("$32"),
    "),
    CASE WHEN e.lease IS NOT NULL THEN nextval('SCHEMA.postroad_claim') END, e.recipients
  FROM unnest($24::uuid[], $25::integer[], $26::text[], $27::text[], $28::smallint[], $29::bigint[],
    $30::text[], $31::bigint[]) AS e(message, entry, destination, queue, class, due, recipients, lease)
  WHERE (e.message IN (SELECT id FROM fresh)) IS TRUE
  RETURNING message, entry, claim
)
SELECT message, entry, claim FROM stored ORDER BY message, entry"
);

/// Takes staged bodies for messages. Returns those that are still there.
pub(super) const TAKE_STAGED: &str =
    "DELETE FROM SCHEMA.postroad_staged WHERE body = ANY($1::uuid[]) RETURNING body";

/// Remembers keys, in order, so that two batches wait for each other in one order, as long as is said: a
/// key that another transaction has stored and not committed, a host program's perhaps, must not keep a writer.
/// Returns the new ones.
pub(super) const INSERT_KEYS: &str = "
WITH patience AS MATERIALIZED (
  SELECT CASE WHEN $6::text IS NOT NULL THEN set_config('lock_timeout', $6, true) END
)
INSERT INTO SCHEMA.postroad_key (tenant, name, digest, message, until)
SELECT tenant, name, digest, message, until
FROM patience, unnest($1::text[], $2::text[], $3::bytea[], $4::uuid[], $5::bigint[])
  AS k(tenant, name, digest, message, until)
ORDER BY tenant, name
ON CONFLICT (tenant, name) DO NOTHING
RETURNING tenant, name, message";

/// What keys stand for.
pub(super) const FIND_KEYS: &str = "
SELECT k.tenant, k.name, k.digest, k.message
FROM SCHEMA.postroad_key k JOIN unnest($1::text[], $2::text[]) AS n(tenant, name)
  ON k.tenant = n.tenant AND k.name = n.name";

/// Takes entries that can be claimed, those that can the longest first. When one is due is said by the node's
/// clock, as it was when that was written, and whether its lease is over by the server's. What another node is taking at this
/// moment is passed over. The number of a claim comes from a sequence and not from the row, so that an entry
/// that comes into being again under the same name does not repeat one.
pub(super) const CLAIM: &str = concat!(
    "
WITH clock AS MATERIALIZED (
  SELECT ahead, least($3, $6) + ahead AS now FROM (SELECT ",
    ahead!("$6"),
    " AS ahead) c
), due AS (
  SELECT message, entry, wake FROM SCHEMA.postroad_entry
  WHERE queue = $1 AND class = $2 AND parked IS NULL AND wake <= greatest($3, (SELECT now FROM clock))
    AND wake <= CASE WHEN claim IS NULL THEN $3 ELSE (SELECT now FROM clock) END
  ORDER BY wake, message, entry
  LIMIT $4
  FOR UPDATE SKIP LOCKED
), taken AS (
  UPDATE SCHEMA.postroad_entry e
  SET claim = CASE WHEN e.mark LIKE 'hold %' THEN NULL ELSE nextval('SCHEMA.postroad_claim') END,
    parked = CASE WHEN e.mark LIKE 'hold %' THEN substr(e.mark, 6) END,
    mark = CASE WHEN e.mark IN ('cancel', 'cancelled') THEN 'cancelled' END,
    wake = greatest(e.due, $5::bigint + (SELECT ahead FROM clock))
  FROM due WHERE e.message = due.message AND e.entry = due.entry
  RETURNING e.message, e.entry, e.destination, e.queue, e.due, e.attempts, e.recipients, e.claim, e.mark,
    e.parked, due.wake AS woke
)
SELECT t.message, m.sender, m.handling, m.accepted, m.expires, t.destination, t.queue, t.due, t.attempts,
  t.recipients, t.entry, t.mark, t.parked, t.claim, m.head, m.size, m.entries
FROM taken t LEFT JOIN SCHEMA.postroad_message m ON m.id = t.message
ORDER BY t.woke, t.message, t.entry"
);

/// A row that cannot be read back is for a person to look at, and in nobody's way.
pub(super) const SET_ASIDE: &str = "
UPDATE SCHEMA.postroad_entry SET parked = $3, claim = NULL
FROM unnest($1::uuid[], $2::integer[]) AS d(id, at)
WHERE message = d.id AND entry = d.at AND parked IS NULL
RETURNING message, entry";

/// Makes leases last longer. Returns the tokens that were good.
pub(super) const EXTEND: &str = concat!(
    "
WITH held AS (
  SELECT e.message, e.entry FROM SCHEMA.postroad_entry e
  JOIN unnest($1::uuid[], $2::integer[], $3::bigint[]) AS t(message, entry, number)
    ON e.message = t.message AND e.entry = t.entry AND e.claim = t.number
  ORDER BY e.message, e.entry
  FOR UPDATE OF e
)
UPDATE SCHEMA.postroad_entry e SET wake = greatest(e.due, $4::bigint + ",
    ahead!("$5"),
    ")
FROM held h WHERE e.message = h.message AND e.entry = h.entry
RETURNING e.message, e.entry, e.claim"
);

/// The pieces of a message's body, from one on.
pub(super) const BODY: &str = "
SELECT b.octets FROM SCHEMA.postroad_message m JOIN SCHEMA.postroad_body b ON b.body = m.body
WHERE m.id = $1 AND b.piece >= $2 AND b.piece < $3 ORDER BY b.piece";

/// Settles entries that are claimed by the tokens given, each at most once in one statement, with all that
/// becomes true in this moment. Locks are taken on entries, then on messages, each in order. Returns what was
/// held, which of it was parked, what is left of messages, and which have an entry more: side by side, as
/// joining them here would compare each with all the others.
///
/// - An entry that is removed, and a report entry that comes into being, change how many its message has left;
///   with the last one go message and body.
/// - What is told is added to the message's report entry, which ends its claim: whoever reports what was there
///   does not know of it.
/// - Results of a message that keeps them are written as its entries go, and get their end with the last. Until
///   then each has one of its own, which counts where two nodes settle the last entries at once, and neither
///   sees what the other writes.
/// - A mark that was noted during the claim is carried out.
pub(super) const SETTLE: &str = concat!(
    "
WITH held AS (
  SELECT t.*, e.mark, e.class FROM SCHEMA.postroad_entry e
  JOIN unnest($1::uuid[], $2::integer[], $3::bigint[], $4::bigint[], $5::boolean[], $6::boolean[], $7::text[],
    $8::bigint[], $9::text[], $10::text[], $11::text[], $12::text[], $13::bigint[], $14::text[])
    WITH ORDINALITY AS t(message, entry, number, at, remove, attempted, queue, due, parked, recipients,
      tell_queue, tell_destination, tell_due, tell_recipients, place)
    ON e.message = t.message AND e.entry = t.entry AND e.claim = t.number
  ORDER BY e.message, e.entry
  FOR UPDATE OF e
), moved AS (
  UPDATE SCHEMA.postroad_entry e SET
    claim = NULL,
    queue = coalesce(h.queue, e.queue),
    attempts = e.attempts + h.attempted::integer,
    recipients = h.recipients,
    parked = CASE WHEN h.mark = 'cancel' THEN NULL
      WHEN h.due IS NOT NULL AND h.mark LIKE 'hold %' THEN substr(h.mark, 6) ELSE h.parked END,
    mark = CASE WHEN h.mark IN ('cancel', 'cancelled') THEN h.mark END,
    due = CASE WHEN h.mark = 'cancel' THEN 0 ELSE coalesce(h.due, e.due) END,
    wake = CASE WHEN h.mark = 'cancel' THEN 0 ELSE coalesce(h.due, e.due) END
  FROM held h WHERE NOT h.remove AND e.message = h.message AND e.entry = h.entry
  RETURNING e.message, e.entry, e.parked
), removed AS (
  DELETE FROM SCHEMA.postroad_entry e USING held h
  WHERE h.remove AND e.message = h.message AND e.entry = h.entry
  RETURNING e.message
), told AS (
  INSERT INTO SCHEMA.postroad_entry AS e (message, entry, destination, queue, class, due, wake, recipients)
  SELECT message, 1048575, (array_agg(tell_destination ORDER BY place))[1],
    (array_agg(tell_queue ORDER BY place))[1], min(class), min(tell_due), min(tell_due),
    string_agg(tell_recipients, E'\\n' ORDER BY place)
  FROM held WHERE tell_recipients IS NOT NULL GROUP BY message ORDER BY message
  ON CONFLICT (message, entry) DO UPDATE SET
    recipients = e.recipients || E'\\n' || excluded.recipients,
    due = least(e.due, excluded.due), wake = least(e.due, excluded.due), claim = NULL
  RETURNING message, xmax = 0 AS is_new
), change AS (
  SELECT message, sum(n)::integer AS n
  FROM (SELECT message, -1 AS n FROM removed UNION ALL SELECT message, 1 FROM told WHERE is_new) c
  GROUP BY message
), whole AS (
  SELECT m.id, m.body, m.size, m.keep, m.entries + c.n AS remain, m.entries
  FROM SCHEMA.postroad_message m JOIN change c ON c.message = m.id
  ORDER BY m.id
  FOR UPDATE OF m
), gone AS (
  DELETE FROM SCHEMA.postroad_message m USING whole w WHERE m.id = w.id AND w.remain <= 0
  RETURNING m.id
), fewer AS (
  UPDATE SCHEMA.postroad_message m SET entries = w.remain FROM whole w
  WHERE m.id = w.id AND w.remain > 0 AND w.remain <> w.entries
), octets AS (
  DELETE FROM SCHEMA.postroad_body b USING whole w WHERE b.body = w.body AND w.remain <= 0
), ending AS (
  SELECT w.id, max(h.at) + w.keep AS until FROM whole w JOIN held h ON h.message = w.id
  WHERE w.remain <= 0 AND w.keep IS NOT NULL GROUP BY w.id, w.keep
), ended AS (
  UPDATE SCHEMA.postroad_result r SET until = ending.until FROM ending WHERE r.message = ending.id
), kept AS (
  INSERT INTO SCHEMA.postroad_result (message, entry, recipients, until)
  SELECT h.message, h.entry, h.recipients, coalesce(ending.until, h.at + w.keep)
  FROM (SELECT id, keep FROM whole WHERE keep IS NOT NULL) w
  CROSS JOIN LATERAL (SELECT * FROM held h WHERE h.message = w.id AND h.remove AND h.entry <> 1048575 OFFSET 0) h
  LEFT JOIN ending ON ending.id = w.id
  ON CONFLICT (message, entry) DO NOTHING
), ",
    announced!(),
    "), logged AS (
  INSERT INTO SCHEMA.postroad_log (number, at, message, entry, kind, recipient, attempt, note)
  SELECT nextval('SCHEMA.postroad_log_number'), l.at, l.message, l.entry, l.kind, l.recipient, l.attempt, l.note
  FROM (
    SELECT l.* FROM unnest($15::uuid[], $16::integer[], $17::bigint[], $18::uuid[], $19::integer[], $20::text[],
      $21::text[], $22::integer[], $23::text[])
      WITH ORDINALITY AS l(of_message, of_entry, at, message, entry, kind, recipient, attempt, note, place)
    JOIN held h ON h.message = l.of_message AND h.entry = l.of_entry
    ORDER BY l.place
  ) l CROSS JOIN announced
)
SELECT message, entry, NULL::integer, NULL::bigint, false FROM held
UNION ALL SELECT message, entry, NULL, NULL, true FROM moved WHERE parked IS NOT NULL
UNION ALL SELECT id, NULL, remain, size, false FROM whole
UNION ALL SELECT message, NULL, NULL, NULL, true FROM told WHERE is_new"
);

/// The report entry of a message is due at once when nothing else is left of it. The message's row is locked,
/// so that nothing comes or goes meanwhile.
pub(super) const HASTEN: &str = "
UPDATE SCHEMA.postroad_entry e SET due = 0, wake = CASE WHEN e.claim IS NULL THEN 0 ELSE e.wake END
FROM (SELECT id FROM SCHEMA.postroad_message WHERE id = ANY($1::uuid[]) AND entries = 1 ORDER BY id FOR UPDATE) m
WHERE e.message = m.id AND e.entry = 1048575";

/// What waits in each class of each queue: one pass over the index, up to the limit.
pub(super) const QUEUES: &str = "
SELECT queue, class, count(*), min(wake) FROM SCHEMA.postroad_entry
WHERE parked IS NULL AND (queue, class) > ($1, $2)
GROUP BY queue, class ORDER BY queue, class LIMIT $3";

/// A page of entries for people.
pub(super) const SCAN: &str = "
SELECT m.id, m.sender, m.handling, m.accepted, m.expires, e.destination, e.queue, e.due, e.attempts,
  e.recipients, e.entry, e.mark, e.parked
FROM SCHEMA.postroad_entry e JOIN SCHEMA.postroad_message m ON m.id = e.message
WHERE (e.message, e.entry) > ($1, $2)
  AND ($3::uuid IS NULL OR e.message = $3)
  AND ($4::text IS NULL OR e.destination = $4)
  AND ($5::text IS NULL OR e.queue = $5)
  AND ($6::text IS NULL OR m.tenant = $6)
  AND ($7::text IS NULL OR $7 = ANY (m.tags))
  AND ($8::boolean IS NULL OR (e.parked IS NOT NULL) = $8)
ORDER BY e.message, e.entry LIMIT $9";

/// How the recipients of a message stand: in the entries that it has, and in those that are gone.
pub(super) const RESULTS: &str = "
SELECT e.entry, e.recipients, true, NULL::bigint
FROM SCHEMA.postroad_entry e JOIN SCHEMA.postroad_message m ON m.id = e.message
WHERE e.message = $1 AND m.keep IS NOT NULL
UNION ALL
SELECT entry, recipients, false, until FROM SCHEMA.postroad_result WHERE message = $1
ORDER BY 1";

/// The last number of the log that was given out. It is read before [`LOG_HORIZON`].
pub(super) const LOG_LAST: &str =
    "SELECT last_value - (NOT is_called)::integer FROM SCHEMA.postroad_log_number";

/// How far back from that number begins what is still under way, by what the writers have announced, of which
/// 31 bits are seen. What is not announced by now will have later numbers, or is committed.
pub(super) const LOG_HORIZON: &str = "
SELECT max(back) FROM (
  SELECT ($1::bigint - objid::bigint) & 2147483647 AS back FROM pg_locks
  WHERE locktype = 'advisory' AND objsubid = 2 AND classid = 'SCHEMA.postroad_log'::regclass::oid
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
) held WHERE back < 1073741824";

/// The log behind a number, up to another.
pub(super) const LOG: &str = "
SELECT number, at, message, entry, kind, recipient, attempt, note FROM SCHEMA.postroad_log
WHERE number > $1 AND number <= $2 ORDER BY number LIMIT $3";

/// Bodies that nobody names.
pub(super) const DROP_BODIES: &str = "DELETE FROM SCHEMA.postroad_body WHERE body = ANY($1::uuid[])";

/// The first piece of a staged body, under a name that says that no message has it yet.
pub(super) const STAGE_BODY: &str = "
WITH named AS (INSERT INTO SCHEMA.postroad_staged (body, touched) VALUES ($1, now()) RETURNING body)
INSERT INTO SCHEMA.postroad_body (body, piece, octets) SELECT body, 0, $2::bytea FROM named";

/// Another piece. Nothing is added to a body that was collected meanwhile.
pub(super) const PIECE: &str = "
WITH named AS (UPDATE SCHEMA.postroad_staged SET touched = now() WHERE body = $1 RETURNING body)
INSERT INTO SCHEMA.postroad_body (body, piece, octets) SELECT body, $2::integer, $3::bytea FROM named
RETURNING piece";

/// A staged body is given up, unless a message has it.
pub(super) const DROP_STAGED: &str = "
WITH dropped AS (DELETE FROM SCHEMA.postroad_staged WHERE body = $1 RETURNING body)
DELETE FROM SCHEMA.postroad_body b USING dropped d WHERE b.body = d.body";

/// Collects what nodes that died had staged: what was not added to for a day, by the server's clock. No sender
/// takes so long over one message.
pub(super) const COLLECT_STAGED: &str = "
WITH dropped AS (
  DELETE FROM SCHEMA.postroad_staged WHERE body IN (
    SELECT body FROM SCHEMA.postroad_staged WHERE touched < now() - interval '1 day'
    LIMIT 100 FOR UPDATE SKIP LOCKED
  ) RETURNING body
)
DELETE FROM SCHEMA.postroad_body b USING dropped d WHERE b.body = d.body";

/// Whether a message is there.
pub(super) const IS_THERE: &str = "SELECT 1 FROM SCHEMA.postroad_message WHERE id = $1";

/// Forgets keys. One whose message still waits is looked at again later.
pub(super) const PRUNE_KEYS: &str = "
WITH past AS (
  SELECT k.tenant, k.name, m.id IS NOT NULL AS waits
  FROM SCHEMA.postroad_key k LEFT JOIN SCHEMA.postroad_message m ON m.id = k.message
  WHERE k.until <= $1
  ORDER BY k.until LIMIT $3
  FOR UPDATE OF k SKIP LOCKED
), later AS (
  UPDATE SCHEMA.postroad_key k SET until = $2 FROM past p
  WHERE p.waits AND k.tenant = p.tenant AND k.name = p.name
), forgotten AS (
  DELETE FROM SCHEMA.postroad_key k USING past p
  WHERE NOT p.waits AND k.tenant = p.tenant AND k.name = p.name
)
SELECT count(*) FROM past";

/// Forgets results, those of a message together. Where it still waits they are looked at again later.
pub(super) const PRUNE_RESULTS: &str = "
WITH past AS (
  SELECT r.message, r.entry, EXISTS (SELECT FROM SCHEMA.postroad_message m WHERE m.id = r.message) AS waits
  FROM SCHEMA.postroad_result r
  WHERE r.until <= $1
    AND NOT EXISTS (SELECT FROM SCHEMA.postroad_result o WHERE o.message = r.message AND o.until > $1)
  ORDER BY r.until LIMIT $3
  FOR UPDATE OF r SKIP LOCKED
), later AS (
  UPDATE SCHEMA.postroad_result r SET until = $2 FROM past p
  WHERE p.waits AND r.message = p.message AND r.entry = p.entry
), forgotten AS (
  DELETE FROM SCHEMA.postroad_result r USING past p
  WHERE NOT p.waits AND r.message = p.message AND r.entry = p.entry
)
SELECT count(*) FROM past";

/// Forgets the beginning of the log: what is as old as this, and what is more than so many.
pub(super) const PRUNE_LOG: &str = "
WITH past AS (
  SELECT number FROM (
    SELECT number, at FROM SCHEMA.postroad_log ORDER BY number LIMIT $3
  ) first
  WHERE at <= $1
    OR number <= (SELECT number FROM SCHEMA.postroad_log ORDER BY number DESC OFFSET $2 LIMIT 1)
), forgotten AS (
  DELETE FROM SCHEMA.postroad_log l USING past p WHERE l.number = p.number
)
SELECT count(*) FROM past";

/// Makes the room of rows that are gone good for new ones, where nobody else is doing so.
pub(super) const VACUUM: &str = "
VACUUM (SKIP_LOCKED, TRUNCATE FALSE, PARALLEL 0)
  SCHEMA.postroad_entry, SCHEMA.postroad_message, SCHEMA.postroad_body";

/// How much there is, counted.
pub(super) const COUNT: &str = "
SELECT
  (SELECT count(*) FROM SCHEMA.postroad_message),
  (SELECT coalesce(sum(size), 0)::bigint FROM SCHEMA.postroad_message),
  (SELECT count(*) FROM SCHEMA.postroad_entry),
  (SELECT count(*) FROM SCHEMA.postroad_entry WHERE parked IS NOT NULL)";

/// The same without looking: as many rows as the server thinks, and the room that bodies take.
pub(super) const ESTIMATE: &str = "
SELECT greatest(m.reltuples, 0)::bigint, greatest(e.reltuples, 0)::bigint,
  (b.relpages + coalesce(t.relpages, 0)) * current_setting('block_size')::bigint
FROM pg_class m, pg_class e, pg_class b LEFT JOIN pg_class t ON t.oid = b.reltoastrelid
WHERE m.oid = 'SCHEMA.postroad_message'::regclass AND e.oid = 'SCHEMA.postroad_entry'::regclass
  AND b.oid = 'SCHEMA.postroad_body'::regclass";

/// How the server is. What keeps it from using the space of deleted rows again is the oldest snapshot that
/// somebody may still read with: of a transaction, a replica, or a prepared transaction.
pub(super) const HEALTH: &str = "
SELECT
  (SELECT max(age) FROM (
    SELECT age(backend_xmin) AS age FROM pg_stat_activity WHERE pid <> pg_backend_pid()
    UNION ALL SELECT age(xmin) FROM pg_replication_slots
    UNION ALL SELECT age(transaction) FROM pg_prepared_xacts
  ) a)::bigint,
  (SELECT coalesce(extract(epoch FROM max(now() - xact_start)) * 1000, 0)::bigint FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()),
  (SELECT coalesce(sum(n_dead_tup), 0)::bigint FROM pg_stat_user_tables
    WHERE relid IN ('SCHEMA.postroad_message'::regclass, 'SCHEMA.postroad_entry'::regclass,
      'SCHEMA.postroad_body'::regclass)),
  (SELECT sum(pg_total_relation_size(t))::bigint FROM unnest(ARRAY['SCHEMA.postroad_message'::regclass,
    'SCHEMA.postroad_entry'::regclass, 'SCHEMA.postroad_body'::regclass, 'SCHEMA.postroad_key'::regclass,
    'SCHEMA.postroad_result'::regclass, 'SCHEMA.postroad_log'::regclass]) t),
  (extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// The entries of a page that are meant, locked, and as they stand.
pub(super) const STANDING: &str = concat!(
    "
SELECT e.message, e.entry, e.queue, e.class, e.due, e.destination, e.parked, e.mark, m.expires,
  e.claim IS NOT NULL AND e.wake > $1 + ",
    ahead!("$12"),
    ", e.attempts, m.accepted, m.sender
FROM SCHEMA.postroad_entry e JOIN SCHEMA.postroad_message m ON m.id = e.message
WHERE (e.message, e.entry) > ($2, $3) AND (e.message, e.entry) <= ($4, $5)
  AND ($13::boolean OR e.entry <> 1048575)
  AND ($6::text IS NULL OR e.destination = $6)
  AND ($7::text IS NULL OR e.queue = $7)
  AND ($8::text IS NULL OR m.tenant = $8)
  AND ($9::text IS NULL OR $9 = ANY (m.tags))
  AND ($10::boolean IS NULL OR (e.parked IS NOT NULL) = $10)
  AND ($11::uuid IS NULL OR e.message = $11)
ORDER BY e.message, e.entry
FOR UPDATE OF e"
);

/// The last entry of a page, and how many it has.
pub(super) const PAGE: &str = "
SELECT message, entry, count(*) OVER () FROM (
  SELECT message, entry FROM SCHEMA.postroad_entry
  WHERE (message, entry) > ($1, $2) AND ($3::uuid IS NULL OR message = $3)
  ORDER BY message, entry LIMIT $4
) page ORDER BY message DESC, entry DESC LIMIT 1";

/// Changes entries. One whose lease has ended is claimed by nobody from then on: whoever had it is late.
pub(super) const ALTER: &str = "
UPDATE SCHEMA.postroad_entry e SET queue = a.queue, due = a.due, parked = a.parked, mark = a.mark,
  claim = CASE WHEN a.claimed THEN e.claim END,
  wake = CASE WHEN a.claimed THEN e.wake ELSE a.due END
FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::boolean[])
  AS a(message, entry, queue, due, parked, mark, claimed)
WHERE e.message = a.message AND e.entry = a.entry";
