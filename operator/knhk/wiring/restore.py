"""`knhk restore`: where what is left is read, how it is verified before it is used, and where the control plane is made anew."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from knhk.adapters.commit_files import write_out
from knhk.adapters.log_reading import is_store, is_url
from knhk.adapters.log_sequencer import SequencerLog
from knhk.adapters.processes import Supervisor
from knhk.adapters.repository_git import checkout
from knhk.adapters.signer_local import pinned_root, read_root_pub
from knhk.adapters.signer_pkcs11 import TOKEN_FILE
from knhk.adapters.signer_roles import RoleSigner
from knhk.adapters.store_sqlite import SqliteStore
from knhk.adapters.system import SystemClock, SystemRandom
from knhk.api import parse, with_origin
from knhk.decide.keeping import STAY
from knhk.lockchain import NOTARISED, bundle_of, statement
from knhk.lockchain.events import PolicyEvent, Said, parse_event
from knhk.model.canonical import sha256_hex
from knhk.model.faults import AlreadyExists, Corrupt, Fault, KnhkError, NotFound, Refused, Stalled, Waiting
from knhk.model.resource import Key, Resource
from knhk.model.times import rfc3339
from knhk.ports.store import Store
from knhk.reconcilers import evidence, restoring
from knhk.reconcilers.admission import admit
from knhk.reconcilers.context import receipt_of, statement_of
from knhk.reconcilers.reviewing import speaks_of_ours
from knhk.wiring import daemon, embedded
from knhk.wiring.home import Home, local_user, private_folder
from knhk.wiring.log_opening import Opened, opened
from knhk.wiring.reapplying import Places, Reached, bring_key_store, demand_key_store, reapplied
from knhk.wiring.signing import keys_in
from knhk_runtime.durable import replace_file
from knhk_runtime.exchange.watch import Folders, load_accepted
from knhk_runtime.objects.folder import FolderStore
from knhk_runtime.packstore import PackStore, architecture
from knhk_runtime.pull import pull
from knhk_runtime.sequencer.__main__ import load_key
from knhk_runtime.sequencer.edge import Edge
from knhk_runtime.signatures import ROLLOUT, verify_document
from knhk_runtime.tlog.follow import follow
from knhk_runtime.tlog.tree import TILE
from knhk_verify.errors import Bad
from knhk_verify.evidence import Evidence
from knhk_verify.note import Verifier, open_note, unb64
from knhk_verify.signed import Keys, verify_event, verify_keys
from knhk_verify.tree import HASH, leaf_hash

MAX_RECEIPTS = 1000
COVERED_WITHIN_S = 60.0
# What a home may hold that lost its store.
PARTS = ("log", "registry", "keys", "subjects", "points", "run", "git", "secrets", "forges.yaml", "receipts.db", "restore")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Left:
    """What is left of a control plane. `git`: a checkout or bare repository; `files`: resources that were in no commit; `log`: a
    folder, store or URL; `pull`: a registry, of what the folder `registry` has not; `keys`: the folder of its keys; `guards`: folders of
    guards that run on; `checkpoints`: of the log, as others kept them; `subjects`: folder of a key store from a backup; `archives`: of the
    Δ log, by address; `beside`: a log that was given where the home has one, which is read: it must not be behind."""

    git: Path
    revision: str
    paths: tuple[str, ...]
    files: tuple[Path, ...]
    log: str
    registry: Path
    keys: Path
    root: str | None = None
    pull: str | None = None
    pull_auth: Path | None = None
    guards: tuple[Path, ...] = ()
    checkpoints: tuple[Path, ...] = ()
    ca_file: Path | None = None
    certificate: Path | None = None
    allow_missing: bool = False
    subjects: Path | None = None
    archives: tuple[str, ...] = ()
    beside: str | None = None


@dataclass(frozen=True)
class Verified:
    """A log whose every entry is under its signed checkpoint, and whose policy events are signed; `events`: each where it stands first."""

    log: Opened
    origin: str
    root: bytes
    events: tuple[tuple[int, bytes, PolicyEvent], ...]
    keys: Keys
    keys_json: bytes
    root_public: bytes

    @property
    def size(self) -> int:
        return self.log.served.size


@dataclass(frozen=True)
class Plan:
    """What is to be made. `held`: so many documents of guards and checkpoints the log was held against; `epoch`: the newest that a guard
    has, -1 when none was looked at; `consents`: that stand in the log and are not made."""

    verified: Verified
    told: restoring.Told
    commit: str
    resources: tuple[Resource, ...]
    notes: tuple[str, ...]
    images: tuple[str, ...]
    epoch: int
    held: int
    consents: tuple[dict[str, Any], ...] = ()


@dataclass
class Done:
    """`made`, `there`: objects by what became of them; `reached`: places that may hold what was erased."""

    plan: Plan
    made: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    receipts: int = 0
    reached: tuple[Reached, ...] = ()


# ---- verified before it is used ------------------------------------------------------------------


def verified(left: Left, now: datetime) -> Verified:
    """Raises Bad with what and where when anything of the log was altered, NotFound, Waiting, Stalled."""
    root_public = _root(left)
    log = opened(left.log, left.ca_file, left.certificate)
    keys_json = _keys(left, log, root_public)
    keys = verify_keys(keys_json, root_public, now)
    judged = Evidence(root_public, keys_json, now)
    if not evidence.judge(judged, {f"{left.log}/checkpoint": log.note}):
        step = next(step for step in judged.steps if not step.ok)
        raise Bad(step.what, step.detail)
    root = unb64(log.note.split("\n")[2], f"{left.log}/checkpoint line 3")
    edge, said, events = Edge(), Said(), list[tuple[int, bytes, PolicyEvent]]()
    for n in range(-(-log.served.size // TILE)):
        hashes = bytearray()
        for index, entry in enumerate(log.served.entries_of(n), n * TILE):
            hashes += leaf_hash(entry)
            where = f"{left.log} entry {index}"
            if entry[:1] == b"{" and said.is_new(statement := verify_event(entry, keys, where)[0], where):
                events.append((index, entry, _event(statement, where)))
        _fits(log, n, bytes(hashes))
        edge.extend(bytes(hashes))
    if edge.root() != root:
        raise Bad(f"{left.log}/tile/entries", "the entries do not give the root that the checkpoint signs: some were altered")
    return Verified(log, log.note.partition("\n")[0], root, tuple(events), keys, keys_json, root_public)


def _event(statement: Mapping[str, Any], where: str) -> PolicyEvent:
    try:
        return parse_event(statement)
    except Refused as refused:
        raise Bad(where, str(refused)) from refused


def _fits(log: Opened, n: int, hashes: bytes) -> None:
    """Raises Bad for the first entry of a bundle that is not what its tile has the hash of: either was altered."""
    tile = log.served.tile(0, n)
    for at in range(0, len(hashes), HASH):
        if hashes[at : at + HASH] != tile[at : at + HASH]:
            raise Bad(f"{log.served.name} entry {n * TILE + at // HASH}", "is not what its tile has the hash of: one of them was altered")


def _root(left: Left) -> bytes:
    if left.root is not None:
        return pinned_root(left.root)
    return read_root_pub(left.keys / "root.pub")


def _keys(left: Left, log: Opened, root_public: bytes) -> bytes:
    """The newer keys.json, of the keys' folder and of the log; both under the root. Raises Bad, Stalled."""
    beside, own = log.fetch("keys.json"), left.keys / "keys.json"
    found = ([(beside, f"{left.log}/keys.json")] if beside else []) + ([(own.read_bytes(), str(own))] if own.exists() else [])
    if not found:
        raise Stalled("Keys", f"{own}: must be there, or keys.json beside the log")
    return max(found, key=lambda each: verify_keys(each[0], root_public, where=each[1]).serial)[0]


