"""What a PolicyRepository's author says of forge, branch and people is not believed: an administrator says it, or nobody."""

from __future__ import annotations

from pathlib import Path

import pytest
from git_repo import Person, Repo, person
from policy_house import FORGE, House, signed_by
from rollout_world import PACK, pack, point
from trusts import trusting

from knhk.adapters.trust_file import FileTrusts
from knhk.api.trust import read_trust
from knhk.model import trust as known
from knhk.model.faults import Refused, Stalled
from knhk.model.resource import Key, Resource
from knhk.model.trust import Trust, TrustedRepository
from knhk.ports.forge import PullRequest
from knhk.wiring.git import forge

pytestmark = pytest.mark.slow


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    made = Repo(tmp_path / "repo" / "erp" / "policies")
    made.commit({"pack.yaml": pack("1.0.0")})
    return made


@pytest.fixture
def house(repo: Repo, tmp_path: Path) -> House:
    made = House(repo, tmp_path)
    made.world.apply(point())
    made.world.run(4)  # it counted before anything had to be merged
    made.world.merged_only = frozenset({"erp"})
    made.world.start()
    return made


@pytest.fixture
def alice(tmp_path: Path) -> Person:
    return person("alice", tmp_path)


def waits(house: House) -> str:
    def stopped() -> bool:
        told = house.world.get(PACK).status.get("conditions", ()) if house.has(PACK) else ()
        return any(row["reason"] == "NotMerged" for row in told)

    house.world.until(stopped)
    house.world.run(20)
    assert house.world.document()["stable"] is None
    return str(house.world.ready(PACK)["message"])


def test_an_address_that_no_administrator_names_is_never_asked(house: House) -> None:
    house.trusts.said = Trust()
    house.follow(FORGE)
    house.world.run(6)
    assert house.ready() == ("False", "NotTrusted")
    assert "must be a repository that namespace erp may follow: an administrator names it in forges.yaml" in house.message()
    assert not house.has(PACK)
    assert not (house.folder / "mirrors").exists()


def test_another_namespace_may_not_follow_it(house: House) -> None:
    house.trusts.repository(namespaces=frozenset({"crm"}))
    house.follow()
    house.world.run(6)
    assert house.ready() == ("False", "NotTrusted")


def test_a_forge_of_the_authors_choice_is_never_asked(house: House) -> None:
    """Whoever runs the forge says who approved."""
    commit = house.repo.head()
    house.forge.merges[commit] = PullRequest(1, "https://evil/1", "eve", commit, ("ada",))
    house.follow(FORGE.replace("http://forge", "https://evil.example.com"))
    house.world.run(6)
    assert house.ready() == ("False", "NotTrusted")
    assert "forge https://evil.example.com: must be the forge that tells of" in house.message()
    assert house.predicates("CommitApplied") == []
    house.trusts.repository(forge="")
    house.follow(FORGE)
    house.pulled()
    assert house.ready() == ("False", "NotTrusted")


def test_a_secret_goes_only_where_an_administrator_lets_it(house: House) -> None:
    house.secrets.known["erp", "database"] = {"password": b"s3cr3t"}
    house.follow("  credentials: {secretRef: {name: database}}\n")
    house.world.run(6)
    assert house.ready() == ("False", "NotTrusted")
    assert "Secret erp/database: must be among the secrets of" in house.message()


def test_signers_are_read_of_no_secret_that_no_administrator_names(house: House) -> None:
    house.secrets.known["erp", "keys"] = {"allowed_signers": b"eve@example.com ssh-ed25519 AAAA\n"}
    house.follow("  signature: {require: Signed, secretRef: {name: keys}}\n")
    house.world.run(4)
    assert house.ready() == ("False", "NotTrusted")
    assert "Secret erp/keys: must be among the secrets of" in house.message()


def test_a_branch_that_nobody_names_is_applied_and_not_merged(house: House) -> None:
    house.trusts.repository(branches=frozenset())
    house.follow()
    assert "1.0.0 is not merged: branch main of file://" in waits(house)
    house.trusts.repository(branches=frozenset({"main"}))
    house.until_live()


def test_what_came_from_a_branch_is_not_merged_by_naming_another(house: House) -> None:
    """The status keeps what was followed when it was written."""
    house.repo.git("checkout", "-q", "-b", "mine")
    house.repo.commit({"pack.yaml": pack("1.1.0")})
    house.follow("  branch: mine\n")
    waits(house)
    house.trusts.repository(namespaces=frozenset({"erp"}))
    house.follow("  branch: main\n  suspend: true\n")
    assert "branch mine of" in waits(house)


