-- Who may connect. Every database starts open to PUBLIC, with the right to make temporary tables.

DO $$
BEGIN
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO aftercommit_owner, aftercommit_api, aftercommit_relay', current_database());
END
$$;
