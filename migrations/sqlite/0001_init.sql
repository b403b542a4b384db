-- Promises with their tasks and obligations, and schedules. Instants are milliseconds since the Unix
-- epoch. Text compares bytewise (BINARY, the default), which is the order of pages.

-- A rowid table: parameters and values can be megabytes, and the key's index stays dense without them.
-- Large columns come last, so that a filter on the others never reads their overflow pages.
CREATE TABLE promises (
    id         TEXT    NOT NULL PRIMARY KEY,
    state      TEXT    NOT NULL,
    timeout_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    settled_at INTEGER,
    -- 1 when the timeout fires without any request.
    armed      INTEGER NOT NULL,
    -- The tag resonate:branch, unless absent or empty.
    branch     TEXT,
    -- JSON object of strings.
    tags       TEXT    NOT NULL,
    -- JSON texts, kept byte for byte.
    value      TEXT    NOT NULL,
    param      TEXT    NOT NULL
) STRICT;

-- The next timeouts to fire.
CREATE INDEX promises_by_timeout ON promises (timeout_at, id) WHERE state = 'pending' AND armed = 1;

-- Preload: the members of a branch.
CREATE INDEX promises_by_branch ON promises (branch) WHERE branch IS NOT NULL;

-- The task of a targeted promise. Rows are small and always found by key or through an index that
-- holds the key: no rowid.
CREATE TABLE tasks (
    id         TEXT    NOT NULL PRIMARY KEY REFERENCES promises (id),
    state      TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    -- Exactly while acquired.
    pid        TEXT,
    ttl        INTEGER,
    expires_at INTEGER,
    claimed_at INTEGER,
    -- Exactly while pending.
    retry_at   INTEGER,
    offer_at   INTEGER,
    releases   INTEGER NOT NULL,
    -- The promise's target, and the queue that its messages wait in while no stream is open.
    target     TEXT    NOT NULL,
    queue      TEXT,
    -- JSON array of the ids of awaited promises that settled.
    resumes    TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

-- The next leases to expire.
CREATE INDEX tasks_by_lease ON tasks (expires_at, id) WHERE state = 'acquired';

-- Heartbeats: what a process holds.
CREATE INDEX tasks_by_pid ON tasks (pid, id) WHERE state = 'acquired';

-- The next dispatches to addresses that are always there.
CREATE INDEX tasks_by_retry ON tasks (retry_at, id) WHERE state = 'pending' AND queue IS NULL;

-- What waits for a stream to open, and the next dispatches to streams that are open.
CREATE INDEX tasks_by_queue ON tasks (queue, retry_at, id)
    WHERE state = 'pending' AND queue IS NOT NULL;

-- Awaiters to resume when a promise settles.
CREATE TABLE callbacks (
    awaited TEXT NOT NULL REFERENCES promises (id),
    awaiter TEXT NOT NULL,
    PRIMARY KEY (awaited, awaiter)
) STRICT, WITHOUT ROWID;

-- Who is to be told of a settlement; from the settlement on, the outbox of unblock messages.
CREATE TABLE listeners (
    promise_id  TEXT    NOT NULL REFERENCES promises (id),
    address     TEXT    NOT NULL,
    queue       TEXT,
    -- Both null while the promise is pending.
    enqueued_at INTEGER,
    retry_at    INTEGER,
    attempts    INTEGER NOT NULL,
    PRIMARY KEY (promise_id, address)
) STRICT, WITHOUT ROWID;

-- The next deliveries to addresses that are always there.
CREATE INDEX listeners_by_retry ON listeners (retry_at, promise_id, address)
    WHERE enqueued_at IS NOT NULL AND queue IS NULL;

-- What waits for a stream to open, and the next deliveries to streams that are open.
CREATE INDEX listeners_by_queue ON listeners (queue, retry_at, promise_id, address)
    WHERE enqueued_at IS NOT NULL AND queue IS NOT NULL;

-- The oldest messages, to be given up.
CREATE INDEX listeners_by_age ON listeners (enqueued_at, promise_id, address)
    WHERE enqueued_at IS NOT NULL;

CREATE TABLE schedules (
    id              TEXT    NOT NULL PRIMARY KEY,
    cron            TEXT    NOT NULL,
    -- Template of the ids of the promises it creates.
    promise_id      TEXT    NOT NULL,
    promise_timeout INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    next_run_at     INTEGER NOT NULL,
    last_run_at     INTEGER,
    -- JSON object of strings.
    promise_tags    TEXT    NOT NULL,
    -- JSON text, kept byte for byte.
    promise_param   TEXT    NOT NULL
) STRICT;

-- The next occurrences.
CREATE INDEX schedules_by_next_run ON schedules (next_run_at, id);
