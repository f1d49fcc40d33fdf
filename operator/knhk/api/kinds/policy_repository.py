"""PolicyRepository: a Git repository that carries all kinds."""

from __future__ import annotations

from knhk.api.kinds.common import COLUMNS, HISTORY, NAME_RULE, SOURCE, STATUS_FIELDS, choice, commit, name, reference, suspend
from knhk.api.rules import matches
from knhk.api.shape import Int, Kind, List, Obj, Rule, Str


def _url(doc: str) -> Str:
    return Str(
        doc,
        max=1024,
        min=1,
        rules=(
            matches(
                r"^(https?|ssh|file)://[^ \"'<>\\\\^`{|}]+$",
                "must be a URL of scheme https, http, ssh or file, such as https://git.example.com/erp/policies.git",
            ),
            Rule(
                "!self.matches('://[^/@]*:[^/@]*@')",
                "must not carry a password: name it in credentials.secretRef",
                lambda v: ":" not in v.partition("://")[2].partition("/")[0].rpartition("@")[0],
            ),
        ),
    )


_SIGNER = Obj(
    "Whose signature counts here.",
    {
        "name": Str("Name of the signer, as an e-mail address.", max=253, min=1),
        "user": Str("Which user this is, for readers; which users authors are is said by an administrator.", max=253, min=1),
        "key": Str("Public key: a line of OpenSSH, or an armoured OpenPGP block.", max=16_384, min=1),
    },
    required=("name", "key"),
)

LATER_FORGES = {
    kind: f"must be Gitea for now; the API of {kind} is not spoken yet: run knhk pack check --git in its CI"
    for kind in ("GitHub", "GitLab")
}

SPEC = Obj(
    "Where the resources come from, and who may write them.",
    {
        "url": _url("Address of the repository."),
        "branch": Str(
            "Branch whose commits are applied. Default: main.",
            max=255,
            min=1,
            rules=(matches(r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", "must be the name of a branch, such as main"),),
            default="main",
        ),
        "paths": List(
            "Files that are read, as glob patterns from the root; ** is any number of folders. Default: **/*.yaml.",
            Str(
                "A glob pattern.",
                max=512,
                min=1,
                rules=(
                    Rule("!self.startsWith('/')", "must be relative to the root of the repository", lambda v: not v.startswith("/")),
                    Rule(
                        "!self.matches('(^|/)[.]{1,2}(/|$)')",
                        "must not have . or .. as a segment",
                        lambda v: not {".", ".."} & set(v.split("/")),
                    ),
                ),
            ),
            max=64,
            min=1,
            default=("**/*.yaml",),
        ),
        "intervalSeconds": Int("How often it is looked at. Default: 60.", min=5, max=86_400, default=60),
        "credentials": Obj(
            "How to read it; read-only is enough. Left out: it is public.",
            {"secretRef": reference("A Secret with username and password, or identity and known_hosts.")},
            required=("secretRef",),
        ),
        "signature": Obj(
            "Whose commits are applied.",
            {
                "require": choice("None, or Signed: by one of the signers.", "None", "Signed", max=8, default="None"),
                "signers": List("Signers, in place.", _SIGNER, max=64, key="name", default=()),
                "secretRef": reference("A Secret with further signers: allowed_signers, as ssh-keygen reads it."),
            },
            rules=(
                Rule(
                    "!has(self.require) || self.require != 'Signed' || size(self.signers) > 0 || has(self.secretRef)",
                    "must name signers or secretRef when require is Signed",
                    lambda v: v["require"] != "Signed" or bool(v["signers"]) or "secretRef" in v,
                    ("require", "signers", "secretRef"),
                ),
            ),
            default={},
        ),
        "webhook": Obj(
            "Pushes that are told by a signed request; left out: it is only polled.",
            {"secretRef": reference("A Secret with token: the key of the signature.")},
            required=("secretRef",),
        ),
        "forge": Obj(
            "Where a rollback opens its revert, and pull requests get their status.",
            {
                "kind": choice("None or Gitea.", "None", "Gitea", "GitHub", "GitLab", max=8, default="None", later=LATER_FORGES),
                "url": _url("Address of its API."),
                "secretRef": reference("A Secret with token."),
            },
            rules=(
                Rule(  # a default is judged before those inside it are filled in
                    "!has(self.kind) || self.kind != 'Gitea' || has(self.url)",
                    "must have url when kind is Gitea",
                    lambda v: v["kind"] != "Gitea" or "url" in v,
                    ("kind", "url"),
                ),
                Rule(
                    "!has(self.kind) || self.kind == 'None' || has(self.secretRef)",
                    "must have secretRef unless kind is None",
                    lambda v: v["kind"] == "None" or "secretRef" in v,
                    ("kind", "secretRef"),
                ),
            ),
            default={},
        ),
        "suspend": suspend("Pull and apply nothing; what is applied stays."),
    },
    required=("url",),
)

STATUS = Obj(
    "What is.",
    {
        **STATUS_FIELDS,
        "commit": commit("Commit that is applied."),
        "revision": Str("Branch and commit, as BRANCH@sha1:COMMIT.", max=384),
        "signer": Str("Signer of the commit.", max=253),
        "lastPull": Str("When the repository was last read, RFC 3339.", max=40),
        "applied": List(
            "Resources that the commit carries, and those that it took away until they are gone, or that may not go.",
            Obj(
                "One resource.",
                {
                    "kind": Str("Its kind.", max=64),
                    "namespace": name("Its namespace."),
                    "name": name("Its name."),
                    "path": Str("File in the repository.", max=1024),
                    "commit": commit("Commit that changed it last."),
                    "digest": Str("SHA-256 of its spec, hexadecimal.", max=64),
                },
                required=("kind", "namespace", "name"),
            ),
            max=1024,
        ),
        "commits": List("Commits that the resources come from, and who stands behind them.", SOURCE, max=1024, key="commit"),
        "conflicts": List(
            "Resources that are left as they are, because a person, or another repository, wrote them.",
            Obj(
                "One resource.",
                {
                    "object": Str("Kind, namespace and name.", max=192),
                    "reason": Str("Why it is left.", max=1024),
                },
                required=("object", "reason"),
            ),
            max=512,
        ),
        "denied": List(
            "Commits that are not applied again: what they brought was rolled back, or they break the signature policy.",
            Obj(
                "One commit.",
                {
                    "commit": commit("The commit."),
                    "reason": Str("Why.", max=1024),
                    "time": Str("Since when, RFC 3339.", max=40),
                    "revert": Str("Address of the pull request that reverts it, or why people must do it.", max=1024),
                },
                required=("commit", "reason", "time"),
            ),
            max=32,
            key="commit",
        ),
        "history": HISTORY,
    },
)

POLICY_REPOSITORY = Kind(
    kind="PolicyRepository",
    plural="policyrepositories",
    short=("repo", "prepo"),
    doc="A Git repository that carries resources of all kinds: pulled, verified and applied commit by commit.",
    spec=SPEC,
    status=STATUS,
    columns=(
        COLUMNS[0],
        ("Branch", "string", ".spec.branch", 0),
        COLUMNS[1],
        COLUMNS[2],
        ("Commit", "string", ".status.commit", 1),
        ("URL", "string", ".spec.url", 1),
    ),
    rules=(NAME_RULE,),
)
