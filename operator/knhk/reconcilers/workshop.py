"""Building by this process: the port Builder over compiler, prover, signer and registry. How a pack is built is `building`'s matter."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from knhk.model.arrows import SignedPack
from knhk.model.canonical import sha256_hex
from knhk.model.faults import Waiting
from knhk.model.oci import PACK
from knhk.packaging.builds import DataOrder, Order, PackOrder, PublishedData, Result, Step
from knhk.packaging.image import PACK_NAME
from knhk.ports.builder import Build
from knhk.ports.clock import Clock
from knhk.ports.compiler import Compiler
from knhk.ports.notary import Notary
from knhk.ports.prover import Prover
from knhk.ports.registry import Registry
from knhk.ports.signer import Signer
from knhk.reconcilers.admission import bundle_bytes
from knhk.reconcilers.building import Data, Made, build, known, notarise, publish_data

GRACE_S = 3600.0


@dataclass(frozen=True)
class Bench:
    """What builds with: `generator` is the SHA-256 of the compiler's sources. With a `notary` nothing is done before others outside bear
    witness to the papers; what is built meanwhile stays in the registry, and the next order of it goes on from there."""

    compiler: Compiler
    prover: Prover
    registry: Registry
    signer: Signer
    generator: str
    notary: Notary | None = None

    def make(self, order: Order, told: Callable[[Step], None]) -> Result:
        """The result of an order, in the registry. Raises as `building.build`, and OSError."""
        return self.data(order) if isinstance(order, DataOrder) else self.pack(order, told)

    def pack(self, order: PackOrder, told: Callable[[Step], None]) -> SignedPack:
        found = self._known(order, told) or self._built(order, told)
        self._notarise(found.image.digest, "build", told)
        return found

    def _known(self, order: PackOrder, told: Callable[[Step], None]) -> SignedPack | None:
        data = None if order.bundle is None else sha256_hex(bundle_bytes(order.bundle))
        found = known(order.pack, self.compiler.materials(), self.registry, self.signer, self.generator, data)
        if found is not None:
            told(Step("Known", found.image.digest))
        return found

    def _built(self, order: PackOrder, told: Callable[[Step], None]) -> SignedPack:
        def prove(made: Made) -> Mapping[str, Any]:
            return self.prover.prove(order.pack, made.plan, made.objects, order.bundle)

        steps = build(order.pack, self.compiler, self.registry, self.signer, prove, generator=self.generator)
        while True:
            try:
                told(next(steps))
            except StopIteration as stop:
                signed: SignedPack = stop.value
                return signed

    def data(self, order: DataOrder) -> PublishedData:
        data = bundle_bytes(order.resource)
        image = publish_data(Data(order.resource.namespace, order.resource.name, data), self.registry, self.signer)
        self._notarise(image.digest, "data", lambda _: None)
        return PublishedData(image.digest, sha256_hex(data))

    def _notarise(self, digest: str, role: str, told: Callable[[Step], None]) -> None:
        if self.notary is not None:
            notarise(digest, role, self.registry, self.signer, self.notary)
            told(Step("Notarised", digest))


@dataclass
class Retirement:
    """Takes out of a registry what no revision needs. `grace_s`: since when it must have been seen so; what was built a moment ago may not
    be in a status yet. One thread at a time."""

    registry: Registry
    clock: Clock
    grace_s: float = GRACE_S
    _since_s: dict[str, float] = field(default_factory=dict)

    def sweep(self, needed: Mapping[str, Collection[str]], asked: Callable[[], bool] = lambda: True) -> tuple[str, ...]:
        """See the port. `asked`: whether somebody still waits for it; who asked may be gone, and another knows better what is needed."""
        now_s = self.clock.monotonic_ns() / 1e9
        images = [told for told in self.registry.listed() if told.artifact_type == PACK and told.annotations.get(PACK_NAME) in needed]
        idle = {told.digest for told in images if told.digest not in needed[told.annotations[PACK_NAME]]}
        self._since_s = {digest: self._since_s.get(digest, now_s) for digest in idle}
        due = sorted(digest for digest, since_s in self._since_s.items() if now_s - since_s >= self.grace_s)
        for digest in due:
            if not asked():
                raise Waiting("Abandoned", "nobody waits for this sweep any longer", 0.0)
            self.registry.remove(digest)
            del self._since_s[digest]
        return (*due, *self.registry.collect_garbage())


@dataclass(frozen=True)
class Workshop:
    """knhk.ports.builder.Builder. `executor` runs builds of packs, so that a long one never delays a rollback; `beside` those of data,
    which wait for none of them."""

    bench: Bench
    executor: Executor
    beside: Executor
    retirement: Retirement

    def pack(self, order: PackOrder) -> Build[SignedPack]:
        build: Build[SignedPack] = Build()
        self.executor.submit(build.settle, lambda: self.bench.pack(order, build.told))
        return build

    def data(self, order: DataOrder) -> Build[PublishedData]:
        build: Build[PublishedData] = Build()
        self.beside.submit(build.settle, lambda: self.bench.data(order))
        return build

    def retire(self, needed: Mapping[str, Collection[str]]) -> Future[tuple[str, ...]]:
        return self.executor.submit(self.retirement.sweep, needed)
