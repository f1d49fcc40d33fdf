"""One guard as it runs: a real Envoy with the shim, the agent on its rings, a sequencer; and their ends, one by one."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from agent_world import ORIGIN, Packs, World, until
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from shim_native import build_pack
from shim_rig import Answer, Rig

from knhk_runtime.keyfile import raw_public
from knhk_runtime.record import check_record
from knhk_runtime.sequencer.edge import Edge
from knhk_runtime.tlog.folder import log_entries
from knhk_runtime.tlog.notes import format_vkey
from knhk_runtime.tlog.tree import TILE, parse_bundle_of_entries, tile_path
from knhk_verify.leaf import Leaf, parse_leaf
from knhk_verify.note import COSIGNATURE, Verifier, open_checkpoint, parse_proof, parse_vkey
from knhk_verify.tree import leaf_hash, verify_inclusion

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from loopback_ports import free_port

WAIT_MS = 60_000  # of what is to become durable, on a machine as slow as it may be
MISS_MS = 1_000  # of what is not to
REGIONS = ("eu", "ap")


class House:
    """The shim's packs are C that is made for tests; everything between Envoy's answer and the log is the product's."""

    def __init__(self, folder: Path, packs: Packs) -> None:
        (folder / "envoy").mkdir()
        self.world = World.make(folder, packs)
        self.rig = Rig(folder / "envoy", workers=1)
        self.rig.agent.close()
        self.rig.rings.rmdir()
        self.rig.rings.symlink_to(self.world.rings)
        self.sequencer: subprocess.Popen[str] | None = None
        self.agent: subprocess.Popen[str] | None = None
        self.regions: dict[str, subprocess.Popen[str]] = {}
        self._log_words: tuple[str, ...] = ()

    def start(self, level: str, durable_ms: int = WAIT_MS, unwitnessed_s: int = 0, **settings: Any) -> None:
        """All of it, with packs of this durability; returns when requests can be answered."""
        self.start_sequencer()
        told = {"durableTimeoutMs": durable_ms, "parkTimeoutMs": WAIT_MS, "maxUnwitnessedSeconds": unwitnessed_s}
        point = self.world.point_json(**told)
        self.world.desire(self.world.sign(self.world.rollout(pointConfig=_sha256(point))), point=point)
        self.start_agent()
        self.world.runs(1)
        told = self.rig.settings(
            build_pack(self.rig.packs), durability=level, durableTimeoutMs=durable_ms, parkTimeoutMs=WAIT_MS, **settings
        )
        told["stable"]["digest"] = self.world.packs.digests["1.0.0"].removeprefix("sha256:")  # what its tables leave open the agent decides
        self.rig.publish(told)
        self.rig.start()

    def start_regions(self, need: int) -> None:
        """Two others, each with a witness that mirrors; so many of them are a quorum. To be called before `start`."""
        port, log = free_port(), self.world.packs.signer.vkey(ORIGIN)
        (self.world.base / "watched").write_text(f"log {log} http://127.0.0.1:{port}\nquorum none\n")
        keys = {name: self._start_region(name) for name in REGIONS}
        witnesses = "".join(f"witness {name} {vkey} http://{self._address(name)}\n" for name, vkey in keys.items())
        policy = self.world.base / "policy"
        policy.write_text(f"log {log}\n{witnesses}group others {need} {' '.join(REGIONS)}\nquorum others\n")
        self._log_words = ("--witnesses", str(policy), "--read-port", str(port), "--checkpoint-interval-s", "0.1")

    def _start_region(self, name: str) -> str:
        """Verifier key of its witness."""
        folder, key = self.world.base / name, Ed25519PrivateKey.generate()
        folder.mkdir()
        path = folder / "witness.key"
        path.touch(0o600)
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        words = ["--dir", str(folder / "witness"), "--name", f"knhk.dev/test/{name}", "--key", str(path), "--listen", "127.0.0.1:0"]
        words += ["--policy", str(self.world.base / "watched"), "--mirror", str(folder / "mirror")]
        self.regions[name] = self.world.start_process([sys.executable, "-m", "knhk_runtime.witness", *words], f"{name}.err")
        return format_vkey(Verifier(f"knhk.dev/test/{name}", raw_public(key), COSIGNATURE))

    def _address(self, name: str) -> str:
        """Where its witness listens, as soon as it says so."""
        said = self.world.base / f"{name}.err"
        line = until(lambda: next((line for line in said.read_text().splitlines() if '"witness serves"' in line), ""), f"{name} serves")
        return str(json.loads(line)["listen"])

    def start_sequencer(self) -> None:
        self.sequencer = self.world.start_sequencer(*self._log_words)
        until(self._sequencer_answers, "the sequencer answers")

    def start_agent(self) -> None:
        self.agent = self.world.start_agent(socket=self.rig.agent.path)
        until(lambda: self._connects(self.rig.agent.path), "the agent listens")

    def _sequencer_answers(self) -> bool:
        return self._connects(self.world.socket) and self.ask("/health")[0] == 200

    @staticmethod
    def _connects(path: Path) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(path)) == 0

    def post(self, *bodies: bytes) -> list[Answer]:
        return [self.rig.post(body) for body in bodies]

    # what ends

    def kill_process(self) -> None:
        """Envoy and agent, by SIGKILL."""
        self.rig.kill()
        _kill(self.agent)

    def lose_node(self) -> None:
        """Envoy, agent, the memory and the disk that they had."""
        self.lose_memory()
        shutil.rmtree(self.world.outbox)
        shutil.rmtree(self.world.point / "state")

    def lose_memory(self) -> None:
        """Power: what was in tmpfs is gone."""
        self.kill_process()
        for path in self.world.rings.iterdir():
            path.unlink()

    def lose_log(self) -> None:
        """The sequencer and its disk."""
        _kill(self.sequencer)
        shutil.rmtree(self.world.log)

    def lose_region(self) -> None:
        """Node and log: everything of this region."""
        self.lose_node()
        self.lose_log()

    def stop(self, process: subprocess.Popen[str] | None) -> None:
        """It exists and does nothing more."""
        assert process is not None
        process.send_signal(signal.SIGSTOP)

    # what is left

    def in_outbox(self) -> dict[str, Leaf]:
        """Leaves of the outbox by receipt, each held against O and A beside it."""
        found: dict[str, Leaf] = {}
        for record in self.world.records():
            check_record(record, "outbox")
            found |= {leaf.receipt_id.hex(): leaf for leaf in map(parse_leaf, record.leaves)}
        return found

    def in_mirrors(self, receipts: Iterable[str]) -> dict[str, Leaf]:
        """Leaves of these receipts that another region has, under a checkpoint that the lost log signed."""
        held = {leaf.receipt_id.hex(): leaf for name in REGIONS for leaf in self._mirrored(name)}
        return {receipt: held[receipt] for receipt in receipts if receipt in held}

    def _mirrored(self, name: str) -> list[Leaf]:
        mirror = self.world.base / name / "mirror" / sha256(ORIGIN.encode()).hexdigest()
        if not (mirror / "checkpoint").exists():
            return []
        tree = open_checkpoint((mirror / "checkpoint").read_bytes(), parse_vkey(self.world.packs.signer.vkey(ORIGIN)))
        entries = list(log_entries(mirror))[: tree.size]
        edge = Edge()
        edge.extend(b"".join(map(leaf_hash, entries)))
        assert (len(entries), edge.root()) == (tree.size, tree.root), f"the mirror in {name} is whole"
        return [parse_leaf(entry) for entry in entries]

    def ask(self, path: str) -> tuple[int, bytes]:
        """GET of the sequencer."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(60)
            s.connect(str(self.world.socket))
            s.sendall(f"GET {path} HTTP/1.1\r\nHost: log\r\nConnection: close\r\n\r\n".encode())
            answer = http.client.HTTPResponse(s)
            answer.begin()
            return answer.status, answer.read()

    def in_log(self, receipts: Iterable[str]) -> dict[str, Leaf]:
        """Leaves of these receipts that the log proves: found by key, held under its signed checkpoint by their proof."""
        return {receipt: leaf for receipt in receipts if (leaf := self._proven(receipt)) is not None}

    def _proven(self, receipt: str) -> Leaf | None:
        status, body = self.ask(f"/index/{receipt}00")
        if status == 404:
            return None
        index = int(json.loads(body)["index"])
        proof = parse_proof(until(lambda: _ok(self.ask(f"/proof/{index}")), "a checkpoint covers the leaf"), "proof")
        verifier = parse_vkey(json.loads((self.world.log / "meta.json").read_bytes())["vkey"])
        assert verifier.name == ORIGIN
        tree = open_checkpoint(proof.checkpoint, verifier)
        entry = self._entry(index, tree.size)
        verify_inclusion(leaf_hash(entry), index, tree.size, tree.root, proof.path)
        leaf = parse_leaf(entry)
        assert leaf.receipt_id.hex() == receipt
        return leaf

    def _entry(self, index: int, size: int) -> bytes:
        n = index // TILE
        path = tile_path(None, n, min(TILE, size - n * TILE))
        status, data = self.ask(f"/{path}")
        assert status == 200, path
        return list(parse_bundle_of_entries(data, path))[index % TILE][1]

    def close(self) -> None:
        for process in self.world.running:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
        self.rig.close()
        self.world.close()


def _sha256(data: bytes) -> str:
    return sha256(data).hexdigest()


def _ok(answer: tuple[int, bytes]) -> str:
    return answer[1].decode() if answer[0] == 200 else ""


def _kill(process: subprocess.Popen[str] | None) -> None:
    assert process is not None
    process.kill()
    process.wait()