def held_against(left: Left, seen: Verified) -> tuple[int, int]:
    """Holds the log against what guards accepted and what others kept of it: the newest epoch, and how many there were. Raises Bad for a
    log that is behind them, or that is another."""
    epoch, held = -1, 0
    for folder in left.guards:
        for found in _epochs(folder, seen):
            epoch, held = max(epoch, found), held + 1
    for path in left.checkpoints:
        _demand_grown(seen, path.read_text("utf-8", "replace"), str(path))
        held += 1
    if left.beside is not None:
        must = f"what {left.log} has is read: it must not be behind, or must be moved away"
        _demand_grown(seen, opened(left.beside, left.ca_file, left.certificate).note, f"{left.beside} ({must})")
    return epoch, held


def _demand_grown(seen: Verified, since: str, where: str) -> None:
    """Raises Bad unless the log goes on from this checkpoint."""
    bundle, judged = evidence.Bundle(), Evidence(seen.root_public, seen.keys_json, datetime.now(UTC))
    try:
        evidence.grown(seen.log.served, seen.log.note, since, bundle)
    except Bad as error:
        raise Bad(f"{where}: {error.where}", error.what) from error
    if not evidence.judge(judged, {**bundle.files(), "now": seen.log.note}):
        step = next(step for step in judged.steps if not step.ok)
        raise Bad(f"{where}: {step.what}", step.detail)


