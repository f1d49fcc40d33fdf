"""The log beyond its socket: who has no certificate is not heard, who has one may do its own things, and nothing acknowledged is lost."""

from __future__ import annotations

import signal
import ssl
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from agent_process import GUARDS
from agent_rings import Request
from agent_world import Packs, World, make_packs, observation, until
from exchange_world import Callers, exchange

from knhk.adapters.certificates import Pair, client_pair, new_authority, server_pair
from knhk.adapters.log_sequencer import SequencerLog
from knhk.adapters.receipt_index import ReceiptIndex
from knhk.model.faults import NotFound, Refused, Waiting
from knhk.wiring.receipts import Follower, LogPlace
from knhk_runtime.http1 import Https
from knhk_runtime.outbox.records import DECISION, ENFORCED, Arm
from knhk_runtime.record import entry_key, parse_record
from knhk_runtime.sequencer.tls import BYTES_AT_ONCE, may
from knhk_runtime.tiers.action import action_bytes
from knhk_runtime.tlog.folder import log_entries, log_records
from knhk_runtime.wiring import FLUSH_S
from knhk_verify.leaf import parse_leaf
from knhk_verify.note import parse_proof
from knhk_verify.tree import leaf_hash, verify_inclusion

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from loopback_ports import free_port

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]
POD, OPERATOR = "spiffe://knhk.dev/ns/erp/point/orders/pod/one", "spiffe://knhk.dev/component/knhk-operator"
OTHER, DAY = POD.replace("one", "two"), timedelta(days=1)


@dataclass
class Log:
    """A sequencer that listens on TLS, and the authority of its clients."""

    world: World
    authority: Pair
    base: Path
    port: int

    def start(self) -> None:
        names = ("tls.crt", "tls.key", "ca.crt")
        options = [
            word
            for name, file in zip(("tls-cert", "tls-key", "client-ca"), names, strict=True)
            for word in (f"--{name}", str(self.base / file))
        ]
        self.running = self.world.start_sequencer("--listen", f"127.0.0.1:{self.port}", *options)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def as_client(self, pair: Pair | None) -> SequencerLog:
        return SequencerLog(Https.of(self.url, lambda: self.context(pair)))

    def context(self, pair: Pair | None) -> ssl.SSLContext:
        made = ssl.create_default_context(cadata=self.authority.certificate.decode())
        if pair is not None:
            (self.base / "client.pem").write_bytes(pair.certificate + pair.key)
            made.load_cert_chain(self.base / "client.pem")
        return made

    def client(self, uri: str, now: datetime | None = None) -> SequencerLog:
        return self.as_client(client_pair(self.authority, uri, now or datetime.now(UTC), DAY))


@pytest.fixture(scope="session")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Packs:
    return make_packs(tmp_path_factory.mktemp("packs"))


@pytest.fixture
def log(packs: Packs, tmp_path: Path) -> Iterator[Log]:
    authority = new_authority(datetime.now(UTC))
    shown = server_pair(authority, ["127.0.0.1"], datetime.now(UTC), DAY)
    for name, data in (("tls.crt", shown.certificate), ("tls.key", shown.key), ("ca.crt", authority.certificate)):
        (tmp_path / name).write_bytes(data)
    found = Log(World.make(tmp_path, packs), authority, tmp_path, free_port())
    found.start()
    until(lambda: answers(found.client(POD)), "the log answers")
    yield found
    found.world.close()


def answers(client: SequencerLog) -> bool:
    try:
        client.checkpoint()
    except Waiting:
        return False
    return True


EVENT = b'{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}'


def test_a_pod_reads_and_appends_leaves_and_no_events(log: Log) -> None:
    pod = log.client(POD)
    assert pod.append_leaves([]) == []
    with pytest.raises(Refused, match="must be one that may POST /event"):
        pod.append_event(EVENT)
    with pytest.raises(Refused, match="item 0: must be a leaf"):
        pod.append_leaves([EVENT])
    with pytest.raises(NotFound):
        pod.index_of(entry_key(EVENT))
    assert log.client(OPERATOR).append_leaves([EVENT]) == [0]
    with pytest.raises(NotFound):
        pod.index_of(bytes(17))


