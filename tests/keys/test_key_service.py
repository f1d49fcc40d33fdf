"""The key service as guards and readers meet it: what is handed out is durable, and to nobody else."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from agent_world import until
from keys_requests import KEYS, OPEN, POINT, did, now, opened
from keys_vectors import FILE, vectors
from keys_world import Answered, KeyWorld, token

from knhk.adapters.key_stores import KeyStores, established
from knhk.adapters.wrapping_keys import FileWrapping
from knhk_runtime import keys_wire
from knhk_runtime.keys_wire import State
from knhk_runtime.subject_keys import KeyStore, OverQuota, Quota, SubjectKey
from knhk_verify.errors import Bad

pytestmark = pytest.mark.server
TAG, OTHER = b"t" * 32, b"o" * 32


def taken(keys: KeyWorld, guard: str, *tags: bytes, point: str = POINT) -> list[SubjectKey]:
    wanted = [(tag, now()) for tag in tags]
    answer = keys.ask("POST", f"/v1/points/{point}/keys", guard, keys_wire.wanted_body(wanted))
    assert answer.status == 200, answer
    return keys_wire.parse_keys(answer.body, len(wanted))[1]


def generation(keys: KeyWorld, guard: str) -> int:
    return int(json.loads(keys.ask("GET", "/v1/points/erp/orders/generation", guard).body)["generation"])


def test_bodies_are_as_their_format_says() -> None:
    found = json.loads(FILE.read_text())
    assert found == vectors()
    rows = [(bytes.fromhex(tag), window) for tag, window in found["wanted"]["rows"]]
    assert keys_wire.wanted_body(rows).hex() == found["wanted"]["body"]
    assert keys_wire.parse_wanted(bytes.fromhex(found["wanted"]["body"])) == rows
    held = [SubjectKey(bytes.fromhex(key_id), bytes.fromhex(key)) for key_id, key in found["keys"]["rows"]]
    assert keys_wire.keys_answer(3, held).hex() == found["keys"]["body"]
    assert keys_wire.parse_keys(bytes.fromhex(found["keys"]["body"]), 2) == (3, held)
    states = [(State(state), bytes.fromhex(key)) for state, key in found["open"]["rows"]]
    assert keys_wire.open_answer(states).hex() == found["open"]["body"]
    assert len(keys_wire.parse_ids(bytes.fromhex(found["open"]["ids"]))) == 3
    for text in found["refused"]["wanted"]:
        with pytest.raises(Bad):
            keys_wire.parse_wanted(bytes.fromhex(text))
    for text in found["refused"]["open"]:
        with pytest.raises(Bad):
            keys_wire.parse_ids(bytes.fromhex(text))


def test_two_guards_at_once_get_the_same_keys_and_each_is_on_the_disk(keys: KeyWorld) -> None:
    guards = [keys.api.guard(POINT, name) for name in ("one", "two")]
    tags = [number.to_bytes(32, "big") for number in range(1, 1500)]

    def ask(number: int) -> dict[bytes, SubjectKey]:
        mine = tags if number % 2 else tags[::-1]
        return dict(zip(mine, taken(keys, guards[number % 2], *mine), strict=True))

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(4)))
    assert all(answer == answers[0] for answer in answers)
    assert {(key.id, tag) for tag, key in answers[0].items()} == {(key_id, tag) for key_id, tag, _, _ in keys.rows()}
    assert all(key.key not in path.read_bytes() for path in (keys.store / "erp").iterdir() for key in list(answers[0].values())[:50])


def test_killed_between_durable_and_answered_it_gives_the_same_key_again(keys: KeyWorld) -> None:
    guard = keys.api.guard(POINT, "one")
    generation(keys, guard)
    with closing(keys.send("POST", KEYS, guard, keys_wire.wanted_body([(TAG, now())]))):
        until(lambda: len(keys.rows()) == 1, "the key is on the disk")
        keys.kill()
    ((before, _, _, _),) = keys.rows()
    keys.start()
    (first,) = taken(keys, guard, TAG)
    keys.kill()
    keys.start()
    assert taken(keys, guard, TAG) == [first]
    assert first.id == before
    assert len(keys.rows()) == 1


def test_a_pod_gets_keys_of_its_own_point_alone(keys: KeyWorld) -> None:
    mine, other, elsewhere = keys.api.guard(POINT, "one"), keys.api.guard("erp/invoices", "two"), keys.api.guard("crm/orders", "three")
    (found,) = taken(keys, mine, TAG)
    for guard in (other, elsewhere):
        answer = keys.ask("POST", KEYS, guard, keys_wire.wanted_body([(TAG, now())]))
        assert (answer.status, answer.kind) == (403, "another-point")
        assert keys.ask("GET", "/v1/points/erp/orders/tags-key", guard).status == 403
    assert taken(keys, other, TAG, point="erp/invoices") != [found]
    assert taken(keys, elsewhere, TAG, point="crm/orders") != [found]
    tags = {keys.ask("GET", f"/v1/points/{point}/tags-key", guard).body for point, guard in ((POINT, mine), ("erp/invoices", other))}
    assert len(tags) == 1
    assert keys.ask("GET", "/v1/points/crm/orders/tags-key", elsewhere).body not in tags


@pytest.mark.parametrize(
    "given",
    [None, "no-token", token("nobody"), token("one", audience="exchange.knhk.dev"), token("one", pod=False)],
    ids=["none", "no token", "of nobody", "of the exchange's audience", "of no pod"],
)
def test_who_is_no_guard_gets_nothing(keys: KeyWorld, given: str | None) -> None:
    keys.api.guard(POINT, "one")
    answer = keys.ask("POST", KEYS, given, keys_wire.wanted_body([(TAG, now())]))
    assert (answer.status, answer.kind) == (401, "unauthenticated")
    assert keys.rows() == []


def test_keys_of_long_ago_are_not_a_guards_to_have(keys: KeyWorld) -> None:
    guard = keys.api.guard(POINT, "one")
    for window in (now() - 2, now() + 2, 0):
        answer = keys.ask("POST", KEYS, guard, keys_wire.wanted_body([(TAG, now()), (TAG, window)]))
        assert (answer.status, answer.kind) == (403, "another-window")
    assert keys.rows() == []


def test_readers_open_by_a_right_in_the_namespace_and_a_line_is_left(keys: KeyWorld) -> None:
    guard = keys.api.guard(POINT, "one")
    (found,) = taken(keys, guard, TAG)
    reader, other = keys.api.reader("audit", ("open", "erp")), keys.api.reader("curious", ("open", "crm"))
    assert opened(keys, reader, found.id, b"x" * 16) == [(State.KEPT, found.key), (State.UNKNOWN, bytes(32))]
    assert '{"event": "opened", "who": "audit", "namespace": "erp", "keys": 1}' in keys.said()
    for given, kind in ((other, "forbidden"), (guard, "forbidden")):
        answer = keys.ask("POST", OPEN, given, found.id)
        assert (answer.status, answer.kind) == (403, kind)
    assert keys.ask("POST", "/v1/namespaces/erp/store/works", reader, b"{}").status == 403
    assert keys.ask("GET", "/v1/namespaces/erp/tags-key", reader).body == keys.ask("GET", "/v1/points/erp/orders/tags-key", guard).body
    assert found.key.hex() not in keys.said()


def test_what_was_destroyed_is_told_and_a_new_record_of_the_subject_gets_another_key(keys: KeyWorld) -> None:
    guard, eraser = keys.api.guard(POINT, "one"), keys.api.reader("privacy", ("erase", "erp"), ("open", "erp"))
    old, kept = taken(keys, guard, TAG, OTHER)
    before = generation(keys, guard)
    assert did(keys, eraser, "ids-of", tag=TAG.hex()) == {"ids": [old.id.hex()]}
    for _ in range(2):
        did(keys, eraser, "destroy", erasure="e" * 32, ids=[old.id.hex()])
    assert generation(keys, guard) > before
    assert opened(keys, eraser, old.id, kept.id) == [(State.DESTROYED, bytes(32)), (State.KEPT, kept.key)]
    (new,) = taken(keys, guard, TAG)
    assert new.id != old.id
    assert taken(keys, guard, OTHER) == [kept]
    keys.kill()
    keys.start()
    assert opened(keys, eraser, old.id, new.id) == [(State.DESTROYED, bytes(32)), (State.KEPT, new.key)]


def test_holds_and_erasures_are_kept_as_they_were_put(keys: KeyWorld) -> None:
    taken(keys, keys.api.guard(POINT, "one"), TAG)
    eraser = keys.api.reader("privacy", ("erase", "erp"))
    hold = {"id": "1" * 32, "tag": TAG.hex(), "reference": "case 7", "standing": True}
    work = {"id": "2" * 32, "state": "planned", "plan": "{}", "bundles": "[]"}
    did(keys, eraser, "put-hold", hold=hold, bundle="c2lnbmVk")
    did(keys, eraser, "put-work", work=work)
    assert did(keys, eraser, "untold") == {"holds": [{"hold": hold, "bundle": "c2lnbmVk"}]}
    did(keys, eraser, "put-hold", hold=hold, bundle=None)
    assert did(keys, eraser, "untold") == {"holds": []}
    assert did(keys, eraser, "holds") == {"holds": [hold]}
    assert did(keys, eraser, "works") == {"works": [work]}
    of_tag = did(keys, eraser, "ids-of", tag=TAG.hex())["ids"]
    assert did(keys, eraser, "ids-before", point=POINT, window=now() + 1, after="") == {"ids": []}  # it is held
    did(keys, eraser, "put-hold", hold={**hold, "standing": False}, bundle=None)
    assert did(keys, eraser, "ids-before", point=POINT, window=now() + 1, after="") == {"ids": of_tag}
    assert did(keys, eraser, "ids-before", point=POINT, window=now() + 1, after=of_tag[-1]) == {"ids": []}  # type: ignore[index]
    did(keys, eraser, "put-work", work={**work, "state": "done"})
    assert did(keys, eraser, "works") == {"works": []}


def test_what_is_held_is_destroyed_by_nobody_before_its_release(keys: KeyWorld) -> None:
    """The service keeps the hold itself: whatever command asks, after whatever death."""
    held, free = taken(keys, keys.api.guard(POINT, "one"), TAG, OTHER)
    eraser = keys.api.reader("privacy", ("erase", "erp"), ("open", "erp"))
    hold = {"id": "1" * 32, "tag": TAG.hex(), "reference": "case 7", "standing": True}
    did(keys, eraser, "put-hold", hold=hold, bundle=None)

    def destroys(*ids: bytes) -> tuple[int, str]:
        body = json.dumps({"erasure": "e" * 32, "ids": [each.hex() for each in ids]}).encode()
        answer = keys.ask("POST", "/v1/namespaces/erp/store/destroy", eraser, body)
        return answer.status, "" if answer.status == 200 else answer.kind

    assert destroys(free.id, held.id) == (409, "held")
    keys.kill()
    keys.start()
    assert destroys(held.id) == (409, "held")
    assert opened(keys, eraser, held.id, free.id) == [(State.KEPT, held.key), (State.KEPT, free.key)]
    assert destroys(free.id) == (200, "")
    for other in ({"tag": OTHER.hex()}, {"reference": "case 8"}):
        body = json.dumps({"hold": hold | other, "bundle": None}).encode()
        answer = keys.ask("POST", "/v1/namespaces/erp/store/put-hold", eraser, body)
        assert (answer.status, answer.kind) == (400, "malformed")
    did(keys, eraser, "put-hold", hold=hold | {"standing": False}, bundle=None)
    assert destroys(held.id) == (200, "")
    did(keys, eraser, "put-hold", hold=hold | {"id": "2" * 32}, bundle=None)
    assert destroys(held.id) == (200, "")  # again: it was destroyed before this hold


def quota(of_point: int, of_namespace: int) -> tuple[str, ...]:
    return f"--keys-of-point={of_point}", f"--keys-of-namespace={of_namespace}"


def over(keys: KeyWorld, guard: str, point: str, *tags: bytes) -> int:
    """How many seconds later it may ask again, who is refused for a quota."""
    body = keys_wire.wanted_body([(tag, now()) for tag in tags])
    with closing(keys.send("POST", f"/v1/points/{point}/keys", guard, body)) as connection:
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["type"].rpartition("/")[2]) == (429, "quota")
        return int(answer.headers["Retry-After"])


def test_keys_are_made_up_to_a_quota_of_the_point_and_of_the_namespace(keys: KeyWorld) -> None:
    keys.kill()
    keys.quota = quota(3, 5)
    keys.start()
    orders, invoices, elsewhere = (
        keys.api.guard(point, pod) for point, pod in ((POINT, "one"), ("erp/invoices", "two"), ("crm/orders", "three"))
    )
    tags = [bytes([number]) * 32 for number in range(6)]
    two = taken(keys, orders, *tags[:2])
    assert over(keys, orders, POINT, *tags[1:4]) == 60
    assert len(keys.rows()) == 2  # none of them was made
    third = taken(keys, orders, tags[2])
    assert taken(keys, orders, *tags[:3]) == [*two, *third]  # what is there is given for ever
    taken(keys, invoices, *tags[:2], point="erp/invoices")
    over(keys, invoices, "erp/invoices", tags[2])  # the namespace has five
    taken(keys, elsewhere, *tags[:3], point="crm/orders")
    eraser = keys.api.reader("privacy", ("erase", "erp"))
    did(keys, eraser, "destroy", erasure="e" * 32, ids=[two[0].id.hex()])
    keys.kill()
    keys.start()
    over(keys, orders, POINT, tags[3])  # destroyed ones count, and a new start forgets nothing
    keys.kill()
    keys.quota = quota(4, 6)
    keys.start()
    assert len(taken(keys, orders, tags[3])) == 1


def test_keys_of_before_there_were_quotas_count(tmp_path: Path) -> None:
    folder, by = tmp_path / "store", FileWrapping(tmp_path / "kek")
    before = KeyStore(folder, established(folder, by))
    before.keys_for(POINT, [(bytes([number]) * 32, now()) for number in range(4)])
    before.close()
    store = KeyStore(folder, established(folder, by), Quota(5, 10))
    assert store.used(now()) == 0.8
    store.keys_for(POINT, [(TAG, now())])
    with pytest.raises(OverQuota, match="at most 5 new keys of a point"):
        store.keys_for(POINT, [(OTHER, now())])
    assert store.used(now()) == 1.0
    store.keys_for(POINT, [(OTHER, now() + 1)])
    store.close()


def test_tags_are_those_of_the_namespaces_consents_where_it_has_them(keys: KeyWorld) -> None:
    keys.api.secrets["hr"] = b"s" * 32
    guard = keys.api.guard("hr/candidates", "one")
    assert keys.ask("GET", "/v1/points/hr/candidates/tags-key", guard).body == b"s" * 32
    keys.api.secrets["hr"] = b"z" * 32
    keys.kill()
    keys.start()
    assert keys.ask("GET", "/v1/points/hr/candidates/tags-key", guard).body == b"s" * 32
    assert "one subject has two tags" in keys.said()


def test_who_may_open_is_told_the_key_of_the_consents_as_it_is_now(keys: KeyWorld) -> None:
    guard, reader = keys.api.guard("hr/candidates", "one"), keys.api.reader("auditor", ("open", "hr"))
    keys.ask("GET", "/v1/points/hr/candidates/tags-key", guard)
    path = "/v1/namespaces/hr/consents-key"
    assert keys.ask("GET", path, reader) == Answered(200, b"")
    keys.api.secrets["hr"] = b"z" * 32
    assert keys.ask("GET", path, reader) == Answered(200, b"z" * 32)
    for given in (guard, keys.api.reader("eraser", ("erase", "hr")), keys.api.reader("other", ("open", "erp"))):
        answer = keys.ask("GET", path, given)
        assert (answer.status, b"zzzz" in answer.body) == (403, False)


def test_while_the_api_server_is_away_a_known_guard_goes_on_and_nobody_else(keys: KeyWorld) -> None:
    known, unknown = keys.api.guard(POINT, "one"), keys.api.guard(POINT, "two")
    taken(keys, known, TAG)
    keys.api.away = True
    assert len(taken(keys, known, OTHER)) == 1
    answer = keys.ask("POST", KEYS, unknown, keys_wire.wanted_body([(TAG, now())]))
    assert (answer.status, answer.kind) == (503, "unavailable")


HOSTILE = [
    (KEYS, b""),
    (KEYS, b"x" * 35),
    (KEYS, b"x" * 36 * 4097),
    (OPEN, b"x" * 15),
    (OPEN, b"x" * 16 * 4097),
    ("/v1/namespaces/erp/store/destroy", b'{"erasure": 1, "ids": []}'),
    ("/v1/namespaces/erp/store/destroy", b'{"erasure": "e", "ids": ["zz"]}'),
    ("/v1/namespaces/erp/store/destroy", b'{"erasure": "e", "ids": [[[]]]}'),
    ("/v1/namespaces/erp/store/put-hold", b'{"hold": {"id": "1"}, "bundle": null}'),
    ("/v1/namespaces/erp/store/put-hold", b'{"hold": null, "bundle": "\\ud800"}'),
    ("/v1/namespaces/erp/store/put-work", b'{"work": {"id": 1, "state": 2, "plan": 3, "bundles": 4}}'),
    ("/v1/namespaces/erp/store/ids-before", b'{"point": "erp/orders", "window": 1e400, "after": ""}'),
    ("/v1/namespaces/erp/store/ids-before", b'{"point": "erp/orders", "window": 99999999999999999999, "after": ""}'),
    ("/v1/namespaces/erp/store/works", b"[" * 100_000),
    ("/v1/namespaces/erp/store/works", b'{"more": 1}'),
    ("/v1/namespaces/erp/store/drop", b"{}"),
    ("/v1/namespaces/..%2f..%2fetc/store/works", b"{}"),
    ("/v1/namespaces/nowhere/open", b"x" * 16),
]


def test_what_is_no_request_is_refused_and_the_service_goes_on(keys: KeyWorld) -> None:
    guard = keys.api.guard(POINT, "one")
    taken(keys, guard, TAG)
    reader = keys.api.reader("privacy", *((verb, where) for verb in ("open", "erase") for where in ("erp", "nowhere", "../../etc")))
    for target, body in HOSTILE:
        answer = keys.ask("POST", target, guard if target == KEYS else reader, body)
        assert answer.status in (400, 404, 413), (target, body[:80], answer)
    assert len(taken(keys, guard, OTHER)) == 1
    assert "Traceback" not in keys.said()


def test_connections_that_say_nothing_keep_nobody_out(keys: KeyWorld) -> None:
    guard = keys.api.guard(POINT, "one")
    context = ssl.create_default_context(cadata=keys.authority.certificate.decode())
    silent = [context.wrap_socket(socket.create_connection(("127.0.0.1", keys.port)), server_hostname="127.0.0.1") for _ in range(40)]
    try:
        assert len(taken(keys, guard, TAG)) == 1
    finally:
        for each in silent:
            each.close()


def test_one_process_has_the_folder(keys: KeyWorld) -> None:
    second = KeyWorld(keys.base, keys.api, keys.authority, keys.kubeconfig)
    with pytest.raises(AssertionError, match="another key service has it"):
        second.start()
    second.kill()
    assert keys.ask("GET", "/health").status == 200


def test_a_namespace_that_is_open_waits_for_none_that_is_being_opened(tmp_path: Path) -> None:
    opening, answered = threading.Event(), threading.Event()

    def tags_key(namespace: str) -> None:
        if namespace == "slow":
            opening.set()
            answered.wait(60.0)

    stores = KeyStores(tmp_path / "store", FileWrapping(tmp_path / "kek"), tags_key)
    erp = stores.of("erp")
    with ThreadPoolExecutor(2) as pool:
        try:
            slow = pool.submit(stores.of, "slow")
            assert opening.wait(60.0)
            assert pool.submit(stores.of, "erp").result(60.0) is erp
        finally:
            answered.set()
        slow.result(60.0)
    stores.close()
