-- Batches that were committed and whose work is not in `work_minutes` yet. `work` holds what they book, in the encoding
-- that its first byte names. A row is deleted by the transaction that adds its work to `work_minutes`.
CREATE TABLE journal (
    server_id BIGINT NOT NULL,
    boot BIGINT NOT NULL,
    batch BIGINT NOT NULL,
    work BLOB NOT NULL,
    PRIMARY KEY (server_id, boot, batch)
) WITHOUT ROWID;
