"""keys.json names every key that ever was, and goes on verifying: keys that are over lie in chapters, whose digests the root signs."""

from __future__ import annotations

import base64
import json
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from knhk.adapters import keys_ahead, signer_roles
from knhk.adapters.key_secrets import CHAPTERS, MAPS, ROOM, chapters_of, write_chapters, write_secrets
from knhk.adapters.keys_ahead import Step, Supply
from knhk.adapters.signer_local import FileKeys, LocalSigner
from knhk.adapters.signer_roles import CHAPTER, p256_point
from knhk.lockchain import PolicyEvent, chapters, statement
from knhk.lockchain.bundles import assemble
from knhk.model.canonical import canonical
from knhk.model.faults import Waiting
from knhk.model.oci import MANIFEST, PREDICATE, SIGNATURE_PREDICATE, SIGNED, Descriptor
from knhk.reconcilers.point_keys import PointKeys
from knhk.wiring.signing import established
from knhk.wiring.turning import made_ahead
from knhk_runtime.keyfile import raw_public
from knhk_runtime.keys_folder import chapters_folder
from knhk_runtime.sequencer.__main__ import load_key
from knhk_verify.errors import Bad
from knhk_verify.note import b64
from knhk_verify.signed import KEYS, MAX_BYTES, MAX_KEYS_BYTES, ROLES, Key, Keys, keyid, pae, verify_event, verify_keys

ORIGIN = "knhk.dev/test"
NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)
SECRET = 1 << 20
DAY, OVERLAP = timedelta(days=1), timedelta(hours=6)
MANIFESTS = Path(__file__).parents[2] / "manifests" / "base"
TURNS = CHAPTER // (len(ROLES) + len(signer_roles.SIGNERS)) + 5


def event(at: datetime) -> dict[str, Any]:
    told = PolicyEvent("Promoted", ("pack/erp/orders@1.0.0", "ab" * 32), "control-plane", f"{at:%Y-%m-%dT%H:%M:%SZ}", point="erp/orders")
    return statement(told)


def enveloped(key: Ed25519PrivateKey, kind: str, payload: bytes) -> dict[str, Any]:
    signature = {"keyid": keyid(raw_public(key)), "sig": b64(key.sign(pae(kind, payload)))}
    return {"payload": b64(payload), "payloadType": kind, "signatures": [signature]}


def by(key: Ed25519PrivateKey, told: Mapping[str, Any]) -> bytes:
    return assemble(told, lambda kind, payload: enveloped(key, kind, payload))


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes], list[bytes]]:
    """A folder of keys, also for a sigstore, after daily turns enough for a chapter; an event of each day; all P-256 keys that are over."""
    folder = tmp_path_factory.mktemp("chapters") / "keys"
    signer, keys = established(folder, ORIGIN, NOW), FileKeys(folder)
    signer_roles.trust(folder, keys, b"a trusted root", ORIGIN, NOW)
    events, outside = [signer.bundle("rollout", event(NOW))], []
    for day in range(1, TURNS + 1):
        outside += [held.public for role in signer_roles.SIGNERS if (held := keys.outside(role))]
        for role in ROLES:
            signer_roles.rotate(folder, keys, role, ORIGIN, NOW + day * DAY, OVERLAP)
        events.append(LocalSigner(folder).bundle("rollout", event(NOW + day * DAY)))
    return folder, events, outside


def test_what_keys_signed_that_lie_in_a_chapter_verifies_as_before(turned: tuple[Path, list[bytes], list[bytes]]) -> None:
    folder, events, outside = turned
    data, root = (folder / "keys.json").read_bytes(), LocalSigner(folder).root_public()
    bare, former = chapters.apart(data)
    assert former, "no chapter was made"
    keys = verify_keys(data, root)
    for bundle in events:
        verify_event(bundle, keys)
    assert {role: len(held) for role, held in keys.roles.items()} == dict.fromkeys(ROLES, TURNS + 1)
    assert all((key.until is None) == (id_ == LocalSigner(folder).keyid(role)) for role in ROLES for id_, key in keys.roles[role].items())
    assert {key.name for key in keys.roles["log"].values()} == {ORIGIN}
    assert {key.public for held in signer_roles.outside_in(data, root).keys.values() for key in held} >= set(outside)
    assert LocalSigner(folder).log_origin() == ORIGIN
    with pytest.raises(Bad, match=r"is a key of no role; \d+ chapters are not here: must be of rollout"):
        verify_event(events[0], verify_keys(bare, root))
    verify_event(events[-1], verify_keys(bare, root))


