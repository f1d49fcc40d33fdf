"""What was recorded beside the log of a cluster, the processes that erase it, and an exchange that signs: none of which has it all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from agent_world import until
from keys_world import KeyWorld
from privacy_world import ANNA, BOB, POINT, Vault, counts
from sealed_vault import sealed_vault

from knhk.adapters.callers_kube import KubeAuthenticator
from knhk.adapters.certificates import server_pair
from knhk.adapters.erasure_desk import ErasureDesk
from knhk.adapters.exchange_server import Exchange, serving
from knhk.adapters.fleet_exchange import ExchangeFleet
from knhk.adapters.fleet_folder import FolderShelf
from knhk.adapters.kube_client import KubeClient, api_client
from knhk.adapters.log_sequencer import SequencerLog
from knhk.adapters.readers_kube import KubeReaders
from knhk.adapters.signer_local import LocalSigner
from knhk.adapters.store_sqlite import SqliteStore
from knhk.adapters.system import SystemClock, SystemRandom
from knhk.adapters.token_client import Whom
from knhk.cli import main
from knhk.lockchain.events import PolicyEvent, statement
from knhk.model.resource import Resource
from knhk.model.subjects import tag_of
from knhk.model.times import rfc3339
from knhk.ports.caller import ERASURES_AUDIENCE
from knhk.ports.store import Store
from knhk.reconcilers.telling_erasures import Teller
from knhk.wiring import replays
from knhk.wiring.archive import opened_folder
from knhk.wiring.home import Home
from knhk.wiring.privacy import KeyPlace, unsealer
from knhk_verify.signed import verify_keys
from loopback_ports import free_port

BASIS = "GDPR 17(1)(b)"
COPY, ELSEWHERE = "erp.orders~one~0123456789abcdef", "crm.orders~two~0123456789abcdef"
PRIVACY = {"subjects": [{"route": "orders", "pointer": "/who"}], "retentionDays": 365}


@dataclass
class Region:
    """`vault`: what is recorded beside the log of a cluster; `keys`: its key service."""

    vault: Vault
    keys: KeyWorld
    exchange: str
    folder: Path
    capsys: pytest.CaptureFixture[str]
    tls: str = "tls"  # folder of what the archive shows, beside the key service's
    archive: subprocess.Popen[bytes] | None = None
    url: str = ""

    @property
    def home(self) -> Home:
        return Home(self.vault.yard.base)

    @property
    def place(self) -> KeyPlace:
        return KeyPlace(self.keys.url, "erp", self.folder / "keys.token", self.keys.ca_file)

    @property
    def whom(self) -> Whom:
        return Whom(self.url, self.folder / "erasures.token", self.keys.ca_file)

    def begin(self) -> None:
        """The archive as its container runs it, at the port that it had before."""
        words = [
            f"--{name}={self.keys.base / self.tls / file}"
            for name, file in (("certificate", "tls.crt"), ("key", "tls.key"), ("authority", "ca.crt"))
        ]
        yard = self.vault.yard
        own = [
            f"--log-dir={yard.log_dir}",
            f"--store={yard.base / 'delta'}",
            f"--state={self.folder / 'state'}",
            "--remove",
            "--interval-s=0.2",
        ]
        said = self.folder / "archive.err"
        before = said.read_text().count("erases for whom") if said.exists() else 0
        where = self.url.removeprefix("https://") or f"127.0.0.1:{free_port()}"  # it keeps it while it is down
        command = [sys.executable, "-m", "knhk.archive", *own, *words, f"--erasures={where}", f"--exchange={self.exchange}"]
        with said.open("ab") as out:
            self.archive = subprocess.Popen(command, stderr=out, stdout=out)
        until(lambda: said.read_text().count("erases for whom") > before, "it serves")
        self.url = "https://" + said.read_text().rpartition("erases for whom")[2].split("\n")[0].rpartition("at ")[2]

    def kill(self) -> None:
        assert self.archive is not None
        self.archive.kill()
        self.archive.wait()

    def archived(self) -> None:
        """All that may be is in the archive."""
        until(lambda: sum(file.rows for file in self.vault.kept().files.values()) >= len(self.vault.names), "all is archived")

    def said(self) -> str:
        return (self.folder / "archive.err").read_text() + self.keys.said()

    def run(self, *words: str, code: int = 0) -> Any:
        self.capsys.readouterr()
        options = ["--key-service", self.keys.url, "--key-token", str(self.place.token), "--key-ca", str(self.keys.ca_file)]
        options += ["--key-namespace", "erp", "--erasures", self.url, "--erasures-token", str(self.whom.token)]
        found = main(["--home", str(self.folder / "none"), "receipt", *words, *options, "-o", "json"])
        said = self.capsys.readouterr()
        assert found == code, said.err + said.out + self.said()
        return json.loads(said.out) if said.out else said.err

    def asked(self, *words: str, code: int = 0, namespace: str = "erp") -> Any:
        """`knhk receipt WORDS` about the cluster, of a home that has nothing."""
        self.capsys.readouterr()
        options = ["--key-service", self.keys.url, "--key-token", str(self.place.token), "--key-ca", str(self.keys.ca_file)]
        options += ["-n", namespace, "--erasures", self.url, "--erasures-token", str(self.whom.token)]
        found = main(["--home", str(self.folder / "none"), "receipt", *words, *options, "-o", "json"])
        said = self.capsys.readouterr()
        assert found == code, said.err + said.out + self.said()
        return json.loads(said.out) if said.out else said.err

    def consents(self, key: bytes, namespace: str = "erp") -> None:
        """An event that ANNA consents to something, under the tag that a key makes."""
        tag = tag_of(key, ANNA)
        evidence = {"purpose": "https://example.com/p", "controller": "Example Ltd", "basis": "consent", "consent": "c", "by": "tests"}
        subject = (f"consent/{namespace}/{tag}", tag)
        event = PolicyEvent("ConsentGranted", subject, "local:ada", rfc3339(time.time_ns()), evidence={**evidence, "after": -1})
        SequencerLog(self.home.sequencer_socket).append_event(LocalSigner(self.home.keys).bundle("rollout", statement(event)))
        assert self.events("ConsentGranted")

    def events(self, kind: str) -> list[PolicyEvent]:
        """Of the log, verified, once its checkpoint shows what was appended before."""
        signer, log = LocalSigner(self.home.keys), SequencerLog(self.home.sequencer_socket)
        size = log.health()["durable"]
        until(lambda: int(log.checkpoint().split("\n")[1]) >= size, "the checkpoint covers all")
        keys = verify_keys(signer.keys_json(), signer.root_public())
        return [event for _, event in replays.events(opened_folder(self.home.log).served, keys) if event.kind == kind]

    def replayed(self, place: KeyPlace | None = None) -> tuple[int, int, int, int, int]:
        return counts(self.vault.replay_archive(unsealer(place or self.place, needed=True)))


@contextmanager
def recorded(
    keys: KeyWorld,
    folder: Path,
    guard: str,
    client: KubeClient,
    store: Store,
    capsys: pytest.CaptureFixture[str],
    tls: str = "tls",
    sealed: int = 12,
) -> Iterator[Region]:
    """`sealed` records about ANNA and BOB, one of ANNA in clear, and one in clear of another namespace; the log as a process.
    `guard`: token of a guard's pod for the key service; `client`: requests of the operator; `store`: where points are; `tls`: as Region."""
    made = sealed_vault(keys, guard, folder)
    for source in (COPY, ELSEWHERE):
        made.yard.outbox(source, segment_bytes=1500, acked=False)
    now = time.time_ns()
    made.record(ANNA, now, source=ELSEWHERE, sealed=False)
    made.record(ANNA, now, source=COPY, sealed=False)
    for number in range(sealed):
        made.record((ANNA, BOB)[number % 2], now, source=COPY)
    made.yard.log.integrate()
    made.yard.close()
    home = Home(made.yard.base)
    home.sockets.mkdir(mode=0o700)
    command = [sys.executable, "-m", "knhk_runtime.sequencer", "--dir", str(home.log), "--socket", str(home.sequencer_socket)]
    origin = (home.log / "checkpoint").read_text().partition("\n")[0]
    with ExitStack() as stack:
        log = subprocess.Popen([*command, "--origin", origin, "--key", str(home.keys / "log.key")], stderr=subprocess.DEVNULL)
        stack.callback(log.wait)
        stack.callback(log.terminate)
        stack.callback(shutil.rmtree, home.sockets, ignore_errors=True)
        until(home.sequencer_socket.exists, "the log is there")
        port = stack.enter_context(_exchange(keys, home, folder, client, store))
        found = Region(made, keys, f"https://127.0.0.1:{port}", folder, capsys, tls)
        stack.callback(made.sealer.close)
        found.begin()
        stack.callback(found.kill)
        yield found


