"""PolicyRepository: a real Git repository, the real git program, and everything else in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fakes import Died
from git_repo import NOBODY, Person, Repo, person
from policy_house import DATA, FILES, FORGE, OWNER, POINT, REPOSITORY, House, signed_by
from rollout_world import PACK, bundle, pack, point

from knhk.api import parse
from knhk.model.resource import Key
from knhk.ports.forge import CheckState, PullRequest
from knhk.reconcilers.repositories import RepositoryReconciler

pytestmark = pytest.mark.slow


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "repo" / "erp" / "policies")


@pytest.fixture
def house(repo: Repo, tmp_path: Path) -> House:
    return House(repo, tmp_path)


def test_what_the_branch_carries_is_applied_and_told(house: House) -> None:
    first = house.repo.commit(FILES, Person("ann"))
    house.follow()
    house.until_live()
    found = house.status_of()
    assert house.ready() == ("True", "Applied")
    assert found.status["commit"] == first
    assert {row["kind"]: row["path"] for row in found.status["applied"]} == {
        "DataBundle": "roles.yaml", "EnforcementPoint": "point.yaml", "PolicyPack": "orders/pack.yaml",
    }  # fmt: skip
    live = house.world.get(PACK)
    assert live.labels[OWNER] == "erp.policies"
    assert live.annotations["knhk.dev/commit"] == first
    assert live.annotations["knhk.dev/commit-author"] == "ann <ann@example.com>"


def test_every_receipt_of_a_revision_names_commit_pull_request_and_approvers(house: House) -> None:
    house.repo.commit({"point.yaml": point()})
    house.repo.git("checkout", "-q", "-b", "side")
    house.repo.commit({"orders/pack.yaml": pack("1.0.0")}, Person("ann"))
    house.repo.git("checkout", "-q", "main")
    merged = house.repo.merge("side", Person("forge"))
    house.forge.merges[merged] = PullRequest(4, "https://git.example.com/erp/policies/pulls/4", "ann", "0" * 40, ("bob", "cyd"))
    house.follow(FORGE)
    house.until_live()
    wanted = {
        "repository": "erp/policies", "commit": merged, "url": house.repo.url, "branch": "main",
        "author": "forge <forge@example.com>", "approvers": ["bob", "cyd"],
        "pullRequest": "https://git.example.com/erp/policies/pulls/4", "pullRequestAuthor": "ann",
        "writers": ["ann@example.com", "forge@example.com"],
    }  # fmt: skip
    of_pack = [s["predicate"] for s in house.world.log.statements() if s["predicate"].get("pack", {}).get("name") == "orders"]
    assert {p["kind"] for p in of_pack} >= {"Compiled", "Built", "Signed", "RolloutStarted", "Promoted"}
    assert [p["kind"] for p in of_pack if p["evidence"].get("source") != wanted] == []


def test_what_is_applied_by_hand_claims_no_commit(house: House) -> None:
    """Annotations prove nothing: whoever writes a resource writes them too."""
    commit = house.repo.commit(FILES)
    house.follow()
    house.until_live()
    (by_hand,) = parse(pack("2.0.0"), "hand.yaml")
    house.world.store.apply(replace(by_hand, labels={OWNER: "erp.policies"}, annotations={"knhk.dev/commit": commit}))
    house.world.until_phase("Live", "2.0.0")
    assert "source" not in house.world.get(PACK).status["revision"]
    assert ["source" in p["evidence"] for p in house.predicates("Promoted")] == [True, False]


def test_globs_choose_files(house: House) -> None:
    house.repo.commit(FILES)
    house.follow('  paths: ["orders/*.yaml"]\n')
    house.world.run(6)
    assert (house.has(PACK), house.has(POINT)) == (True, False)


def test_a_commit_with_faults_is_refused_whole_with_all_of_them(house: House) -> None:
    good = house.repo.commit(FILES)
    house.follow()
    house.world.run(6)
    house.repo.commit({"point.yaml": point().replace("mode: Sidecar", "mode: Boat"), "roles.yaml": bundle(2), "x.yaml": pack("one")})
    found = house.pulled()
    assert house.ready() == ("False", "Refused")
    assert {fault["where"].split(":")[0] for fault in found.status["faults"]} == {"point.yaml", "x.yaml"}
    assert found.status["commit"] == good
    assert "ex:ada ex:limit 1" in house.world.get(DATA).spec["source"]["inline"]
    house.repo.git("reset", "-q", "--hard", good)
    assert "faults" not in house.pulled().status
    assert house.ready() == ("True", "Applied")


FOREIGN = {
    "of another namespace": point().replace("namespace: erp", "namespace: crm"),
    "a repository": "kind: PolicyRepository\nspec: {url: file:///x}",
    "an approval": f"kind: Approval\nspec: {{pack: orders, revision: 'sha256:{'0' * 64}', stage: production, approver: eve}}",
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_repository_writes_only_what_it_may(house: House, what: str) -> None:
    text = FOREIGN[what]
    head = "" if "apiVersion" in text else "apiVersion: knhk.dev/v1alpha1\nmetadata: {name: x, namespace: erp}\n"
    house.repo.commit({"x.yaml": f"{head}{text}\n"})
    house.follow()
    house.world.run(6)
    assert house.ready() == ("False", "Refused")
    (fault,) = house.status_of().status["faults"]
    assert fault["must"].startswith(("must be of namespace erp", "must not come from a repository"))


def test_a_repository_of_the_system_may_write_to_every_namespace(house: House) -> None:
    house.repo.commit({"point.yaml": point()})
    house.follow(namespace="knhk-system")
    house.world.run(6)
    assert house.has(POINT)


def test_what_left_the_repository_is_pruned_and_nothing_else(house: House) -> None:
    house.world.apply(point("mine"))
    house.repo.commit(FILES | {"more.yaml": bundle(name="more")})
    house.follow()
    house.world.run(6)
    assert house.has(Key("DataBundle", "erp", "more"))
    house.repo.commit({"more.yaml": None})
    house.pulled()
    assert not house.has(Key("DataBundle", "erp", "more"))
    assert house.has(Key("EnforcementPoint", "erp", "mine"))
    assert house.has(DATA)


def test_conflicts_with_people_are_said_and_not_fought(house: House) -> None:
    house.world.apply(bundle(7))
    house.repo.commit(FILES)
    house.follow()
    house.world.run(8)
    assert house.ready() == ("False", "Conflicts")
    (conflict,) = house.status_of().status["conflicts"]
    assert conflict["object"] == "DataBundle erp/roles"
    assert "applied by hand" in conflict["reason"]
    assert "ex:limit 7" in house.world.get(DATA).spec["source"]["inline"]
    assert house.has(POINT), "the rest is applied"
    mine = house.world.get(DATA)
    house.world.store.update(replace(mine, labels={OWNER: "erp.policies"}))
    house.pulled()
    assert house.ready() == ("True", "Applied")
    assert "ex:limit 1" in house.world.get(DATA).spec["source"]["inline"]


def test_a_change_by_hand_stays_until_it_is_taken_back(house: House) -> None:
    house.repo.commit(FILES)
    house.follow()
    house.world.run(6)
    theirs = house.world.get(DATA)
    house.world.store.update(replace(theirs, spec={**theirs.spec, "version": "9.0.0"}))
    house.repo.commit({"roles.yaml": bundle(2)})
    house.pulled()
    assert house.ready() == ("False", "Conflicts")
    assert house.world.get(DATA).spec["version"] == "9.0.0"
    house.world.store.delete(DATA)
    house.pulled()
    assert house.ready() == ("True", "Applied")
    assert "ex:limit 2" in house.world.get(DATA).spec["source"]["inline"]


def test_two_repositories_do_not_fight(house: House) -> None:
    house.repo.commit(FILES)
    house.follow()
    house.world.run(6)
    house.follow(name="second")
    house.world.run(6)
    found = house.world.get(Key("PolicyRepository", "erp", "second"))
    assert {row["reason"] for row in found.status["conflicts"]} == {"it belongs to erp.policies"}
    assert house.ready() == ("True", "Applied")


@pytest.fixture
def alice(tmp_path: Path) -> Person:
    return person("alice", tmp_path)


def test_commits_that_are_not_signed_as_they_must_be_are_refused(house: House, alice: Person, tmp_path: Path) -> None:
    good = house.repo.commit(FILES, alice)
    house.follow(signed_by(alice))
    house.world.run(6)
    assert house.ready() == ("True", "Applied")
    assert house.status_of().status["signer"] == "alice@example.com"
    for who, why in ((NOBODY, "it is not signed"), (person("mallory", tmp_path), "allowed signers do not name")):
        bad = house.repo.commit({"roles.yaml": bundle(5)}, who)
        found = house.pulled()
        assert house.ready() == ("False", "NotSigned")
        assert found.status["commit"] == good
        assert [row["commit"] for row in found.status["denied"]][:1] == [bad]
        assert why in found.status["denied"][0]["reason"]
        assert "ex:limit 1" in house.world.get(DATA).spec["source"]["inline"]
        house.repo.git("reset", "-q", "--hard", good)
    assert house.pulled().status["denied"] == []
    assert house.ready() == ("True", "Applied")


def test_a_signed_commit_on_top_does_not_vouch_for_an_unsigned_one_below(house: House, alice: Person) -> None:
    house.repo.commit(FILES, alice)
    house.follow(signed_by(alice))
    house.world.run(6)
    below = house.repo.commit({"roles.yaml": bundle(5)})
    house.repo.commit({"README.md": "innocent"}, alice)
    house.pulled()
    assert house.ready() == ("False", "NotSigned")
    assert below[:12] in house.message()
    house.repo.commit({"roles.yaml": bundle(6)}, alice)
    house.pulled()
    assert house.ready() == ("True", "Applied")


def test_more_unsigned_commits_than_a_status_holds_are_told_once(house: House, alice: Person) -> None:
    for i in range(40):
        house.repo.commit({f"p{i}.yaml": point(f"p{i}")})
    house.repo.commit({"README.md": "signed from here on"}, alice)
    house.follow(signed_by(alice))
    house.world.run(10)
    told = len(house.predicates("CommitDenied"))
    assert house.ready() == ("False", "NotSigned")
    assert len(house.status_of().status["denied"]) <= told <= 40
    house.pulled()
    house.world.run(20)
    assert len(house.predicates("CommitDenied")) == told


def test_unsigned_commits_push_no_rolled_back_one_out(house: House, alice: Person) -> None:
    house.bad = frozenset({"1.1.0"})
    house.world.bad = house.bad
    house.repo.commit(FILES, alice)
    house.follow(signed_by(alice))
    house.until_live()
    bad = house.repo.commit({"orders/pack.yaml": pack("1.1.0", bundles="{name: roles}")}, alice)
    house.pulled()
    house.world.until(lambda: any(row["commit"] == bad for row in house.status_of().status.get("denied", ())))
    for i in range(40):
        house.repo.commit({f"p{i}.yaml": point(f"q{i}")})
    house.repo.commit({"README.md": "signed from here on"}, alice)
    house.pulled()
    assert house.ready() == ("False", "NotSigned")
    assert bad in [row["commit"] for row in house.status_of().status["denied"]]


def test_more_rolled_back_commits_than_a_status_holds_are_told_once(house: House) -> None:
    house.repo.commit({"point.yaml": point()})
    house.follow()
    store = house.world.store
    for i in range(40):
        store.apply(replace(parse(pack("1.0.0", name=f"n{i}"), "p.yaml")[0], labels={OWNER: "erp.policies"}))
        found = store.get(Key("PolicyPack", "erp", f"n{i}"))
        source = {"repository": "erp/policies", "commit": f"{i:040x}", "author": "ann <ann@example.com>"}
        revision = {"version": "1.0.0", "generation": 1, "phase": "RolledBack", "phaseSince": "2026-11-26T00:00:00.0Z", "source": source}
        store.update_status(replace(found, status={"revision": revision | {"inputs": "0" * 64, "points": []}}))
    ports, journal = house.world.controller.ports, house.world.controller.journal
    repositories = RepositoryReconciler(ports, journal, house.git)
    for _ in range(20):
        repositories.converge(house.status_of())
    denied = house.status_of().status["denied"]
    assert len({row["commit"] for row in denied}) == len(denied) == len(house.predicates("CommitDenied")) == 32


def test_the_signer_and_its_user_are_in_the_events(house: House, alice: Person) -> None:
    house.trusts.knows(alice)
    house.repo.commit(FILES, alice)
    house.follow(signed_by(alice))
    house.until_live()
    source = house.predicates("Promoted")[0]["evidence"]["source"]
    assert (source["signer"], source["user"]) == ("alice@example.com", "alice")


def test_suspended_nothing_is_pulled(house: House) -> None:
    house.repo.commit(FILES)
    house.follow("  suspend: true\n")
    house.world.run(6)
    assert (house.has(PACK), house.ready()[1]) == (False, "Suspended")
    house.follow()
    house.world.run(6)
    assert house.has(PACK)


def test_it_is_polled_by_its_interval_and_an_unchanged_commit_writes_nothing(house: House) -> None:
    house.repo.commit(FILES)
    house.follow("  intervalSeconds: 10\n")
    house.until_live()
    house.world.settle()
    version = house.status_of().resource_version
    house.world.run(100)
    assert house.status_of().resource_version == version
    house.repo.commit({"roles.yaml": bundle(2)})
    house.world.run(60)
    assert "ex:limit 2" in house.world.get(DATA).spec["source"]["inline"]


def test_a_repository_that_is_away_is_met_again(house: House) -> None:
    house.follow()
    house.world.run(3)
    assert house.ready() == ("False", "NoBranch")
    house.repo.commit(FILES)
    house.pulled()
    assert house.ready() == ("True", "Applied")


# ---- a rollback goes back to Git -----------------------------------------------------------------


@pytest.fixture
def rolled(repo: Repo, tmp_path: Path) -> House:
    """1.0.0 is live; the commit of 2.0.0, which denies too much, was merged by pull request 4."""
    house = House(repo, tmp_path, bad=frozenset({"2.0.0"}))
    repo.commit({"point.yaml": point(), "pack.yaml": pack("1.0.0")})
    house.follow(FORGE)
    house.until_live()
    return house


def bad_commit(house: House) -> str:
    commit = house.repo.commit({"pack.yaml": pack("2.0.0", constraint="sh:minCount 2"), "note.txt": "x"}, message="tighten")
    house.forge.merges[commit] = PullRequest(4, "https://git.example.com/erp/policies/pulls/4", "ann", commit, ("bob",))
    return commit


def test_a_rollback_denies_the_commit_and_opens_one_revert(rolled: House) -> None:
    commit = bad_commit(rolled)
    rolled.pulled()
    rolled.world.until_phase("RolledBack", "2.0.0")
    rolled.world.run(8)
    (row,) = rolled.status_of().status["denied"]
    assert row["commit"] == commit
    assert row["revert"] == "https://git.example.com/erp/policies/pulls/7"
    (reversal,) = rolled.forge.reversals.values()
    assert (reversal.branch, reversal.base, reversal.title) == (f"knhk/revert-{commit[:12]}", "main", 'Revert "tighten"')
    assert reversal.files == {"pack.yaml": pack("1.0.0").encode(), "note.txt": None}
    (denied,) = rolled.predicates("CommitDenied")
    assert denied["evidence"]["source"]["commit"] == commit


def test_a_denied_commit_is_not_applied_again_and_its_revert_is(rolled: House) -> None:
    commit = bad_commit(rolled)
    rolled.pulled()
    rolled.world.until_phase("RolledBack", "2.0.0")
    rolled.world.run(4)
    rolled.world.store.delete(PACK)
    rolled.repo.commit({"other.yaml": bundle(3)})
    rolled.pulled()
    rolled.world.run(20)
    assert not rolled.has(PACK)
    assert rolled.has(DATA), "what other commits brought is applied"
    assert rolled.ready() == ("True", "CommitDenied")
    assert commit[:12] in rolled.message()
    rolled.repo.git("revert", "--no-edit", commit)
    rolled.pulled()
    rolled.world.run(20)
    assert rolled.world.get(PACK).spec["version"] == "1.0.0"
    assert rolled.ready() == ("True", "Applied")


def test_a_lost_answer_opens_no_second_revert(rolled: House) -> None:
    rolled.forge.lost = 3
    bad_commit(rolled)
    rolled.pulled()
    rolled.world.until_phase("RolledBack", "2.0.0")
    rolled.world.until(lambda: ["revert" in row for row in rolled.status_of().status.get("denied", ())] == [True])
    assert len(rolled.forge.reversals) == 1


def test_what_changed_since_is_left_to_people(rolled: House) -> None:
    bad_commit(rolled)
    rolled.pulled()
    rolled.repo.commit({"note.txt": "more"})
    rolled.world.until_phase("RolledBack", "2.0.0")
    rolled.world.run(8)
    assert rolled.forge.reversals == {}
    assert "must be reverted by hand" in rolled.status_of().status["denied"][0]["revert"]
    assert "note.txt was changed since" in rolled.status_of().status["denied"][0]["revert"]


@pytest.mark.parametrize("after", range(1, 60, 6))
def test_killed_anywhere_it_denies_once_and_reverts_once(repo: Repo, tmp_path: Path, after: int) -> None:
    """Every write of the story is the last one of some controller; the next goes on from what is stored."""
    house = House(repo, tmp_path, bad=frozenset({"2.0.0"}))
    repo.commit({"point.yaml": point(), "pack.yaml": pack("1.0.0")})
    house.follow(FORGE)
    house.until_live()
    commit = bad_commit(house)
    house.world.annotate(REPOSITORY, requestedAt="now")
    house.world.fate.at = len(house.world.fate.moments) + after
    try:
        house.world.run(60)
    except Died:
        house.world.start()
    house.world.until_phase("RolledBack", "2.0.0")
    house.world.until(
        lambda: (
            [row.get("revert") for row in house.status_of().status.get("denied", ())] == ["https://git.example.com/erp/policies/pulls/7"]
        )
    )
    house.world.settle()
    assert [p["reason"].split(":")[0] for p in house.predicates("CommitDenied")] == ["RolledBack"]
    assert len([p for p in house.predicates("CommitApplied") if p["evidence"]["source"]["commit"] == commit]) == 1


# ---- pull requests -------------------------------------------------------------------------------


def test_each_pull_request_is_checked_once_for_its_head_and_the_branch(house: House) -> None:
    base = house.repo.commit(FILES)
    house.repo.git("checkout", "-q", "-b", "side")
    head = house.repo.commit({"roles.yaml": bundle(2)})
    house.repo.git("update-ref", "refs/pull/3/head", head)
    house.repo.git("checkout", "-q", "main")
    house.forge.pulls.append(PullRequest(3, "https://forge/3", "ann", head))
    house.follow(FORGE)
    house.world.run(20)
    reports = house.forge.checks[head, "knhk/policy"]
    assert [check.state for check in reports] == [CheckState.PENDING, CheckState.SUCCESS]
    assert reports[-1].description.endswith(f"(against {base[:12]})")
    assert house.forge.comments == {(3, "<!-- knhk/policy -->"): "## preview"}
    assert house.checks.asked == [(base, head)]
    house.pulled()
    assert house.checks.asked == [(base, head)]
    moved = house.repo.commit({"README.md": "y"})
    house.pulled()
    assert house.checks.asked[1:] == [(moved, head)]


def test_a_check_that_a_crash_left_pending_is_made_again(house: House) -> None:
    base = house.repo.commit(FILES)
    house.repo.git("update-ref", "refs/pull/3/head", base)
    house.forge.pulls.append(PullRequest(3, "https://forge/3", "ann", base))
    house.checks.state = CheckState.ERROR
    house.follow(FORGE)
    house.world.run(10)
    house.checks.state = CheckState.FAILURE
    house.pulled()
    assert [check.state.value for check in house.forge.checks[base, "knhk/policy"]][-1] == "failure"


# ---- only what was merged ------------------------------------------------------------------------


def merged_only(repo: Repo, tmp_path: Path) -> House:
    house = House(repo, tmp_path)
    house.world.merged_only = frozenset({"erp"})
    house.world.start()
    return house


def test_a_hand_applied_pack_stops_in_shadow_and_says_why(repo: Repo, tmp_path: Path) -> None:
    house = merged_only(repo, tmp_path)
    repo.commit({"point.yaml": point(), "pack.yaml": pack("1.0.0")})
    house.follow()
    house.until_live()
    (by_hand,) = parse(pack("2.0.0", constraint="sh:minCount 1 ; sh:maxCount 9"), "hand.yaml")
    house.world.store.apply(replace(by_hand, labels=house.world.get(PACK).labels, annotations=house.world.get(PACK).annotations))
    house.world.until(lambda: house.world.ready(PACK)["reason"] == "NotMerged")
    house.world.run(40)
    revision = house.world.get(PACK).status["revision"]
    assert (revision["phase"], revision["arm"]) == ("Rolling", "Shadow")
    assert "2.0.0 is not merged: it was applied by hand" in house.world.ready(PACK)["message"]
    assert house.world.document()["mode"] == "Shadow"
    repo.commit({"pack.yaml": pack("2.0.0", constraint="sh:minCount 1 ; sh:maxCount 9")})
    house.pulled()
    house.world.until_phase("Live", "2.0.0")


def test_it_is_ended_when_nobody_merges_it_in_time(repo: Repo, tmp_path: Path) -> None:
    house = merged_only(repo, tmp_path)
    repo.commit({"point.yaml": point(), "pack.yaml": pack("1.0.0")})
    house.follow()
    house.until_live()
    house.world.apply(pack("2.0.0", constraint="sh:minCount 1 ; sh:maxCount 9", deadline=60))
    house.world.until_phase("Aborted", "2.0.0")
    assert house.world.ready(PACK)["reason"] == "NotMerged"


def test_a_step_changed_by_hand_goes_no_further(repo: Repo, tmp_path: Path) -> None:
    """What is merged is the whole spec: the rollout's own settings, too."""
    house = merged_only(repo, tmp_path)
    repo.commit({"point.yaml": point(), "pack.yaml": pack("1.0.0")})
    house.follow()
    house.until_live()
    repo.commit({"pack.yaml": pack("2.0.0", constraint="sh:minCount 1 ; sh:maxCount 9")})
    house.pulled()
    house.world.until(lambda: house.world.get(PACK).status["revision"].get("arm") == "Shadow")
    found = house.world.get(PACK)
    rollout = {**found.spec["rollout"], "steps": [{"weight": 100, "minPairs": 1}]}
    house.world.store.update(replace(found, spec={**found.spec, "rollout": rollout}))
    house.world.until(lambda: house.world.ready(PACK)["reason"] == "NotMerged")
    assert house.world.document()["mode"] == "Shadow"