def _epochs(folder: Path, seen: Verified) -> Iterator[int]:
    """Of the document that a guard has, and of the newest that it ever accepted."""
    folders = Folders(folder)
    document = folders.desired / "rollout.json"
    if not document.exists():
        raise Bad(str(document), "is not there: must be the folder of a guard, with desired/rollout.json")
    payload = verify_document(document.read_bytes(), ROLLOUT, seen.keys.of("rollout"), str(document))
    epoch, accepted = int(payload["epoch"]), load_accepted(folders)
    behind = f"the log ends at {seen.size - 1}: it is behind what this guard has seen, which would refuse every document"
    if epoch >= seen.size:
        raise Bad(f"{document}: epoch {epoch}", behind)
    ordered = next((event for index, _, event in seen.events if index == epoch), None)
    if ordered is None or ordered.time != payload["issued"]:
        raise Bad(f"{document}: epoch {epoch}", f"entry {epoch} of the log did not order it: this guard has followed another history")
    yield epoch
    if accepted.epoch >= seen.size:
        raise Bad(f"{folders.state / 'accepted.json'}: epoch {accepted.epoch}", behind)
    if accepted.serial > seen.keys.serial:
        raise Bad(f"{folders.state / 'accepted.json'}: serial {accepted.serial}", f"keys.json has serial {seen.keys.serial}: it is older")
    if accepted.epoch:
        yield accepted.epoch


def planned(left: Left, reviews: bool, say: Say) -> Plan:
    """Everything verified, nothing written. Raises Refused with all that is missing, Bad, NotFound, Stalled, Waiting."""
    seen = verified(left, datetime.now(UTC))
    say(f"{left.log}: {seen.size} entries verified, {len(seen.events)} policy events")
    epoch, held = held_against(left, seen)
    commit, given = _given(left)
    told = restoring.told([(index, event) for index, _, event in seen.events])
    faults = [] if left.allow_missing else restoring.lost(told, (each.key for each in given))
    images, missing = _images(left, seen, told, given)
    if faults or missing:
        raise Refused([*faults, *missing])
    resources, notes = restoring.resources(told, given, reviews)
    consents = restoring.not_given(told, (each.key for each in resources))
    return Plan(seen, told, commit, tuple(resources), tuple(notes), images, epoch, held, tuple(consents))


def _given(left: Left) -> tuple[str, list[Resource]]:
    """The commit, and all resources of it and of the files. Raises Refused with every fault."""
    repository = checkout(left.git)
    commit = repository.resolve(left.revision)
    faults, found = list[Fault](), dict[str, Resource]()
    with tempfile.TemporaryDirectory(prefix="knhk-restore-") as made:
        tree = write_out(repository, commit, left.paths, Path(made).resolve())
        texts = [(path, (tree.folder / path).read_bytes()) for path in tree.paths]
    texts += [(str(path), path.read_bytes()) for path in left.files]
    for name, data in texts:
        if not speaks_of_ours(data):
            continue
        try:
            parsed = parse(data, name)
        except Refused as refused:
            faults += refused.faults
            continue
        for resource in parsed:
            faults += admit(resource)
            if str(resource.key) in found:
                faults.append(Fault(name, str(resource.key), f"must be given once (first in {found[str(resource.key)].path})"))
            if resource.kind not in restoring.KINDS:
                faults.append(Fault(name, str(resource.key), "must not be given: Receipts are made from the log"))
            found[str(resource.key)] = replace(with_origin(resource), status={})
    if faults:
        raise Refused(faults)
    return commit, list(found.values())


