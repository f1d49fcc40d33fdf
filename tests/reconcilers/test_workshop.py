"""Building by the control plane's own process keeps it from nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from fakes import FakeClock, FakeCompiler, FakeProver, FakeRegistry, FakeSigner
from rollout_world import bundle

from knhk.api import parse
from knhk.model.oci import Artifact
from knhk.packaging.builds import DataOrder
from knhk.reconcilers.workshop import Bench, Retirement, Workshop

WITHIN_S = 240.0


class Slow(FakeRegistry):
    """Takes nothing until it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may = threading.Event()

    def publish(self, artifacts: Iterable[Artifact], tag: str = "") -> None:
        assert self.may.wait(WITHIN_S)
        super().publish(tuple(artifacts), tag)


def test_data_is_published_beside_the_loop_and_beside_builds() -> None:
    registry, block = Slow(), threading.Event()
    with ThreadPoolExecutor(1) as builds, ThreadPoolExecutor(1) as beside:
        builds.submit(block.wait, WITHIN_S)
        bench = Bench(FakeCompiler(), FakeProver(), registry, FakeSigner(), "generator")
        shop = Workshop(bench, builds, beside, Retirement(registry, FakeClock()))
        (resource,) = parse(bundle(), "roles.yaml")
        build = shop.data(DataOrder(resource))
        assert not build.done()
        registry.may.set()
        image = build.result(WITHIN_S).image
        block.set()
    assert registry.read(image)
