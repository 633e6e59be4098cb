-- Dispatch: how far each lane has seen, which handlers are known, which events a handler could not take.

-- One row per lane, made here once. Moves only in the transaction that stores the jobs of what it moves over.
CREATE TABLE aftercommit.lane_cursors (
    lane                   smallint    NOT NULL,
    -- The fence: whoever commits must name the version it read.
    version                bigint      NOT NULL DEFAULT 0,

    -- The cluster the snapshots below belong to; null until the lane is first looked at.
    system_identifier      bigint,
    timeline               integer,

    -- Every transaction finished in `seen` has been dispatched. '1:1:' is nothing.
    seen                   pg_snapshot NOT NULL DEFAULT '1:1:',
    -- The row that vouches for `seen`: the one with the greatest transaction id that the cursor covers.
    witness_event_id       uuid,
    witness_transaction_id xid8,
    witness_position       bigint,

    -- The window being worked off, if it is more than one slice: its upper snapshot, that snapshot's own witness, what
    -- `seen` becomes when it is done, and the last row handed over (positions can repeat after a move of history: the
    -- id breaks the tie).
    next                        pg_snapshot,
    next_witness_event_id       uuid,
    next_witness_transaction_id xid8,
    next_witness_position       bigint,
    next_seen                   pg_snapshot,
    after_position              bigint,
    after_event_id              uuid,
    -- The window takes every row that was there when it was opened, also those with transaction ids of another history.
    everything                  boolean NOT NULL DEFAULT false,

    -- When the cursor was last put back because the application database's history had moved.
    rebased_at             timestamptz,
    moved_at               timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT lane_cursors_pkey    PRIMARY KEY (lane),
    CONSTRAINT lane_cursors_lane    CHECK (lane BETWEEN 0 AND 15),
    CONSTRAINT lane_cursors_witness CHECK (num_nonnulls(witness_event_id, witness_transaction_id, witness_position) IN (0, 3)),
    CONSTRAINT lane_cursors_vouched CHECK (witness_event_id IS NOT NULL OR seen::text = '1:1:'),
    CONSTRAINT lane_cursors_window  CHECK (num_nonnulls(next, next_witness_event_id, next_witness_transaction_id,
                                                        next_witness_position, next_seen, after_position, after_event_id) IN (0, 7)),
    CONSTRAINT lane_cursors_everything CHECK (NOT everything OR next IS NOT NULL)
);

INSERT INTO aftercommit.lane_cursors (lane)
SELECT generate_series(0, 15);

-- Earlier states of each cursor, to go back to when the application database's history has moved.
CREATE TABLE aftercommit.lane_checkpoints (
    lane                   smallint    NOT NULL,
    taken_at               timestamptz NOT NULL DEFAULT now(),
    system_identifier      bigint      NOT NULL,
    timeline               integer     NOT NULL,
    seen                   pg_snapshot NOT NULL,
    witness_event_id       uuid        NOT NULL,
    witness_transaction_id xid8        NOT NULL,
    witness_position       bigint      NOT NULL,

    CONSTRAINT lane_checkpoints_pkey PRIMARY KEY (lane, taken_at),
    CONSTRAINT lane_checkpoints_lane CHECK (lane BETWEEN 0 AND 15)
);

-- Every time a cursor was put back, for people.
CREATE TABLE aftercommit.history_moves (
    lane             smallint    NOT NULL,
    moved_at         timestamptz NOT NULL DEFAULT now(),
    reason           text        NOT NULL,
    back_to          timestamptz,             -- the checkpoint; null: every retained event was run through again
    ghosts_cancelled bigint      NOT NULL,    -- jobs of events that are gone, called off in time
    ghosts_delivered bigint      NOT NULL,    -- jobs of events that are gone, done or under way

    CONSTRAINT history_moves_pkey   PRIMARY KEY (lane, moved_at),
    CONSTRAINT history_moves_lane   CHECK (lane BETWEEN 0 AND 15)
);

-- The handlers that have ever been registered. A handler has no bound when it was there at the first start; one that
-- is added later never runs by itself on events that are older than it.
CREATE TABLE aftercommit.handlers (
    handler       text        NOT NULL,
    registered_at timestamptz,

    CONSTRAINT handlers_pkey PRIMARY KEY (handler),
    CONSTRAINT handlers_name CHECK (octet_length(handler) BETWEEN 1 AND 100)
);

-- Events that a handler failed on, panicked on, or could not decode. They never stop their lane.
CREATE TABLE aftercommit.dispatch_failures (
    event_id        uuid        NOT NULL,
    handler         text        NOT NULL,
    lane            smallint    NOT NULL,
    aggregate_type  text        NOT NULL,
    aggregate_id    text        NOT NULL,
    event_type      text        NOT NULL,
    attempts        integer     NOT NULL DEFAULT 1,
    error           text        NOT NULL,
    first_failed_at timestamptz NOT NULL DEFAULT now(),
    last_failed_at  timestamptz NOT NULL DEFAULT now(),
    resolved_at     timestamptz,

    CONSTRAINT dispatch_failures_pkey  PRIMARY KEY (event_id, handler),
    CONSTRAINT dispatch_failures_error CHECK (octet_length(error) BETWEEN 1 AND 4096)
);

CREATE INDEX dispatch_failures_open ON aftercommit.dispatch_failures (last_failed_at) WHERE resolved_at IS NULL;

GRANT SELECT, UPDATE                 ON aftercommit.lane_cursors      TO aftercommit_jobs;
GRANT SELECT, INSERT, DELETE         ON aftercommit.lane_checkpoints  TO aftercommit_jobs;
GRANT SELECT, INSERT                 ON aftercommit.history_moves     TO aftercommit_jobs;
GRANT SELECT, INSERT                 ON aftercommit.handlers          TO aftercommit_jobs;
GRANT SELECT, INSERT, UPDATE, DELETE ON aftercommit.dispatch_failures TO aftercommit_jobs;
