"""What is in memory of a cluster's objects: the newest that anybody told, whatever the order in which it came."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from knhk.adapters.kube_feed import ChangeFeed
from knhk.adapters.kube_mirror import Mirror
from knhk.model.faults import Gap, Waiting
from knhk.model.resource import Resource
from knhk.ports.store import ChangeType

KINDS = ("DataBundle", "PolicyPack")


def pack(version: int, uid: str = "u1", name: str = "x") -> Resource:
    return Resource("PolicyPack", "erp", name, {}, {"seen": version}, uid=uid, resource_version=str(version))


def filled(*resources: Resource, version: int = 0) -> tuple[Mirror, ChangeFeed]:
    """A mirror whose kinds were listed at the beginning."""
    feed = ChangeFeed()
    mirror = Mirror(feed, KINDS)
    for kind in KINDS:
        mirror.listed(kind)
    for kind in KINDS:
        mirror.fill(kind, mirror.owed()[kind], [r for r in resources if r.kind == kind], str(version))
    assert mirror.synced()
    return mirror, feed


def there(mirror: Mirror) -> tuple[Resource, ...]:
    return mirror.list("PolicyPack", "erp").resources


def told(feed: ChangeFeed) -> list[tuple[str, str]]:
    return [(change.type, change.resource.resource_version) for change in feed.after(0, (), 0.0)[0]]


def test_an_older_echo_of_the_watch_takes_no_write_of_our_own_back() -> None:
    mirror, feed = filled(pack(5), version=5)
    mirror.see("Modified", pack(9))
    for echo in (pack(5), pack(7), pack(9)):
        mirror.see("Modified", echo)
    assert there(mirror) == (pack(9),)
    assert told(feed) == [("Modified", "9")]


def test_what_is_deleted_never_comes_back_in_whatever_order_its_end_is_told() -> None:
    """A name that is free is taken by another object, and all that is told of both comes in any order."""
    story: tuple[tuple[ChangeType, Resource], ...] = (
        ("Modified", pack(6)),
        ("Deleted", pack(7)),
        ("Added", pack(8, "u2")),
        ("Modified", pack(9, "u2")),
    )
    for order in itertools.permutations(story):
        mirror, _ = filled(pack(5), version=5)
        for kind, resource in order:
            mirror.see(kind, resource)
        assert there(mirror) == (pack(9, "u2"),), order


def test_a_list_from_before_a_deletion_or_a_write_changes_neither() -> None:
    mirror, _ = filled(pack(5), pack(5, "u2", "y"), version=5)
    mirror.listed("PolicyPack")
    ticket = mirror.owed()["PolicyPack"]
    mirror.see("Deleted", pack(8))
    mirror.see("Modified", pack(9, "u2", "y"))
    mirror.see("Added", pack(10, "u3", "z"))
    mirror.fill("PolicyPack", ticket, [pack(5), pack(5, "u2", "y")], "6")
    assert there(mirror) == (pack(9, "u2", "y"), pack(10, "u3", "z"))


def test_what_was_deleted_while_a_watch_was_broken_is_gone_after_the_next_list() -> None:
    mirror, feed = filled(pack(5), pack(5, "u2", "y"), version=5)
    assert mirror.owed() == {}
    position = feed.position()
    mirror.listed("PolicyPack")
    with pytest.raises(Gap):
        feed.after(position, (), 0.0)
    assert not mirror.synced()
    mirror.fill("PolicyPack", mirror.owed()["PolicyPack"], [pack(5, "u2", "y")], "8")
    assert there(mirror) == (pack(5, "u2", "y"),)
    assert mirror.synced()


def test_a_watch_that_breaks_while_its_kind_is_listed_asks_for_another_list() -> None:
    mirror, _ = filled(pack(5), version=5)
    mirror.listed("PolicyPack")
    ticket = mirror.owed()["PolicyPack"]
    mirror.listed("PolicyPack")
    mirror.fill("PolicyPack", ticket, [pack(5)], "6")
    assert "PolicyPack" in mirror.owed()


def test_nothing_is_read_before_every_kind_is_watched() -> None:
    mirror = Mirror(ChangeFeed(), KINDS)
    mirror.listed("PolicyPack")
    with pytest.raises(Waiting, match="must be watched first: DataBundle"):
        mirror.owed()


def test_a_listing_stays_the_same_until_something_changes_in_it() -> None:
    mirror, _ = filled(pack(5), version=5)
    before = mirror.list("PolicyPack", "erp").resources
    mirror.see("Added", replace(pack(6, "u2"), namespace="crm"))
    assert mirror.list("PolicyPack", "erp").resources is before
    assert [r.namespace for r in mirror.list("PolicyPack", None).resources] == ["crm", "erp"]
    mirror.see("Modified", pack(7))
    assert there(mirror) == (pack(7),)
