-- Each process that writes here: how often it has started, and the last batch of its present start.
CREATE TABLE servers (
    server_id BIGINT NOT NULL PRIMARY KEY,
    boot BIGINT NOT NULL,
    batch BIGINT NOT NULL
);

-- Accepted work. `minute` counts from the Unix epoch. Work is `work_high * 2^40 + work_low`, in expected hashes;
-- `work_low` may exceed 40 bits, because sums are not carried over.
CREATE TABLE work_minutes (
    minute BIGINT NOT NULL,
    account TEXT NOT NULL,
    worker TEXT NOT NULL,
    solo BOOLEAN NOT NULL,
    server_id BIGINT NOT NULL,
    shares BIGINT NOT NULL,
    work_high BIGINT NOT NULL,
    work_low BIGINT NOT NULL,
    PRIMARY KEY (minute, account, worker, solo, server_id)
) WITHOUT ROWID;

-- The same, older. `hour` counts from the Unix epoch.
CREATE TABLE work_hours (
    hour BIGINT NOT NULL,
    account TEXT NOT NULL,
    worker TEXT NOT NULL,
    solo BOOLEAN NOT NULL,
    server_id BIGINT NOT NULL,
    shares BIGINT NOT NULL,
    work_high BIGINT NOT NULL,
    work_low BIGINT NOT NULL,
    PRIMARY KEY (hour, account, worker, solo, server_id)
) WITHOUT ROWID;

-- Each server moves its own minutes into hours.
CREATE INDEX work_minutes_by_server ON work_minutes (server_id, minute);

-- Blocks that were found. `raw` is the whole block until it is buried.
CREATE TABLE blocks (
    hash TEXT NOT NULL PRIMARY KEY,
    height BIGINT,
    server_id BIGINT NOT NULL,
    account TEXT NOT NULL,
    worker TEXT NOT NULL,
    solo BOOLEAN NOT NULL,
    reward_sats BIGINT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    confirmations BIGINT NOT NULL,
    found_ms BIGINT NOT NULL,
    changed_ms BIGINT NOT NULL,
    raw BLOB
);

CREATE INDEX blocks_by_state ON blocks (state, server_id);
CREATE INDEX blocks_by_time ON blocks (found_ms);
