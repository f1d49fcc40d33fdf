"""What was decided is decided again from the archive, in shards; what was admitted is judged again from the sources."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import pytest
from delta_world import NOON_NS, Yard, decided

from knhk.adapters import delta_parquet
from knhk.adapters.delta_parquet import rewrite, rows
from knhk.adapters.expectation_files import beside, expectations
from knhk.adapters.pack_folder import find
from knhk.api import to_sources
from knhk.model.delta import Row
from knhk.model.expectations import Case
from knhk.model.faults import Corrupt, NotFound, Waiting
from knhk.ports.segments import Part
from knhk.reconcilers import auditing, delta, testing
from knhk.reconcilers.admission import bundle_bytes
from knhk.reconcilers.compacting import Policy
from knhk.reconcilers.delta import Commit
from knhk.reconcilers.evaluators import Evaluator
from knhk.reconcilers.gathering import gathered
from knhk.reconcilers.ledger import Kept
from knhk.reconcilers.lowering import plan_of, portable
from knhk.reconcilers.oracle import Oracle, key_of
from knhk.reconcilers.replaying import Replayed, Shard, replay_segments
from knhk.wiring import packs
from knhk.wiring.archive import opened_folder
from knhk.wiring.judges import side_by_side
from knhk.wiring.replays import Parts, archived
from knhk_gen.cases import cases as made_up
from knhk_gen.cases import trial
from knhk_gen.emit import emit
from knhk_gen.turtle import ill_formed_is_no_news
from knhk_runtime.outbox.records import DECISION, ENFORCED, Arm
from knhk_runtime.outbox.records import encode as recorded
from knhk_runtime.record import Record, parse_action
from knhk_runtime.sequencer.wire import parse_append
from knhk_runtime.tiers.action import action_bytes
from knhk_runtime.tiers.decide import Decided as Whole
from knhk_runtime.tiers.decide import decide
from knhk_runtime.tiers.digest import evaluator_digest
from knhk_runtime.tiers.errors import InputRefused
from knhk_runtime.unsealing import NO_ACCESS, Closed, Unsealer
from knhk_verify.errors import Bad

FOLDER = Path(__file__).parents[2] / "examples" / "packs" / "invoice-controls" / "1.2.0"
COUNT = 520  # entries: three bundles
SOURCES = to_sources(find(FOLDER).pack)


@dataclass(frozen=True)
class Decided:
    """A yard with decisions of a real pack in it; `denied` of them were."""

    yard: Yard
    subject: testing.Subject
    cases: tuple[Case, ...]
    denied: int

    def load(self, pack: bytes, bundle: bytes) -> Evaluator:
        if pack != name(self.subject):
            raise NotFound(f"pack missing: {pack.hex()}")
        return self.subject.evaluator

    def loaded(self, pack: bytes, bundle: bytes) -> auditing.Loaded:
        return auditing.Loaded(self.load(pack, bundle), plan_of(SOURCES).digest)

    def parts(self, pack: bytes, bundle: bytes) -> Parts:
        self.load(pack, bundle)
        made = packs.compiler().compile(emit(plan_of(SOURCES)))
        so = next(shared.data for shared in made if shared.arch == packs.host_arch())
        return Parts(so, self.subject.plan, plan_of(SOURCES).digest, self.subject.data)

    def replay(self, shard: Shard | None = None, evaluator: bytes | None = None) -> Replayed:
        log = opened_folder(self.yard.log_dir).served
        return replay_segments(Kept(self.yard.store, delta_parquet), log, self.load, evaluator or evaluator_digest(), shard or Shard())

    def audit(self, size: int | None = None, jobs: int = 1, unsealer: Unsealer = NO_ACCESS) -> auditing.Audited:
        log = opened_folder(self.yard.log_dir).served
        log = log if size is None else log.before(size)
        sources, admitted = auditing.Sources([SOURCES]), archived(str(self.yard.base / "delta"), log, log.root(log.size))
        if jobs == 1:
            return auditing.audit(admitted, auditing.one_by_one(sources, self.loaded), unsealer)
        with side_by_side(sources, self.parts, jobs) as judge:
            return auditing.audit(admitted, judge, unsealer)


def name(subject: testing.Subject) -> bytes:
    return sha256(repr(sorted(subject.plan["pack"].items())).encode()).digest()[:20]


@pytest.fixture(scope="module")
def subject() -> testing.Subject:
    found = find(FOLDER)
    data = None if found.bundle is None else bundle_bytes(found.bundle)
    return testing.subject(plan_of(to_sources(found.pack)), packs.compiler(), packs.host_arch(), data)


@pytest.fixture(scope="module")
def cases(subject: testing.Subject) -> tuple[Case, ...]:
    return expectations(beside(find(FOLDER).file), subject.plan).cases


@pytest.fixture
def world(tmp_path: Path, subject: testing.Subject, cases: tuple[Case, ...]) -> Iterator[Decided]:
    yard, denied, known = Yard(tmp_path), 0, dict[str, Whole]()
    for number in range(COUNT):
        case = replace(cases[number % len(cases)], time_ns=NOON_NS + number)
        o = testing.observation(case, subject.data).encode()
        made = known.get(case.name) or decide(subject.evaluator, subject.evaluator.judge, o)
        known[case.name] = made  # time has no part in it, as replay will tell
        denied += made.verdict == 2
        yard.record(recorded(number.to_bytes(16, "big"), 0, 0, o, (arm(subject, made.a, made.klass),)))
    yard.archived(commit_bytes=300_000)
    yield Decided(yard, subject, cases, denied)
    yard.close()


def arm(subject: testing.Subject, a: bytes, klass: int = 1, flags: int = 0) -> Arm:
    return Arm(name(subject), DECISION, klass, parse_action(a).verdict, ENFORCED, flags, a)


def test_every_decision_comes_out_as_it_was_and_the_root_is_recomputed(world: Decided) -> None:
    found = world.replay()
    assert (found.replayed, found.erased, found.different, found.unrecorded) == (COUNT, 0, 0, 0)
    assert (found.entries, found.root) == (COUNT, opened_folder(world.yard.log_dir).served.root(COUNT).hex())
    assert len(Kept(world.yard.store, delta_parquet).names()) > 2


@pytest.mark.parametrize("count", [2, 3, 7])
def test_shards_together_are_the_whole(world: Decided, count: int) -> None:
    world.yard.record(decided(1, pack=bytes(20)))  # of a point without a pack, with other guards than its A has now: different
    world.yard.record(decided(2), acked=False)  # and one that is in the log only
    world.yard.archived()
    whole, parts = world.replay(), [world.replay(Shard(number, count)) for number in range(count)]
    for member in ("replayed", "erased", "different", "unrecorded", "entries"):
        assert sum(getattr(part, member) for part in parts) == getattr(whole, member)
    assert (whole.replayed, whole.different, whole.unrecorded) == (COUNT, 1, 1)
    assert [bool(part.root) for part in parts] == [True, *[False] * (count - 1)]


@pytest.mark.parametrize("size", [1, 300, COUNT])
def test_a_log_that_grew_since_is_replayed_as_it_was(world: Decided, size: int) -> None:
    """What came later, and has no record yet, is none of it."""
    world.yard.record(decided(2), acked=False)
    world.yard.archived()
    log, kept = opened_folder(world.yard.log_dir).served, Kept(world.yard.store, delta_parquet)
    parts = [replay_segments(kept, log.before(size), world.load, evaluator_digest(), Shard(number, 2)) for number in (0, 1)]
    found = gathered(parts)
    assert (found.confirmed, found.whole.replayed, found.whole.entries, found.whole.size) == (True, size, size, size)
    assert found.whole.root == log.root(size).hex()
    assert not gathered([world.replay()]).confirmed


def test_a_registry_that_does_not_answer_now_says_nothing_of_decisions(world: Decided) -> None:
    def load(pack: bytes, bundle: bytes) -> Evaluator:
        raise Waiting("RegistryBusy", "no answer", 1.0)

    log = opened_folder(world.yard.log_dir).served
    with pytest.raises(Waiting):
        replay_segments(Kept(world.yard.store, delta_parquet), log, load, evaluator_digest())


def test_what_was_decided_otherwise_by_a_pack_or_an_evaluator_is_named(world: Decided) -> None:
    o = testing.observation(replace(world.cases[0], time_ns=NOON_NS - 1), world.subject.data).encode()
    made = decide(world.subject.evaluator, world.subject.evaluator.judge, o)
    turned = action_bytes(world.subject.plan["guards"], [] if made.verdict == 2 else [0])
    world.yard.record(recorded(b"other decision 1", 0, 0, o, (arm(world.subject, turned),)))
    world.yard.record(decided(9, pack=b"a pack that is gone."))
    world.yard.archived()
    found = world.replay()
    assert (found.replayed, found.different) == (COUNT, 2)
    reasons = {difference.receipt: difference.reason for difference in found.differences}
    assert reasons[b"other decision 1".hex()] == "A is not the one that was recorded"
    assert "pack missing" in " ".join(reasons.values())
    other = world.replay(evaluator=b"e" * 32)
    assert other.different > 2
    assert other.replayed + other.different == COUNT + 2
    assert {difference.reason for difference in other.differences} - set(reasons.values()) == {"evaluator missing: another one decided it"}


def test_altered_segments_and_altered_logs_are_named(world: Decided) -> None:
    name = Kept(world.yard.store, delta_parquet).names()[0]
    before = world.yard.store.get(name).data
    world.yard.store.put(name, before[:1000] + bytes([before[1000] ^ 1]) + before[1001:])
    with pytest.raises(Corrupt, match="is not what its commit says"):
        world.replay()
    world.yard.store.put(name, before)
    path = world.yard.log_dir / "tile" / "entries" / "000"
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    with pytest.raises(Bad, match=r"tile/0/000.*altered"):
        world.replay(Shard(0, 3))


def test_an_archive_that_calls_a_decision_something_else_hides_nothing(world: Decided) -> None:
    """Its commits are signed by nobody: what counts is that the log has the leaf of each row that says where it stands."""

    class Forged(Kept):
        def rows(self, name: str) -> Iterator[Row]:
            for row in super().rows(name):
                parked = row.leaf[:1] + b"\2" + row.leaf[2:40] + bytes(32) + row.leaf[72:]
                yield row._replace(leaf=parked) if row.log_index == 5 else row

    log = opened_folder(world.yard.log_dir).served
    found = replay_segments(Forged(world.yard.store, delta_parquet), log, world.load, evaluator_digest())
    assert (found.replayed, found.different, found.unrecorded) == (COUNT - 1, 1, 0)
    assert found.differences[0].reason == "the record has another leaf than the log"


def test_a_row_that_stands_in_two_segments_counts_once(world: Decided) -> None:
    """Whoever can write the archive can put it there twice: its commits are signed by nobody."""
    made, store = world.yard.archive(), world.yard.store
    contents = made.followed()
    path, file = max(contents.files.items())
    store.put(again := f"{path.rpartition('/')[0]}/{99:016x}.parquet", store.get(path).data)
    commit = Commit(contents.number + 1, contents.origin, contents.sources, (replace(file, path=again),))
    store.create(delta.commit_key(commit.number), delta.commit_bytes(commit))
    whole = [world.replay(), *(world.replay(Shard(number, 3)) for number in range(3))]
    assert [each.different for each in whole] == [0] * 4
    assert whole[0].replayed == sum(each.replayed for each in whole[1:]) == COUNT
    assert world.audit().kinds[auditing.JUDGED].judged == COUNT - world.denied


def test_after_a_merge_replay_and_audit_say_the_same(world: Decided) -> None:
    before = world.replay(), world.audit()
    names = Kept(world.yard.store, delta_parquet).names()
    world.yard.clock.ns += 3600 * 10**9
    assert world.yard.archive().compact(Policy()) is not None
    assert len(Kept(world.yard.store, delta_parquet).names()) < len(names)
    assert (world.replay(), world.audit()) == before
    parts = [world.replay(Shard(number, 3)) for number in range(3)]
    assert sum(part.replayed for part in parts) == COUNT


def test_rows_survive_being_written(world: Decided) -> None:
    kept = Kept(world.yard.store, delta_parquet)
    data = kept.read(kept.names()[0])
    assert list(rows(rewrite([Part("again", data)]).data, "again")) == list(kept.rows(kept.names()[0]))


def test_nothing_that_was_admitted_is_denied_by_the_sources(world: Decided) -> None:
    found = world.audit()
    judged = found.kinds[auditing.JUDGED]
    assert (judged.judged, judged.violations, found.unjudged) == (COUNT - world.denied, 0, {})
    assert judged.interval[0] == 0
    assert judged.interval[1] == pytest.approx(1e6 * (1 - 0.025 ** (1 / judged.judged)))


def test_judges_side_by_side_find_what_one_does(world: Decided) -> None:
    """Wrong decisions are told in the same order; one by a pack that cannot be had, and one without a pack, are left out alike."""
    wrong = [case for case in world.cases if case.verdict == "DENY"]
    for number in range(150):
        o = testing.observation(replace(wrong[number % len(wrong)], time_ns=NOON_NS - 1 - number), world.subject.data).encode()
        admits = arm(world.subject, action_bytes(world.subject.plan["guards"], []))
        for end, pack in {147: bytes(20), 148: b"\7" * 20}.items():
            admits = replace(admits, pack=pack) if number == end else admits
        world.yard.record(recorded(b"wrong number %03d" % number, 0, 0, o, (admits,)))
    world.yard.archived()
    one = world.audit()
    assert (one.kinds[auditing.JUDGED].violations, len(one.violations)) == (148, auditing.MAX_TOLD)
    assert (len(one.unjudged), one.kinds[auditing.JUDGED].left, one.packless) == (1, 1, 1)
    assert world.audit(jobs=2) == one


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_registry_that_does_not_answer_ends_an_audit_and_is_no_reason_to_leave_decisions_out(world: Decided, jobs: int) -> None:
    class Away(Decided):
        def load(self, pack: bytes, bundle: bytes) -> Evaluator:
            raise Waiting("Registry", "does not answer", 1.0)

    with pytest.raises(Waiting, match="does not answer"):
        Away(world.yard, world.subject, world.cases, world.denied).audit(jobs=jobs)


def test_an_audit_that_could_judge_nothing_of_what_there_was_is_blind(world: Decided) -> None:
    class Missing(Decided):
        def load(self, pack: bytes, bundle: bytes) -> Evaluator:
            raise NotFound("pack missing")

    found = Missing(world.yard, world.subject, world.cases, world.denied).audit()
    assert (found.blind, found.unjudged) == (True, {"pack missing": COUNT - world.denied})
    assert not world.audit().blind


@pytest.mark.parametrize("closed", [Closed.SEALED, Closed.ERASED])
def test_an_audit_is_blind_to_what_is_sealed_and_not_to_what_is_erased(world: Decided, closed: Closed) -> None:
    class Shut(Unsealer):
        def open(self, record: Record, where: str) -> Record | Closed:
            return closed

    found, sealed = world.audit(unsealer=Shut()), closed is Closed.SEALED
    assert found.blind == sealed, "what is erased is not there to be judged"
    assert (found.sealed, found.erased) == ((COUNT - world.denied) * sealed, (COUNT - world.denied) * (not sealed))


@pytest.fixture
def few(tmp_path: Path, subject: testing.Subject, cases: tuple[Case, ...]) -> Iterator[Decided]:
    """Nothing is decided yet."""
    yard = Yard(tmp_path)
    yield Decided(yard, subject, cases, 0)
    yard.close()


def admits(world: Decided, *of: tuple[bytes, int]) -> auditing.Audited:
    """The audit of one case that is rightly admitted, by these packs and with these flags."""
    right = next(case for case in world.cases if case.verdict == "ADMIT")
    for number, (pack, flags) in enumerate(of):
        o = testing.observation(replace(right, time_ns=NOON_NS + number), world.subject.data).encode()
        made = arm(world.subject, action_bytes(world.subject.plan["guards"], []), 1, flags)
        world.yard.record(recorded(number.to_bytes(16, "big"), 0, 0, o, (replace(made, pack=pack),)))
    world.yard.archived()
    return world.audit()


def test_a_point_that_has_no_pack_yet_leaves_nothing_to_be_judged(few: Decided) -> None:
    found = admits(few, (bytes(20), 0), (bytes(20), 0))
    assert (found.packless, found.unjudged, found.kinds[auditing.JUDGED].left, found.blind) == (2, {}, 0, False)


def test_what_was_admitted_from_cache_does_not_stand_for_judged_decisions(few: Decided) -> None:
    """The goal is held against judged decisions alone: of these none could be judged again."""
    found = admits(few, (b"\7" * 20, 0), (name(few.subject), 4))
    assert (found.kinds[auditing.JUDGED].judged, found.kinds["cached"].judged) == (0, 1)
    assert (found.kinds[auditing.JUDGED].left, found.blind) == (1, True)


def test_a_cached_decision_that_cannot_be_judged_leaves_no_judged_one_out(few: Decided) -> None:
    found = admits(few, (b"\7" * 20, 4))
    assert (found.kinds["cached"].left, found.blind) == (1, False)


def test_an_audit_denies_what_the_whole_oracle_does(subject: testing.Subject, cases: tuple[Case, ...]) -> None:
    """It asks the slower engine only of what fails, and makes no triples; made-up requests, too, fail by the same guards."""
    slow = [key_of(guard) for guard in subject.plan["guards"] if guard["class"] != "R1" and guard["kind"] != "payload"]
    oracle, denied, asked = Oracle(portable(SOURCES), slow), 0, 0
    with warnings.catch_warnings(), ill_formed_is_no_news():
        for case in made_up(trial(subject.plan, cases, ["alice"]), 7, 150):
            try:
                graph = subject.evaluator.graph(testing.observation(case, subject.data).encode())
            except InputRefused:
                continue
            said = oracle.judge(graph)
            assert oracle.denied_by(graph) == said.failing - said.unsaid, case
            denied, asked = denied + bool(said.failing), asked + any(kind == "ask" for kind, _, _ in said.failing)
    assert denied > asked > 0


def test_what_should_have_been_denied_is_found_by_how_it_came_in(world: Decided) -> None:
    guards = world.subject.plan["guards"]
    wrong = next(case for case in world.cases if case.verdict == "DENY")
    for number, flags in enumerate((0, 16, 8, 4)):
        o = testing.observation(replace(wrong, time_ns=NOON_NS - 1 - number), world.subject.data).encode()
        world.yard.record(recorded(b"wrong decision %d" % number, 0, 0, o, (arm(world.subject, action_bytes(guards, []), 1, flags),)))
    world.yard.archived()
    found = world.audit()
    assert {kind: counted.violations for kind, counted in found.kinds.items()} == {"judged": 1, "fail-open": 1, "brownout": 1, "cached": 1}
    assert {violation.receipt for violation in found.violations} == {(b"wrong decision %d" % n).hex() for n in range(4)}
    assert all(set(violation.guards) <= {guard["id"] for guard in guards} | {"mapping"} for violation in found.violations)


def test_what_was_admitted_without_a_record_is_counted_by_how_it_came_in(world: Decided) -> None:
    """A pod was lost with its outbox, or its rows were taken out of the archive: the leaves are in the log."""
    admitted = next(case for case in world.cases if case.verdict == "ADMIT")
    for number, flags in enumerate((0, 0, 16)):
        o = testing.observation(replace(admitted, time_ns=NOON_NS - 1 - number), world.subject.data).encode()
        admits = arm(world.subject, action_bytes(world.subject.plan["guards"], []), 1, flags)
        made = recorded(b"nowhere kept! %02d" % number, 0, 0, o, (admits,))
        world.yard.log.commit([parse_append(made.count.to_bytes(4, "big") + made.entries)])
    world.yard.archived()
    found = world.audit()
    judged = found.kinds[auditing.JUDGED]
    assert {kind: counted.unrecorded for kind, counted in found.kinds.items()} == {"judged": 2, "fail-open": 1, "brownout": 0, "cached": 0}
    assert (found.unrecorded, judged.judged, judged.violations) == (3, COUNT - world.denied, 0)
    assert judged.interval[0] == 0
    assert judged.interval[1] == pytest.approx(1e6 * auditing.clopper_pearson(2, judged.judged + 2, 0.95)[1])
    assert found.kinds["fail-open"].interval == (0.0, 1e6)


def test_an_audit_of_the_log_as_it_was_leaves_out_what_came_since(world: Decided) -> None:
    """A log grows while its archive is read: what is in one and not yet in the other says nothing of what was admitted."""
    found = world.audit(COUNT - 1)
    judged = found.kinds[auditing.JUDGED]
    assert found.unrecorded == judged.violations == 0
    assert COUNT - 1 - world.denied <= judged.judged <= COUNT - world.denied
    assert judged.judged < COUNT


def test_the_interval_is_that_of_the_literature() -> None:
    """Values of Clopper and Pearson's interval as R's binom.test gives them."""
    for (found, of), (low, high) in {(0, 10): (0, 0.3084971), (1, 10): (0.002528579, 0.4450161), (10, 10): (0.6915029, 1)}.items():
        assert auditing.clopper_pearson(found, of, 0.95) == pytest.approx((low, high), abs=1e-6)
