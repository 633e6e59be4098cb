-- The application's own schema: nothing is created in public, and PUBLIC may do nothing here.

CREATE SCHEMA IF NOT EXISTS aftercommit;
REVOKE ALL ON SCHEMA aftercommit FROM PUBLIC;
GRANT USAGE ON SCHEMA aftercommit TO aftercommit_api, aftercommit_relay;

CREATE TABLE aftercommit.users (
    user_id           uuid        NOT NULL,
    email             text        NOT NULL,   -- as the person wrote it, for sending
    email_key         text        NOT NULL,   -- its normal form: one account per address
    display_name      text        NOT NULL,
    email_verified_at timestamptz,
    created_at        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT users_pkey         PRIMARY KEY (user_id),
    CONSTRAINT users_email_unique UNIQUE (email_key),
    CONSTRAINT users_sizes        CHECK (octet_length(email)        BETWEEN 3 AND 320
                                     AND octet_length(email_key)    BETWEEN 3 AND 320
                                     AND octet_length(display_name) BETWEEN 1 AND 2048)
);

GRANT SELECT, INSERT, UPDATE ON aftercommit.users TO aftercommit_api;