@contextmanager
def recorded_for(
    keys: KeyWorld, folder: Path, capsys: pytest.CaptureFixture[str], who: str, verb: str, sealed: int = 12
) -> Iterator[Region]:
    """As `recorded`; commands are run as `who`, who may open, and do this, in namespace erp."""
    store = SqliteStore(folder / "store.db", SystemClock(), SystemRandom())
    store.create(Resource("EnforcementPoint", "erp", "orders", {"privacy": PRIVACY}))
    for name, audience in (("keys", "keys.knhk.dev"), ("erasures", ERASURES_AUDIENCE)):
        (folder / f"{name}.token").write_text(keys.api.reader(who, ("open", "erp"), (verb, "erp"), audience=audience))
    client = KubeClient(api_client(keys.kubeconfig))
    with recorded(keys, folder, keys.api.guard(POINT, "one"), client, store, capsys, sealed=sealed) as found:
        yield found
    store.close()


def _exchange(keys: KeyWorld, home: Home, folder: Path, client: KubeClient, store: Store) -> Any:
    """Of an operator that leads: it has the rollout key, and knows the namespace's points."""
    clock, signer = SystemClock(), LocalSigner(home.keys)
    desk = ErasureDesk(KubeReaders(client, clock, ERASURES_AUDIENCE), clock)
    desk.begin(Teller(store, signer, SequencerLog(home.sequencer_socket), clock, signer.root_public))
    pods = KubeAuthenticator(client, clock)
    fleet = ExchangeFleet(FolderShelf(folder / "points"), pods, clock)
    shown = server_pair(keys.authority, ["127.0.0.1"], datetime.now(UTC), timedelta(days=1))
    return serving(Exchange(fleet, pods, lambda *_: b"", lambda *_: b"", clock, desk), "127.0.0.1", 0, lambda: shown)
