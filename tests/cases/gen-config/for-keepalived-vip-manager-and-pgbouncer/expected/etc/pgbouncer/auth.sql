-- Written by patroni-gen-config from /etc/default/patroni and /etc/default/patroni@16-main.
-- Change it there or in /etc/patroni/templates, and run: patroni-gen-config --for pgbouncer 16/main
-- Checksum of what follows: a5a73042f09f3637e10b56d6447820e86962855cc647e8eee290a6399780ebc4
\set ON_ERROR_STOP on
BEGIN;
SET LOCAL client_min_messages = warning;
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pgbouncer') THEN CREATE ROLE pgbouncer; END IF;
END $$;
ALTER ROLE pgbouncer LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD 'SCRAM-SHA-256$4096:ZjM2MTA2OWZiMDQ4ZGNlMw==$3u+gF5Q2yQe5lnQktIlN8XTFy99gM6t7cAXe9dMWqcY=:BzEEwJFnVm06X6XPluODa+eVy3EoTTd+AEX6knGH2jE=';
CREATE SCHEMA IF NOT EXISTS pgbouncer;
REVOKE ALL ON SCHEMA pgbouncer FROM PUBLIC;
GRANT USAGE ON SCHEMA pgbouncer TO pgbouncer;
CREATE OR REPLACE FUNCTION pgbouncer.get_auth(name text) RETURNS TABLE (username text, password text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT rolname::text, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END FROM pg_catalog.pg_authid
    WHERE rolname = name AND rolcanlogin AND NOT rolsuper AND NOT rolreplication
$$;
REVOKE ALL ON FUNCTION pgbouncer.get_auth(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pgbouncer.get_auth(text) TO pgbouncer;
COMMIT;
