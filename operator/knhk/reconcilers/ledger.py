"""An archive's commits: what they say is there, and segments that are written anew, without rows that are erased or several as one
(formats/delta.md). A plan is created first and a commit last, so whoever comes after a crash goes on with the same plan."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from knhk.model.delta import Row
from knhk.model.faults import AlreadyExists, Corrupt, Deposed, NotFound, Waiting
from knhk.model.ranges import Ranges, Within
from knhk.ports.clock import Clock
from knhk.ports.segments import Made, Part, Segments
from knhk.reconcilers import delta
from knhk.reconcilers.compacting import Policy, chosen
from knhk.reconcilers.delta import Commit, Contents, File, Plan
from knhk_runtime.objects.port import ObjectStore

SNAPSHOT_EVERY = 64  # commits
SNAPSHOTS_KEPT = 2  # a reader may have seen the one before in its listing
KEEP_S = 6 * 3600.0  # a segment that became part of another stays for those who are at it
RETRY_S = 5.0
EMPTY = sha256(b"").hexdigest()


@dataclass
class Progress:
    """Of one writer since its start. `oldest_ns`: time of the oldest decision that waits, 0: none does. `broken`: copies with what is no
    record: their pods are at fault, and nobody else waits for them. `merged`: segments that became part of others. `unmatched`: records
    whose leaf the log does not show; `untrue`: rows whose O or A is not what their leaf in the log commits to."""

    commits: int = 0
    rows: int = 0
    merged: int = 0
    waiting_bytes: int = 0
    oldest_ns: int = 0
    unmatched: int = 0
    untrue: int = 0
    broken: set[str] = field(default_factory=set)


class Ledger:
    """A writer of an archive that adds no rows. Of several writers one is told by Deposed that it lost.

    Methods raise Corrupt for what was altered, and as ObjectStore does."""

    def __init__(self, store: ObjectStore, form: Segments, clock: Clock, *, keep_s: float = KEEP_S) -> None:
        self._store, self._form, self._clock, self._keep_ns = store, form, clock, int(keep_s * 1e9)
        self._known: Contents | None = None
        self._snapshot: int | None = None
        self._swept = False
        self.progress = Progress()

    # ---- what is there -------------------------------------------------------------------------

    def contents(self) -> Contents:
        """As far as this writer knows."""
        if self._known is None:
            self._known, self._swept = contents_of(self._store), False
        return self._known

    def followed(self) -> Contents:
        """With other writers' commits."""
        self._known = _followed(self._store, self.contents())
        return self._known

    def _planned(self, number: int) -> Plan | None:
        key = delta.plan_key(number)
        try:
            return delta.parse_plan(self._store.get(key).data, f"{self._store.name}/{key}", number)
        except NotFound:
            return None

    # ---- steps ---------------------------------------------------------------------------------

    def _create(self, key: str, data: bytes) -> bool:
        """Whether it was not there yet: an answer that was lost may make us meet ourselves. Raises Deposed."""
        try:
            self._store.create(key, data)
        except AlreadyExists as error:
            if self._store.get(key).data != data:
                raise self._deposed(key) from error
            return False
        return True

    def _deposed(self, key: str) -> Deposed:
        self._known = None
        return Deposed(f"{self._store.name}/{key} is another writer's: only one may write an archive")

    def _plan(self, plan: Plan) -> None:
        self._create(delta.plan_key(plan.number), delta.plan_bytes(plan))

    def _carry(self, plan: Plan) -> Commit:
        """Does what is planned. Raises Waiting for records that are to be archived."""
        if not plan.erase:
            where = f"{self._store.name}/{delta.commit_key(plan.number)}"
            raise Waiting("Archive", f"{where} is planned, and not made by its writer yet: `knhk log archive` goes on with it", RETRY_S)
        return self._rewrite(plan)

    def _commit(self, commit: Commit) -> None:
        alone = self._create(delta.commit_key(commit.number), delta.commit_bytes(commit))
        self._known = self.contents().after([commit])
        self.progress.commits += 1
        if not alone:
            self._withdraw(commit)
        if self._snapshot is None or commit.number - self._snapshot >= SNAPSHOT_EVERY:
            self._put_snapshot()

    def _withdraw(self, commit: Commit) -> None:
        """Another writer carried out the same plan: what later commits took away since was perhaps just written once more."""
        now = self.followed()
        if now.number > commit.number:
            paths = [file.path for file in commit.files if file.path not in now.files]
            self._store.delete([*paths, *map(delta.replaced_key, paths)])

    def _put_snapshot(self) -> None:
        contents = self.contents()
        self._store.put(delta.snapshot_key(contents.number), delta.snapshot_bytes(contents))
        self._snapshot = contents.number
        there = sorted(n for each in self._store.list(delta.SNAPSHOTS) if (n := delta.number_of(each.key)) is not None)
        if old := there[:-SNAPSHOTS_KEPT]:
            self._store.delete([delta.snapshot_key(number) for number in old])

    # ---- rewriting -----------------------------------------------------------------------------

    def erase(self, targets: Ranges, is_here: Callable[[str], bool] | None = None) -> int:
        """How many rows of these entries of the log lost what was recorded; 0 when none had any more. `is_here`: of whose points; None: of
        all. What a crash left of this is done by the next call, and by any writer as far as its plan was made."""
        done = 0
        while True:
            contents = self.followed()
            if (plan := self._planned(contents.number + 1)) is not None:
                self._carry(plan)
                continue
            wanted, rows = self._wanted(contents, Within(targets), is_here)
            if not wanted:
                self._purge()
                return done
            plan = Plan(contents.number + 1, {}, wanted, self._clock.now_ns())
            try:
                self._plan(plan)
            except Deposed:  # another writer was faster: its commit first
                continue
            self._carry(plan)
            done += rows

    def compact(self, policy: Policy) -> Commit | None:
        """One merge, or what else was planned; None when nothing is to be merged now."""
        contents = self.followed()
        plan = self._planned(contents.number + 1)
        if plan is None:
            now_ns = self._clock.now_ns()
            if not (paths := chosen(contents.files.values(), now_ns, policy)):
                return None
            plan = Plan(contents.number + 1, {}, dict.fromkeys(paths, ()), now_ns)
            self._plan(plan)
        return self._carry(plan)

    def _wanted(self, contents: Contents, targets: Within, is_here: Callable[[str], bool] | None) -> tuple[dict[str, Ranges], int]:
        """Of each segment the rows that are to be erased and are not yet, and how many they are. A range reaches over entries that the
        segment has no rows of: of many that are all to be erased it is one."""
        found, count, kept = dict[str, Ranges](), 0, Kept(self._store, self._form, contents)
        for path, file in kept.files.items():
            if file.first < 0 or not targets.meets(file.first, file.last):
                continue
            columns = zip(*(kept.column(path, name) for name in ("log_index", "erased", "point")), strict=True)
            rows, ranges = sorted(row for row in columns if row[0] is not None), list[tuple[int, int]]()
            before = -1  # the last row that is not to be erased
            for index, erased, point in rows:
                if erased:
                    continue
                if not targets.has(index) or not (is_here is None or is_here(point)):
                    before = index
                    continue
                count += 1
                if ranges and before < ranges[-1][0]:
                    ranges[-1] = (ranges[-1][0], index)
                else:
                    ranges.append((index, index))
            if ranges:
                found[path] = tuple(ranges)
        return found, count

    def _rewrite(self, plan: Plan) -> Commit:
        """New segments, the commit that names them, and only then are the old ones deleted. Of a merge they stay aside for a while."""
        before, parts = self.contents(), defaultdict[str, list[str]](list)
        for path in sorted(plan.erase):
            parts[path.rpartition("/")[0]].append(path)
        made = tuple(self._rewritten(plan, folder, paths, before) for folder, paths in sorted(parts.items()))
        gone = tuple(File(path, 0, 0, EMPTY, -1, -1, 0) for path in sorted(plan.erase))
        commit = Commit(plan.number, before.origin, before.sources, (*made, *gone), plan.time_ns)
        swept, self._swept = self._swept, False
        self._commit(commit)
        self._store.delete(sorted(plan.erase))
        self._swept = swept
        if plan.merges:
            self.progress.merged += len(gone)
        else:
            self._purge()
        return commit

    def _rewritten(self, plan: Plan, folder: str, paths: list[str], before: Contents) -> File:
        """One segment of several of a partition."""
        kept = Kept(self._store, self._form, before)
        try:
            read = [(path, kept.read(path)) for path in paths]
        except (KeyError, NotFound) as error:
            raise self._deposed(delta.plan_key(plan.number)) from error
        if plan.merges:
            self._store.put_all([(delta.replaced_key(path), data) for path, data in read])
        made = self._form.rewrite([Part(f"{self._store.name}/{path}", data, plan.erase[path]) for path, data in read])
        if made.rows != sum(before.files[path].rows for path in paths):
            raise Corrupt(f"{self._store.name}/{paths[0]}", "and others of its hour have other numbers of rows than their commits say")
        return self._put(f"{folder}/{plan.number:016x}.parquet", made)

    def _put(self, path: str, made: Made) -> File:
        self._store.put(path, made.data)
        return File(path, made.rows, len(made.data), sha256(made.data).hexdigest(), made.first, made.last, made.decoded)

    # ---- what is left over ---------------------------------------------------------------------

    def tidy(self) -> None:
        """Removes segments that commits took away and a crash left, and those aside that no reader is at any more."""
        contents = self.followed()
        if not self._swept:
            self._store.delete(sorted(contents.gone))
            self._swept = True
        until = self._clock.now_ns() - self._keep_ns
        if due := sorted(path for path, time_ns in contents.gone.items() if time_ns <= until):
            self._store.delete([*due, *map(delta.replaced_key, due)])
            self._known = contents.without(due)
            self._put_snapshot()

    def _purge(self) -> None:
        """What was erased lies nowhere aside."""
        aside = [each.key for each in self._store.list(delta.REPLACED)]
        self._store.delete([*sorted(self.contents().gone), *aside])