def _images(left: Left, seen: Verified, told: restoring.Told, given: Sequence[Resource]) -> tuple[tuple[str, ...], list[Fault]]:
    """Digests of images that guards run, each there, whole, and signed; and what is not. Those that a registry has are brought."""
    store, faults, found = PackStore(left.registry), list[Fault](), list[str]()
    for role, digests in restoring.needed(told, (each.key for each in given)).items():
        for digest in dict.fromkeys(digests):
            try:
                _fetch(left, store, role, digest, seen.keys)
                found.append(digest)
            except Refused as refused:
                faults += refused.faults
            except (Corrupt, OSError) as error:
                faults.append(Fault(f"{role} {digest}", str(error), "must be in the registry as it was built: guards run it"))
    return tuple(found), faults


def _fetch(left: Left, store: PackStore, role: str, digest: str, keys: Keys) -> None:
    def read() -> None:
        if role == "data":
            store.fetch_bundle(digest, keys)
        else:
            store.fetch_pack(digest, architecture(), keys)

    try:
        read()
    except (KnhkError, OSError):
        if left.pull is None:
            raise
        pull(left.pull, digest, left.registry, auth=left.pull_auth, tls=left.ca_file)
        read()


# ---- made anew -----------------------------------------------------------------------------------


def fill(store: Store, plan: Plan, signer: RoleSigner, actor: str, now_ns: int) -> Done:
    """Makes in a store what is not there yet; what is there stays as it is, so that it can be done again after any crash. The event of each
    pack is signed and pending in its status: the control plane brings it into the log, and makes its Receipt, when it runs."""
    done, seen = Done(plan), plan.verified
    facts: dict[str, Any] = {"log": seen.origin, "entries": seen.size, "root": seen.root.hex(), "commit": plan.commit, "held": plan.held}
    facts |= {"seenEpoch": plan.epoch} if plan.epoch >= 0 else {}
    for resource in plan.resources:
        try:
            stored, new = store.create(resource), True
        except AlreadyExists:
            stored, new = store.get(resource.key), False
        knows = stored.status.get("conditions") or stored.status.get("image")  # its reconciler went on, or this did before
        status = None if knows else restoring.status_of(plan.told, stored, now_ns)
        if status is None or status.items() <= stored.status.items():
            (done.made if new else done.there).append(str(resource.key))
            continue
        event = restoring.restored(stored, status, actor, rfc3339(now_ns), facts) if stored.kind == "PolicyPack" else None
        if event is not None:
            status = {**status, "pending": [{"bundle": signer.bundle("rollout", statement(event)).decode()}]}
        store.update_status(replace(stored, status=status))
        done.made.append(str(resource.key))
    done.receipts = _receipts(store, seen)
    return done


def _receipts(store: Store, seen: Verified) -> int:
    """Receipts of policy events: of all that keeping leaves (rollbacks deny digests for good), and of the newest others. Each with what
    others outside said to it, if the log has that: they are not asked again."""
    events = [(index, entry, event) for index, entry, event in seen.events if _namespace(event)]
    witnesses = {event.subject[1]: (index, entry) for index, entry, event in reversed(seen.events) if event.kind == NOTARISED}
    old = [each for each in events[:-MAX_RECEIPTS] if each[2].kind in STAY]
    made = 0
    for index, entry, event in (*old, *events[-MAX_RECEIPTS:]):
        receipt = receipt_of(_namespace(event), entry.decode(), index, seen.log.served.inclusion(index, seen.log.note))
        try:
            store.create(receipt)
            made += 1
        except AlreadyExists:
            pass
        except NotFound:
            continue
        if (witness := witnesses.get(sha256_hex(entry))) is not None:
            _witness(store, receipt.key, *witness)
    return made


