"""What every Store promises. An adapter's test module makes a subclass with a `store` fixture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from knhk.model.faults import AlreadyExists, Conflict, Gap, NotFound, Refused, Stalled
from knhk.model.resource import Key, Resource
from knhk.ports.store import Event, Listing, Store, watch


def pack(name: str = "controls", namespace: str = "erp", **spec: object) -> Resource:
    """A PolicyPack as far as a store cares."""
    return Resource("PolicyPack", namespace, name, spec={"version": "1.0.0", **spec})


def written(write: Callable[[], object], error: type[Exception], store: Store) -> None:
    """`write` raises `error` and leaves everything as it was."""
    before = store.list("PolicyPack")
    with pytest.raises(error):
        write()
    assert store.list("PolicyPack") == before


class StoreContract:
    """Subclasses give a fixture `store` that is empty."""

    def test_a_created_object_is_found_as_it_was(self, store: Store) -> None:
        made = store.create(replace(pack(), labels={"team": "risk"}, annotations={"a": "b"}))
        assert store.get(made.key) == made
        assert (made.generation, made.status, made.labels) == (1, {}, {"team": "risk"})
        assert made.uid
        assert made.created.endswith("Z")
        assert made.resource_version

    def test_a_second_create_is_refused(self, store: Store) -> None:
        store.create(pack())
        written(lambda: store.create(pack(x=1)), AlreadyExists, store)

    def test_what_is_not_there_is_not_found(self, store: Store) -> None:
        absent = Key("PolicyPack", "erp", "absent")
        for call in (
            lambda: store.get(absent),
            lambda: store.delete(absent),
            lambda: store.update(pack("absent")),
            lambda: store.update_status(pack("absent")),
        ):
            with pytest.raises(NotFound, match="erp/absent"):
                call()

    def test_generation_moves_on_spec_only(self, store: Store) -> None:
        made = store.create(pack())
        labelled = store.update(replace(made, labels={"x": "y"}))
        told = store.update_status(replace(labelled, status={"conditions": []}))
        changed = store.update(replace(told, spec={"version": "2.0.0"}))
        assert [r.generation for r in (made, labelled, told, changed)] == [1, 1, 1, 2]
        assert len({r.resource_version for r in (made, labelled, told, changed)}) == 4

    def test_status_and_spec_do_not_touch_one_another(self, store: Store) -> None:
        made = store.create(replace(pack(), status={"smuggled": True}))
        assert made.status == {}
        told = store.update_status(replace(made, spec={"version": "9"}, labels={"no": "no"}, status={"n": 1}))
        assert (told.spec, told.labels, told.status) == (made.spec, {}, {"n": 1})
        changed = store.update(replace(told, spec={"version": "2"}, status={"n": 2}))
        assert (changed.spec, changed.status) == ({"version": "2"}, {"n": 1})

    def test_a_stale_version_is_a_conflict_and_changes_nothing(self, store: Store) -> None:
        stale = store.create(pack())
        store.update(replace(stale, spec={"version": "2.0.0"}))
        written(lambda: store.update(replace(stale, spec={"version": "3"})), Conflict, store)
        written(lambda: store.update_status(replace(stale, status={"n": 1})), Conflict, store)
        written(lambda: store.apply(replace(stale, spec={"version": "3"})), Conflict, store)
        written(lambda: store.delete(stale.key, stale.resource_version), Conflict, store)

    def test_without_a_version_the_last_writer_wins(self, store: Store) -> None:
        made = store.create(pack())
        store.update(replace(made, spec={"version": "2"}))
        assert store.update(replace(made, resource_version="", spec={"version": "3"})).generation == 3

    def test_a_write_that_changes_nothing_is_no_write(self, store: Store) -> None:
        made = store.create(pack())
        since = store.list("PolicyPack").revision
        assert store.update(made) == made
        assert store.apply(pack()) == made
        assert store.update_status(made) == made
        assert store.changes(since) == ((), since)

    def test_apply_creates_then_updates(self, store: Store) -> None:
        first = store.apply(pack())
        second = store.apply(pack(suspend=True))
        assert (first.generation, second.generation, second.uid) == (1, 2, first.uid)

    def test_apply_of_something_deleted_meanwhile_is_a_conflict(self, store: Store) -> None:
        made = store.create(pack())
        store.delete(made.key)
        written(lambda: store.apply(made), Conflict, store)

    def test_a_receipt_cannot_change(self, store: Store) -> None:
        receipt = store.create(Resource("Receipt", "erp", "r1", spec={"event": "Promoted", "logIndex": 1}))
        with pytest.raises(Refused, match="must not change"):
            store.update(replace(receipt, spec={"event": "Promoted", "logIndex": 2}))
        assert store.get(receipt.key) == receipt
        assert store.update(replace(receipt, labels={"kept": "yes"})).labels == {"kept": "yes"}

    def test_lists_by_kind_namespace_and_label_in_order(self, store: Store) -> None:
        for namespace, name in (("b", "y"), ("a", "z"), ("a", "x")):
            store.create(replace(pack(name, namespace), labels={"n": name}))
        store.create(Resource("DataBundle", "a", "roles", spec={}))

        def names(listing: Listing) -> list[str]:
            return [f"{r.namespace}/{r.name}" for r in listing.resources]

        assert names(store.list("PolicyPack")) == ["a/x", "a/z", "b/y"]
        assert names(store.list("PolicyPack", "a")) == ["a/x", "a/z"]
        assert names(store.list("PolicyPack", labels={"n": "y"})) == ["b/y"]
        assert names(store.list("PolicyPack", "a", {"n": "y"})) == []

    def test_a_deleted_object_is_gone_and_its_name_is_free(self, store: Store) -> None:
        made = store.create(pack())
        store.record(Event(made.key, "Normal", "Promoted", "…"))
        store.delete(made.key)
        with pytest.raises(NotFound):
            store.get(made.key)
        again = store.create(pack())
        assert (again.generation, again.uid != made.uid) == (1, True)
        assert store.events(again.key) == ()

    def test_changes_give_every_write_once_in_order(self, store: Store) -> None:
        start = store.list("PolicyPack").revision
        made = store.create(pack())
        told = store.update_status(replace(made, status={"n": 1}))
        store.delete(told.key)
        found, revision = store.changes(start)
        assert [c.type for c in found] == ["Added", "Modified", "Deleted"]
        assert [c.resource.status for c in found] == [{}, {"n": 1}, {"n": 1}]
        assert found[0].resource == made
        assert sorted({c.revision for c in found}) == [c.revision for c in found]
        assert store.changes(revision) == ((), revision)

    def test_changes_of_other_kinds_are_passed_over_not_asked_again(self, store: Store) -> None:
        start = store.list("PolicyPack").revision
        store.create(Resource("DataBundle", "erp", "roles", spec={}))
        found, revision = store.changes(start, ("PolicyPack",))
        assert found == ()
        assert revision > start

    def test_a_gap_is_told_and_a_list_heals_it(self, store: Store) -> None:
        made = store.create(pack())
        since = store.list("PolicyPack").revision
        for n in range(2_100):
            made = store.update_status(replace(made, status={"n": n}))
        with pytest.raises(Gap, match="list again"):
            store.changes(since - 1)
        with pytest.raises(Gap):
            store.changes(10**9)
        listing = store.list("PolicyPack")
        assert store.changes(listing.revision) == ((), listing.revision)

    def test_watch_lists_then_follows_and_lists_again_after_a_gap(self, store: Store) -> None:
        made = store.create(pack())
        following = watch(store, "PolicyPack", timeout_s=0.0)
        first = next(following)
        assert isinstance(first, Listing)
        assert first.resources == (made,)
        assert next(following) is None
        for n in range(2_100):
            made = store.update_status(replace(made, status={"n": n}))
        healed = next(following)
        assert isinstance(healed, Listing)
        assert healed.resources == (made,)

    def test_equal_events_in_a_row_are_counted(self, store: Store) -> None:
        made = store.create(pack())
        for message in ("same", "same", "other"):
            store.record(Event(made.key, "Warning", "RolledBack", message))
        assert [(e.message, e.count) for e in store.events(made.key)] == [("same", 2), ("other", 1)]

    def test_events_are_capped(self, store: Store) -> None:
        made = store.create(pack())
        for n in range(1_010):
            store.record(Event(made.key, "Normal", "Tick", str(n)))
        found = store.events(made.key)
        assert (len(found), found[0].message, found[-1].message) == (1_000, "10", "1009")

    def test_a_closed_store_says_so(self, store: Store) -> None:
        store.close()
        with pytest.raises(Stalled, match="closed"):
            store.list("PolicyPack")
