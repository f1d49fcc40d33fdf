"""The C hot library, the Envoy shim and their cffi binding, which only binds."""

from __future__ import annotations

from pathlib import Path

from knhk_hot.toolchain import Artifacts, artifacts, built

__all__ = ["Artifacts", "artifacts", "shim_module"]


def shim_module() -> Path | None:
    """The module that Envoy loads, or None when it is not built. Needs no compiler, as `artifacts` does."""
    folder = built("shim")
    return None if folder is None else folder / "knhk_shim.so"
