#!/usr/bin/python3
"""Inserts numbers through an address, or through the first of some addresses that takes writes, as fast as one goes after the
other, and writes "time number" for each that was acknowledged.

Arguments: address or addresses separated by commas, port, table, file. The time is the monotonic clock. A server that does not
take a connection within 50 ms, or data within 0.5 s, is left.
"""

import socket
import sys
import time

import psycopg2

hosts, port, table, path = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
several = "," in hosts
n = 0
with open(path, "w", buffering=1) as log:
    while True:
        connection = None
        try:
            if not several:
                socket.create_connection((hosts, port), timeout=0.05).close()
            connection = psycopg2.connect(
                host=hosts, port=port, user="app", password="app", dbname="postgres", connect_timeout=2,
                target_session_attrs="read-write" if several else "any",
                options="-c statement_timeout=3000", tcp_user_timeout=500,
                # The kernel of a frozen machine still acknowledges; only a probe finds out that the address has gone.
                keepalives=1, keepalives_idle=1, keepalives_interval=1, keepalives_count=3,
            )
            connection.autocommit = True
            cursor = connection.cursor()
            while True:
                n += 1
                cursor.execute(f"insert into {table} values (%s)", (n,))
                # With synchronous replication a cancelled wait comes as a warning, and is no acknowledgement.
                if not connection.notices:
                    log.write(f"{time.monotonic():.3f} {n}\n")
                del connection.notices[:]
                time.sleep(0.01)
        except (OSError, psycopg2.Error):
            time.sleep(0.01)
        finally:
            if connection is not None:
                connection.close()
