"""Builder: from sources to a signed pack in the registry, by whoever holds the keys for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from typing import Protocol, TypeVar

from knhk.model.arrows import SignedPack
from knhk.packaging.builds import DataOrder, PackOrder, PublishedData, Step

T = TypeVar("T")


class Build(Future[T]):
    """A build that was ordered. `step`: what it did last, for people; empty at first."""

    step: str = ""

    def told(self, step: Step) -> None:
        """The builder's part: a step is done."""
        self.step = f"{step.name}: {step.made}"

    def settle(self, work: Callable[[], T]) -> None:
        """The builder's part: runs `work`, which gives the result, unless the order was taken back."""
        if self.running() or self.set_running_or_notify_cancel():
            try:
                self.set_result(work())
            except Exception as error:
                self.set_exception(error)


class Builder(Protocol):
    """Promises of every adapter.

    Calls return at once; the build is done when the result lies in the registry. It is `running` from when work begins, so that the time
    of waiting for others is told apart; cancelling it before takes the order back, one that runs ends by itself.
    Same order, same result; what the registry has already, made by the same sources and tools, is not made again. Nothing is ever half
    published, however a build ends.
    Errors, in the build: Refused with all faults, Stalled, and Waiting: to be asked again, as after a crash of the builder.
    Concurrency: any thread.
    """

    def pack(self, order: PackOrder) -> Build[SignedPack]:
        """Compiled, proven, signed with the key of role build and published, with SBOM and provenance."""
        ...

    def data(self, order: DataOrder) -> Build[PublishedData]:
        """Made an artifact, signed with the key of role data and published."""
        ...

    def retire(self, needed: Mapping[str, Collection[str]]) -> Future[tuple[str, ...]]:
        """`needed`: NAMESPACE/NAME of a pack → digests of its images that must stay. Others of these packs leave the registry with their
        referrers, once they were not needed for a while; then garbage is collected. Gives the digests that are gone."""
        ...
