//! The statements. Ids and rows come in as arrays, one per column, so every text is constant and every
//! statement serves a batch of any size. Every connection is told to use indexes only
//! (`connect::SETTINGS`).

use crate::store::columns::{object_columns, promise_columns, schedule_columns};

/// The callbacks and listeners of a promise `p`, as JSON arrays.
macro_rules! obligation_columns {
    () => {
        ", (SELECT json_agg(c.awaiter)::text FROM callbacks AS c WHERE c.awaited = p.id),
        (SELECT json_agg(json_build_array(l.address, l.enqueued_at, l.retry_at, l.attempts))::text
            FROM listeners AS l WHERE l.promise_id = p.id)"
    };
}

/// Whether the JSON object in a column holds all members of an array of `"name":"value"`. A quote inside
/// a string is escaped, so no string holds one of them.
macro_rules! tags_contain {
    ($column:literal, $wanted:literal) => {
        concat!(
            "NOT EXISTS (SELECT 1 FROM unnest(",
            $wanted,
            "::text[]) AS w (member) WHERE strpos(",
            $column,
            ", w.member) = 0)"
        )
    };
}

/// Whole objects by id, with what they must still be at the commit.
pub const LOAD_OBJECTS: &str = concat!(
    "SELECT ",
    object_columns!(),
    obligation_columns!(),
    ", p.rev, t.rev
    FROM promises AS p LEFT JOIN tasks AS t ON t.id = p.id WHERE p.id = ANY($1::text[])"
);

/// All that processes hold acquired.
pub const HELD_BY: &str = "
    SELECT t.id FROM unnest($1::text[]) AS w (pid) JOIN tasks AS t
        ON t.pid = w.pid AND t.state = 'acquired'";

/// Members of branches.
pub const LOAD_BRANCHES: &str = concat!(
    "SELECT ",
    promise_columns!(),
    " FROM unnest($1::text[]) AS w (branch) JOIN promises AS p ON p.branch = w.branch"
);

/// Schedules by id, with what they must still be at the commit.
pub const LOAD_SCHEDULES: &str = concat!(
    "SELECT ",
    schedule_columns!(),
    ", s.rev FROM unnest($1::text[]) AS w (id) JOIN schedules AS s ON s.id = w.id"
);

/// Objects by id, without callbacks and listeners.
pub const READ_OBJECTS: &str = concat!(
    "SELECT ",
    object_columns!(),
    ", NULL, NULL
    FROM promises AS p LEFT JOIN tasks AS t ON t.id = p.id WHERE p.id = ANY($1::text[])"
);

/// A page of promises: after $1, in state $2 or due at $3, with tags $4, at most $5.
pub const PROMISES: &str = concat!(
    "SELECT ",
    promise_columns!(),
    " FROM promises AS p
    WHERE p.id >= coalesce($1, '') AND p.id IS DISTINCT FROM $1
        AND ($2::text IS NULL OR p.state = $2 OR (p.state = 'pending' AND p.timeout_at <= $3))
        AND ",
    tags_contain!("p.tags", "$4"),
    " ORDER BY p.id LIMIT $5"
);

/// Ids in the ranges from $1 until $2, at most $3.
pub const TREE_IDS: &str = "
    SELECT p.id FROM unnest($1::text[], $2::text[]) AS w (from_id, until_id) JOIN promises AS p
        ON p.id >= w.from_id AND p.id < w.until_id
    LIMIT $3";

/// A page of outlines: from $1, after $2, at most $3, and before $4 where a bound is wanted.
macro_rules! outlines {
    ($bound:literal) => {
        concat!(
            "SELECT p.id, p.state, p.timeout_at, p.created_at, p.settled_at, p.tags, '{}', '{}',
                coalesce(t.resumes, '[]')
            FROM promises AS p LEFT JOIN tasks AS t ON t.id = p.id AND t.resumes <> '[]'
            WHERE p.id >= $1 AND p.id >= coalesce($2, '') AND p.id IS DISTINCT FROM $2",
            $bound,
            " ORDER BY p.id LIMIT $3"
        )
    };
}
pub const OUTLINES: &str = outlines!("");
pub const OUTLINES_UNTIL: &str = outlines!(" AND p.id < $4");

