-- The outbox: the contract between any writer and the relay. Append-only.
--
-- The writer's one rule: lock the aggregate's row first (an UPDATE, or SELECT … FOR NO KEY UPDATE if it is not written),
-- then insert the event. Then positions follow the aggregate's history.

CREATE TABLE aftercommit.outbox (
    event_id          uuid        NOT NULL,
    -- The top-level transaction that wrote the row: what the snapshot window is cut by. It stands before position,
    -- so that the transaction has its id before the row has its position.
    transaction_id    xid8        NOT NULL DEFAULT pg_current_xact_id(),
    position          bigint      NOT NULL GENERATED ALWAYS AS IDENTITY (CACHE 1),
    -- The unit of order and of parallelism. hash partitioning rests on the same function, so upgrades keep it.
    lane              smallint    NOT NULL GENERATED ALWAYS AS (
                          (hashtextextended((aggregate_type || '/' || aggregate_id) COLLATE "C", 0) & 15)::smallint
                      ) STORED,
    aggregate_type    text        NOT NULL,
    aggregate_id      text        NOT NULL,
    event_type        text        NOT NULL,
    event_version     integer     NOT NULL DEFAULT 1,
    payload           jsonb       NOT NULL,
    metadata          jsonb       NOT NULL DEFAULT '{}',   -- trace context, correlation and causation ids
    occurred_at       timestamptz NOT NULL DEFAULT now(),
    -- False when the commit may be visible before it is on disk: then the relay waits for the flush.
    durable_at_commit boolean     NOT NULL DEFAULT (current_setting('synchronous_commit') <> 'off'),

    CONSTRAINT outbox_pkey PRIMARY KEY (event_id)
);

-- One check, by a function that takes the row. PostgreSQL reads and prepares each CHECK anew for every statement that
-- inserts, which costs more than all else of a small insert; a function is prepared once per session, and its errors say
-- which limit was met.
CREATE FUNCTION aftercommit.outbox_row_is_sound(event aftercommit.outbox)
RETURNS boolean LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    IF octet_length(event.aggregate_type) BETWEEN 1 AND 100
       AND octet_length(event.aggregate_id) BETWEEN 1 AND 200
       AND octet_length(event.event_type) BETWEEN 1 AND 100
       AND (event.aggregate_type || event.aggregate_id || event.event_type) COLLATE "C" !~ '[\x01-\x1f\x7f]'
       AND event.event_version BETWEEN 1 AND 32767
       AND pg_column_size(event.payload) <= 262144
       AND pg_column_size(event.metadata) <= 16384
       AND jsonb_typeof(event.metadata) = 'object'
       AND event.occurred_at BETWEEN '2000-01-01 00:00:00+00' AND '9999-01-01 00:00:00+00'
    THEN
        RETURN true;
    END IF;
    RAISE check_violation USING
        SCHEMA = 'aftercommit', TABLE = 'outbox', CONSTRAINT = 'outbox_row',
        MESSAGE = CASE
            WHEN octet_length(event.aggregate_type) NOT BETWEEN 1 AND 100 THEN 'aggregate_type must have 1 to 100 bytes'
            WHEN octet_length(event.aggregate_id) NOT BETWEEN 1 AND 200 THEN 'aggregate_id must have 1 to 200 bytes'
            WHEN octet_length(event.event_type) NOT BETWEEN 1 AND 100 THEN 'event_type must have 1 to 100 bytes'
            WHEN (event.aggregate_type || event.aggregate_id || event.event_type) COLLATE "C" ~ '[\x01-\x1f\x7f]'
                THEN 'aggregate_type, aggregate_id and event_type must have no control characters'
            WHEN event.event_version NOT BETWEEN 1 AND 32767 THEN 'event_version must be from 1 to 32767'
            WHEN pg_column_size(event.payload) > 262144 THEN 'payload must have 256 KiB at most'
            WHEN pg_column_size(event.metadata) > 16384 THEN 'metadata must have 16 KiB at most'
            WHEN jsonb_typeof(event.metadata) <> 'object' THEN 'metadata must be an object'
            ELSE 'occurred_at must be from 2000-01-01 to 9999-01-01'
        END;
END
$$;

ALTER TABLE aftercommit.outbox
    ADD CONSTRAINT outbox_row CHECK (aftercommit.outbox_row_is_sound(outbox));

-- The window's index, and the only one beside the primary key.
CREATE INDEX outbox_window ON aftercommit.outbox (lane, transaction_id, position);

-- position, transaction_id, lane and durable_at_commit are the database's to set. The writer may read back only
-- whether an event of its own is there, which is how an unanswered COMMIT is resolved.
GRANT INSERT (event_id, aggregate_type, aggregate_id, event_type, event_version, payload, metadata, occurred_at)
    ON aftercommit.outbox TO aftercommit_api;
GRANT SELECT (event_id) ON aftercommit.outbox TO aftercommit_api;

GRANT SELECT ON aftercommit.outbox TO aftercommit_relay;
