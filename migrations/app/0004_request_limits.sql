-- How much may be asked for: registrations and repeated verification emails, per address and per network.
--
-- Kept here and not in memory, so that several api processes share it and a restart forgets nothing. Unlogged: after
-- a crash of the server everybody starts with a full allowance, which is no loss, and counting costs no WAL.

CREATE UNLOGGED TABLE aftercommit.request_limits (
    subject bytea       NOT NULL,   -- SHA-256 of what is limited: neither addresses nor networks are kept
    full_at timestamptz NOT NULL,   -- when the whole allowance is there again; a row past that time means nothing
    CONSTRAINT request_limits_pkey    PRIMARY KEY (subject),
    CONSTRAINT request_limits_subject CHECK (octet_length(subject) = 32)
) WITH (fillfactor = 70);

GRANT SELECT, INSERT, UPDATE, DELETE ON aftercommit.request_limits TO aftercommit_api;
