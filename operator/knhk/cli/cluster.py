"""`knhk cluster …`: what a person does before a cluster runs the control plane."""

from __future__ import annotations

import re
from pathlib import Path

from knhk.cli.arguments import KUBECONFIG
from knhk.cli.framework import Argument, Call, Outcome, command, noun
from knhk.cli.schema import array, boolean, integer, mapping, obj, string

noun("cluster", "What a Kubernetes cluster needs from a person")

_ORIGIN = re.compile(r"[a-z0-9.-]{1,253}(/[A-Za-z0-9._-]{1,64}){0,4}")


def _origin(text: str) -> str:
    if not _ORIGIN.fullmatch(text):
        raise ValueError("must be a name without a scheme, such as log.example.com/eu")
    return text


def _days(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 31):
        raise ValueError("must be 1 to 31")
    return int(text)


@command(
    ("cluster", "keys"),
    summary="Make the keys of a control plane, and the Secrets that give each process its own",
    arguments=(
        Argument("folder", help="where the keys lie; made when missing", kind=Path, metavar="DIR"),
        Argument("--origin", help="name of the log, for life: a domain of yours and a path", kind=_origin, required=True),
        Argument("--namespace", "-n", help="of the control plane (default: knhk-system)", default="knhk-system"),
        Argument("--anew", help="make role keys that are not in DIR anew; what the former ones sign counts no more", flag=True),
    ),
    output=obj(folder=string(), secrets=string(), root=string(), keyids=mapping(string()), next=array(string())),
    examples=("knhk cluster keys ./keys --origin log.example.com/eu",),
    detail="The root signs keys.json and is needed again for renewal within a year, and for new role keys: run the same\n"
    "command with root.key, keys.json and the role keys back in DIR, then apply the Secrets. Repeating it changes nothing before\n"
    "half of a year has passed. What is missing of a folder whose root is there it says, with how to read it from the cluster.\n"
    "The key of subjects is made with the first keys only: later, when it is not in DIR, its Secret is left out.",
)
def keys(call: Call) -> Outcome:
    from datetime import UTC, datetime

    from knhk.adapters.key_secrets import SUBJECTS, lacking, write_chapters, write_secrets
    from knhk.adapters.keys_ahead import demand_no_turns
    from knhk.adapters.signer_pkcs11 import TOKEN_FILE
    from knhk.adapters.wrapping_keys import FileWrapping
    from knhk.model.faults import Refused
    from knhk.wiring.signing import established
    from knhk_verify.signed import ROLES

    folder: Path = call.args.folder
    subjects, in_token = folder / "subjects.key", (folder / TOKEN_FILE).exists()
    if not call.args.anew and (faults := lacking(folder, call.args.namespace)):
        raise Refused(faults)
    if not in_token and not (folder / "keys.json").exists():  # later another would open nothing that the cluster keeps
        FileWrapping(folder).ensure()
    demand_no_turns(folder, "knhk cluster ahead")
    signer = established(folder, call.args.origin, datetime.now(UTC))
    lacks = not in_token and not subjects.exists()
    secrets = write_secrets(folder, call.args.namespace)
    return Outcome(
        {
            "folder": str(folder),
            "secrets": str(secrets),
            "root": (folder / "root.pub").read_text().strip(),
            "keyids": {role: signer.keyid(role) for role in ROLES},
            "next": [
                *_applied(secrets, write_chapters(folder, call.args.namespace)),
                f"move {folder / 'root.key'} to a safe place that no cluster reaches",
                f"delete {secrets} and the role keys here, or keep them where only you can read them",
                f"{subjects} is not here: Secret {SUBJECTS} is left as it is in the cluster"
                if lacks
                else "keep the key of subjects where only you can read it: without it no backup of knhk-keys can be opened",
            ],
        }
    )


def _applied(secrets: Path, chapters: Path | None) -> list[str]:
    """By the server: kubectl's own note of what it applied has no room for years of keys."""
    return [f"kubectl apply --server-side --force-conflicts -f {path}" for path in (chapters, secrets) if path is not None]


@command(
    ("cluster", "ahead"),
    summary="Make the turns of keys to come, which a cluster takes by itself while the root is away",
    arguments=(
        Argument("folder", help="of `knhk cluster keys`, with root.key", kind=Path, metavar="DIR"),
        Argument("--days", help="how far ahead: 1 to 31 (default 31)", kind=_days, default=31, metavar="N"),
        Argument("--namespace", "-n", help="of the control plane (default: knhk-system)", default="knhk-system"),
        Argument("--at-once", help="all keys anew now, in place of turns to come; what others sign from now on counts no more", flag=True),
    ),
    output=obj(folder=string(), secrets=string(), turns=integer(), ends=string(), next=array(string())),
    examples=("knhk cluster ahead ./keys", "knhk cluster ahead ./keys --days 14"),
    detail="The root signs the keys.json of each turn, over keys that are made with it: every 24 hours, with an overlap of 6, or as\n"
    "rotation.json in DIR says. What opens a role's keys is in the Secret of its process alone, the turns are in one that only\n"
    "CronJob knhk-turning reads. Say it again, with the same DIR, before they end: turns to come stay, more are added. --at-once is\n"
    "for a key that was stolen.",
)
def ahead(call: Call) -> Outcome:
    from knhk.adapters import keys_ahead
    from knhk.adapters.key_secrets import lacking, write_chapters, write_first, write_secrets
    from knhk.adapters.signer_pkcs11 import TOKEN_FILE
    from knhk.model.faults import Fault, Refused
    from knhk.wiring.home import local_user
    from knhk.wiring.turning import made_ahead
    from knhk_verify.signed import TIME

    folder, args = call.args.folder, call.args
    if (folder / TOKEN_FILE).exists():
        raise Refused([Fault(str(folder / TOKEN_FILE), "is there", "must be keys in files: a token gives none away")])
    if faults := lacking(folder, args.namespace):
        raise Refused(faults)
    if not (folder / "root.key").exists():
        must = "must be there: the root signs each turn; DIR is the folder of `knhk cluster keys`"
        raise Refused([Fault(str(folder / "root.key"), "is missing", must)])
    new, now = not (folder / keys_ahead.FILE).exists(), keys_ahead.in_utc()
    made = made_ahead(folder, now, args.days, local_user(), args.at_once)
    secrets = write_secrets(folder, args.namespace)
    first = [f"kubectl create -f {write_first(folder, args.namespace, made)}"] if new else []
    away = f"take {folder} to where root.key lies: it has every key to come, and what opens them"
    return Outcome(
        {
            "folder": str(folder),
            "secrets": str(secrets),
            "turns": sum(step.at > now for step in made.steps),
            "ends": f"{made.ends:{TIME}}",
            "next": [*first, *_applied(secrets, write_chapters(folder, args.namespace)), away],
        }
    )


@command(
    ("cluster", "turn"),
    summary="Bring into force what is due of the turns that were made ahead",
    arguments=(KUBECONFIG, Argument("--namespace", "-n", help="of the control plane (default: knhk-system)", default="knhk-system")),
    output=obj(changed=boolean(), at=string(), ends=string()),
    examples=("knhk cluster turn --kubeconfig admin.conf",),
    detail="What CronJob knhk-turning runs every few minutes; without --kubeconfig in the cluster that this pod runs in. It looks once:\n"
    "a turn that is due names its keys in keys.json, and five minutes later they sign.",
)
def turn(call: Call) -> Outcome:
    from knhk.adapters.keys_ahead import in_utc
    from knhk.wiring.turning import turn as turned

    return Outcome(turned(call.args.kubeconfig, call.args.namespace, in_utc()))
