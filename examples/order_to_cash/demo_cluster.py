"""The main story on a Kubernetes cluster: the same bytes, the same moves, with the application in pods behind injected guards.

The control plane is installed by its manifests, the packs of the example are applied with kubectl, traffic enters the pods' guards
through a Service, and one of the pods is deleted in the middle of a canary. Then the log is copied, verified and replayed offline.

Example:  make demo-cluster
          .venv/bin/python examples/order_to_cash/demo_cluster.py --kubectl kubectl --kubeconfig ~/.kube/config \
              --operator-image registry.example.com/knhk-operator@sha256:… --agent-image … --registry https://registry.example.com
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from on_cluster import CONTROL, NAMESPACE, Images, Kubectl, application, install, pods, point, wait_for_point
from rich.console import Console
from rich.markup import escape

from audit import Differs, open_books
from demo import (
    MOST_REQUESTS,
    PACK,
    PAYLOADS,
    Failed,
    Story,
    closing_table,
    first_answer,
    live,
    manifests,
    summary,
)
from identity import IdentityProvider
from knhk_runtime.pull import pull
from traffic import Callers, Mix

REPLICAS = 2


@dataclass
class Disturbance:
    """Deletes one of the application's pods as soon as a canary is on its way."""

    kubectl: Kubectl
    deleted: str = ""
    arm: str = ""
    at: dict[str, Any] = field(default_factory=dict)

    async def run(self) -> None:
        while not self.deleted:
            revision = (await asyncio.to_thread(self._pack)).get("status", {}).get("revision", {})
            if revision.get("arm") == "Canary":
                self.deleted, self.at = pods(self.kubectl)[0], dict(revision)
                await asyncio.to_thread(self.kubectl.run, "delete", "pod", self.deleted, "-n", NAMESPACE, "--wait=false")
                where = f"canary of {revision.get('version')} at {revision.get('weight')} %"
                self.kubectl.say(f"   [yellow]deleted[/] pod {self.deleted} in the {where}")
            await asyncio.sleep(0.2)

    def _pack(self) -> dict[str, Any]:
        try:
            return self.kubectl.get("policypack", PACK)
        except Failed:
            return {}


async def play(kubectl: Kubectl, folder: Path, images: Images) -> tuple[Story, Disturbance]:
    """Everything from the application's Deployment to the last promotion."""
    provider = IdentityProvider.new()
    kubectl.step(1, "An application in pods that listen on loopback, and the enforcement point that is injected before it")
    point_file, bundle_file = manifests(folder / "manifests", provider, Path("/unused"))
    point_file.write_text(yaml.safe_dump(point(yaml.safe_load(point_file.read_text())), sort_keys=False))
    text = application(images.operator, REPLICAS)
    namespace, rest = text.split("---\n", 1)
    kubectl.run("apply", "-f", "-", text=namespace)
    kubectl.apply(bundle_file)
    kubectl.apply(point_file)
    kubectl.run("apply", "-f", "-", text=rest)
    kubectl.run("rollout", "status", "deployment/order-to-cash", "-n", NAMESPACE, "--timeout=180s", timeout_s=200)
    wait_for_point(kubectl)
    address = kubectl.json("get", "service", "order-to-cash", "-n", NAMESPACE)["spec"]["clusterIP"]
    kubectl.say(f"   {REPLICAS} pods, each with its guard, behind Service {address}")
    callers = Callers(f"http://{address}", provider, Mix(PAYLOADS, seed=20261123), lanes=8, rate_s=120.0, local=(address,))
    story = Story(kubectl, callers)
    await first_answer(callers)
    stop, disturbance = asyncio.Event(), Disturbance(kubectl)
    traffic = asyncio.create_task(callers.run(stop, MOST_REQUESTS))
    disturbing = asyncio.create_task(disturbance.run())
    try:
        await live(story)
    finally:
        stop.set()
        disturbing.cancel()
        await traffic
    return story, disturbance


