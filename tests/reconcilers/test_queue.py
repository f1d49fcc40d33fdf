"""What is urgent goes first, whatever waits."""

from __future__ import annotations

from random import Random

from knhk.model.resource import Key
from knhk.reconcilers.queue import Lane, WorkQueue


def key(name: str) -> Key:
    return Key("PolicyPack", "erp", name)


def drained(queue: WorkQueue, now_s: float) -> list[str]:
    found = []
    while (taken := queue.take(now_s)) is not None:
        found.append(taken[0].name)
    return found


def test_an_urgent_key_is_next_though_a_thousand_were_asked_for_before() -> None:
    queue = WorkQueue()
    for n in range(1000):
        queue.put(key(f"build-{n:03}"), 0.0)
    assert queue.take(1.0) == (key("build-000"), 0.0)
    queue.put(key("rollback"), 1.0, Lane.URGENT)
    assert queue.take(1.0) == (key("rollback"), 1.0)
    assert len(queue) == 999


def test_a_key_is_there_once_at_its_earliest_time_in_its_most_urgent_lane() -> None:
    queue = WorkQueue()
    queue.put(key("a"), 5.0, Lane.URGENT)
    queue.put(key("a"), 3.0, Lane.SLOW)
    queue.put(key("b"), 2.0)
    assert (queue.wait_s(1.0, 10.0), queue.late_s(1.0), queue.late_s(2.5)) == (1.0, 0.0, 0.5)
    assert drained(queue, 2.9) == ["b"]
    assert drained(queue, 3.0) == ["a"]
    assert (len(queue), queue.take(99.0), queue.wait_s(0.0, 7.0)) == (0, None, 7.0)


def test_keys_come_as_from_a_sorted_list() -> None:
    chance, queue, wanted = Random(7), WorkQueue(), dict[str, tuple[float, Lane]]()
    for _ in range(2000):
        name, due_s, lane = f"k{chance.randrange(60)}", float(chance.randrange(9)), Lane(chance.randrange(3))
        if chance.random() < 0.7:
            known = wanted.get(name, (due_s, lane))
            wanted[name] = (min(due_s, known[0]), min(lane, known[1]))
            queue.put(key(name), due_s, lane)
        else:
            now_s = float(chance.randrange(9))
            due = sorted((lane, due_s, name) for name, (due_s, lane) in wanted.items() if due_s <= now_s)
            taken = queue.take(now_s)
            assert taken == ((key(due[0][2]), due[0][1]) if due else None)
            wanted.pop(due[0][2] if due else "", None)
    assert len(queue) == len(wanted)
