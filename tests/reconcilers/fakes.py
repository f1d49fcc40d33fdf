"""Every port of the reconcilers in memory, with the promises of knhk.ports. What they hold survives a controller that dies."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from functools import lru_cache
from random import Random
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from memory import MemoryStore

from knhk.api import check_status
from knhk.lockchain import assemble
from knhk.model.arrows import CText, GuardPlan, PackSources, SharedObject
from knhk.model.canonical import canonical, sha256_hex
from knhk.model.faults import Corrupt, Fault, NotFound, Refuted, Stalled, Waiting
from knhk.model.oci import ARCHES, SIGNED, Artifact, Descriptor
from knhk.model.resource import Resource
from knhk.packaging.materials import Material
from knhk.ports.fleet import Statistics, must_take_its_place
from knhk.ports.placement import Placed
from knhk.ports.together import Act
from knhk_runtime.record import entry_key
from knhk_verify.signed import keyid, pae

NS = 1_000_000_000
START_NS = 1_795_428_000 * NS


@dataclass
class FakeClock:
    """Stands still until the driver moves it."""

    ns: int = START_NS

    def now_ns(self) -> int:
        return self.ns

    def monotonic_ns(self) -> int:
        return self.ns

    def sleep(self, duration_s: float) -> None:
        self.ns += int(duration_s * NS)


class CheckedStore(MemoryStore):
    """Refuses a status that an API server would refuse, and JSON that is none."""

    def update_status(self, resource: Resource) -> Resource:
        faults = check_status(resource.kind, resource.status)
        assert not faults, faults
        plain = json.loads(canonical(resource.status))
        return super().update_status(replace(resource, status=plain))

    def forget(self) -> None:
        """Keeps none of its changes any longer: who has not read them must list."""
        self._changes.clear()


@dataclass
class FakeLog:
    """Appends at once; `covered` entries are under a checkpoint."""

    entries: list[bytes] = field(default_factory=list)
    covered: int = 0
    away: bool = False

    def append_event(self, bundle: bytes) -> int:
        self._reach()
        if bundle not in self.entries:
            self.entries.append(bundle)
        return self.entries.index(bundle)

    def append_events(self, bundles: Sequence[bytes]) -> list[int]:
        return [self.append_event(bundle) for bundle in bundles]

    def append_leaves(self, leaves: Sequence[bytes]) -> list[int]:
        raise AssertionError("the control plane appends no leaves")

    def index_of(self, key: bytes) -> int:
        self._reach()
        found = next((index for index, entry in enumerate(self.entries) if entry_key(entry) == key), None)
        if found is None:
            raise NotFound("no such key")
        return found

    def proof(self, index: int) -> str:
        self._reach()
        if index >= self.covered:
            raise Waiting("NotCovered", f"entry {index} is not covered yet", 0.5)
        return f"c2sp.org/tlog-proof@v1\nindex {index}\n\n{self.checkpoint()}"

    def proofs(self, indexes: Sequence[int]) -> list[str | None]:
        self._reach()
        return [self._proven(index) for index in indexes]

    def _proven(self, index: int) -> str | None:
        try:
            return self.proof(index)
        except Waiting:
            return None

    def checkpoint(self) -> str:
        return f"knhk.dev/test\n{self.covered}\n"

    def cover(self) -> None:
        self.covered = len(self.entries)

    def statements(self) -> list[dict[str, Any]]:
        """What each entry says."""
        return [_statement(entry) for entry in self.entries]

    def _reach(self) -> None:
        if self.away:
            raise Waiting("LogUnreachable", "the sequencer does not answer", 0.5)


@lru_cache(4096)
def _statement(bundle: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(json.loads(bundle)["dsseEnvelope"]["payload"]))
    return found


@dataclass
class FakeNotary:
    """`away`: what it raises; `silent`: it never answers at all."""

    away: Exception | None = None
    silent: bool = False
    asked: int = 0
    left: list[tuple[Future[bytes], bytes]] = field(default_factory=list)

    def notarised(self, role: str, bundle: bytes) -> bytes:
        self.asked += 1
        if self.away is not None:
            raise self.away
        document = json.loads(bundle)
        document["verificationMaterial"] = {"publicKey": {"hint": f"outside {role}"}, "tlogEntries": [{"logIndex": "1"}]}
        return canonical(document)

    def ask(self, role: str, bundle: bytes) -> Future[bytes]:
        found: Future[bytes] = Future()
        self.left.append((found, bundle))
        if not self.silent:
            self.answer()
        return found

    def answer(self) -> None:
        for found, bundle in self.left:
            try:
                found.set_result(self.notarised("rollout", bundle))
            except Exception as error:
                found.set_exception(error)
        self.left.clear()


class FakeSigner:
    """Role-bound keys from fixed seeds. `turn` replaces one."""

    def __init__(self) -> None:
        self._keys = {role: Ed25519PrivateKey.from_private_bytes(bytes([i]) * 32) for i, role in enumerate(("build", "rollout", "data"))}

        self._replaced: list[tuple[str, Ed25519PrivateKey]] = []

    def turn(self, role: str) -> None:
        self._replaced.append((role, self._keys[role]))
        self._keys[role] = Ed25519PrivateKey.from_private_bytes(bytes([99 + len(self._replaced) % 100]) * 32)

    def sign(self, role: str, payload_type: str, payload: bytes) -> dict[str, Any]:
        signature = self._keys[role].sign(pae(payload_type, payload))
        rows = [{"keyid": self.keyid(role), "sig": base64.b64encode(signature).decode()}]
        return {"payload": base64.b64encode(payload).decode(), "payloadType": payload_type, "signatures": rows}

    def bundle(self, role: str, statement: Mapping[str, Any]) -> bytes:
        return assemble(statement, lambda kind, payload: self.sign(role, kind, payload))

    def keyid(self, role: str) -> str:
        return keyid(self._keys[role].public_key().public_bytes_raw())

    def public(self, role: str) -> bytes:
        return self._keys[role].public_key().public_bytes_raw()

    def keys_json(self) -> bytes:
        """Signed by nobody. It names keys that were replaced, too."""
        named = (*self._replaced, *self._keys.items())
        roles: dict[str, list[dict[str, str]]] = {role: [] for role in self._keys}
        for role, key in named:
            raw = key.public_key().public_bytes_raw()
            roles[role].append({"keyid": keyid(raw), "pub": base64.b64encode(raw).decode()})
        return canonical({"payload": base64.b64encode(canonical({"roles": roles})).decode()})


@dataclass
class FakeRegistry:
    """Blobs by digest; artifacts that are listed."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    full: bool = False
    away: bool = False

    def publish(self, artifacts: Sequence[Artifact], tag: str | None = None) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        for artifact in artifacts:
            self.blobs |= {blob.digest: blob.data for blob in (*artifact.blobs, artifact.root)}
            self.artifacts[artifact.digest] = artifact
        if tag:
            self.named[tag] = artifacts[0].digest

    def read(self, digest: str) -> bytes:
        if self.away:
            raise Waiting("RegistryUnreachable", "the registry does not answer", 2.0)
        if digest not in self.blobs:
            raise Corrupt(digest, "is missing")
        return self.blobs[digest]

    def manifest(self, digest: str) -> bytes:
        return self.read(digest)

    def resolve(self, tag: str) -> str | None:
        return self.named.get(tag)

    def tagged(self, tag: str) -> bytes | None:
        return None if tag not in self.named else self.read(self.named[tag])

    def tags(self) -> Mapping[str, str]:
        return dict(sorted(self.named.items()))

    def listed(self) -> tuple[Descriptor, ...]:
        return tuple(_described(self.artifacts[digest]) for digest in sorted(self.artifacts))

    def referrers(self, digest: str, artifact_type: str | None = None) -> tuple[Descriptor, ...]:
        found = (self.artifacts[name] for name in sorted(self.artifacts))
        return tuple(_described(a) for a in found if a.subject == digest and artifact_type in (None, a.artifact_type))

    def statements(self, digest: str) -> Iterator[Descriptor]:
        return iter(self.referrers(digest, SIGNED))

    def remove(self, digest: str) -> None:
        self.artifacts = {name: a for name, a in self.artifacts.items() if digest not in (name, a.subject)}
        self.named = {tag: name for tag, name in self.named.items() if name != digest}

    def collect_garbage(self) -> tuple[str, ...]:
        reached = {blob.digest for a in self.artifacts.values() for blob in (*a.blobs, a.root)}
        lost = tuple(sorted(self.blobs.keys() - reached))
        for digest in lost:
            del self.blobs[digest]
        return lost


