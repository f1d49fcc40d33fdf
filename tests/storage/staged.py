"""Kills by SIGKILL at the n-th step *within* a named stage, again and again on one folder, and says what came of it (JSON).

    python tests/storage/staged.py FOLDER KILLS_OF_EACH SEED

A stage is a set of steps of the file system (formats/log.md, formats/delta.md); a child counts those of one stage and dies before, after,
or in the middle of the n-th (of a write, else before it): n, which of these, and what it writes come from the seed. All go on where the
last kill left the folder."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "delta"))

from acknowledging import acknowledged, append_for_ever
from delta_world import HOUR_NS, NOON_NS, Clock, decided
from machines import KEY, Machine, leaves
from published_log import read

from knhk.adapters import delta_parquet
from knhk.ports.segments import Batch
from knhk.reconcilers import delta
from knhk.reconcilers.compacting import Policy
from knhk.reconcilers.delta import Commit, Plan
from knhk.reconcilers.ledger import Kept, Ledger
from knhk_hot.records import columns, scan
from knhk_runtime.objects.folder import FolderStore
from knhk_runtime.record import entry_key
from knhk_runtime.sequencer import wal
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.tlog.fsck import fsck

WITHIN = 12  # the step at which a child dies is one of so many
WITHIN_MERGES = 60  # a merge has some thirty
SMALL_SEGMENT = 4_000  # bytes of a WAL segment, so that it is followed by another soon
LIMIT_S = 600.0  # for a machine on which each sync takes its time
BEFORE, MIDDLE, AFTER = "before", "middle", "after"


@dataclass
class Death:
    """At the n-th step from now on that `is_of` takes for one of its stage; `how`: before it, after it, or (of a write) in its middle."""

    is_of: Callable[[str, str], bool]
    n: int
    how: str
    armed: bool = False

    def step(self, name: str, path: str, act: Callable[[], object], half: Callable[[], object] | None = None) -> object:
        if not self.armed or not self.is_of(name, path):
            return act()
        self.n -= 1
        if self.n > 0:
            return act()
        try:  # a step may fail as well
            if self.how == AFTER:
                act()
            elif self.how == MIDDLE and half is not None:
                half()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
        return None


class Mortal(Disk):
    """A disk whose every step is told to a death, by the name of the file that it is about."""

    def __init__(self, death: Death) -> None:
        self._death, self._paths = death, dict[int, str]()

    def create(self, path: Path) -> int:
        fd = self._death.step("create", str(path), lambda: super(Mortal, self).create(path))
        assert isinstance(fd, int)
        self._paths[fd] = str(path)
        return fd

    def write(self, fd: int, data: bytes) -> None:
        half = data[: len(data) // 2]
        self._death.step("write", self._paths[fd], lambda: super(Mortal, self).write(fd, data), lambda: super(Mortal, self).write(fd, half))

    def sync(self, fd: int) -> None:
        self._death.step("sync", self._paths[fd], lambda: super(Mortal, self).sync(fd))

    def rename(self, source: Path, target: Path) -> None:
        self._death.step("rename", str(target), lambda: super(Mortal, self).rename(source, target))
        self._paths = {fd: str(target) if path == str(source) else path for fd, path in self._paths.items()}

    def sync_dir(self, path: Path) -> None:
        self._death.step("sync_dir", str(path), lambda: super(Mortal, self).sync_dir(path))

    def unlink(self, path: Path) -> None:
        self._death.step("unlink", str(path), lambda: super(Mortal, self).unlink(path))


def _append(name: str, path: str) -> bool:
    return name == "write" and "/wal/" in path and path.endswith(".seg")


def _flush(name: str, path: str) -> bool:
    return name == "sync" and "/wal/" in path and path.endswith(".seg")


def _rotation(name: str, path: str) -> bool:
    """A WAL segment begins (header, sync, name), or one goes whose entries are all under a checkpoint."""
    return "/wal/" in path and (path.endswith(".seg.tmp") or name in ("rename", "sync_dir", "unlink"))


def _tile(name: str, path: str) -> bool:
    """Tiles get their names, and their folders are synced: what a checkpoint needs."""
    return "/tile/" in path and name in ("rename", "sync_dir", "unlink")


def _checkpoint(name: str, path: str) -> bool:
    return "checkpoint" in path.rpartition("/")[2]


def _upload(name: str, path: str) -> bool:
    """Bytes of tiles go to the store."""
    return "/tile/" in path and name in ("create", "write", "sync")


LOG_STAGES: dict[str, Callable[[str, str], bool]] = {
    "append": _append,
    "flush": _flush,
    "tile": _tile,
    "checkpoint": _checkpoint,
    "upload": _upload,
    "rotation": _rotation,
}
MERGE = "merge"


def logging(folder: Path, death: Death, first: int, pipe: int, chance: random.Random) -> None:
    """A sequencer, until it dies: opens the log as after a kill, then appends and publishes."""
    wal.SEGMENT_BYTES = SMALL_SEGMENT
    files = Mortal(death)
    death.armed = chance.random() < 0.2  # else it opens the log first
    machine = Machine(folder / "machine", FolderStore(folder / "store", files), time.monotonic, files)
    log, lease = machine.start()
    death.armed = True
    append_for_ever(machine, log, lease, first, (1, 2, 5, 40), pipe, chance)


def merging(folder: Path, death: Death, first: int, pipe: int, chance: random.Random) -> None:
    """A writer of an archive, until it dies: ends what the last one began, adds small segments, and merges."""
    store, clock = FolderStore(folder / "delta", Mortal(death)), Clock(NOON_NS + 9 * HOUR_NS)
    while True:
        made, policy = Ledger(store, delta_parquet, clock), Policy(few=2)
        death.armed = True
        while made.compact(policy) is not None:
            pass
        made.tidy()
        death.armed = False
        for _ in range(chance.choice((2, 3))):
            first = added(made, first, NOON_NS + chance.randint(0, 1) * HOUR_NS)


def added(made: Ledger, first: int, time_ns: int) -> int:
    """A commit of one segment with three rows from number `first` on; the number that follows."""
    contents = made.followed()
    number = contents.number + 1
    frames = b"".join(decided(each, time_ns=time_ns).frames for each in range(first, first + 3))
    batch = Batch("erp.orders", "erp/orders", 0, first, range(first, first + 3), columns(frames, scan(frames)))
    made._plan(Plan(number, {"erp.orders": ((0, first), (0, first + 3))}))
    ((folder, segment),) = delta_parquet.encode([batch], lambda region, hour: delta.folder(region, hour, ("local",)))
    file = made._put(f"{folder}/{number:016x}.parquet", segment)
    made._commit(Commit(number, "knhk.dev/test", {"erp.orders": (0, first + 3)}, (file,)))
    return first + 3


def killed(folder: Path, stage: str, first: int, chance: random.Random) -> tuple[dict[int, int], str]:
    """(number → index of what one child acknowledged, how it died)."""
    reading, writing = os.pipe()
    within, is_of = (WITHIN, LOG_STAGES[stage]) if stage in LOG_STAGES else (WITHIN_MERGES, lambda name, path: True)
    death = Death(is_of, chance.randint(1, within), chance.choice((BEFORE, MIDDLE, AFTER)))
    pid = os.fork()
    if not pid:
        try:
            signal.setitimer(signal.ITIMER_REAL, LIMIT_S)  # a child that does not come to its death ends by SIGALRM, which is told
            (merging if stage == MERGE else logging)(folder, death, first, writing, chance)
        except BaseException as error:
            os.write(2, f"{stage}: {type(error).__name__}: {error}\n".encode())
        os._exit(3)
    os.close(writing)
    data = bytearray()
    while part := os.read(reading, 1 << 16):
        data += part
    os.close(reading)
    status = os.waitpid(pid, 0)[1]
    if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
        raise SystemExit(f"{stage}: a child did not die in its stage: {status}")
    return acknowledged(bytes(data)), death.how


def of_log(folder: Path, kills: int, chance: random.Random) -> dict[str, object]:
    """Kills in each stage of a log in turn, and what the log says after all of them."""
    acked, first, stages = dict[int, int](), 0, Counter[str]()
    for _ in range(kills):
        for stage in LOG_STAGES:
            found, how = killed(folder, stage, first, chance)
            for number, index in found.items():
                if acked.setdefault(number, index) != index:
                    raise SystemExit(f"receipt {number} was acknowledged with index {acked[number]}, and then with {index}")
            stages[f"{stage} {how}"] += 1
            first = max(acked, default=-1) + 1
    log, _ = Machine(folder / "machine", FolderStore(folder / "store"), time.monotonic, Disk()).start()
    log.integrate()
    size, _, entries = read(FolderStore(folder / "store"))
    keys = [entry_key(entry) for entry in entries]
    at = dict(zip(keys, range(size), strict=True))
    lost = [number for number, index in acked.items() if at.get(entry_key(leaves(number, number + 1)[0])) != index]
    bad = [f"{found.where}: {found.what}" for found in fsck(FolderStore(folder / "store"), KEY.verifier).bad]
    return {"acked": len(acked), "size": size, "twice": size - len(at), "lost": lost, "bad": bad, "stages": stages}


def of_archive(folder: Path, kills: int, chance: random.Random) -> dict[str, object]:
    """Kills in merges, and each time what the archive's commits say."""
    store, stages, bad = FolderStore(folder / "delta"), Counter[str](), list[str]()
    first = added(made := Ledger(store, delta_parquet, Clock()), 0, NOON_NS)
    for number in range(kills):
        stages[f"{MERGE} {killed(folder, MERGE, first, chance)[1]}"] += 1
        kept = Kept(store, delta_parquet)
        found = sorted(index for name in kept.names() for index in kept.indexes(name) if index is not None)
        if found != list(range(len(found))) or len(found) < first:
            bad.append(f"kill {number}: {len(found)} rows, {len(set(found))} of them different, {first} before")
        first = len(found)
    made = Ledger(store, delta_parquet, Clock(NOON_NS + 9 * HOUR_NS))
    while made.compact(Policy(few=2)) is not None:
        pass
    made.tidy()
    visible = {each.key for each in store.list() if not each.key.startswith("_")}
    bad += sorted(visible ^ set(Kept(store, delta_parquet).names()))
    return {"rows": first, "bad": bad, "stages": stages}


def main(argv: list[str]) -> None:
    folder, kills, chance = Path(argv[0]), int(argv[1]), random.Random(int(argv[2]))
    log, archive = of_log(folder, kills, chance), of_archive(folder, kills, chance)
    print(json.dumps({"log": log, "archive": archive}))


if __name__ == "__main__":
    main(sys.argv[1:])
