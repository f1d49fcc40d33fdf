"""Deciding one observation with a pack as Envoy does: tables in the shared object first, then the tiers below."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from knhk.model.faults import Fault, Refused
from knhk.model.observation import Observation
from knhk.reconcilers.evaluators import Evaluator
from knhk_runtime.record import h_a, h_o, parse_action, parse_observation
from knhk_runtime.tiers.decide import decide as decide_whole
from knhk_runtime.tiers.errors import InputRefused
from knhk_verify.errors import Bad
from knhk_verify.leaf import CLASSES, VERDICTS

NO_SALT = bytes(16)
SHOWN = ("guard", "shape", "path", "value", "message")


@dataclass(frozen=True)
class Answer:
    """What was decided. `failing`: every guard that failed, denying or not, explained where the verdict is DENY. Hashes are
    hexadecimal, with a salt of 16 zero bytes."""

    verdict: str
    klass: str
    failing: tuple[Mapping[str, Any], ...]
    o_hash: str
    a_hash: str


def decide(evaluator: Evaluator, observation: Observation) -> Answer:
    """Decide. Raises Refused when the observation is not well-formed or the pack does not judge its route, Undecided when a slower
    tier could not decide in its budget."""
    o = _checked(observation)
    try:
        decided = decide_whole(evaluator, evaluator.judge, o)
    except InputRefused as error:
        routes = ", ".join(sorted(evaluator.plan["routes"]))
        raise Refused(
            [
                Fault(
                    f"route {observation.route}",
                    str(error),
                    f"must be a request of a route of the pack: {routes}",
                )
            ]
        ) from error
    failing = _explained(evaluator.plan, parse_action(decided.a).failing, decided.violations)
    return Answer(
        VERDICTS[decided.verdict],
        CLASSES[decided.klass],
        failing,
        h_o(NO_SALT, o).hex(),
        h_a(NO_SALT, decided.a).hex(),
    )


def _checked(observation: Observation) -> bytes:
    try:
        o = observation.encode()
        parse_observation(o, "observation")
    except (Bad, ValueError) as error:
        raise Refused([Fault("observation", str(error), "must be as formats/observation.md says")]) from error
    return o


def _explained(
    plan: Mapping[str, Any], failing: tuple[int, ...], violations: tuple[Mapping[str, Any], ...]
) -> tuple[Mapping[str, Any], ...]:
    """One row for each violation, and one for each failing guard that has none."""
    rows = [{key: str(v.get(key, "")) for key in SHOWN} for v in violations]
    told = {row["guard"] for row in rows}
    quiet = [plan["guards"][i] for i in failing if plan["guards"][i]["id"] not in told]
    for guard in quiet:
        row = {key: str(guard.get(key, "")) for key in SHOWN}
        rows.append(row | {"guard": guard["id"], "value": ""})
    return tuple(rows)
