"""An agent that seals with the keys of the service: its start, what it is given, what it keeps."""

from __future__ import annotations

import hashlib
from pathlib import Path

from agent_process import GUARDS
from agent_rings import Producer, Request
from agent_world import World, observation
from keys_world import KeyWorld

from knhk_runtime.envelope import parse_envelope
from knhk_runtime.outbox.records import DECISION, ENFORCED, Arm
from knhk_runtime.tiers.action import action_bytes

NAME, OTHER = "anna.planted@example.com", "bob.planted@example.com"
PRIVACY = {"subjects": [{"route": "orders", "pointer": "/who"}], "retentionDays": 0}


def start(world: World, keys: KeyWorld, given: str) -> Producer:
    """A point with privacy, and an agent with this token; its ring."""
    world.start_sequencer()
    point = world.point_json(version=2, privacy=PRIVACY)
    world.desire(world.sign(world.rollout(pointConfig=hashlib.sha256(point).hexdigest())), point)
    world.start_agent(keys=keys.url, keys_token=keys.token_file(given), ca_file=keys.ca_file)
    world.runs(1)
    return world.ring()


def put(world: World, ring: Producer, who: str) -> None:
    pack = bytes.fromhex(world.packs.digests["1.0.0"][7:47])
    arm = Arm(pack, DECISION, 1, 1, ENFORCED, 0, action_bytes(GUARDS, []))
    assert ring.put(Request(ring.next_receipt(), 0, 1, observation(b'{"who":"%s"}' % who.encode(), sub=who), (arm,)))


def ids(world: World) -> list[bytes]:
    return [parse_envelope(record.observation).key_id for record in world.records()]


def files_with(base: Path, *texts: bytes) -> list[Path]:
    """Rings are memory."""
    files = (path for path in base.rglob("*") if path.is_file() and path.suffix != ".ring")
    return [path for path in files if any(text in path.read_bytes() for text in texts)]
