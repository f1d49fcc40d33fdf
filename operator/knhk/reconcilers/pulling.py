"""A look at a remote repository: the newest commit, who signed it, and what it carries. Runs beside the controller's loop."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from knhk.adapters.commit_files import MAX_FILE_BYTES
from knhk.api import parse, with_origin
from knhk.decide.applying import ORDER
from knhk.model.commits import Commit, Entry, Signature, Signed, Source, globbed, is_plain_path, stem
from knhk.model.faults import Fault, Refused, Stalled
from knhk.model.resource import Key, Resource
from knhk.ports.forge import CheckState, Forge
from knhk.ports.repository import Mirrors, Remote, Repository
from knhk.ports.secrets import Secrets
from knhk.reconcilers.admission import admit
from knhk.reconcilers.provenance import may_write
from knhk.reconcilers.reviewing import speaks_of_ours

MAX_RESOURCES = 512
MAX_COMMITS_KNOWN = 4096
_PRINCIPAL = re.compile(r"[^\s\"',*?!#]+")
_KEY = re.compile(r"(ssh-(ed25519|rsa)|ecdsa-sha2-nistp(256|384|521)|sk-ssh-ed25519@openssh\.com) [A-Za-z0-9+/=]+")


@dataclass(frozen=True)
class Verdict:
    """What a check of a pull request found: one line, and the whole as Markdown."""

    state: CheckState
    line: str
    text: str


class Checks(Protocol):
    """Checks what a range of commits changes, in a process of its own, bounded in time and memory: commits of strangers are compiled."""

    def check(self, remote: Remote, base: str, head: str, paths: Sequence[str]) -> Verdict: ...


@dataclass(frozen=True)
class Git:
    """What works on PolicyRepositories needs. `forge` makes one from kind, address, OWNER/NAME and its secret. `executor`: for what may
    take a minute."""

    mirrors: Mirrors
    secrets: Secrets
    forge: Callable[[str, str, str, Mapping[str, bytes]], Forge]
    checks: Checks
    executor: Executor


@dataclass(frozen=True)
class Carried:
    """A resource of the commit, and where it comes from."""

    resource: Resource
    source: Source


@dataclass(frozen=True)
class Pulled:
    """`faults` refuse the whole commit; `unsigned` names the commits whose signature the policy does not accept, with why."""

    head: Commit
    signature: Signature
    carried: Mapping[Key, Carried] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    unsigned: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Policy:
    """The signature policy of one repository, with its secret read."""

    required: bool
    allowed: str
    users: Mapping[str, str]


@dataclass
class Puller:
    """Pulls one PolicyRepository after another; remembers what commits say, which never changes."""

    git: Git
    _signatures: dict[tuple[str, str], Signature] = field(default_factory=dict)
    _sources: dict[tuple[str, str, str], Source] = field(default_factory=dict)

    def pull(self, repository: Resource) -> Pulled:
        """What the branch carries now. Raises Waiting, Stalled."""
        remote, policy = remote_of(self.git, repository), self._policy(repository)
        forge = forge_of(self.git, repository)
        mirror = self.git.mirrors.fetch(remote, repository.spec["branch"])
        head = mirror.commit(mirror.resolve(f"refs/heads/{repository.spec['branch']}"))
        signature = self._signature(mirror, head.id, policy)
        if policy.required and signature.status is not Signed.GOOD:
            return Pulled(head, signature, unsigned={head.id: signature.why})
        try:
            resources = _resources(mirror, head.id, repository)
        except Refused as refused:
            return Pulled(head, signature, faults=refused.faults)
        return self._behind(repository, mirror, policy, forge, Pulled(head, signature), resources)

    def _behind(
        self, repository: Resource, mirror: Repository, policy: Policy, forge: Forge | None, pulled: Pulled, resources: Sequence[Resource]
    ) -> Pulled:
        """Each resource with the commit that brought it. One whose own commit is not signed as it must be refuses the whole."""
        carried: dict[Key, Carried] = {}
        unsigned: dict[str, str] = {}
        for resource in resources:
            commit = mirror.last_change(pulled.head.id, resource.path)
            signature = self._signature(mirror, commit, policy)
            if policy.required and signature.status is not Signed.GOOD:
                unsigned[commit] = f"{signature.why}, and it changed {resource.path}"
            source = self._source(f"{repository.namespace}/{repository.name}", mirror, commit, signature, policy, forge)
            carried[resource.key] = Carried(with_origin(resource), source)
        return replace(pulled, carried=carried, unsigned=unsigned)

    def _signature(self, mirror: Repository, commit: str, policy: Policy) -> Signature:
        key = (commit, policy.allowed)
        if key not in self._signatures:
            _make_room(self._signatures)
            self._signatures[key] = mirror.signature(commit, policy.allowed)
        return self._signatures[key]

    def _source(self, owner: str, mirror: Repository, commit: str, signature: Signature, policy: Policy, forge: Forge | None) -> Source:
        key = (owner, commit, policy.allowed)
        if key not in self._sources:
            _make_room(self._sources)
            signer = signature.signer if signature.status is Signed.GOOD else ""
            pull = None if forge is None else forge.merged(commit)
            made = Source(owner, commit, mirror.commit(commit).author, signer, policy.users.get(signer, ""))
            if pull is not None:
                made = replace(made, pull_request=pull.url, pull_author=pull.author, approvers=pull.approvers[:64])
            if forge is not None and pull is None:
                return made  # it may be told at the next look
            self._sources[key] = made
        return self._sources[key]

    def _policy(self, repository: Resource) -> Policy:
        spec = repository.spec["signature"]
        lines = [_signer(row) for row in spec["signers"]]
        if "secretRef" in spec:
            lines.append(_text(self.git, repository.namespace, spec["secretRef"]["name"], "allowed_signers"))
        users = {row["name"]: row["user"] for row in spec["signers"] if "user" in row}
        return Policy(spec["require"] == "Signed", "\n".join(lines) + "\n", users)


def remote_of(git: Git, repository: Resource) -> Remote:
    """The remote of a PolicyRepository, with its credentials. Raises Stalled."""
    spec = repository.spec
    secret = {} if "credentials" not in spec else git.secrets.read(repository.namespace, spec["credentials"]["secretRef"]["name"])
    return Remote(spec["url"], secret)


def forge_of(git: Git, repository: Resource) -> Forge | None:
    """The forge of a PolicyRepository, None without one. Raises Stalled."""
    spec = repository.spec["forge"]
    if spec["kind"] == "None":
        return None
    path = re.fullmatch(r"[a-z]+://[^/]*/(?:.*/)?([^/]+/[^/]+?)(?:\.git)?/?", repository.spec["url"])
    if path is None:
        raise Stalled("NoForge", f"{repository.spec['url']}: must end with OWNER/NAME to have a forge")
    return git.forge(spec["kind"], spec.get("url", ""), path[1], git.secrets.read(repository.namespace, spec["secretRef"]["name"]))


def chosen(repository: Resource) -> tuple[str, ...]:
    """Folders and files below which everything lies that the globs of a PolicyRepository name; none: the whole."""
    stems = sorted({stem(pattern) for pattern in repository.spec["paths"]})
    return () if "" in stems else tuple(stems)


def _text(git: Git, namespace: str, name: str, key: str) -> str:
    found = git.secrets.read(namespace, name)
    if key not in found:
        raise Stalled("NoSecret", f"{namespace}/{name}: must have the key {key}")
    return found[key].decode(errors="replace")


def _signer(row: Mapping[str, Any]) -> str:
    """A line of ssh-keygen's allowed signers: these characters only, so that no name or key says more than itself."""
    key = _KEY.match(row["key"].strip())
    if key is None:
        raise Stalled(
            "SignaturePolicy", f"signer {row['name']}: key must be a line of OpenSSH, such as ssh-ed25519 AAAA…; OpenPGP is not available"
        )
    if not _PRINCIPAL.fullmatch(row["name"]):
        raise Stalled("SignaturePolicy", f"signer {row['name']!r}: name must be an e-mail address, without blanks, quotes or wildcards")
    return f'{row["name"]} namespaces="git" {key[0]}'


