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
    lane              smallint    NOT NULL,
    aggregate_type    text        NOT NULL,
    aggregate_id      text        NOT NULL,
    event_type        text        NOT NULL,
    event_version     integer     NOT NULL DEFAULT 1,
    -- json and not jsonb: what is read is what was written, and need not be put together from its parts again.
    payload           json        NOT NULL,
    metadata          json        NOT NULL DEFAULT '{}',   -- trace context, correlation and causation ids
    occurred_at       timestamptz NOT NULL DEFAULT now(),
    -- False when the commit may be visible before it is on disk: then the relay waits for the flush.
    durable_at_commit boolean     NOT NULL DEFAULT (current_setting('synchronous_commit') <> 'off'),

    CONSTRAINT outbox_pkey PRIMARY KEY (event_id)
);

-- Sets the lane, and refuses what would harm readers. One trigger, because PostgreSQL reads and plans the expression of
-- each CHECK and of each generated column anew for every statement that inserts, which costs more than all else of a
-- small insert. What is merely odd (a version that nobody knows, a payload that no handler can read) is for the relay to set
-- aside.
--
-- NULLs pass here; the columns' own NOT NULL refuses them.
CREATE FUNCTION aftercommit.take_event()
RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.lane := (hashtextextended((NEW.aggregate_type || '/' || NEW.aggregate_id) COLLATE "C", 0) & 15)::smallint;
    IF (pg_column_size(NEW) <= 262144
        AND octet_length(NEW.aggregate_type || NEW.aggregate_id || NEW.event_type) <= 400
        AND (NEW.aggregate_type || NEW.aggregate_id || NEW.event_type) COLLATE "C" !~ '[\x01-\x1f\x7f]'
        AND NEW.occurred_at BETWEEN '2000-01-01 00:00:00+00' AND '9999-01-01 00:00:00+00') IS NOT FALSE
    THEN
        RETURN NEW;
    END IF;
    RAISE check_violation USING
        SCHEMA = 'aftercommit', TABLE = 'outbox', CONSTRAINT = 'outbox_row',
        MESSAGE = CASE
            WHEN pg_column_size(NEW) > 262144 THEN 'an event must have 256 KiB at most'
            WHEN octet_length(NEW.aggregate_type || NEW.aggregate_id || NEW.event_type) > 400
                THEN 'aggregate_type, aggregate_id and event_type must have 400 bytes together at most'
            WHEN (NEW.aggregate_type || NEW.aggregate_id || NEW.event_type) COLLATE "C" ~ '[\x01-\x1f\x7f]'
                THEN 'aggregate_type, aggregate_id and event_type must have no control characters'
            ELSE 'occurred_at must be from 2000-01-01 to 9999-01-01'
        END;
END
$$;

CREATE TRIGGER take_event BEFORE INSERT OR UPDATE ON aftercommit.outbox
    FOR EACH ROW EXECUTE FUNCTION aftercommit.take_event();

-- Also for rows that replication brings, and where session_replication_role is set.
ALTER TABLE aftercommit.outbox ENABLE ALWAYS TRIGGER take_event;

-- The window's index, and the only one beside the primary key.
CREATE INDEX outbox_window ON aftercommit.outbox (lane, transaction_id, position);

-- position, transaction_id, lane and durable_at_commit are the database's to set. The writer may read back only
-- whether an event of its own is there, which is how an unanswered COMMIT is resolved.
GRANT INSERT (event_id, aggregate_type, aggregate_id, event_type, event_version, payload, metadata, occurred_at)
    ON aftercommit.outbox TO aftercommit_api;
GRANT SELECT (event_id) ON aftercommit.outbox TO aftercommit_api;

GRANT SELECT ON aftercommit.outbox TO aftercommit_relay;
