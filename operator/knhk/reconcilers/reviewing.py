"""What a range of commits changes: faults of what they touch, expectations that are missed, and sample payloads that are decided otherwise.

Resources and payloads of both commits lie in two folders (adapters/commit_files.py). The whole of the later commit is parsed; a pack is
compiled and decided when its file, its DataBundle, its expectations or its payloads changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from knhk.api import parse, to_sources
from knhk.model.arrows import GuardPlan
from knhk.model.commits import Tree
from knhk.model.expectations import TESTS_FILE, Case, Expectations
from knhk.model.faults import Fault, Refused
from knhk.model.packs import Found, bundle_name
from knhk.model.resource import GROUP, Key, Resource
from knhk.ports.compiler import Compiler
from knhk.ports.expectations import ExpectationFiles
from knhk.reconcilers.admission import admit, bundle_bytes
from knhk.reconcilers.comparing import Changed, compare
from knhk.reconcilers.lowering import plan_of
from knhk.reconcilers.testing import Report, Subject, subject, test
from knhk_gen.plan_diff import PlanDiff, diff

_OURS = re.compile(rb"^[\"']?apiVersion[\"']?[ \t]*:[ \t]*[\"']?" + re.escape(GROUP).encode() + rb"/", re.MULTILINE)
Rule = Literal["fault", "expectation", "proof", "verdict"]


@dataclass(frozen=True)
class Finding:
    """One thing to tell at a place of a file: `where` is PATH or PATH:LINE. Of a rule `verdict` it is told and ends nothing."""

    rule: Rule
    where: str
    value: str
    must: str


@dataclass(frozen=True)
class Snapshot:
    """The resources of one commit. `beside` may be read by packs, and belongs to nobody here."""

    tree: Tree
    resources: Mapping[Key, Resource]
    beside: Mapping[Key, Resource]
    faults: tuple[Fault, ...]

    def bundle(self, pack: Resource) -> Resource | None:
        """The DataBundle of a pack. Raises Refused when it names one that is not there."""
        name = bundle_name(pack)
        if name is None:
            return None
        key = Key("DataBundle", pack.namespace, name)
        found = self.resources.get(key) or self.beside.get(key)
        if found is None:
            where = f"{pack.path}:{pack.lines.get('spec.dataBundles', 1)}"
            raise Refused([Fault(where, name, f"must name a DataBundle of namespace {pack.namespace} that the repository carries")])
        return found


@dataclass(frozen=True)
class Reviewed:
    """What became of one pack. `report` is None without expectations; `samples` counts those that both packs decided; `difference` and
    `changed` speak of the pack of this name before, None and empty when there was none."""

    pack: Resource
    before: Resource | None
    report: Report | None = None
    wanted: Expectations | None = None
    difference: PlanDiff | None = None
    samples: int = 0
    changed: tuple[Changed, ...] = ()
    proof: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Review:
    """Everything about a range. `touched` are packs and other resources that changed, `removed` those that are no longer there."""

    files: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    packs: tuple[Reviewed, ...] = ()
    others: tuple[Key, ...] = ()
    removed: tuple[Key, ...] = ()


Prove = Callable[[Found, GuardPlan], Mapping[str, Any]]


@dataclass
class Reviewer:
    """`prove` proves a translation or is None; `mutants`: count the mutants that expectations notice, too."""

    compiler: Compiler
    arch: str
    files: ExpectationFiles
    prove: Prove | None = None
    mutants: bool = False
    _findings: list[Finding] = field(default_factory=list)

    def review(self, before: Tree, after: Tree, changed: Sequence[str]) -> Review:
        """`changed`: the paths that the two commits say otherwise."""
        old, new = snapshot(before), snapshot(after)
        self._note("fault", new.faults)
        packs, others = [], []
        for key, resource in new.resources.items():
            if key.kind == "PolicyPack" and self._is_touched(resource, new, changed):
                packs.append(self._pack(resource, old, new))
            elif key.kind != "PolicyPack" and resource.path in changed:
                others.append(key)
                self._note("fault", admit(resource))
        removed = tuple(sorted(old.resources.keys() - new.resources.keys())) if not new.faults else ()
        return Review(tuple(changed), tuple(dict.fromkeys(self._findings)), tuple(packs), tuple(others), removed)

    def _note(self, rule: Rule, faults: Iterable[Fault]) -> None:
        self._findings += [Finding(rule, fault.where, fault.value, fault.must) for fault in faults]

    def _pack(self, pack: Resource, old: Snapshot, new: Snapshot) -> Reviewed:
        made = Reviewed(pack, old.resources.get(pack.key) or old.beside.get(pack.key))
        try:
            plan = plan_of(to_sources(pack))
            bundle = new.bundle(pack)
            data = None if bundle is None else bundle_bytes(bundle)
        except Refused as refused:
            self._note("fault", refused.faults)
            return made
        found = Found(pack, new.tree.folder / pack.path, bundle)
        made = replace(made, proof=self._proof(found, plan))
        under = subject(plan, self.compiler, self.arch, data)
        made = self._tested(made, new.tree.folder, plan, under)
        return self._compared(made, plan, under, old)

    def _proof(self, found: Found, plan: GuardPlan) -> Mapping[str, Any] | None:
        if self.prove is None:
            return None
        try:
            return self.prove(found, plan)
        except Refused as refused:
            self._note("proof", refused.faults)
            return None

    def _tested(self, made: Reviewed, root: Path, plan: GuardPlan, under: Subject) -> Reviewed:
        file = self.files.beside(root / made.pack.path)
        if not file.is_file():
            return made
        try:
            wanted = self.files.expectations(file, plan.document, root)
            report = test(under, wanted, self.compiler, self.arch, self.mutants)
        except Refused as refused:
            self._note("expectation", (_inside(root, fault) for fault in refused.faults))
            return made
        for seen in report.wrong:
            self._note("expectation", [_inside(root, Fault(seen.case.place(), seen.case.name, "; ".join(seen.told)))])
        self._note("expectation", _lacks(report, wanted, str(file.relative_to(root))))
        return replace(made, report=report, wanted=wanted)

    def _compared(self, made: Reviewed, plan: GuardPlan, under: Subject, old: Snapshot) -> Reviewed:
        """The preview. A pack before that does not compile is told by no difference: it was judged when it was merged."""
        if made.before is None:
            return made
        try:
            past = plan_of(to_sources(made.before))
            bundle = old.bundle(made.before)
            old_data = None if bundle is None else bundle_bytes(bundle)
        except Refused:
            return made
        file = self.files.beside(old.tree.folder / made.before.path)
        samples = list(self._samples(made.wanted, file, past, old.tree.folder))
        old_subject = subject(past, self.compiler, self.arch, old_data) if samples else under
        changed = tuple(compare(old_subject, under, samples))
        for each in (c for c in changed if c.verdict):
            what = f"{each.name}: {each.before} → {each.after}"
            must = f"is decided otherwise by {', '.join(each.guilty) or 'the request'}"
            self._findings.append(Finding("verdict", made.pack.path, what, must))
        return replace(made, difference=diff(past.document, plan.document), samples=len(samples), changed=changed)

    def _is_touched(self, pack: Resource, new: Snapshot, changed: Sequence[str]) -> bool:
        """Whether a pack may decide otherwise, or is expected to: it changed, or its data, its expectations or their payloads."""
        try:
            bundle = new.bundle(pack)
            files = self.files.files_of(self.files.beside(new.tree.folder / pack.path))
        except Refused:
            return True
        paths = {pack.path} | (set() if bundle is None else {bundle.path})
        return any(path in paths or new.tree.folder / path in files for path in changed)

    def _samples(self, wanted: Expectations | None, before: Path, past: GuardPlan, root: Path) -> Iterator[Case]:
        """The cases of the later commit, and those that only the earlier one has."""
        known = {} if wanted is None else {case.name: case for case in wanted.cases}
        yield from known.values()
        if before.name == TESTS_FILE and before.is_file():
            try:
                yield from (case for case in self.files.expectations(before, past.document, root).cases if case.name not in known)
            except Refused:
                return


def snapshot(tree: Tree) -> Snapshot:
    """Parses every file that speaks of our API group. A name that is given twice is a fault of its second place."""
    faults: list[Fault] = []
    found: dict[Key, Resource] = {}
    for resource in _parsed(tree, tree.paths, faults):
        first = found.setdefault(resource.key, resource)
        if first is not resource:
            faults.append(Fault(resource.path, str(resource.key), f"must be given once in the repository (first in {first.path})"))
    beside = {resource.key: resource for resource in _parsed(tree, tree.beside, [])}
    return Snapshot(tree, found, beside, tuple(faults))


def speaks_of_ours(data: bytes) -> bool:
    """Whether a YAML file holds resources of ours; files about something else are nobody's business here."""
    return _OURS.search(data) is not None


def _parsed(tree: Tree, paths: Iterable[str], faults: list[Fault]) -> Iterator[Resource]:
    for path in paths:
        data = (tree.folder / path).read_bytes()
        if not speaks_of_ours(data):
            continue
        try:
            yield from parse(data, path)
        except Refused as refused:
            faults += refused.faults


def _lacks(report: Report, wanted: Expectations, file: str) -> Iterator[Fault]:
    figures = (("guard coverage", report.coverage, wanted.coverage), ("mutation score", report.mutation, wanted.mutation))
    for what, found, required in figures:
        if found is not None and found < required:
            yield Fault(file, f"{what} of {found:g} %", f"must be at least {required} %")


def _inside(root: Path, fault: Fault) -> Fault:
    """The fault, with places as the repository names them."""
    prefix = f"{root}/"
    return Fault(*(text.replace(prefix, "") for text in (fault.where, fault.value, fault.must)))
