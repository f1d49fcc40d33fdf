# Reflex Enterprise: one command for each habit. `make` lists them.
# All of set-up lives in .venv and .stamps; stamps make repeats cheap, `make clean` removes them.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS   += --no-builtin-rules --no-print-directory

# Images of Python set it. Each of the thousands of processes of a run would then compile anew all that it imports.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
PY     := .venv/bin/python
STAMPS := .stamps

# Source roots, each with one package, and the code around them.
PACKAGES   := operator/knhk generators/knhk_gen templates/knhk_templates hot_c/knhk_hot \
              runtime/knhk_runtime verifier/knhk_verify
AROUND     := $(foreach d,examples bench tests tools,$(if $(shell find $(d) -name '*.py' 2>/dev/null | head -1),$(d)))

# Debian packages that only tests need, for example: clang for libFuzzer. Installed by `make test`
# when run as root, else named in a message. Empty it to skip: make test APT_TEST_PACKAGES=
APT_TEST_PACKAGES ?= gcc git libc6-dev openssh-client qemu-user docker-registry softhsm2
# Those of a Kubernetes node, which only root can run: `make test` and `make cluster` install them when run as root.
APT_NODE_PACKAGES ?= containerd containernetworking-plugins docker-registry gcc iproute2 libc6-dev nftables runc
# And those of `make fuzz`: libFuzzer is clang's.
APT_FUZZ_PACKAGES ?= clang libclang-rt-dev

# What writes committed files: scripts first, then modules, in order; and the paths they write.
# `make verify` runs them again and fails if a byte changes. The chart is made of what the others write: it comes last.
GENERATORS        ?= $(filter-out tools/gen_chart.py,$(sort $(wildcard tools/gen_*.py))) tools/gen_chart.py
GENERATOR_MODULES ?=
GENERATED         ?= crds manifests/base/admission/webhooks.yaml manifests/chart docs/roles/matrix.md hot_c/envoy/abi.h docs/failure-modes.md docs/conformance.md

PYTEST_ARGS ?=
# Of `make test`: the groups `cluster` and `node` mostly wait for their servers, side by side, while a third worker computes.
TEST_WORKERS ?= 3
NATIVE_SOURCES := $(shell find hot_c -type f \( -name '*.[ch]' -o -name '*.zig' -o -name '*.cdef' -o -name '*.j2' \
                    -o -name '*.py' \) -not -path '*/build/*' -not -name '_*.c' 2>/dev/null)

# Digest of every generated file, into $(STAMPS)/generated.<argument>.
digests = { find $(wildcard $(GENERATED)) /dev/null -type f -print0 | sort -z | \
            xargs -0 -r sha256sum > $(STAMPS)/generated.$(1); }

.PHONY: help setup setup-dev images demo test test-fast test-cluster cluster cluster-down demo-cluster bench-cluster gen verify bench fuzz sim kills cases lock clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(STAMPS)/native ## everything a user needs, into .venv (no root needed)

setup-dev: $(STAMPS)/dev $(STAMPS)/native ## set-up plus what tests and checks need

images: setup ## container images of the product into build/images, without Docker; IMAGES_ARGS="--push URL" pushes them
	@$(PY) tools/images.py build $(IMAGES_ARGS)

demo: setup ## play the story from a policy to verified receipts; writes demo.json
	@$(PY) examples/order_to_cash/demo.py --out demo.json

