-- One check of an outbox row in place of four.
--
-- PostgreSQL reads and prepares each CHECK anew for every statement that inserts: the four cost more than all else of
-- the insert. A function is prepared once per session. The limits are the same ones, and its errors say which was met.

CREATE FUNCTION aftercommit.outbox_row_is_sound(
    aggregate_type text, aggregate_id text, event_type text, event_version integer,
    payload jsonb, metadata jsonb, occurred_at timestamptz
) RETURNS boolean LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    IF octet_length(aggregate_type) BETWEEN 1 AND 100
       AND octet_length(aggregate_id) BETWEEN 1 AND 200
       AND octet_length(event_type) BETWEEN 1 AND 100
       AND (aggregate_type || aggregate_id || event_type) COLLATE "C" !~ '[\x01-\x1f\x7f]'
       AND event_version BETWEEN 1 AND 32767
       AND pg_column_size(payload) <= 262144
       AND pg_column_size(metadata) <= 16384
       AND jsonb_typeof(metadata) = 'object'
       AND occurred_at BETWEEN '2000-01-01 00:00:00+00' AND '9999-01-01 00:00:00+00'
    THEN
        RETURN true;
    END IF;
    RAISE check_violation USING
        SCHEMA = 'aftercommit', TABLE = 'outbox', CONSTRAINT = 'outbox_row',
        MESSAGE = CASE
            WHEN octet_length(aggregate_type) NOT BETWEEN 1 AND 100 THEN 'aggregate_type must have 1 to 100 bytes'
            WHEN octet_length(aggregate_id) NOT BETWEEN 1 AND 200 THEN 'aggregate_id must have 1 to 200 bytes'
            WHEN octet_length(event_type) NOT BETWEEN 1 AND 100 THEN 'event_type must have 1 to 100 bytes'
            WHEN (aggregate_type || aggregate_id || event_type) COLLATE "C" ~ '[\x01-\x1f\x7f]'
                THEN 'aggregate_type, aggregate_id and event_type must have no control characters'
            WHEN event_version NOT BETWEEN 1 AND 32767 THEN 'event_version must be from 1 to 32767'
            WHEN pg_column_size(payload) > 262144 THEN 'payload must have 256 KiB at most'
            WHEN pg_column_size(metadata) > 16384 THEN 'metadata must have 16 KiB at most'
            WHEN jsonb_typeof(metadata) <> 'object' THEN 'metadata must be an object'
            ELSE 'occurred_at must be from 2000-01-01 to 9999-01-01'
        END;
END
$$;

ALTER TABLE aftercommit.outbox
    DROP CONSTRAINT outbox_names,
    DROP CONSTRAINT outbox_version,
    DROP CONSTRAINT outbox_sizes,
    DROP CONSTRAINT outbox_time,
    ADD CONSTRAINT outbox_row CHECK (aftercommit.outbox_row_is_sound(
        aggregate_type, aggregate_id, event_type, event_version, payload, metadata, occurred_at));