/// A page of callbacks: after $1 and $2, at most $3.
pub const CALLBACKS: &str = "
    SELECT awaited, awaiter FROM callbacks WHERE (awaited, awaiter) > ($1, $2)
    ORDER BY awaited, awaiter LIMIT $3";

/// A page of tasks: after $1, in state $2 or with a promise due at $3, at most $4.
pub const TASKS: &str = concat!(
    "SELECT ",
    object_columns!(),
    ", NULL, NULL
    FROM tasks AS t JOIN promises AS p ON p.id = t.id
    WHERE t.id >= coalesce($1, '') AND t.id IS DISTINCT FROM $1
        AND ($2::text IS NULL OR t.state = $2 OR (p.state = 'pending' AND p.timeout_at <= $3))
    ORDER BY t.id LIMIT $4"
);

/// A page of schedules: after $1, with tags $2, at most $3.
pub const SCHEDULES: &str = concat!(
    "SELECT ",
    schedule_columns!(),
    " FROM schedules AS s
    WHERE s.id >= coalesce($1, '') AND s.id IS DISTINCT FROM $1
        AND ",
    tags_contain!("s.promise_tags", "$2"),
    " ORDER BY s.id LIMIT $3"
);

/// Deadlines up to $1, at most $2: (instant, kind, id, address). Every arm walks one index in order and
/// stops at the limit, but for messages in queues, which are gathered per queue.
macro_rules! due {
    ($queues:literal) => {
        concat!(
            "SELECT at, kind, id, address FROM (
            (SELECT timeout_at AS at, 0::bigint AS kind, id, '' AS address FROM promises
                WHERE state = 'pending' AND armed AND timeout_at <= $1
                ORDER BY timeout_at, id LIMIT $2)
            UNION ALL
            (SELECT expires_at, 0, id, '' FROM tasks
                WHERE state = 'acquired' AND expires_at <= $1
                ORDER BY expires_at, id LIMIT $2)
            UNION ALL
            (SELECT retry_at, 0, id, '' FROM tasks
                WHERE state = 'pending' AND queue IS NULL AND retry_at <= $1
                ORDER BY retry_at, id LIMIT $2)
            UNION ALL
            (SELECT retry_at, 0, id, '' FROM tasks
                WHERE state = 'pending' AND queue ",
            $queues,
            " AND retry_at <= $1
                ORDER BY retry_at, id LIMIT $2)
            UNION ALL
            (SELECT next_run_at, 1, id, '' FROM schedules
                WHERE next_run_at <= $1
                ORDER BY next_run_at, id LIMIT $2)
            UNION ALL
            (SELECT retry_at, 2, promise_id, address FROM listeners
                WHERE enqueued_at IS NOT NULL AND queue IS NULL AND retry_at <= $1
                ORDER BY retry_at, promise_id, address LIMIT $2)
            UNION ALL
            (SELECT retry_at, 2, promise_id, address FROM listeners
                WHERE enqueued_at IS NOT NULL AND queue ",
            $queues,
            " AND retry_at <= $1
                ORDER BY retry_at, promise_id, address LIMIT $2)
            ) AS d (at, kind, id, address)
            ORDER BY at, kind, id, address LIMIT $2"
        )
    };
}

/// Deadlines of all queues.
pub const DUE_ALL: &str = due!("IS NOT NULL");

/// Deadlines of the queues $3.
pub const DUE_ONLY: &str = due!("= ANY($3::text[])");

/// Executes waiting in queue $1, offered by $2, after ($3, $4, $5), at most $6.
pub const WAITING_EXECUTES: &str = "
    SELECT t.retry_at, t.id, t.target, t.version, t.traceparent FROM tasks AS t
    WHERE t.state = 'pending' AND t.queue = $1 AND t.offer_at <= $2
        AND (t.retry_at, t.id, t.target) > ($3, $4::text, $5::text)
    ORDER BY t.retry_at, t.id LIMIT $6";

