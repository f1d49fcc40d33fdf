"""Which Receipts are to go: the oldest, as many as are too many or too old, and none that a deny list, or a question about what is live,
is read from."""

from __future__ import annotations

from random import Random

import pytest

from knhk.decide.keeping import DAY_S, MAX_DENIED, MAX_VERSIONS, Held, Holding
from knhk.lockchain.receipts import label_value
from knhk.model.faults import Refused
from knhk.model.keeping import Keep, keep_of
from knhk.model.resource import Key

NOW_S = 1_000 * DAY_S


def held(index: int, namespace: str = "erp", event: str = "Promoted", digest: str = "", days: int = 0, pack: str = "orders") -> Held:
    return Held(index, Key("Receipt", namespace, f"{event.lower()}-{index:08d}"), NOW_S - days * DAY_S, event, pack, digest)


def holding(keep: Keep, *rows: Held) -> Holding:
    found = Holding(keep)
    for row in rows:
        found.add(row)
    return found


def removed(found: Holding, most: int = 1_000) -> list[int]:
    rows = found.oldest(NOW_S, most)
    for row in rows:
        found.gone(row)
    return [row.index for row in rows]


def test_the_oldest_of_a_full_namespace_go_and_no_others() -> None:
    found = holding(Keep(3, 0, 0), *(held(n, "erp" if n % 2 else "crm") for n in range(10)))
    assert sorted(removed(found)) == [0, 1, 2, 3]
    assert removed(found) == []
    found.add(held(11))
    assert removed(found) == [5]


def test_in_all_the_oldest_of_any_namespace_go_first() -> None:
    found = holding(Keep(0, 4, 0), held(3, "crm"), held(1), held(2), held(5, "crm"), held(4), held(6))
    assert removed(found) == [1, 2]


def test_what_is_too_old_goes_however_few_there_are() -> None:
    found = holding(Keep(0, 0, 30), held(1, days=31), held(2, days=29), held(3, "crm", days=90))
    assert sorted(removed(found)) == [1, 3]


def test_rollbacks_stay_the_last_of_each_digest_and_pack() -> None:
    rows = [held(n, event="RolledBack", digest=f"{n % 3:040x}") for n in range(6)]
    found = holding(Keep(1, 1, 1), *rows, held(9, event="RolledBack", digest="ab", pack="limits", days=500), held(10, event="RolledBack"))
    assert removed(found) == [0, 1, 2]
    many = holding(Keep(1, 0, 0), *(held(n, event="RolledBack", digest=f"{n:040x}") for n in range(MAX_DENIED + 2)))
    assert removed(many) == [0, 1]


@pytest.mark.parametrize("event", ["Promoted", "Approved"])
def test_what_says_which_versions_were_live_and_who_approved_stays(event: str) -> None:
    """Else question 10 of docs/risk.md finds that nobody approved what has been live for long."""
    found = holding(Keep(1, 1, 30), held(0, event="Signed", digest="ab"), held(1, event=event, digest="ab", days=400), held(2))
    assert removed(found) == [0, 2]
    assert len(found) == 1
    many = holding(Keep(1, 0, 0), *(held(n, event=event, digest=f"{n:040x}") for n in range(MAX_VERSIONS + 2)))
    assert removed(many) == [0, 1]


def test_what_stays_for_another_reason_counts_and_is_not_asked_again() -> None:
    found = holding(Keep(2, 0, 0), held(1), held(2), held(3))
    assert [row.index for row in found.oldest(NOW_S, 1)] == [1]
    assert removed(found) == [2]
    assert len(found) == 2


def test_what_failed_is_asked_again() -> None:
    found = holding(Keep(2, 0, 0), held(1), held(2), held(3))
    (first,) = found.oldest(NOW_S, 5)
    found.back(first)
    assert removed(found) == [1]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_the_bounds_hold_and_the_newest_are_left(seed: int) -> None:
    chance = Random(seed)
    keep = Keep(chance.choice((0, 5)), chance.choice((0, 12)), chance.choice((0, 7)))
    found, there = Holding(keep), dict[Key, Held]()
    for index in range(80):
        row = held(index, chance.choice(("erp", "crm", "hr")), days=max(0, 20 - index // 4))
        found.add(row)
        there[row.key] = row
        for gone in found.oldest(NOW_S, 2) if chance.random() < 0.4 else ():
            found.gone(there.pop(gone.key))
    while rows := found.oldest(NOW_S, 7):
        for gone in rows:
            found.gone(there.pop(gone.key))
    left = sorted(there.values())
    assert not keep.all or len(left) <= keep.all
    assert not keep.days or all(row.created_s >= NOW_S - keep.days * DAY_S for row in left)
    for namespace in ("erp", "crm", "hr"):
        own = [row.index for row in left if row.key.namespace == namespace]
        assert not keep.namespace or len(own) <= keep.namespace
    assert left or not keep.bounded
    assert max(there, key=lambda key: there[key].index).name == "promoted-00000079", f"seed {seed}: the newest stays"


@pytest.mark.parametrize(
    ("text", "keep"),
    [("", Keep()), ("namespace=5", Keep(5)), (" all=0 , days=400,namespace=0", Keep(0, 0, 400))],
)
def test_bounds_are_read(text: str, keep: Keep) -> None:
    assert keep_of(text) == keep


@pytest.mark.parametrize("text", ["5", "namespace=-1", "namespace=many", "names=5", "days=9999999999"])
def test_other_bounds_are_refused(text: str) -> None:
    with pytest.raises(Refused, match="must be of the form namespace=N,all=N,days=N"):
        keep_of(text)


@pytest.mark.parametrize(
    "actor",
    ["ann", "system:serviceaccount:knhk-system:knhk-operator", "local:root", "ann@example.com", "Zoë", "-", "a" * 64, "ü" * 200, "a."],
)
def test_an_actor_is_a_label_and_no_two_are_the_same(actor: str) -> None:
    value = label_value(actor)
    assert len(value) <= 63
    assert value.replace("-", "a").replace(".", "a").replace("_", "a").isalnum()
    assert value.isascii()
    assert value[0].isalnum()
    assert value[-1].isalnum()
    assert label_value(value) == value
    assert (value == actor) == (actor in ("ann",))
    assert value != label_value(actor.replace(":", "-")) or ":" not in actor
