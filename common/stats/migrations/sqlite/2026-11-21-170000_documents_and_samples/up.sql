-- One row: how often the service has started. Only its last start may write.
CREATE TABLE starts (
    one BIGINT NOT NULL PRIMARY KEY,
    boot BIGINT NOT NULL
);

-- What is known of senders, piece by piece. `key` and `body` are JSON.
CREATE TABLE documents (
    role TEXT NOT NULL,
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (role, name, key)
) WITHOUT ROWID;

-- Whose work is sampled. `subject` is JSON.
CREATE TABLE series (
    series BIGINT NOT NULL PRIMARY KEY,
    role TEXT NOT NULL,
    name TEXT NOT NULL,
    subject TEXT NOT NULL
);

-- Expected hashes in a period of `seconds` that began at `start_ms` after the Unix epoch.
CREATE TABLE samples (
    series BIGINT NOT NULL,
    seconds BIGINT NOT NULL,
    start_ms BIGINT NOT NULL,
    hashes DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (series, seconds, start_ms)
) WITHOUT ROWID;