/// Unblocks waiting in queue $1, enqueued by $2, after ($3, $4, $5), at most $6.
pub const WAITING_UNBLOCKS: &str = concat!(
    "SELECT ",
    promise_columns!(),
    ", l.retry_at, l.address, l.attempts
    FROM listeners AS l JOIN promises AS p ON p.id = l.promise_id
    WHERE l.enqueued_at IS NOT NULL AND l.queue = $1 AND l.enqueued_at <= $2
        AND (l.retry_at, l.promise_id, l.address) > ($3, $4::text, $5::text)
    ORDER BY l.retry_at, l.promise_id, l.address LIMIT $6"
);

/// The queues after $1 that tasks wait in, at most $2: a jump in the index for each.
pub const QUEUES_OF_EXECUTES: &str = "
    WITH RECURSIVE found (queue) AS (
        SELECT (SELECT queue FROM tasks WHERE state = 'pending' AND queue > $1 ORDER BY queue LIMIT 1)
        UNION ALL
        SELECT (SELECT t.queue FROM tasks AS t WHERE t.state = 'pending' AND t.queue > found.queue
            ORDER BY t.queue LIMIT 1)
        FROM found WHERE queue IS NOT NULL
    )
    SELECT queue FROM found WHERE queue IS NOT NULL LIMIT $2";

/// The queues after $1 that unblocks wait in, at most $2.
pub const QUEUES_OF_UNBLOCKS: &str = "
    WITH RECURSIVE found (queue) AS (
        SELECT (SELECT queue FROM listeners WHERE enqueued_at IS NOT NULL AND queue > $1
            ORDER BY queue LIMIT 1)
        UNION ALL
        SELECT (SELECT l.queue FROM listeners AS l WHERE l.enqueued_at IS NOT NULL AND l.queue > found.queue
            ORDER BY l.queue LIMIT 1)
        FROM found WHERE queue IS NOT NULL
    )
    SELECT queue FROM found WHERE queue IS NOT NULL LIMIT $2";

/// Of the first $3 executes in queue $1, those offered by $2: (address, how many, since when).
pub const COUNT_EXECUTES: &str = "
    SELECT target, count(*), min(offer_at) FROM (
        SELECT target, offer_at FROM tasks WHERE state = 'pending' AND queue = $1
        ORDER BY retry_at, id LIMIT $3
    ) AS first WHERE offer_at <= $2 GROUP BY target";

/// Of the first $3 unblocks in queue $1, those enqueued by $2: (address, how many, since when).
pub const COUNT_UNBLOCKS: &str = "
    SELECT address, count(*), min(enqueued_at) FROM (
        SELECT address, enqueued_at FROM listeners WHERE enqueued_at IS NOT NULL AND queue = $1
        ORDER BY retry_at, promise_id LIMIT $3
    ) AS first WHERE enqueued_at <= $2 GROUP BY address";

/// Of the first $2 promises after $1: (state, how many, the last of them).
pub const COUNT_PROMISES: &str = "
    SELECT state, count(*), max(id) FROM (
        SELECT id, state FROM promises WHERE id > $1 ORDER BY id LIMIT $2
    ) AS page GROUP BY state";

/// The same of tasks.
pub const COUNT_TASKS: &str = "
    SELECT state, count(*), max(id) FROM (
        SELECT id, state FROM tasks WHERE id > $1 ORDER BY id LIMIT $2
    ) AS page GROUP BY state";

/// The same of schedules.
pub const COUNT_SCHEDULES: &str = "
    SELECT 'active', count(*), max(id) FROM (
        SELECT id FROM schedules WHERE id > $1 ORDER BY id LIMIT $2
    ) AS page HAVING count(*) > 0";

/// Unblocks enqueued by $1, oldest first, at most $2.
pub const STALE_UNBLOCKS: &str = "
    SELECT promise_id, address FROM listeners
    WHERE enqueued_at IS NOT NULL AND enqueued_at <= $1
    ORDER BY enqueued_at, promise_id, address LIMIT $2";

/// All objects.
pub const DUMP_OBJECTS: &str = concat!(
    "SELECT ",
    object_columns!(),
    obligation_columns!(),
    " FROM promises AS p LEFT JOIN tasks AS t ON t.id = p.id ORDER BY p.id"
);

/// All schedules.
pub const DUMP_SCHEDULES: &str = concat!(
    "SELECT ",
    schedule_columns!(),
    " FROM schedules AS s ORDER BY s.id"
);

