"""Logs and evidence for commands: where a log is read, and what its evidence is held against."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from knhk.adapters import log_reading
from knhk.adapters.signer_local import pinned_root, read_root_pub
from knhk.api.document import read, to_value
from knhk.model.faults import Fault, NotFound, Refused, Stalled
from knhk.model.resource import Key
from knhk.reconcilers.evidence import Bundle, Side
from knhk.reconcilers.receipts import Entry, records_of
from knhk.wiring.home import Home
from knhk.wiring.log_opening import Opened, opened
from knhk.wiring.resources import open_store
from knhk_runtime.tlog.served import Served
from knhk_verify.errors import Bad
from knhk_verify.evidence import Evidence, Step
from knhk_verify.note import unb64
from knhk_verify.signed import MAX_BYTES, member, parse_json, parse_time

if TYPE_CHECKING:
    from knhk.adapters.kube_client import KubeClient  # takes a second to import

FOLDERS = ("receipts", "checkpoints", "consistency")  # of an audit bundle


@dataclass(frozen=True)
class Trust:
    """The pinned root key, keys.json, and the time to judge at. `own`: the root key came with the log that it is to judge. `folders`: where
    what keys.json pins may lie."""

    root_public: bytes
    keys_json: bytes
    now: datetime
    own: bool
    folders: tuple[Path, ...] = ()

    def evidence(self) -> Evidence:
        """Nothing added yet."""
        made = Evidence(self.root_public, self.keys_json, self.now)
        if self.own:
            what = "the root.pub that came with the log is trusted: this shows damage, but no forger: give --root"
            made.steps.insert(0, Step("the root key is pinned", "root", True, what))
        return made


def trust(home: Home, root: str | None, keys: Path | None, at: str | None, beside: Path | None, keys_json: bytes | None = None) -> Trust:
    """`root`: a file or base64 text; `keys`: keys.json; `at`: RFC 3339 in UTC; `keys_json`: that which came with the evidence. Without them
    the home's root key counts, then what lies with the log in `beside` (which is no pin: `own`), and the keys.json there before the
    home's. Raises Stalled when nothing is there, Bad."""
    came = [beside.parent / "keys" / "root.pub", beside / "root.pub"] if beside else []
    at_hand = [path for path in (home.keys / "root.pub", *came) if path.exists()]
    if root is not None:
        public = pinned_root(root)
    elif at_hand:
        public = read_root_pub(at_hand[0])
    else:
        raise Stalled("Root", "no pinned root key is at hand: give --root, a file or base64 text, from a source that you trust")
    now, own = parse_time(at, "--at") if at else datetime.now(UTC), root is None and at_hand[0] != home.keys / "root.pub"
    if keys is None and keys_json is not None:
        return Trust(public, keys_json, now, own, (home.keys,))
    named = [keys] if keys else [folder / "keys.json" for folder in (beside, home.keys) if folder]
    found = next((path for path in named if keys or path.exists()), None)
    if found is None:
        raise Stalled("Keys", "no keys.json is at hand: give --keys, the file that is published with the log")
    folders = tuple(dict.fromkeys((found.parent, *(folder for folder in (beside, home.keys) if folder))))
    return Trust(public, found.read_bytes(), now, own, folders)


def folder(place: str) -> Path | None:
    """The folder that a log lies in; None for a URL, a file, or nothing."""
    return Path(place) if not log_reading.is_url(place) and Path(place).is_dir() else None


def side(place: str, ca_file: Path | None = None, certificate: Path | None = None) -> Side:
    """A log, or a checkpoint file, to compare with another. Raises as `opened`."""
    if log_reading.is_url(place) or log_reading.is_store(place) or Path(place).is_dir():
        log = opened(place, ca_file, certificate)
        return Side(place, log.note, log.served)
    return Side(place, Path(place).read_text("utf-8", "replace"), None)


@dataclass(frozen=True)
class Where:
    """Where what is no file is looked for. `log`: opens the log at hand; `api`: opens the cluster that Receipts are in, None: the home;
    `ids`: opens that which receipt ids and indexes of entries are looked up in, None: the log. `beside` adds what a log says of what it
    proves."""

    home: Home
    log: Callable[[], Opened]
    api: Callable[[], KubeClient] | None = None
    ids: Callable[[], KubeClient] | None = None
    namespace: str | None = None
    beside: Callable[[Opened, Bundle], None] = lambda log, bundle: None


