//! The statements. Ids and rows come in as JSON arrays, so every text is constant and every
//! statement serves a batch of any size.
//!
//! Four habits need an explanation. `AS MATERIALIZED` renders each row of an array once, not once per
//! column. `CROSS JOIN` fixes the order of a join: SQLite would otherwise
//! guess how long the arrays are. A page starts at `id >= coalesce(?1, '') AND id IS NOT ?1`: one
//! range of the key's index, whether there is a cursor or not. `LIMIT ?n + 0` hides from the planner that
//! the limit is a parameter: it would otherwise look at its value, and prepare the statement anew every
//! time.

use crate::store::columns::{object_columns, promise_columns, schedule_columns};

/// Whether the tags in a column contain all pairs of an object; none means that all rows do.
macro_rules! tags_contain {
    ($column:literal, $wanted:literal) => {
        concat!(
            "(",
            $wanted,
            " IS NULL OR NOT EXISTS (
                SELECT 1 FROM json_each(",
            $wanted,
            ") AS w
                WHERE NOT EXISTS (
                    SELECT 1 FROM json_each(",
            $column,
            ") AS h WHERE h.key = w.key AND h.value = w.value)))"
        )
    };
}

/// Whole objects: by id (?1), and all that processes hold acquired (?2).
pub const LOAD_OBJECTS: &str = concat!(
    "WITH wanted (id) AS (
        SELECT value FROM json_each(?1)
        UNION
        SELECT t.id FROM json_each(?2) AS w CROSS JOIN tasks AS t
            ON t.pid = w.value AND t.state = 'acquired'
    )
    SELECT ",
    object_columns!(),
    ", (SELECT json_group_array(c.awaiter) FROM callbacks AS c WHERE c.awaited = p.id),
        (SELECT json_group_array(json_array(l.address, l.enqueued_at, l.retry_at, l.attempts))
            FROM listeners AS l WHERE l.promise_id = p.id)
    FROM wanted AS w CROSS JOIN promises AS p ON p.id = w.id LEFT JOIN tasks AS t ON t.id = p.id"
);

/// Members of branches.
pub const LOAD_BRANCHES: &str = concat!(
    "SELECT ",
    promise_columns!(),
    " FROM json_each(?1) AS w CROSS JOIN promises AS p ON p.branch = w.value"
);

/// Schedules by id.
pub const LOAD_SCHEDULES: &str = concat!(
    "SELECT ",
    schedule_columns!(),
    " FROM json_each(?1) AS w CROSS JOIN schedules AS s ON s.id = w.value"
);

/// Objects by id, without callbacks and listeners.
pub const READ_OBJECTS: &str = concat!(
    "WITH wanted (id) AS (SELECT DISTINCT value FROM json_each(?1)) SELECT ",
    object_columns!(),
    ", '[]', '[]'
    FROM wanted AS w CROSS JOIN promises AS p ON p.id = w.id LEFT JOIN tasks AS t ON t.id = p.id"
);

/// A page of promises: after ?1, in state ?2 or due at ?3, with tags ?4, at most ?5.
pub const PROMISES: &str = concat!(
    "SELECT ",
    promise_columns!(),
    " FROM promises AS p
    WHERE p.id >= coalesce(?1, '') AND p.id IS NOT ?1
        AND (?2 IS NULL OR p.state = ?2 OR (p.state = 'pending' AND p.timeout_at <= ?3))
        AND ",
    tags_contain!("p.tags", "?4"),
    " ORDER BY p.id LIMIT ?5 + 0"
);

/// Ids in the ranges `[from, until]` of ?1, at most ?2.
pub const TREE_IDS: &str = "
    SELECT p.id FROM json_each(?1) AS w CROSS JOIN promises AS p
        ON p.id >= w.value ->> 0 AND p.id < w.value ->> 1
    LIMIT ?2 + 0";

/// A page of outlines: from ?1, after ?2, at most ?3, and before ?4 where a bound is wanted.
macro_rules! outlines {
    ($bound:literal) => {
        concat!(
            "SELECT p.id, p.state, p.timeout_at, p.created_at, p.settled_at, p.tags, '{}', '{}',
                coalesce(t.resumes, '[]')
            FROM promises AS p LEFT JOIN tasks AS t ON t.id = p.id AND t.resumes <> '[]'
            WHERE p.id >= max(?1, coalesce(?2, '')) AND p.id IS NOT ?2",
            $bound,
            " ORDER BY p.id LIMIT ?3 + 0"
        )
    };
}
pub const OUTLINES: &str = outlines!("");
pub const OUTLINES_UNTIL: &str = outlines!(" AND p.id < ?4");

/// A page of callbacks: after ?1 and ?2, at most ?3.
pub const CALLBACKS: &str = "
    SELECT awaited, awaiter FROM callbacks WHERE (awaited, awaiter) > (?1, ?2)
    ORDER BY awaited, awaiter LIMIT ?3 + 0";

/// A page of tasks: after ?1, in state ?2 or with a promise due at ?3, at most ?4.
pub const TASKS: &str = concat!(
    "SELECT ",
    object_columns!(),
    ", '[]', '[]'
    FROM tasks AS t CROSS JOIN promises AS p ON p.id = t.id
    WHERE t.id >= coalesce(?1, '') AND t.id IS NOT ?1
        AND (?2 IS NULL OR t.state = ?2 OR (p.state = 'pending' AND p.timeout_at <= ?3))
    ORDER BY t.id LIMIT ?4 + 0"
);

/// A page of schedules: after ?1, with tags ?2, at most ?3.
pub const SCHEDULES: &str = concat!(
    "SELECT ",
    schedule_columns!(),
    " FROM schedules AS s
    WHERE s.id >= coalesce(?1, '') AND s.id IS NOT ?1
        AND ",
    tags_contain!("s.promise_tags", "?2"),
    " ORDER BY s.id LIMIT ?3 + 0"
);

/// Deadlines up to ?1, at most ?2: (instant, kind, id, address). Every arm walks one index in order and
/// stops at the limit, but for messages in queues, which are gathered per queue.
macro_rules! due {
    ($queues:literal) => {
        concat!(
            "SELECT * FROM (
                SELECT timeout_at AS at, 0 AS kind, id, '' AS address FROM promises
                WHERE state = 'pending' AND armed = 1 AND timeout_at <= ?1
                ORDER BY timeout_at, id LIMIT ?2 + 0)
            UNION ALL SELECT * FROM (
                SELECT expires_at, 0, id, '' FROM tasks
                WHERE state = 'acquired' AND expires_at <= ?1
                ORDER BY expires_at, id LIMIT ?2 + 0)
            UNION ALL SELECT * FROM (
                SELECT retry_at, 0, id, '' FROM tasks
                WHERE state = 'pending' AND queue IS NULL AND retry_at <= ?1
                ORDER BY retry_at, id LIMIT ?2 + 0)
            UNION ALL SELECT * FROM (
                SELECT retry_at, 0, id, '' FROM tasks
                WHERE state = 'pending' AND queue ",
            $queues,
            " AND retry_at <= ?1
                ORDER BY retry_at, id LIMIT ?2 + 0)
            UNION ALL SELECT * FROM (
                SELECT next_run_at, 1, id, '' FROM schedules
                WHERE next_run_at <= ?1
                ORDER BY next_run_at, id LIMIT ?2 + 0)
            UNION ALL SELECT * FROM (
                SELECT retry_at, 2, promise_id, address FROM listeners
                WHERE enqueued_at IS NOT NULL AND queue IS NULL AND retry_at <= ?1
                ORDER BY retry_at, promise_id, address LIMIT ?2 + 0)
            UNION ALL SELECT * FROM (
                SELECT retry_at, 2, promise_id, address FROM listeners
                WHERE enqueued_at IS NOT NULL AND queue ",
            $queues,
            " AND retry_at <= ?1
                ORDER BY retry_at, promise_id, address LIMIT ?2 + 0)
            ORDER BY 1, 2, 3, 4 LIMIT ?2 + 0"
        )
    };
}

/// Deadlines of all queues.
pub const DUE_ALL: &str = due!("IS NOT NULL");

/// Deadlines of the queues ?3.
pub const DUE_ONLY: &str = due!("IN (SELECT value FROM json_each(?3))");

/// Executes waiting in queue ?1, offered by ?2, after (?3, ?4, ?5), at most ?6.
pub const WAITING_EXECUTES: &str = "
    SELECT t.retry_at, t.id, t.target, t.version, t.traceparent FROM tasks AS t
    WHERE t.state = 'pending' AND t.queue = ?1 AND t.offer_at <= ?2
        AND (t.retry_at, t.id, t.target) > (?3, ?4, ?5)
    ORDER BY t.retry_at, t.id LIMIT ?6 + 0";

/// Unblocks waiting in queue ?1, enqueued by ?2, after (?3, ?4, ?5), at most ?6.
pub const WAITING_UNBLOCKS: &str = concat!(
    "SELECT ",
    promise_columns!(),
    ", l.retry_at, l.address, l.attempts
    FROM listeners AS l CROSS JOIN promises AS p ON p.id = l.promise_id
    WHERE l.enqueued_at IS NOT NULL AND l.queue = ?1 AND l.enqueued_at <= ?2
        AND (l.retry_at, l.promise_id, l.address) > (?3, ?4, ?5)
    ORDER BY l.retry_at, l.promise_id, l.address LIMIT ?6 + 0"
);

/// The queues after ?1 that tasks wait in, at most ?2: a jump in the index for each.
pub const QUEUES_OF_EXECUTES: &str = "
    WITH RECURSIVE found (queue) AS (
        SELECT (SELECT queue FROM tasks WHERE state = 'pending' AND queue > ?1 ORDER BY queue LIMIT 1)
        UNION ALL
        SELECT (SELECT t.queue FROM tasks AS t WHERE t.state = 'pending' AND t.queue > found.queue
            ORDER BY t.queue LIMIT 1)
        FROM found WHERE queue IS NOT NULL
    )
    SELECT queue FROM found WHERE queue IS NOT NULL LIMIT ?2 + 0";

/// The queues after ?1 that unblocks wait in, at most ?2.
pub const QUEUES_OF_UNBLOCKS: &str = "
    WITH RECURSIVE found (queue) AS (
        SELECT (SELECT queue FROM listeners WHERE enqueued_at IS NOT NULL AND queue > ?1
            ORDER BY queue LIMIT 1)
        UNION ALL
        SELECT (SELECT l.queue FROM listeners AS l WHERE l.enqueued_at IS NOT NULL AND l.queue > found.queue
            ORDER BY l.queue LIMIT 1)
        FROM found WHERE queue IS NOT NULL
    )
    SELECT queue FROM found WHERE queue IS NOT NULL LIMIT ?2 + 0";

/// Of the first ?3 executes in queue ?1, those offered by ?2: (address, how many, since when).
pub const COUNT_EXECUTES: &str = "
    SELECT target, count(*), min(offer_at) FROM (
        SELECT target, offer_at FROM tasks WHERE state = 'pending' AND queue = ?1
        ORDER BY retry_at, id LIMIT ?3 + 0
    ) AS first WHERE offer_at <= ?2 GROUP BY target";

/// Of the first ?3 unblocks in queue ?1, those enqueued by ?2: (address, how many, since when).
pub const COUNT_UNBLOCKS: &str = "
    SELECT address, count(*), min(enqueued_at) FROM (
        SELECT address, enqueued_at FROM listeners WHERE enqueued_at IS NOT NULL AND queue = ?1
        ORDER BY retry_at, promise_id LIMIT ?3 + 0
    ) AS first WHERE enqueued_at <= ?2 GROUP BY address";

/// Of the first ?2 promises after ?1: (state, how many, the last of them).
pub const COUNT_PROMISES: &str = "
    SELECT state, count(*), max(id) FROM (
        SELECT id, state FROM promises WHERE id > ?1 ORDER BY id LIMIT ?2 + 0
    ) AS page GROUP BY state";

/// The same of tasks.
pub const COUNT_TASKS: &str = "
    SELECT state, count(*), max(id) FROM (
        SELECT id, state FROM tasks WHERE id > ?1 ORDER BY id LIMIT ?2 + 0
    ) AS page GROUP BY state";

/// The same of schedules.
pub const COUNT_SCHEDULES: &str = "
    SELECT 'active', count(*), max(id) FROM (
        SELECT id FROM schedules WHERE id > ?1 ORDER BY id LIMIT ?2 + 0
    ) AS page HAVING count(*) > 0";

/// Unblocks enqueued by ?1, oldest first, at most ?2.
pub const STALE_UNBLOCKS: &str = "
    SELECT promise_id, address FROM listeners
    WHERE enqueued_at IS NOT NULL AND enqueued_at <= ?1
    ORDER BY enqueued_at, promise_id, address LIMIT ?2 + 0";

/// All objects.
pub const DUMP_OBJECTS: &str = concat!(
    "SELECT ",
    object_columns!(),
    ", (SELECT json_group_array(c.awaiter) FROM callbacks AS c WHERE c.awaited = p.id),
        (SELECT json_group_array(json_array(l.address, l.enqueued_at, l.retry_at, l.attempts))
            FROM listeners AS l WHERE l.promise_id = p.id)
    FROM promises AS p LEFT JOIN tasks AS t ON t.id = p.id ORDER BY p.id"
);

/// All schedules.
pub const DUMP_SCHEDULES: &str = concat!(
    "SELECT ",
    schedule_columns!(),
    " FROM schedules AS s ORDER BY s.id"
);

/// How many rows each table has, in the order of [`crate::store::transfer::Counts`].
pub const COUNTS: &str = "
    SELECT (SELECT count(*) FROM promises), (SELECT count(*) FROM tasks),
        (SELECT count(*) FROM callbacks), (SELECT count(*) FROM listeners),
        (SELECT count(*) FROM schedules)";

/// Deletes everything, referring tables first.
pub const RESET: [&str; 5] = [
    "DELETE FROM callbacks",
    "DELETE FROM listeners",
    "DELETE FROM tasks",
    "DELETE FROM promises",
    "DELETE FROM schedules",
];

/// Rows `[id, state, timeout_at, created_at, settled_at, armed, branch, tags, value, param]`.
pub const INSERT_PROMISES: &str = "
    WITH r (row) AS MATERIALIZED (SELECT value FROM json_each(?))
    INSERT INTO promises (id, state, timeout_at, created_at, settled_at, armed, branch, tags, value, param)
    SELECT row ->> 0, row ->> 1, row ->> 2, row ->> 3, row ->> 4, row ->> 5, row ->> 6,
        row ->> 7, row ->> 8, row ->> 9
    FROM r";

/// Rows `[id, state, settled_at, armed, value]`.
pub const UPDATE_PROMISES: &str = "
    WITH r (row) AS MATERIALIZED (SELECT value FROM json_each(?))
    UPDATE promises SET state = c.state, settled_at = c.settled_at, armed = c.armed, value = c.value
    FROM (
        SELECT row ->> 0 AS id, row ->> 1 AS state, row ->> 2 AS settled_at,
            row ->> 3 AS armed, row ->> 4 AS value
        FROM r
    ) AS c
    WHERE promises.id = c.id";

/// Rows `[id, state, version, pid, ttl, expires_at, retry_at, offer_at, claimed_at, releases, target,
/// queue, resumes, traceparent]`. `WHERE true` tells SQLite's parser that `ON` does not belong to a join.
pub const UPSERT_TASKS: &str = "
    WITH r (row) AS MATERIALIZED (SELECT value FROM json_each(?))
    INSERT INTO tasks (id, state, version, pid, ttl, expires_at, retry_at, offer_at, claimed_at,
        releases, target, queue, resumes, traceparent)
    SELECT row ->> 0, row ->> 1, row ->> 2, row ->> 3, row ->> 4, row ->> 5, row ->> 6,
        row ->> 7, row ->> 8, row ->> 9, row ->> 10, row ->> 11, row ->> 12, row ->> 13
    FROM r WHERE true
    ON CONFLICT (id) DO UPDATE SET state = excluded.state, version = excluded.version,
        pid = excluded.pid, ttl = excluded.ttl, expires_at = excluded.expires_at,
        retry_at = excluded.retry_at, offer_at = excluded.offer_at,
        claimed_at = excluded.claimed_at, releases = excluded.releases,
        resumes = excluded.resumes";

/// Rows `[awaited, awaiter]`.
pub const INSERT_CALLBACKS: &str = "
    INSERT INTO callbacks (awaited, awaiter) SELECT value ->> 0, value ->> 1 FROM json_each(?)";

/// Rows `[awaited, awaiter]`.
pub const DELETE_CALLBACKS: &str = "
    DELETE FROM callbacks
    WHERE (awaited, awaiter) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?))";

