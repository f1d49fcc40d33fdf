"""A published log as a stranger reads it."""

from __future__ import annotations

from machines import KEY

from knhk_runtime.objects.port import ObjectStore
from knhk_runtime.tlog.served import Served
from knhk_verify.note import open_checkpoint


def read(store: ObjectStore) -> tuple[int, bytes, list[bytes]]:
    """(size, root, entries) as a stranger reads them: signature verified, tiles must give the root."""
    note = store.get("checkpoint").data
    checkpoint = open_checkpoint(note, KEY.verifier)
    there = {row.key for row in store.list()}
    served = Served(store.name, lambda path: store.get(path).data if path in there else None, checkpoint.size)
    assert served.root(checkpoint.size) == checkpoint.root
    return checkpoint.size, checkpoint.root, list(served.entries())
