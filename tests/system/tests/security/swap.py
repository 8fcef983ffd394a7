#!/usr/bin/python3
"""Exchanges a directory and a link, again and again: whoever looks at the name twice sees two things.

Arguments: the directory, what the link leads to, for how many seconds.
"""

import ctypes
import os
import sys
import time

AT_FDCWD = -100
RENAME_EXCHANGE = 2

directory, victim, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
link = os.path.join(os.path.dirname(directory), "swapped")
libc = ctypes.CDLL(None, use_errno=True)
end = time.monotonic() + seconds
swaps = 0
while time.monotonic() < end:
    os.makedirs(directory, exist_ok=True) if not os.path.lexists(directory) else None
    if not os.path.lexists(link):
        os.symlink(victim, link)
    for _ in range(1000):
        swaps += libc.renameat2(AT_FDCWD, directory.encode(), AT_FDCWD, link.encode(), RENAME_EXCHANGE) == 0
for name in (directory, link):
    try:
        os.unlink(name) if os.path.islink(name) else os.rmdir(name)
    except OSError as error:
        print(f"{name} stays: {error}")
print(f"{swaps} swaps")
