"""Keys turn by themselves, each with its receipt whatever dies; a log signs with both its keys in the overlap."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from sequencing import sequencer

from knhk.adapters import signer_roles
from knhk.adapters.key_secrets import secrets_of
from knhk.lockchain import PolicyEvent, receipt_spec, statement
from knhk.model.faults import Stalled, Waiting
from knhk.wiring import rotating
from knhk.wiring.home import LOG_ORIGIN, Home
from knhk.wiring.rotating import POLICY_FILE, Policy, Rotating, Telling, due, finish, read_policy
from knhk.wiring.signing import established, keys_in, signer_in
from knhk_runtime.sequencer.__main__ import load_key
from knhk_runtime.sequencer.core import Log
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.sequencer.wire import parse_event
from knhk_runtime.tlog.folder import log_entries
from knhk_runtime.tlog.notes import sign_note
from knhk_verify.evidence import Evidence
from knhk_verify.note import open_checkpoint, parse_vkey
from knhk_verify.signed import ROLES, keyid, verify_event, verify_keys
from knhk_verify.tree import EMPTY
from soft_hsm import SoftHsm

ORIGIN, HOUR = "knhk.dev/test", timedelta(hours=1)
NOW = datetime.now(UTC)


class Kept:
    """A log in memory: the same bytes again, the same index. Its checkpoints are by the key that it had at its last `start`."""

    def __init__(self, keys: Path) -> None:
        self.entries = list[bytes]()
        self.dies: Callable[[], None] = lambda: None
        self._keys = keys
        self.start()

    def start(self) -> None:
        self._key = load_key(signer_in(self._keys).key_file("log"), ORIGIN)

    def checkpoint(self) -> str:
        key = self._key
        return sign_note(f"{ORIGIN}\n0\n{base64.b64encode(EMPTY).decode()}\n", ORIGIN, key.verifier.public, key.sign)

    def append_event(self, bundle: bytes) -> int:
        self.dies()
        if bundle not in self.entries:
            self.entries.append(bundle)
        return self.entries.index(bundle)


class Died(Exception):
    """The process ends here."""


def turning(folder: Path, log: Any) -> Rotating:
    return Rotating(folder, log, "control-plane", lambda: None, log.start)


def events(folder: Path, log: Kept) -> list[tuple[str, str, str, str]]:
    """(role, old, new, signed by) of each receipt, verified."""
    signer = signer_in(folder)
    named = verify_keys(signer.keys_json(), signer.root_public())
    found = []
    for bundle in log.entries:
        told, by = verify_event(bundle, named)
        evidence = told["predicate"]["evidence"]
        found.append((evidence["role"], evidence["old"], told["subject"][0]["digest"]["sha256"], by))
    return found


def test_all_that_is_due_turns_once_each_with_a_receipt_by_the_key_from_before(keys: Path) -> None:
    signer, log = established(keys, ORIGIN, NOW - 25 * HOUR), Kept(keys)
    before = {role: signer.keyid(role) for role in ROLES}
    turning(keys, log).turn(0.0)
    assert {role: signer.keyid(role) for role in ROLES} == before  # no rotation.json
    (keys / POLICY_FILE).write_text('{"everyHours":24,"overlapHours":2}')
    turning(keys, log).turn(0.0)
    after = {role: signer.keyid(role) for role in ROLES}
    told = events(keys, log)
    assert {(role, old, new) for role, old, new, _ in told} == {(role, before[role], after[role]) for role in ROLES}
    assert not set(before.values()) & set(after.values())
    turned = [role for role, *_ in told].index("rollout")
    assert [by for *_, by in told] == [before["rollout"]] * (turned + 1) + [after["rollout"]] * (3 - turned)
    named = verify_keys(signer.keys_json(), signer.root_public(), NOW)
    assert all(set(named.of(role, NOW + HOUR)) == {before[role], after[role]} for role in ROLES)
    assert all(set(named.of(role, NOW + 3 * HOUR)) == {after[role]} for role in ROLES)
    assert due(keys, Policy(24 * HOUR, HOUR), datetime.now(UTC)) == ()
    turning(keys, log).turn(0.0)
    assert len(log.entries) == len(ROLES)
    assert set(due(keys, Policy(24 * HOUR, HOUR), NOW + 25 * HOUR)) == set(ROLES)


@pytest.mark.parametrize("where", ["make", "pending", "keys.json", "place", "append", "appended"])
def test_a_rotation_that_dies_anywhere_is_whole_or_never_was(keys: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    signer, log = established(keys, ORIGIN, NOW - 25 * HOUR), Kept(keys)
    (keys / POLICY_FILE).write_text('{"everyHours":24,"overlapHours":2}')
    before = signer.keyid("build")

    def die(*_: Any, **__: Any) -> Any:
        raise Died

    def after(real: Callable[..., Any]) -> Callable[..., Any]:
        def works_and_dies(*args: Any, **kwargs: Any) -> Any:
            real(*args, **kwargs)
            raise Died

        return works_and_dies

    kept = type(keys_in(keys))
    deaths: dict[str, tuple[Any, str, Any]] = {
        "make": (kept, "make", after(kept.make)),
        "pending": (rotating, "replace_file", after(rotating.replace_file)),
        "keys.json": (signer_roles, "_sign_keys", die),
        "place": (signer_roles, "_sign_keys", after(signer_roles._sign_keys)),
        "append": (log, "dies", die),
        "appended": (Path, "unlink", die),
    }
    with monkeypatch.context() as patched:
        patched.setattr(*deaths[where])
        with pytest.raises(Died):
            rotating.rotated(keys, "build", NOW, HOUR, "control-plane", log)  # type: ignore[arg-type]
    happened = where in ("place", "append", "appended")
    assert (signer_in(keys).keyid("build") != before) == happened
    established(keys, ORIGIN, datetime.now(UTC))  # a start
    assert (signer_in(keys).keyid("build") != before) == happened
    finish(keys, log)  # type: ignore[arg-type]
    assert [(role, old) for role, old, *_ in events(keys, log)] == ([("build", before)] if happened else [])
    turning(keys, log).turn(0.0)
    rows = [row for row in events(keys, log) if row[0] == "build"]
    assert len(rows) == 1
    assert rows[0][1:3] == (before, signer_in(keys).keyid("build"))
    envelope = signer_in(keys).sign("build", "text/plain", b"x")
    assert envelope["signatures"][0]["keyid"] in verify_keys(signer.keys_json(), signer.root_public(), NOW).of("build")


def test_a_log_that_is_away_once_it_has_the_receipt_fails_no_rotation(keys: Path) -> None:
    """Its own key has turned, and a home that sees that starts it anew."""
    established(keys, ORIGIN, NOW)
    log = Kept(keys)

    def away() -> None:
        if log.entries:
            raise Waiting("Log", "is started", 0.5)

    log.dies = away
    assert rotating.rotated(keys, "log", NOW, HOUR, "local:kim", log)[1] == 0  # type: ignore[arg-type]


def test_a_rotation_without_a_log_at_hand_leaves_its_receipt_to_who_has_both(keys: Path, tmp_path: Path) -> None:
    """What a folder of `knhk cluster keys` has comes with its Secrets; the operator that leads tells it, once, whenever it starts."""
    signer, log = established(keys, ORIGIN, NOW), Kept(keys)
    before = {role: signer.keyid(role) for role in ROLES}
    for role in ("rollout", "build"):
        rotating.rotated_apart(keys, role, NOW, HOUR, "local:kim")
    (secret,) = (one for one in secrets_of(keys, "knhk-system") if one["metadata"]["name"] == "knhk-keys-rollout")
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    for name, data in secret["data"].items():
        (mounted / name).write_bytes(base64.b64decode(data))
    for _ in range(2):  # and another process after it
        Telling(mounted, log).turn(0.0)  # type: ignore[arg-type]
    after = {role: signer.keyid(role) for role in ROLES}
    assert events(keys, log) == [
        ("rollout", before["rollout"], after["rollout"], before["rollout"]),
        ("build", before["build"], after["build"], after["rollout"]),
    ]


def test_of_a_rotation_that_died_before_the_root_signed_no_receipt_is_told(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    established(keys, ORIGIN, NOW)
    log, real = Kept(keys), signer_roles._sign_keys

    def die(*_: Any, **__: Any) -> Any:
        raise Died

    monkeypatch.setattr(signer_roles, "_sign_keys", die)
    with pytest.raises(Died):
        rotating.rotated_apart(keys, "build", NOW, HOUR, "local:kim")
    telling = Telling(keys, log)  # type: ignore[arg-type]
    telling.turn(0.0)
    assert log.entries == []
    monkeypatch.setattr(signer_roles, "_sign_keys", real)
    made = rotating.rotated_apart(keys, "build", NOW, HOUR, "local:kim")
    telling.turn(1000.0)
    assert [(role, new) for role, _, new, _ in events(keys, log)] == [("build", made.new)]


def pins(folder: Path, log: Kept) -> list[tuple[str | None, str, int]]:
    """(old, new, serial) of each TrustedRootPinned, verified: it is by the rollout key, and says who."""
    signer = signer_in(folder)
    named = verify_keys(signer.keys_json(), signer.root_public())
    found = []
    for bundle in log.entries:
        predicate = (told := verify_event(bundle, named)[0])["predicate"]
        assert (predicate["kind"], predicate["actor"], told["subject"][0]["name"]) == ("TrustedRootPinned", "local:kim", "keys/sigstore")
        found.append((predicate["evidence"].get("old"), told["subject"][0]["digest"]["sha256"], predicate["evidence"]["serial"]))
    return found


A, B = b'{"a":1}', b'{"b":1}'
DIGEST_A, DIGEST_B = sha256(A).hexdigest(), sha256(B).hexdigest()


def test_a_trusted_root_is_pinned_with_its_receipt_once(keys: Path) -> None:
    """Who has others believe another sigstore is told by the log: whom, which, in place of which, and with which keys.json."""
    signer, log = established(keys, ORIGIN, NOW), Kept(keys)
    first = verify_keys(signer.keys_json(), signer.root_public()).serial
    indexes = [rotating.pinned(keys, root, NOW, "local:kim", log) for root in (A, A, B, A)]  # type: ignore[arg-type]
    assert indexes == [0, None, 1, 2]
    assert pins(keys, log) == [(None, DIGEST_A, first + 1), (DIGEST_A, DIGEST_B, first + 2), (DIGEST_B, DIGEST_A, first + 3)]
    assert signer_roles.outside_of(keys).trusted_root == DIGEST_A


def test_no_trusted_root_is_pinned_while_the_log_is_away(keys: Path) -> None:
    class Away(Kept):
        def checkpoint(self) -> str:
            raise Waiting("NoLog", "the log does not answer", 1.0)

    signer = established(keys, ORIGIN, NOW)
    before = signer.keys_json()
    with pytest.raises(Waiting):
        rotating.pinned(keys, A, NOW, "local:kim", Away(keys))  # type: ignore[arg-type]
    assert signer.keys_json() == before
    assert not (keys / "trusted_root.json").exists()


@pytest.mark.parametrize(("where", "happened"), [("pending", False), ("keys.json", False), ("signed", True), ("append", True)])
def test_a_pin_that_dies_anywhere_is_whole_or_never_was(keys: Path, monkeypatch: pytest.MonkeyPatch, where: str, happened: bool) -> None:
    established(keys, ORIGIN, NOW)
    log, real = Kept(keys), signer_roles._sign_keys
    rotating.pinned(keys, A, NOW, "local:kim", log)  # type: ignore[arg-type]

    def die(*_: Any, **__: Any) -> Any:
        raise Died

    def signed(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        raise Died

    deaths: dict[str, tuple[Any, str, Any]] = {
        "pending": (signer_roles, "replace_file", die),
        "keys.json": (signer_roles, "_sign_keys", die),
        "signed": (signer_roles, "_sign_keys", signed),
        "append": (log, "dies", die),
    }
    with monkeypatch.context() as patched:
        patched.setattr(*deaths[where])
        with pytest.raises(Died):
            rotating.pinned(keys, B, NOW, "local:kim", log)  # type: ignore[arg-type]
    turning(keys, log).turn(0.0)
    assert [new for _, new, _ in pins(keys, log)] == [DIGEST_A, *([DIGEST_B] if happened else [])]
    rotating.pinned(keys, B, NOW, "local:kim", log)  # type: ignore[arg-type]
    assert [new for _, new, _ in pins(keys, log)] == [DIGEST_A, DIGEST_B]


def test_a_pin_without_a_log_at_hand_leaves_its_receipt_to_who_has_both(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, in order, but what was about to be and never was."""
    established(keys, ORIGIN, NOW)
    log = Kept(keys)
    assert [rotating.pinned_apart(keys, root, NOW, "local:kim") for root in (A, A, B)] == [True, False, True]

    def die(*_: Any, **__: Any) -> Any:
        raise Died

    with monkeypatch.context() as patched:
        patched.setattr(signer_roles, "_sign_keys", die)
        with pytest.raises(Died):
            rotating.pinned_apart(keys, b'{"c":1}', NOW, "local:kim")
    Telling(keys, log).turn(0.0)  # type: ignore[arg-type]
    assert [new for _, new, _ in pins(keys, log)] == [DIGEST_A, DIGEST_B]
    assert rotating.pinned_apart(keys, A, NOW, "local:kim")
    for _ in range(2):  # and another process after it
        Telling(keys, log).turn(0.0)  # type: ignore[arg-type]
    assert [(old, new) for old, new, _ in pins(keys, log)] == [(None, DIGEST_A), (DIGEST_A, DIGEST_B), (DIGEST_B, DIGEST_A)]


