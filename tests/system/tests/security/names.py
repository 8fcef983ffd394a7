#!/usr/bin/python3
"""A name server that answers by UDP and TCP what no name server should.

Arguments: address, for how many seconds, what to answer (a key of ANSWERS).
"""

import os
import random
import socket
import struct
import sys
import threading
import time

PORT = 53
address, seconds, manner = sys.argv[1], float(sys.argv[2]), sys.argv[3]
end = time.monotonic() + seconds


def header(question, flags=0x8580, answers=0, number=None):
    number = number if number is not None else struct.unpack("!H", question[:2])[0]
    return struct.pack("!6H", number, flags, 1, answers, 0, 0)


def alias(question):
    """CNAME of itself, with pointers that lead to themselves."""
    return header(question, answers=1) + question[12:] + b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x02\xc0\x0c"


def loop(question):
    at = len(question)
    pointer = struct.pack("!H", 0xC000 | at)
    return header(question, answers=1) + question[12:] + pointer + b"\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x0a\x00\x00\x01"


def many(question):
    record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04"
    records = b"".join(record + struct.pack("!I", number) for number in range(3500))
    return header(question, answers=3500) + question[12:] + records


ANSWERS = {
    "mute": lambda question: [],
    "random": lambda question: [random.randbytes(300)],
    "alias": lambda question: [alias(question)],
    "loop": lambda question: [loop(question)],
    "counts": lambda question: [question[:2] + b"\x85\x80" + b"\xff" * 8 + question[12:]],
    "nothing": lambda question: [question[:2] + b"\x85\x80" + b"\x00" * 8],
    "truncated": lambda question: [header(question, flags=0x8780) + question[12:]],
    "numbers": lambda question: [header(question, number=random.randrange(65536)) + question[12:] for _ in range(1000)],
    "many": lambda question: [many(question)],
}


def packets():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, PORT))
    while True:
        question, client = server.recvfrom(4096)
        for answer in ANSWERS[manner](question):
            try:
                server.sendto(answer[:60000], client)
            except OSError:
                pass


def stream(connection):
    try:
        with connection:
            connection.settimeout(20)
            question = connection.recv(4096)[2:]
            for answer in ANSWERS[manner](question)[:10]:
                message = struct.pack("!H", len(answer)) + answer
                # One byte after the other, as long as it takes.
                slow = manner == "truncated"
                for at in range(0, len(message), 1 if slow else len(message)):
                    connection.sendall(message[at:at + 1] if slow else message)
                    time.sleep(0.2 if slow else 0)
    except OSError:
        pass


listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((address, PORT))
listener.listen(64)
threading.Thread(target=packets, daemon=True).start()
print(f"bound as uid {os.getuid()} pid {os.getpid()}", flush=True)
listener.settimeout(0.5)
while time.monotonic() < end:
    try:
        accepted, _ = listener.accept()
    except OSError:
        continue
    threading.Thread(target=stream, args=(accepted,), daemon=True).start()
