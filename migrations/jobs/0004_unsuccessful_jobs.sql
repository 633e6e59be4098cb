-- Jobs that ended without success: what people look for and count. Jobs that succeed never enter it.

CREATE INDEX jobs_unsuccessful ON aftercommit.jobs (state, kind, finished_at)
    WHERE state IN ('dead', 'cancelled', 'expired');
