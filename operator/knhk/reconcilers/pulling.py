"""A look at a remote repository: the newest commit, who signed it, and what it carries. Runs beside the controller's loop."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any

from knhk.api import parse, with_origin
from knhk.decide.applying import ORDER
from knhk.model.commits import MAX_FILE_BYTES, Commit, Entry, Signature, Signed, Source, globbed, is_plain_path, stem
from knhk.model.faults import Fault, Refused, Stalled
from knhk.model.resource import Key, Resource
from knhk.model.trust import HOW, SSH_KEY, Trust, TrustedForge, TrustedRepository
from knhk.ports.checks import Checks
from knhk.ports.forge import Forge
from knhk.ports.repository import Mirrors, Remote, Repository
from knhk.ports.secrets import Secrets
from knhk.ports.trust import Trusts
from knhk.reconcilers.admission import admit
from knhk.reconcilers.provenance import may_write
from knhk.reconcilers.reviewing import speaks_of_ours

MAX_RESOURCES = 512
MAX_COMMITS_KNOWN = 4096
MAX_WRITERS = 32
MAX_TEXT = 253
_PRINCIPAL = re.compile(r"[^\s\"',*?!#]+")


@dataclass(frozen=True)
class Git:
    """What works on PolicyRepositories needs. `trusts`: nothing is asked that it does not name. `forge` makes one from what is said of it,
    OWNER/NAME and its secret. `lane`: threads for what may take a minute, by the address
    that it asks."""

    mirrors: Mirrors
    secrets: Secrets
    trusts: Trusts
    forge: Callable[[TrustedForge, str, Mapping[str, bytes]], Forge]
    checks: Checks
    lane: Callable[[str], Executor]


@dataclass(frozen=True)
class Carried:
    """A resource of the commit, and where it comes from."""

    resource: Resource
    source: Source


@dataclass(frozen=True)
class Pulled:
    """`source`: the head as `Carried` tells the others, without its pull request. `faults` refuse the whole commit; `unsigned` names the
    commits whose signature the policy does not accept, with why."""

    head: Commit
    signature: Signature
    source: Source
    carried: Mapping[Key, Carried] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    unsigned: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Policy:
    """The signature policy of one repository, with its secret read."""

    required: bool
    allowed: str


@dataclass(frozen=True)
class _Look:
    """With what one look judges: the repository as NAMESPACE/NAME, what it follows, whom administrators believe."""

    owner: str
    url: str
    branch: str
    policy: Policy
    trust: Trust
    forge: Forge | None

    def key(self, commit: str) -> tuple[str, ...]:
        """What the source of a commit depends on."""
        return (self.owner, self.url, self.branch, self.trust.digest, commit)


@dataclass
class Puller:
    """Pulls one PolicyRepository after another; remembers what commits say, which never changes."""

    git: Git
    _signatures: dict[tuple[str, str], Signature] = field(default_factory=dict)
    _sources: dict[tuple[str, ...], Source] = field(default_factory=dict)

    def pull(self, repository: Resource) -> Pulled:
        """What the branch carries now. Raises Waiting, Stalled."""
        trust, url, branch = self.git.trusts.read(), repository.spec["url"], repository.spec["branch"]
        remote, policy = remote_of(self.git, repository), self._policy(repository)
        look = _Look(f"{repository.namespace}/{repository.name}", url, branch, policy, trust, forge_of(self.git, repository))
        mirror = self.git.mirrors.fetch(remote, branch)
        head = mirror.commit(mirror.resolve(f"refs/heads/{branch}"))
        signature = self._signature(mirror, head.id, policy.allowed)
        pulled = Pulled(head, signature, self._signed(look, mirror, head))
        if policy.required and signature.status is not Signed.GOOD:
            return replace(pulled, unsigned={head.id: signature.why})
        try:
            resources = _resources(mirror, head.id, repository)
        except Refused as refused:
            return replace(pulled, faults=refused.faults)
        return self._behind(look, mirror, pulled, resources)

    def _behind(self, look: _Look, mirror: Repository, pulled: Pulled, resources: Sequence[Resource]) -> Pulled:
        """Each resource with the commit that brought it. One whose own commit is not signed as it must be refuses the whole."""
        carried: dict[Key, Carried] = {}
        unsigned: dict[str, str] = {}
        for resource in resources:
            commit = mirror.last_change(pulled.head.id, resource.path)
            signature = self._signature(mirror, commit, look.policy.allowed)
            if look.policy.required and signature.status is not Signed.GOOD:
                unsigned[commit] = f"{signature.why}, and it changed {resource.path}"
            carried[resource.key] = Carried(with_origin(resource), self._source(look, mirror, commit))
        return replace(pulled, carried=carried, unsigned=unsigned)

    def _signature(self, mirror: Repository, commit: str, allowed: str) -> Signature:
        key = (commit, allowed)
        if key not in self._signatures:
            _make_room(self._signatures)
            self._signatures[key] = mirror.signature(commit, allowed)
        return self._signatures[key]

    def _source(self, look: _Look, mirror: Repository, commit: str) -> Source:
        key = look.key(commit)
        if key not in self._sources:
            _make_room(self._sources)
            made = self._signed(look, mirror, mirror.commit(commit))
            pull = None if look.forge is None else look.forge.merged(commit)
            if pull is not None:
                made = replace(made, pull_request=pull.url, pull_author=pull.author, approvers=pull.approvers[:64])
            if look.forge is not None and pull is None:
                return made  # it may be told at the next look
            self._sources[key] = made
        return self._sources[key]

    def _signed(self, look: _Look, mirror: Repository, commit: Commit) -> Source:
        """A commit, and the person whose key signed it, whatever the repository's own policy says of keys."""
        signature = self._signature(mirror, commit.id, look.trust.allowed_signers())
        signer = signature.signer if signature.status is Signed.GOOD else ""
        made = Source(look.owner, commit.id, look.url, look.branch, commit.author, signer, look.trust.signing(signer))
        return replace(made, writers=_writers(mirror, commit.id))

    def _policy(self, repository: Resource) -> Policy:
        spec = repository.spec["signature"]
        lines = [_signer(row) for row in spec["signers"]]
        if "secretRef" in spec:
            told, name = _trusted(self.git.trusts.read(), repository), spec["secretRef"]["name"]
            lines.append(_text(_secret(self.git, told, repository, name), f"{repository.namespace}/{name}", "allowed_signers"))
        return Policy(spec["require"] == "Signed", "\n".join(lines) + "\n")


