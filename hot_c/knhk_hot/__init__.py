"""The C hot library, the Envoy shim and their cffi binding, which only binds."""

from __future__ import annotations

from knhk_hot.toolchain import Artifacts, artifacts

__all__ = ["Artifacts", "artifacts"]
