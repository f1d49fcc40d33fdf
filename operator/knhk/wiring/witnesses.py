"""What others outside said of receipts, for commands: found beside them or in their log, and judged by what is pinned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knhk.adapters.receipt_index import ReceiptIndex
from knhk.adapters.signer_roles import outside_in
from knhk.lockchain import NOTARISED, bundle_of
from knhk.model.faults import Stalled
from knhk.reconcilers.context import statement_of
from knhk.reconcilers.evidence import Bundle
from knhk.wiring.evidence import Trust
from knhk.wiring.home import Home
from knhk.wiring.log_opening import Opened
from knhk.wiring.signing import SIGSTORE_FILE
from knhk_verify.errors import Bad
from knhk_verify.evidence import Step
from knhk_verify.signed import parse_json

if TYPE_CHECKING:
    from knhk.adapters.sigstore_judge import Pinned, Whom

ROOT_FILE = "trusted_root.json"


@dataclass(frozen=True)
class Receipt:
    """A policy event among evidence: its name there, the log entry, what that says, and the bundle in the resource's status."""

    name: str
    entry: bytes
    statement: dict[str, Any]
    beside: bytes | None

    @property
    def tells(self) -> bool:
        """Whether it is what others say of another."""
        return bool(self.statement["predicate"]["kind"] == NOTARISED)


def are_named(trust: Trust) -> bool:
    """Whether keys.json names a sigstore: then the log may have what it said."""
    try:
        return outside_in(trust.keys_json, trust.root_public).trusted_root is not None
    except Bad:  # told where keys.json is judged
        return False


def in_log(index: ReceiptIndex, log: Opened, bundle: Bundle) -> None:
    """Adds receipts of the events in which the log has what others said of policy events that are in `bundle`."""
    for number, entry in list(bundle.entries.items()):
        for row in index.witnesses(number) if entry[:1] == b"{" else ():
            if _is_about(entry, row.data) and f"{row.number}.json" not in bundle.receipts:
                bundle.prove(log.served, row.number, log.note)


def _is_about(entry: bytes, statement: bytes) -> bool:
    try:
        bundle_of(entry, parse_json(statement, "statement"))
    except Bad:
        return False
    return True


def steps(found: Sequence[tuple[str, bytes]], trust: Trust, given: Path | None, whom: Whom) -> list[Step]:
    """Of each policy event among the evidence what others outside said, judged. `given`: trusted_root.json, else it lies beside keys.json;
    where none is at hand, or nobody is named, nothing is judged, and a step, neither ok nor bad, says so."""
    receipts = list(_receipts(found))
    judged, bare = list[Step](), [receipt for receipt in receipts if not receipt.tells]
    told: dict[str, list[Receipt]] = {}
    for teller in receipts:
        if teller.tells:
            told.setdefault(_about(teller), []).append(teller)
    for receipt in bare:
        bundles = dict[bytes, str]()
        if receipt.beside is not None:
            bundles[receipt.beside] = f"{receipt.name} status.sigstore"
        for teller in told.get(sha256(receipt.entry).hexdigest(), ()):
            try:
                bundles[bundle_of(receipt.entry, teller.statement)] = teller.name
            except Bad as bad:
                judged.append(Step(teller.name, "", False, str(bad)))
        for bundle, name in bundles.items():
            judged += _judged(receipt, bundle, name, trust, given, whom)
        if not bundles and are_named(trust):
            judged.append(_not_judged(receipt.name, "nothing that they say is at hand"))
    here = {sha256(receipt.entry).hexdigest() for receipt in bare}
    alone = [teller for digest, tellers in told.items() if digest not in here for teller in tellers]
    return judged + [_not_judged(teller.name, "the receipt is not here") for teller in alone]


def _not_judged(name: str, why: str) -> Step:
    return Step(f"{name}: others bear witness", "none", None, f"not judged: {why}")


