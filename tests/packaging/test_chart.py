"""What the Helm chart is made of, without Helm; tests/cluster/test_install.py compares what Helm makes of it with the manifests."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "manifests" / "chart" / "reflex-enterprise"
OBJECTS_OF_KUBERNETES = {"resources", "gateway"}


def leaves(node: dict[str, Any], head: str = "") -> set[str]:
    """Names of values, each with its path."""
    return {
        name
        for key, value in node.items()
        for name in (
            leaves(value, f"{head}{key}.") if isinstance(value, dict) and value and key not in OBJECTS_OF_KUBERNETES else {f"{head}{key}"}
        )
    }


def test_every_value_is_used_and_every_use_has_a_value() -> None:
    used = set(re.findall(r"\.Values\.([A-Za-z.]+)", "".join(path.read_text() for path in (CHART / "templates").iterdir())))
    assert used == leaves(yaml.safe_load((CHART / "values.yaml").read_text()))


def test_the_schema_knows_every_value_and_no_other() -> None:
    def known(node: dict[str, Any], head: str = "") -> set[str]:
        rows = node.get("properties", {}).items()
        return {name for key, below in rows for name in (known(below, f"{head}{key}.") if "properties" in below else {f"{head}{key}"})}

    schema = json.loads((CHART / "values.schema.json").read_text())
    assert known(schema) - {"global"} == leaves(yaml.safe_load((CHART / "values.yaml").read_text()))


def test_the_definitions_are_those_of_crds() -> None:
    made = {path.name: path.read_text() for path in (CHART / "crds").glob("*.yaml")}
    assert made == {path.name: path.read_text() for path in (ROOT / "crds").glob("knhk.dev_*.yaml")}
