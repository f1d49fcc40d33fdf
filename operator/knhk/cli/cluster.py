"""`knhk cluster …`: what a person does before a cluster runs the control plane."""

from __future__ import annotations

import re
from pathlib import Path

from knhk.cli.framework import Argument, Call, Outcome, command, noun
from knhk.cli.schema import array, mapping, obj, string

noun("cluster", "What a Kubernetes cluster needs from a person")

_ORIGIN = re.compile(r"[a-z0-9.-]{1,253}(/[A-Za-z0-9._-]{1,64}){0,4}")


def _origin(text: str) -> str:
    if not _ORIGIN.fullmatch(text):
        raise ValueError("must be a name without a scheme, such as log.example.com/eu")
    return text


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

    from knhk.adapters.key_secrets import SUBJECTS, lacking, write_secrets
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
                f"kubectl apply -f {secrets}",
                f"move {folder / 'root.key'} to a safe place that no cluster reaches",
                f"delete {secrets} and the role keys here, or keep them where only you can read them",
                f"{subjects} is not here: Secret {SUBJECTS} is left as it is in the cluster"
                if lacks
                else "keep the key of subjects where only you can read it: without it no backup of knhk-keys can be opened",
            ],
        }
    )
