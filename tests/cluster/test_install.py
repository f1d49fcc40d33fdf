"""Installing, upgrading and uninstalling, by manifests and by Helm, on a control plane of its own: what was there stays, ours goes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "helm"))
sys.path.insert(0, str(Path(__file__).parents[1] / "foreign"))
from control_plane import Cluster, shared
from foreign_definitions import definitions
from helm_binaries import CannotBuild
from helm_binaries import helm as build

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
BASE = MANIFESTS / "base"
CHART = MANIFESTS / "chart" / "reflex-enterprise"
PREVIOUS = Path(__file__).parent / "previous"
# Of kinds that the previous release knows.
EXAMPLES = [
    path
    for path in sorted((MANIFESTS / "examples").glob("*.yaml"))
    if any(f"kind: {kind}\n" in path.read_text() for kind in ("PolicyPack", "DataBundle", "EnforcementPoint"))
]
NEWER_EXAMPLE = MANIFESTS / "examples" / "finance-hooks.yaml"
# What the cluster's own controllers write at any time.
RESTLESS = {"events", "events.events.k8s.io", "leases.coordination.k8s.io", "endpointslices.discovery.k8s.io", "endpoints"}
IMAGES = {
    name: f"registry.example.com/knhk-{name}@sha256:{digit * 64}" for name, digit in (("operator", "1"), ("builder", "2"), ("agent", "3"))
}
BEFORE = IMAGES["agent"].replace("3", "4")
# The same, told to Helm and to kustomize.
VALUES = {
    "registry": "https://registry.example.com/packs",
    "origin": "log.example.com/eu",
    "images.agentBefore": BEFORE,
    **{f"images.{name}": image for name, image in IMAGES.items()},
}
SETTINGS = {
    "KNHK_REGISTRY": VALUES["registry"],
    "KNHK_ORIGIN": VALUES["origin"],
    "KNHK_AGENT_IMAGE": IMAGES["agent"],
    "KNHK_AGENT_IMAGE_BEFORE": BEFORE,
}
# What each adds in its way, and what the chart writes out where the base says nothing.
THEIRS = {
    "app.kubernetes.io/managed-by",
    *(f"knhk.dev/{name}" for name in ("settings", "agent-image", "registry", "receipts", "keys", "api-servers")),
}
EMPTY: Mapping[str, Any] = {"imagePullSecrets": [], "nodeSelector": {}, "storageClassName": None, "annotations": {}}


@pytest.fixture(scope="module")
def own(servers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane that nothing of ours was ever on."""
    with shared(tmp_path_factory.mktemp("install") / "cluster") as found:
        yield found


class Kubectl:
    def __init__(self, program: Path, cluster: Cluster) -> None:
        self._head = [str(program), f"--kubeconfig={cluster.kubeconfig}"]

    def __call__(self, *arguments: str, text: str = "") -> str:
        return said([*self._head, *arguments], text)

    def everything(self) -> set[str]:
        """Each object of each kind that can be listed."""
        kinds = sorted(set(self("api-resources", "--verbs=list", "-o", "name").split()) - RESTLESS)
        columns = "custom-columns=K:.kind,NS:.metadata.namespace,N:.metadata.name"
        return set(self("get", ",".join(kinds), "-A", "--no-headers", "-o", columns).splitlines())


