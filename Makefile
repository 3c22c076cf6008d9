# `make` lists what there is. Each target does its own set-up.
.DEFAULT_GOAL := help
.PHONY: help setup sandbox demo test hostile clients validators fuzz qemu lint types spec bench lock clean nat

PY := .venv/bin/python

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' Makefile

setup: ## Make the Python environment from the lock file
	@scripts/setup

sandbox: setup ## Get gVisor and build the base image, where this machine can run them
	@scripts/sandbox

demo: sandbox ## Start a network, train a model on a rented machine, settle, tell the story (ENGINE=cometbft: four validators)
	@$(PY) tools/demo.py

test: setup ## Lint, types and every test
	@scripts/test

hostile: sandbox ## Attack a provider and a renter, each attack with a control that shows it working
	@scripts/get-nft .cache/bin
	@$(PY) -m pytest -q tests/hostile

clients: setup ## Drive a node with every outside Polkadot client, into build/clients.json (needs Node.js)
	@$(PY) -m tests.clients

validators: setup ## Have four validators die, halt, resume, sync and cheat under load, into build/validators.json (needs root)
	@scripts/get-skewed-cometbft .cache/bin
	@$(PY) -m tests.validators

qemu: sandbox ## Boot Debian with systemd and cgroup version 2, and test the limits there (10 minutes)
	@scripts/qemu

fuzz: setup ## Feed every parser of outside bytes with bytes that are nearly right, for a long time
	@HYPOTHESIS_PROFILE=night $(PY) -m pytest -q --timeout=3600 tests/fuzz tests/net/test_messages.py tests/client/test_results.py tests/client/test_keystore.py tests/provider/test_helper.py
	@mkdir -p build && PYTHONPATH=$$($(PY) -c 'from tests.installed import packages; print(packages("fuzz"))') \
	  $(PY) -m tests.fuzz.node_fuzz --runs 1000000 --report build/fuzz.json

lint: setup ## ruff, import floors, determinism, types
	@scripts/lint

spec: setup ## Generate docs/spec from the pallets
	@$(PY) tools/spec.py

bench: sandbox ## Measure, write build/bench.json and docs/benchmarks.md
	@$(PY) -m bench

nat: sandbox ## Reach a machine 20 times between two NATs, and 20 times each without UDP at either side
	@NAT_RUNS=20 $(PY) -m pytest -q -rA --timeout 900 tests/e2e/nat_runs.py

lock: ## Renew the hashed lock files (needs uv)
	@scripts/lock

clean: ## Remove what was built
	@rm -rf .venv .cache build
