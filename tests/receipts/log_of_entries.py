"""Logs of chosen leaves and policy events, as the sequencer writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from knhk.adapters.log_reading import of_folder
from knhk.adapters.signer_local import LocalSigner, establish
from knhk.lockchain import PolicyEvent, notarised, statement
from knhk.model.canonical import canonical
from knhk_runtime.record import encode_leaf
from knhk_runtime.sequencer.__main__ import load_key
from knhk_runtime.sequencer.core import Log
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.sequencer.wire import parse_append, parse_event
from knhk_runtime.sequencer_client import encode_batch
from knhk_runtime.tlog.served import Served
from knhk_verify.leaf import Leaf

ORIGIN = "knhk.dev/test"
START_NS = 1795179600000000000  # 2026-11-20T13:00:00Z
CONTROLS, LIMITS, OTHERS = (bytes((n,)) * 32 for n in (1, 2, 3))
PACKS = {CONTROLS: ("erp", "invoice-controls"), LIMITS: ("erp", "limits"), OTHERS: ("crm", "leads")}


def leaf(
    number: int, *, ring: bytes = b"RING0001", pack: bytes = CONTROLS, kind: int = 1, verdict: int = 1, flags: int = 0, mode: int = 1
) -> bytes:
    hashed = number.to_bytes(32, "big")
    a = hashed if kind == 1 else bytes(32)
    return encode_leaf(Leaf(kind, 1, verdict, mode, flags, 0, hashed, a, pack[:20], START_NS + number, ring + number.to_bytes(8, "big")))


def outside(entry: bytes, hint: str = "cd" * 32) -> bytes:
    """A bundle around the same statement, by a key of nobody."""
    document = json.loads(entry)
    return canonical({**document, "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []}})


class Written:
    """A log folder with its keys beside; `add` appends, and all of it is under the checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "log"
        self.signer: LocalSigner = establish(folder / "keys", ORIGIN, datetime.now(UTC))
        self._key = load_key(folder / "keys" / "log.key", ORIGIN)
        (self.folder).mkdir(parents=True)
        (self.folder / "keys.json").write_bytes(self.signer.keys_json())

    def add(self, *entries: bytes) -> None:
        log = Log(self.folder, self._key, Disk())
        for entry in entries:
            log.commit([parse_event(entry) if entry[:1] == b"{" else parse_append(encode_batch([entry]))])
        log.integrate()
        log.close()

    def add_events(self, bundles: Iterable[bytes], batch: int = 1_000) -> None:
        """Many at once."""
        log, waiting = Log(self.folder, self._key, Disk()), iter(bundles)
        while some := [parse_event(bundle) for bundle in islice(waiting, batch)]:
            log.commit(some)
            log.integrate()
        log.close()

    def leaves(self, entries: Iterable[bytes], batch: int = 50_000) -> None:
        """Many at once."""
        log, waiting = Log(self.folder, self._key, Disk()), list[bytes]()
        for entry in entries:
            waiting.append(entry)
            if len(waiting) == batch:
                log.commit([parse_append(encode_batch(waiting))])
                log.integrate()
                waiting.clear()
        if waiting:
            log.commit([parse_append(encode_batch(waiting))])
        log.integrate()
        log.close()

    def event(
        self,
        kind: str,
        pack: bytes = CONTROLS,
        *,
        of: tuple[str, str] | None = None,
        version: str = "1.0.0",
        actor: str = "system:serviceaccount:knhk-system:knhk-operator",
        **more: Any,
    ) -> bytes:
        """Of the pack `of` (namespace, name), by default the one of PACKS, with the digest `pack`."""
        namespace, name = of or PACKS[pack]
        told: Mapping[str, Any] = {"name": name, "namespace": namespace, "version": version, "digest": f"sha256:{pack.hex()}"}
        found = PolicyEvent(
            kind, (f"pack/{namespace}/{name}@{version}", pack.hex()), actor, more.pop("time", "2026-11-20T10:00:00Z"), pack=told, **more
        )
        return self.signer.bundle("rollout", statement(found))

    def notarised(self, entry: bytes, index: int, receipt: str, bundle: bytes) -> bytes:
        """The event that the log has `bundle` in, what others outside said of an entry."""
        return self.signer.bundle("rollout", statement(notarised(receipt, entry, index, bundle, "op", "2026-11-23T10:00:05Z")))

    def nobodys(self, kind: str) -> bytes:
        """An event of no namespace."""
        found = PolicyEvent(kind, ("keys/build", CONTROLS.hex()), "root", "2026-11-23T10:00:00Z")
        return self.signer.bundle("rollout", statement(found))

    @property
    def served(self) -> Served:
        size = int((self.folder / "checkpoint").read_text().split("\n")[1])
        return Served(str(self.folder), of_folder(self.folder), size)
