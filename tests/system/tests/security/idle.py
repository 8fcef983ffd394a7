#!/usr/bin/python3
"""Connects as often as it is told, begins a question and never ends it.

Arguments: address, port, how many connections, for how many seconds.
"""

import resource
import socket
import sys
import time

address, port, count, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 100), hard))
end = time.monotonic() + seconds
idle = []
while len(idle) < count and time.monotonic() < end:
    try:
        idle.append(socket.create_connection((address, port), timeout=5))
        idle[-1].sendall(b"GET /")
    except OSError:
        time.sleep(0.05)
print(f"{len(idle)} connections", flush=True)
time.sleep(max(0, end - time.monotonic()))
