"""Keys of a cluster turn by themselves: what the root signed ahead is brought into force in time (ADR 81, formats/ahead.md).

One Secret says what is in force. A turn changes it twice: first keys.json names the new keys, some minutes later they sign, so that
everybody knows a key before it is used. Each change is one write; whoever dies between has left a whole state, and the next goes on.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from knhk.adapters import keys_ahead
from knhk.adapters.key_secrets import AHEAD, IN_FORCE
from knhk.adapters.keys_ahead import STATE_FILE, Making, State, Step, Supply, in_force, state_in
from knhk.adapters.signer_roles import Rotation
from knhk.model.faults import Corrupt, KnhkError
from knhk.wiring.rotating import Policy, read_policy, receipt_of
from knhk.wiring.signing import signer_in
from knhk_verify.errors import Bad
from knhk_verify.note import unb64
from knhk_verify.signed import TIME, Keys, verify_keys

LEAD = timedelta(minutes=5)  # a kubelet brings a changed Secret within two, the exchange keys.json within seconds
BY_DEFAULT = Policy(timedelta(hours=24), timedelta(hours=6))


def made_ahead(folder: Path, now: datetime, days: int, actor: str, at_once: bool = False) -> Supply:
    """Turns for so many days, in a folder of keys with its root.key; `at_once`: with all keys anew now. Raises Stalled, Corrupt."""
    policy = read_policy(folder) or BY_DEFAULT
    receipt = partial(_receipt, overlap=policy.overlap, actor=actor)
    return Making(folder, signer_in(folder).log_origin(), policy.every, policy.overlap, receipt).make(
        now, now + timedelta(days=days), at_once
    )


def _receipt(folder: Path, role: str, made: Rotation, at: datetime, overlap: timedelta, actor: str) -> bytes:
    return receipt_of(folder, role, made, at, overlap, actor)


def turned(there: Mapping[str, bytes], supply: Supply, root_public: bytes, now: datetime) -> dict[str, bytes] | None:
    """What is to be in force, given what is; None when nothing is to be done. Raises Corrupt for what the root has not signed."""
    due = supply.due(now)
    wanted, said = keys_ahead.keys_in(due, root_public), state_in(there.get(STATE_FILE, b""), f"{IN_FORCE} {STATE_FILE}")
    try:
        serial = verify_keys(there.get("keys.json", b""), root_public).serial
    except Bad as error:
        raise Corrupt(f"{IN_FORCE} keys.json", str(error)) from error
    signs = {name: data for name, data in there.items() if name.endswith(".key")}
    stays = {name: data for name, data in there.items() if name == "root.pub"}
    if wanted.serial > serial:
        made = stays | in_force(due, supply, now)
        if not _follows(due, wanted, signs, supply, root_public, now):
            return made
        return {name: data for name, data in made.items() if name not in due.files} | signs
    if wanted.serial == serial and signs != due.files and now - said.named >= LEAD:
        return stays | in_force(due, supply, said.named)
    if said.ends != supply.ends:
        return {**there, STATE_FILE: replace(said, ends=supply.ends).written()}
    return None


def _follows(due: Step, wanted: Keys, signs: Mapping[str, bytes], supply: Supply, root_public: bytes, now: datetime) -> bool:
    """Whether the keys in place are those of the turn before, and still count beside the new ones."""
    at = supply.steps.index(due)
    if at == 0 or signs != supply.steps[at - 1].files:
        return False
    before = keys_ahead.keys_in(supply.steps[at - 1], root_public)
    using = ((role, id_) for role, held in before.roles.items() for id_, key in held.items() if key.until is None)
    return all(id_ in wanted.of(role, now + 2 * LEAD) for role, id_ in using)


def turn(kubeconfig: Path | None, namespace: str, now: datetime) -> dict[str, Any]:
    """Looks once, and says what it did. Raises Stalled, Waiting, Corrupt, Conflict when another was quicker."""
    from knhk.adapters.kube_client import KubeClient, api_client  # nobody else needs what it imports

    client = KubeClient(api_client(kubeconfig))
    path = f"/api/v1/namespaces/{namespace}/secrets"
    ahead, found = (client.call("GET", f"{path}/{name}") for name in (AHEAD, IN_FORCE))
    there, made = _data(found), _data(ahead)
    supply = keys_ahead.read(made.get(keys_ahead.FILE, b""), f"Secret {AHEAD}")
    changed = turned(there, supply, unb64(made.get("root.pub", b"").decode().strip(), f"Secret {AHEAD} root.pub"), now)
    if changed is not None:
        body = {**found, "data": {name: base64.b64encode(data).decode() for name, data in changed.items()}}
        client.call("PUT", f"{path}/{IN_FORCE}", body=body)
    return {"changed": changed is not None, "at": f"{supply.due(now).at:{TIME}}", "ends": f"{supply.ends:{TIME}}"}


def _data(secret: Mapping[str, Any]) -> dict[str, bytes]:
    return {name: base64.b64decode(text) for name, text in (secret.get("data") or {}).items()}


def told_in(folder: Path) -> tuple[Callable[[], float], Callable[[], float]]:
    """Since when keys of a folder are in force, and when the last turn comes, in Unix time; NaN where none were made ahead."""

    def state(of: Callable[[State], datetime]) -> float:
        try:
            return of(state_in((folder / STATE_FILE).read_bytes())).timestamp()
        except (OSError, KnhkError):
            return math.nan

    return partial(state, lambda said: said.named), partial(state, lambda said: said.ends)
