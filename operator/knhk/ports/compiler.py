"""Compiler: C tables to shared objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from knhk.model.arrows import CText, SharedObject
from knhk.model.oci import ARCHES
from knhk.packaging.materials import Material


class Compiler(Protocol):
    """Promises of every adapter.

    Same text and same materials, same bytes, on every machine. Time, memory and file size are bounded; the compiler runs apart,
    without environment and without need of a network. The text comes from `knhk_gen.emit`, never from an author.
    Concurrency: may be called from several threads. Errors: Stalled when the text does not compile or takes too long (a bug of
    ours, with what the compiler said), or when the compiler is not set up.
    """

    def compile(self, text: CText, arches: Sequence[str] = ARCHES) -> tuple[SharedObject, ...]:
        """One shared object for each of these architectures of `knhk.model.oci.ARCHES`, in that order."""
        ...

    def materials(self) -> tuple[Material, ...]:
        """What goes into every pack: compiler, sdists of parsers, engine sources; in order of name."""
        ...
