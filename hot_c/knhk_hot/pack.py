"""Packs in this process: open by digest, bind to a data bundle, decide, explain (hot_c/include/knhk_pack.h).

A shared object is copied into a private folder under its own digest before it is opened: glibc knows libraries by name and by inode, so
a path that is used again would give the old code, and a file that another may still write is no pack.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import struct
import tempfile
import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, overload

from knhk_hot.native import ffi, lib

OK, COLD, ESCAPE = 0, 1, 2
E_INPUT, E_SPACE, E_BUNDLE, E_ROUTE, E_LIMIT = -1, -2, -3, -4, -5
ADMIT, DENY = 1, 2
REASONS = {
    E_INPUT: "O is not canonical, or its body does not pass guard 0",
    E_SPACE: "output or scratch is too small",
    E_BUNDLE: "the data bundle is malformed",
    E_ROUTE: "the pack has no such route",
    E_LIMIT: "the Δ exceeds the limits of this tier",
}
ALIGN = 64
SCRATCH_O_MIN = 4096
EXPLAIN_BYTES = 1 << 20
GRAPH_BYTES = 1 << 18
GRAPH_BYTES_MAX = 1 << 29


_RESULT = struct.Struct("@iBBHII")  # knhk_result: status, verdict, class, failing, length of A, triples
_RESULT_SIZE = _RESULT.size
_unpack_result = _RESULT.unpack_from


class PackError(RuntimeError):
    """A pack, bundle or input was refused. `status` is that of the ABI, 0 when loading failed."""

    def __init__(self, message: str, status: int = 0) -> None:
        self.status = status
        super().__init__(message)


@dataclass(frozen=True)
class GuardInfo:
    """What people read of a guard."""

    id: str
    kind: str
    klass: str
    source: str
    shape: str
    component: str
    path: str
    message: str
    severity: str


class Decision(NamedTuple):
    """Result of decide: `a` holds the canonical A when `status` is OK, else b"". Negative statuses are refusals of the input."""

    status: int
    verdict: int
    klass: int
    a: bytes
    triples: int
    failing: int

    @property
    def failing_guards(self) -> tuple[int, ...]:
        """Indexes of the guards whose bit is set in A."""
        size = (int.from_bytes(self.a[6:8], "big") + 7) // 8
        bits = int.from_bytes(self.a[8 : 8 + size], "little")
        return tuple(i for i in range(bits.bit_length()) if bits >> i & 1)


class Decided(Sequence[Decision]):
    """Decisions of a batch in the order of its inputs, each made when it is asked for. Whoever wants verdicts alone reads `statuses` (i32)
    and `verdicts` (u8, valid where the status is OK): views of one number for each input."""

    def __init__(self, results: Any, actions: Any, stride: int) -> None:
        self._results, self._actions, self._stride = results, actions, stride
        raw, size = memoryview(ffi.buffer(results)).cast("B"), ffi.sizeof("knhk_result")
        self.statuses = raw.cast("i")[ffi.offsetof("knhk_result", "status") // 4 :: size // 4]
        self.verdicts = raw[ffi.offsetof("knhk_result", "verdict") :: size]

    def __len__(self) -> int:
        return len(self._results)

    @overload
    def __getitem__(self, index: int) -> Decision: ...
    @overload
    def __getitem__(self, index: slice) -> list[Decision]: ...
    def __getitem__(self, index: int | slice) -> Decision | list[Decision]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        r = self._results[at]
        return Decision(r.status, r.verdict, r.klass, ffi.buffer(self._actions + at * self._stride, r.a_len)[:], r.triples, r.failing)


class _Private:
    """One private folder per process for opened packs, removed at exit; a fork makes its own."""

    _lock = threading.Lock()
    _folder: Path | None = None
    _pid = 0

    @classmethod
    def folder(cls) -> Path:
        with cls._lock:
            if cls._folder is None or cls._pid != os.getpid():
                cls._folder, cls._pid = Path(tempfile.mkdtemp(prefix="knhk-packs-")), os.getpid()
                atexit.register(cls._remove, cls._folder, cls._pid)
            return cls._folder

    @staticmethod
    def _remove(folder: Path, pid: int) -> None:
        if pid == os.getpid():
            shutil.rmtree(folder, ignore_errors=True)


def _aligned(size: int) -> Any:
    """(keep-alive, pointer) of `size` zeroed bytes on a 64-byte boundary."""
    memory = ffi.new("uint8_t[]", size + ALIGN)
    start = int(ffi.cast("uintptr_t", memory))
    return memory, memory + (-start % ALIGN)


class Pack:
    """An opened pack. Handles stay open for the life of the process: bindings and threads may hold on to code."""

    _open: ClassVar[dict[str, Pack]] = {}
    _lock = threading.Lock()

    def __init__(self, native: Any, heat: Any, sha256: str) -> None:
        self._native = native
        self._heat = heat
        self.sha256 = sha256
        self.name = _text(native.name)
        self.version = _text(native.version)
        self.tool = _text(native.tool)
        self.plan_digest = bytes(ffi.buffer(native.plan_sha256)).hex()
        self.a_max = int(native.a_max)
        self.ncold = int(native.ncold)

    @classmethod
    def open(cls, path: str | os.PathLike[str], sha256: str | None = None) -> Pack:
        """Opens the shared object at `path`; `sha256` (hexadecimal) is what its bytes must have. Raises PackError."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise PackError(f"cannot read pack {os.fspath(path)}: {error.strerror}") from error
        return cls.load(data, sha256, os.fspath(path))

    @classmethod
    def load(cls, data: bytes, sha256: str | None = None, what: str = "pack") -> Pack:
        """Opens a shared object that is in memory. The same bytes give the same Pack."""
        digest = hashlib.sha256(data).hexdigest()
        if sha256 is not None and digest != sha256.lower():
            raise PackError(f"{what}: SHA-256 is {digest}, must be {sha256}")
        with cls._lock:
            if digest not in cls._open:
                cls._open[digest] = cls(*_dlopen(data, digest, what), digest)
            return cls._open[digest]

    @cached_property
    def guards(self) -> tuple[GuardInfo, ...]:
        fields = ("id", "kind", "klass", "source", "shape", "component", "path", "message", "severity")
        rows = (self._native.guards[i] for i in range(self._native.nguards))
        return tuple(GuardInfo(*(_text(getattr(row, name)) for name in fields)) for row in rows)

    @cached_property
    def predicates(self) -> tuple[str, ...]:
        """IRIs of the predicates that guards name, in the order in which heat is counted; none of a pack that counts no heat."""
        if self._heat == ffi.NULL:
            return ()
        length, found = ffi.new("size_t *"), []
        for i in range(self._heat.npredicates):
            text = self._heat.predicate(i, length)
            found.append(bytes(ffi.buffer(text, length[0])).decode())
        return tuple(found)

    @cached_property
    def variants(self) -> tuple[str, ...]:
        """Names of the variants that this processor can run, best first."""
        return tuple(_text(v.name) for v in self._supported())

    def _supported(self) -> list[Any]:
        every = (self._native.variants + i for i in range(self._native.nvariants))
        return [v for v in every if v.supported()]

    def _variant(self, name: str | None) -> Any:
        wanted = name or os.environ.get("KNHK_KERNEL")
        for variant in self._supported():
            if wanted is None or _text(variant.name) == wanted:
                return variant
        raise PackError(f"KNHK_KERNEL={wanted}: this pack and processor have {', '.join(self.variants)}")

    def bind(self, bundle: bytes | None = None, kernel: str | None = None) -> Binding:
        """Ties the pack to a data bundle (formats/bundle.md). `kernel` or $KNHK_KERNEL names a variant; default the best."""
        return Binding(self, bundle, self._variant(kernel))


