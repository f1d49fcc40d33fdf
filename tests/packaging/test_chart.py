"""The Helm chart says what manifests/base says: with the values of values.yaml its templates are the same objects."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
BASE = ROOT / "manifests" / "base"
CHART = ROOT / "manifests" / "chart" / "reflex-enterprise"
RELEASE = {".Release.Namespace": "knhk-system", ".Release.Service": "Helm"}
ADDED = {"app.kubernetes.io/part-of": "knhk", "app.kubernetes.io/managed-by": "Helm"}


def rendered(text: str, values: Any) -> str:
    """What Helm makes of the expressions that the generator writes, and of no others."""

    def value(found: re.Match[str]) -> str:
        path, _, function = found[1].partition(" | ")
        if path in RELEASE:
            return RELEASE[path]
        node = values
        for name in path.removeprefix(".Values.").split("."):
            node = node[name]
        assert function in ("", "toJson")
        return json.dumps(node) if function else str(node)

    return re.sub(r"\{\{ (.*?) \}\}", value, text)


def by_name(documents: list[Any]) -> dict[tuple[str, str], Any]:
    return {(document["kind"], document["metadata"]["name"]): document for document in documents if document}


def test_with_its_own_values_the_chart_is_the_base() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    texts = [rendered(path.read_text(), values) for path in (CHART / "templates").glob("*.yaml")]
    made = by_name([document for text in texts for document in yaml.safe_load_all(text)])
    listed = [name for name in yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"] if name.endswith(".yaml")]
    base = by_name([document for name in listed for document in yaml.safe_load_all((BASE / name).read_text())])
    del base["Namespace", "knhk-system"]  # Helm's to make
    for document in base.values():
        document["metadata"].setdefault("labels", {}).update(ADDED)
    assert made == base


def test_every_value_is_used() -> None:
    used = set(re.findall(r"\.Values\.([A-Za-z.]+)", "".join(path.read_text() for path in (CHART / "templates").glob("*.yaml"))))
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    heads = {f"{name}.{inner}" for name, value in values.items() if isinstance(value, dict) for inner in value}
    assert used == heads | {name for name, value in values.items() if not isinstance(value, dict)}


def test_the_definitions_are_those_of_crds() -> None:
    made = {path.name: path.read_text() for path in (CHART / "crds").glob("*.yaml")}
    assert made == {path.name: path.read_text() for path in (ROOT / "crds").glob("knhk.dev_*.yaml")}
