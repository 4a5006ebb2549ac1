-- The tables of a state file, whole. A change here raises state.SCHEMA_VERSION, and older files need a step
-- in migrations.py.

-- One row: the identity of the file, and how far its sync has got.
CREATE TABLE state.metadata (
    schema_version   INTEGER NOT NULL,
    sync             VARCHAR NOT NULL,
    destination_id   VARCHAR NOT NULL,   -- random, made with the file; a part of each message id
    destination_hash VARCHAR,            -- of write key and endpoint, noted by the first run that sends
    generation       BIGINT NOT NULL,    -- diffs recorded so far; never starts again
    first_pass       VARCHAR,            -- NULL until there is a snapshot, then 'silent' or 'sent'
    mapping          JSON,               -- the mapping that the snapshot was built with
    destination      VARCHAR,            -- as destination_hash, to be shown: address, and a hash of the write key
    sync_file        VARCHAR,            -- the sync file of the last run, by which a shared state is noticed
    snapshot_table   JSON                -- of `engine: warehouse`: schema, name and rows of the table of the snapshot
);

-- For a retl of before schema 3, which looks for this table, and so says that a newer one wrote the file.
CREATE VIEW state.about AS SELECT schema_version, sync FROM state.metadata;

-- The rows as they were when they were last turned into calls. The type of "row" follows the model.
-- With `engine: warehouse` a table in the warehouse has most of them (`metadata.snapshot_table`). Here are those
-- that it does not have, and those whose call is, or was, made of the row here (`seq`).
-- While a first pass is read, its rows are in a table `arriving`, which becomes this one by the promote.
-- A run that is killed leaves it to the next one.
CREATE TABLE state.snapshot (
    key   VARCHAR NOT NULL,
    row   STRUCT("retl.empty" BOOLEAN),
    stale BOOLEAN NOT NULL,              -- kept back while the mapping was edited: a change, whatever it holds
    hash  UBIGINT,                       -- of what is compared; NULL where it is not known
    seq   BIGINT                         -- of a first pass: place in the outbox at which its call is, or was, unrendered
);

-- With `engine: warehouse`, rows of the table there that do not count, as calls were discarded; or count, but are
-- stale. The next run reads all rows, and empties this.
CREATE TABLE state.overridden (
    key   VARCHAR NOT NULL,
    stale BOOLEAN NOT NULL
);

-- The tokens with which the names of tables in the warehouse begin that this state made, each with their schema
-- behind it (`1f9c02aa retl`), and with the place where the file was. In another place it is a copy, which drops no
-- table of the original.
CREATE TABLE state.table_maker (
    place VARCHAR NOT NULL,
    token VARCHAR NOT NULL
);

-- Rows as they were before the changes whose calls may still wait in the outbox. The type of "row" is the
-- snapshot's. Empty once all is delivered.
CREATE TABLE state.replaced (
    run_id VARCHAR NOT NULL,             -- the run that found the change
    key    VARCHAR NOT NULL,
    row    STRUCT("retl.empty" BOOLEAN),
    stale  BOOLEAN NOT NULL,
    calls  BIGINT NOT NULL               -- that the change made
);

-- Calls that Segment has not accepted yet, finished and in the order in which they leave.
CREATE TABLE state.outbox (
    seq        BIGINT NOT NULL,
    lane       INTEGER NOT NULL,         -- the calls of one user share a lane
    run_id     VARCHAR NOT NULL,
    key        VARCHAR NOT NULL,
    change     VARCHAR NOT NULL,
    message_id VARCHAR NOT NULL,
    body       VARCHAR NOT NULL USING COMPRESSION zstd,  -- the call as JSON
    bytes      INTEGER NOT NULL,         -- of the body, in UTF-8
    user_id    VARCHAR,                  -- the call's user id, else its anonymous id
    event      VARCHAR,                  -- its name; of an identify or group call its type
    moment     TIMESTAMP                 -- the call's timestamp, UTC
);

-- Calls that Segment has not accepted yet and whose text is made of rows of the snapshot when they leave; a
-- row for each lane. Beside them the outbox holds only calls that were delivered before their turn.
CREATE TABLE state.unrendered (
    lane      INTEGER NOT NULL,
    run_id    VARCHAR NOT NULL,
    first_seq BIGINT NOT NULL,
    last_seq  BIGINT NOT NULL,
    statement VARCHAR NOT NULL           -- the SELECT of the calls, as it was when they entered the outbox
);

-- The calls of a first pass that entered the outbox unrendered, a row for each lane, for as long as their history
-- is kept: the statement yields it from the rows of the snapshot that still have the place of their call, and the
-- receipts tell which were delivered. Before such a row changes, its call goes to `delivered_call`.
CREATE TABLE state.first_pass (
    lane      INTEGER NOT NULL,
    run_id    VARCHAR NOT NULL,          -- the run that made the calls
    first_seq BIGINT NOT NULL,
    last_seq  BIGINT NOT NULL,           -- beyond it, calls were rendered before they left
    statement VARCHAR NOT NULL           -- as in `unrendered`
);

