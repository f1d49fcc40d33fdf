"""Lineage of a receipt as a cluster's API serves it: what the log says, for who may read receipts there; no records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knhk.model.faults import NotFound
from knhk.reconcilers import lineage
from knhk.reconcilers.evidence import size_of
from knhk.reconcilers.lineage import Wanted
from knhk.wiring.lineage import Found
from knhk.wiring.receipt_reading import client
from knhk_verify.errors import Bad


@dataclass(frozen=True)
class Proven:
    """Entries with the proofs that came with them, each of which has its own checkpoint."""

    entries: Mapping[int, bytes]
    proofs: Mapping[int, str]

    def entry(self, index: int) -> bytes:
        return self.entries[index]

    def inclusion(self, index: int, note: str) -> str:
        """Whatever `note` is. Raises Bad where none came."""
        if not (proof := self.proofs.get(index, "")):
            raise Bad(f"entry {index}", "must come with a proof")
        return proof


def of_receipt(kubeconfig: Path, namespace: str | None, receipt: str) -> Found | None:
    """The decisions of a receipt id with what made their packs; None when there is no such receipt. Raises as receipts_kube.page."""
    from knhk.adapters import receipts_kube

    api = client(kubeconfig)
    try:
        rows = receipts_kube.looked_up(api, namespace, receipt)
    except NotFound:
        return None
    specs = {row.number: receipts_kube.evidence(api, row)["spec"] for row in rows}
    packs = {(row.traits["namespace"], row.traits["packDigest"]) for row in rows if row.traits["packDigest"]}
    told = [row for where, digest in sorted(packs) for row in receipts_kube.events(api, where, f"packDigest={digest}")]
    entries: dict[int, bytes | Mapping[str, Any]] = {row.number: json.loads(row.data) for row in told}
    decided = {row.number: row.data for row in rows}
    found = lineage.lineage(sorted({**entries, **decided}.items()), {}, Wanted(receipts=frozenset((bytes.fromhex(receipt),))), "unread")
    log = Proven(decided, {number: str(spec["proof"]) for number, spec in specs.items()})
    note = str(specs[rows[-1].number]["checkpoint"])
    return Found(found, {}, log, note, size_of(note, "checkpoint"))
