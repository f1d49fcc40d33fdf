"""Another process that writes to a store: `writer.py create|count|endless FILE`; `endless` says what was written."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from contract import pack

from knhk.adapters.store_sqlite import SqliteStore
from knhk.adapters.system import SystemClock, SystemRandom
from knhk.model.faults import Conflict
from knhk.model.resource import Key

WRITES = 25
KEY = Key("PolicyPack", "erp", "controls")


def create(store: SqliteStore) -> None:
    store.create(pack())


def count(store: SqliteStore) -> None:
    """Add one to a counter WRITES times, reading again whenever somebody else was first."""
    done = 0
    while done < WRITES:
        now = store.get(KEY)
        try:
            store.update_status(replace(now, status={"n": int(now.status.get("n", 0)) + 1}))
        except Conflict:
            continue
        done += 1


def endless(store: SqliteStore) -> None:
    made = store.create(pack())
    n = 0
    while True:
        n += 1
        made = store.update_status(replace(made, status={"n": n}))
        sys.stdout.write(f"{n}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    opened = SqliteStore(Path(sys.argv[2]), SystemClock(), SystemRandom())
    {"create": create, "count": count, "endless": endless}[sys.argv[1]](opened)
    opened.close()