def test_a_pin_and_rotations_wait_beside_one_another(keys: Path) -> None:
    established(keys, ORIGIN, NOW)
    log = Kept(keys)
    rotating.rotated_apart(keys, "rollout", NOW, HOUR, "local:kim")
    rotating.pinned_apart(keys, A, NOW, "local:kim")
    rotating.rotated_apart(keys, "rollout", NOW, HOUR, "local:kim")
    Telling(keys, log).turn(0.0)  # type: ignore[arg-type]
    signer = signer_in(keys)
    named = verify_keys(signer.keys_json(), signer.root_public())
    kinds = [verify_event(bundle, named)[0]["predicate"]["kind"] for bundle in log.entries]
    assert kinds == ["KeyRotated", "TrustedRootPinned", "KeyRotated"]


def test_a_receipt_that_was_altered_reaches_no_log(keys: Path) -> None:
    established(keys, ORIGIN, NOW)
    log = Kept(keys)
    rotating.rotated_apart(keys, "build", NOW, HOUR, "local:kim")
    rows = json.loads((keys / "rotated.json").read_bytes())
    rows[0]["dsseEnvelope"]["payload"] = base64.b64encode(b"{}").decode()
    (keys / "rotated.json").write_text(json.dumps(rows))
    Telling(keys, log).turn(0.0)  # type: ignore[arg-type]
    assert log.entries == []


