"""The audit bundle of a drill (formats/drill.md): what it was measured from lies in it, and whoever has it measures again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from knhk.adapters.log_reading import of_folder
from knhk.adapters.signer_local import LocalSigner, pinned_root, read_root_pub
from knhk.lockchain.events import PolicyEvent, parse_event
from knhk.model.faults import NotFound
from knhk.reconcilers.drilling import Given, again, figures, parse_given
from knhk.reconcilers.evidence import size_of
from knhk.wiring import replays
from knhk.wiring.log_opening import opened
from knhk_runtime.objects.folder import FolderStore
from knhk_runtime.tlog.follow import follow
from knhk_verify.errors import Bad, demand
from knhk_verify.evidence import Evidence, Step
from knhk_verify.note import b64, parse_vkey
from knhk_verify.signed import Keys, member, parse_json, parse_time, verify_event, verify_keys

COMPLETED = "DrillCompleted"
DOCUMENT, HELD, LOGS, KEYS = "drill.json", "acknowledged", "logs", "keys.json"


def add(out: Path, given: Given, logs: Iterable[tuple[str, Path, LocalSigner, str]]) -> None:
    """Puts into an audit bundle what the drill was measured from; the logs (name, folder, keys, origin) are mirrored, and so verified.
    Raises Bad."""
    for name, data in zip((DOCUMENT, HELD), given.files(), strict=True):
        (out / name).write_bytes(data)
    for name, log_dir, signer, origin in logs:
        folder = out / LOGS / name
        follow(name, of_folder(log_dir), FolderStore(folder), parse_vkey(signer.vkey(origin)))
        (folder / KEYS).write_bytes(signer.keys_json())


def judged(folder: Path, root: str | None, at: str | None, most_ms: Mapping[str, int]) -> list[Step]:
    """Everything about a drill's bundle that can be verified and measured again, step by step. `root`: a file or base64 text, else the
    bundle's own root.pub; `at`: the time at which keys.json must be valid (RFC 3339, UTC), else now; `most_ms`: what figures (rtoMs, rpoMs)
    are to be at most, whatever goals the drill had. Raises NotFound where it is none, and Stalled for a root that is none."""
    files = sorted((folder / "receipts").glob("*.json"))
    if not files or not (folder / DOCUMENT).exists():
        raise NotFound(f"{folder}: is no bundle of a drill: must have receipts and {DOCUMENT}")
    public = pinned_root(root) if root is not None else read_root_pub(folder / "root.pub")
    keys_json, now = (folder / KEYS).read_bytes(), parse_time(at, "--at") if at else datetime.now(UTC)
    evidence = Evidence(public, keys_json, now)
    for file in files:
        evidence.add(file.read_bytes(), f"receipts/{file.name}")
    evidence.together()
    steps = list(evidence.steps)
    if not all(step.ok for step in steps):
        return steps
    try:
        said = _completed(files, verify_keys(keys_json, public, now)).evidence
        for step in _again(folder, public, said, most_ms):
            steps.append(step)
    except (Bad, ValueError) as error:
        steps.append(Step(getattr(error, "where", "figures"), "", False, str(error)))
    return steps


def _completed(files: Iterable[Path], keys: Keys) -> PolicyEvent:
    """The drill's own event. Raises Bad."""
    found = []
    for file in files:
        entry = member(parse_json(file.read_bytes(), file.name), "bundle", str, file.name).encode()
        event = parse_event(verify_event(entry, keys, file.name)[0])
        found += [event] if event.kind == COMPLETED else []
    demand(len(found) == 1, "receipts", f"hold {len(found)} events {COMPLETED}: must hold one")
    return found[0]


def _again(folder: Path, root: bytes, said: Any, most_ms: Mapping[str, int]) -> Iterator[Step]:
    """Raises Bad, and ValueError for what measures nothing."""
    document = (folder / DOCUMENT).read_bytes()
    demand(sha256(document).hexdigest() == said.get("given"), DOCUMENT, "is not the one that the signed event names: it was altered")
    given = parse_given(document, (folder / HELD).read_bytes(), DOCUMENT)
    yield Step(f"{DOCUMENT} and {HELD} are those of the signed event", "none", True, f"{len(given.held)} leaves were acknowledged")
    logs = {}
    for name, (origin, size) in sorted(given.logs.items()):
        logs[name] = _entries(folder / LOGS / name, root, origin, size, said.get("checkpoints", {}).get(name, ""))
        yield Step(f"{LOGS}/{name}: its entries are those under the checkpoint", origin, True, f"{size} entries")
    found = figures(given, logs)
    yield from again(said, found, COMPLETED)
    for name, most in most_ms.items():
        value = int(found.told()[name])
        yield Step(f"{name} is at most {most}", "none", value <= most, f"the receipts give {value}")
    yield Step("replayed, different, unrecorded", "none", None, "not judged: records of O and A are not in the bundle")


def _entries(folder: Path, root: bytes, origin: str, size: int, note: str) -> list[bytes]:
    """The first `size` entries of a log, all of which are under its checkpoint, and those under the one that the drill's event has.
    Raises Bad."""
    log = opened(str(folder))
    demand(log.note.partition("\n")[0] == origin, f"{folder}/checkpoint line 1", f"must be {origin}")
    demand(size <= log.served.size, f"{folder}/checkpoint", f"covers {log.served.size} entries: must cover {size}")
    keys = verify_keys((folder / KEYS).read_bytes(), root, where=f"{folder}/{KEYS}")
    now, then = replays.proven(log, keys), replays.proven(log, keys, size)
    same = note.split("\n")[2:3] == [b64(then.root)] and size_of(note, "checkpoints") == size
    demand(same, f"{folder}", f"has another root of {size} entries than the checkpoint in the signed event")
    return list(now.served.entries_under(now.root))[:size]
