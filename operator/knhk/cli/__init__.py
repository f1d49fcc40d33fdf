"""The `knhk` command: each module of this package registers its commands with `knhk.cli.framework`."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Sequence

FRAME = frozenset({"__main__", "arguments", "framework", "schema"})


def load() -> None:
    """Import every module of commands, so that each registers itself."""
    for module in pkgutil.iter_modules(__path__):
        if module.name not in FRAME:
            importlib.import_module(f"{__name__}.{module.name}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `knhk`; returns the exit code."""
    from knhk.cli.framework import run

    load()
    return run(sys.argv[1:] if argv is None else argv)
