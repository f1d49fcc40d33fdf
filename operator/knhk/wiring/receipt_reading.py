"""Receipts for commands: which index serves which log, and what the words of a command line select."""

from __future__ import annotations

import hashlib
import re
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from knhk.adapters.receipt_index import POLICY, ReceiptIndex, decisions, policy_events
from knhk.lockchain.entries import Row
from knhk.model.faults import Fault, NotFound, Refused, Waiting
from knhk.model.selection import EVENT_FIELDS, EVENT_LABELS, FIELDS, LABELS, Selection, equal, field_selector, label_selector
from knhk.wiring.home import Home, cache
from knhk.wiring.log_opening import Opened, opened

if TYPE_CHECKING:
    from knhk.adapters.kube_client import KubeClient


ARMS = 16  # decisions of one receipt that are shown; there are two


def selection(args: Namespace) -> Selection:
    """Of the arguments SELECTORS. Raises Refused."""
    words = (("namespace", args.namespace), ("pack", args.pack), ("kind", args.kind), ("verdict", args.verdict))
    chosen = tuple(equal(trait, value) for trait, value in words if value is not None)
    fields = {**FIELDS, **EVENT_FIELDS} if args.kind == POLICY else FIELDS
    labels = {**LABELS, **EVENT_LABELS} if args.kind == POLICY else LABELS
    return chosen + field_selector(args.field_selector, "--field-selector", fields) + label_selector(args.selector, "--selector", labels)


def followed(home: Home, place: str, ca_file: Path | None = None, certificate: Path | None = None) -> ReceiptIndex:
    """The index of the log in a folder or at a URL, with all that this log has now. Raises as `opened`."""
    return index_of_log(home, opened(place, ca_file, certificate), place)


def index_of_log(home: Home, log: Opened, place: str) -> ReceiptIndex:
    """The same of a log that is open."""
    index = ReceiptIndex(_file(home, place))
    index.follow(log.note.partition("\n")[0], log.served)
    return index


def chosen(args: Namespace, home: Home, log: Opened, place: str) -> list[int]:
    """Indexes of the newest `args.limit` entries that selectors choose, oldest first; none without a selector. Raises as `listed`."""
    if not (wanted := selection(args)):
        return []
    index, numbers = index_of_log(home, log, place), list[int]()
    before: int | None = log.served.size
    while before is not None and len(numbers) < args.limit:
        page = index.page(wanted, args.limit - len(numbers), before)
        numbers += [row.number for row in page.rows]
        before = page.more
    return numbers[::-1]


def looked_up(args: Namespace, home: Home, word: str) -> tuple[Row, ...]:
    """The entry at an index, or the decisions of a receipt id, in the order of the log: of a cluster, or of a log. Raises NotFound,
    Refused, and as either."""
    if not re.fullmatch("[0-9a-f]{32}|[0-9]{1,15}", word):
        raise Refused([Fault("receipt", word, "must be 32 hexadecimal digits, or the index of an entry")])
    if args.kubeconfig is not None:
        from knhk.adapters import receipts_kube

        return tuple(receipts_kube.looked_up(client(args.kubeconfig), args.namespace, word))
    place = args.log or str(home.log)
    own = () if args.namespace is None else (equal("namespace", args.namespace),)
    asked = (equal("number" if len(word) < 16 else "receipt", word), *own)
    found = followed(home, place, args.ca_file, args.certificate).page(asked, ARMS).rows
    if not found:
        raise NotFound(f"{place}: no receipt {word} in this log; a receipt enters it within a second")
    return tuple(reversed(found))


def _file(home: Home, place: str) -> Path:
    if Path(place).absolute() == home.log:
        return home.receipts
    name = place if "://" in place else str(Path(place).absolute())
    return cache() / "receipts" / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.db"


@dataclass(frozen=True)
class Listed:
    """Rows, how many fit in all (None: not told), the size of the log, the token of the next page, and why it was not read although
    there are fewer rows than were asked for."""

    rows: tuple[Row, ...]
    total: int | None
    size: int
    more: str | None
    unread: Waiting | None = None


