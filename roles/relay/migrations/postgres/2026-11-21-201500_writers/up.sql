-- Each start of a relay that writes here, under a number drawn by lot, and its last batch: what is tried twice is added once.
-- No start is in another's way.
CREATE TABLE writers (
    writer BIGINT NOT NULL PRIMARY KEY,
    relay_id BIGINT NOT NULL,
    batch BIGINT NOT NULL
);

DROP TABLE relays;
