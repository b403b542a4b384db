-- Promises with their tasks and obligations, and schedules. Instants are milliseconds since the Unix
-- epoch. Ids compare bytewise (COLLATE "C"), whatever the locale: it is the order of pages.
--
-- `rev` is a random number that every change of a row replaces. A commit applies only if everything it
-- was decided on still has the `rev` that was read. A promise's `rev` covers its callbacks and listeners
-- too; so no foreign keys: nothing is written that was not read with what it refers to.

-- Which servers may use this schema: those that know at least this migration. A migration that older
-- servers cannot live with raises it.
CREATE TABLE compatibility (
    oldest_schema BIGINT NOT NULL
);
INSERT INTO compatibility (oldest_schema) VALUES (1);

CREATE TABLE promises (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    rev        BIGINT  NOT NULL,
    state      TEXT COLLATE "C" NOT NULL,
    timeout_at BIGINT  NOT NULL,
    created_at BIGINT  NOT NULL,
    settled_at BIGINT,
    -- Whether the timeout fires without any request.
    armed      BOOLEAN NOT NULL,
    -- The tag resonate:branch, unless absent or empty.
    branch     TEXT COLLATE "C",
    -- JSON object of strings.
    tags       TEXT COLLATE "C" NOT NULL,
    -- JSON texts, kept byte for byte.
    value      TEXT COLLATE "C" NOT NULL,
    param      TEXT COLLATE "C" NOT NULL
);

-- The next timeouts to fire.
CREATE INDEX promises_by_timeout ON promises (timeout_at, id) WHERE state = 'pending' AND armed;

-- Preload: the members of a branch.
CREATE INDEX promises_by_branch ON promises (branch) WHERE branch IS NOT NULL;

-- The task of a targeted promise. Most changes move a row from one partial index to another: vacuum
-- early, so that none is long and mostly dead.
CREATE TABLE tasks (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    rev        BIGINT NOT NULL,
    state      TEXT COLLATE "C" NOT NULL,
    version    BIGINT NOT NULL,
    -- Exactly while acquired.
    pid        TEXT COLLATE "C",
    ttl        BIGINT,
    expires_at BIGINT,
    claimed_at BIGINT,
    -- Exactly while pending.
    retry_at   BIGINT,
    offer_at   BIGINT,
    releases   BIGINT NOT NULL,
    -- The promise's target, and the queue that its messages wait in while no stream is open.
    target     TEXT COLLATE "C" NOT NULL,
    queue      TEXT COLLATE "C",
    -- JSON array of the ids of awaited promises that settled.
    resumes    TEXT COLLATE "C" NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

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
    awaited TEXT COLLATE "C" NOT NULL,
    awaiter TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (awaited, awaiter)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

-- Who is to be told of a settlement; from the settlement on, the outbox of unblock messages.
CREATE TABLE listeners (
    promise_id  TEXT COLLATE "C" NOT NULL,
    address     TEXT COLLATE "C" NOT NULL,
    queue       TEXT COLLATE "C",
    -- Both null while the promise is pending.
    enqueued_at BIGINT,
    retry_at    BIGINT,
    attempts    BIGINT NOT NULL,
    PRIMARY KEY (promise_id, address)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

-- The next deliveries to addresses that are always there.
CREATE INDEX listeners_by_retry ON listeners (retry_at, promise_id, address)
    WHERE enqueued_at IS NOT NULL AND queue IS NULL;

-- What waits for a stream to open, and the next deliveries to streams that are open. Without the address:
-- an index entry holds at most two ids of the greatest length.
CREATE INDEX listeners_by_queue ON listeners (queue, retry_at, promise_id)
    WHERE enqueued_at IS NOT NULL AND queue IS NOT NULL;

-- The oldest messages, to be given up.
CREATE INDEX listeners_by_age ON listeners (enqueued_at, promise_id, address)
    WHERE enqueued_at IS NOT NULL;

CREATE TABLE schedules (
    id              TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    rev             BIGINT NOT NULL,
    cron            TEXT COLLATE "C" NOT NULL,
    -- Template of the ids of the promises it creates.
    promise_id      TEXT COLLATE "C" NOT NULL,
    promise_timeout BIGINT NOT NULL,
    created_at      BIGINT NOT NULL,
    next_run_at     BIGINT NOT NULL,
    last_run_at     BIGINT,
    -- JSON object of strings.
    promise_tags    TEXT COLLATE "C" NOT NULL,
    -- JSON text, kept byte for byte.
    promise_param   TEXT COLLATE "C" NOT NULL
);

-- The next occurrences.
CREATE INDEX schedules_by_next_run ON schedules (next_run_at, id);