def _resources(mirror: Repository, commit: str, repository: Resource) -> list[Resource]:
    """Everything of ours in the files that the globs name. Raises Refused with every fault."""
    faults: list[Fault] = []
    found: dict[Key, Resource] = {}
    globs = [globbed(pattern) for pattern in repository.spec["paths"]]
    entries = [entry for entry in mirror.entries(commit, chosen(repository)) if any(glob.fullmatch(entry.path) for glob in globs)]
    fit = [entry for entry in entries if not _unfit(entry, faults)]
    for entry, data in mirror.read(fit) if fit else ():
        if not speaks_of_ours(data):
            continue
        try:
            parsed = parse(data, entry.path)
        except Refused as refused:
            faults += refused.faults
            continue
        for resource in parsed:
            faults += [*_misplaced(resource, repository), *admit(resource)]
            if found.setdefault(resource.key, resource) is not resource:
                must = f"must be given once in the repository (first in {found[resource.key].path})"
                faults.append(Fault(entry.path, str(resource.key), must))
    if len(found) > MAX_RESOURCES:
        faults.append(Fault("spec.paths", f"{len(found)} resources", f"must name at most {MAX_RESOURCES}: split the repository"))
    if faults:
        raise Refused(faults)
    return list(found.values())


def _unfit(entry: Entry, faults: list[Fault]) -> bool:
    if entry.kind == "file" and is_plain_path(entry.path) and entry.size <= MAX_FILE_BYTES:
        return False
    shown = "".join(c if c.isprintable() else "?" for c in entry.path)[:160]
    faults.append(Fault(shown, f"a {entry.kind} of {entry.size} bytes", f"must be a plain file of at most {MAX_FILE_BYTES} bytes"))
    return True


def _misplaced(resource: Resource, repository: Resource) -> Iterator[Fault]:
    if resource.kind not in ORDER:
        yield Fault(resource.path, str(resource.key), f"must not come from a repository: it carries {', '.join(ORDER)}")
    if not may_write(repository, resource.namespace):
        must = f"must be of namespace {repository.namespace}, as the PolicyRepository is"
        yield Fault(f"{resource.path}:{resource.lines.get('metadata.namespace', 1)}", f"namespace {resource.namespace}", must)


def _make_room(known: dict[Any, Any]) -> None:
    if len(known) >= MAX_COMMITS_KNOWN:
        known.clear()
