"""Whether people have approved a stage: enough of them, of those who may, and no author. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from knhk.model.rollout import Approved, Stage
from knhk.model.trust import HOW, Authors

LOCAL = "local:"  # the user of an embedded home


def counted(stage: Stage, authors: Authors, given: Iterable[Approved]) -> tuple[Approved, ...]:
    """Approvals that count for the stage, one of each person, in order of their names."""
    if stage.approvals is None:
        return ()
    found = {one.approver: one for one in given if one.stage == stage.name and _counts(stage, authors, one)}
    return tuple(found[name] for name in sorted(found))


def missing(stage: Stage, authors: Authors, given: Iterable[Approved]) -> str:
    """What a stage still needs, for people; empty when it has all."""
    wanted = stage.approvals
    if wanted is None:
        return ""
    rows = tuple(given)
    have = counted(stage, authors, rows)
    if len(have) >= wanted.count:
        return ""
    of = f" of {', '.join(sorted(wanted.approvers))}" if wanted.approvers else ""
    names = ", ".join(one.approver for one in have) or "none"
    text = f"stage {stage.name} must be approved by {wanted.count}{of}; approved by: {names}"
    if wanted.not_author:
        text += f"; {_about_authors(stage, authors, rows)}"
    return text


MAX_TOLD = 4


def _about_authors(stage: Stage, authors: Authors, given: Iterable[Approved]) -> str:
    if authors.unknown:
        return f"its authors must be known users: {', '.join(authors.unknown[:MAX_TOLD])}: {HOW}"
    if not authors.users:
        return f"its authors must be known: a commit that a PolicyRepository follows, signed with a key: {HOW}"
    own = sorted({one.approver for one in given if one.stage == stage.name and one.approver in authors.users})
    who = ", ".join(own or sorted(authors.users))
    return f"that of an author, {who}, does not count" if own else f"not by an author, {who}"


def _counts(stage: Stage, authors: Authors, one: Approved) -> bool:
    assert stage.approvals is not None
    named = {one.approver, one.approver.removeprefix(LOCAL) if one.unreviewed else one.approver}
    if stage.approvals.approvers and not named & stage.approvals.approvers:
        return False
    known = bool(authors.users) and not authors.unknown
    return one.unreviewed or not stage.approvals.not_author or (known and one.approver not in authors.users)
