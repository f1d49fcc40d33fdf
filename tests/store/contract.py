"""What every Store promises. An adapter's test module makes a subclass with a `store` fixture."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from knhk.api import from_document
from knhk.model.faults import AlreadyExists, Conflict, Gap, NotFound, Refused, Stalled
from knhk.model.resource import API_VERSION, Key, Resource
from knhk.ports.store import Change, Event, Listing, Store, watch

PACK = {
    "version": "1.0.0",
    "sources": [{"name": "shapes", "kind": "shapes", "inline": "<a> <b> <c> ."}],
    "routes": [{"name": "submit"}],
    "targets": [{"point": "orders"}],
}
BUNDLE = {"version": "1.0.0", "source": {"inline": "<a> <b> <c> ."}}
RECEIPT = {"event": "Promoted", "bundle": "{}", "logIndex": 1}
TOLD_WITHIN_S = 240.0


def resource(kind: str, namespace: str, name: str, spec: Mapping[str, object]) -> Resource:
    """A right object, defaults filled in: an API server takes no other."""
    metadata = {"namespace": namespace, "name": name}
    return from_document({"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": dict(spec)})


def pack(name: str = "controls", namespace: str = "erp", **spec: object) -> Resource:
    return resource("PolicyPack", namespace, name, {**PACK, **spec})


def edited(old: Resource, **spec: object) -> Resource:
    """The resource with other values of these members of its spec."""
    return replace(old, spec={**old.spec, **spec})


def written(write: Callable[[], object], error: type[Exception], store: Store) -> None:
    """`write` raises `error` and leaves everything as it was."""
    before = store.list("PolicyPack").resources
    with pytest.raises(error):
        write()
    assert store.list("PolicyPack").resources == before


def every_change(store: Store, since: int) -> tuple[list[Change], int]:
    """All changes from `since` to this moment, and the revision to go on from: those that come before a write of our own."""
    marker = store.create(pack(f"marker-{secrets.token_hex(4)}"))
    store.delete(marker.key)
    found: list[Change] = []
    while True:
        changes, since = store.changes(since, timeout_s=TOLD_WITHIN_S)
        assert changes, f"a write was not told within {TOLD_WITHIN_S} s"
        found += changes
        if (found[-1].type, found[-1].resource.key) == ("Deleted", marker.key):
            return [change for change in found if change.resource.key != marker.key], since


def now(store: Store) -> int:
    """A revision at which everything that was written is told already."""
    while True:
        try:
            return every_change(store, store.list("PolicyPack").revision)[1]
        except Gap:
            continue


class StoreContract:
    """Subclasses give a fixture `store` that is empty; it keeps the last `kept` changes."""

    kept = 2_000

    def test_a_created_object_is_found_as_it_was(self, store: Store) -> None:
        made = store.create(replace(pack(), labels={"team": "risk"}, annotations={"a": "b"}))
        assert store.get(made.key) == made
        assert (made.generation, made.status, made.labels) == (1, {}, {"team": "risk"})
        assert made.uid
        assert made.created.endswith("Z")
        assert made.resource_version

    def test_a_second_create_is_refused(self, store: Store) -> None:
        store.create(pack())
        written(lambda: store.create(pack(suspend=True)), AlreadyExists, store)

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
        told = store.update_status(replace(labelled, status={"observedGeneration": 1}))
        changed = store.update(edited(told, version="2.0.0"))
        assert [r.generation for r in (made, labelled, told, changed)] == [1, 1, 1, 2]
        assert len({r.resource_version for r in (made, labelled, told, changed)}) == 4

    def test_status_and_spec_do_not_touch_one_another(self, store: Store) -> None:
        made = store.create(replace(pack(), status={"smuggled": True}))
        assert made.status == {}
        told = store.update_status(replace(edited(made, suspend=True), labels={"no": "no"}, status={"observedGeneration": 1}))
        assert (told.spec, told.labels, told.status) == (made.spec, {}, {"observedGeneration": 1})
        changed = store.update(replace(edited(told, suspend=True), status={"observedGeneration": 2}))
        assert (changed.spec, changed.status) == ({**made.spec, "suspend": True}, {"observedGeneration": 1})

    def test_a_stale_version_is_a_conflict_and_changes_nothing(self, store: Store) -> None:
        stale = store.create(pack())
        store.update(edited(stale, version="2.0.0"))
        written(lambda: store.update(edited(stale, version="3.0.0")), Conflict, store)
        written(lambda: store.update_status(replace(stale, status={"observedGeneration": 1})), Conflict, store)
        written(lambda: store.apply(edited(stale, version="3.0.0")), Conflict, store)
        written(lambda: store.delete(stale.key, stale.resource_version), Conflict, store)

    def test_without_a_version_the_last_writer_wins(self, store: Store) -> None:
        made = store.create(pack())
        store.update(edited(made, version="2.0.0"))
        assert store.update(replace(edited(made, version="3.0.0"), resource_version="")).generation == 3

    def test_a_write_that_changes_nothing_is_no_write(self, store: Store) -> None:
        made = store.create(pack())
        since = now(store)
        assert store.update(made) == made
        assert store.apply(pack()) == made
        assert store.update_status(made) == made
        assert every_change(store, since)[0] == []

    def test_apply_creates_then_updates(self, store: Store) -> None:
        first = store.apply(pack())
        second = store.apply(pack(suspend=True))
        assert (first.generation, second.generation, second.uid) == (1, 2, first.uid)

    def test_apply_of_something_deleted_meanwhile_is_a_conflict(self, store: Store) -> None:
        made = store.create(pack())
        store.delete(made.key)
        written(lambda: store.apply(made), Conflict, store)

    def test_a_receipt_cannot_change(self, store: Store) -> None:
        receipt = store.create(resource("Receipt", "erp", "r1", RECEIPT))
        with pytest.raises(Refused, match="must not change"):
            store.update(edited(receipt, logIndex=2))
        assert store.get(receipt.key) == receipt
        assert store.update(replace(receipt, labels={"kept": "yes"})).labels == {"kept": "yes"}

    def test_lists_by_kind_namespace_and_label_in_order(self, store: Store) -> None:
        for namespace, name in (("b", "y"), ("a", "z"), ("a", "x")):
            store.create(replace(pack(name, namespace), labels={"n": name}))
        store.create(resource("DataBundle", "a", "roles", BUNDLE))

        def names(listing: Listing) -> list[str]:
            return [f"{r.namespace}/{r.name}" for r in listing.resources]

        assert names(store.list("PolicyPack")) == ["a/x", "a/z", "b/y"]
        assert names(store.list("PolicyPack", "a")) == ["a/x", "a/z"]
        assert names(store.list("PolicyPack", labels={"n": "y"})) == ["b/y"]
        assert names(store.list("PolicyPack", "a", {"n": "y"})) == []

    def test_heads_are_all_objects_of_a_kind_without_what_is_large(self, store: Store) -> None:
        assert list(store.heads("Receipt")) == []
        made = [store.create(replace(resource("Receipt", n, f"r-{i}", RECEIPT), labels={"n": n})) for n in ("a", "b") for i in range(3)]
        store.create(pack())
        told = store.update_status(replace(made[0], status={"observedGeneration": 1}))
        heads = sorted(store.heads("Receipt"), key=lambda found: found.key)
        assert heads == [replace(found, spec={}, status={}) for found in (told, *made[1:])]

    def test_a_deleted_object_is_gone_and_its_name_is_free(self, store: Store) -> None:
        made = store.create(pack())
        store.record(Event(made.key, "Normal", "Promoted", "…"))
        store.delete(made.key)
        with pytest.raises(NotFound):
            store.get(made.key)
        again = store.create(pack())
        assert (again.generation, again.uid != made.uid) == (1, True)
        assert store.events(again.key) == ()

    def test_what_is_deleted_while_it_owes_events_is_told_until_it_is_released(self, store: Store) -> None:
        made = store.create(pack())
        owing = store.update_status(replace(made, status={"pending": [{"bundle": "{}"}]}))
        store.delete(owing.key)
        with pytest.raises(NotFound):
            store.get(owing.key)
        assert store.list("PolicyPack").resources == ()
        departed = {resource.uid: resource.status for resource in store.departed()}
        assert departed[made.uid] == {"pending": [{"bundle": "{}"}]}
        store.release(owing)
        store.release(owing)
        again = store.create(pack())
        assert again.uid != made.uid
        store.delete(again.key)
        assert again.uid not in {resource.uid for resource in store.departed()}

    def test_what_owes_nothing_any_more_is_deleted_and_forgotten(self, store: Store) -> None:
        made = store.create(pack())
        owing = store.update_status(replace(made, status={"pending": [{"bundle": "{}"}]}))
        settled = store.update_status(replace(owing, status={"observedGeneration": 1}))
        store.delete(settled.key)
        assert made.uid not in {resource.uid for resource in store.departed()}
        store.create(pack())

    def test_changes_give_every_write_once_in_order(self, store: Store) -> None:
        start = now(store)
        made = store.create(pack())
        told = store.update_status(replace(made, status={"observedGeneration": 1}))
        store.delete(told.key)
        found, revision = every_change(store, start)
        assert [c.type for c in found] == ["Added", "Modified", "Deleted"]
        assert [c.resource.status for c in found] == [{}, {"observedGeneration": 1}, {"observedGeneration": 1}]
        assert found[0].resource == made
        assert sorted({c.revision for c in found}) == [c.revision for c in found]
        assert store.changes(revision) == ((), revision)

    def test_changes_of_other_kinds_are_passed_over_not_asked_again(self, store: Store) -> None:
        start = now(store)
        store.create(resource("DataBundle", "erp", "roles", BUNDLE))
        assert store.changes(start, timeout_s=TOLD_WITHIN_S)[0]
        found, revision = store.changes(start, ("PolicyPack",))
        assert found == ()
        assert revision > start

    def test_a_gap_is_told_and_a_list_heals_it(self, store: Store) -> None:
        made = store.create(pack())
        since = now(store)
        for n in range(self.kept + 100):
            made = store.update_status(replace(made, status={"observedGeneration": n + 1}))
        current = now(store)
        with pytest.raises(Gap, match="list again"):
            store.changes(since - 1)
        with pytest.raises(Gap):
            store.changes(10**9)
        assert store.list("PolicyPack").revision == current
        assert store.changes(current) == ((), current)

    def test_watch_lists_then_follows_and_lists_again_after_a_gap(self, store: Store) -> None:
        made = store.create(pack())
        now(store)
        following = watch(store, "PolicyPack", timeout_s=0.0)
        first = next(following)
        assert isinstance(first, Listing)
        assert first.resources == (made,)
        assert next(following) is None
        for n in range(self.kept + 100):
            made = store.update_status(replace(made, status={"observedGeneration": n + 1}))
        now(store)
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
