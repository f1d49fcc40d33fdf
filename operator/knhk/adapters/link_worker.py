"""The process that links one pack: bounded by rlimits, no environment. Standard input: JSON {text, plan_digest, arch}; standard
output: the shared object. Exit 0, or 1 with the reason on standard error. Started by knhk.adapters.compiler_zig."""

from __future__ import annotations

import json
import resource
import sys

LIMITS = (
    (resource.RLIMIT_CPU, 120),  # seconds
    (resource.RLIMIT_AS, 8 << 30),  # bytes; zig maps much more than it touches
    (resource.RLIMIT_FSIZE, 1 << 30),
    (resource.RLIMIT_NOFILE, 512),
    (resource.RLIMIT_CORE, 0),
)


def _bound(what: int, wanted: int) -> None:
    _soft, hard = resource.getrlimit(what)
    value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(what, (value, value))


def main() -> int:
    """Link what standard input describes."""
    for what, wanted in LIMITS:
        _bound(what, wanted)
    from knhk.model.arrows import CText
    from knhk_hot import toolchain

    asked = json.load(sys.stdin.buffer)
    made = toolchain.link_pack(CText(asked["text"], asked["plan_digest"]), asked["arch"])
    sys.stdout.buffer.write(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
