"""Role keys of a folder as Kubernetes Secrets: each process gets the keys of its roles and no other; the root's private key none. What is
public, and too much for a Secret, is in ConfigMaps: chapters of keys that are over."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from knhk.adapters import keys_ahead
from knhk.adapters.keys_ahead import Supply
from knhk.adapters.rotation_receipts import FILE as RECEIPTS_FILE
from knhk.adapters.signer_local import FileKeys
from knhk.adapters.signer_pkcs11 import TOKEN_FILE, in_files
from knhk.adapters.signer_roles import keys_of
from knhk.lockchain import chapters
from knhk.model.faults import Fault, Refused
from knhk_runtime.durable import replace_file
from knhk_runtime.hsm import read_token_file
from knhk_runtime.keyfile import UNLOCK
from knhk_verify.errors import Bad
from knhk_verify.signed import keyid, parse_json

SUBJECTS = "knhk-keys-subjects"
KEYS, WHOLE = "keys.json", "keys.all.json"
ROOM = 600 << 10  # of keys.json in a Secret: of 1 MiB, beside a month of receipts or of turns
CHAPTERS, MAPS, MAP_ROOM = "knhk-keys-chapters", 8, 800 << 10  # ConfigMaps that pods mount, and bytes of chapters in each
AHEAD, IN_FORCE = "knhk-keys-ahead", "knhk-keys-now"  # turns to come, and what is in force: formats/ahead.md
# Secret → files. Agents and verifiers need keys.json and root.pub only; both are public. Of OUTSIDE what is there.
SECRETS: Mapping[str, tuple[str, ...]] = {
    "knhk-keys-rollout": ("rollout.key", "keys.json", "root.pub"),
    "knhk-keys-build": ("build.key", "data.key", "keys.json", "root.pub"),
    "knhk-keys-log": ("log.key", "keys.json", "root.pub"),
    SUBJECTS: ("subjects.key",),
}
SIGSTORE = "sigstore.json"
OUTSIDE: Mapping[str, tuple[str, ...]] = {
    "knhk-keys-rollout": ("rollout.sigstore.key", SIGSTORE, "trusted_root.json", RECEIPTS_FILE),
    "knhk-keys-build": ("build.sigstore.key", "data.sigstore.key", SIGSTORE, "trusted_root.json"),
    "knhk-keys-log": ("log.former.key",),  # without it a log whose key turned knows the key of none of its checkpoints, and does not start
}
LABELS = {"app.kubernetes.io/part-of": "knhk"}
_NAME = re.compile(r"[-._a-zA-Z0-9]{1,253}")  # of a file of a Secret


PROCESSES: Mapping[str, str] = {f"knhk-keys-{process}": process for process in keys_ahead.OPENERS}


def _files(keys: Path, name: str) -> tuple[str, ...]:
    """Of keys that lie in a token: token.json and the PIN, which lies beside it, in their place. Who has no key there gets neither: the
    PIN is that of all. The key of subjects lies there whenever there is a token."""
    beside = tuple(file for file in OUTSIDE.get(name, ()) if (keys / file).exists())
    files = (*SECRETS[name], *beside, *(_authorities(keys) if SIGSTORE in beside else ()))
    if not (keys / TOKEN_FILE).exists():
        return files
    apart, told = in_files(keys), read_token_file(keys / TOKEN_FILE)
    stays = tuple(file for file in files if not file.endswith(".key") or file.partition(".")[0] in apart)
    return files if stays == files else (TOKEN_FILE, str(told.pin.relative_to(keys)), *stays)


def _authorities(keys: Path) -> tuple[str, ...]:
    """The file beside sigstore.json that it names as `ca`; one with a path is the pod's own, and an overlay's affair. Raises Refused."""
    where = str(keys / SIGSTORE)
    try:
        said = parse_json((keys / SIGSTORE).read_bytes(), where)
    except Bad as error:
        raise Refused([Fault(error.where, error.what, "must name the servers of a sigstore")]) from error
    named = said.get("ca") if isinstance(said, dict) else None
    if not isinstance(named, str) or not _NAME.fullmatch(named):
        return ()
    if not (keys / named).exists():
        raise Refused([Fault(f"{where} ca", named, "must be a file beside it, authorities in PEM")])
    return (named,)


def lacking(keys: Path, namespace: str) -> tuple[Fault, ...]:
    """What must be brought back into a folder whose root was made already, before anything is signed there: without the last keys.json
    it would have an old serial, and a role key that is missing would be made anew, without an overlap. Raises Corrupt."""
    roles = in_files(keys)
    if not roles or not any((keys / name).exists() for name in ("root.key", "root.pub", "keys.json")):
        return ()
    openers = {keys_ahead.opener(process): (secret, UNLOCK) for secret, process in PROCESSES.items()}
    if any((keys / name).exists() for name in (keys_ahead.FILE, *openers)):
        of = {**openers, keys_ahead.FILE: (AHEAD, keys_ahead.FILE), "root.pub": (AHEAD, "root.pub")}
        return tuple(
            Fault(str(keys / name), "is missing", _read_back(keys / name, *place, namespace))
            for name, place in of.items()
            if not (keys / name).exists()
        )
    files = ("root.pub", "keys.json", *(f"{role}.key" for role in roles))
    missing = tuple(Fault(str(keys / name), "is missing", _back(keys, name, namespace)) for name in files if not (keys / name).exists())
    return missing or _strangers(keys, namespace, roles)


def _strangers(keys: Path, namespace: str, roles: Sequence[str]) -> tuple[Fault, ...]:
    """Files of role keys that keys.json does not name as in use: older ones, or another installation's."""
    named, held = keys_of(keys), FileKeys(keys)
    current = {role: [id_ for id_, key in named.roles.get(role, {}).items() if key.until is None] for role in roles} if named else {}
    wrong = (role for role in roles if keyid(held.key(role).public) not in current.get(role, ()))
    return tuple(
        Fault(str(keys / f"{role}.key"), "is no key that keys.json names as in use", _back(keys, f"{role}.key", namespace))
        for role in wrong
    )


