-- Jobs and their delivery. State, retry policy and retry state are all in the row: a relay that dies loses nothing.

CREATE TABLE aftercommit.jobs (
    -- Computed from event, handler, name and generation, led by the event's 48 bits of time: the primary key removes
    -- duplicates and stays time-ordered, and an event's jobs are one range of it.
    job_id              uuid             NOT NULL,
    event_id            uuid             NOT NULL,
    handler             text             NOT NULL,
    name                text             NOT NULL,             -- the job's own name within the handler
    generation          integer          NOT NULL DEFAULT 0,   -- above 0: made by `replay --again`
    kind                text             NOT NULL,
    args                jsonb            NOT NULL,
    metadata            json             NOT NULL DEFAULT '{}', -- the event's, passed on as it is
    occurred_at         timestamptz      NOT NULL,             -- the event's time; what expiry and dates count from

    state               text             NOT NULL DEFAULT 'available',
    run_at              timestamptz      NOT NULL DEFAULT now(),
    expires_at          timestamptz,

    attempt             smallint         NOT NULL DEFAULT 0,   -- counted at the claim, refunded when handed back
    max_attempts        smallint         NOT NULL,
    crash_count         smallint         NOT NULL DEFAULT 0,   -- processes that died holding this job
    retry_initial       double precision NOT NULL,             -- seconds
    retry_multiplier    double precision NOT NULL,
    retry_max_interval  double precision NOT NULL,             -- seconds
    retry_jitter        double precision NOT NULL,             -- 0.5: an interval is drawn from 0.5 to 1.5 times itself
    retry_interval      double precision,                      -- seconds; the state: null before the first failure

    claim               bigint           NOT NULL DEFAULT 0,   -- number of the claim: what settlement is fenced on
    claimed_by          uuid,
    in_doubt            boolean          NOT NULL DEFAULT false,
    last_error          text,
    created_at          timestamptz      NOT NULL DEFAULT now(),
    finished_at         timestamptz,

    CONSTRAINT jobs_pkey                    PRIMARY KEY (job_id),
    CONSTRAINT jobs_state                   CHECK (state IN ('available', 'running', 'retrying',
                                                             'succeeded', 'dead', 'cancelled', 'expired')),
    CONSTRAINT jobs_names                   CHECK (octet_length(handler) BETWEEN 1 AND 100 AND octet_length(name) BETWEEN 1 AND 200
                                               AND octet_length(kind) BETWEEN 1 AND 100),
    CONSTRAINT jobs_claimed_iff_running     CHECK ((state = 'running') = (claimed_by IS NOT NULL)),
    CONSTRAINT jobs_finished_iff_final      CHECK ((state IN ('succeeded', 'dead', 'cancelled', 'expired')) = (finished_at IS NOT NULL)),
    CONSTRAINT jobs_attempts                CHECK (attempt BETWEEN 0 AND max_attempts AND max_attempts >= 1),
    -- What waits has a try left: the claim that counts it can't fail for a row that somebody wrote by hand.
    CONSTRAINT jobs_waiting_has_a_try_left  CHECK (state NOT IN ('available', 'retrying') OR attempt < max_attempts),
    CONSTRAINT jobs_crash_count             CHECK (crash_count BETWEEN 0 AND 1000),
    CONSTRAINT jobs_retry_policy            CHECK (retry_initial > 0 AND retry_multiplier >= 1
                                               AND retry_max_interval >= retry_initial AND retry_jitter BETWEEN 0 AND 1),
    CONSTRAINT jobs_last_error              CHECK (octet_length(last_error) <= 4096)
);

-- What is ready, kind by kind in the order it is claimed: a kind that is paused or unknown is never walked over.
-- Rows leave it when they are claimed or finished.
CREATE INDEX jobs_ready   ON aftercommit.jobs (kind, run_at, job_id) WHERE state IN ('available', 'retrying') AND crash_count < 2;
-- What is ready and was held by two processes when they died: such a job runs alone.
CREATE INDEX jobs_suspect ON aftercommit.jobs (kind, run_at, job_id) WHERE state IN ('available', 'retrying') AND crash_count >= 2;
-- What a process holds: for rescue, hand-back and counting.
CREATE INDEX jobs_claimed ON aftercommit.jobs (claimed_by)           WHERE state = 'running';

-- One row per failed try, append-only.
CREATE TABLE aftercommit.job_attempts (
    job_id      uuid        NOT NULL,
    claim       bigint      NOT NULL,
    attempt     smallint    NOT NULL,
    started_at  timestamptz NOT NULL,
    duration    double precision NOT NULL,     -- seconds
    outcome     text        NOT NULL,
    phase       text,                          -- how far it came, in the kind's own words: mail, rcpt, data, body, dot
    code        integer,                       -- SMTP reply code
    error       text        NOT NULL,

    CONSTRAINT job_attempts_pkey    PRIMARY KEY (job_id, claim),
    CONSTRAINT job_attempts_outcome CHECK (outcome IN ('retry', 'dead', 'in_doubt', 'crashed')),
    CONSTRAINT job_attempts_error   CHECK (octet_length(error) BETWEEN 1 AND 4096)
);

-- Delivering processes. The counter is bumped by claims and, while claims are held, at intervals; a rescuer that saw
-- it stand still for a whole lease on its own clock removes the row, which tells the process that it lost its claims.
CREATE TABLE aftercommit.processes (
    process_id uuid        NOT NULL,
    name       text        NOT NULL,
    counter    bigint      NOT NULL DEFAULT 0,
    lease      double precision NOT NULL,      -- seconds that others wait, at least, before they take it for dead
    started_at timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT processes_pkey  PRIMARY KEY (process_id),
    CONSTRAINT processes_lease CHECK (lease > 0)
);

GRANT SELECT, INSERT, UPDATE, DELETE ON aftercommit.jobs         TO aftercommit_jobs;
GRANT SELECT, INSERT, DELETE         ON aftercommit.job_attempts TO aftercommit_jobs;
GRANT SELECT, INSERT, UPDATE, DELETE ON aftercommit.processes    TO aftercommit_jobs;