class Kept:
    """The committed segments of an archive, read whole and checked against their commits. What is merged meanwhile is read where it lies
    aside. Raises Corrupt, and as ObjectStore does."""

    def __init__(self, store: ObjectStore, form: Segments, contents: Contents | None = None) -> None:
        self.store, self._form = store, form
        self.files = (contents or contents_of(store)).files

    def names(self) -> list[str]:
        return sorted(self.files)

    def rows(self, name: str) -> Iterator[Row]:
        return self._form.rows(self.read(name), f"{self.store.name}/{name}")

    def about(self, name: str, namespace: str, subject: str, in_clear: bool) -> Iterator[Row]:
        """As `Segments.about`."""
        return self._form.about(self.read(name), f"{self.store.name}/{name}", namespace, subject, in_clear)

    def indexes(self, name: str) -> list[int | None]:
        return self.column(name, "log_index")

    def column(self, name: str, column: str) -> list[Any]:
        """All values of one column."""
        return self._form.column(self.read(name), f"{self.store.name}/{name}", column)

    def read(self, name: str) -> bytes:
        """The bytes of a segment."""
        file = self.files[name]
        try:
            data = self.store.get(name).data
        except NotFound:
            data = self.store.get(delta.replaced_key(name)).data
        if sha256(data).hexdigest() != file.sha256:
            raise Corrupt(f"{self.store.name}/{name}", "is not what its commit says: it was altered")
        return data


