"""By which keys a witness knows a log: those that its policy names and, of a log whose root it was given, those of its newest keys.json."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from knhk.model.faults import Corrupt, Stalled
from knhk_runtime.sequencer.files import Files, put
from knhk_runtime.tlog.log_keys import keys_of, newest_of
from knhk_runtime.tlog.served import Fetch
from knhk_runtime.witness.core import name_of
from knhk_runtime.witness.follow import KEYS_JSON
from knhk_verify.errors import Bad
from knhk_verify.note import Verifier, unb64
from knhk_verify.signed import Keys, verify_keys

FOLDER = "keys"
ROOT = 32  # bytes
MOST = 1 << 14  # keys of a log that are kept, the newest: 45 years of daily turns


def parse_roots(data: bytes, path: str) -> dict[str, bytes]:
    """Origin and root key, base64, a line each; `#` begins a comment. Raises Stalled."""
    found = dict[str, bytes]()
    try:
        for number, line in enumerate(data.decode("utf-8").splitlines(), 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            if len(words) != 2 or words[0] in found:
                raise Stalled("Roots", f"{path} line {number}: must be the name of a log, and its root key, once")
            found[words[0]] = unb64(words[1], f"line {number}")
            if len(found[words[0]]) != ROOT:
                raise Stalled("Roots", f"{path} line {number}: must be a root key of {ROOT} bytes, as in root.pub")
    except (UnicodeError, Bad) as error:
        raise Stalled("Roots", f"{path}: {error}") from error
    return found


class LogKeys(Mapping[str, Sequence[Verifier]]):
    """Origin → keys, the newest first. Of each log with a root the newest keys.json is kept in `folder`; for each log one thread learns."""

    def __init__(
        self,
        folder: Path,
        policy: Mapping[str, Sequence[Verifier]],
        roots: Mapping[str, bytes],
        files: Files,
        now: Callable[[], datetime],
        before: LogKeys | None = None,
    ) -> None:
        """`before`: those of the same folder in whose place these come, while their threads may learn yet. Raises Stalled for the root of a
        log that is not in the policy, or that was another before; Corrupt for a keys.json that was altered."""
        if strangers := sorted(roots.keys() - policy.keys()):
            raise Stalled("Roots", f"{strangers[0]}: is no log of the policy: must be one of {', '.join(sorted(policy))}")
        self._folder, self._policy, self._roots, self._files, self._now = folder / FOLDER, policy, roots, files, now
        known = before._roots if before is not None else {}
        if turned := sorted(origin for origin in roots if known.get(origin, roots[origin]) != roots[origin]):
            raise Stalled("Roots", f"{turned[0]}: had another root when this witness started: start it anew")
        # Reads at a time: a log's owner has its root, and 16 MiB of his are 150 MiB of keys.
        self._one: threading.Lock = before._one if before is not None else threading.Lock()
        files.mkdir(self._folder)
        there = files.names(self._folder)
        self._named: dict[str, Keys] = before._named if before is not None else {}
        try:
            self._named |= {
                origin: newest_of(verify_keys(files.read(folder / FOLDER / file), roots[origin], where=file), origin, MOST)
                for origin, file in ((origin, name_of(origin)) for origin in roots)
                if file in there and known.get(origin) != roots[origin]
            }
        except Bad as error:
            raise Corrupt(str(self._folder), str(error)) from error

    def __getitem__(self, origin: str) -> list[Verifier]:
        """That count now."""
        now, over = self._split(origin)
        return [*now, *(key for key in self._policy[origin] if key not in (*now, *over))]

    def __iter__(self) -> Iterator[str]:
        return iter(self._policy)

    def __len__(self) -> int:
        return len(self._policy)

    def over(self, origin: str) -> list[Verifier]:
        """By which only what was taken before counts."""
        return self._split(origin)[1]

    def ever(self) -> Mapping[str, Sequence[Verifier]]:
        """Those that count, and those that are over: what was cosigned last may be signed by one of these."""
        return {origin: [*self[origin], *self.over(origin)] for origin in self}

    def learn(self, origin: str, fetch: Fetch) -> None:
        """Takes the log's keys.json if it is newer. Raises Bad for one that the root has not signed, is over or older; OSError."""
        root = self._roots.get(origin)
        if root is None:
            return
        with self._one:
            if (data := fetch(KEYS_JSON)) is None:
                return
            known = self._named.get(origin)
            found = newest_of(verify_keys(data, root, self._now(), known.serial if known else 0), origin, MOST)
            if known is None or found.serial > known.serial:
                put(self._files, self._folder / name_of(origin), data)
                self._files.sync_dir(self._folder)
                self._named[origin] = found

    def unread(self, followed: Collection[str]) -> dict[str, str]:
        """Of logs with a root: whose keys.json nobody reads, as they are not followed."""
        why = "its root is given, and it is not followed: its line in the policy must have a URL, and --follow-s be given"
        return dict.fromkeys(sorted(self._roots.keys() - set(followed)), why)

    def _split(self, origin: str) -> tuple[list[Verifier], list[Verifier]]:
        named = self._named.get(origin) if origin in self._roots else None
        if named is None:
            return [], []
        now, over = keys_of(named, origin, self._now())
        if named.away:  # what the policy names may lie in a chapter that is not here, and be over
            over += [key for key in self._policy[origin] if key not in (*now, *over)]
        return now, over
