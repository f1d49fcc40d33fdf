#!/usr/bin/env bash
# Resolve pyproject.toml into requirements.lock, requirements-dev.lock and requirements-bench.lock, with hashes, for every
# platform. Needs uv (`make lock` installs it into .venv). Extra arguments go to uv, for example
# `tools/lock.sh --upgrade` or `tools/lock.sh --upgrade-package kopf`; without them pins stay.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}
compile=("$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes
  --no-emit-index-url --custom-compile-command "make lock")

# The lock of users: run-time dependencies and the build backend of the editable install.
"${compile[@]}" "$@" --group build --output-file requirements.lock pyproject.toml
# The lock of developers is a superset with the same pins, so that it can be installed on top.
"${compile[@]}" "$@" --group build --group dev --constraint requirements.lock \
  --output-file requirements-dev.lock pyproject.toml
# What `make bench` adds: a superset of the developers' lock.
"${compile[@]}" "$@" --group build --group dev --group bench --constraint requirements-dev.lock \
  --output-file requirements-bench.lock pyproject.toml
