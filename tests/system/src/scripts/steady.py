#!/usr/bin/python3
"""Inserts a number every 10 ms over one connection that is never opened again, and writes "time number" for each that was
acknowledged. If the connection breaks, it writes "time broken: why" and ends.

Arguments: address, port, table, file. The time is the monotonic clock.
"""

import sys
import time

import psycopg2

host, port, table, path = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
with open(path, "w", buffering=1) as log:
    connection = psycopg2.connect(host=host, port=port, user="app", password="app", dbname="postgres", connect_timeout=5)
    connection.autocommit = True
    cursor = connection.cursor()
    n = 0
    try:
        while True:
            n += 1
            cursor.execute(f"insert into {table} values (%s)", (n,))
            log.write(f"{time.monotonic():.3f} {n}\n")
            time.sleep(0.01)
    except psycopg2.Error as error:
        log.write(f"{time.monotonic():.3f} broken: {' '.join(str(error).split())}\n")
        sys.exit(1)
