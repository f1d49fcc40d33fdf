"""A region in pods: its log waits for a witness's cosignature and is mirrored by it, its signers are known by their accounts, and what it
decided is decided again by a Job."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "admission"))
sys.path.insert(0, str(Path(__file__).parents[1] / "sigstore"))
sys.path.insert(0, str(Path(__file__).parents[1] / "storage"))
import definitions
import node_machine as machine
from control_plane import ISSUER
from guarded_world import BODY, SYSTEM, Load, document, pack, pod, post
from issuer_proxy import DISCOVERY, way_to_the_issuer
from node_pods import Node
from pods import point_spec
from private_stack import cosign_accepts, private_sigstore
from region_world import Region, account, secret, volume
from s3_server import running
from sigstore_binaries import built
from versitygw_binary import versitygw

from folder_served import served
from go_binaries import CannotBuild
from knhk.adapters.kube_documents import collection
from knhk.reconcilers.replaying import DECISION
from knhk.wiring.archive import opened_folder
from knhk_runtime.keyfile import raw_public
from knhk_runtime.tlog.folder import log_entries
from knhk_runtime.tlog.notes import format_vkey, is_mirrored
from knhk_verify.leaf import parse_leaf
from knhk_verify.note import COSIGNATURE, Verifier, open_checkpoint, parse_vkey
from knhk_verify.signed import POLICY_EVENT

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.xdist_group("node"), pytest.mark.timeout(900)]
NS = "orders"


@pytest.fixture(scope="module")
def programs() -> dict[str, Path]:
    try:
        return {**built(build=False), "versitygw": versitygw(build=False)}
    except CannotBuild as error:
        pytest.skip(f"not run: {error}")


@pytest.fixture(scope="module")
def region(
    node: Node, guard_image: str, control_images: dict[str, str], programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Region]:
    """Installed; a pod decided, and its pack is live."""
    folder = tmp_path_factory.mktemp("region")
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        node.without(SYSTEM)  # what a test before it left there
        node.apply(DISCOVERY)
        stack.callback(node.kubectl, "delete", "clusterrolebinding", DISCOVERY["metadata"]["name"])
        proxy = enter(way_to_the_issuer(node.cluster.server))
        to_it = {"HTTPS_PROXY": proxy, "SSL_CERT_FILE": str(node.cluster.authority), "NO_PROXY": machine.HOST}
        (folder / "sigstore").mkdir()
        sigstore = enter(private_sigstore(programs, folder / "sigstore", (ISSUER,), to_it, machine.HOST))
        s3 = enter(running(programs["versitygw"], folder / "s3", machine.HOST))
        for name in ("region-eu", "region-us"):
            s3.bucket(name)
        found = Region(
            node,
            folder,
            guard_image,
            NS,
            "app=orders",
            packs=f"{node.cluster.registry}/knhk",
            images=control_images,
            s3=s3,
            sigstore=sigstore,
        )
        (folder / "log").symlink_to(found.published)
        url = enter(served(s3.folder / "region-eu", machine.HOST))
        stack.callback(definitions.install, node.client)  # they go as well, and other tests need them
        stack.callback(found.remove)
        found.install(f"{url}/log")
        decide(found)
        yield found


def decide(region: Region) -> None:
    """An application's pod with its guard; requests until its pack is live."""
    node = region.node
    labels = {"knhk.dev/enforce": "true", "pod-security.kubernetes.io/enforce": "restricted"}
    node.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NS, "labels": labels}})
    node.apply(document("EnforcementPoint", NS, "orders", {**point_spec(), "baseline": "Admit"}))
    application = pod(region.image, "orders", "127.0.0.1")
    region.until(partial(applied, region, application))
    region.until(lambda: region.ready(1))
    (running,) = region.pods().values()
    address = running["status"]["podIP"]
    region.until(lambda: answers(address))  # the guard is ready before the application listens
    with Load(address).coming() as load:
        node.apply(pack(NS, "orders", "1.0.0", {"weight": 100, "minPairs": 20}))
        region.until(lambda: region.revision().get("phase") == "Live")
    assert (load.others, load.lost) == ([], [])
    region.until(lambda: {*load.admitted} <= region.logged())


def applied(region: Region, found: dict[str, Any]) -> bool:
    """Whether the pod was taken: an API server takes a moment to see new webhooks and their authority."""
    with contextlib.suppress(AssertionError):
        region.node.kubectl("-n", NS, "apply", "-f", "-", given=json.dumps(found))
        return True
    return False


def answers(address: str) -> bool:
    with contextlib.suppress(OSError):
        return post(address, body=BODY)[0] == 200
    return False


# ---- witness and mirror --------------------------------------------------------------------------


def test_the_log_is_published_with_a_witness_s_cosignature_and_mirrored(region: Region) -> None:
    policy, root = region.folder / "policy", region.key_folder / "root.pub"
    policy.write_text(region.policy)
    verify = ("log", "verify", "--vkey", region.vkey, "--root", root, "--witnesses", policy)
    told = region.knhk(*verify, region.published)
    assert (told["bad"], told["events"] > 0, told["leaves"] > 40) == ([], True, True)
    size = told["size"]
    region.until(lambda: open_checkpoint(region.held(size), parse_vkey(region.vkey)).size >= size)
    assert is_mirrored(region.held(size), region.witness)
    copied = region.knhk(*verify[:-2], "--keys", region.key_folder / "keys.json", region.mirror)
    assert (copied["bad"], copied["size"] >= size) == ([], True)
    # A quorum that this witness is not does not pass.
    policy.write_text(region.policy.replace("group others 1 us", f"witness ap {other_witness()}\ngroup others 2 us ap"))
    refused = region.knhk(*verify, region.published, expect=1)
    assert [row["what"] for row in refused["bad"]] == [
        "is cosigned by witness.example.com/us: must be by a quorum of the policy's witnesses"
    ]