def _text(pointer: Any) -> str:
    return bytes(ffi.string(pointer)).decode()


def _dlopen(data: bytes, digest: str, what: str) -> tuple[Any, Any]:
    path = _Private.folder() / f"{digest}.so"
    if not path.exists():
        temporary = path.with_suffix(".new")
        temporary.write_bytes(data)
        temporary.replace(path)
    error, handle = ffi.new("char[]", 512), ffi.new("void **")
    native = lib.knhk_open(os.fsencode(path), handle, error, len(error))
    if native == ffi.NULL:
        raise PackError(f"{what} is not a pack: {bytes(ffi.string(error)).decode(errors='replace')}")
    return native, lib.knhk_heat_of(handle[0])


class _Scratch(threading.local):
    """Memory of one thread: scratch for an O of up to `o_max` bytes; room for a result with its A behind it, and that as a buffer."""

    o_max = -1
    at: Any
    size: int
    out: Any
    size_out: int
    view: Any

    def grow(self, native: Any, o_len: int, a_max: int) -> None:
        o_max = max(SCRATCH_O_MIN, 1 << (o_len - 1).bit_length())
        self.size = int(native.batch_size(o_max))
        self._memory, self.at = _aligned(self.size)
        self.size_out = _RESULT_SIZE + a_max
        self._out, self.out = _aligned(self.size_out)
        self.view = ffi.buffer(self.out, self.size_out)
        self.o_max = o_max


