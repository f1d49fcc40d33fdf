"""`knhk drill run`: a region is lost, on purpose, on one machine."""

from __future__ import annotations

from pathlib import Path

from knhk.cli.framework import FAULTS, OK, Argument, Call, Outcome, Table, Usage, command, noun
from knhk.cli.log import AT, ROOT, STEPS, steps_table
from knhk.cli.schema import array, boolean, integer, nullable, obj, string

MEASURED = (
    "rto_ms", "rpo_ms", "policy_ms", "acknowledged", "lost", "messages", "missing", "twice", "doubles", "replayed", "different",
    "unrecorded",
)  # fmt: skip

GOAL = string("met", "missed")
MOST_S = 7 * 24 * 3600  # that a goal can be

noun("drill", "disasters, rehearsed")


def goal_s(text: str) -> int:
    """Whole seconds. Raises ValueError."""
    if not (text.isascii() and text.isdecimal() and len(text) < 8 and int(text) <= MOST_S):
        raise ValueError(f"must be 0 to {MOST_S}, whole seconds")
    return int(text)


@command(
    ("drill", "run"),
    summary="Three regions on this machine, traffic, the loss of one; measures RTO and RPO from receipts, and signs the result",
    arguments=(
        Argument("--out", help="audit bundle with the drill's signed receipt, which knhk_verify takes (new)", kind=Path, metavar="DIR"),
        Argument("--strike", help="the region that is lost: processes and storage", choices=("eu", "us", "ap")),
        Argument("--clients", help="so many, spread over the regions (default 6)", kind=int, default=6),
        Argument("--seconds", help="of traffic, half of it before the strike (default 10)", kind=int, default=10),
        Argument("--rto-s", help="goal: RTO is at most so many seconds (default 900)", kind=goal_s, default=900, metavar="S"),
        Argument("--rpo-s", help="goal: RPO is at most so many seconds (default 60)", kind=goal_s, default=60, metavar="S"),
        Argument("--dry-run", help="look whether it can be done and say what would be done: nothing is started or stays", flag=True),
    ),
    output=obj(
        dry_run=boolean(),
        struck=string(),
        survivors=array(string()),
        **{name: nullable(integer()) for name in MEASURED},
        rto_goal_ms=integer(),
        rto_goal=nullable(GOAL),
        rpo_goal_ms=integer(),
        rpo_goal=nullable(GOAL),
        survivor=string(),
        merged=nullable(string()),
        receipt=nullable(string()),
    ),
    examples=(
        "knhk drill run --strike eu --out drill",
        "knhk drill run --strike ap --out drill --clients 30 --seconds 60 --rto-s 5 --rpo-s 0 -o json",
    ),
    detail="Each region has a log, an order and a witness of its own; a client whose region is lost moves to the next with its outbox.\n"
    "Requests are made up; a compiled pack, called as a library, decides them, all is recorded, and the survivors replay it. Consumers\n"
    "of an ordered source resume at the survivor. No Envoy, no broker: docs/disaster-recovery.md says what that shows. The goals of RTO\n"
    "and RPO, and whether they were met, are in the signed receipt. With --dry-run nothing is measured (null); that the place is free\n"
    "and the policies build is seen.",
    exits={
        FAULTS: "an acknowledged receipt or a message is in no surviving log, a decision is not what it was, or RTO or RPO missed its goal"
    },
)
def run(call: Call) -> Outcome:
    from knhk.reconcilers.drilling import MISSED, Goals, ms
    from knhk.wiring import drill

    args = call.args
    for option in ("out", "strike"):
        if getattr(args, option) is None:
            raise Usage("must be given", f"--{option}")
    if not 3 <= args.clients <= 300:
        raise Usage("must be 3 to 300", "--clients")
    if not 1 <= args.seconds <= 3600:
        raise Usage("must be 1 to 3600", "--seconds")
    left = drill.survivors_of(args.strike)
    data: dict[str, object] = {"dry_run": args.dry_run, "struck": args.strike, "survivors": left, **dict.fromkeys(MEASURED)}
    goals = Goals(args.rto_s * 1000, args.rpo_s * 1000)
    data |= {"rto_goal_ms": goals.rto_ms, "rto_goal": None, "rpo_goal_ms": goals.rpo_ms, "rpo_goal": None}
    data |= {"survivor": left[0], "merged": None, "receipt": None}
    if args.dry_run:
        drill.look(args.out, call.say)
        notes = (
            f"would start a sequencer and a witness of each of {', '.join(drill.REGIONS)} on this machine, {args.clients} clients and "
            f"three consumers, for {args.seconds} s, end {args.strike} after half of them, and write {args.out}",
        )
        return Outcome(data, notes=notes)
    done = drill.run(args.out, args.strike, args.clients, args.seconds, goals, call.say)
    found, dealt, replayed = done.figures.measured, done.figures.dealt, done.replayed
    data |= {"rto_ms": ms(found.rto_ns), "rpo_ms": ms(found.rpo_ns), "policy_ms": ms(done.figures.policy_ns)}
    data |= {"acknowledged": found.acknowledged, "lost": found.lost, "doubles": done.doubles}
    data |= {"messages": dealt.messages, "missing": dealt.missing, "twice": dealt.twice}
    data |= {"replayed": replayed.replayed, "different": replayed.different, "unrecorded": replayed.unrecorded}
    kept = goals.told(found)
    data |= {"rto_goal": kept["rtoGoal"], "rpo_goal": kept["rpoGoal"]}
    data |= {"survivor": done.survivor, "merged": done.figures.order, "receipt": str(done.receipt)}
    missed = tuple(
        f"{name.upper()} missed its goal: {data[f'{name}_ms']} ms, at most {data[f'{name}_goal_ms']} ms were to be"
        for name in ("rto", "rpo")
        if data[f"{name}_goal"] == MISSED
    )
    table = Table("", ("", ""), tuple((name, str(value)) for name, value in data.items()))
    return Outcome(data, FAULTS if done.failed else OK, (table,), notes=missed)


