"""Policies in a Git server that another's controllers keep on the cluster, with the operator beside."""

from __future__ import annotations

import sys
from pathlib import Path

from knhk.adapters.kube_documents import collection
from knhk.model.resource import Key

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "reconcilers"))
sys.path.append(str(Path(__file__).parents[1] / "foreign"))
sys.path.append(str(Path(__file__).parents[1] / "gitops"))
from fleet_world import Operator, World
from git_repo import Repo
from gitea_server import Gitea

ROOT = Path(__file__).parents[2]
EXAMPLES = {name: (ROOT / "manifests" / "examples" / f"{name}.yaml").read_text() for name in ("orders", "finance-roles", "invoice-schema")}
PACK_YAML = (ROOT / "manifests" / "examples" / "invoice-controls.yaml").read_text()
PACK = Key("PolicyPack", "erp", "invoice-controls")
POINT = Key("EnforcementPoint", "erp", "orders")
WITHIN_S = 240.0


class Policies:
    """A repository of somebody's at the Git server; of a private one `reader` has the password `token`."""

    def __init__(self, gitea: Gitea, folder: Path, owner: str, *, private: bool) -> None:
        self._gitea, self._owner, self.name, self.reader = gitea, owner, f"{owner}/policies", f"{owner}-reader"
        gitea.user(owner)
        self.token = gitea.user(self.reader)
        gitea.call("POST", "user/repos", {"name": "policies", "default_branch": "main", "private": private}, owner)
        gitea.call("PUT", f"repos/{self.name}/collaborators/{self.reader}", {"permission": "read"}, owner)
        self._repo = Repo(folder / "policies")

    @property
    def url(self) -> str:
        return f"{self._gitea.url}/{self.name}.git"

    def push(self, **files: str | None) -> str:
        """Files of the folder erp, by name; the commit."""
        self._repo.commit({f"erp/{name.replace('_', '-')}.yaml": text for name, text in files.items()})
        return self._gitea.push(self._repo, self.name, self._owner, "main")


def pack(version: str, least: int = 0) -> str:
    text = PACK_YAML.replace("  version: 1.0.0\n", f"  version: {version}\n").replace("sh:minInclusive 0", f"sh:minInclusive {least}")
    assert f"version: {version}\n" in text
    return text


def phase(world: World) -> tuple[str, str]:
    found = world.get(PACK)
    revision = found.status.get("revision", {})
    return (revision["phase"], revision["version"]) if revision.get("generation") == found.generation else ("", "")


def versions(world: World) -> dict[str, str]:
    """Object → its resourceVersion, of all that Flux applied."""
    kinds = ("PolicyPack", "EnforcementPoint", "DataBundle", "SchemaVersion")
    items = (row for kind in kinds for row in world.client.call("GET", collection(kind, "erp"))["items"])
    return {row["metadata"]["name"]: row["metadata"]["resourceVersion"] for row in items}


def looks(operator: Operator) -> float:
    rows = (line for line in operator.get("metrics")[1].splitlines() if line.startswith("controller_runtime_reconcile_total"))
    return sum(float(row.rpartition(" ")[2]) for row in rows)