def _described(a: Artifact) -> Descriptor:
    return Descriptor(a.root.media_type, a.digest, len(a.root.data), a.artifact_type, a.annotations)


class FakeCompiler:
    """Objects that follow from the text alone."""

    def compile(self, text: CText, arches: Sequence[str] = ARCHES) -> tuple[SharedObject, ...]:
        return tuple(SharedObject(arch, f"{arch} {text.plan_digest}".encode()) for arch in ARCHES)

    def materials(self) -> tuple[Material, ...]:
        return (Material("compiler", sha256_hex(b"zig"), "knhk:compiler", "1"),)


@dataclass
class FakeProver:
    """Finds no difference, but in packs of these versions; remembers by version which data bundle it was given."""

    wrong: frozenset[str] = frozenset()
    given: dict[str, Resource | None] = field(default_factory=dict)

    def prove(self, pack: PackSources, plan: GuardPlan, objects: tuple[SharedObject, ...], bundle: Resource | None) -> Mapping[str, Any]:
        self.given[pack.version] = bundle
        if pack.version in self.wrong:
            raise Refuted([Fault("body:3", "limits: passing by the scalar kernels, failing by the sources, on {}", "is a bug")])
        return {"cases": 7, "asked": 7, "seed": 1, "digest": sha256_hex(plan.canonical())}