class Binding:
    """A pack with its data. Safe for threads: each has scratch memory of its own."""

    def __init__(self, pack: Pack, bundle: bytes | None, variant: Any) -> None:
        self.pack = pack
        self.kernel = _text(variant.name)
        self._variant = variant
        self._native = pack._native
        self._bundle = ffi.NULL if bundle is None else ffi.from_buffer("uint8_t[]", bundle)
        size = 0 if bundle is None else len(bundle)
        needed = self._native.bind_size(self._bundle, size)
        self._memory, at = _aligned(needed)
        status = ffi.new("int32_t *")
        self._binding = self._native.bind(self._bundle, size, at, needed, status)
        if self._binding == ffi.NULL:
            raise PackError(REASONS[status[0]], status[0])
        self._local = _Scratch()

    def _scratch(self, o_len: int) -> tuple[Any, int]:
        """Pointer and size of this thread's scratch, grown when `o_len` needs more."""
        if o_len > self._local.o_max:
            self._local.grow(self._native, o_len, self.pack.a_max)
        return self._local.at, self._local.size

    def decide(self, o: bytes) -> Decision:
        """O → A."""
        local = self._local
        n = len(o)
        if n > local.o_max:
            local.grow(self._native, n, self.pack.a_max)
        lib.knhk_decide_into(self._variant, self._binding, o, n, local.out, local.size_out, local.at, local.size)
        view = local.view
        status, verdict, klass, failing, a_len, triples = _unpack_result(view)
        return Decision(status, verdict, klass, view[_RESULT_SIZE : _RESULT_SIZE + a_len], triples, failing)

    @property
    def predicates(self) -> tuple[str, ...]:
        """Those of the pack."""
        return self.pack.predicates

    def heat(self, o: bytes) -> dict[str, int]:
        """Triples of each predicate that guards name in the Δ of one observation; empty when O is refused."""
        counts = ffi.new("uint64_t[]", max(1, len(self.pack.predicates)))
        if self.decide(o).status >= OK and self.pack.predicates:
            self.pack._heat.count(self._local.at, counts, len(self.pack.predicates))
        return {name: n for name, n in zip(self.pack.predicates, counts, strict=False) if n}

    def decide_batch(self, observations: Sequence[bytes]) -> list[Decision]:
        """O → A for many, in order; one crossing into C."""
        return list(self.decide_many(observations))

    def decide_many(self, observations: Sequence[bytes]) -> Decided:
        """O → A for many, in order; one crossing into C and no Python object per decision."""
        n, stride = len(observations), self.pack.a_max
        a, results = ffi.new("uint8_t[]", n * stride + 1), ffi.new("knhk_result[]", n)
        if n > 0:
            sizes = array("L", map(len, observations))
            scratch, size = self._scratch(max(sizes))
            lengths = ffi.from_buffer("size_t[]", sizes)
            joined = ffi.from_buffer("uint8_t[]", b"".join(observations))
            lib.knhk_decide_many(self._variant, self._binding, n, joined, lengths, a, stride, results, scratch, size)
        return Decided(results, a, stride)

    def graph(self, o: bytes) -> bytes:
        """The Δ as canonical N-Triples, sorted lines. Raises PackError when the body fails guard 0 or is beyond this tier."""
        scratch, size = self._scratch(len(o))
        room = GRAPH_BYTES
        while True:
            out = ffi.new("char[]", room)
            n = self._native.graph(self._binding, ffi.from_buffer("uint8_t[]", o), len(o), out, room, scratch, size)
            if n >= 0:
                return bytes(ffi.buffer(out, n))
            if n != E_SPACE or room >= GRAPH_BYTES_MAX:
                raise PackError(REASONS[n], n)
            room *= 8

    def explain(self, o: bytes, a: bytes) -> list[dict[str, str]]:
        """Why A has its bits: {guard, rule, shape, path, focus, value, message} each, at most 64."""
        scratch, size = self._scratch(len(o))
        out = ffi.new("char[]", EXPLAIN_BYTES)
        source, action = ffi.from_buffer("uint8_t[]", o), ffi.from_buffer("uint8_t[]", a)
        n = self._native.explain(self._binding, source, len(o), action, len(a), out, EXPLAIN_BYTES, scratch, size)
        if n < 0:
            raise PackError(REASONS[n], n)
        found: list[dict[str, str]] = json.loads(bytes(ffi.buffer(out, n)))
        return found