def test_a_point_added_by_hand_is_not_reached_by_what_is_live(repo: Repo, tmp_path: Path) -> None:
    """The bytes are the merged ones; where they are enforced is not."""
    house = merged_only(repo, tmp_path)
    points = {"point.yaml": point(), "p2.yaml": point("p2")}
    repo.commit({**points, "pack.yaml": pack("1.0.0", deadline=60)})
    house.follow()
    house.until_live()
    wider = pack("1.0.0", deadline=60, targets="{point: p1}, {point: p2}")
    house.world.store.apply(replace(house.world.get(PACK), spec=parse(wider, "hand.yaml")[0].spec))
    house.world.until(lambda: house.world.ready(PACK)["reason"] == "NotMerged")
    house.world.run(400)
    assert house.world.document("erp/p2")["stable"] is None
    assert (house.world.document()["stable"]["version"], house.world.ready(PACK)["reason"]) == ("1.0.0", "NotMerged")
    repo.commit({"pack.yaml": wider})
    house.pulled()
    house.world.until_phase("Live")
    assert house.world.document("erp/p2")["stable"]["version"] == "1.0.0"


def test_targets_changed_by_hand_come_from_no_commit(house: House) -> None:
    house.repo.commit({"point.yaml": point(), "p2.yaml": point("p2"), "pack.yaml": pack("1.0.0")})
    house.follow()
    house.until_live()
    assert "source" in house.world.get(PACK).status["live"]
    wider = pack("1.0.0", targets="{point: p1}, {point: p2}")
    house.world.store.apply(replace(house.world.get(PACK), spec=parse(wider, "hand.yaml")[0].spec))
    house.world.until_phase("Live")
    status = house.world.get(PACK).status
    assert (status["live"]["points"], "source" in status["live"], "source" in status["revision"]) == (["p1", "p2"], False, False)


def test_elsewhere_it_is_as_it_was(house: House) -> None:
    house.world.apply(point(), pack("1.0.0"))
    house.until_live()
