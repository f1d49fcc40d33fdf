"""Who has approved a stage, and what it still needs."""

from __future__ import annotations

import pytest

from knhk.decide.approvals import counted, missing
from knhk.model.rollout import Approvals, Approved, Stage
from knhk.model.trust import Authors


def stage(*, count: int = 1, approvers: frozenset[str] = frozenset(), not_author: bool = True) -> Stage:
    return Stage("production", ("erp/p1",), 20, (), 600, Approvals(count, approvers, not_author))


def by(*names: str, at: str = "production") -> tuple[Approved, ...]:
    return tuple(Approved(at, name) for name in names)


@pytest.mark.parametrize(
    ("asked", "author", "given", "names"),
    [
        (stage(), "ben", by("ada"), ["ada"]),
        (stage(), "ben", by("ben"), []),
        (stage(), "", by("ada"), []),
        (stage(not_author=False), "", by("ada"), ["ada"]),
        (stage(not_author=False), "ben", by("ben"), ["ben"]),
        (stage(count=2), "ben", by("ada", "ada", "eve"), ["ada", "eve"]),
        (stage(approvers=frozenset({"eve"})), "ben", by("ada", "eve"), ["eve"]),
        (stage(), "ben", by("ada", at="canary"), []),
        (stage(), "", (Approved("production", "local:kim", unreviewed=True),), ["local:kim"]),
        (stage(approvers=frozenset({"eve"})), "", (Approved("production", "local:kim", unreviewed=True),), []),
        (stage(approvers=frozenset({"kim"})), "", (Approved("production", "local:kim", unreviewed=True),), ["local:kim"]),
    ],
)
def test_which_approvals_count(asked: Stage, author: str, given: tuple[Approved, ...], names: list[str]) -> None:
    authors = Authors(frozenset({author} - {""}))
    assert [one.approver for one in counted(asked, authors, given)] == names
    assert asked.approvals is not None
    assert (missing(asked, authors, given) == "") is (len(names) >= asked.approvals.count)


def test_of_several_authors_none_approves_and_one_whom_nobody_knows_stops_all() -> None:
    both = Authors(frozenset({"ann", "ben"}))
    assert [one.approver for one in counted(stage(), both, by("ada", "ann", "ben"))] == ["ada"]
    assert counted(stage(), Authors(both.users, ("x@example.com",)), by("ada")) == ()
    assert [one.approver for one in counted(stage(not_author=False), Authors(both.users, ("x",)), by("ann"))] == ["ann"]


def test_what_is_missing_is_named() -> None:
    asked = stage(count=2, approvers=frozenset({"ada", "eve", "ben"}))
    ben = Authors(frozenset({"ben"}))
    assert missing(asked, ben, by("ada", "ben")) == (
        "stage production must be approved by 2 of ada, ben, eve; approved by: ada; that of an author, ben, does not count"
    )
    assert missing(stage(), Authors(), by("ada")) == (
        "stage production must be approved by 1; approved by: none; its authors must be known: a commit that a PolicyRepository follows, "
        "signed with a key: an administrator names it in forges.yaml (docs/gitops.md)"
    )
    assert "its authors must be known users: x@example.com, ann at the forge: an administrator names" in missing(
        stage(), Authors(ben.users, ("x@example.com", "ann at the forge")), by("ada")
    )


def test_a_stage_that_asks_for_nobody_waits_for_nobody() -> None:
    assert missing(Stage("production", (), 1, (), 1), Authors(), ()) == ""
