"""Parsers of outside bytes: every seed and kept input, and a fixed number of mutants; `make fuzz` searches (docs/fuzzing.md)."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from parsers import CORPUS, PARSERS, run

COMPILERS = {"shapes", "abac", "ask", "construct", "mapping", "rml", "jsonld", "resources", "bundle", "pattern"}
SLOW = {*COMPILERS, "image"}  # milliseconds for each input


def mutant(rng: random.Random, inputs: list[bytes]) -> bytes:
    """An input with one to four changes: a byte, a piece less, a piece of another input."""
    data = bytearray(rng.choice(inputs))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        other = rng.choice(inputs)
        start = rng.randrange(len(other) + 1)
        change = rng.randrange(3)
        if change == 0 and at < len(data):
            data[at] = rng.randrange(256)
        elif change == 1:
            del data[at : at + rng.randrange(9)]
        else:
            data[at:at] = other[start : start + rng.randrange(17)]
    return bytes(data)


ODD: tuple[object, ...] = (None, True, 0, -1, 2**64, "", "x", "\ud800", [], [None], [[]], {}, {"a": None})


def edits(value: Any) -> Iterator[Any]:
    """Every JSON value that differs from this one in one place: another value there, or nothing, or one thing more."""
    yield from ODD
    if isinstance(value, dict):
        yield value | {"more": 1}
        for key in value:
            yield {k: v for k, v in value.items() if k != key}
            yield from ({**value, key: other} for other in edits(value[key]))
    elif isinstance(value, list):
        yield [*value, *value]
        for i in range(len(value)):
            yield from ([*value[:i], other, *value[i + 1 :]] for other in edits(value[i]))


def kept(name: str) -> list[Path]:
    return sorted((CORPUS / name).iterdir())


@pytest.mark.parametrize("name", PARSERS)
def test_kept_inputs_and_mutants_are_parsed_or_refused(name: str) -> None:
    inputs = [*PARSERS[name].seeds(), *(path.read_bytes() for path in kept(name))]
    for data in inputs:
        run(name, data)
    rng = random.Random(1)
    for _ in range(20 if name in SLOW else 2000):
        data = mutant(rng, inputs)
        try:
            run(name, data)
        except Exception as error:
            error.add_note(f"input: {data!r}")
            raise


@pytest.mark.parametrize("name", PARSERS)
def test_a_search_begins_with_an_input_that_is_accepted(name: str) -> None:
    """A seed that became wrong would leave all behind the first check unsearched."""
    refused = []
    for seed in PARSERS[name].seeds():
        try:
            PARSERS[name].parse(seed)
            return
        except PARSERS[name].errors as error:
            refused.append(error)
    pytest.fail(f"{refused}")


@pytest.mark.parametrize("name", ["keys", "rollout", "event", "unsigned", "point"])
def test_every_single_edit_of_a_document_is_parsed_or_refused(name: str) -> None:
    for seed in PARSERS[name].seeds():
        for value in edits(json.loads(seed)):
            try:
                run(name, json.dumps(value).encode())
            except Exception as error:
                error.add_note(f"input: {value!r}")
                raise


@pytest.mark.parametrize("name", ["keys", "rollout", "event", "unsigned", "point"])
def test_json_of_any_depth_is_refused(name: str) -> None:
    for depth in (100, *range(960, 1000, 3), 10_000, 100_000):
        run(name, b"[" * depth + b"]" * depth)
        run(name, b'{"a":' * depth + b"1" + b"}" * depth)


def test_an_error_that_is_not_declared_is_seen() -> None:
    with pytest.raises(TypeError):
        run("leaf", None)  # type: ignore[arg-type]