def test_what_a_key_of_a_chapter_signs_after_its_end_is_refused(turned: tuple[Path, list[bytes], list[bytes]]) -> None:
    folder, _, _ = turned
    signer, old = LocalSigner(folder), Ed25519PrivateKey.generate()
    root = Ed25519PrivateKey.generate()
    document = json.loads(base64.b64decode(json.loads(signer.keys_json())["payload"]))
    text = chapters.written({"rollout": [Key(raw_public(old), "", NOW)]}, {}, p256_point)
    document["chapters"] = [sha256(text.encode()).hexdigest()]
    data = canonical({**enveloped(root, KEYS, canonical(document)), "chapters": [text]})
    keys = verify_keys(data, raw_public(root))
    verify_event(by(old, event(NOW)), keys)
    with pytest.raises(Bad, match=r"predicate.time: is after its key was replaced"):
        verify_event(by(old, event(NOW + timedelta(seconds=1))), keys)


def test_a_chapter_that_was_altered_or_is_another_ones_is_refused_by_name(turned: tuple[Path, list[bytes], list[bytes]]) -> None:
    folder, _, _ = turned
    data, root = (folder / "keys.json").read_bytes(), LocalSigner(folder).root_public()
    bare, (first, *rest) = chapters.apart(data)

    def refused(*texts: object) -> str:
        with pytest.raises(Bad) as bad:
            verify_keys(json.dumps({**json.loads(bare), "chapters": list(texts)}).encode(), root)
        return str(bad.value)

    part = json.loads(first)["keys"][0]
    altered = first.replace(part["rows"], b64(bytes(36)) + part["rows"][48:])
    another = chapters.written({"rollout": [Key(raw_public(Ed25519PrivateKey.generate()), "", NOW)]}, {}, p256_point)
    for text in (altered, another, first + " ", json.loads(first), None, "\ud800"):
        said = refused(*rest, text)
        assert said.startswith(f"keys.json chapters[{len(rest)}]: has SHA-256 "), said
        assert "which keys.json does not name" in said
    assert refused(altered, *rest).startswith("keys.json chapters[0]: ")
    with pytest.raises(Bad, match=r"chapters: must be there, of type list"):
        verify_keys(canonical({**json.loads(bare), "chapters": "x"}), root)


def test_a_point_gets_the_chapters_of_what_signed_for_it(turned: tuple[Path, list[bytes], list[bytes]]) -> None:
    folder, _, _ = turned
    data, root = (folder / "keys.json").read_bytes(), LocalSigner(folder).root_public()
    bare, former = chapters.apart(data)
    over = [id_ for id_ in verify_keys(data, root).roles["build"] if id_ not in verify_keys(bare, root).roles["build"]]
    assert len(over) >= CHAPTER // (len(ROLES) + len(signer_roles.SIGNERS))
    held = chapters.holding(data, frozenset(over[:1]))
    assert over[0] in verify_keys(held, root).of("build")
    assert chapters.holding(data, frozenset({LocalSigner(folder).keyid("build")})) == bare
    assert chapters.together(bare, former) == data


class Papers:
    """A registry as far as `signers_of` asks it: images that one key signed each; away as long as `away` says."""

    def __init__(self, signed: Mapping[str, bytes]) -> None:
        self.signed, self.away, self.asked = signed, False, 0

    def statements(self, digest: str) -> Iterator[Descriptor]:
        self.asked += 1
        if self.away:
            raise Waiting("Registry", "is away", 1.0)
        layer = {"mediaType": SIGNED, "digest": f"sha256:{digest}", "size": 1}
        manifest = canonical({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [layer]})
        yield Descriptor(MANIFEST, f"sha256:{'0' * 64}", len(manifest), "", {PREDICATE: SIGNATURE_PREDICATE}, manifest)

    def read(self, digest: str) -> bytes:
        return self.signed[digest.removeprefix("sha256:")]