/// Keeps everybody else out until the end of the transaction.
pub const LOCK_TABLES: &str = "
    LOCK TABLE promises, tasks, callbacks, listeners, schedules IN ACCESS EXCLUSIVE MODE";

/// How many rows each table has, in the order of [`crate::store::transfer::Counts`].
pub const COUNTS: &str = "
    SELECT (SELECT count(*) FROM promises), (SELECT count(*) FROM tasks),
        (SELECT count(*) FROM callbacks), (SELECT count(*) FROM listeners),
        (SELECT count(*) FROM schedules)";

/// Deletes everything. Not `TRUNCATE`: readers go on seeing what was there when they began.
pub const RESET: &str = "
    WITH c AS (DELETE FROM callbacks), l AS (DELETE FROM listeners), t AS (DELETE FROM tasks),
        p AS (DELETE FROM promises)
    DELETE FROM schedules";

/// Sends texts $2 on the channel $1.
pub const NOTIFY: &str = "
    SELECT pg_notify($1, t.text) FROM unnest($2::text[]) WITH ORDINALITY AS t (text, place)
    ORDER BY t.place";

/// Whether the server takes writes: a standby does not.
pub const IS_STANDBY: &str = "SELECT pg_is_in_recovery()";

/// Milliseconds since the Unix epoch.
pub const CLOCK: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// Waits for a commit under way that inserts any of the promises $1. To be rolled back.
pub const AWAIT_INSERTS: &str = "
    INSERT INTO promises (id, rev, state, timeout_at, created_at, armed, tags, value, param)
    SELECT id, 0, 'pending', 0, 0, false, '{}', '{}', '{}' FROM unnest($1::text[]) AS r (id)
    ORDER BY id ON CONFLICT DO NOTHING";

/// Whether a commit that wrote `rev` $1 happened: one of the rows it changed still has it. Waits for
/// the transaction if it still runs, as far as it has locked rows that were there before.
pub const HAS_COMMITTED: &str = "
    WITH p AS MATERIALIZED (
        SELECT rev FROM promises WHERE id = ANY($2::text[]) ORDER BY id FOR SHARE),
    t AS MATERIALIZED (SELECT rev FROM tasks WHERE id = ANY($2::text[]) ORDER BY id FOR SHARE),
    s AS MATERIALIZED (SELECT rev FROM schedules WHERE id = ANY($3::text[]) ORDER BY id FOR SHARE)
    SELECT EXISTS (SELECT 1 FROM p WHERE rev = $1) OR EXISTS (SELECT 1 FROM t WHERE rev = $1)
        OR EXISTS (SELECT 1 FROM s WHERE rev = $1)
        OR ($4::bool AND NOT EXISTS (SELECT 1 FROM s) AND NOT EXISTS (SELECT 1 FROM p))";

/// A commit is one statement, put together in [`super::encode`] of these and of [`write`]: locks what
/// the batch was decided on, in one order for all batches, and finds out whether it is still the same.
/// A `?` is the next argument.
pub mod held {
    /// Promises as they were, tasks, schedules.
    macro_rules! as_they_were {
        ($verdict:literal) => {
            concat!(
                "
        held_promises AS MATERIALIZED (
            SELECT p.id FROM unnest(?::text[], ?::bigint[]) AS w (id, rev)
                JOIN promises AS p ON p.id = w.id AND p.rev = w.rev
            ORDER BY p.id FOR UPDATE OF p),
        held_tasks AS MATERIALIZED (
            SELECT t.id FROM unnest(?::text[], ?::bigint[]) AS w (id, rev)
                JOIN tasks AS t ON t.id = w.id AND t.rev = w.rev
            ORDER BY t.id FOR UPDATE OF t),
        held_schedules AS MATERIALIZED (
            SELECT s.id FROM unnest(?::text[], ?::bigint[]) AS w (id, rev)
                JOIN schedules AS s ON s.id = w.id AND s.rev = w.rev
            ORDER BY s.id FOR UPDATE OF s),
        ",
                $verdict,
                " (is_current) AS MATERIALIZED (
            SELECT (SELECT count(*) FROM held_promises) = cardinality($2)
                AND (SELECT count(*) FROM held_tasks) = cardinality($4)
                AND (SELECT count(*) FROM held_schedules) = cardinality($6)
                AND $1::bigint IS NOT NULL)"
            )
        };
    }
    pub const ALL: &str = as_they_were!("verdict");

    /// The same, to be followed by [`TREES`].
    pub const ALL_BUT_TREES: &str = as_they_were!("held");

    /// In the ranges there are no more promises than so many, and none has one of these ids.
    pub const TREES: &str = "
        verdict (is_current) AS MATERIALIZED (
            SELECT is_current
                AND (SELECT count(DISTINCT p.id)
                    FROM unnest(?::text[], ?::text[]) AS w (from_id, until_id)
                    JOIN promises AS p ON p.id >= w.from_id AND p.id < w.until_id) = ?::bigint
                AND NOT EXISTS (SELECT 1 FROM promises WHERE id = ANY(?::text[]))
            FROM held)";

    /// For a batch that was decided on nothing: new promises.
    pub const NOTHING: &str = "
        verdict (is_current) AS MATERIALIZED (SELECT $1::bigint IS NOT NULL)";
}