def test_one_client_with_many_threads_is_refused_nothing(log: Log) -> None:
    """The sequencer hears four requests of a client at once; its connections are kept, and made anew when it starts anew."""
    context = log.context(client_pair(log.authority, OPERATOR, datetime.now(UTC), DAY))
    client = SequencerLog(Https.of(log.url, lambda: context))
    events = [EVENT.replace(b"{", b'{"n":%d,' % n) for n in range(48)]
    with ThreadPoolExecutor(16) as pool:
        assert sorted(pool.map(client.append_event, events)) == list(range(48))
        assert sorted(pool.map(client.index_of, map(entry_key, events))) == list(range(48))
    later = EVENT.replace(b"{", b'{"n":48,')
    assert client.append_events([later, events[7], later]) == [48, client.index_of(entry_key(events[7])), 48]
    assert client.append_events([]) == []
    log.running.kill()
    log.running.wait()
    with pytest.raises(Waiting):
        client.checkpoint()
    log.start()
    until(lambda: answers(client), "the log answers again")
    assert client.append_event(events[7]) == client.index_of(entry_key(events[7]))


def test_who_is_none_of_ours_is_not_heard(log: Log) -> None:
    other = new_authority(datetime.now(UTC))
    server = server_pair(log.authority, ["knhk-log"], datetime.now(UTC), DAY)
    strangers = {
        "without a certificate": log.as_client(None),
        "of another authority": log.as_client(client_pair(other, POD, datetime.now(UTC), DAY)),
        "a server's": log.as_client(server),
        "over": log.client(POD, datetime.now(UTC) - 2 * DAY),
    }
    for who, client in strangers.items():
        with pytest.raises(Waiting):
            print(who, client.checkpoint())


@pytest.mark.parametrize(
    ("client", "path", "allowed"),
    [
        (OPERATOR, "/append", True),
        (OPERATOR, "/event", True),
        (POD, "/append", True),
        (POD, "/event", False),
        (POD, "/sources", True),
        (POD, "/records", True),
        ("spiffe://knhk.dev/component/knhk-admission", "/records", False),
        ("spiffe://knhk.dev/component/knhk-admission", "/sources", False),
        (f"{POD}/../../../component/knhk-operator", "/append", False),
        ("spiffe://knhk.dev/component/knhk-admission", "/append", False),
        ("spiffe://example.com/ns/erp/point/orders/pod/one", "/append", False),
    ],
)
def test_who_may_append_what(client: str, path: str, allowed: bool) -> None:
    assert may(client, "POST", path) is allowed
    assert may(client, "GET", "/checkpoint")