def said(command: list[str], text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def kubectl(own: Cluster, servers: dict[str, Path]) -> Kubectl:
    return Kubectl(servers["kubectl"], own)


@pytest.fixture(scope="module")
def helm() -> str:
    try:
        return str(build(build=False))
    except CannotBuild as error:
        pytest.skip(f"not run: {error}")


def apply_base(kubectl: Kubectl) -> None:
    kubectl("apply", "--server-side", "-k", str(BASE))
    kubectl("wait", "--for=condition=Established", "crd", "-l", "app.kubernetes.io/part-of=knhk", "--timeout=240s")


def specs(kubectl: Kubectl, name: str) -> dict[str, dict[str, Any]]:
    rows = json.loads(kubectl("get", name, "-n", "erp", "-o", "json"))["items"]
    return {row["metadata"]["name"]: {**row["spec"], "generation": row["metadata"]["generation"]} for row in rows}


def holds(before: Any, after: Any) -> bool:
    """Whether all that was said is still said; defaults of newer fields may come."""
    if isinstance(before, dict) and isinstance(after, dict):
        return before.keys() <= after.keys() and all(holds(value, after[name]) for name, value in before.items())
    if isinstance(before, list) and isinstance(after, list):
        return len(before) == len(after) and all(map(holds, before, after))
    return bool(before == after)


def test_upgrade_from_the_previous_manifests_keeps_every_object_and_uninstalling_leaves_nothing(kubectl: Kubectl) -> None:
    before = kubectl.everything()
    kubectl("apply", "--server-side", "-k", str(PREVIOUS))
    kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=240s")
    kubectl("create", "namespace", "erp")
    for example in EXAMPLES:
        kubectl("apply", "-f", str(example))
    kubectl("apply", "--server-side", "-f", str(PREVIOUS / "webhooks.yaml"))
    kept = {name: specs(kubectl, name) for name in ("policypacks", "enforcementpoints")}
    apply_base(kubectl)
    for name, before_it in kept.items():
        assert before_it
        after = specs(kubectl, name)
        assert {key: holds(spec, after[key]) for key, spec in before_it.items()} == dict.fromkeys(after, True)
    for example in EXAMPLES:  # the definitions of before filled in defaults in items of lists, which the first takes out again
        kubectl("apply", "-f", str(example))
        assert "unchanged" in kubectl("apply", "-f", str(example))
    assert "serverside-applied" in kubectl("apply", "--server-side", "-k", str(BASE))
    nobody_is_locked_out(kubectl)
    kubectl("delete", "namespace", "erp", "--timeout=240s", "--grace-period=0", "--force")
    kubectl("delete", "-k", str(BASE), "--timeout=240s")
    assert kubectl.everything() - before == set()


def nobody_is_locked_out(kubectl: Kubectl) -> None:
    """One apply has brought all there is; no pod runs here, so no webhook answers. Objects of ours are taken all the same, and pods but
    where guards are asked for."""
    policies = names(kubectl, "validatingadmissionpolicies")
    assert policies == names(kubectl, "validatingadmissionpolicybindings")
    assert policies >= {
        "approvals.knhk.dev",
        "removals.knhk.dev",
        "leading.knhk.dev",
        "knhk-guarded-pods",
        "knhk-no-way-round",
        "knhk-trust",
    }
    kubectl("label", "namespace", "erp", "knhk.dev/require-merged-commit=true")  # what is deleted whole takes along what is held in it
    assert names(kubectl, "mutatingwebhookconfigurations") == names(kubectl, "validatingwebhookconfigurations") == {"knhk-admission"}
    kubectl("apply", "-f", str(NEWER_EXAMPLE))
    kubectl("run", "free", "-n", "erp", "--image=app")
    kubectl("label", "namespace", "erp", "knhk.dev/enforce=true")
    with pytest.raises(AssertionError, match="failed calling webhook"):
        kubectl("run", "bare", "-n", "erp", "--image=app", "--dry-run=server")
    kubectl("run", "own", "-n", "knhk-system", "--image=app", "--dry-run=server", f"--overrides={json.dumps(RESTRICTED)}")


def names(kubectl: Kubectl, kind: str) -> set[str]:
    """Of ours alone."""
    rows = kubectl("get", kind, "-l", "app.kubernetes.io/part-of=knhk", "-o", "name").split()
    return {row.partition("/")[2] for row in rows}


RESTRICTED = {
    "spec": {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {"name": "own", "image": "app", "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}
        ],
    }
}


def test_overlays_and_components_are_accepted_by_the_server(kubectl: Kubectl, tmp_path: Path) -> None:
    """Those of cert-manager's and of the Gateway API's kinds too, whose own definitions judge them."""
    try:
        foreign = definitions()
    except CannotBuild as error:
        pytest.skip(f"not run: {error}")
    kubectl("apply", "-f", str(BASE / "namespace.yaml"))
    files = [f"--filename={path}" for path in foreign]
    kubectl("create", *files)
    kubectl("wait", "--for=condition=Established", "--timeout=240s", *files)
    components = sorted(path.name for path in (MANIFESTS / "components").iterdir() if path.name != "settings")
    for name in ("dev", "ha"):
        (tmp_path / name).mkdir()
        folder = overlay(tmp_path / name, f"overlays/{name}", components)
        made = kubectl("apply", "--server-side", "--dry-run=server", "-k", str(folder))
        for line in ("certificate.cert-manager.io/knhk-admission", "httproute.gateway.networking.k8s.io/knhk-webhooks"):
            assert f"{line} serverside-applied" in made
    kubectl("delete", "-f", str(BASE / "namespace.yaml"), "--timeout=240s")  # foreign definitions stay: they harm nobody here


def test_the_overlay_of_the_docs_carries_its_settings_to_where_they_count(kubectl: Kubectl, tmp_path: Path) -> None:
    """As docs/cluster.md shows it, digests filled in."""
    (shown,) = re.findall(r"```yaml\n(.*?kind: Kustomization.*?)```", (ROOT / "docs" / "cluster.md").read_text(), re.DOTALL)
    text = shown.replace("…", "5" * 64).replace("reflex-enterprise/", f"{os.path.relpath(ROOT, tmp_path)}/")
    (tmp_path / "kustomization.yaml").write_text(text)
    made = by_name(kubectl("kustomize", str(tmp_path)))
    agent = f"registry.example.com/knhk-agent@sha256:{'5' * 64}"
    assert made["ConfigMap", "knhk-config"]["data"]["KNHK_AGENT_IMAGE"] == agent
    for policy in ("knhk-guarded-pods", "knhk-operator-runs-guards"):
        variables = {row["name"]: row["expression"] for row in made["ValidatingAdmissionPolicy", policy]["spec"]["variables"]}
        assert variables["images"] == f"['{agent}', '']"
    assert made["Deployment", "knhk-operator"]["spec"]["template"]["spec"]["containers"][0]["image"].endswith("5" * 64)


# ---- Helm ----------------------------------------------------------------------------------------


def flags(values: dict[str, Any]) -> list[str]:
    return ["--namespace=knhk-system", *(f"--set={name}={value}" for name, value in (VALUES | values).items())]


def by_name(text: str) -> dict[tuple[str, str], Any]:
    """Kind and name → object, without what either adds."""
    rows = [plain(document) for document in yaml.safe_load_all(text) if document]
    return {(row["kind"], row["metadata"]["name"]): row for row in rows if row["kind"] not in ("Namespace", "CustomResourceDefinition")}


def plain(node: Any) -> Any:
    if isinstance(node, dict):
        found = {name: plain(value) for name, value in node.items() if name not in THEIRS}
        return {name: value for name, value in found.items() if name not in EMPTY or value != EMPTY[name]}
    return [plain(value) for value in node] if isinstance(node, list) else node


def overlay(folder: Path, resource: str, components: list[str]) -> Path:
    """A kustomization of a user's, with images by digest."""
    images = [
        {"name": f"knhk-{name}", "newName": f"registry.example.com/knhk-{name}", "digest": image.partition("@")[2]}
        for name, image in IMAGES.items()
    ]
    settings = {
        "name": "knhk-config",
        "namespace": "knhk-system",
        "behavior": "merge",
        "literals": [f"{name}={value}" for name, value in SETTINGS.items()],
        "options": {"disableNameSuffixHash": True},
    }
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(MANIFESTS / resource, folder)],
        "components": [os.path.relpath(MANIFESTS / "components" / name, folder) for name in ["settings", *components]],
        "configMapGenerator": [settings],
        "images": images,
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(document))
    return folder