def other_witness() -> str:
    return format_vkey(Verifier("witness.example.com/ap", raw_public(Ed25519PrivateKey.generate()), COSIGNATURE))


# ---- keyless -------------------------------------------------------------------------------------


def test_receipt_and_image_are_signed_by_the_accounts_of_the_pods(region: Region, programs: dict[str, Path]) -> None:
    promoted = region.until(partial(notarised, region))
    bundle = region.folder / "bundle.json"
    bundle.write_text(promoted["status"]["sigstore"])
    digest = region.get("PolicyPack")["status"]["live"]["digest"]
    payload = json.loads(base64.b64decode(json.loads(promoted["spec"]["bundle"])["dsseEnvelope"]["payload"]))
    subject = payload["subject"][0]["digest"]["sha256"]
    about = ("--bundle", str(bundle), "--type", POLICY_EVENT, "--digest", subject, "--digestAlg", "sha256")
    image = f"{region.packs.removeprefix('http://')}@{digest}"
    accepts = partial(cosign_accepts, programs["cosign"], region.folder, region.sigstore.trusted_root)
    for name, others, command in (
        ("knhk-operator", "knhk-builder", ("verify-blob-attestation", *about)),
        ("knhk-builder", "knhk-operator", ("verify", "--allow-http-registry", image)),
    ):
        for who, right in ((name, True), (others, False)):
            whom = ("--certificate-identity", account(who), "--certificate-oidc-issuer", ISSUER)
            assert accepts(command[0], *whom, *command[1:]) is right, (who, command)


def notarised(region: Region) -> dict[str, Any]:
    """A Receipt of a promotion that has somebody outside, as the log says, too."""
    rows = region.client.call("GET", collection("Receipt", NS))["items"]
    return next((row for row in rows if row["spec"]["event"] == "Promoted" and "sigstoreIndex" in row.get("status", {})), {})


# ---- replay --------------------------------------------------------------------------------------


def test_what_was_decided_is_decided_again_by_pods_from_the_store(region: Region) -> None:
    """The registry is asked by HTTPS: its authority is in a Secret."""
    size = until_archived(region)
    authority = region.node.cluster.authority.read_bytes()
    region.node.apply(secret("registry-of-tests", {"ca.crt": authority}))
    store = ("s3://region-eu/delta", "--log=s3://region-eu/log", "--secret=knhk-log-store")
    pulled = (f"--pull={region.node.cluster.registry_tls}/knhk", "--pull-secret=registry-of-tests")
    confirmed(region, replayed(region, "replay", size, *store, *pulled), size)


def test_the_same_from_a_volume_that_is_read_only(region: Region) -> None:
    """Brought back from a backup of the store, say."""
    size = until_archived(region)
    copy = region.folder / "copy"
    for name in ("log", "delta"):
        shutil.copytree(region.s3.folder / "region-eu" / name, copy / name)
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "copy", "namespace": SYSTEM},
        "spec": {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    region.node.apply(volume("copy", copy, "copy", "ReadOnlyMany"), claim)
    places = ("/var/lib/knhk/delta", "--log=/var/lib/knhk/log", "--claim=copy", f"--pull={region.packs}")
    confirmed(region, replayed(region, "replay", size, *places), size)


def until_archived(region: Region) -> int:
    """Size of a checkpoint whose decisions are all archived."""
    size = open_checkpoint((region.published / "checkpoint").read_bytes(), parse_vkey(region.vkey)).size

    def unrecorded() -> int:
        place = ("log", "replay", region.s3.folder / "region-eu" / "delta", "--log", region.published, "--size", size)
        told = region.knhk(*place, "--root", region.key_folder / "root.pub", "--registry", region.folder / "none", expect=1)
        found: int = told["unrecorded"]
        return found

    region.until(lambda: (region.s3.folder / "region-eu" / "delta" / "_commits").is_dir() and not unrecorded())
    return size


def replayed(region: Region, name: str, size: int, *words: str) -> Any:
    """What the pods of a Job say together."""
    written = region.knhk("log", "job", *words, f"--image={region.images['operator']}", f"--name={name}", "--shards=2", f"--size={size}")
    region.node.apply(written)
    path = f"/apis/batch/v1/namespaces/{SYSTEM}/jobs/{name}"

    def ended() -> str:
        rows = (region.there(path) or {}).get("status", {}).get("conditions", ())
        return next((row["type"] for row in rows if row["type"] in ("Complete", "Failed") and row["status"] == "True"), "")

    try:
        assert region.until(ended) == "Complete", region.said()
        pods = region.node.kubectl("-n", SYSTEM, "logs", "-l", f"batch.kubernetes.io/job-name={name}", "--tail=-1")
    finally:
        region.node.kubectl("-n", SYSTEM, "delete", "networkpolicy,job", name, "--cascade=foreground")
    return region.knhk("log", "gather", given=pods)


def confirmed(region: Region, told: dict[str, Any], size: int) -> None:
    """Every decision of the log came out as it was, and the root is that of the log, which verifies."""
    entries = list(log_entries(region.published))[:size]
    decisions = sum(entry[:1] != b"{" and parse_leaf(entry).kind == DECISION for entry in entries)
    assert decisions > 40
    assert told == {
        "shards": 2, "missing": [], "replayed": decisions, "erased": 0, "sealed": 0, "different": 0, "unrecorded": 0, "entries": size,
        "root": opened_folder(region.published).served.root(size).hex(), "size": size, "shard": "0/1", "differences": [],
    }  # fmt: skip