def test_one_that_sends_without_end_is_told_to_wait_and_others_are_heard(log: Log) -> None:
    greedy, modest = log.client(POD), log.client(POD.replace("one", "two"))
    body = b"\0" * (7 << 20)  # no batch, but that is looked at only after its size

    def outcome() -> type[Exception]:
        try:
            greedy._request("POST", "/append", body)
        except (Refused, Waiting) as error:
            return type(error)
        raise AssertionError("zeros are no batch")

    outcomes = [outcome() for _ in range(2 * BYTES_AT_ONCE // len(body))]
    assert outcomes[0] is Refused
    assert modest.append_leaves([]) == []


def leaf(source: bytes, number: int = 1, salt: int = 0, time_ns: int = 7) -> bytes:
    """A decision of the ring `source`."""
    head = bytes((1, DECISION, 1, 1, ENFORCED, 0, 0, 0))
    return head + bytes([salt]) * 64 + b"p" * 20 + time_ns.to_bytes(8, "big") + source + number.to_bytes(8, "big") + b"\0\0"


def test_a_pod_takes_no_others_place_in_the_log(log: Log) -> None:
    """A ring belongs to the pod that named it first, for ever: who learns another's receipt id cannot use it."""
    one, two, mine, theirs, late = log.client(POD), log.client(OTHER), b"source-1", b"source-2", b"source-3"
    assert one.append_leaves([leaf(mine)]) == [0]
    one._request("POST", "/sources", late)
    for _ in range(2):
        for source in (mine, late):
            with pytest.raises(Refused, match=f"item 1: source {source.hex()}: belongs to another client"):
                two.append_leaves([leaf(theirs), leaf(source, 2)])
            with pytest.raises(Refused, match=f"source {source.hex()}: belongs to another client"):
                two._request("POST", "/sources", source)
        with pytest.raises(NotFound):
            two.index_of(entry_key(leaf(theirs)))
        log.running.kill()
        log.running.wait()
        log.start()
        until(lambda: answers(one), "the log answers again")
    assert one.append_leaves([leaf(late)]) == [1]
    assert two.append_leaves([leaf(theirs)]) == [2]


def test_a_known_key_keeps_its_leaf_and_another_one_is_told(log: Log) -> None:
    """A batch that is sent again has its first indexes, with other salts too; another request under a known receipt id is none of it."""
    pod, many = log.client(POD), 600
    leaves = [leaf(b"source-1", number) for number in range(many)]
    assert pod.append_leaves(leaves) == list(range(many))
    until(lambda: "\n600\n" in pod.checkpoint(), "they are under a checkpoint")
    again = [leaf(b"source-1", number, salt=1) for number in range(many)]
    assert pod.append_leaves([*again, leaf(b"source-1", many)]) == list(range(many + 1))
    for number in (3, 599, 600):
        with pytest.raises(Refused, match=f"item 1: key .*: is that of another leaf, of index {number}"):
            pod.append_leaves([leaf(b"source-1", 700 + number), leaf(b"source-1", number, time_ns=8)])
    assert pod.append_leaves([leaf(b"source-1", 9000)]) == [many + 1]


def test_what_another_took_is_told_and_holds_nothing_up(log: Log) -> None:
    """A ring whose source another pod named before the log heard of it: its leaves are told as refused, those of other rings arrive."""
    world, callers = log.world, Callers()
    (log.base / "token").write_text(callers.add("erp/orders", "one"))
    with exchange(log.base / "points", log.authority, callers) as served:
        stolen, sound, quiet = world.ring(0), world.ring(1), world.ring(3)
        log.client(OTHER)._request("POST", "/sources", stolen.source)
        decide_one(world, stolen.next_receipt, stolen.put)
        kept = decide_one(world, sound.next_receipt, sound.put)
        world.start_agent(exchange=served.url, log=log.url, token_file=log.base / "token", ca_file=log.base / "ca.crt")
        until(lambda: world.stats().get("acked") == 1, "the other ring's leaf arrives")
        assert f"source {stolen.source.hex()}: belongs to another client" in str(world.stats()["refused"])
        until(lambda: claimed(log, quiet.source), "a ring that was seen together with the one that was taken is claimed, too")
        ring = world.ring(2)
        until(lambda: claimed(log, ring.source), "a new ring is claimed before anybody asked anything")
    log.running.terminate()
    assert log.running.wait(60) == 0
    assert [parse_leaf(entry).receipt_id for entry in log_entries(world.log)] == [kept]


def claimed(log: Log, source: bytes) -> bool:
    return any(source in path.read_bytes() for path in (log.world.log / "owners").iterdir())


@pytest.mark.failure("sequencer", "receipts")
def test_a_sequencer_killed_while_pods_upload_over_tls_loses_nothing_acknowledged(log: Log) -> None:
    """Over TLS too: batches that were not acknowledged are sent again, and each leaf is in the log once."""
    world, callers = log.world, Callers()
    (log.base / "token").write_text(callers.add("erp/orders", "one"))
    with exchange(log.base / "points", log.authority, callers) as served:
        world.start_agent(exchange=served.url, log=log.url, token_file=log.base / "token", ca_file=log.base / "ca.crt")
        served.fleet.publish_keys("erp/orders", world.packs.signer.keys_json())
        served.fleet.publish_config("erp/orders", world.point_json())
        served.fleet.publish_document("erp/orders", world.sign(world.rollout()))
        world.runs(1)
        ring = world.ring()
        sent: list[bytes] = []
        for _ in range(3):
            sent += [decide_one(world, ring.next_receipt, ring.put) for _ in range(400)]
            until(lambda: world.stats()["acked"] > 0, "some are acknowledged")
            log.running.kill()
            log.running.wait()
            log.start()
        until(lambda: world.stats()["acked"] == len(sent), "all are acknowledged")
    log.running.terminate()
    assert log.running.wait(60) == 0
    found = [parse_leaf(entry).receipt_id for entry in log_entries(world.log)]
    assert sorted(found) == sorted(sent)


@pytest.mark.failure("agent", "receipts")
def test_what_a_pod_recorded_outlives_its_volume(log: Log) -> None:
    """When the pod goes, a copy of its outbox is beside the log, byte for byte, though the log died meanwhile."""
    world, callers = log.world, Callers()
    world.outbox = log.base / "volume"  # of the pod
    (log.base / "token").write_text(callers.add("erp/orders", "one"))
    with exchange(log.base / "points", log.authority, callers) as served:
        agent = world.start_agent(exchange=served.url, log=log.url, token_file=log.base / "token", ca_file=log.base / "ca.crt")
        ring, sent = world.ring(), list[bytes]()
        for _ in range(2):
            sent += [decide_one(world, ring.next_receipt, ring.put) for _ in range(300)]
            until(lambda: copies(log), "some are copied")
            log.running.kill()
            log.running.wait()
            log.start()
        until(lambda: world.stats()["acked"] == len(sent), "all are acknowledged")
        sent.append(decide_one(world, ring.next_receipt, ring.put))
        agent.terminate()  # as the kubelet does: what is left is copied on the way out
        assert agent.wait(60) == 0
    log.running.terminate()
    assert log.running.wait(60) == 0
    (folder,) = (world.log / "observations").iterdir()
    assert folder.name == f"erp.orders~one~{(world.outbox / 'id').read_text()}"
    assert [path.read_bytes() for path in sorted(folder.glob("*.seg"))] == [
        path.read_bytes() for path in sorted(world.outbox.glob("*.seg"))
    ]
    recorded = [parse_leaf(leaf).receipt_id for _, payload in log_records(world.log) for leaf in parse_record(payload, "").leaves]
    assert sorted(recorded) == sorted(sent)


@pytest.mark.failure("agent", "receipts")
def test_a_pod_that_ends_waits_for_a_log_that_is_slow(log: Log) -> None:
    """Its outbox goes with it: while the kubelet lets it, what was decided last is still on its way."""
    world, callers = log.world, Callers()
    (log.base / "token").write_text(callers.add("erp/orders", "one"))
    with exchange(log.base / "points", log.authority, callers) as served:
        agent = world.start_agent(exchange=served.url, log=log.url, token_file=log.base / "token", ca_file=log.base / "ca.crt")
        ring = world.ring()
        sent = [decide_one(world, ring.next_receipt, ring.put)]
        until(lambda: world.stats().get("acked") == 1, "the log takes what it decided")
        log.running.send_signal(signal.SIGSTOP)
        sent.append(decide_one(world, ring.next_receipt, ring.put))
        agent.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            agent.wait(3 * FLUSH_S)
        log.running.send_signal(signal.SIGCONT)
        assert agent.wait(60) == 0
    log.running.terminate()
    assert log.running.wait(60) == 0
    assert [parse_leaf(entry).receipt_id for entry in log_entries(world.log)] == sent


def copies(log: Log) -> list[Path]:
    return list((log.world.log / "observations").glob("*/*.seg"))


def decide_one(world: World, next_receipt: Callable[[], bytes], put: Callable[[Request], bool]) -> bytes:
    receipt, pack = next_receipt(), bytes.fromhex(world.packs.digests["1.0.0"].removeprefix("sha256:"))[:20]
    assert put(Request(receipt, 0, 7, observation(b"fine"), (Arm(pack, DECISION, 1, 1, ENFORCED, 0, action_bytes(GUARDS, [])),)))
    return receipt


def test_the_server_of_receipts_follows_the_log_by_a_certificate_of_its_own(log: Log, tmp_path: Path) -> None:
    pair = client_pair(log.authority, "spiffe://knhk.dev/component/knhk-receipts", datetime.now(UTC), DAY)
    names = [tmp_path / name for name in ("server-ca.crt", "receipts.crt", "receipts.key")]
    for path, data in zip(names, (log.authority.certificate, pair.certificate, pair.key), strict=True):
        path.write_bytes(data)
    follower = Follower(ReceiptIndex(tmp_path / "receipts.db"), LogPlace(log.url, *names))
    written = [leaf(b"RING0001", number) for number in range(300)]
    log.client(POD).append_leaves(written)

    def has_all() -> bool:
        follower.look()
        return follower.index.size == 300

    until(has_all, "the index has all")
    assert [row.data for row in follower.index.rows()] == written
    proof, checkpoint = follower.proof(250)
    assert proof.endswith(checkpoint)
    size, root = checkpoint.split("\n")[1:3]
    told = parse_proof(proof)
    verify_inclusion(leaf_hash(written[250]), told.start, int(size), b64decode(root), told.path)
    assert not may("spiffe://knhk.dev/component/knhk-receipts", "POST", "/append")
