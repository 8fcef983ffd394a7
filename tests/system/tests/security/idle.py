#!/usr/bin/python3
"""Connects as often as it is told, begins a question and never ends it.

Arguments: address, port, how many connections, for how many seconds.
"""

import resource
import socket
import sys
import threading
import time

address, port, count, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 100), hard))
end = time.monotonic() + seconds
# Patroni lets five wait; who finds no place asks again after a second.
WORKERS = 60
idle = []


def connect(share):
    mine = 0
    while mine < share and time.monotonic() < end - 5:
        try:
            connection = socket.create_connection((address, port), timeout=5)
            connection.sendall(b"GET /")
        except OSError:
            time.sleep(0.05)
            continue
        idle.append(connection)
        mine += 1


workers = [threading.Thread(target=connect, args=(count // WORKERS,)) for _ in range(WORKERS)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
print(f"{len(idle)} connections", flush=True)
time.sleep(max(0, end - time.monotonic()))
