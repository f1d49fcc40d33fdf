"""Compiler: C tables to shared objects."""

from __future__ import annotations

from typing import Protocol

from knhk.model.arrows import CText, SharedObject
from knhk.packaging.materials import Material


class Compiler(Protocol):
    """Promises of every adapter.

    Same text and same materials, same bytes, on every machine. Time, memory, file size and open files are bounded; the linker
    runs apart, without environment and without need of a network. The text comes from `knhk_gen.emit`, never from an author.
    Concurrency: may be called from several threads. Errors: Stalled when the text does not compile (a bug of ours, with what the
    compiler said), Waiting when a bound was reached.
    """

    def compile(self, text: CText) -> tuple[SharedObject, ...]:
        """One shared object for each architecture of `knhk.model.oci.ARCHES`, in that order."""
        ...

    def materials(self) -> tuple[Material, ...]:
        """What goes into every pack: compiler, yyjson sdist, engine sources; in order of name."""
        ...
