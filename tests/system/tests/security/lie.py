#!/usr/bin/python3
"""Takes the port of Patroni's REST API as soon as it is free, and answers as Patroni would, or worse.

Arguments: address, port, for how many seconds, what to answer (a key of ANSWERS), and for TLS a certificate and its key.
"""

import os
import random
import socket
import ssl
import sys
import threading
import time

BODY = b'{"state": "running", "role": "primary", "dcs_last_seen": 4000000000, "patroni": {"version": "4.0.7"}}'
HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n"

address, port, seconds, manner = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
end = time.monotonic() + seconds


def slowly(connection):
    for byte in HEAD + BODY:
        connection.sendall(bytes([byte]))
        time.sleep(0.1)


def endless(connection, piece):
    while time.monotonic() < end:
        connection.sendall(piece)


ANSWERS = {
    "primary": lambda connection: connection.sendall(HEAD + BODY),
    "escape": lambda connection: connection.sendall(b"HTTP/1.0 \x1b]0;PWNED\x07\x1b[2J999 OK\r\n\r\n{}"),
    "mute": lambda connection: time.sleep(20),
    "drip": slowly,
    "flood": lambda connection: endless(connection, b"x" * 65536),
    "headers": lambda connection: endless(connection, b"X-A: b\r\n" * 1000),
    "nested": lambda connection: connection.sendall(HEAD + b'{"a":' * 20000),
    "random": lambda connection: connection.sendall(random.randbytes(4096)),
    "reset": lambda connection: connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"),
}


def serve(connection):
    try:
        with connection:
            connection.settimeout(20)
            connection.recv(4096)
            ANSWERS[manner](connection)
    except OSError:
        pass


family = socket.AF_INET6 if ":" in address else socket.AF_INET
while True:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen(64)
        break
    except OSError:
        listener.close()
        if time.monotonic() > end:
            sys.exit(1)
print(f"bound as uid {os.getuid()} pid {os.getpid()}", flush=True)
if len(sys.argv) > 5:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[5], sys.argv[6])
    listener = context.wrap_socket(listener, server_side=True)
listener.settimeout(0.5)
while time.monotonic() < end:
    try:
        accepted, _ = listener.accept()
    except OSError:
        continue
    threading.Thread(target=serve, args=(accepted,), daemon=True).start()
