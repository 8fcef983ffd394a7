#!/usr/bin/python3
"""Looks into the command line and the environment of every process for secrets, again and again, until SIGTERM.

Arguments: a file with the secrets, one a line, and the file for what is found: "PID where command".
"""

import os
import signal
import sys
import time

with open(sys.argv[1], "rb") as file:
    secrets = [line.strip() for line in file if line.strip()]
over = False


def end(_signal, _frame):
    global over
    over = True


signal.signal(signal.SIGTERM, end)
looks = 0
with open(sys.argv[2], "w", buffering=1) as found:
    while not over:
        for pid in filter(str.isdigit, os.listdir("/proc")):
            for part in ("cmdline", "environ"):
                try:
                    with open(f"/proc/{pid}/{part}", "rb") as file:
                        text = file.read()
                except OSError:
                    continue
                if any(secret in text for secret in secrets):
                    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                        found.write(f"{pid} {part} {file.read().strip()}\n")
        looks += 1
        time.sleep(0.002)
    print(f"looked {looks} times")
