"""The spelling of what an administrator believes (`forges.yaml`): one declaration, every fault with its line (docs/gitops.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from knhk.api import document
from knhk.api.check import Checker
from knhk.api.kinds.common import NAME, NAME_MUST, choice
from knhk.api.kinds.policy_repository import LATER_FORGES
from knhk.api.rules import matches
from knhk.api.shape import Bool, List, Map, Obj, Rule, Str
from knhk.model.faults import Fault, Refused
from knhk.model.trust import SSH_KEY, Person, Trust, TrustedForge, TrustedRepository, twice

_PRINCIPAL = matches(r"^[^\s\"',*?!#]+$", "must be without blanks, quotes, commas and wildcards, such as ann@example.com")
_SEGMENTS = r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?$"
_REPOSITORY = matches(
    rf"^(https?://[A-Za-z0-9.:-]+|ssh://([A-Za-z0-9_-]+@)?[A-Za-z0-9.:-]+|file://){_SEGMENTS}",
    "must be a URL of scheme https, http, ssh or file with plain segments, such as https://git.example.com/erp/policies.git, or "
    "https://git.example.com/erp/ for all below",
)
_FORGE = matches(rf"^https?://[A-Za-z0-9.:-]+{_SEGMENTS}", "must be a URL of scheme https or http, such as https://git.example.com")
_WHOLE = Rule("true", "must have a path, or / at its end for the whole server", lambda url: "/" in url.partition("://")[2])

_INSECURE = Bool("Whether credentials may go there over plain http, for everybody on the way to read. Default: false.", default=False)
_USER = Str("A user, as the cluster knows them.", max=253, min=1, rules=(_PRINCIPAL,))


_NAME = Str("A name.", max=63, min=1, rules=(matches(NAME, NAME_MUST),))

SHEET = Obj(
    "What administrators believe.",
    {
        "repositories": List(
            "Repositories that PolicyRepositories may follow; no other is ever asked.",
            Obj(
                "One repository, or all below an address.",
                {
                    "url": Str("Address; with / at its end all below it.", max=1024, min=1, rules=(_REPOSITORY, _WHOLE)),
                    "namespaces": List("Namespaces whose PolicyRepositories may follow it.", _NAME, max=256, min=1),
                    "secrets": List(
                        "Secrets of these namespaces that may be sent there and to its forge, or read for its signers. Default: none.",
                        _NAME,
                        max=256,
                        default=(),
                    ),
                    "branches": List(
                        "Branches whose commits count as merged. Default: none.", Str("A branch.", max=255, min=1), max=64, default=()
                    ),
                    "signed": Bool("Whether only what somebody of `people` signed counts as merged. Default: true.", default=True),
                    "forge": Str("Address of the forge that tells of it. Default: none.", max=1024, min=1),
                    "insecure": _INSECURE,
                },
                required=("url", "namespaces"),
            ),
            max=1024,
            default=(),
        ),
        "forges": List(
            "Forges that are believed, of the repositories that name them, in what they tell of pull requests and approvers.",
            Obj(
                "One forge.",
                {
                    "kind": choice("Gitea.", "Gitea", "GitHub", "GitLab", max=8, default="Gitea", later=LATER_FORGES),
                    "url": Str("Address, as PolicyRepositories name it.", max=1024, min=1, rules=(_FORGE,)),
                    "logins": Map("User of the forge → user of the cluster.", _USER, max=4096, default={}),
                    "insecure": _INSECURE,
                },
                required=("url",),
            ),
            max=64,
            key="url",
            default=(),
        ),
        "people": List(
            "Who signs, and who is meant by the e-mail addresses of commits.",
            Obj(
                "One person, or the key by which a forge signs its merges.",
                {
                    "user": _USER,
                    "keys": List(
                        "Public keys.",
                        Str(
                            "A line of OpenSSH.",
                            max=16_384,
                            min=1,
                            rules=(
                                Rule(
                                    "true", "must be a line of OpenSSH, such as ssh-ed25519 AAAA…", lambda v: SSH_KEY.match(v) is not None
                                ),
                            ),
                        ),
                        max=32,
                        default=(),
                    ),
                    "emails": List("E-mail addresses.", Str("An address.", max=253, min=3, rules=(_PRINCIPAL,)), max=32, default=()),
                },
                required=("user",),
            ),
            max=4096,
            key="user",
            default=(),
        ),
    },
)


def read_trust(text: bytes, path: str) -> Trust:
    """What a file says. Raises Refused with every fault."""
    nodes, faults = document.read(text, path)
    if not faults and len(nodes) > 1:
        faults = [Fault(f"{path}:{nodes[1].line}", f"{len(nodes)} documents", "must hold one YAML document")]
    if faults:
        raise Refused(faults)
    if not nodes:
        return Trust()
    checker = Checker(path)
    value = checker.check(SHEET, nodes[0], "")
    if checker.faults:
        raise Refused(checker.faults)
    found = _trust(value, hashlib.sha256(text).hexdigest())
    if faults := _contradictions(found, path):
        raise Refused(faults)
    return found


def _trust(value: Mapping[str, Any], digest: str) -> Trust:
    repositories = tuple(
        TrustedRepository(
            row["url"],
            frozenset(row["namespaces"]),
            frozenset(row["secrets"]),
            frozenset(row["branches"]),
            row["signed"],
            row.get("forge", ""),
            row["insecure"],
        )
        for row in value["repositories"]
    )
    forges = tuple(TrustedForge(row["kind"], row["url"], dict(row["logins"]), row["insecure"]) for row in value["forges"])
    people = tuple(
        Person(row["user"], tuple(_key(key) for key in row["keys"]), tuple(email.lower() for email in row["emails"]))
        for row in value["people"]
    )
    return Trust(repositories, forges, people, digest)


def _key(line: str) -> str:
    found = SSH_KEY.match(line)
    assert found is not None, "the shape lets no other through"
    return found[0]


def _contradictions(trust: Trust, path: str) -> list[Fault]:
    """What two rows say together and must not."""
    faults = []
    for what in ("keys", "emails"):
        if name := twice(name for person in trust.people for name in getattr(person, what)):
            faults.append(Fault(f"{path} people", name[:160], f"must be among the {what} of one person only"))
    if name := twice(person.principal for person in trust.people):
        faults.append(Fault(f"{path} people", name, "must be the first e-mail address, or the user, of one person only"))
    known = {forge.url for forge in trust.forges}
    for one in trust.repositories:
        if one.forge and one.forge not in known:
            faults.append(Fault(f"{path} repositories", f"{one.url}: forge {one.forge}", "must be the url of one of `forges`"))
    return faults
