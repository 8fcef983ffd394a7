#!/usr/bin/python3
"""Does an old primary, whose lease has expired while it was away, take the leader key from its successor? Prints who has it then.

Arguments: the scope, and the program that corrects Patroni, or none.
"""

import os
import sys
from importlib.machinery import SourceFileLoader

from patroni.dcs import get_dcs

scope = sys.argv[1]
if len(sys.argv) > 2:
    SourceFileLoader("corrected", sys.argv[2]).load_module().correct()


def store(name):
    return get_dcs({
        "scope": scope, "name": name, "namespace": "/test/", "ttl": 30, "loop_wait": 10, "retry_timeout": 10,
        "etcd3": {"hosts": ["127.0.0.1:2379"]},
    })


def leader(of):
    return of.get_cluster().leader.name


old, new = store("old"), store("new")
assert old.attempt_to_acquire_leader() and leader(old) == "old"
old._client.call_rpc("/lease/revoke", {"ID": old._lease})
assert new.attempt_to_acquire_leader()
kept = old._update_leader()
print("old keeps the lock" if kept else "old has lost the lock", "and", leader(store("third")), "has the key")
# Where nobody has it, it is his again.
for other in (old, new):
    other._client.call_rpc("/lease/revoke", {"ID": other._lease})
assert old._update_leader() and leader(store("fourth")) == "old"
sys.stdout.flush()
os._exit(0)
