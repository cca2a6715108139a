-- Each relay that writes here: how often it has started, and the last batch of its present start.
CREATE TABLE relays (
    relay_id BIGINT NOT NULL PRIMARY KEY,
    boot BIGINT NOT NULL,
    batch BIGINT NOT NULL
);

-- What each client used. `hour` counts from the Unix epoch. "Sent" is towards the pool. Work is `work_high * 2^40 + work_low`,
-- in expected hashes; `work_low` may exceed 40 bits, because sums are not carried over.
CREATE TABLE usage_hours (
    hour BIGINT NOT NULL,
    client TEXT NOT NULL,
    relay_id BIGINT NOT NULL,
    bytes_sent BIGINT NOT NULL,
    bytes_received BIGINT NOT NULL,
    submits BIGINT NOT NULL,
    accepted BIGINT NOT NULL,
    rejected BIGINT NOT NULL,
    work_high BIGINT NOT NULL,
    work_low BIGINT NOT NULL,
    connection_ms BIGINT NOT NULL,
    PRIMARY KEY (hour, client, relay_id)
);
