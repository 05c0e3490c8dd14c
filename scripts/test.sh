#!/usr/bin/env bash
# Lints, type-checks and tests the project, and builds its documentation into build/site.
#   bash scripts/test.sh                       everything
#   bash scripts/test.sh -m 'not slow'         arguments go to pytest
# PYTEST_WORKERS is the number of processes that share the tests (default: 2; 0: no extra process,
# as a debugger needs). install.sh tells how to choose the Python, and torch for a CPU or a GPU.
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "$0")/.."

python=.venv/bin/python
bash scripts/install.sh dev
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
NO_MKDOCS_2_WARNING=1 "$python" -m mkdocs build --strict # the theme warns of a release not used
# One thread a process, as the processes share the cores.
OMP_NUM_THREADS=1 "$python" -m pytest -n "${PYTEST_WORKERS:-2}" "$@"
