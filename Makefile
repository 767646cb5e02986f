# Verbs of the project. Each sets up what it needs; a second run is quick.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CLUSTER := tests/support/cluster
export PARLEY_CACHE ?= $(HOME)/.cache/parley
export PATH := $(CURDIR)/$(BIN):$(PARLEY_CACHE)/bin:$(PATH)
PACKAGES := parley_operator parley_worker parley_realtime parley_scenario parley_opus parley_client parley_local
SOURCES := operator mediaworker client localprovider tests examples docs
UV_COMPILE := uv pip compile --quiet --no-header --no-annotate --generate-hashes --no-emit-index-url --no-emit-find-links --universal --python-version 3.11
PEERS_VENV ?= .venv-peers
PEERS_STAMP = $(PEERS_VENV)/.parley-$(shell sha256sum requirements/peers.txt 2>/dev/null | cut -c1-16)
BENCH_PEERS := floor pipecat livekit
SETUP_STAMP := $(VENV)/.parley-$(shell cat requirements/uv.txt requirements/dev.txt pyproject.toml 2>/dev/null | sha256sum | cut -c1-16)

help: ## List the verbs
	@grep -hE '^[a-z][a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: $(SETUP_STAMP) ## Make the virtual environment from the pins

$(SETUP_STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Parley needs Python 3.11 or newer: set PYTHON=/path/to/python3.11")'
	@$(PYTHON) -m venv --help >/dev/null 2>&1 || { echo "python3-venv is missing: apt-get install python3-venv"; exit 1; }
	@echo "== setting up $(VENV)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --require-hashes requirements/dev.txt
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.parley-*; touch $@

peers: $(PEERS_STAMP) ## Make the environment of the independent clients from their pins

$(PEERS_STAMP): | $(SETUP_STAMP)
	@echo "== setting up $(PEERS_VENV)"
	test -x $(PEERS_VENV)/bin/python || $(PYTHON) -m venv --without-pip $(PEERS_VENV)
	VIRTUAL_ENV=$(PEERS_VENV) $(BIN)/uv pip sync --quiet --require-hashes requirements/peers.txt
	@rm -f $(PEERS_VENV)/.parley-*; touch $@

BENCH ?=
PLACEMENT ?=
COMPILED ?= true
BENCHES := bench-density bench-latency bench-soak bench-storm bench-events
# The bench's worker is as its image has it. COMPILED=false: pure Python.
ifeq ($(COMPILED),true)
$(BENCHES): compiled
$(BENCHES): export PARLEY_BENCH_COMPILED := $(CURDIR)/build/compiled
else ifneq ($(COMPILED),false)
$(error COMPILED is true or false, not '$(COMPILED)')
endif
bench-ground: setup loadgen
	@command -v nats-server >/dev/null || $(CLUSTER)/build.sh nats-server

bench-density: bench-ground bench-peers ## What a session costs, and sessions a core, ours beside the peers' (40 minutes with the short scenario)
	$(BIN)/parley bench density $(BENCH)

bench-latency: bench-ground ## What a worker adds at shares of its capacity, with a plot (after bench-density)
	$(BIN)/parley bench latency $(BENCH)

bench-soak: bench-ground ## 30 minutes of calls coming and going (after bench-density)
	$(BIN)/parley bench soak $(BENCH)

bench-storm: bench-ground ## Arrivals in a second, and more than there is room for (after bench-density)
	$(BIN)/parley bench storm $(BENCH)

bench-events: bench-ground ## Records into JetStream, and what listeners cost
	$(BIN)/parley bench events $(BENCH)

bench-report: setup ## Write docs/benchmarks/ from the results in build/bench
	$(BIN)/parley bench report $(wildcard build/bench/*.json)

bench-peers: setup $(BENCH_PEERS:%=bench-peer-%) ## Make the environments of the systems that the bench compares with
	@$(CLUSTER)/build.sh livekit-server

# An environment for each, with the wire of the floor generated into its own.
bench-peer-%: requirements/bench-%.txt tests/load/peers/floor.proto
	@stamp=.venv-bench-$*/.parley-$$(cat $^ | sha256sum | cut -c1-16); test -e $$stamp || { \
	  echo "== setting up .venv-bench-$*" \
	  && { test -x .venv-bench-$*/bin/python || $(PYTHON) -m venv --without-pip .venv-bench-$*; } \
	  && VIRTUAL_ENV=.venv-bench-$* $(BIN)/uv pip sync --quiet --require-hashes $< \
	  && site=$$(.venv-bench-$*/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
	  && { test $* != floor || $(BIN)/python -m grpc_tools.protoc -I tests/load/peers --python_out=$$site --grpc_python_out=$$site floor.proto; } \
	  && rm -f .venv-bench-$*/.parley-* && touch $$stamp; }

programs: ## Install or build what the demo needs (flite, libopus, nats-server)
	@$(CLUSTER)/packages.sh speech
	@command -v nats-server >/dev/null || $(CLUSTER)/build.sh nats-server

demo: setup programs ## Hear an agent answer a spoken question, on this machine
	@$(BIN)/parley demo --out build/demo

test: setup ## Everything: lint, types, contracts, chart and every rung of tests, the cluster included
	@$(BIN)/python tests/support/run_rungs.py all

lint: setup ## ruff, import contracts, buf lint, format and breaking
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/lint-imports
	$(BIN)/buf lint proto
	$(BIN)/buf format proto --diff --exit-code
	@proto/breaking.sh

types: setup ## mypy --strict
	$(BIN)/mypy
	$(BIN)/mypy $(wildcard tests/load/peers/*.py)

gen: setup ## Generate Python from the contracts
	proto/generate.sh

verify-gen: setup ## The checked-in generated code is what the contracts give
	@rm -rf build/gen && proto/generate.sh build/gen >/dev/null 2>&1 && diff -r -x __pycache__ build/gen proto/gen/python && echo "generated code is current"

unit: setup ## No sockets, virtual time
	$(BIN)/pytest tests/unit

compiled: setup ## Compile the worker's hot modules into build/compiled, once for the same sources (1 to 2 minutes)
	$(BIN)/python mediaworker/compile.py build/compiled

test-compiled: export PYTHONPATH := $(CURDIR)/build/compiled
test-compiled: compiled ## The unit tests of worker and client library on the compiled modules
	$(BIN)/python -c 'import sys; from parley_worker.compiled import is_compiled; sys.exit(not is_compiled())'
	$(BIN)/pytest tests/unit/parley_worker tests/unit/parley_realtime tests/unit/repo/test_compiled.py

FUZZ_SECONDS ?= 60
FUZZ_ENGINE := build/atheris/.parley-$(shell sha256sum requirements/fuzz.txt 2>/dev/null | cut -c1-16)

fuzz: setup ## Fuzz every parser and state machine, FUZZ_SECONDS (60) for each target
	@test -e $(FUZZ_ENGINE) || { rm -rf build/atheris; \
	  $(BIN)/uv pip install --quiet --target build/atheris --require-hashes -r requirements/fuzz.txt \
	  && mkdir -p build/atheris && touch $(FUZZ_ENGINE) \
	  || echo "atheris cannot be installed here: mutations without coverage are used"; }
	@PYTHONPATH=build/atheris $(BIN)/python tests/fuzz/run.py --seconds $(FUZZ_SECONDS)

ground-conformance: programs peers
ground-integration: programs cluster-tools loadgen
ground-e2e: programs cluster-tools

integration: setup ground-integration ## Real nats-server, gRPC and WebSocket on loopback
	$(BIN)/pytest tests/integration

conformance: setup ground-conformance ## Independent clients and servers
	$(BIN)/pytest tests/conformance

e2e: setup ground-e2e ## A real cluster: ours, or the one of KUBECONFIG
	$(BIN)/pytest tests/e2e

CASES ?=
chaos: setup ground-e2e ## Break things on a cluster while sessions talk; CASES="node-kill api-down" for some (all: 15 minutes)
	$(BIN)/python tests/support/chaos_run.py $(CASES)

chaos-report: setup ## Write docs/benchmarks/chaos.md from build/chaos.json
	$(BIN)/python tests/support/chaos_run.py --report build/chaos.json docs/benchmarks/chaos.md

loadgen: ## Build the load program (build/bin/parley-loadgen) and test it
	@tests/load/loadgen/build.sh

load-restart: setup ## An operator that restarts, and one that takes over, with 5,000 live sessions (10 minutes)
	@$(CLUSTER)/build.sh etcd kube-apiserver
	$(BIN)/python tests/load/operator_restart.py $(RESTART)

load-placement: setup ## Create to Ready by both paths, beside a floor that makes the same writes (5 minutes)
	@$(CLUSTER)/build.sh etcd kube-apiserver
	$(BIN)/python tests/load/placement/run.py $(PLACEMENT)

chart-test: setup cluster-tools ## helm lint, rendered and compared, kubeconform
	$(CLUSTER)/../chart/chart-test.sh

cluster-tools:
	@$(CLUSTER)/packages.sh
	@$(CLUSTER)/build.sh

images: setup cluster-tools ## Build the images with buildah
	$(CLUSTER)/images.sh build

cluster-up: images ## Boot a real Kubernetes cluster of NODES (2) nodes on this machine
	NODES=$${NODES:-2} $(CLUSTER)/up.sh
	@$(CLUSTER)/images.sh load | $(CLUSTER)/values.sh build/images.yaml

cluster-down: ## End it and leave nothing
	$(CLUSTER)/down.sh

docs: setup ## Generate the reference pages and check every link
	$(BIN)/python docs/generate.py

verify-docs: setup
	@$(BIN)/python docs/generate.py --check

format: setup ## Format the Python and the contracts
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/buf format -w proto

lock: setup ## Compile the pins anew from pyproject.toml
	$(UV_COMPILE) pyproject.toml --all-extras --group dev -o requirements/dev.txt
	$(UV_COMPILE) --group compile -c requirements/dev.txt -o requirements/compile.txt
	$(UV_COMPILE) --group peers -o requirements/peers.txt
	$(UV_COMPILE) --group bench-floor -c requirements/dev.txt -o requirements/bench-floor.txt
	for peer in pipecat livekit; do $(UV_COMPILE) --group bench-$$peer -o requirements/bench-$$peer.txt; done
	echo "atheris==3.0.0; python_version < '3.14' and sys_platform == 'linux'" | $(UV_COMPILE) - -o requirements/fuzz.txt
	for extra in operator worker local; do $(UV_COMPILE) pyproject.toml --extra $$extra -c requirements/dev.txt -o requirements/$$extra.txt; done
	echo hatchling==1.33.0 | $(UV_COMPILE) - -o requirements/build.txt

clean: ## Remove what the build made in the tree
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

.PHONY: compiled test-compiled load-restart load-placement chaos chaos-report bench-ground bench-density bench-latency bench-soak bench-storm bench-events bench-report bench-peers help setup peers programs demo test lint types gen verify-gen unit fuzz integration conformance e2e loadgen chart-test cluster-tools ground-integration ground-conformance ground-e2e images cluster-up cluster-down docs verify-docs format lock clean
