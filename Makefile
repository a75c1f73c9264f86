# mailbridge: `make` lists what there is. Everything lives in .venv; nothing needs root, except
# `make test`, which installs the mail servers and PostgreSQL of the distribution when missing.
# Pass options with ARGS, e.g. `make demo ARGS=--once` or `make test ARGS="-k webhook"`.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
# where Debian keeps servers, and an ordinary user does not look
export PATH := $(PATH):/usr/sbin:/sbin

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint check format lock crash-test kill-test power-cut disk-full \
    refresh-test send-test delivery-test service-test network-test soak bench bench-push bench-routes bench-parse corpus-test dist docs clean servers runtime dev

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-19s%s\n", $$1, $$2}'

demo: runtime ## the main job on a sandbox tenant, SQLite and a built-in receiver; Ctrl-C ends it
	@$(BIN)/mailbridge demo $(ARGS)

test: dev servers ## install real servers when missing, run the whole suite against them
	@$(BIN)/pytest -q -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

lint: dev ## style, types and the arrows between modules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test ## all checks, the same that CI runs

format: dev ## let ruff lay out the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

crash-test: kill-test power-cut disk-full ## nothing is lost: the three campaigns below

kill-test: dev servers ## kill -9 of the daemon under load: tried / lost / doubled
	@$(BIN)/python -m tests.campaigns.crash $(ARGS)

power-cut: dev servers ## rebuild the database as power cuts would leave it
	@$(BIN)/python -m tests.campaigns.power_cut $(ARGS)

disk-full: dev servers ## fill the disk, free it again
	@$(BIN)/python -m tests.campaigns.disk_full $(ARGS)

delivery-test: dev ## kill at every step of an attempt, a week's outage, hostile neighbours
	@$(BIN)/python -m tests.campaigns.delivery $(ARGS)

refresh-test: dev servers ## kill -9 at each step of a refresh: tried / lost / locked out
	@$(BIN)/python -m tests.campaigns.refresh $(ARGS)

send-test: dev servers ## kill -9 at each step of a submission: tried / lost / doubled
	@$(BIN)/python -m tests.campaigns.sending $(ARGS)

service-test: dev servers ## the unit under a booted systemd, the image built and run; as root
	@$(BIN)/pytest -q -n 2 --dist loadfile tests/services $(ARGS)

network-test: dev servers ## break the network in every way, compare what arrives
	@$(BIN)/python -m tests.campaigns.network $(ARGS)

soak: dev servers ## ten minutes of load and misbehaving servers; ARGS="--minutes 480" for a night
	@$(BIN)/python -m tests.campaigns.soak $(ARGS)

bench: dev servers ## speed beside the peers, as a table and a chart
	@$(BIN)/python -m benchmarks.bench $(ARGS)

bench-push: dev servers ## push for 1,000 mailboxes, polling, POP3, distance, neighbours
	@scripts/servers.sh fetchmail curl
	@$(BIN)/python -m benchmarks.push $(ARGS)

bench-routes: dev servers ## what routes cost, and an alarm through a busy daemon
	@$(BIN)/python -m benchmarks.routes $(ARGS)

corpus-test: dev ## parse 6,000 public mails and generated hostile ones
	@$(BIN)/python -m benchmarks.corpus $(ARGS)

bench-parse: corpus-test

setup: dev ## .venv with everything that the checks need

lock: ## take newer packages into requirements/*.lock (ARGS= keeps what is pinned)
	@PYTHON=$(PYTHON) scripts/lock.sh $(if $(filter undefined default file,$(origin ARGS)),--upgrade,$(ARGS))

dist: dev ## build the sdist and the wheel into dist/
	@rm -rf dist
	@$(BIN)/hatchling build

docs: dev ## write what is generated in docs/ anew
	@$(BIN)/python -m scripts.config_reference
	@$(BIN)/python -m scripts.manual
	@$(BIN)/python -m scripts.manual_log_events
	@$(BIN)/python -m scripts.troubleshooting

clean: ## remove .venv, caches and what was built
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist

servers:
	@scripts/servers.sh

# Always asked: they see at once (0.1 s) that nothing changed, or that .venv was moved or is broken.
runtime dev:
	@$(PYTHON) scripts/setup.py $@