def _judged(receipt: Receipt, bundle: bytes, name: str, trust: Trust, given: Path | None, whom: Whom) -> list[Step]:
    from knhk.adapters import sigstore_judge

    try:
        by = _pinned(trust, given, whom)
    except Stalled as stalled:
        return [_not_judged(name, str(stalled))]
    except Bad as bad:
        return [Step(name, "", False, str(bad))]
    try:
        same = _payload(bundle, name) == _payload(receipt.entry, receipt.name)
        certified = sigstore_judge.is_certified(bundle, name)
    except Bad as bad:
        return [Step(name, "", False, str(bad))]
    if not same:
        return [Step(name, "", False, f"is around another statement than {receipt.name}")]
    if certified and not all(by.whom):
        return [_not_judged(name, "give --certificate-identity and --certificate-oidc-issuer")]
    return [Step(f"{name}: it is around the same statement", "none", True, receipt.name), *sigstore_judge.judge(bundle, by, name)]


def _payload(bundle: bytes, where: str) -> tuple[object, object]:
    document = parse_json(bundle, where)
    envelope = document.get("dsseEnvelope") if isinstance(document, dict) else None
    if not isinstance(envelope, dict):
        raise Bad(f"{where} dsseEnvelope", "must be there")
    return envelope.get("payload"), envelope.get("payloadType")


def _pinned(trust: Trust, given: Path | None, whom: Whom) -> Pinned:
    """Raises Stalled where nothing is at hand, and Bad."""
    from knhk.adapters import sigstore_judge

    outside = outside_in(trust.keys_json, trust.root_public)
    if outside.trusted_root is None:
        raise Stalled("Sigstore", "keys.json names no trusted root")
    file = trusted_root(trust, given)
    if file is None:
        raise Stalled("Sigstore", f"no {ROOT_FILE} lies beside keys.json: give --trusted-root")
    try:
        return sigstore_judge.pinned(file, outside.trusted_root, outside.keys.get("rollout", ()), whom)
    except OSError as error:
        raise Bad(str(file), error.strerror or "cannot be read") from error


def pinned_root(trust: Trust) -> bytes | None:
    """The file as an audit bundle has it: that which keys.json names, if it is at hand."""
    file, named = trusted_root(trust), outside_in(trust.keys_json, trust.root_public).trusted_root
    data = file.read_bytes() if file is not None else b""
    return data if named is not None and sha256(data).hexdigest() == named else None


def trusted_root(trust: Trust, given: Path | None = None) -> Path | None:
    """The file, if one is at hand."""
    beside = (folder / ROOT_FILE for folder in trust.folders)
    return given or next((path for path in beside if path.exists()), None)


def whom(home: Home, identity: str | None, issuer: str | None) -> Whom:
    """As the reader says, else as the home's own sigstore.json does for role rollout."""
    file = home.keys / SIGSTORE_FILE
    if identity or issuer or not file.exists():
        return identity or "", issuer or ""
    from knhk.adapters.notary_sigstore import read_settings  # takes a while to import

    keyless = read_settings(file).keyless
    return ("", "") if keyless is None else (keyless.identity.get("rollout", ""), keyless.issuer)


def _receipts(found: Sequence[tuple[str, bytes]]) -> Iterator[Receipt]:
    for name, data in found:
        if not data.startswith(b"{") or b'"bundle"' not in data:
            continue
        try:
            document = parse_json(data, name)
            spec = document.get("spec", document)
            entry = spec["bundle"].encode()
            statement = statement_of(spec["bundle"])
            statement["predicate"]["kind"], statement["subject"][0]["digest"]["sha256"]
            beside = document.get("status", {}).get("sigstore")
        except (Bad, KeyError, TypeError, ValueError, AttributeError, IndexError):
            continue  # told where the evidence is judged
        yield Receipt(name, entry, statement, beside.encode() if isinstance(beside, str) else None)


def _about(receipt: Receipt) -> str:
    return str(receipt.statement["subject"][0]["digest"]["sha256"])
