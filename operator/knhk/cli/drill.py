"""`knhk drill run`: a region is lost, on purpose, on one machine."""

from __future__ import annotations

from pathlib import Path

from knhk.cli.framework import FAULTS, OK, Argument, Call, Outcome, Table, Usage, command, noun
from knhk.cli.schema import integer, obj, string

noun("drill", "disasters, rehearsed")


@command(
    ("drill", "run"),
    summary="Three regions on this machine, traffic, the loss of one; measures RTO and RPO from receipts, and signs the result",
    arguments=(
        Argument("--out", help="audit bundle with the drill's signed receipt, which knhk_verify takes (new)", kind=Path, metavar="DIR"),
        Argument("--strike", help="the region that is lost: processes and storage", choices=("eu", "us", "ap")),
        Argument("--clients", help="so many, spread over the regions (default 6)", kind=int, default=6),
        Argument("--seconds", help="of traffic, half of it before the strike (default 10)", kind=int, default=10),
    ),
    output=obj(
        rto_ms=integer(),
        rpo_ms=integer(),
        policy_ms=integer(),
        acknowledged=integer(),
        lost=integer(),
        messages=integer(),
        missing=integer(),
        twice=integer(),
        doubles=integer(),
        replayed=integer(),
        different=integer(),
        unrecorded=integer(),
        survivor=string(),
        merged=string(),
        receipt=string(),
    ),
    examples=("knhk drill run --strike eu --out drill", "knhk drill run --strike ap --out drill --clients 30 --seconds 60 -o json"),
    detail="Each region has a log, an order and a witness of its own; a client whose region is lost moves to the next with its outbox.\n"
    "Requests are made up; a compiled pack, called as a library, decides them, all is recorded, and the survivors replay it. Consumers\n"
    "of an ordered source resume at the survivor. No Envoy, no broker: docs/disaster-recovery.md says what that shows.",
    exits={FAULTS: "an acknowledged receipt or a message is in no surviving log, or a decision is not what it was"},
)
def run(call: Call) -> Outcome:
    from knhk.wiring import drill

    args = call.args
    for option in ("out", "strike"):
        if getattr(args, option) is None:
            raise Usage("must be given", f"--{option}")
    if not 3 <= args.clients <= 300:
        raise Usage("must be 3 to 300", "--clients")
    if not 1 <= args.seconds <= 3600:
        raise Usage("must be 1 to 3600", "--seconds")
    done = drill.run(args.out, args.strike, args.clients, args.seconds, call.say)
    found = done.measured
    data = {
        "rto_ms": -(-found.rto_ns // 1_000_000),
        "rpo_ms": -(-found.rpo_ns // 1_000_000),
        "acknowledged": found.acknowledged,
        "lost": found.lost,
        "policy_ms": -(-done.policy_ns // 1_000_000),
        "messages": done.dealt.messages,
        "missing": done.dealt.missing,
        "twice": done.dealt.twice,
        "doubles": done.doubles,
        "replayed": done.replayed.replayed,
        "different": done.replayed.different,
        "unrecorded": done.replayed.unrecorded,
        "survivor": done.survivor,
        "merged": done.order,
        "receipt": str(done.receipt),
    }
    return Outcome(data, FAULTS if done.failed else OK, (Table("", ("", ""), tuple((name, str(value)) for name, value in data.items())),))
