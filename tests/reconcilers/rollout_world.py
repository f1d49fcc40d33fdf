"""A deterministic world around the controller: time, agents that judge as told, and the laws that hold at every moment."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from fakes import (
    NS,
    WRITES,
    CheckedStore,
    FakeClock,
    FakeCompiler,
    FakeFleet,
    FakeLog,
    FakePlacement,
    FakeProver,
    FakeRegistry,
    FakeSigner,
    Fate,
    InlineExecutor,
    Mortal,
)

from knhk.adapters.namespaces import ChosenNamespaces
from knhk.api import parse
from knhk.lockchain import NOTARISED
from knhk.model.canonical import sha256_hex
from knhk.model.keeping import WITHOUT_BOUND, Keep
from knhk.model.resource import Key, Resource
from knhk.ports.compiler import Compiler
from knhk.ports.fleet import Statistics
from knhk.ports.notary import Notary
from knhk.ports.prover import Prover
from knhk.ports.secrets import NoSecrets, Secrets
from knhk.ports.telemetry import Silent, Telemetry
from knhk.ports.together import InTurn, Together
from knhk.ports.trust import Trusts, TrustsNobody
from knhk.reconcilers.context import Ports
from knhk.reconcilers.controller import Controller
from knhk.reconcilers.pulling import Git
from knhk.reconcilers.workshop import Bench, Retirement, Workshop

POINT, PACK, BUNDLE = "erp/p1", Key("PolicyPack", "erp", "orders"), Key("DataBundle", "erp", "roles")
STEP_S = 0.25
STEPS = "steps: [{weight: 10, minPairs: 20}, {weight: 50, minPairs: 20}]"

POINT_YAML = """apiVersion: knhk.dev/v1alpha1
kind: EnforcementPoint
metadata: {{name: {name}, namespace: erp}}
spec:
  mode: Sidecar
  upstream: {{host: 127.0.0.1, port: 8080}}
  match: [{{name: create, method: POST, path: /orders, action: create}}]
  baseline: {baseline}
"""
BUNDLE_YAML = """apiVersion: knhk.dev/v1alpha1
kind: DataBundle
metadata: {{name: {name}, namespace: erp}}
spec:
  version: 1.0.0
  source:
    inline: |
      @prefix ex: <https://example.com/ns#> .
      ex:ada ex:limit {limit} .
"""
PACK_YAML = """apiVersion: knhk.dev/v1alpha1
kind: PolicyPack
metadata: {{name: {name}, namespace: erp}}
spec:
  version: {version}
  sources:
    - name: shapes
      kind: shapes
      inline: |
        @prefix sh: <http://www.w3.org/ns/shacl#> .
        @prefix ex: <https://example.com/ns#> .
        ex:S a sh:NodeShape ; sh:targetClass ex:Order ;
          sh:property [ sh:path ex:total ; {constraint} ; sh:message "an order needs a total" ] .
    - name: body
      kind: mapping
      inline: |
        prefixes: {{ex: "https://example.com/ns#"}}
        unknownMembers: Allow
        maps:
          - id: order
            iterator: $
            subject: {{blank: true}}
            class: ex:Order
            properties: {{ex:total: $.total}}
  routes: [{{name: create, mapping: body}}]
  targets: [{targets}]
  dataBundles: [{bundles}]
  suspend: {suspend}
  rollout:
    shadow: {{minPairs: 20}}
    steps: [{{weight: 10, minPairs: 20}}, {{weight: 50, minPairs: 20}}]
    deadlineSeconds: {deadline}
    onNoData: {no_data}
    analysis: {{tolerances: {{maxNewDenials: "0.01", maxNewAdmits: "0.01"}}, effect: "0.3"}}
