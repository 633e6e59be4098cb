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

    CONSTRAINT outbox_pkey    PRIMARY KEY (event_id),
    CONSTRAINT outbox_names   CHECK (octet_length(aggregate_type) BETWEEN 1 AND 100
                                 AND octet_length(aggregate_id)   BETWEEN 1 AND 200
                                 AND octet_length(event_type)     BETWEEN 1 AND 100
                                 AND (aggregate_type || aggregate_id || event_type) COLLATE "C" !~ '[\x01-\x1f\x7f]'),
    CONSTRAINT outbox_version CHECK (event_version BETWEEN 1 AND 32767),
    CONSTRAINT outbox_sizes   CHECK (pg_column_size(payload)  <= 262144
                                 AND pg_column_size(metadata) <= 16384
                                 AND jsonb_typeof(metadata) = 'object'),
    CONSTRAINT outbox_time    CHECK (occurred_at BETWEEN '2000-01-01 00:00:00+00' AND '9999-01-01 00:00:00+00')
);

-- The window's index, and the only one beside the primary key.
CREATE INDEX outbox_window ON aftercommit.outbox (lane, transaction_id, position);

-- position, transaction_id, lane and durable_at_commit are the database's to set. The writer may read back only
-- whether an event of its own is there, which is how an unanswered COMMIT is resolved.
GRANT INSERT (event_id, aggregate_type, aggregate_id, event_type, event_version, payload, metadata, occurred_at)
    ON aftercommit.outbox TO aftercommit_api;
GRANT SELECT (event_id) ON aftercommit.outbox TO aftercommit_api;

GRANT SELECT ON aftercommit.outbox TO aftercommit_relay;