def contents_of(store: ObjectStore) -> Contents:
    """What an archive holds: by its newest snapshot and the commits since, by all commits when it has none. Raises Corrupt and as
    ObjectStore does."""
    while True:
        there = [n for each in store.list(delta.SNAPSHOTS) if (n := delta.number_of(each.key)) is not None]
        if not there:
            return _followed(store, _folded(store))
        key = delta.snapshot_key(max(there))
        try:
            return _followed(store, delta.parse_snapshot(store.get(key).data, f"{store.name}/{key}", max(there)))
        except NotFound:  # a newer one took its place meanwhile
            continue


def _folded(store: ObjectStore) -> Contents:
    numbers = sorted(n for each in store.list(delta.COMMITS) if (n := delta.number_of(each.key)) is not None)
    keys = list(map(delta.commit_key, numbers))
    read = zip(numbers, keys, store.get_all(keys), strict=True)
    return Contents().after(delta.parse_commit(data, f"{store.name}/{key}", number) for number, key, data in read)


def _followed(store: ObjectStore, contents: Contents) -> Contents:
    """With the commits that came since."""
    found, number = list[Commit](), contents.number + 1
    while True:
        key = delta.commit_key(number)
        try:
            found.append(delta.parse_commit(store.get(key).data, f"{store.name}/{key}", number))
        except NotFound:
            return contents.after(found) if found else contents
        number += 1
