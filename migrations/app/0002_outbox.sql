-- The outbox: the contract between any writer and the relay. Append-only.
--
-- The writer's one rule: lock the aggregate's row first (an UPDATE, or SELECT … FOR NO KEY UPDATE if it is not written),
-- then insert the event. Then positions follow the aggregate's history.

-- Its types are its limits, and the lane is computed for the index: PostgreSQL keeps what it needs for these, but reads and
-- plans the expression of each CHECK and of each generated column anew for every statement that inserts, and a trigger costs
-- more still. What is merely odd (a time that cannot be, a version that nobody knows, a payload that no handler can read)
-- is the relay's to cope with.

-- The unit of order and of parallelism: an aggregate's events are in one. Hash indexes rest on the same function, so upgrades
-- keep it.
CREATE FUNCTION aftercommit.lane(aggregate_id text)
RETURNS smallint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (hashtext(aggregate_id) & 15)::smallint;

-- json and not jsonb: what is read is what was written, and need not be put together from its parts again.
CREATE DOMAIN aftercommit.event_json AS json
    CONSTRAINT event_json_256_kib_at_most CHECK (pg_column_size(VALUE) <= 262144);

CREATE TABLE aftercommit.outbox (
    event_id          uuid         NOT NULL,
    -- The top-level transaction that wrote the row: what the snapshot window is cut by. It stands before position,
    -- so that the transaction has its id before the row has its position.
    transaction_id    xid8         NOT NULL DEFAULT pg_current_xact_id(),
    position          bigint       NOT NULL GENERATED ALWAYS AS IDENTITY (CACHE 1),
    aggregate_type    varchar(100) NOT NULL,
    aggregate_id      varchar(200) NOT NULL,
    event_type        varchar(100) NOT NULL,
    event_version     integer      NOT NULL DEFAULT 1,
    payload           aftercommit.event_json NOT NULL,
    metadata          aftercommit.event_json NOT NULL DEFAULT '{}',   -- trace context, correlation and causation ids
    occurred_at       timestamptz  NOT NULL DEFAULT now(),
    -- False when the commit may be visible before it is on disk: then the relay waits for the flush.
    durable_at_commit boolean      NOT NULL DEFAULT (current_setting('synchronous_commit') <> 'off'),

    CONSTRAINT outbox_pkey PRIMARY KEY (event_id)
);

-- The window's index, and the only one beside the primary key. The aggregate is in it for scans of the index alone: without
-- it, PostgreSQL believes that it needs the row for the lane.
CREATE INDEX outbox_window ON aftercommit.outbox (aftercommit.lane(aggregate_id), transaction_id, position)
    INCLUDE (aggregate_id);

-- position, transaction_id and durable_at_commit are the database's to set. The writer may read back only
-- whether an event of its own is there, which is how an unanswered COMMIT is resolved.
GRANT INSERT (event_id, aggregate_type, aggregate_id, event_type, event_version, payload, metadata, occurred_at)
    ON aftercommit.outbox TO aftercommit_api;
GRANT SELECT (event_id) ON aftercommit.outbox TO aftercommit_api;

GRANT SELECT ON aftercommit.outbox TO aftercommit_relay;