-- Calls that were delivered, other than those of `first_pass`, without their text.
CREATE TABLE state.delivered_call (
    message_id   VARCHAR,                -- NULL where `id` tells it
    id           UUID,                   -- the digits of a message id of retl's own, which takes half the room so
    key          VARCHAR NOT NULL,
    change       VARCHAR NOT NULL,
    user_id      VARCHAR,                -- NULL where it is the key
    event        VARCHAR,
    moment       TIMESTAMP,              -- UTC
    run_id       VARCHAR NOT NULL,       -- the run that made it
    delivered_in VARCHAR NOT NULL,       -- the run that delivered it
    status       INTEGER NOT NULL,       -- HTTP
    answered_at  TIMESTAMP NOT NULL      -- UTC
);

-- How far each lane of the outbox has got: calls up to `delivered` were accepted; calls beyond it and up
-- to `attempted` went out, and no answer is known.
CREATE TABLE state.mark (
    lane      INTEGER NOT NULL,
    attempted BIGINT NOT NULL,
    delivered BIGINT NOT NULL
);

-- What Segment answered, a row for each batch; and one without calls for each attempt that repeated others
-- and got no answer, and for each call that was refused alone, until it is rejected or sent again.
CREATE TABLE state.receipt (
    run_id      VARCHAR NOT NULL,
    lane        INTEGER NOT NULL,
    first_seq   BIGINT NOT NULL,
    last_seq    BIGINT NOT NULL,
    calls       INTEGER NOT NULL,
    bytes       BIGINT NOT NULL,
    repeated    INTEGER NOT NULL,        -- calls that had gone out before, and no answer had come
    attempts    INTEGER NOT NULL,
    status      INTEGER NOT NULL,        -- HTTP; 0 without an answer
    answered_at TIMESTAMP NOT NULL       -- UTC
);

-- Rows that cannot be sent as they are; gone as soon as they are fixed.
CREATE TABLE state.rejected_row (
    key        VARCHAR,                  -- NULL for rows without a key, which share one line
    reason     VARCHAR NOT NULL,
    rows       BIGINT NOT NULL,          -- in the last run
    first_seen TIMESTAMP NOT NULL,       -- UTC
    last_seen  TIMESTAMP NOT NULL,       -- UTC
    times      BIGINT NOT NULL,          -- runs that met it
    user_id    VARCHAR,                  -- NULL where it has none, or several rows share the key
    at_fault   VARCHAR,                  -- the column whose value is the reason; NULL where no single one is
    value      VARCHAR                   -- the beginning of that value; of a row without a key, of the whole row
);

-- Calls that were refused for good: by retl's own check (a removed row's) or by Segment.
CREATE TABLE state.rejected_call (
    run_id      VARCHAR NOT NULL,        -- the run that made it
    key         VARCHAR NOT NULL,
    change      VARCHAR NOT NULL,
    message_id  VARCHAR,
    body        VARCHAR,
    reason      VARCHAR NOT NULL,
    answer      VARCHAR,                 -- what Segment said
    rejected_at TIMESTAMP NOT NULL,      -- UTC
    rejected_in VARCHAR NOT NULL,        -- the run that rejected it
    user_id     VARCHAR,                 -- the call's user id, else its anonymous id
    overtaken   BOOLEAN NOT NULL,        -- a newer call of this user was delivered
    event       VARCHAR,                 -- its name; of an identify or group call its type
    moment      TIMESTAMP,               -- the call's timestamp, UTC
    unsure      BOOLEAN                  -- it had gone out before it was refused, and no answer had come
);

-- Rejections that are over: of rows that were fixed or are gone, and of calls that were sent or discarded.
CREATE TABLE state.ended_rejection (
    key        VARCHAR,                  -- NULL for rows without a key
    change     VARCHAR,                  -- of a call; NULL for a row, as all that only a call has
    message_id VARCHAR,
    user_id    VARCHAR,
    event      VARCHAR,
    moment     TIMESTAMP,                -- UTC
    reason     VARCHAR NOT NULL,
    answer     VARCHAR,                  -- what Segment said
    at_fault   VARCHAR,                  -- as in `rejected_row`
    value      VARCHAR,
    run_id     VARCHAR,                  -- the run that made the call
    first_seen TIMESTAMP NOT NULL,       -- UTC
    last_seen  TIMESTAMP NOT NULL,       -- UTC
    times      BIGINT NOT NULL,          -- runs that met it
    ended_at   TIMESTAMP NOT NULL,       -- UTC
    ended_in   VARCHAR,                  -- the run that ended it; NULL where no run did
    how        VARCHAR NOT NULL          -- 'sent', 'sent stale', 'fixed' without a call, 'gone' or 'discarded'
);

-- The record of each run.
CREATE TABLE state.run (
    run_id     VARCHAR NOT NULL,
    started_at TIMESTAMP NOT NULL,       -- UTC
    record     JSON NOT NULL             -- as `retl run --json` prints it
);