def _writers(mirror: Repository, commit: str) -> tuple[str, ...]:
    """Of more than can be told one is told whom nobody knows."""
    try:
        found = mirror.writers(commit)
    except Refused as refused:
        return (str(refused.faults[0])[:MAX_TEXT],)
    more = (f"and {len(found) - MAX_WRITERS} more",) if len(found) > MAX_WRITERS else ()
    return (*(text[:MAX_TEXT] for text in found[:MAX_WRITERS]), *more)


def remote_of(git: Git, repository: Resource) -> Remote:
    """The remote of a PolicyRepository, with its credentials. Raises Stalled, before anything is asked or read, when no administrator
    lets it be followed or its secret be sent there."""
    spec, told = repository.spec, _trusted(git.trusts.read(), repository)
    secret = {} if "credentials" not in spec else _secret(git, told, repository, spec["credentials"]["secretRef"]["name"])
    return Remote(spec["url"], secret, told.insecure)


def forge_of(git: Git, repository: Resource) -> Forge | None:
    """The forge of a PolicyRepository, None without one. Raises Stalled as `remote_of` does."""
    spec, url = repository.spec["forge"], repository.spec["url"]
    if spec["kind"] == "None":
        return None
    trust = git.trusts.read()
    told, forge = _trusted(trust, repository), trust.forge(repository.namespace, url)
    if forge is None or (forge.kind, forge.url) != (spec["kind"], spec.get("url", "")):
        raise Stalled("NotTrusted", f"forge {spec.get('url', '')}: must be the forge that tells of {url}: {HOW}")
    path = re.fullmatch(r"[a-z]+://[^/]*/(?:.*/)?([^/]+/[^/]+?)(?:\.git)?/?", url)
    if path is None:
        raise Stalled("NoForge", f"{url}: must end with OWNER/NAME to have a forge")
    return git.forge(forge, path[1], _secret(git, told, repository, spec["secretRef"]["name"]))


def _trusted(trust: Trust, repository: Resource) -> TrustedRepository:
    url = repository.spec["url"]
    told = trust.repository(repository.namespace, url)
    if told is None:
        raise Stalled("NotTrusted", f"{url}: must be a repository that namespace {repository.namespace} may follow: {HOW}")
    return told


def _secret(git: Git, told: TrustedRepository, repository: Resource, name: str) -> Mapping[str, bytes]:
    if name not in told.secrets:
        must = f"must be among the secrets of {told.url}: {HOW}"
        raise Stalled("NotTrusted", f"Secret {repository.namespace}/{name}: {must}")
    return git.secrets.read(repository.namespace, name)


def chosen(repository: Resource) -> tuple[str, ...]:
    """Folders and files below which everything lies that the globs of a PolicyRepository name; none: the whole."""
    stems = sorted({stem(pattern) for pattern in repository.spec["paths"]})
    return () if "" in stems else tuple(stems)


def _text(found: Mapping[str, bytes], name: str, key: str) -> str:
    if key not in found:
        raise Stalled("NoSecret", f"{name}: must have the key {key}")
    return found[key].decode(errors="replace")


def _signer(row: Mapping[str, Any]) -> str:
    """A line of ssh-keygen's allowed signers: these characters only, so that no name or key says more than itself."""
    key = SSH_KEY.match(row["key"].strip())
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