# Without Go there is no Kubernetes here: its tests are then named as not run, and with CI=true they fail.
test: setup-dev $(STAMPS)/apt $(STAMPS)/apt-node ## all tests; builds the servers and programs of others that they need, once (needs Go)
	@$(PY) tests/cluster/cluster.py build --quiet || echo "test: the tier cluster will not be run" >&2
	@$(PY) tests/witness/litewitness_binary.py >/dev/null || echo "test: the tests with a witness that others wrote will not be run" >&2
	@$(PY) tests/helm/helm_binaries.py >/dev/null || echo "test: the tests of the chart by Helm will not be run" >&2
	@$(PY) tests/foreign/cert_manager_binaries.py >/dev/null || echo "test: the test with cert-manager will not be run" >&2
	@$(PY) tests/foreign/metrics_server_binary.py >/dev/null || echo "test: the test of the autoscaler will not be run" >&2
	@$(PY) tests/foreign/argocd_binary.py >/dev/null || echo "test: the test with Argo CD's engine will not be run" >&2
	@$(PY) tests/foreign/argocd_controllers_binary.py >/dev/null || echo "test: the test with Argo CD's controllers will not be run" >&2
	@$(PY) tests/foreign/flux_binaries.py >/dev/null || echo "test: the test with Flux's controllers will not be run" >&2
	@$(PY) tests/sigstore/sigstore_binaries.py >/dev/null || echo "test: the tests with cosign and a private sigstore will not be run" >&2
	@$(PY) tests/gitops/gitea_binaries.py >/dev/null || echo "test: the tests of the tier gitops on a real Gitea will not be run" >&2
	@$(PY) tests/storage/versitygw_binary.py >/dev/null || echo "test: the tests of stores on a real S3 server will not be run" >&2
	@$(PY) -m pytest -n $(TEST_WORKERS) --dist loadgroup $(PYTEST_ARGS)

test-fast: setup-dev ## tests that need no server and take no time
	@$(PY) -m pytest -n 2 --dist loadgroup -m "not slow and not server and not cluster" $(PYTEST_ARGS)

test-cluster: setup-dev $(STAMPS)/apt-node ## the tests on a real Kubernetes alone
	@$(PY) tests/cluster/cluster.py build --quiet
	@$(PY) tests/helm/helm_binaries.py >/dev/null
	@$(PY) tests/foreign/cert_manager_binaries.py >/dev/null
	@$(PY) tests/foreign/argocd_binary.py >/dev/null
	@$(PY) tests/foreign/metrics_server_binary.py >/dev/null
	@$(PY) tests/foreign/argocd_controllers_binary.py >/dev/null
	@$(PY) tests/foreign/flux_binaries.py >/dev/null
	@$(PY) tests/gitops/gitea_binaries.py >/dev/null
	@$(PY) -m pytest -n 0 -m cluster tests/cluster $(PYTEST_ARGS)

demo-cluster: setup-dev $(STAMPS)/apt-node ## the same story on a real Kubernetes with pods (root, Go); writes demo-cluster.json
	@$(PY) tests/cluster/demo_on_a_node.py --out demo-cluster.json

cluster: setup-dev $(STAMPS)/apt-node ## a real Kubernetes, with a node where this machine can (KNHK_NODE=0: without); prints where its kubeconfig is
	@$(PY) tests/cluster/cluster.py up .cluster

cluster-down: setup-dev ## end what `make cluster` started, and remove it
	@$(PY) tests/cluster/cluster.py down .cluster

gen: setup-dev ## write all generated files again
	@for g in $(GENERATORS); do echo "gen: $$g"; $(PY) $$g; done
	@for m in $(GENERATOR_MODULES); do echo "gen: $$m"; $(PY) -m $$m; done

verify: setup-dev ## format, lint, types, floors, C warnings, fresh generated files
	@echo "verify: ruff format"; .venv/bin/ruff format --check --no-cache --quiet .
	@echo "verify: ruff check";  .venv/bin/ruff check --no-cache --quiet .
	@echo "verify: mypy --strict"; .venv/bin/mypy --no-error-summary $(PACKAGES)
	@if [ -n "$(AROUND)" ]; then echo "verify: mypy around"; \
	  .venv/bin/mypy --no-error-summary --config-file tools/mypy-around.ini $(AROUND); fi
	@echo "verify: import contracts"; .venv/bin/lint-imports --no-cache --no-logo
	@if [ -f hot_c/knhk_hot/build.py ]; then echo "verify: C warnings"; \
	  $(PY) -m knhk_hot.build --check-warnings; fi
	@echo "verify: locks";       $(PY) tools/check_locks.py
	@echo "verify: generated files are fresh"
	@$(call digests,before); $(MAKE) gen; $(call digests,after)
	@diff $(STAMPS)/generated.before $(STAMPS)/generated.after || \
	  { echo "generated files are stale: 'make gen' has just renewed them; review and commit" >&2; exit 1; }

bench: setup-dev $(STAMPS)/bench ## figures of the hot path, as ratios with anchors beside
	@$(PY) -m bench $(BENCH_ARGS)