def _back(keys: Path, file: str, namespace: str) -> str:
    secret = next(name for name, files in SECRETS.items() if file in files)
    return f"{_read_back(keys / file, secret, file, namespace)}; or say --anew"


def _read_back(path: Path, secret: str, file: str, namespace: str) -> str:
    data = file.replace(".", "\\.")
    read = f"kubectl get secret -n {namespace} {secret} -o jsonpath='{{.data.{data}}}' | base64 -d"
    return f"must be brought back: (umask 077; {read} > {path})"


def secrets_of(keys: Path, namespace: str) -> tuple[dict[str, Any], ...]:
    """A Secret for each process, from the folder of `knhk.adapters.signer_local.establish`; where keys were made ahead what opens them, in
    place of the keys. Raises OSError for a missing file, but for the key of subjects: where it is kept elsewhere its Secret is not ours to
    replace. Raises Refused for a `ca` that is not there."""
    made = [(name, _data(keys, name)) for name in SECRETS if name != SUBJECTS or all((keys / file).exists() for file in _files(keys, name))]
    if (keys / keys_ahead.FILE).exists():
        ahead = (keys / keys_ahead.FILE).read_bytes()
        supply = keys_ahead.fitted(keys_ahead.read(ahead, str(keys / keys_ahead.FILE)), ROOM)
        made.append((AHEAD, {keys_ahead.FILE: keys_ahead.written(supply), "root.pub": (keys / "root.pub").read_bytes()}))
    return tuple(_secret(name, namespace, data) for name, data in made)


def _data(keys: Path, name: str) -> dict[str, bytes]:
    """Of one Secret. Where keys were made ahead, keys and keys.json are in Secret IN_FORCE."""
    files = _files(keys, name)
    if name == SUBJECTS or not (keys / keys_ahead.FILE).exists():
        found = {file: (keys / file).read_bytes() for file in files}
        return found | ({KEYS: chapters.newest(found[KEYS], ROOM, str(keys / KEYS))} if KEYS in found else {})
    stays = {file: (keys / file).read_bytes() for file in files if not file.endswith(".key") and file not in ("keys.json", RECEIPTS_FILE)}
    return stays | {UNLOCK: (keys / keys_ahead.opener(PROCESSES[name])).read_bytes()}


def _secret(name: str, namespace: str, data: Mapping[str, bytes]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(LABELS)},
        "type": "Opaque",
        "data": {file: base64.b64encode(content).decode() for file, content in data.items()},
    }


def write_secrets(keys: Path, namespace: str) -> Path:
    """`secrets.yaml` beside the keys, readable by this user only; and, where keys were made ahead, `keys.all.json`: the keys.json
    in force with all its chapters, of which a Secret has the newest."""
    if (supply := keys_ahead.held(keys)) is not None:
        replace_file(keys / WHOLE, supply.due(keys_ahead.in_utc()).keys_json, 0o644)
    path = keys / "secrets.yaml"
    replace_file(path, yaml.safe_dump_all(secrets_of(keys, namespace), sort_keys=False).encode(), 0o600)
    return path


def chapters_of(keys: Path, namespace: str) -> tuple[dict[str, Any], ...]:
    """ConfigMaps of all chapters that keys.json of the folder names, or one of the turns made ahead, a file for each, named by its SHA-256;
    the oldest first, so that what is full stays as it is. Of more than MAPS have room for the newest. Raises Corrupt."""
    supply = keys_ahead.held(keys)
    held = [step.keys_json for step in supply.steps] if supply is not None else [(keys / KEYS).read_bytes()]
    maps = _packed(tuple(dict.fromkeys(text for data in held for text in chapters.apart(data, str(keys / KEYS))[1])))
    return tuple(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{CHAPTERS}-{number}", "namespace": namespace, "labels": dict(LABELS)},
            "data": {f"{sha256(text.encode()).hexdigest()}.json": text for text in texts},
        }
        for number, texts in enumerate(maps)
    )


def _packed(texts: Sequence[str]) -> list[list[str]]:
    maps, room = list[list[str]](), 0
    for text in texts:
        if (size := len(text.encode()) + 80) > room:
            maps.append([])
            room = MAP_ROOM
        maps[-1].append(text)
        room -= size
    return maps[-MAPS:]


def write_chapters(keys: Path, namespace: str) -> Path | None:
    """`chapters.yaml` beside the keys, where there are chapters; nothing in it is private. To be applied by the server: what kubectl would
    note of it beside it is more than an annotation may have."""
    if not (made := chapters_of(keys, namespace)):
        return None
    path = keys / "chapters.yaml"
    replace_file(path, yaml.safe_dump_all(made, sort_keys=False, width=1 << 20).encode(), 0o644)
    return path


def write_first(keys: Path, namespace: str, supply: Supply) -> Path:
    """`first.yaml` beside the keys: what is in force before the first turn. To be created once; a cluster goes on from it by itself."""
    path, first = keys / "first.yaml", supply.steps[0]
    data = keys_ahead.in_force(keys_ahead.fitted(supply, ROOM).steps[0], supply, first.at) | {"root.pub": (keys / "root.pub").read_bytes()}
    secret = _secret(IN_FORCE, namespace, data)
    replace_file(path, yaml.safe_dump(secret, sort_keys=False).encode(), 0o600)
    return path
