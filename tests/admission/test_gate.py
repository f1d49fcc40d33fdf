"""More questions than can be answered: some are turned away at once, none is worked on whose time is over, and no gate is left behind."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request

from knhk.admission.callers import Callers, networks
from knhk.admission.gate import GIVEN_S, LONGEST_S, Gate, Gates, Pulse, TurnedAway, given_s
from knhk.admission.metrics import Metrics
from knhk.admission.server import Judge, application
from knhk.api.review import Review, allowed

JSON = {"content-type": "application/json"}
QUESTION = json.dumps(
    {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {"uid": "u", "kind": {"group": "apps", "kind": "Deployment"}, "operation": "CREATE", "object": {}},
    }
).encode()


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("10s", 10), ("5s", 5), ("1s", 1), ("0s", 0), ("999999s", LONGEST_S), ("", GIVEN_S), ("-3s", GIVEN_S), ("x", GIVEN_S)],
)
def test_a_question_has_the_time_that_it_says(said: str, seconds: float) -> None:
    assert given_s(said) == seconds


async def _asked(judge: Judge, gates: Gates, story: Callable[[TestClient[Any, Any]], Awaitable[None]]) -> str:
    """What metrics say after the story."""
    metrics = Metrics()
    async with TestClient(TestServer(application({"/objects/{point}": judge}, lambda: "", metrics, gates))) as client:
        await story(client)
    return metrics.text()


async def _post(client: TestClient[Any, Any], point: str = "p", timeout: str = "30s") -> tuple[int, Mapping[str, str]]:
    async with client.post(f"/objects/{point}?timeout={timeout}", data=QUESTION, headers=JSON) as response:
        await response.read()
        return response.status, dict(response.headers)


def test_what_finds_all_places_taken_waits_and_what_finds_those_taken_too_is_turned_away() -> None:
    """Turned away is an error of HTTP, for failurePolicy, and without a word when to come again. Another point has its own places."""
    judged: Counter[str] = Counter()

    async def play() -> tuple[list[int], int, Mapping[str, str], int, str]:
        goes_on = asyncio.Event()

        async def judge(review: Review, *, point: str) -> Mapping[str, Any]:
            judged[point] += 1
            if point == "p":
                await goes_on.wait()
            return allowed(review)

        found: list[Any] = []

        async def story(client: TestClient[Any, Any]) -> None:
            asked = [asyncio.create_task(_post(client)) for _ in range(6)]  # two are judged, three wait, and nothing goes on
            (shed,), rest = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            other = await _post(client, "q")
            goes_on.set()
            found.extend([[status for status, _ in await asyncio.gather(*rest)], *shed.result(), other[0]])

        text = await _asked(judge, Gates(at_once=2, waiting=3), story)
        return *found, text  # type: ignore[return-value]

    answered, shed, headers, other, text = asyncio.run(play())
    assert (answered, shed, other) == ([200] * 5, 503, 200)
    assert "Retry-After" not in headers
    assert judged == {"p": 5, "q": 1}
    assert 'knhk_admission_verdicts_total{webhook="objects",verdict="shed"} 1' in text


def test_a_question_whose_time_is_over_before_its_turn_is_never_judged() -> None:
    async def play() -> tuple[int, int, int, str]:
        goes_on, begun, judged = asyncio.Event(), asyncio.Event(), Counter[str]()

        async def judge(review: Review, *, point: str) -> Mapping[str, Any]:
            judged[point] += 1
            begun.set()
            await goes_on.wait()
            return allowed(review)

        found: list[int] = []

        async def story(client: TestClient[Any, Any]) -> None:
            slow = asyncio.create_task(_post(client))
            await begun.wait()
            found.append((await _post(client, timeout="0s"))[0])
            found.append((await _post(client, timeout="1s"))[0])
            goes_on.set()
            found.append((await slow)[0])

        text = await _asked(judge, Gates(at_once=1, waiting=3), story)
        assert judged == {"p": 1}
        return found[0], found[1], found[2], text

    over, waited, slow, text = asyncio.run(play())
    assert (over, waited, slow) == (503, 503, 200)
    assert sum(map(int, re.findall(r'verdict="(?:shed|late)"} ([0-9]+)', text))) == 2


def test_a_judge_that_takes_too_long_is_given_up_and_its_place_is_free() -> None:
    async def play() -> list[int]:
        given_up: list[int] = []

        async def judge(review: Review, *, point: str) -> Mapping[str, Any]:
            if point == "p" and not given_up:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    given_up.append(1)
                    raise
            return allowed(review)

        found: list[int] = []

        async def story(client: TestClient[Any, Any]) -> None:
            while not given_up:  # on a full machine its time may be over before it is judged
                late = (await _post(client, timeout="1s"))[0]
            found.extend([late, (await _post(client))[0]])

        await _asked(judge, Gates(at_once=1, waiting=0), story)
        return found + given_up

    assert asyncio.run(play()) == [503, 200, 1]


def test_an_open_loop_of_more_than_it_can_do_judges_what_it_answers_and_no_more() -> None:
    """300 questions come whether or not any was answered; one place takes each for some time. All get an answer, most of them no."""

    async def play() -> tuple[Counter[int], int]:
        judged = 0

        async def judge(review: Review, *, point: str) -> Mapping[str, Any]:
            nonlocal judged
            judged += 1
            await asyncio.sleep(0.02)
            return allowed(review)

        answers: Counter[int] = Counter()

        async def story(client: TestClient[Any, Any]) -> None:
            answers.update(status for status, _ in await asyncio.gather(*(_post(client) for _ in range(300))))

        await _asked(judge, Gates(at_once=1, waiting=8), story)
        return answers, judged

    answers, judged = asyncio.run(play())
    assert answers[200] + answers[503] == 300
    assert answers[200] == judged >= 1
    assert answers[503] >= 1


def test_all_together_are_bounded_and_a_gate_goes_with_its_last_question() -> None:
    async def play() -> None:
        gates = Gates(at_once=4, waiting=4, most=2)
        async with gates.entered("/a"), gates.entered("/b"):
            with pytest.raises(TurnedAway, match="2 questions are here already"):
                async with gates.entered("/c"):
                    pass
        async with gates.entered("/c"), gates.entered("/c"):
            pass
        assert not gates._gates

    asyncio.run(play())


def test_a_turn_that_is_given_up_takes_nobodys_place() -> None:
    async def play() -> None:
        gate, loop = Gate(1, 1), asyncio.get_running_loop()
        async with gate.turn(loop.time() + 60):
            waiting = asyncio.create_task(_turn(gate))
            await asyncio.wait({waiting}, timeout=0.05)
            assert gate.waiting == 1
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert gate.waiting == 0
        await _turn(gate)

    async def _turn(gate: Gate) -> None:
        async with gate.turn(asyncio.get_running_loop().time() + 60):
            pass

    asyncio.run(play())


def test_a_loop_that_stands_says_for_how_long_questions_may_have_lain_there() -> None:
    async def play() -> tuple[float, float]:
        pulse, loop = Pulse(), asyncio.get_running_loop()
        beat = asyncio.create_task(pulse.beat())
        await asyncio.sleep(0)
        fresh = pulse.late_s(pulse._due_s - 0.01)
        stood = pulse.late_s(loop.time() + 7.0)
        beat.cancel()
        return fresh, stood

    fresh, stood = asyncio.run(play())
    assert fresh == 0.0
    assert stood > 6.0


def test_of_a_caller_who_is_gone_nobody_is_let_in_and_nothing_breaks() -> None:
    """Its connection was closed between its last byte and the look at who asks: it has no address any more."""

    async def judge(review: Review, *, point: str) -> Mapping[str, Any]:
        raise AssertionError(point)

    async def play() -> tuple[int, str]:
        app = application({"/objects/{point}": judge}, lambda: "", Metrics(), doubt=Callers(networks=networks("10.0.0.0/8")).doubt)
        (asked,) = (route for route in app.router.routes() if route.method == "POST")
        request = make_mocked_request("POST", "/objects/p", headers=JSON, transport=Gone(), match_info={"point": "p"})
        response = await asked.handler(request)
        assert isinstance(response, web.Response)
        return response.status, str(response.text)

    assert asyncio.run(play()) == (503, "the caller is gone\n")


class Gone(asyncio.Transport):
    """Of a connection that is closed."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default
