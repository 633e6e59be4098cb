-- The rate of a kind of jobs across all relays: a bucket that whoever is about to claim draws from.

CREATE TABLE aftercommit.rate_limits (
    kind      text             NOT NULL,
    tokens    double precision NOT NULL,
    filled_at timestamptz      NOT NULL,
    granted   double precision NOT NULL,       -- by the last draw

    CONSTRAINT rate_limits_pkey   PRIMARY KEY (kind),
    CONSTRAINT rate_limits_kind   CHECK (octet_length(kind) BETWEEN 1 AND 100),
    CONSTRAINT rate_limits_tokens CHECK (tokens >= 0 AND granted >= 0)
) WITH (fillfactor = 50);

GRANT SELECT, INSERT, UPDATE ON aftercommit.rate_limits TO aftercommit_jobs;