def test_somebody_who_looks_at_a_rotation_under_way_takes_nothing_of_it_away(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home's look, when `knhk keys rotate` is just about to sign keys.json: whoever brings the receipt, there is one."""
    established(keys, ORIGIN, NOW)
    log, real = Kept(keys), signer_roles._sign_keys
    looker = threading.Thread(target=finish, args=(keys, log))

    def looked_at(*args: Any, **kwargs: Any) -> None:
        looker.start()
        looker.join(0.5)  # it waits for the rotation, or is done by now
        real(*args, **kwargs)

    monkeypatch.setattr(signer_roles, "_sign_keys", looked_at)
    made, index = rotating.rotated(keys, "build", NOW, HOUR, "control-plane", log)  # type: ignore[arg-type]
    looker.join()
    assert index == 0
    assert [(role, old, new) for role, old, new, _ in events(keys, log)] == [("build", made.old, made.new)]


class Between:
    """Two commands on one folder: the first has found nothing left over and waits for the folder's lock, which the second has; it gets it
    as soon as the second's keys are signed, before that one's receipt is in the log."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, second: Callable[[], Any], dies: bool = False) -> None:
        self.second, self.told, self._dies, self._waiting = second, list[Any](), dies, list[Callable[[], Any]]()
        self._made: Any = None
        for name in ("rotate", "trust"):
            monkeypatch.setattr(signer_roles, name, partial(self._locked, getattr(signer_roles, name)))

    def _locked(self, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._waiting.append(partial(real, *args, **kwargs))
        if len(self._waiting) == 1:
            with suppress(Died):
                self.told.append(self.second())
            return self._waiting[0]() if self._dies else self._made
        made = real(*args, **kwargs)
        if self._dies:
            raise Died
        self._made = self._waiting[0]()
        return made


def subjects(folder: Path, log: Kept) -> list[tuple[str, str]]:
    """(kind, key or digest) of each event, verified."""
    named = verify_keys(signer_in(folder).keys_json(), signer_in(folder).root_public())
    told = [verify_event(bundle, named)[0] for bundle in log.entries]
    return [(said["predicate"]["kind"], said["subject"][0]["digest"]["sha256"]) for said in told]


@pytest.mark.parametrize("dies", [False, True], ids=["both-end", "second-killed"])
@pytest.mark.parametrize("first_pins", [True, False])
def test_a_pin_and_a_rotation_at_once_leave_both_receipts_and_each_its_own_index(
    keys: Path, monkeypatch: pytest.MonkeyPatch, first_pins: bool, dies: bool
) -> None:
    """Whoever comes second to the file that waits for the log takes nothing of the other's away."""
    established(keys, ORIGIN, NOW)
    log = Kept(keys)

    def pin() -> int | None:
        return rotating.pinned(keys, A, NOW, "local:kim", log)  # type: ignore[arg-type]

    def rotate() -> int:
        return rotating.rotated(keys, "build", NOW, HOUR, "local:kim", log)[1]  # type: ignore[arg-type]

    first, second = (pin, rotate) if first_pins else (rotate, pin)
    between = Between(monkeypatch, second, dies)
    assert (first(), between.told) == (1, [] if dies else [0])
    pinned, turned = ("TrustedRootPinned", DIGEST_A), ("KeyRotated", signer_in(keys).keyid("build"))
    assert subjects(keys, log) == ([turned, pinned] if first_pins else [pinned, turned])
    assert finish(keys, log) is None  # type: ignore[arg-type]


def test_two_rotations_at_once_leave_both_receipts_and_each_its_own_index(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    established(keys, ORIGIN, NOW)
    log = Kept(keys)

    def rotate(role: str) -> tuple[str, int]:
        made, index = rotating.rotated(keys, role, NOW, HOUR, "local:kim", log)  # type: ignore[arg-type]
        return made.new, index

    between = Between(monkeypatch, lambda: rotate("data"))
    new, index = rotate("build")
    assert (index, [at for _, at in between.told]) == (1, [0])
    assert [(role, new) for role, _, new, _ in events(keys, log)] == [("data", between.told[0][0]), ("build", new)]


def test_the_log_s_key_does_not_turn_twice_at_once(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log would know the key of none of its checkpoints."""
    established(keys, ORIGIN, NOW)
    log = Kept(keys)

    def rotate() -> int:
        return rotating.rotated(keys, "log", NOW, HOUR, "local:kim", log)[1]  # type: ignore[arg-type]

    Between(monkeypatch, rotate, dies=True)
    with pytest.raises(Stalled, match="signs with the key from before"):
        rotate()
    assert [role for role, *_ in events(keys, log)] == ["log"]
    assert len(verify_keys(signer_in(keys).keys_json(), signer_in(keys).root_public()).roles["log"]) == 2


def test_a_log_s_key_turns_again_only_when_the_log_signs_with_the_one_before(keys: Path) -> None:
    """Else it would know the key of none of its checkpoints. A home that runs starts it anew, whoever turned its key."""
    established(keys, ORIGIN, NOW)
    log = Kept(keys)
    rotating.rotated(keys, "log", NOW, HOUR, "local:kim", log)  # type: ignore[arg-type]
    before = signer_in(keys).keys_json()
    with pytest.raises(Stalled, match="signs with the key from before"):
        rotating.rotated(keys, "log", NOW, HOUR, "local:kim", log)  # type: ignore[arg-type]
    assert signer_in(keys).keys_json() == before
    turning(keys, log).turn(0.0)
    rotating.rotated(keys, "log", NOW, HOUR, "local:kim", log)  # type: ignore[arg-type]
    assert [role for role, *_ in events(keys, log)] == ["log", "log"]


def test_nothing_turns_while_the_log_is_away(keys: Path) -> None:
    class Away(Kept):
        def checkpoint(self) -> str:
            raise Waiting("NoLog", "the log does not answer", 1.0)

    signer = established(keys, ORIGIN, NOW - 25 * HOUR)
    (keys / POLICY_FILE).write_text('{"everyHours":24,"overlapHours":2}')
    before = signer.keys_json()
    turning(keys, Away(keys)).turn(0.0)
    assert signer.keys_json() == before


@pytest.mark.parametrize(
    "text",
    [
        '{"everyHours":25,"overlapHours":1}',
        '{"everyHours":24,"overlapHours":0}',
        '{"everyHours":24}',
        "{",
        '{"everyHours":1,"overlapHours":1,"x":1}',
    ],
)
def test_a_policy_of_more_than_a_day_or_of_no_overlap_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / POLICY_FILE).write_text(text)
    with pytest.raises(Stalled):
        read_policy(tmp_path)


# ---- the log's key -------------------------------------------------------------------------------


def promoted(at: datetime) -> dict[str, Any]:
    return statement(PolicyEvent("Promoted", ("pack/erp/orders@1.0.0", "ab" * 32), "control-plane", f"{at:%Y-%m-%dT%H:%M:%SZ}"))


def test_a_log_signs_with_both_keys_in_the_overlap_and_afterwards_with_the_new_one(keys: Path, tmp_path: Path) -> None:
    signer = established(keys, ORIGIN, NOW)
    old = parse_vkey(signer.vkey(ORIGIN))
    folder, socket = tmp_path / "log", tmp_path / "s.sock"
    bundles = [(signer.bundle("rollout", told), told) for told in (promoted(NOW), promoted(NOW + HOUR))]
    with sequencer(folder, socket, ORIGIN, signer.key_file("log")) as log:
        log.append_event(bundles[0][0])
    signer_roles.rotate(keys, keys_in(keys), "log", ORIGIN, NOW, HOUR)
    new = parse_vkey(signer.vkey(ORIGIN))
    assert new != old
    with sequencer(folder, socket, ORIGIN, signer.key_file("log")) as log:
        assert log.append_event(bundles[1][0]) == 1
        note = _covering(log, 2)
        assert open_checkpoint(note, old) == open_checkpoint(note, new)
        proofs = [log.proof(index) for index in range(2)]
    assert json.loads((folder / "meta.json").read_text())["vkey"] == signer.vkey(ORIGIN)
    specs = [receipt_spec(*bundle, index, proof) for index, (bundle, proof) in enumerate(zip(bundles, proofs, strict=True))]
    for at in (NOW, NOW + 2 * HOUR):  # also when the old key has ended: the same proofs are by the new one, too
        evidence = Evidence(signer.root_public(), signer.keys_json(), at)
        for spec in specs:
            evidence.receipt(spec)
        assert all(step.ok for step in evidence.steps)
    _end(keys, old.public)
    with sequencer(folder, socket, ORIGIN, signer.key_file("log")) as log:
        log.append_event(signer.bundle("rollout", promoted(NOW + 2 * HOUR)))
        note = _covering(log, 3)
    assert open_checkpoint(note, new).size == 3
    assert old.id not in {base64.b64decode(line.split()[-1])[:4] for line in note.splitlines()[4:]}


def _covering(log: Any, size: int) -> str:
    """A checkpoint of so many entries."""
    deadline = time.monotonic() + 60
    while int((note := str(log.checkpoint())).split("\n")[1]) < size:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return note


def _end(keys: Path, public: bytes) -> None:
    """The root says that the overlap is over."""
    named = signer_roles.keys_of(keys)
    assert named is not None
    roles = {role: dict(held) for role, held in named.roles.items()}
    roles["log"][keyid(public)] = roles["log"][keyid(public)]._replace(until=NOW - HOUR)
    current = {role: keys_in(keys).key(role).public for role in ROLES}
    signer_roles._sign_keys(keys, keys_in(keys), current, ORIGIN, NOW, 365, used=roles)


def test_a_log_goes_on_after_a_death_at_any_step_of_taking_its_new_key(tmp_path: Path) -> None:
    """Its disk dies at each of its writes of the first start with the new key."""
    signer = established(tmp_path / "keys", ORIGIN, NOW)
    log = Log(tmp_path / "log", load_key(signer.key_file("log"), ORIGIN), Disk())
    log.commit([parse_event(signer.bundle("rollout", promoted(NOW)))])
    log.integrate()
    log.close()
    signer_roles.rotate(tmp_path / "keys", keys_in(tmp_path / "keys"), "log", ORIGIN, NOW, HOUR)
    key = load_key(signer.key_file("log"), ORIGIN)

    class Mortal(Disk):
        left = 0

        def _step(self) -> None:
            Mortal.left -= 1
            if Mortal.left < 0:
                raise Died

        def write(self, fd: int, data: bytes) -> None:
            self._step()
            super().write(fd, data)

        def rename(self, source: Path, target: Path) -> None:
            self._step()
            super().rename(source, target)

    for steps in range(40):
        Mortal.left = steps
        try:
            opened = Log(tmp_path / "log", key, Mortal())
        except Died:
            continue
        assert open_checkpoint(opened.checkpoint(), key.verifier).size == 1
        opened.close()
        break
    else:
        raise AssertionError("it never opens")
    assert steps > 0


def test_a_home_that_runs_turns_all_its_keys_and_goes_on(tmp_path: Path) -> None:
    """Keys of yesterday; a start; all four turned, the log signs with both, and what happens then is signed by the new ones."""
    home = Home(tmp_path / "home")
    home.prepare()
    signer = established(home.keys, LOG_ORIGIN, datetime.now(UTC) - 25 * HOUR)
    old = {role: signer.keyid(role) for role in ROLES}
    old_log = parse_vkey(signer.vkey(LOG_ORIGIN))
    (home.keys / POLICY_FILE).write_text('{"everyHours":24,"overlapHours":2}')
    command = [sys.executable, "-m", "knhk.cli"]
    environment = {**os.environ, "KNHK_HOME": str(home.root)}
    subprocess.run([*command, "up"], env=environment, check=True, capture_output=True, timeout=120)
    try:
        deadline = time.monotonic() + 120
        while not _turned(home, signer, old) or len(_log_signers(home)) < 2:
            assert time.monotonic() < deadline, (home.run / "knhk.log").read_text()[-2000:] if (home.run / "knhk.log").exists() else ""
            time.sleep(0.1)
        note = (home.log / "checkpoint").read_text()
        assert open_checkpoint(note, old_log) == open_checkpoint(note, parse_vkey(signer.vkey(LOG_ORIGIN)))
        done = subprocess.run([*command, "log", "verify", str(home.log)], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        subprocess.run([*command, "down"], env=environment, check=True, capture_output=True, timeout=120)


def _turned(home: Home, signer: Any, old: dict[str, str]) -> bool:
    """All keys are others, and the log has a receipt of each."""
    if any(signer.keyid(role) == old[role] for role in ROLES):
        return False
    payloads = [base64.b64decode(json.loads(entry)["dsseEnvelope"]["payload"]) for entry in log_entries(home.log)]
    return sum(b'"KeyRotated"' in payload for payload in payloads) == len(ROLES)


def _log_signers(home: Home) -> set[bytes]:
    lines = (home.log / "checkpoint").read_text().splitlines()[4:]
    return {base64.b64decode(line.split()[-1])[:4] for line in lines}


def test_a_token_that_holds_the_logs_key_is_not_asked_where_rollbacks_are_done_while_nothing_turns(
    softhsm: SoftHsm, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The home's loop looks each minute which key the log signs with: one that hangs would hold it up."""
    folder = softhsm.put(tmp_path / "keys", roles=["build", "log"])
    established(folder, ORIGIN, NOW)
    log = Kept(folder)
    note = log.checkpoint()
    log.checkpoint = lambda: note  # type: ignore[method-assign]  # the one that is published
    anew = list[str]()
    log.start = lambda: anew.append("anew")  # type: ignore[method-assign]
    with softhsm.away(folder):
        turning(folder, log).turn(0.0)
        assert (caplog.messages, anew) == ([], [])
    signer_roles.rotate(folder, keys_in(folder), "log", ORIGIN, NOW, HOUR)
    turning(folder, log).turn(0.0)
    assert (caplog.messages, anew) == ([], ["anew"])
