"""`knhk up`, `knhk down`: the embedded home's control plane, sequencer and enforcement points as local processes."""

from __future__ import annotations

from knhk.cli.framework import Argument, Call, Outcome, command
from knhk.cli.schema import array, boolean, integer, obj, string
from knhk.model.faults import Refused
from knhk.model.keeping import FORM, keep_of


def _kept(text: str) -> str:
    """Bounds of Receipts, as they are told to the control plane. Raises ValueError."""
    try:
        keep_of(text)
    except Refused as refused:
        raise ValueError(refused.faults[0].must) from refused
    return text


KEPT = Argument(
    "--receipts-kept", help=f"how many Receipts stay while it runs; the log keeps all: {FORM}", kind=_kept, default="", metavar="BOUNDS"
)


def _seconds(text: str) -> float:
    """A time to wait. Raises ValueError."""
    found = float(text)
    if not 0 < found <= 86_400:
        raise ValueError("must be more than 0 and at most 86400 seconds")
    return found


@command(
    "up",
    summary="Start the embedded home: control plane, sequencer, and one Envoy and agent for each EnforcementPoint",
    arguments=(
        Argument("--foreground", help="stay in front and log to standard error; end with Ctrl-C", flag=True),
        Argument("--timeout-s", help="how long to wait until it is ready", kind=_seconds, default=30.0),
        KEPT,
    ),
    output=obj(home=string(), pid=integer(), started=boolean()),
    examples=("knhk up", "knhk --home /srv/knhk up", "knhk up --foreground", "knhk up --receipts-kept namespace=5000,days=400"),
)
def up(call: Call) -> Outcome:
    from knhk.wiring.daemon import run_in_front, start
    from knhk.wiring.home import Home

    home = Home(call.home)
    if call.args.foreground:
        run_in_front(home, kept=call.args.receipts_kept)
        return Outcome(None)
    call.say("starting the control plane and the sequencer")
    pid, started = start(home, call.args.timeout_s, call.args.receipts_kept)
    return Outcome({"home": str(home.root), "pid": pid, "started": started})


@command(
    "down",
    summary="Stop everything that `knhk up` started; what is decided and recorded stays in the home",
    detail="`kept` names rings with records that are not durable yet; the next `knhk up` makes them so.",
    arguments=(Argument("--timeout-s", help="how long to wait before it is ended by force", kind=_seconds, default=30.0),),
    output=obj(home=string(), stopped=boolean(), kept=array(string())),
    examples=("knhk down",),
)
def down(call: Call) -> Outcome:
    from knhk.wiring.daemon import stop
    from knhk.wiring.home import Home

    home = Home(call.home)
    stopped, kept = stop(home, call.args.timeout_s)
    return Outcome({"home": str(home.root), "stopped": stopped, "kept": [str(path) for path in kept]})