bench-cluster: setup-dev ## figures of the control plane on a real API server: cold start, lanes, builds, edits, fail-over, objects, receipts
	@$(PY) tests/cluster/cluster.py build --quiet
	@$(PY) tests/sigstore/sigstore_binaries.py
	@$(PY) -m bench.cluster_cold_start
	@$(PY) -m bench.cluster_lanes
	@$(PY) -m bench.cluster_builds
	@$(PY) -m bench.cluster_many
	@$(PY) -m bench.cluster_edit
	@$(PY) -m bench.cluster_failover
	@$(PY) -m bench.cluster_objects
	@$(PY) -m bench.receipts
	@$(PY) -m bench.receipt_cap

fuzz: setup-dev $(STAMPS)/apt-fuzz ## search all fuzz harnesses for FUZZ_MINUTES of wall time (60), as many at a time as there are cores
	@$(PY) tests/fuzz/campaign.py --minutes $${FUZZ_MINUTES:-60}

sim: setup-dev ## the control plane, the log, then regions and witnesses, under SIM_SEEDS seeds (10000) from SIM_START (0), on every core; ends at the first that breaks a law
	@$(PY) tests/sim/run.py --start $${SIM_START:-0} --seeds $${SIM_SEEDS:-10000}
	@$(PY) tests/sim/run.py --world log --start $${SIM_START:-0} --seeds $${SIM_SEEDS:-10000}
	@$(PY) tests/sim/run.py --world regions --start $${SIM_START:-0} --seeds $${SIM_SEEDS:-10000}

kills: setup-dev ## SIGKILL at random steps within append, flush, tile, checkpoint, upload, rotation and merge, KNHK_STAGED_KILLS (75) of each; says how many hit what
	@KNHK_STAGED_KILLS=$${KNHK_STAGED_KILLS:-75} $(PY) -m pytest -q -n 0 -rP tests/storage/test_staged_kills.py $(PYTEST_ARGS)

cases: setup-dev ## differential cases and laws with KNHK_CASES examples (100000)
	@KNHK_CASES=$${KNHK_CASES:-100000} HYPOTHESIS_PROFILE=dev $(PY) -m pytest -n 2 --timeout 0 tests/property tests/mapping/test_oracle.py $(PYTEST_ARGS)

lock: setup-dev ## resolve pyproject.toml into the lock files; LOCK_ARGS="--upgrade" moves pins
	@tools/lock.sh $(LOCK_ARGS)

clean: ## remove the set-up and everything built
	@rm -rf .venv $(STAMPS) build dist hot_c/build .mypy_cache .ruff_cache .pytest_cache \
	  .hypothesis .import_linter_cache
	@find hot_c/knhk_hot -name '_*.c' -delete -o -name '*.so' -delete
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- stamps ----------------------------------------------------------------------------------

$(STAMPS)/user: requirements.lock pyproject.toml tools/setup.py
	@$(PYTHON) tools/setup.py user

$(STAMPS)/dev: requirements-dev.lock $(STAMPS)/user
	@$(PYTHON) tools/setup.py dev

$(STAMPS)/bench: requirements-bench.lock $(STAMPS)/dev
	@$(PYTHON) tools/setup.py bench

$(STAMPS)/native: $(STAMPS)/user $(NATIVE_SOURCES)
	@$(PYTHON) tools/setup.py native

$(STAMPS)/apt: Makefile
	@tools/apt_packages.sh $(APT_TEST_PACKAGES)
	@mkdir -p $(STAMPS); touch $@

# Not an error where they cannot be had: the tests that need a node say what is missing, and in CI they fail.
$(STAMPS)/apt-node: Makefile
	@if [ "$$(id -u)" -ne 0 ]; then echo "no Kubernetes node here, for only root can run one"; \
	  else tools/apt_packages.sh $(APT_NODE_PACKAGES) || echo "no Kubernetes node here (see above)" >&2; fi
	@mkdir -p $(STAMPS); touch $@

$(STAMPS)/apt-fuzz: Makefile
	@tools/apt_packages.sh $(APT_FUZZ_PACKAGES)
	@mkdir -p $(STAMPS); touch $@
