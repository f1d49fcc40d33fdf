"""Where the expectations of packs lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from knhk.model.expectations import Expectations


class ExpectationFiles(Protocol):
    """Expectations as files. Promises: nothing is written; what is read is bounded in bytes, and lies inside `root` where one is given."""

    def beside(self, pack_file: Path) -> Path:
        """Where the expectations of a pack lie, whether they are there or not."""
        ...

    def expectations(self, file: Path, plan: Mapping[str, Any], root: Path | None = None) -> Expectations:
        """The expectations of a file, for a pack with this plan. Raises Refused with every fault, each with its line."""
        ...

    def files_of(self, file: Path) -> frozenset[Path]:
        """A file of expectations and the payloads that it names, whether these are there or not; empty without the file. Raises Refused."""
        ...