"""


def point(name: str = "p1", baseline: str = "Deny") -> str:
    return POINT_YAML.format(name=name, baseline=baseline)


def bundle(limit: int = 1, name: str = "roles") -> str:
    return BUNDLE_YAML.format(name=name, limit=limit)


def pack(
    version: str,
    *,
    name: str = "orders",
    constraint: str = "sh:minCount 1",
    targets: str = "{point: p1}",
    bundles: str = "",
    suspend: str = "false",
    deadline: int = 600,
    no_data: str = "Abort",
) -> str:
    """A PolicyPack; same version and constraint, same image."""
    return PACK_YAML.format(
        name=name,
        version=version,
        constraint=constraint,
        targets=targets,
        bundles=bundles,
        suspend=suspend,
        deadline=deadline,
        no_data=no_data,
    )


@dataclass
class World:
    """`bad`: versions that deny a third of what was admitted; `slow`: take 16 ms instead of 12 µs; `cold`: leave R1. `traffic`:
    requests of each point and step. `covers`: whether the log makes checkpoints. `reviews`: whether the store knows people. `runs`: what
    agents say they run, when that is something else than they are told."""

    clock: FakeClock = field(default_factory=FakeClock)
    store: CheckedStore = field(default_factory=CheckedStore)
    log: FakeLog = field(default_factory=FakeLog)
    signer: FakeSigner = field(default_factory=FakeSigner)
    registry: FakeRegistry = field(default_factory=FakeRegistry)
    fleet: FakeFleet = field(default_factory=FakeFleet)
    placement: FakePlacement = field(default_factory=FakePlacement)
    compiler: Compiler = field(default_factory=FakeCompiler)
    prover: Prover = field(default_factory=FakeProver)
    executor: InlineExecutor = field(default_factory=InlineExecutor)
    git: Git | None = None
    merged_only: frozenset[str] = frozenset()
    trusts: Trusts = field(default_factory=TrustsNobody)
    fate: Fate = field(default_factory=Fate)
    bad: frozenset[str] = frozenset()
    slow: frozenset[str] = frozenset()
    cold: frozenset[str] = frozenset()
    traffic: int = 12
    covers: bool = True
    reviews: bool = False
    keep: Keep = WITHOUT_BOUND
    origin: str = "knhk.dev/test"
    together: Together = field(default_factory=InTurn)
    notary: Notary | None = None
    runs: dict[str, Any] | None = None
    secrets: Secrets = field(default_factory=NoSecrets)
    telemetry: Telemetry = field(default_factory=Silent)
    regions: tuple[str, ...] = ()
    counts: dict[tuple[str, str, str], list[int]] = field(default_factory=dict)
    decided: dict[tuple[str, str], int] = field(default_factory=dict)
    checked: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    newest: dict[str, tuple[int, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """A fresh controller over what is stored, as after a crash."""
        mortal: dict[str, Any] = {name: Mortal(getattr(self, name), self.fate, writes) for name, writes in WRITES.items()}
        own: dict[str, Any] = {name: getattr(self, name) for name in ("signer", "clock")}
        self.executor = InlineExecutor()
        bench = Bench(self.compiler, self.prover, mortal["registry"], self.signer, "generator", self.notary)
        own |= {"namespaces": ChosenNamespaces(self.merged_only), "reviews": self.reviews, "trusts": self.trusts}
        own |= {"builder": Workshop(bench, self.executor, InlineExecutor(), Retirement(mortal["registry"], self.clock))}
        own |= {"together": self.together, "notary": self.notary, "secrets": self.secrets}
        own |= {"telemetry": self.telemetry, "regions": self.regions}
        ports = Ports(**mortal, **own, origin=self.origin, actor="test")
        self.controller = Controller(ports, self.git, self.keep)

    # ---- what people do ------------------------------------------------------------------------

    def apply(self, *texts: str) -> None:
        for text in texts:
            for resource in parse(text, "test.yaml"):
                self.store.apply(replace(resource, status={}))

    def annotate(self, key: Key, **annotations: str) -> None:
        self.store.update(replace(self.store.get(key), annotations={f"knhk.dev/{k}": v for k, v in annotations.items()}))

    def get(self, key: Key = PACK) -> Resource:
        return self.store.get(key)

    # ---- time ----------------------------------------------------------------------------------

    def step(self) -> None:
        """Agents judge, the controller turns once, time passes."""
        for name in sorted(self.placement.running):
            self._judge(name)
        self.controller.tick()
        if self.covers:
            self.log.cover()
        self.clock.ns += int(STEP_S * NS)
        self.check()

    def run(self, steps: int = 40) -> None:
        for _ in range(steps):
            self.step()

    def until(self, true: Callable[[], bool], steps: int = 400) -> None:
        """Steps until it is so."""
        for _ in range(steps):
            if true():
                return
            self.step()
        raise AssertionError(f"not within {steps} steps: {self.describe()}")

    def until_phase(self, phase: str, version: str = "", key: Key = PACK, steps: int = 400) -> None:
        def there() -> bool:
            found = self.get(key)
            revision = found.status.get("revision", {})
            return revision.get("phase") == phase and revision["generation"] == found.generation and version in ("", revision["version"])

        self.until(there, steps)

    def settle(self) -> None:
        """Steps until every event has its receipt; what others bear witness to has none of its own."""
        self.until(lambda: len(self.receipts()) == len(self.kinds()) - self.kinds().count(NOTARISED) and self.controller.journal.settle())

    def describe(self) -> str:
        status = self.get().status if any(r.key == PACK for r in self.store.list("PolicyPack").resources) else {}
        return json.dumps({"revision": status.get("revision"), "conditions": status.get("conditions"), "log": self.kinds()})

    # ---- what is seen --------------------------------------------------------------------------

    def kinds(self) -> list[str]:
        return [statement["predicate"]["kind"] for statement in self.log.statements()]

    def receipts(self) -> list[Resource]:
        return list(self.store.list("Receipt").resources)

    def document(self, name: str = POINT) -> dict[str, Any]:
        return payload(self.fleet.documents[name])

    def ready(self, key: Key = PACK) -> dict[str, Any]:
        found: dict[str, Any] = next(c for c in self.get(key).status["conditions"] if c["type"] == "Ready")
        return found

    def _judge(self, name: str) -> None:
        """What the agent of a point does with `traffic` requests."""
        envelope = self.fleet.documents.get(name)
        if envelope is None:
            return
        document = payload(envelope)
        stable, candidate = (short(document[arm]) for arm in ("stable", "candidate"))
        for digest in {stable, candidate} - {""}:
            self.decided[name, digest] = self.decided.get((name, digest), 0) + self.traffic
        if candidate:
            row = self.counts.setdefault((name, stable or "0" * 40, candidate), [0, 0])
            row[0] += self.traffic
            self.versions[candidate] = document["candidate"]["version"]
            row[1] += self.traffic // 3 if stable and document["candidate"]["version"] in self.bad else 0
        told = {arm: (document[arm] or {}).get("digest") for arm in ("stable", "candidate", "data")}
        statistics = self._statistics(name, document["epoch"]) | {"running": self.runs or told}
        self.fleet.told[name] = Statistics(statistics, self.clock.ns)

    def _statistics(self, name: str, epoch: int) -> dict[str, Any]:
        rows = [(pair, n) for (where, *pair), n in self.counts.items() if where == name]
        return {
            "version": 1,
            "point": name,
            "epoch": epoch,
            "ready": True,
            "refused": [],
            "durable": 1 << 40,
            "pairs": [
                {
                    "stable": stable,
                    "candidate": candidate,
                    "pairs": n,
                    "covered": n,
                    "clusters": n,
                    "errors": 0,
                    "guards": {"shapes.S.total.minCount": {"newDenials": worse, "newAdmits": 0}},
                    "any": {"newDenials": worse, "newAdmits": 0},
                    "samples": {"newDenials": ["ab" * 16] if worse else [], "newAdmits": []},
                    **self._beside(self.versions[candidate], n),
                }
                for (stable, candidate), (n, worse) in rows
            ],
            "decisions": {digest: {"admit": n, "deny": 0} for (where, digest), n in self.decided.items() if where == name},
        }

    def _beside(self, version: str, n: int) -> dict[str, Any]:
        """Classes and durations of a candidate of this version."""
        left = n if version in self.cold else 0
        return {
            "classes": {"stable": {"R1": n}, "candidate": {"R1": n - left, "C1": left}, "bothR1": n - left},
            "latency": {"stable": {"50": n - left}, "candidate": {"92" if version in self.slow else "50": n - left}},
        }

    # ---- laws ----------------------------------------------------------------------------------

    def check(self) -> None:
        """Epochs only grow and name one document each; what is enforced was ordered before; nothing is promoted twice."""
        statements = self.log.statements()
        for name, envelope in self.fleet.handed[self.checked :]:
            document = payload(envelope)
            epoch, digest = self.newest.get(name, (-1, ""))
            assert document["epoch"] >= epoch, f"{name}: epoch {document['epoch']} after {epoch}"
            assert document["epoch"] > epoch or sha256_hex(envelope) == digest, f"{name}: two documents of epoch {epoch}"
            self.newest[name] = document["epoch"], sha256_hex(envelope)
            check_allowed(document, statements[: document["epoch"] + 1])
        self.checked = len(self.fleet.handed)
        promoted = [s["subject"][0]["digest"]["sha256"] for s in statements if s["predicate"]["kind"] == "Promoted"]
        assert len(promoted) == len(set(promoted)), "a pack was promoted twice"
        notarised = [s["subject"][0]["digest"]["sha256"] for s in statements if s["predicate"]["kind"] == NOTARISED]
        assert len(notarised) == len(set(notarised)), "others bear witness twice to one receipt"


def check_allowed(document: dict[str, Any], history: list[dict[str, Any]]) -> None:
    """What a document enforces was ordered by then. `history`: the log up to the document's epoch."""
    if document["stable"]:
        digest = document["stable"]["digest"].removeprefix("sha256:")
        said = [s["predicate"] for s in history if s["subject"][0]["digest"]["sha256"] == digest]
        passed = any(s["kind"] == "Promoted" or (s["kind"] == "StepAdvanced" and s["arm"] == "Shadow") for s in said)  # its stage, or all
        assert passed, f"stable {document['stable']['version']} at epoch {document['epoch']} was never promoted"
    if document["candidate"]:
        digest = document["candidate"]["digest"].removeprefix("sha256:")
        last = [s["predicate"] for s in history if s["subject"][0]["digest"]["sha256"] == digest][-1]
        assert last["kind"] in ("RolloutStarted", "StepAdvanced", "Resumed", "Stalled"), last["kind"]
        assert document["weight"] <= last["weight"] * 10, f"weight {document['weight']} at epoch {document['epoch']}"


def payload(envelope: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
    return found


def short(pack: dict[str, Any] | None) -> str:
    return pack["digest"].removeprefix("sha256:")[:40] if pack else ""