/// Rows `[promise_id, address, queue, enqueued_at, retry_at, attempts]`.
pub const UPSERT_LISTENERS: &str = "
    WITH r (row) AS MATERIALIZED (SELECT value FROM json_each(?))
    INSERT INTO listeners (promise_id, address, queue, enqueued_at, retry_at, attempts)
    SELECT row ->> 0, row ->> 1, row ->> 2, row ->> 3, row ->> 4, row ->> 5
    FROM r WHERE true
    ON CONFLICT (promise_id, address) DO UPDATE SET enqueued_at = excluded.enqueued_at,
        retry_at = excluded.retry_at, attempts = excluded.attempts";

/// Rows `[promise_id, address]`.
pub const DELETE_LISTENERS: &str = "
    DELETE FROM listeners
    WHERE (promise_id, address) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?))";

/// Rows `[id, cron, promise_id, promise_timeout, created_at, next_run_at, last_run_at, promise_tags,
/// promise_param]`.
pub const UPSERT_SCHEDULES: &str = "
    WITH r (row) AS MATERIALIZED (SELECT value FROM json_each(?))
    INSERT INTO schedules (id, cron, promise_id, promise_timeout, created_at, next_run_at, last_run_at,
        promise_tags, promise_param)
    SELECT row ->> 0, row ->> 1, row ->> 2, row ->> 3, row ->> 4, row ->> 5, row ->> 6,
        row ->> 7, row ->> 8
    FROM r WHERE true
    ON CONFLICT (id) DO UPDATE SET cron = excluded.cron, promise_id = excluded.promise_id,
        promise_timeout = excluded.promise_timeout, created_at = excluded.created_at,
        next_run_at = excluded.next_run_at, last_run_at = excluded.last_run_at,
        promise_tags = excluded.promise_tags, promise_param = excluded.promise_param";

/// Rows are ids.
pub const DELETE_SCHEDULES: &str = "
    DELETE FROM schedules WHERE id IN (SELECT value FROM json_each(?))";

/// Rows are ids.
pub const DELETE_TASKS: &str = "
    DELETE FROM tasks WHERE id IN (SELECT value FROM json_each(?))";

/// Rows are ids.
pub const DELETE_PROMISES: &str = "
    DELETE FROM promises WHERE id IN (SELECT value FROM json_each(?))";
