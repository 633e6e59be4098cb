-- Addresses that get no mail: they bounced, somebody complained, or asked for it.

CREATE TABLE aftercommit.mail_suppressions (
    -- In the normal form of addresses, and in clear: people look addresses up, and a hash of one is no secret to anybody
    -- who has a list of addresses.
    address       text        NOT NULL,
    reason        text        NOT NULL,
    source        text        NOT NULL,     -- operator: by hand; bounce: a mail server said that there is no such mailbox
    job_id        uuid,                     -- of a bounce: the mail's job
    suppressed_at timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT mail_suppressions_pkey    PRIMARY KEY (address),
    CONSTRAINT mail_suppressions_address CHECK (octet_length(address) BETWEEN 3 AND 1000),
    CONSTRAINT mail_suppressions_reason  CHECK (octet_length(reason) BETWEEN 1 AND 1000),
    CONSTRAINT mail_suppressions_source  CHECK (source IN ('operator', 'bounce'))
);

GRANT SELECT, INSERT, DELETE ON aftercommit.mail_suppressions TO aftercommit_jobs;
