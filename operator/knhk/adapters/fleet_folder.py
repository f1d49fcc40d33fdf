"""Fleet by folders: HOME/points/NS.NAME holds what one agent reads and writes, each file replaced by rename.

`desired/keys.json`, `point.json`, `envoy.json` and `rollout.json` beside it are written here; `stats.json` by the agent (formats/agent.md).
A waiting reader looks at the time stamps.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from knhk.model.consents import BASE
from knhk.model.consents import DOCUMENT as CONSENTS
from knhk.model.faults import Corrupt
from knhk.ports.fleet import Statistics, must_take_its_place
from knhk.ports.shelf import BOOTSTRAP, CONFIG, DOCUMENT, KEYS
from knhk_runtime.durable import replace_file

STATISTICS = "stats.json"
LOOK_EVERY_S = 0.05


class FolderShelf:
    """`knhk.ports.shelf.Shelf` over `folder` (HOME/points): FOLDER/NS.NAME/desired."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, point: str) -> Path:
        """The point's folder."""
        namespace, _, name = point.partition("/")
        return self._folder / f"{namespace}.{name}"

    def files(self, point: str) -> Mapping[str, bytes]:
        """See the port."""
        found = ((name, self.read(point, name)) for name in (KEYS, CONFIG, DOCUMENT, BOOTSTRAP))
        return {name: data for name, data in found if data is not None}

    def read(self, point: str, name: str) -> bytes | None:
        """One file; None when it is not there."""
        try:
            return (self.of(point) / "desired" / name).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, point: str, name: str, data: bytes) -> None:
        """See the port."""
        path = self.of(point) / "desired" / name
        if path.exists() and path.read_bytes() == data:
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, data)


class FolderFleet:
    """knhk.ports.fleet.Fleet over `folder` (HOME/points)."""

    def __init__(self, folder: Path) -> None:
        self._shelf = FolderShelf(folder)

    def publish_document(self, point: str, envelope: bytes) -> None:
        must_take_its_place(point, envelope, self.document(point))
        self._shelf.put(point, DOCUMENT, envelope)

    def publish_keys(self, point: str, envelope: bytes) -> None:
        self._shelf.put(point, KEYS, envelope)

    def publish_config(self, point: str, config: bytes) -> None:
        self._shelf.put(point, CONFIG, config)

    def publish_bootstrap(self, point: str, bootstrap: bytes) -> None:
        self._shelf.put(point, BOOTSTRAP, bootstrap)

    def publish_consents(self, point: str, envelope: bytes, base: bytes | None) -> None:
        if base is not None:
            self._shelf.put(point, BASE, base)
        self._shelf.put(point, CONSENTS, envelope)

    def document(self, point: str) -> bytes | None:
        return self._shelf.read(point, DOCUMENT)

    def config(self, point: str) -> bytes | None:
        return self._shelf.read(point, CONFIG)

    def statistics(self, point: str) -> Statistics | None:
        path = self._shelf.of(point) / STATISTICS
        try:
            with path.open("rb") as file:
                written_ns, data = os.fstat(file.fileno()).st_mtime_ns, file.read()
        except FileNotFoundError:
            return None
        try:
            document = json.loads(data)
        except ValueError as error:
            raise Corrupt(str(path), f"must be JSON: {error}") from error
        if not isinstance(document, dict):
            raise Corrupt(str(path), "must be a JSON object")
        return Statistics(document, written_ns)

    def wait(self, known_ns: Mapping[str, int], timeout_s: float) -> frozenset[str]:
        deadline = time.monotonic() + timeout_s
        while True:
            changed = frozenset(point for point, known in known_ns.items() if self._written_ns(point) > known)
            left = deadline - time.monotonic()
            if changed or left <= 0:
                return changed
            time.sleep(min(LOOK_EVERY_S, left))

    def _written_ns(self, point: str) -> int:
        try:
            return (self._shelf.of(point) / STATISTICS).stat().st_mtime_ns
        except FileNotFoundError:
            return 0