def test_a_point_is_held_up_by_no_registry_that_is_away(turned: tuple[Path, list[bytes], list[bytes]]) -> None:
    folder, events, _ = turned
    data, root = (folder / "keys.json").read_bytes(), LocalSigner(folder).root_public()
    bare, _ = chapters.apart(data)
    old, new = "a" * 64, "b" * 64
    papers: Any = Papers({old: events[0], new: events[-1]})
    keys = PointKeys()
    papers.away = True
    assert [keys.of(data, papers, [old]), keys.of(data, papers, [old])] == [data, data]  # all of it has room
    assert papers.asked == 1
    papers.away = False
    assert PointKeys().of(data, papers, [new]) == bare
    held = PointKeys().of(data, papers, [old, new])
    verify_event(events[0], verify_keys(held, root))
    asked = papers.asked
    assert keys.of(bare, papers, [old]) == bare  # without chapters nobody is asked
    assert papers.asked == asked


@dataclass(frozen=True)
class Years:
    """keys.json of 25 years of daily turns, its chapters, and the first rollout key."""

    data: bytes
    bare: bytes
    texts: list[str]
    root: Ed25519PrivateKey
    old: Ed25519PrivateKey
    turns: int
    per: int


@pytest.fixture(scope="module")
def years() -> Years:
    root, old, roles = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate(), (*ROLES,)
    turns, per = int(25 * 365.25), CHAPTER // (len(roles) + 3)
    texts = list[str]()
    for begin in range(0, turns, per):
        days = range(begin, min(begin + per, turns))
        held = {
            role: [Key(sha256(f"{role} {day}".encode()).digest(), ORIGIN if role == "log" else "", NOW + day * DAY) for day in days]
            for role in roles
        }
        if begin == 0:
            held["rollout"][0] = Key(raw_public(old), "", NOW)
        outside = {
            role: [Key(b"\2" + sha256(f"sigstore {role} {day}".encode()).digest(), "", NOW + day * DAY) for day in days]
            for role in signer_roles.SIGNERS
        }
        texts.append(chapters.written(held, outside, bytes))
    names = {role: [{"keyid": keyid(sha256(role.encode()).digest()), "pub": b64(sha256(role.encode()).digest())}] for role in roles}
    digests = [sha256(text.encode()).hexdigest() for text in texts]
    document = {"version": 1, "serial": 4 * turns, "expires": "2100-01-01T00:00:00Z", "roles": names, "chapters": digests}
    bare = canonical(enveloped(root, KEYS, canonical(document)))
    data = chapters.together(bare, texts)
    return Years(data, bare, texts, root, old, turns, per)


def test_keys_of_twenty_five_years_of_daily_turns_verify(years: Years, capsys: pytest.CaptureFixture[str]) -> None:
    data, bare, texts, root, old = years.data, years.bare, years.texts, years.root, years.old
    turns, per, roles = years.turns, years.per, ROLES
    began = time.process_time()
    verify_keys(data, raw_public(root))
    took = time.process_time() - began
    tracemalloc.start()
    keys = verify_keys(data, raw_public(root))
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    verify_event(by(old, event(NOW)), keys)
    assert sum(map(len, keys.roles.values())) == len(roles) * (turns + 1)
    assert len(data) < MAX_KEYS_BYTES / 3
    assert len(bare) < MAX_BYTES / 8
    needed = chapters.holding(data, frozenset({keyid(raw_public(old))}))
    verify_event(by(old, event(NOW)), verify_keys(needed, raw_public(root)))
    assert len(needed) < MAX_BYTES / 4
    turns_ahead = Supply(tuple(Step(NOW + day * DAY, data, {}, ()) for day in range(32)))
    fitted = keys_ahead.fitted(turns_ahead, ROOM)
    assert all(len(step.keys_json) <= ROOM for step in fitted.steps)
    assert chapters.apart(fitted.steps[0].keys_json)[1] == chapters.apart(data)[1][-len(chapters.apart(fitted.steps[0].keys_json)[1]) :]
    packed = len(keys_ahead.written(fitted))
    assert packed < SECRET * 3 // 4
    some = verify_keys(fitted.steps[0].keys_json, raw_public(root))
    assert 0 < some.away < len(texts)
    held = (len(texts) - some.away) * per / 365.25
    with capsys.disabled():
        sizes = f"{len(data):,} bytes in {len(texts)} chapters, {len(bare):,} without them, {len(needed):,} with one"
        print(
            f"\n25 years: {turns:,} turns: {sizes}; verified in {took:.2f} s of one core, {kept >> 20} MiB kept, {most >> 20} MiB at most"
        )
        print(f"a Secret has {len(fitted.steps[0].keys_json):,} bytes of it, the newest {held:.1f} years; 32 turns ahead {packed:,} bytes")


