"""PolicyPacks with what lies beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from knhk.model.resource import Resource


@dataclass(frozen=True)
class Found:
    """A PolicyPack, with the hooks that it selects as further sources, and the DataBundle that it reads, if it names one."""

    pack: Resource
    file: Path
    bundle: Resource | None


def bundle_name(pack: Resource) -> str | None:
    """The DataBundle that a pack reads, of its own namespace."""
    return next((str(row["name"]) for row in pack.spec.get("dataBundles", ())), None)