/// What a commit changes, in the order of [`crate::store::rows::RowChanges`]. A `?` is the next argument,
/// `$1` the batch's `rev`.
pub mod write {
    /// New promises.
    pub const INSERT_PROMISES: &str = "
        promises_inserted AS (
            INSERT INTO promises
                (id, rev, state, timeout_at, created_at, settled_at, armed, branch, tags, value, param)
            SELECT r.id, $1, r.state, r.timeout_at, r.created_at, r.settled_at, r.armed, r.branch,
                r.tags, r.value, r.param
            FROM unnest(?::text[], ?::text[], ?::bigint[], ?::bigint[], ?::bigint[], ?::bool[],
                    ?::text[], ?::text[], ?::text[], ?::text[])
                AS r (id, state, timeout_at, created_at, settled_at, armed, branch, tags, value, param)
            WHERE (SELECT is_current FROM verdict))";

    /// Promises of which a mutable column changed.
    pub const UPDATE_PROMISES: &str = "
        promises_updated AS (
            UPDATE promises AS p SET rev = $1, state = r.state, settled_at = r.settled_at,
                armed = r.armed, value = r.value
            FROM unnest(?::text[], ?::text[], ?::bigint[], ?::bool[], ?::text[])
                AS r (id, state, settled_at, armed, value)
            WHERE p.id = r.id AND (SELECT is_current FROM verdict))";

    /// Promises of which only callbacks or listeners changed.
    pub const TOUCH_PROMISES: &str = "
        promises_touched AS (
            UPDATE promises AS p SET rev = $1 FROM unnest(?::text[]) AS r (id)
            WHERE p.id = r.id AND (SELECT is_current FROM verdict))";

    /// Tasks that are new or changed.
    pub const UPSERT_TASKS: &str = "
        tasks_upserted AS (
            INSERT INTO tasks AS t (id, rev, state, version, pid, ttl, expires_at, claimed_at, retry_at,
                offer_at, releases, target, queue, resumes, traceparent)
            SELECT r.id, $1, r.state, r.version, r.pid, r.ttl, r.expires_at, r.claimed_at, r.retry_at,
                r.offer_at, r.releases, r.target, r.queue, r.resumes, r.traceparent
            FROM unnest(?::text[], ?::text[], ?::bigint[], ?::text[], ?::bigint[], ?::bigint[],
                    ?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[], ?::text[], ?::text[], ?::text[],
                    ?::text[])
                AS r (id, state, version, pid, ttl, expires_at, claimed_at, retry_at, offer_at,
                    releases, target, queue, resumes, traceparent)
            WHERE (SELECT is_current FROM verdict)
            ON CONFLICT (id) DO UPDATE SET rev = excluded.rev, state = excluded.state,
                version = excluded.version, pid = excluded.pid, ttl = excluded.ttl,
                expires_at = excluded.expires_at, claimed_at = excluded.claimed_at,
                retry_at = excluded.retry_at, offer_at = excluded.offer_at,
                releases = excluded.releases, resumes = excluded.resumes)";

