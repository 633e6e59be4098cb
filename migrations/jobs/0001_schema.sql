-- The jobs database: what the relay keeps. It may live on another server than the application's.

CREATE SCHEMA IF NOT EXISTS aftercommit;
REVOKE ALL ON SCHEMA aftercommit FROM PUBLIC;
GRANT USAGE ON SCHEMA aftercommit TO aftercommit_jobs;

DO $$
BEGIN
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO aftercommit_owner, aftercommit_jobs', current_database());
END
$$;
