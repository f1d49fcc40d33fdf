"""Building by this process: the port Builder over compiler, prover, signer and registry. How a pack is built is `building`'s matter."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

from knhk.model.arrows import SignedPack
from knhk.model.canonical import sha256_hex
from knhk.packaging.builds import DataOrder, Order, PackOrder, PublishedData, Result, Step
from knhk.ports.builder import Build
from knhk.ports.compiler import Compiler
from knhk.ports.prover import Prover
from knhk.ports.registry import Registry
from knhk.ports.signer import Signer
from knhk.reconcilers.admission import bundle_bytes
from knhk.reconcilers.building import Data, Made, build, known, publish_data


@dataclass(frozen=True)
class Bench:
    """What builds with: `generator` is the SHA-256 of the compiler's sources."""

    compiler: Compiler
    prover: Prover
    registry: Registry
    signer: Signer
    generator: str

    def make(self, order: Order, told: Callable[[Step], None]) -> Result:
        """The result of an order, in the registry. Raises as `building.build`, and OSError."""
        return self.data(order) if isinstance(order, DataOrder) else self.pack(order, told)

    def pack(self, order: PackOrder, told: Callable[[Step], None]) -> SignedPack:
        pack, bundle = order.pack, order.bundle
        data = None if bundle is None else sha256_hex(bundle_bytes(bundle))
        found = known(pack, self.compiler.materials(), self.registry, self.signer, self.generator, data)
        if found is not None:
            told(Step("Known", found.image.digest))
            return found

        def prove(made: Made) -> Mapping[str, Any]:
            return self.prover.prove(pack, made.plan, made.objects, bundle)

        steps = build(pack, self.compiler, self.registry, self.signer, prove, generator=self.generator)
        while True:
            try:
                told(next(steps))
            except StopIteration as stop:
                signed: SignedPack = stop.value
                return signed

    def data(self, order: DataOrder) -> PublishedData:
        data = bundle_bytes(order.resource)
        image = publish_data(Data(order.resource.namespace, order.resource.name, data), self.registry, self.signer)
        return PublishedData(image.digest, sha256_hex(data))


def retired(registry: Registry, digests: Collection[str]) -> tuple[str, ...]:
    """Takes these images out of a registry, with what nothing else needs; all that is gone."""
    for digest in sorted(digests):
        registry.remove(digest)
    return (*sorted(digests), *registry.collect_garbage())


@dataclass(frozen=True)
class Workshop:
    """knhk.ports.builder.Builder. `executor` runs builds of packs, so that a long one never delays a rollback; data is made at once."""

    bench: Bench
    executor: Executor

    def pack(self, order: PackOrder) -> Build[SignedPack]:
        build: Build[SignedPack] = Build()
        self.executor.submit(build.settle, lambda: self.bench.pack(order, build.told))
        return build

    def data(self, order: DataOrder) -> Build[PublishedData]:
        build: Build[PublishedData] = Build()
        build.settle(lambda: self.bench.data(order))
        return build

    def retire(self, digests: Collection[str]) -> Future[tuple[str, ...]]:
        return self.executor.submit(retired, self.bench.registry, tuple(digests))
