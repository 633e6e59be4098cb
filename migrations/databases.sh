#!/bin/sh
# Makes the roles with their passwords, and the two databases. Safe to run again: passwords then follow the settings.
#
# Connects as a superuser by psql's own variables (PGHOST, PGUSER, PGPASSWORD). Wants OWNER_PASSWORD, API_PASSWORD,
# RELAY_PASSWORD and JOBS_PASSWORD, and finds roles.sql at ROLES_SQL.
set -eu

for name in OWNER_PASSWORD API_PASSWORD RELAY_PASSWORD JOBS_PASSWORD; do
    eval "value=\${$name:-}"
    if [ -z "$value" ]; then
        echo "$name is not set" >&2
        exit 2
    fi
done

run() {
    psql --no-psqlrc --quiet --dbname postgres --set ON_ERROR_STOP=1 "$@"
}

run --file "${ROLES_SQL:-/migrations/roles.sql}"

# From standard input, not as arguments: those are in the list of processes. The server is told not to log them.
run <<'SQL'
\set owner_password `printf %s "$OWNER_PASSWORD"`
\set api_password `printf %s "$API_PASSWORD"`
\set relay_password `printf %s "$RELAY_PASSWORD"`
\set jobs_password `printf %s "$JOBS_PASSWORD"`
SET log_statement = 'none';
SET log_min_duration_statement = -1;
SET log_min_error_statement = 'panic';
SET password_encryption = 'scram-sha-256';
ALTER ROLE aftercommit_owner PASSWORD :'owner_password';
ALTER ROLE aftercommit_api   PASSWORD :'api_password';
ALTER ROLE aftercommit_relay PASSWORD :'relay_password';
ALTER ROLE aftercommit_jobs  PASSWORD :'jobs_password';

SELECT format('CREATE DATABASE %I OWNER aftercommit_owner', name)
  FROM unnest(ARRAY['aftercommit_app', 'aftercommit_jobs']) AS name
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name)
\gexec
SQL
