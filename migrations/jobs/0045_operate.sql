-- What people change by hand: what they did, and what they have paused.

-- One row per action, written in the transaction of the change itself. Rows are never deleted by the product.
CREATE TABLE aftercommit.operator_actions (
    action_id   bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,                       -- null: under way, or interrupted
    operator    text        NOT NULL,              -- the OS user and host, or the dashboard's login
    via         text        NOT NULL,              -- where it was asked for: cli, dashboard
    action      text        NOT NULL,              -- what was done: retry jobs, pause, suppress …
    filter      jsonb       NOT NULL DEFAULT '{}', -- on what
    affected    bigint      NOT NULL DEFAULT 0,    -- how many were changed so far
    reason      text,

    CONSTRAINT operator_actions_pkey   PRIMARY KEY (action_id),
    CONSTRAINT operator_actions_words  CHECK (octet_length(operator) BETWEEN 1 AND 200
                                          AND octet_length(via)      BETWEEN 1 AND 50
                                          AND octet_length(action)   BETWEEN 1 AND 100
                                          AND octet_length(reason)   BETWEEN 1 AND 1000),
    CONSTRAINT operator_actions_filter CHECK (jsonb_typeof(filter) = 'object'),
    CONSTRAINT operator_actions_count  CHECK (affected >= 0)
);

-- What no relay does until it is resumed. Work that is under way ends; nothing new is begun.
CREATE TABLE aftercommit.pauses (
    part      text        NOT NULL,                -- dispatch, or delivery
    kind      text        NOT NULL DEFAULT '',     -- of delivery: one kind of jobs; '' is every kind
    paused_at timestamptz NOT NULL DEFAULT now(),
    paused_by text        NOT NULL,
    reason    text,

    CONSTRAINT pauses_pkey  PRIMARY KEY (part, kind),
    CONSTRAINT pauses_part  CHECK (part = 'delivery' OR part = 'dispatch' AND kind = ''),
    CONSTRAINT pauses_words CHECK (octet_length(kind) <= 100 AND octet_length(paused_by) BETWEEN 1 AND 200
                               AND octet_length(reason) BETWEEN 1 AND 1000)
);

-- An action's row is written once, and only its count and its end move on.
GRANT SELECT, INSERT, UPDATE (affected, finished_at) ON aftercommit.operator_actions TO aftercommit_jobs;
GRANT SELECT, INSERT, DELETE                         ON aftercommit.pauses           TO aftercommit_jobs;