def test_a_secret_has_what_fits_and_the_folder_has_all(turned: tuple[Path, list[bytes], list[bytes]], tmp_path: Path) -> None:
    folder, now = copied(turned[0], tmp_path), NOW + (TURNS + 1) * DAY
    bare, (chapter,) = chapters.apart((folder / "keys.json").read_bytes())
    assert chapters.newest((folder / "keys.json").read_bytes(), len(bare) + len(chapter)) == bare
    assert chapters.newest((folder / "keys.json").read_bytes(), ROOM) == (folder / "keys.json").read_bytes()
    supply = made_ahead(folder, now, 1, "local:kim")
    write_secrets(folder, "knhk-system")
    root = LocalSigner(folder).root_public()
    whole = verify_keys((folder / "keys.all.json").read_bytes(), root)
    assert whole.away == 0
    assert whole.serial <= keys_ahead.keys_in(supply.steps[-1], root).serial
    verify_event(turned[1][0], whole)


@dataclass(frozen=True)
class Mounted:
    """A pod's folder of keys with what its Secret has room for, and its ConfigMaps' chapters beside it."""

    folder: Path
    years: Years
    maps: list[dict[str, Any]]

    @property
    def chapters(self) -> Path:
        return self.folder.with_name("keys.chapters")

    def verified(self) -> Keys:
        return verify_keys(LocalSigner(self.folder).keys_json(), raw_public(self.years.root))


@pytest.fixture
def mounted(years: Years, tmp_path: Path) -> Mounted:
    made = tmp_path / "made"
    made.mkdir()
    (made / "keys.json").write_bytes(years.data)
    path = write_chapters(made, "knhk-system")
    assert path is not None
    pod = Mounted(tmp_path / "pod" / "keys", years, list(yaml.safe_load_all(path.read_text())))
    pod.folder.mkdir(parents=True)
    pod.chapters.mkdir()
    (pod.folder / "keys.json").write_bytes(chapters.newest(years.data, ROOM))
    (pod.folder / "root.pub").write_text(b64(raw_public(years.root)))
    for each in pod.maps:
        for name, text in each["data"].items():
            (pod.chapters / name).write_text(text)
    return pod


def test_config_maps_have_all_chapters_and_nothing_else(mounted: Mounted, years: Years) -> None:
    names = [each["metadata"]["name"] for each in mounted.maps]
    assert names == [f"{CHAPTERS}-{number}" for number in range(len(names))]
    assert 1 < len(names) <= MAPS // 2
    assert all(sum(len(name) + len(text.encode()) for name, text in each["data"].items()) < SECRET for each in mounted.maps)
    assert [text for each in mounted.maps for text in each["data"].values()] == years.texts
    assert {each["kind"] for each in mounted.maps} == {"ConfigMap"}


@pytest.mark.parametrize("pod", ["operator/deployment", "builder/deployment", "log/statefulset"])
def test_each_pod_with_keys_mounts_them_beside_its_own(pod: str) -> None:
    documents = yaml.safe_load_all((MANIFESTS / f"{pod}.yaml").read_text())
    spec = next(each["spec"]["template"]["spec"] for each in documents if each["kind"] in ("Deployment", "StatefulSet"))
    mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    volume = next(each for each in spec["volumes"] if each["name"] == "chapters")
    assert str(chapters_folder(Path(mounts["keys"]))) == mounts["chapters"]
    assert volume["projected"]["sources"] == [{"configMap": {"name": f"{CHAPTERS}-{n}", "optional": True}} for n in range(MAPS)]


def test_what_a_key_of_twenty_five_years_ago_signed_verifies_on_a_cluster(mounted: Mounted, years: Years) -> None:
    old = by(years.old, event(NOW))
    with pytest.raises(Bad, match=r"\d+ chapters are not here"):
        verify_event(old, verify_keys((mounted.folder / "keys.json").read_bytes(), raw_public(years.root)))
    keys = mounted.verified()
    verify_event(old, keys)
    assert keys.away == 0
    assert LocalSigner(mounted.folder).keys_json() == years.data
    named = signer_roles.keys_of(mounted.folder)
    assert named is not None
    assert named.away == 0


