"""Expectations as files: `tests.yaml` beside a pack, with the payloads that it names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from knhk.api.expectations import Draft, read_sheet, time_ns
from knhk.model.expectations import TESTS_FILE, Case, EditError, Expectations, edited
from knhk.model.faults import Fault, Refused

MAX_FILE_BYTES = 4 << 20
MAX_BODY_BYTES = 1 << 20


def beside(pack_file: Path) -> Path:
    """Where the expectations of a pack lie: in its folder, else in the one above, for packs with a folder for each version."""
    own, above = pack_file.parent / TESTS_FILE, pack_file.parent.parent / TESTS_FILE
    return above if above.is_file() and not own.is_file() else own


def expectations(file: Path, plan: Mapping[str, Any], root: Path | None = None) -> Expectations:
    """The expectations of a file, for a pack with this plan. Payloads must lie inside `root` when it is given: files of strangers must not
    say what is read. Raises Refused with every fault, each with its line."""
    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_FILE_BYTES)
    except FileNotFoundError:
        raise Refused([Fault(str(file), "no such file", "must hold what the pack is expected to decide: docs/pack-tests.md")]) from None
    sheet = read_sheet(text, str(file))
    faults: list[Fault] = []
    cases = tuple(_case(draft, file.parent, plan, faults, root) for draft in sheet.drafts)
    if faults:
        raise Refused(faults)
    return Expectations(cases, sheet.coverage, sheet.mutation)


def files_of(file: Path) -> frozenset[Path]:
    """A file of expectations and the payloads that it names, whether these are there or not; empty without the file. Raises Refused."""
    if not file.is_file():
        return frozenset()
    drafts = read_sheet(file.read_bytes()[: MAX_FILE_BYTES + 1], str(file)).drafts
    named = [draft.fields["payload"] for draft in drafts if "payload" in draft.fields]
    return frozenset({file, *(Path(os.path.normpath(file.parent / name)) for name in named)})


def samples(folder: Path, like: Case) -> tuple[Case, ...]:
    """Each payload file in and below a folder as a case that is otherwise `like` this one. Raises Refused when there is none."""
    files = sorted(f for f in folder.rglob("*") if f.suffix in (".json", ".xml", ".jsonld") and f.is_file())
    if not files:
        raise Refused([Fault(str(folder), "no payloads", "must hold files *.json or *.xml")])
    return tuple(sample(file, like, str(file.relative_to(folder))) for file in files)


def sample(file: Path, like: Case, name: str = "") -> Case:
    """One payload file as a case that is otherwise `like` this one."""
    return replace(like, name=name or str(file), places={"": str(file)}, body=_read(file, str(file), str(file)))


def _case(draft: Draft, folder: Path, plan: Mapping[str, Any], faults: list[Fault], root: Path | None) -> Case:
    fields = draft.fields
    case = Case(
        fields["name"], draft.places, fields.get("route") or first_route(plan), b"",
        bool(draft.edits.set or draft.edits.remove or draft.edits.replace or "body" in fields),
        fields["attributes"], time_ns(fields["time"]), fields["region"], fields["verdict"],
        tuple(fields["failing"]) if "failing" in fields else None,
        tuple(fields["triples"]) if "triples" in fields else None,
    )  # fmt: skip
    faults += _unknown(case, plan)
    try:
        body = edited(_body(fields, folder, case, root), draft.edits)
    except Refused as refused:
        faults += refused.faults
        return case
    except EditError as error:
        faults.append(Fault(case.place("set"), case.name, str(error)))
        return case
    return replace(case, body=body)


def first_route(plan: Mapping[str, Any]) -> str:
    """The first route whose body is mapped, else the first."""
    routes: Mapping[str, str | None] = plan["routes"]
    return next((name for name, mapping in routes.items() if mapping), next(iter(routes)))


def _body(fields: Mapping[str, Any], folder: Path, case: Case, root: Path | None) -> bytes:
    if "payload" not in fields:
        return str(fields.get("body", "")).encode()
    if root is not None and not Path(os.path.normpath(folder / fields["payload"])).is_relative_to(root):
        raise Refused([Fault(case.place("payload"), fields["payload"], "must be a file inside the repository")])
    return _read(folder / fields["payload"], case.place("payload"), fields["payload"])


def _read(file: Path, where: str, value: str) -> bytes:
    try:
        data = file.read_bytes() if file.stat().st_size <= MAX_BODY_BYTES else None
    except OSError as error:
        raise Refused([Fault(where, value, f"must be a file that can be read: {error.strerror}")]) from error
    if data is None:
        raise Refused([Fault(where, value, "must have at most 1 MiB: enforcement points refuse larger bodies")])
    return data


def _unknown(case: Case, plan: Mapping[str, Any]) -> list[Fault]:
    """Routes, guards and shapes that the pack does not have."""
    faults = []
    if case.route not in plan["routes"]:
        faults.append(Fault(case.place("route"), case.route, f"must be a route of the pack: {', '.join(sorted(plan['routes']))}"))
    names = {guard["id"] for guard in plan["guards"]} | {guard.get("named") or guard["shape"] for guard in plan["guards"]}
    for i, name in enumerate(case.failing or ()):
        if name not in names:
            must = "must be the id of a guard, or the IRI of a shape, as `knhk pack check` lists them"
            faults.append(Fault(case.place(f"failing[{i}]"), name, must))
    return faults