@pytest.mark.parametrize(
    ("resource", "components", "values"),
    [
        ("base", [], {}),
        ("overlays/ha", [], {"ha": "true"}),
        (
            "base",
            ["webhooks", "webhooks-ingress", "webhooks-route"],
            {"webhooks.enabled": "true", "webhooks.ingress.enabled": "true", "webhooks.route.enabled": "true"},
        ),
        ("base", ["cert-manager"], {"certManager.enabled": "true"}),
        ("base", ["receipts"], {"receipts.enabled": "true"}),
        ("base", ["keys"], {"keys.enabled": "true"}),
        ("base", ["keyless"], {"keyless.enabled": "true"}),
        ("base", ["turning"], {"turning.enabled": "true"}),
        (
            "base",
            ["published", "witness", "witnessed"],
            {"published.enabled": "true", "witness.enabled": "true", "witnessed.enabled": "true"},
        ),
    ],
    ids=["base", "ha", "webhooks", "cert-manager", "receipts", "keys", "keyless", "turning", "regions"],
)
def test_the_chart_makes_what_kustomize_makes(
    kubectl: Kubectl, helm: str, tmp_path: Path, resource: str, components: list[str], values: dict[str, str]
) -> None:
    made = by_name(said([helm, "template", "reflex", str(CHART), *flags(values)]))
    assert made == by_name(kubectl("kustomize", str(overlay(tmp_path, resource, components))))