@dataclass
class FakeFleet:
    """Documents, configurations and statistics by point; every document that was ever handed over, in order."""

    documents: dict[str, bytes] = field(default_factory=dict)
    configs: dict[str, bytes] = field(default_factory=dict)
    bootstraps: dict[str, bytes] = field(default_factory=dict)
    told: dict[str, Statistics] = field(default_factory=dict)
    handed: list[tuple[str, bytes]] = field(default_factory=list)
    consents: dict[str, bytes] = field(default_factory=dict)
    bases: dict[str, bytes] = field(default_factory=dict)
    torn: set[str] = field(default_factory=set)
    full: bool = False

    def publish_document(self, point: str, envelope: bytes) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        must_take_its_place(point, envelope, self.documents.get(point))
        self.documents[point] = envelope
        self.handed.append((point, envelope))

    def publish_keys(self, point: str, envelope: bytes) -> None:
        pass

    def publish_bootstrap(self, point: str, bootstrap: bytes) -> None:
        self.bootstraps[point] = bootstrap

    def publish_config(self, point: str, config: bytes) -> None:
        self.configs[point] = config

    def publish_consents(self, point: str, envelope: bytes, base: bytes | None) -> None:
        self.consents[point] = envelope
        if base is not None:
            self.bases[point] = base

    def document(self, point: str) -> bytes | None:
        return self.documents.get(point)

    def config(self, point: str) -> bytes | None:
        return self.configs.get(point)

    def statistics(self, point: str) -> Statistics | None:
        if point in self.torn:
            raise Corrupt(f"{point}/stats.json", "must be JSON")
        return self.told.get(point)

    def wait(self, known_ns: Mapping[str, int], timeout_s: float) -> frozenset[str]:
        return frozenset()


@dataclass
class FakePlacement:
    """Remembers what runs. `taken`: points whose port somebody else has."""

    running: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def bootstrap(self, point: str, spec: Mapping[str, Any]) -> bytes:
        if point in self.taken:
            raise Stalled("PortInUse", "127.0.0.1:8443: must be free")
        return canonical({name: spec[name] for name in ("listen", "upstream", "match")})

    def ensure(self, point: str, spec: Mapping[str, Any]) -> Placed:
        self.bootstrap(point, spec)
        self.running[point] = spec
        return Placed("127.0.0.1:8443")

    def remove(self, point: str) -> None:
        self.running.pop(point, None)

    def placed(self) -> frozenset[str]:
        return frozenset(self.running)


class Died(BaseException):
    """The process ended here."""


class InlineExecutor(Executor):
    """Runs at once; `hold` keeps work until `release`."""

    def __init__(self) -> None:
        self.hold = False
        self.kept: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.kept.append((future, lambda: fn(*args, **kwargs)))
        if not self.hold:
            self.release()
        return future

    def release(self) -> None:
        kept, self.kept = self.kept, []
        for future, work in kept:
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)


class Shuffled:
    """knhk.ports.together.Together in an order that nobody chose."""

    def __init__(self, chance: Random, most: int) -> None:
        self._chance, self.most = chance, most

    def __call__(self, acts: Sequence[Act]) -> None:
        for act in self._chance.sample(acts, len(acts)):
            act()


class Mortal:
    """A port whose caller dies before or after one of the calls that change something."""

    def __init__(self, inner: object, counter: Fate, writes: frozenset[str]) -> None:
        self._inner, self._fate, self._writes = inner, counter, writes

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._writes:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self._fate.meet("before", name)
            result = found(*args, **kwargs)
            self._fate.meet("after", name)
            return result

        return call


@dataclass
class Fate:
    """Counts the moments before and after each change; the controller dies at moment `at`."""

    at: int = -1
    moments: list[str] = field(default_factory=list)

    def meet(self, when: str, name: str) -> None:
        self.moments.append(f"{when} {name}")
        if len(self.moments) - 1 == self.at:
            raise Died(f"moment {self.at}, {when} {name}")


WRITES: Mapping[str, frozenset[str]] = {
    "store": frozenset({"create", "update", "update_status", "apply", "delete", "record"}),
    "log": frozenset({"append_event", "append_events"}),
    "registry": frozenset({"publish"}),
    "fleet": frozenset({"publish_document", "publish_keys", "publish_config", "publish_bootstrap", "publish_consents"}),
    "placement": frozenset({"ensure", "remove"}),
}