def listed(args: Namespace, home: Home, limit: int) -> Listed:
    """What the arguments select, of a cluster or of a log: `limit` rows, if there are as many, however many pages that takes, and fewer
    where a page after the first cannot be had yet. Raises Refused, and as either."""
    read = _reader(args, home)
    found = first = read(limit, getattr(args, "continue"))
    rows = list(first.rows)
    while found.more is not None and len(rows) < limit:
        try:
            found = read(limit - len(rows), found.more)
        except Waiting as error:
            return Listed(tuple(rows), first.total, first.size, found.more, error)
        rows += found.rows
    return Listed(tuple(rows), first.total, first.size, found.more)


def _reader(args: Namespace, home: Home) -> Callable[[int, str | None], Listed]:
    """Page of at most so many rows, of the token of the page before."""
    chosen = selection(args)
    if args.kubeconfig is not None:
        from knhk.adapters import receipts_kube  # takes a second to import

        fields, labels = _selectors(args)
        asked_of = client(args.kubeconfig)

        def of_cluster(limit: int, token: str | None) -> Listed:
            query = {"fieldSelector": fields, "labelSelector": labels, "limit": str(limit), "continue": token or ""}
            query = {name: text for name, text in query.items() if text}
            rows, more, size = receipts_kube.page(asked_of, args.namespace, query, policy=args.kind == POLICY)
            return Listed(tuple(rows), None, size, more or None)

        return of_cluster
    token = getattr(args, "continue")
    if token is not None and not (token.isascii() and token.isdecimal() and len(token) < 19):
        raise Refused([Fault("--continue", token[:64], "must be `continue` of an earlier page")])
    index = followed(home, args.log or str(home.log), args.ca_file, args.certificate)

    def of_index(limit: int, token: str | None) -> Listed:
        page = index.page(chosen, limit, int(token) if token else None)
        return Listed(page.rows, page.total, page.size, None if page.more is None else str(page.more))

    return of_index


def selected(args: Namespace, home: Home) -> Iterator[Row]:
    """All decisions that the arguments select, or with --kind POLICY all policy events. Raises as `listed`."""
    yield from _selected(args, home, policy=args.kind == POLICY)


def _selected(args: Namespace, home: Home, *, policy: bool) -> Iterator[Row]:
    if args.kubeconfig is not None:
        from knhk.adapters import receipts_kube

        read = receipts_kube.events if policy else receipts_kube.decisions
        yield from read(client(args.kubeconfig), args.namespace, *_selectors(args))
        return
    what = policy_events() if policy else decisions()
    yield from followed(home, args.log or str(home.log), args.ca_file, args.certificate).rows((what, *selection(args)))


def asked(args: Namespace, home: Home) -> tuple[Iterator[Row], Iterator[Row]]:
    """Decisions that the arguments select, and policy events of `args.namespace`, or all; each is read when it is asked for. Raises as
    `listed`."""
    return _selected(args, home, policy=False), _events(args, home)


def _events(args: Namespace, home: Home) -> Iterator[Row]:
    if args.kubeconfig is not None:
        from knhk.adapters import receipts_kube

        yield from receipts_kube.events(client(args.kubeconfig), args.namespace)
        return
    own = () if args.namespace is None else (equal("namespace", args.namespace),)
    index = followed(home, args.log or str(home.log), args.ca_file, args.certificate)
    yield from index.rows((policy_events(), *own))


def client(kubeconfig: Path) -> KubeClient:
    """Raises Stalled."""
    from knhk.adapters.kube_client import KubeClient, api_client  # takes a second to import

    return KubeClient(api_client(kubeconfig))


def _selectors(args: Namespace) -> tuple[str, str]:
    """As an API server takes them. Raises Refused for what it would refuse, in words of the command line."""
    selection(args)
    kind = None if args.kind == POLICY else args.kind  # that is another resource
    words = [f"{name}={value}" for name, value in (("pack", args.pack), ("kind", kind), ("verdict", args.verdict)) if value is not None]
    return ",".join([*words, *([args.field_selector] if args.field_selector else [])]), args.selector
