"""`make bench-cluster`: how long a verdict on an object of Kubernetes takes, at a rate that does not wait for answers.

python -m bench.cluster_objects [--rate 300] [--seconds 10] [--rounds 3] [--out FILE]

A real API server (tests/cluster); operator, admission, and the point's Envoy and agent are processes of this machine, and so is what asks.
An answer's time counts from when its question was due, so a server that stalls makes all that were due meanwhile late. Three series, round
by round: admission asked directly over HTTPS; the API server, creating Deployments of a judged namespace as dry runs; and the same
of a namespace that nobody judges, which is what the API server costs by itself. One of ten objects is one that is denied.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import ssl
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from knhk.adapters.kube_client import KubeClient, api_client
from knhk.model.faults import KnhkError

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cluster"))
from control_plane import Cluster, owned
from definitions import install
from objects_world import DEPLOYMENTS, POLICY, SHOP, WORKSHOP, World, deployment, pack, review, world

DENIED_EVERY = 10
WARM_S = 3.0
PERCENTILES = (50.0, 99.0, 99.9)
ANSWERED_WITHIN_S = 10.0


@dataclass(frozen=True)
class Series:
    """Where questions go: the body of a good and of a bad one, and the status of each one's answer."""

    url: str
    tls: ssl.SSLContext
    good: tuple[bytes, int]
    bad: tuple[bytes, int]


@dataclass
class Round:
    """Answers of one round: their times in ms, and those that were not as they must be."""

    times_ms: list[float] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)

    def percentile_ms(self, percent: float) -> float:
        """By nearest rank."""
        ordered = sorted(self.times_ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


async def asked(series: Series, rate: int, seconds: float) -> Round:
    """One question every 1/rate s, whether those before are answered or not."""
    found, loop = Round(), asyncio.get_running_loop()
    connector = aiohttp.TCPConnector(limit=0, ssl=series.tls)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=ANSWERED_WITHIN_S)) as session:

        async def one(due_s: float, body: bytes, status: int) -> None:
            try:
                async with session.post(series.url, data=body, headers={"content-type": "application/json"}) as answer:
                    await answer.read()
                    if answer.status != status:
                        found.wrong[str(answer.status)] += 1
            except (aiohttp.ClientError, TimeoutError) as error:
                found.wrong[type(error).__name__] += 1
            found.times_ms.append((loop.time() - due_s) * 1e3)

        begun_s, tasks = loop.time() + 0.01, []
        for number in range(int(rate * seconds)):
            due_s = begun_s + number / rate
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            tasks.append(asyncio.create_task(one(due_s, *(series.bad if number % DENIED_EVERY == 0 else series.good))))
        await asyncio.gather(*tasks)
    return found


def all_series(found: World, cluster: Cluster) -> dict[str, Series]:
    """Each with a TLS context of its own kind."""
    api = api_client(cluster.kubeconfig).configuration
    to_api = ssl.create_default_context(cafile=api.ssl_ca_cert)
    to_api.load_cert_chain(api.cert_file, api.key_file)

    def through(namespace: str, denied: int) -> Series:
        url = f"{api.host}{DEPLOYMENTS.format(namespace)}?dryRun=All"
        bodies = [json.dumps(deployment(payload, namespace)).encode() for payload in ("good", "root")]
        return Series(url, to_api, (bodies[0], 201), (bodies[1], denied))

    direct = [json.dumps(review(payload)).encode() for payload in ("good", "root")]
    return {
        "direct": Series(f"{found.admission.url}/objects/{POLICY}/workloads", found.trusting(), (direct[0], 200), (direct[1], 200)),
        "through_the_api_server": through(SHOP, 403),
        "api_server_alone": through(WORKSHOP, 201),
    }


async def rounds(series: dict[str, Series], rate: int, seconds: float, count: int) -> dict[str, list[Round]]:
    """Interleaved, after each was warm once. What Python would collect meanwhile is no latency of others."""
    for each in series.values():
        await asked(each, rate, WARM_S)
    gc.collect()
    gc.disable()
    found: dict[str, list[Round]] = {name: [] for name in series}
    for _ in range(count):
        for name, each in series.items():
            found[name].append(await asked(each, rate, seconds))
    gc.enable()
    return found


def told(found: Sequence[Round]) -> dict[str, Any]:
    """Each percentile: the median of the rounds, and from least to most."""
    rows: dict[str, Any] = {}
    for percent in PERCENTILES:
        values = [round(each.percentile_ms(percent), 2) for each in found]
        rows[f"p{percent:g}_ms"] = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    wrong: Counter[str] = sum((each.wrong for each in found), Counter())
    return {**rows, "answers": sum(len(each.times_ms) for each in found), "wrong": dict(wrong)}


def main(argv: list[str]) -> int:
    """The exit code: 1 when it could not be measured, or an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=300, help="questions a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="of one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="file for the figures, JSON; default: standard output")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, owned(Path(folder) / "cluster") as cluster:
        client = KubeClient(api_client(cluster.kubeconfig))
        install(client)
        (Path(folder) / "world").mkdir()
        try:
            with world(client, cluster, Path(folder) / "world") as found:
                found.shadow(pack())
                found.promote("1.0.0")
                seen = asyncio.run(rounds(all_series(found, cluster), args.rate, args.seconds, args.rounds))
        except (KnhkError, AssertionError) as error:
            print(error, file=sys.stderr)
            return 1
    figures = {"rate": args.rate, "load_1m": os.getloadavg()[0], **{name: told(each) for name, each in seen.items()}}
    text = json.dumps(figures, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    return 1 if any(figures[name]["wrong"] for name in seen) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