def test_what_must_be_signed_is_merged_by_a_known_key_only(house: House, alice: Person, tmp_path: Path) -> None:
    """The author's own list of signers lets a commit be applied; it makes nobody known."""
    mallory = person("mallory", tmp_path)
    house.trusts.repository(signed=True)
    house.trusts.knows(alice)
    house.repo.commit({"pack.yaml": pack("1.1.0")}, mallory)
    claims = signed_by(mallory).replace("mallory@example.com, user: mallory", "alice@example.com, user: alice")
    house.follow(claims)
    assert "must be signed by somebody whose key is known" in waits(house)
    source = house.predicates("CommitApplied")[0]["evidence"]["source"]
    assert {"signer", "user"} & source.keys() == set()
    house.repo.commit({"pack.yaml": pack("1.2.0")}, alice)
    house.follow()
    house.until_live("1.2.0")
    assert house.predicates("Promoted")[0]["evidence"]["source"]["user"] == "alice"


ASKS = "  rollout:\n    approvals: [{stage: production}]\n"


def approve(house: House, approver: str) -> None:
    digest = house.world.get(PACK).status["revision"]["digest"]
    spec = {"pack": "orders", "revision": digest, "stage": "production", "approver": approver}
    house.world.store.create(Resource("Approval", "erp", f"by-{approver}", spec))
    house.world.run(8)


def test_nobody_who_had_a_hand_in_a_change_approves_it(repo: Repo, tmp_path: Path, alice: Person) -> None:
    """Signed and merged by the forge, opened by ann, committed by alice, co-authored by bob: only cyd is left."""
    house = House(repo, tmp_path)
    house.world.apply(point())
    house.world.reviews = True
    house.world.start()
    merger = person("forge", tmp_path)
    repo.git("checkout", "-q", "-b", "side")
    asks = pack("1.1.0").replace("  rollout:\n", ASKS)
    repo.commit({"pack.yaml": asks}, alice, "a change\n\nCo-authored-by: Bob <bob@home.example.org>\n")
    repo.git("checkout", "-q", "main")
    merged = repo.merge("side", merger)
    house.forge.merges[merged] = PullRequest(4, "http://forge/4", "ann.s", "0" * 40, ("cyd",))
    house.trusts.knows(alice, merger)
    house.follow(FORGE)
    house.world.until(lambda: house.has(PACK) and house.world.get(PACK).status.get("revision", {}).get("arm") == "Shadow")

    def told() -> str:
        return str(house.world.ready(PACK)["message"])

    house.world.until(lambda: house.world.ready(PACK)["reason"] == "Unapproved")
    approve(house, "cyd")
    assert "its authors must be known users: bob@home.example.org, ann.s at the forge: an administrator names" in told()
    house.trusts.knows(alice, merger, **{"ann.s": "ann"})
    house.trusts.say(people=(*house.trusts.said.people, known.Person("bob", (), ("bob@home.example.org",))))
    house.world.store.delete(Key("Approval", "erp", "by-cyd"))
    house.world.until(lambda: "not by an author, alice, ann, bob, forge" in told())
    for own in ("ann", "bob", "alice", "forge"):
        approve(house, own)
        assert house.world.ready(PACK)["reason"] == "Unapproved"
    assert "that of an author, alice, ann, bob, forge, does not count" in told()
    approve(house, "cyd")
    house.until_live("1.1.0")
    assert house.world.get(PACK).status["live"]["approvedBy"] == ["cyd"]


def test_what_cannot_be_understood_lets_nothing_through(house: House, tmp_path: Path) -> None:
    file = tmp_path / "forges.yaml"
    file.write_text("repositories: [{url: 'https://x', namespaces: [erp]}]\n")
    object.__setattr__(house.git, "trusts", FileTrusts(file))
    house.follow()
    house.world.run(6)
    assert house.ready() == ("False", "NotTrusted")
    assert "an administrator must mend" in house.message()
    assert "must have a path" in house.message()


def test_a_file_is_read_again_when_it_was_changed(tmp_path: Path) -> None:
    file = tmp_path / "forges.yaml"
    trusts = FileTrusts(file)
    assert trusts.read() == Trust()
    for namespace in ("erp", "crm"):
        fresh = tmp_path / "fresh"
        fresh.write_text(f"repositories: [{{url: 'https://git.example.com/', namespaces: [{namespace}]}}]\n")
        fresh.rename(file)
        assert trusts.read().repository(namespace, "https://git.example.com/a/b.git") is not None
    file.unlink()
    assert trusts.read() == Trust()


