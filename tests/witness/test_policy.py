"""Policies as c2sp.org/tlog-policy says: what is a quorum, and which line is wrong."""

from __future__ import annotations

import pytest
from witness_world import FakeLog, witness_key

from knhk_runtime.tlog.notes import format_vkey
from knhk_runtime.tlog.policy import parse_policy
from knhk_verify.errors import Bad
from knhk_verify.note import Verifier

X = [witness_key(20 + n, f"w.example/x{n}").verifier for n in range(3)]
Y = [witness_key(30 + n, f"w.example/y{n}").verifier for n in range(3)]
LINES = [
    "# of an example",
    "",
    f"log {format_vkey(FakeLog().verifier)} https://log.example",
    *(f"witness X{n} {format_vkey(key)}" for n, key in enumerate(X)),
    "\tgroup  X-witnesses 2 X0 X1 X2 ",
    *(f"witness Y{n} {format_vkey(key)} http://y{n}.example/" for n, key in enumerate(Y)),
    "group Y-witnesses any Y0 Y1 Y2",
    "group X-and-Y all X-witnesses Y-witnesses",
    "quorum X-and-Y",
]


def text(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


@pytest.mark.parametrize(
    ("signed", "holds"),
    [
        ((), False),
        ((X[0], X[1]), False),
        ((Y[0], Y[1], Y[2]), False),
        ((X[0], Y[0], Y[1]), False),
        ((X[0], X[0], Y[0]), False),
        ((X[0], X[2], Y[1]), True),
        ((*X, *Y), True),
    ],
)
def test_groups_are_counted_as_the_policy_says(signed: tuple[Verifier, ...], holds: bool) -> None:
    policy = parse_policy(text(*LINES))
    assert policy.holds(signed) is holds
    assert dict(policy.witnesses) == {**dict.fromkeys(X, ""), **{key: f"http://y{n}.example/" for n, key in enumerate(Y)}}


def test_no_quorum_is_one_too() -> None:
    assert parse_policy(b"quorum none\n").holds(())


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (LINES[:-1], "has 0 quorum lines"),
        ([*LINES, "quorum X0"], "has 2 quorum lines"),
        (["quorum X0", *LINES], "line 1: X0: must be defined above"),
        ([*LINES[:-1], "group Z any Nobody", LINES[-1]], "Nobody: must be a witness or group defined above"),
        ([*LINES[:-1], "group Z any X0", LINES[-1]], "X0: must be a member once"),
        ([*LINES[:-1], "group Z any none", LINES[-1]], "none: must be a witness"),
        ([*LINES[:-1], "group Y0 any X-and-Y", LINES[-1]], "Y0: is defined above"),
        ([*LINES[:-1], "group Z 2 X-and-Y", LINES[-1]], "2: must be any, all, or 1 to 1"),
        ([*LINES[:-1], "group Z 0 X-and-Y", LINES[-1]], "0: must be any"),
        ([*LINES[:-1], "group Z 01 X-and-Y", LINES[-1]], "01: must be any"),
        ([*LINES[:-1], "group Z any", LINES[-1]], "must be: log VKEY"),
        ([*LINES[:-1], f"witness Z {format_vkey(X[0])}", LINES[-1]], "the same key stands above"),
        ([*LINES[:-1], f"witness Z {format_vkey(X[0]._replace(name='other'))}", LINES[-1]], "the same key stands above"),
        ([*LINES[:-1], f"witness Z {format_vkey(FakeLog().verifier)}", LINES[-1]], "of 04 and an Ed25519 key"),
        ([*LINES[:-1], "wittness Z", LINES[-1]], "must be: log VKEY"),
        ([*LINES, "# \x07"], "control character"),
    ],
)
def test_a_wrong_line_is_named(lines: list[str], says: str) -> None:
    with pytest.raises(Bad, match=says.replace("(", r"\(")):
        parse_policy(text(*lines))