def copy_log(kubectl: Kubectl, log_dir: Path, receipts: frozenset[str], within_s: float = 120.0) -> None:
    """Copies the log, again until it has these receipts: guards that are left bring theirs after they have answered. Raises Failed."""
    deadline_s = time.monotonic() + within_s
    while True:
        shutil.rmtree(log_dir, ignore_errors=True)
        kubectl.folder("knhk-log-0", "log", CONTROL, "/var/lib/knhk/log", log_dir)
        away = receipts - {leaf.receipt_id.hex() for leaf in open_books(log_dir).leaves}
        if not away:
            return
        if time.monotonic() > deadline_s:
            some = ", ".join(sorted(away)[:3])
            raise Failed(f"{len(away)} receipts did not come into the log within {within_s:.0f} s, for example {some}")
        time.sleep(1.0)


def gather(kubectl: Kubectl, folder: Path, registry: str, digests: Iterable[str], receipts: frozenset[str]) -> tuple[Path, list[Path]]:
    """Copies the log, which must have these receipts, what the guards that are left recorded, the application's databases, and the images
    that decided. What the deleted pod recorded of O is in its copy beside the log; its application's rows went with its volume."""
    kubectl.run("label", "namespace", NAMESPACE, "knhk.dev/unguarded=allow", "--overwrite")  # or nobody may exec into a guard
    data = kubectl.get("databundle", f"{NAMESPACE}/finance-roles")["status"]["image"]
    for digest in (*digests, data):
        pull(registry, digest, folder / "registry", auth=None, tls=None)
    log_dir = folder / "log"
    copy_log(kubectl, log_dir, receipts)
    for name in ("keys.json", "root.pub"):  # what a verifier pins; it does not come from the cluster
        shutil.copy(folder / "keys" / name, log_dir)
    databases = []
    for pod in pods(kubectl):
        kubectl.folder(pod, "knhk-agent", NAMESPACE, "/var/lib/knhk/outbox", log_dir / "observations" / pod)
        kubectl.folder(pod, "application", NAMESPACE, "/data", folder / "data" / pod)
        databases.append(folder / "data" / pod / "application.db")
    return log_dir, databases


def main() -> int:
    """Plays the story; exit 0 when it went as told, 1 with what differed otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kubectl", type=Path, default=Path("kubectl"), help="the program")
    parser.add_argument("--kubeconfig", type=Path, required=True, help="of a cluster's admin")
    parser.add_argument("--operator-image", required=True, metavar="NAME@DIGEST", help="as nodes pull it")
    parser.add_argument("--builder-image", required=True, metavar="NAME@DIGEST", help="as nodes pull it")
    parser.add_argument("--agent-image", required=True, metavar="NAME@DIGEST", help="as nodes pull it")
    parser.add_argument("--registry", required=True, help="where packs go, as pods reach it")
    parser.add_argument("--out", type=Path, default=Path("demo-cluster.json"), help="summary (JSON)")
    parser.add_argument("--home", type=Path, default=Path(".demo-cluster/story"), help="made anew; log and keys are kept in it")
    args = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    kubectl = Kubectl(args.kubectl, args.kubeconfig, console)
    folder = args.home.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    images = Images(args.operator_image, args.builder_image, args.agent_image, args.registry)
    started_s = time.monotonic()
    try:
        kubectl.step(0, "The control plane is installed by its manifests: operator, builder, log, admission")
        install(kubectl, folder, images)
        story, disturbance = asyncio.run(play(kubectl, folder, images))
        kubectl.step(6, "The log is copied, verified and replayed offline")
        receipts = frozenset(answer.receipt for answer in story.callers.tally.answers if answer.receipt)
        log_dir, databases = gather(kubectl, folder, args.registry, story.facts["digests"].values(), receipts)
        result = summary(story, log_dir, databases) | {
            "deleted_pod": disturbance.deleted,
            "deleted_in": {name: disturbance.at.get(name) for name in ("version", "arm", "weight")},
            "receipt_resources": len(kubectl.receipts(NAMESPACE)),
            "seconds": round(time.monotonic() - started_s, 1),
        }
    except (Failed, Differs) as failure:
        console.print(f"[bold red]The story failed:[/] {escape(str(failure))}", highlight=False, soft_wrap=True)
        return 1
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    console.print(closing_table(result))
    return 0 if result["different"] == result["unrecorded"] == 0 and disturbance.deleted else 1


if __name__ == "__main__":
    sys.exit(main())
