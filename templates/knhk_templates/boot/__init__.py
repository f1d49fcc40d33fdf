"""The files of a new policy repository: wording only. Texts of people go into YAML as indented blocks or as JSON strings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import jinja2

FILES: Final[Mapping[str, str]] = {
    "pack.yaml": "pack.yaml.j2",
    "tests.yaml": "tests.yaml.j2",
    "README.md": "README.md.j2",
    "CODEOWNERS": "CODEOWNERS.j2",
    ".github/workflows/policy.yaml": "policy.yaml.j2",
    ".gitignore": "gitignore.j2",
}

_TEMPLATES: Final = jinja2.Environment(
    loader=jinja2.PackageLoader("knhk_templates", "boot"),
    undefined=jinja2.StrictUndefined,
    autoescape=False,  # YAML and Markdown, not HTML
    keep_trailing_newline=True,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(values: Mapping[str, Any]) -> dict[str, str]:
    """Path → text of each file. `values`: name, namespace, owner, version of the tool, sources, route, cases."""
    return {path: _TEMPLATES.get_template(template).render(values) for path, template in FILES.items()}
