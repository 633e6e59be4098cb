-- The four roles, once per PostgreSQL cluster, by a superuser (or a role with CREATEROLE). Safe to run again.
--
--   psql -d postgres -f migrations/roles.sql
--   psql -d postgres -c "ALTER ROLE aftercommit_api PASSWORD '…'"      and so on for the other three
--   psql -d postgres -c "CREATE DATABASE aftercommit_app  OWNER aftercommit_owner"
--   psql -d postgres -c "CREATE DATABASE aftercommit_jobs OWNER aftercommit_owner"
--
-- No password is set here: until one is, a role cannot log in over scram.
-- What each role may touch is granted by the migrations of the database it belongs to.

DO $$
DECLARE
    role_name text;
BEGIN
    -- Serialises runs of this script; roles are shared by the whole cluster.
    PERFORM pg_advisory_xact_lock(hashtextextended('aftercommit roles', 0));
    FOREACH role_name IN ARRAY ARRAY['aftercommit_owner', 'aftercommit_api', 'aftercommit_relay', 'aftercommit_jobs'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', role_name);
        END IF;
    END LOOP;
END
$$;

-- api: writes users and appends to the outbox. A commit that was answered must be on disk.
ALTER ROLE aftercommit_api SET search_path = aftercommit;
ALTER ROLE aftercommit_api SET synchronous_commit = 'on';
ALTER ROLE aftercommit_api SET statement_timeout = '10s';
ALTER ROLE aftercommit_api SET lock_timeout = '5s';
-- A plan of its own for each execution looks cheaper and costs more than the execution.
ALTER ROLE aftercommit_api SET plan_cache_mode = 'force_generic_plan';
-- Soon, so that what became of a COMMIT whose answer was lost can be told.
ALTER ROLE aftercommit_api SET idle_in_transaction_session_timeout = '5s';

-- relay: reads the outbox in the application database and nothing else, ever.
ALTER ROLE aftercommit_relay SET search_path = aftercommit;
ALTER ROLE aftercommit_relay SET default_transaction_read_only = 'on';
ALTER ROLE aftercommit_relay SET statement_timeout = '30s';
ALTER ROLE aftercommit_relay SET lock_timeout = '5s';
ALTER ROLE aftercommit_relay SET idle_in_transaction_session_timeout = '15s';

-- jobs: the relay's role in the jobs database. A cursor that was answered must be on disk.
ALTER ROLE aftercommit_jobs SET search_path = aftercommit;
ALTER ROLE aftercommit_jobs SET synchronous_commit = 'on';
ALTER ROLE aftercommit_jobs SET statement_timeout = '60s';
ALTER ROLE aftercommit_jobs SET lock_timeout = '10s';
ALTER ROLE aftercommit_jobs SET idle_in_transaction_session_timeout = '15s';

ALTER ROLE aftercommit_owner SET search_path = aftercommit;