def test_keyless_gives_tokens_for_sigstore_to_who_signs_and_to_nobody_else(kubectl: Kubectl, helm: str, tmp_path: Path) -> None:
    """Where sigstore.json looks for them (formats/signed.md); and the network is open to where an administrator says."""
    (told,) = re.findall(r'"token":"(/[^"]+)/([^"/]+)"', (ROOT / "formats" / "signed.md").read_text())
    rules = [{"to": [{"ipBlock": {"cidr": "192.0.2.7/32"}}], "ports": [{"port": 3000, "protocol": "TCP"}]}]
    made = by_name(
        said(
            [helm, "template", "reflex", str(CHART), *flags({"keyless.enabled": "true"}), f"--set-json=keyless.egress={json.dumps(rules)}"]
        )
    )
    assert made["NetworkPolicy", "knhk-asks-sigstore"]["spec"]["egress"] == rules
    found = {}
    for (kind, name), document in made.items():
        pod = document["spec"]["template"]["spec"] if kind in ("Deployment", "StatefulSet") else {}
        mounts = {row["name"]: row["mountPath"] for container in pod.get("containers", ()) for row in container["volumeMounts"]}
        for volume in pod.get("volumes", ()):
            tokens = (source for source in volume.get("projected", {}).get("sources", ()) if "serviceAccountToken" in source)
            for source in tokens:
                found[name] = (source["serviceAccountToken"]["audience"], mounts[volume["name"]], source["serviceAccountToken"]["path"])
    assert found == dict.fromkeys(("knhk-operator", "knhk-builder"), ("sigstore", *told))
    kubectl("apply", "-f", str(BASE / "namespace.yaml"))
    for document in (made["NetworkPolicy", "knhk-asks-sigstore"], made["Deployment", "knhk-operator"], made["Deployment", "knhk-builder"]):
        kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", text=yaml.safe_dump(document))
    kubectl("delete", "-f", str(BASE / "namespace.yaml"), "--timeout=240s")


def test_helm_finds_no_fault_in_the_chart(helm: str) -> None:
    assert "0 chart(s) failed" in said([helm, "lint", "--strict", str(CHART), *flags({})])