@command(
    ("drill", "verify"),
    summary="Verify the bundle of a drill, and measure again from the receipts in it",
    arguments=(
        Argument("dir", help="the bundle that `knhk drill run` wrote", kind=Path, metavar="DIR"),
        ROOT,
        AT,
        Argument("--rto-s", help="fail where RTO is more than so many seconds, whatever the drill's goal was", kind=goal_s, metavar="S"),
        Argument("--rpo-s", help="fail where RPO is more than so many seconds, whatever the drill's goal was", kind=goal_s, metavar="S"),
    ),
    output=obj(verified=boolean(), missed=array(string()), not_judged=array(string()), steps=STEPS),
    examples=(
        "knhk drill verify drill --root root.pub",
        "knhk drill verify drill --root root.pub --at 2026-11-26T12:00:00Z",
        "knhk drill verify drill --root root.pub --rto-s 900 --rpo-s 60",
        "knhk drill verify drill -o json | jq .steps",
    ),
    detail="Offline. The receipt is verified up to the root, the logs of the survivors up to their checkpoints, and every figure that the\n"
    "receipt states is computed again from their entries and from what clients held as acknowledged. formats/drill.md says how, for those\n"
    "who would rather do it themselves. Without --root the bundle's own root.pub counts, which shows damage but no forger. Of a bundle\n"
    "whose keys.json is over by now, --at says a time at which it held. A receipt that truly says that a goal was missed verifies, and\n"
    "`missed` names the goal. Drills of before goals were recorded verify, and have none (`not_judged`).",
    exits={FAULTS: "something does not verify, a figure is another, or above --rto-s or --rpo-s: `steps` say what"},
)
def verify(call: Call) -> Outcome:
    from knhk.reconcilers.drilling import MISSED
    from knhk.wiring import drill_bundle

    args = call.args
    most_ms = {name: most_s * 1000 for name, most_s in (("rtoMs", args.rto_s), ("rpoMs", args.rpo_s)) if most_s is not None}
    steps = drill_bundle.judged(args.dir, args.root, args.at, most_ms)
    verified = all(step.ok is not False for step in steps)
    missed = [step.what for step in steps if step.ok and step.detail == MISSED]
    data = {"verified": verified, "missed": missed, "not_judged": [step.what for step in steps if step.ok is None]}
    notes = tuple(f"{name}: the drill missed it, as its receipt says" for name in missed)
    return Outcome({**data, "steps": [step._asdict() for step in steps]}, OK if verified else FAULTS, (steps_table(steps),), notes=notes)