def _witness(store: Store, key: Key, index: int, event: bytes) -> None:
    stored = store.get(key)
    if "sigstoreIndex" in stored.status:
        return
    bundle = bundle_of(stored.spec["bundle"].encode(), statement_of(event.decode()))
    told = {"sigstore": bundle.decode(), "sigstoreIndex": index, "sigstoreEvent": sha256_hex(event)}
    store.update_status(replace(stored, status={**{name: value for name, value in stored.status.items() if name != "pending"}, **told}))


def _namespace(event: PolicyEvent) -> str:
    """Of the object that an event is of; none for keys, drills and the like."""
    kind, _, name = event.subject[0].partition("/")
    return name.partition("/")[0] if kind in ("pack", "point", "data", "flag", "schema", "hooks", "commit", "consent") else ""


def restore_home(home: Home, left: Left, say: Say) -> Done:
    """The embedded home. The store comes whole, by rename, as the last thing: before that `knhk up` finds none, after it nothing is left to
    do. Raises as `planned`, and Stalled when a control plane runs, or the home has another store. Call it on the main thread."""
    if home.store.exists():
        here = at_home(left, home)
        done = _again(home, planned(here, False, say))
        _bring_key_store(home, left)
        done.reached = erased_again(here, done.plan, home)
        return done
    _take_over(home, left, say)
    _bring_key_store(home, left)
    with daemon.held(home):
        signer, left = embedded.signer_of(home), at_home(left, home)
        first = verified(left, datetime.now(UTC))
        held_against(left, first)
        recover(home, signer, say)
        plan = planned(left, False, say)
        if plan.verified.log.served.root(first.size) != first.root:
            raise Bad(str(home.log), "does not continue what was verified before its sequencer ran")
        reached = erased_again(left, plan, home)
        folder = home.root / "restore"
        shutil.rmtree(folder, ignore_errors=True)
        private_folder(folder)
        store = SqliteStore(folder / home.store.name, SystemClock(), SystemRandom())
        try:
            done = fill(store, plan, signer, local_user(), time.time_ns())
        finally:
            store.close()
        done.reached = reached
        (folder / home.store.name).rename(home.store)
        shutil.rmtree(folder)
    return done


def _bring_key_store(home: Home, left: Left) -> None:
    if left.subjects is not None and left.subjects.resolve() != home.subjects.resolve():
        bring_key_store(left.subjects, home.subjects)


def erased_again(left: Left, plan: Plan, home: Home | None, *, dry: bool = False) -> tuple[Reached, ...]:
    """What the log says was erased is erased again, before anybody can open it. Repeated it finds nothing."""
    folder = left.subjects if home is None or (dry and not home.subjects.exists()) else home.subjects
    seen = plan.verified
    return reapplied([event for _, _, event in seen.events], Places(folder, left.keys, left.archives, home), seen.log, dry=dry)


def _again(home: Home, plan: Plan) -> Done:
    """What is there already of what would be made. Raises Stalled when this store was not made from the log."""
    done = Done(plan)
    store = SqliteStore(home.store, SystemClock(), SystemRandom())
    try:
        for resource in plan.resources:
            try:
                store.get(resource.key)
            except NotFound:
                must = "must not be there, or be what was restored from this log; a running control plane is changed by: knhk apply"
                raise Stalled("HasStore", f"{home.store}: has no {resource.key}: {must}") from None
            done.there.append(str(resource.key))
    finally:
        store.close()
    return done


def at_home(left: Left, home: Home) -> Left:
    """Read from the home itself, once everything was brought there. Guards' folders that lie in the home are looked at, too."""
    own = tuple(folder for folder in sorted((home.root / "points").glob("*")) if (folder / "desired" / "rollout.json").exists())
    guards = tuple(dict.fromkeys((*left.guards, *own)))
    here = (home.log / "checkpoint").exists()
    beside = (
        left.log if here and (is_store(left.log) or is_url(left.log) or Path(left.log).resolve() != home.log.resolve()) else left.beside
    )
    keys = home.keys if (home.keys / "root.pub").exists() else left.keys
    registry = home.registry if home.registry.is_dir() and any(home.registry.iterdir()) else left.registry
    return replace(left, log=str(home.log) if here else left.log, keys=keys, registry=registry, guards=guards, beside=beside)


