-- How far the outbox was pruned: events from before this time may be gone because their time was up. Noted before the
-- first of them is deleted, so that no one takes a pruned event for a lost one. One row at most.

CREATE TABLE aftercommit.retention (
    singleton     boolean     NOT NULL DEFAULT true,
    pruned_before timestamptz NOT NULL,
    noted_at      timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT retention_pkey   PRIMARY KEY (singleton),
    CONSTRAINT retention_single CHECK (singleton)
);

GRANT SELECT ON aftercommit.retention TO aftercommit_jobs;