_ENTRY = re.compile("(?:([a-z0-9-]{1,63})/)?([0-9a-f]{32}|[0-9]{1,15})")


def is_entry(word: str) -> bool:
    """Whether it is a receipt id or the index of an entry, and no file."""
    return (entry := _ENTRY.fullmatch(word)) is not None and not entry[1] and not Path(word).exists()


def sources(words: Sequence[str], where: Where, stdin: Callable[[], bytes]) -> list[tuple[str, bytes]]:
    """(name, bytes) of the evidence that the words name: see `knhk receipt verify`. Raises NotFound, Bad, Refused, Stalled, Waiting."""
    found = list[tuple[str, bytes]]()
    for word in words:
        if word == "-":
            found += _documents("standard input", stdin())
        elif Path(word).is_dir():
            files = [path for name in FOLDERS for path in sorted((Path(word) / name).glob("*"))]
            if not files:
                raise NotFound(f"{word}: holds no evidence: must have files in {', '.join(FOLDERS)}")
            found += [(str(path), _read(path)) for path in files]
        elif Path(word).exists():
            found += _documents(word, _read(Path(word)))
        elif (entry := _ENTRY.fullmatch(word)) and where.ids is not None:
            found += _served(where.ids(), entry[1] or where.namespace, entry[2])
        elif entry and not entry[1]:
            found += _logged(where, word)
        else:
            try:
                named = _named(word, where)
            except NotFound as error:
                must = "must be a file, a receipt id (32 hexadecimal digits), the index of an entry, or [NAMESPACE/]NAME of a Receipt"
                raise NotFound(f"{error}, and {word} is no file: {must}") from error
            found.append((word, _proven(named, where.log)))
    return found


def _logged(where: Where, word: str) -> list[tuple[str, bytes]]:
    """Of a receipt id, or the index of an entry, in the log."""
    bundle, log = Bundle(), where.log()
    prove(log, word, bundle)
    where.beside(log, bundle)
    return [(f"{log.served.name} {name}", text.encode()) for name, text in bundle.files().items()]


def _served(api: KubeClient, namespace: str | None, word: str) -> list[tuple[str, bytes]]:
    """The same as a cluster serves it, each with its own checkpoint."""
    from knhk.adapters import receipts_kube

    asked = {"receipt": word} if _is_id(word) else {"logIndex": int(word)}  # what is served must be of this
    found = list[tuple[str, bytes]]()
    for row in receipts_kube.looked_up(api, namespace, word):
        served = receipts_kube.evidence(api, row)
        found.append((f"{row.traits['namespace']}/{row.name}", _bytes({**served, "spec": member(served, "spec", dict, row.name) | asked})))
    return found


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)  # one byte too many is refused


def _documents(name: str, data: bytes) -> list[tuple[str, bytes]]:
    """Evidence in a file: as it is, but documents of YAML as JSON, and the items of a list one by one. Raises Refused."""
    if data.startswith((b"old ", b"{")) or b"\n\n\xe2\x80\x94 " in data or len(data) > MAX_BYTES:
        parsed = parse_json(data, name) if data.startswith(b"{") and len(data) <= MAX_BYTES else None
        documents = _items(parsed) if _is_list(parsed) else None
    else:
        nodes, faults = read(data, name)
        if faults:
            raise Refused(faults)
        values = [to_value(node) for node in nodes]
        documents = [item for value in values for item in _items(value)]
    if documents is None:
        return [(name, data)]
    if not documents:
        raise NotFound(f"{name}: holds no evidence: must have a receipt, a checkpoint or a consistency proof")
    return [(f"{name} document {number}", json.dumps(document).encode()) for number, document in enumerate(documents, 1)]


def _is_list(value: Any) -> bool:
    """Whether it is a list of resources, as kubectl and `knhk get` write it, and says nothing itself."""
    listed = isinstance(value, dict) and isinstance(value.get("items"), list) and str(value.get("kind", "List")).endswith("List")
    return listed and value.keys() <= {"apiVersion", "kind", "metadata", "items"}


def _items(value: Any) -> list[Any]:
    return list(value["items"]) if _is_list(value) else [value]