@pytest.mark.parametrize(
    ("named", "url", "is_named"),
    [
        ("https://git.example.com/erp/", "https://git.example.com/erp/policies.git", True),
        ("https://git.example.com/erp/", "https://git.example.com/erp/a/b", True),
        ("https://git.example.com/erp/policies.git", "https://git.example.com/erp/policies.git", True),
        ("https://git.example.com/erp/policies.git", "https://git.example.com/erp/policies.git/x", False),
        ("https://git.example.com/erp/", "https://git.example.com/erp2/policies.git", False),
        ("https://git.example.com/erp/", "https://git.example.com/erp/../crm/policies.git", False),
        ("https://git.example.com/erp/", "https://git.example.com/erp/%2e%2e/crm/policies.git", False),
        ("https://git.example.com/erp/", "https://git.example.com/erp//x", False),
        ("https://git.example.com/", "https://git.example.com@evil.example.com/x", False),
        ("https://git.example.com/", "https://git.example.com.evil.example.com/x", False),
        ("https://git.example.com/", "http://git.example.com/x", False),
        ("https://git.example.com/", "https://git.example.com/x?y#z", False),
    ],
)
def test_an_address_names_itself_and_what_is_plainly_below(named: str, url: str, is_named: bool) -> None:
    trust = Trust((TrustedRepository(named, frozenset({"erp"})),))
    assert (trust.repository("erp", url) is not None) is is_named
    assert trust.repository("crm", url) is None


def test_the_closest_address_decides() -> None:
    wide = TrustedRepository("https://git.example.com/", frozenset({"erp"}), branches=frozenset({"main"}))
    close = TrustedRepository("https://git.example.com/sandbox/", frozenset({"erp"}))
    assert Trust((wide, close)).repository("erp", "https://git.example.com/sandbox/x.git") is close
    assert Trust((wide, close)).repository("erp", "https://git.example.com/erp/x.git") is wide


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDCPvQm0V6Wyk6VQf3k0b1Xq5Jp7m1Wb7u6sOQ2mY2cX"
WRONG = {
    "repositories: [{url: 'https://git.example.com', namespaces: [erp]}]": "must have a path, or / at its end",
    "repositories: [{url: 'https://ann@git.example.com/', namespaces: [erp]}]": "must be a URL of scheme",
    "repositories: [{url: 'https://git.example.com/../x', namespaces: [erp]}]": "must be a URL of scheme",
    "repositories: [{url: 'https://git.example.com/', namespaces: []}]": "must have at least 1 item",
    "repositories: [{url: 'https://git.example.com/', namespaces: [erp], forge: 'https://x'}]": "must be the url of one of `forges`",
    "forges: [{url: 'https://git.example.com', kind: GitHub}]": "must be Gitea for now",
    "people: [{user: a, keys: ['-----BEGIN PGP']}]": "must be a line of OpenSSH",
    "people: [{user: 'a b'}]": "must be without blanks",
    f"people: [{{user: a, keys: ['{KEY} one']}}, {{user: b, keys: ['{KEY} two']}}]": "must be among the keys of one person only",
    "people: [{user: a, emails: [x@y]}, {user: b, emails: [X@y]}]": "must be among the emails of one person only",
    "people: [{user: a@b}, {user: b, emails: [a@b]}]": "must be the first e-mail address, or the user, of one person only",
    "people: [{user: a}, {user: a}]": "must be the only item with this user",
    "allow: all": "must not be there: unknown field",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_a_file_that_says_too_much_or_nothing_is_refused(text: str) -> None:
    with pytest.raises(Refused) as caught:
        read_trust(text.encode(), "forges.yaml")
    assert WRONG[text] in str(caught.value)


def test_a_token_over_plain_http_is_refused_unless_an_administrator_lets_it() -> None:
    plain = trusting("http://git.example.com/erp/policies.git").said.forges[0]
    secure = read_trust(b"forges: [{url: 'http://git.example.com'}]", "forges.yaml").forges[0]
    assert forge(plain, "erp/policies", {"token": b"t"}) is not None
    with pytest.raises(Stalled, match="must be https, for a token goes there"):
        forge(secure, "erp/policies", {"token": b"t"})
