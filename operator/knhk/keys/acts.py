"""What who may erase does with a key store: a row for each method of KeyStore, its body and its answer (formats/keys.md)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from knhk.model.subjects import TAG_BYTES as TAG
from knhk_runtime.envelope import KEY_ID
from knhk_runtime.subject_keys import Held, KeyStore, Work
from knhk_verify.errors import Bad

MAX_TEXT, MAX_WINDOW = 4096, 1 << 32
Told = Mapping[str, Any]


@dataclass(frozen=True)
class Act:
    """`members`: all that a body has."""

    members: frozenset[str]
    run: Callable[[KeyStore, Told], Any]
    changes: bool = False

    def __call__(self, store: KeyStore, told: Told) -> Any:
        """Raises Bad, and as KeyStore."""
        if set(told) != self.members:
            raise Bad("body", f"must have {', '.join(sorted(self.members)) or 'no members'}")
        return self.run(store, told)


def hold_document(hold: Held) -> dict[str, Any]:
    return {**asdict(hold), "tag": hold.tag.hex()}


def parse_hold(found: object) -> Held:
    """Raises Bad."""
    if not isinstance(found, dict) or set(found) != {"id", "tag", "reference", "standing"} or not isinstance(found["standing"], bool):
        raise Bad("hold", "must have id, tag, reference and standing")
    return Held(_text(found["id"]), _bytes(found["tag"], TAG), _text(found["reference"]), found["standing"])


def parse_work(found: object) -> Work:
    """Raises Bad."""
    if (
        not isinstance(found, dict)
        or set(found) != {"id", "state", "plan", "bundles"}
        or not all(isinstance(v, str) for v in found.values())
    ):
        raise Bad("work", "must have id, state, plan and bundles, all texts")
    return Work(**found)


def _ids_of(store: KeyStore, told: Told) -> Any:
    return {"ids": [key_id.hex() for key_id in store.ids_of(_bytes(told["tag"], TAG))]}


def _ids_before(store: KeyStore, told: Told) -> Any:
    window = told["window"]
    if isinstance(window, bool) or not isinstance(window, int) or not 0 <= window < MAX_WINDOW:
        raise Bad("window", "must be the number of a window")
    after = _bytes(told["after"], KEY_ID) if told["after"] else b""
    return {"ids": [key_id.hex() for key_id in store.ids_before(_text(told["point"]), window, after)]}


def _destroy(store: KeyStore, told: Told) -> Any:
    if not isinstance(told["ids"], list):
        raise Bad("ids", "must be a list of key ids")
    store.destroy(_text(told["erasure"]), [_bytes(each, KEY_ID) for each in told["ids"]])
    return {}


def _holds(store: KeyStore, _: Told) -> Any:
    return {"holds": [hold_document(hold) for hold in store.holds()]}


def _put_hold(store: KeyStore, told: Told) -> Any:
    store.put_hold(parse_hold(told["hold"]), None if told["bundle"] is None else _base64(told["bundle"]))
    return {}


def _untold(store: KeyStore, _: Told) -> Any:
    return {"holds": [{"hold": hold_document(hold), "bundle": base64.b64encode(bundle).decode()} for hold, bundle in store.untold()]}


def _works(store: KeyStore, _: Told) -> Any:
    return {"works": [asdict(work) for work in store.works()]}


def _put_work(store: KeyStore, told: Told) -> Any:
    store.put_work(parse_work(told["work"]))
    return {}


ACTS: Mapping[str, Act] = {
    "ids-of": Act(frozenset(("tag",)), _ids_of),
    "ids-before": Act(frozenset(("point", "window", "after")), _ids_before),
    "destroy": Act(frozenset(("erasure", "ids")), _destroy, changes=True),
    "holds": Act(frozenset(), _holds),
    "put-hold": Act(frozenset(("hold", "bundle")), _put_hold, changes=True),
    "untold": Act(frozenset(), _untold),
    "works": Act(frozenset(), _works),
    "put-work": Act(frozenset(("work",)), _put_work, changes=True),
}


def _text(found: object) -> str:
    if not isinstance(found, str) or len(found) > MAX_TEXT:
        raise Bad("body", f"must have texts of at most {MAX_TEXT} characters")
    return found


def _bytes(found: object, size: int) -> bytes:
    try:
        made = bytes.fromhex(_text(found))
    except ValueError as error:
        raise Bad("body", "must have bytes as hexadecimal digits") from error
    if len(made) != size:
        raise Bad("body", f"must have {size} bytes there")
    return made


def _base64(found: object) -> bytes:
    try:
        if isinstance(found, str):
            return base64.b64decode(found, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise Bad("bundle", "must be base64, or null")