def _named(word: str, where: Where) -> Mapping[str, Any]:
    """The Receipt NAMESPACE/NAME, or NAME in the namespace that was given, else in default."""
    namespace, slash, name = word.rpartition("/")
    key = Key("Receipt", namespace if slash else where.namespace or "default", name)
    if where.api is None:
        with open_store(where.home, must_exist=True) as store:
            stored = store.get(key)
            return {"spec": stored.spec, "status": stored.status}
    from knhk.adapters.kube_documents import collection
    from knhk.adapters.receipts_kube import policy_receipt

    api = where.api()
    path = f"{collection('Receipt', quote(key.namespace, safe=''))}/{quote(name, safe='')}"
    try:
        return api.call("GET", path)
    except NotFound as error:  # it left by number or age
        try:
            return policy_receipt(api, key.namespace, name)
        except (NotFound, Stalled):
            raise error from None


def _proven(receipt: Mapping[str, Any], log: Callable[[], Opened]) -> bytes:
    """A receipt with a proof, its own or a fresh one from the log, and what others outside said of it."""
    spec = dict(receipt["spec"])
    if "proof" not in spec:
        from_log = log()
        proof = from_log.served.inclusion(int(spec["logIndex"]), from_log.note)
        spec = {name: value for name, value in spec.items() if name != "checkpoint"} | {"proof": proof}
    return _bytes({**receipt, "spec": spec})


def _bytes(receipt: Mapping[str, Any]) -> bytes:
    """What is evidence of a receipt: its spec, and what others outside said of it."""
    outside = {name: value for name, value in receipt.get("status", {}).items() if name == "sigstore"}
    return json.dumps({"spec": receipt["spec"], "status": outside}, ensure_ascii=False).encode()


def kept(found: Sequence[tuple[str, bytes]], log_dir: Path | None) -> list[Step]:
    """Of each decision among the evidence: the records of its O and A that are kept beside a log folder, held against its leaf."""
    steps = list[Step]()
    for name, data in found:
        if log_dir is None or not data.startswith(b"{") or b'"leaf"' not in data:
            continue
        try:
            document = parse_json(data, name)
            leaf = unb64(member(document.get("spec", document), "leaf", str, name), f"{name} leaf")
            records = records_of(log_dir, Entry(0, leaf))
        except Bad as bad:
            steps.append(Step(f"{name}: O and A", "", False, str(bad)))
            continue
        steps += [Step(f"{name}: O and A are what the leaf commits to", "none", True, where) for where, _record in records]
    return steps


def prove(log: Opened, word: str, bundle: Bundle) -> None:
    """Adds the receipts of the entries that `word` names: a number, or a receipt id. Of that id they must be, whatever the log told.
    Raises NotFound, Bad."""
    for index in _indexes(log, word):
        bundle.prove(log.served, index, log.note, receipt=bytes.fromhex(word).hex() if _is_id(word) else None)


def _is_id(word: str) -> bool:
    """Whether it is a receipt id, and no index."""
    return not (word.isdecimal() and len(word) < 16)


def _indexes(log: Opened, word: str) -> list[int]:
    """Indexes of what `word` names; a receipt has a leaf for each arm."""
    if not _is_id(word):
        if int(word) >= log.served.size:
            raise NotFound(f"{log.served.name}: no entry {word} in this log, whose checkpoint has {log.served.size}; try again in a second")
        return [int(word)]
    try:
        receipt = bytes.fromhex(word)
    except ValueError:
        receipt = b""
    if len(receipt) != 16:
        raise Refused([Fault("receipt", word, "must be 32 hexadecimal digits, or the index of an entry")])
    if not log_reading.is_url(log.served.name):
        return _scanned(log.served, receipt)
    found = [log_reading.index_at(log.fetch, receipt + b"\0", log.served.name)]
    return found + [i for i in _candidate(log, receipt) if i not in found]


def _candidate(log: Opened, receipt: bytes) -> list[int]:
    try:
        return [log_reading.index_at(log.fetch, receipt + b"\1", log.served.name)]
    except NotFound:
        return []


def _scanned(log: Served, receipt: bytes) -> list[int]:
    found = [index for index, entry in enumerate(log.entries()) if entry[:1] != b"{" and entry[100:116] == receipt]
    if not found:
        raise NotFound(f"{log.name}: no receipt {receipt.hex()} in this log; a receipt enters it within a second")
    return found
