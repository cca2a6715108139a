CREATE TABLE relays (
    relay_id BIGINT NOT NULL PRIMARY KEY,
    boot BIGINT NOT NULL,
    batch BIGINT NOT NULL
);

DROP TABLE writers;
