"""What an API server answers, as the ports say it. (That it answers so is shown in tests/cluster.)"""

from __future__ import annotations

from typing import Any

import pytest

from knhk.adapters.kube_client import faults, meaning
from knhk.adapters.kube_feed import ChangeFeed
from knhk.model.faults import AlreadyExists, Conflict, Fault, Gap, KnhkError, NotFound, Refused, Stalled, Waiting
from knhk.model.resource import Resource


@pytest.mark.parametrize(
    ("status", "document", "error"),
    [
        (404, {"reason": "NotFound", "details": {"kind": "policypacks", "name": "x"}}, NotFound),
        (404, {"message": "404 page not found"}, Stalled),
        (409, {"reason": "AlreadyExists"}, AlreadyExists),
        (409, {"reason": "Conflict"}, Conflict),
        (410, {"reason": "Expired"}, Gap),
        (401, {"reason": "Unauthorized"}, Stalled),
        (403, {"reason": "Forbidden"}, Stalled),
        (405, {}, Stalled),
        (422, {"reason": "Invalid"}, Refused),
        (429, {"details": {"retryAfterSeconds": 7}}, Waiting),
        (500, {}, Waiting),
        (500, {"message": "failed to create typed patch object: .status.x: field not declared in schema"}, Refused),
        (503, {}, Waiting),
    ],
)
def test_each_answer_has_its_meaning(status: int, document: dict[str, Any], error: type[KnhkError]) -> None:
    assert type(meaning(status, "/path", document)) is error


def test_the_server_says_when_to_come_back() -> None:
    told = meaning(429, "/path", {"details": {"retryAfterSeconds": 7}})
    assert isinstance(told, Waiting)
    assert told.retry_after_s == 7.0


@pytest.mark.parametrize(
    ("field", "message", "fault"),
    [
        ("spec.version", 'Invalid value: "v1": must be a version', Fault("spec.version", "v1", "must be a version")),
        ("spec.weight", "Invalid value: 0: must be from 1 to 100", Fault("spec.weight", "0", "must be from 1 to 100")),
        ("spec", 'Invalid value: "object": must not change: it stays', Fault("spec", "object", "must not change: it stays")),
        ("<nil>", "Invalid value: metadata.name must be lower-case", Fault("metadata.name", "", "must be lower-case")),
        ("spec.source", "Required value", Fault("spec.source", "", "Required value")),
    ],
)  # fmt: skip
def test_a_cause_is_a_fault(field: str, message: str, fault: Fault) -> None:
    assert faults({"details": {"causes": [{"field": field, "message": message}]}}) == (fault,)


def test_that_rules_were_not_looked_at_is_no_fault() -> None:
    rest = {"field": "<nil>", "message": "Invalid value: null: some validation rules were not checked because …"}
    causes = [{"field": "spec", "message": "Required value"}, rest]
    assert [fault.where for fault in faults({"details": {"causes": causes}})] == ["spec"]


def test_what_was_lost_is_a_gap_for_whoever_has_read_all_before() -> None:
    feed = ChangeFeed()
    feed.add("Added", Resource("PolicyPack", "erp", "x", {}))
    position = feed.position()
    assert feed.after(position, (), 0.0) == ((), position)
    feed.lost()
    with pytest.raises(Gap):
        feed.after(position, (), 0.0)
    assert feed.after(feed.position(), (), 0.0) == ((), feed.position())


def test_what_was_not_read_before_a_loss_is_still_told_and_then_the_gap() -> None:
    feed = ChangeFeed()
    start = feed.position()
    feed.add("Added", Resource("PolicyPack", "erp", "x", {}))
    feed.add("Deleted", Resource("PolicyPack", "erp", "x", {}))
    feed.lost()
    feed.add("Added", Resource("PolicyPack", "erp", "y", {}))
    changes, position = feed.after(start, ("PolicyPack",), 0.0)
    assert [(change.type, change.resource.name) for change in changes] == [("Added", "x"), ("Deleted", "x")]
    with pytest.raises(Gap):
        feed.after(position, (), 0.0)
    with pytest.raises(Gap):
        feed.after(start, ("DataBundle",), 5.0)  # what came before the loss is of no interest
    assert feed.after(feed.position(), (), 0.0) == ((), feed.position())


def test_whoever_lists_after_a_loss_reads_on_from_there() -> None:
    feed = ChangeFeed()
    feed.lost()
    listed = feed.position()
    feed.add("Added", Resource("PolicyPack", "erp", "y", {}))
    changes, position = feed.after(listed, (), 0.0)
    assert ([change.resource.name for change in changes], position) == (["y"], feed.position())


def test_a_refusal_is_told_in_the_words_of_the_server() -> None:
    quota = 'policypacks.knhk.dev "x" is forbidden: exceeded quota: few, requested: count/policypacks.knhk.dev=1'
    said = str(meaning(403, "/path", {"reason": "Forbidden", "message": quota}))
    assert quota in said
    assert "user of this process must be allowed" not in said
    nobody = 'policypacks.knhk.dev is forbidden: User "nobody" cannot list resource "policypacks" in API group "knhk.dev"'
    said = str(meaning(403, "/path", {"reason": "Forbidden", "message": nobody}))
    assert nobody in said
    assert "the user of this process must be allowed to do this" in said