def _take_over(home: Home, left: Left, say: Say) -> None:
    """Keys, log and registry into the home, all verified where they are before anything is brought. Raises Stalled and Bad."""
    if home.root.exists() and (other := sorted({path.name for path in home.root.iterdir()} - set(PARTS))):
        raise Stalled("NotAHome", f"{home.root}: must be empty or what is left of a home; it holds {other[0]}; choose another --home")
    if daemon.running_pid(home) is not None:
        raise Stalled("InUse", f"{home.root}: a control plane runs here; run: knhk --home {home.root} down")
    source = at_home(left, home)
    if not any((source.keys / name).exists() for name in ("log.key", TOKEN_FILE)):
        raise Stalled("Keys", f"{source.keys / 'log.key'}: must be there: who has it not cannot go on with a log; give --keys")
    plan = planned(source, False, lambda line: None)
    _demand_log_key(source.keys, plan.verified)
    if left.subjects is not None:
        demand_key_store(left.subjects)
    for folder in (home.root, home.keys):
        private_folder(folder)
    for path in sorted(left.keys.iterdir()) if left.keys.resolve() != home.keys.resolve() else ():
        if path.is_file() and not (home.keys / path.name).exists():
            replace_file(home.keys / path.name, path.read_bytes(), path.stat().st_mode & 0o777)
    replace_file(home.keys / "keys.json", plan.verified.keys_json, 0o644)
    if source.registry.resolve() != home.registry.resolve():
        _bring_registry(source.registry, home)
    home.prepare()
    if not (home.log / "checkpoint").exists():
        say(f"{left.log}: {plan.verified.size} entries are copied")
        seen = plan.verified
        known = [Verifier(seen.origin, key) for key in seen.keys.of("log", datetime.now(UTC)).values()]
        signed = open_note(seen.log.note, known)[1]  # not by the newest where the log was lost before it signed with it
        follow(left.log, seen.log.fetch, FolderStore(home.log), next(key for key in known if key in signed))


def _bring_registry(source: Path, home: Home) -> None:
    """Comes whole, by a rename: one that is in the home is the one that is read when this is run again."""
    made = home.root / "restore" / "registry"
    shutil.rmtree(made, ignore_errors=True)
    private_folder(made.parent)
    shutil.copytree(source, made, copy_function=_copy_durably)
    made.rename(home.registry)


def _copy_durably(source: str, target: str) -> None:
    replace_file(Path(target), Path(source).read_bytes())


def _demand_log_key(keys: Path, seen: Verified) -> None:
    """Raises Stalled for keys from before the log's own turned: it would not start, and keys.json would name a wrong one."""
    known = [key.verifier for key in load_key(keys_in(keys).file("log"), seen.origin).known()]
    if not open_note(seen.log.note, known)[1]:
        raise Stalled(
            "Keys", f"{keys}: have not the key that signed {seen.log.served.name}/checkpoint: must be kept each time that keys turn"
        )


def recover(home: Home, signer: RoleSigner, say: Say) -> None:
    """What the log acknowledged and no checkpoint covers yet comes under one, by the sequencer's own recovery. Raises Stalled."""
    home.prepare_to_run()
    supervisor = Supervisor()
    log, deadline = SequencerLog(home.sequencer_socket), time.monotonic() + COVERED_WITHIN_S
    try:
        supervisor.ensure(embedded.sequencer_command(home, signer))
        while time.monotonic() < deadline:
            supervisor.tick()
            with suppress(Waiting):
                health = log.health()
                if health["published"] == health["durable"]:
                    say(f"the log has {health['durable']} entries, all under its checkpoint")
                    return
            time.sleep(0.05)
    finally:
        supervisor.stop_all()
        daemon.clean(home)
    raise Stalled("NoLog", f"the log was not under a checkpoint within {COVERED_WITHIN_S:g} s; see {home.run}/sequencer.log")