def test_what_is_missing_or_misspelt_is_told_at_once_and_in_words(helm: str) -> None:
    done = subprocess.run(
        [helm, "template", "reflex", str(CHART), "--set=images.agent=knhk-agent:latest,apiServers=everywhere"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    for words in (
        "--namespace must be knhk-system, is default",
        'images.agent must be an image by digest, such as registry.example.com/knhk-agent@sha256:…; is "knhk-agent:latest"',
        "images.operator must be an image by digest",
        "images.builder must be an image by digest",
        "origin must be the log's name",
        "registry must be the URL of a repository",
        'apiServers must be networks by commas, such as 172.16.0.0/28,fd00::/64; is "everywhere"',
    ):
        assert words in done.stderr
    done = subprocess.run(
        [helm, "template", "reflex", str(CHART), *flags({"operator.replica": 2})], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "'replica' not allowed" in done.stderr


def test_helm_installs_upgrades_and_uninstalls_and_leaves_the_definitions_alone(kubectl: Kubectl, helm: str, own: Cluster) -> None:
    def run(verb: str, *arguments: str) -> str:
        return said([helm, verb, "reflex", f"--kubeconfig={own.kubeconfig}", *arguments])

    def replicas(name: str) -> str:
        return kubectl("get", "deployment", name, "-n", "knhk-system", "-o", "jsonpath={.spec.replicas}")

    before = kubectl.everything()
    definitions = {yaml.safe_load(path.read_text())["metadata"]["name"] for path in (CHART / "crds").glob("*.yaml")}
    told = run("install", str(CHART), "--create-namespace", *flags({}))
    assert "knhk cluster keys ./keys --origin log.example.com/eu" in told
    assert replicas("knhk-operator") == "1"
    settings = "jsonpath={.spec.template.metadata.annotations}"
    first = kubectl("get", "deployment", "knhk-admission", "-n", "knhk-system", "-o", settings)
    kubectl("create", "namespace", "erp")
    kubectl("apply", "-f", str(EXAMPLES[0]))
    newer = IMAGES["agent"].replace("3", "5")
    told = run("upgrade", str(CHART), *flags({"ha": "true", "images.agent": newer, "images.agentBefore": IMAGES["agent"]}))
    for policy in ("knhk-guarded-pods", "knhk-operator-runs-guards"):
        assert f"['{newer}', '{IMAGES['agent']}']" in kubectl(
            "get", "validatingadmissionpolicy", policy, "-o", "jsonpath={.spec.variables[*].expression}"
        )
    assert "kubectl apply --server-side -f crds/" in told
    assert replicas("knhk-operator") == "2"
    assert kubectl("get", "deployment", "knhk-admission", "-n", "knhk-system", "-o", settings) != first  # started anew
    config = json.loads(kubectl("get", "configmap", "knhk-config", "-n", "knhk-system", "-o", "jsonpath={.data}"))
    assert (config["KNHK_AGENT_IMAGE"], config["KNHK_AGENT_IMAGE_BEFORE"]) == (newer, IMAGES["agent"])
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CHART / "crds"))
    run("uninstall", "--namespace=knhk-system")
    left = {tuple(line.split()) for line in kubectl.everything() - before}
    assert {name for kind, name in ((row[0], row[2]) for row in left) if kind == "CustomResourceDefinition"} == definitions
    assert {row[::2] for row in left if row[1] == "knhk-system"} == {  # the log is kept; the others are the namespace's own
        ("PersistentVolumeClaim", "data-knhk-log-0"),
        ("ConfigMap", "kube-root-ca.crt"),
        ("ServiceAccount", "default"),
    }
    assert {row[0] for row in left if row[1] == "<none>"} == {"Namespace", "CustomResourceDefinition", "APIService"}
    assert kubectl("get", "-f", str(EXAMPLES[0]), "-o", "name").strip()  # what people wrote is still there
    kubectl("delete", "namespace", "erp", "knhk-system", "--timeout=240s")
    kubectl("delete", "crd", "-l", "app.kubernetes.io/part-of=knhk", "--timeout=240s")
    assert kubectl.everything() - before == set()