    /// New callbacks.
    pub const INSERT_CALLBACKS: &str = "
        callbacks_inserted AS (
            INSERT INTO callbacks (awaited, awaiter)
            SELECT r.awaited, r.awaiter FROM unnest(?::text[], ?::text[]) AS r (awaited, awaiter)
            WHERE (SELECT is_current FROM verdict))";

    /// Consumed callbacks.
    pub const DELETE_CALLBACKS: &str = "
        callbacks_deleted AS (
            DELETE FROM callbacks AS c
            USING unnest(?::text[], ?::text[]) AS r (awaited, awaiter)
            WHERE c.awaited = r.awaited AND c.awaiter = r.awaiter
                AND (SELECT is_current FROM verdict))";

    /// Listeners that are new or changed.
    pub const UPSERT_LISTENERS: &str = "
        listeners_upserted AS (
            INSERT INTO listeners AS l (promise_id, address, queue, enqueued_at, retry_at, attempts)
            SELECT r.promise_id, r.address, r.queue, r.enqueued_at, r.retry_at, r.attempts
            FROM unnest(?::text[], ?::text[], ?::text[], ?::bigint[], ?::bigint[], ?::bigint[])
                AS r (promise_id, address, queue, enqueued_at, retry_at, attempts)
            WHERE (SELECT is_current FROM verdict)
            ON CONFLICT (promise_id, address) DO UPDATE SET enqueued_at = excluded.enqueued_at,
                retry_at = excluded.retry_at, attempts = excluded.attempts)";

    /// Listeners that were told, or given up.
    pub const DELETE_LISTENERS: &str = "
        listeners_deleted AS (
            DELETE FROM listeners AS l
            USING unnest(?::text[], ?::text[]) AS r (promise_id, address)
            WHERE l.promise_id = r.promise_id AND l.address = r.address
                AND (SELECT is_current FROM verdict))";

    /// New schedules.
    pub const INSERT_SCHEDULES: &str = "
        schedules_inserted AS (
            INSERT INTO schedules (id, rev, cron, promise_id, promise_timeout, created_at, next_run_at,
                last_run_at, promise_tags, promise_param)
            SELECT r.id, $1, r.cron, r.promise_id, r.promise_timeout, r.created_at, r.next_run_at,
                r.last_run_at, r.promise_tags, r.promise_param
            FROM unnest(?::text[], ?::text[], ?::text[], ?::bigint[], ?::bigint[], ?::bigint[],
                    ?::bigint[], ?::text[], ?::text[])
                AS r (id, cron, promise_id, promise_timeout, created_at, next_run_at, last_run_at,
                    promise_tags, promise_param)
            WHERE (SELECT is_current FROM verdict))";

    /// Changed schedules.
    pub const UPDATE_SCHEDULES: &str = "
        schedules_updated AS (
            UPDATE schedules AS s SET rev = $1, cron = r.cron, promise_id = r.promise_id,
                promise_timeout = r.promise_timeout, created_at = r.created_at,
                next_run_at = r.next_run_at, last_run_at = r.last_run_at,
                promise_tags = r.promise_tags, promise_param = r.promise_param
            FROM unnest(?::text[], ?::text[], ?::text[], ?::bigint[], ?::bigint[], ?::bigint[],
                    ?::bigint[], ?::text[], ?::text[])
                AS r (id, cron, promise_id, promise_timeout, created_at, next_run_at, last_run_at,
                    promise_tags, promise_param)
            WHERE s.id = r.id AND (SELECT is_current FROM verdict))";

    /// Deleted schedules.
    pub const DELETE_SCHEDULES: &str = "
        schedules_deleted AS (
            DELETE FROM schedules AS s USING unnest(?::text[]) AS r (id)
            WHERE s.id = r.id AND (SELECT is_current FROM verdict))";

    /// Tasks of deleted promises.
    pub const DELETE_TASKS: &str = "
        tasks_deleted AS (
            DELETE FROM tasks AS t USING unnest(?::text[]) AS r (id)
            WHERE t.id = r.id AND (SELECT is_current FROM verdict))";

    /// Deleted promises.
    pub const DELETE_PROMISES: &str = "
        promises_deleted AS (
            DELETE FROM promises AS p USING unnest(?::text[]) AS r (id)
            WHERE p.id = r.id AND (SELECT is_current FROM verdict))";
}
