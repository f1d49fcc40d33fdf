"""Whether people have approved a stage: enough of them, of those who may, and not the author. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from knhk.model.rollout import Approved, Stage

LOCAL = "local:"  # the user of an embedded home


def counted(stage: Stage, author: str, given: Iterable[Approved]) -> tuple[Approved, ...]:
    """Approvals that count for the stage, one of each person, in order of their names."""
    if stage.approvals is None:
        return ()
    found = {one.approver: one for one in given if one.stage == stage.name and _counts(stage, author, one)}
    return tuple(found[name] for name in sorted(found))


def missing(stage: Stage, author: str, given: Iterable[Approved]) -> str:
    """What a stage still needs, for people; empty when it has all."""
    wanted = stage.approvals
    if wanted is None:
        return ""
    rows = tuple(given)
    have = counted(stage, author, rows)
    if len(have) >= wanted.count:
        return ""
    of = f" of {', '.join(sorted(wanted.approvers))}" if wanted.approvers else ""
    names = ", ".join(one.approver for one in have) or "none"
    text = f"stage {stage.name} must be approved by {wanted.count}{of}; approved by: {names}"
    if wanted.not_author:
        text += f"; {_about_author(stage, author, rows)}"
    return text


def _about_author(stage: Stage, author: str, given: Iterable[Approved]) -> str:
    if author:
        own = any(one.stage == stage.name and one.approver == author for one in given)
        return f"that of the author, {author}, does not count" if own else f"not by the author, {author}"
    return "the author must be known: a commit signed by someone whom a PolicyRepository maps to a user"


def _counts(stage: Stage, author: str, one: Approved) -> bool:
    assert stage.approvals is not None
    named = {one.approver, one.approver.removeprefix(LOCAL) if one.unreviewed else one.approver}
    if stage.approvals.approvers and not named & stage.approvals.approvers:
        return False
    return one.unreviewed or not stage.approvals.not_author or author not in ("", one.approver)