def test_a_chapter_that_was_altered_is_left_out_and_told(mounted: Mounted, years: Years, capsys: pytest.CaptureFixture[str]) -> None:
    first = next(iter(mounted.maps[0]["data"]))
    (mounted.chapters / first).write_text(mounted.maps[0]["data"][first].replace('"role":"build"', '"role":"data"'))
    thief = Ed25519PrivateKey.generate()
    forged = chapters.written({"rollout": [Key(raw_public(thief), "", NOW + DAY)]}, {}, p256_point)
    (mounted.chapters / f"{sha256(forged.encode()).hexdigest()}.json").write_text(forged)  # nobody has signed its name
    keys = mounted.verified()
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(each["event"], Path(each["file"]).name) for each in told] == [("a chapter of former keys is refused", first)]
    assert keys.away == 1
    for key in (thief, years.old):
        with pytest.raises(Bad, match="1 chapters are not here"):
            verify_event(by(key, event(NOW)), keys)
    (mounted.chapters / first).write_text(mounted.maps[0]["data"][first])
    verify_event(by(years.old, event(NOW)), mounted.verified())


def test_a_log_knows_its_keys_of_a_chapter_beside_its_folder(turned: tuple[Path, list[bytes], list[bytes]], tmp_path: Path) -> None:
    folder = copied(turned[0], tmp_path)
    bare, (text,) = chapters.apart((folder / "keys.json").read_bytes())
    (folder / "keys.json").write_bytes(bare)
    few = load_key(folder / "log.key", ORIGIN).older
    chapters_folder(folder).mkdir()
    (chapters_folder(folder) / f"{sha256(text.encode()).hexdigest()}.json").write_text(text)
    assert len(few) < len(load_key(folder / "log.key", ORIGIN).older) == TURNS + 1


def test_what_a_point_gets_while_the_registry_is_away_has_room_in_a_config_map(years: Years) -> None:
    papers: Any = Papers({})
    papers.away = True
    got = PointKeys().of(years.data, papers, ["a" * 64])
    assert len(years.bare) < len(got) <= ROOM


def test_without_chapters_no_config_map_is_made(tmp_path: Path) -> None:
    established(tmp_path / "keys", ORIGIN, NOW)
    assert chapters_of(tmp_path / "keys", "knhk-system") == ()
    assert write_chapters(tmp_path / "keys", "knhk-system") is None


def test_turns_made_ahead_are_written_with_the_chapters_to_come(turned: tuple[Path, list[bytes], list[bytes]], tmp_path: Path) -> None:
    folder = copied(turned[0], tmp_path)
    made_ahead(folder, NOW + (TURNS + 1) * DAY, 3, "local:kim")
    (made,) = chapters_of(folder, "knhk-system")
    assert list(made["data"].values()) == list(chapters.apart((folder / "keys.json").read_bytes())[1])


def copied(source: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
        (folder / path.name).chmod(path.stat().st_mode & 0o777)
    return folder


def test_turns_made_ahead_have_their_chapters_once(turned: tuple[Path, list[bytes], list[bytes]], tmp_path: Path) -> None:
    folder, now = copied(turned[0], tmp_path), NOW + (TURNS + 1) * DAY
    supply = made_ahead(folder, now, 3, "local:kim")
    again = keys_ahead.held(folder)
    assert again == supply
    assert all(len(chapters.apart(step.keys_json)[1]) == 1 for step in supply.steps)
    root = LocalSigner(folder).root_public()
    for bundle in turned[1]:
        verify_event(bundle, keys_ahead.keys_in(supply.steps[-1], root))


@pytest.mark.slow
def test_keys_made_ahead_that_were_never_used_are_in_no_chapter_after_a_theft(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    established(folder, ORIGIN, NOW - DAY)
    supply = made_ahead(folder, NOW, CHAPTER // len(ROLES) + 4, "local:kim")
    root = LocalSigner(folder).root_public()
    assert chapters.apart(supply.steps[-1].keys_json)[1], "turns to come made no chapter"
    now = NOW + 3 * DAY
    used = {id_ for held in keys_ahead.keys_in(supply.due(now), root).roles.values() for id_ in held}
    anew = made_ahead(folder, now, 1, "local:kim", at_once=True)
    last = keys_ahead.keys_in(anew.due(now), root)
    assert last.serial > keys_ahead.keys_in(supply.steps[-1], root).serial
    over = {id_ for held in last.roles.values() for id_, key in held.items() if key.until is not None}
    assert over == used
    assert all(key.until is None or key.until <= now for held in last.roles.values() for key in held.values())
