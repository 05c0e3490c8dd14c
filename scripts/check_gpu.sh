#!/usr/bin/env bash
# Checks this machine's GPU in eight minutes: one table of what was found and what was expected.
#   bash scripts/check_gpu.sh                  --only equality speed   some of the checks
#   bash scripts/check_gpu.sh --device cpu     what a processor can do of it, with tiny models
# Whole training steps by every path against float32 on the CPU; `fit`, killed and resumed; two GPUs
# if there are; `score` beside padded rows; tokens a second and memory against docs/memory.md; TRL's
# trainer on the same rows with --trl DIR. Needs no installation of this project: torch,
# transformers, peft and lightning are enough, and what else is missing is said. No network.
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "$0")/.."

python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
export HF_HUB_OFFLINE=1 PYTHONPATH=".${PYTHONPATH:+:$PYTHONPATH}"
exec timeout 600 "$python" benchmarks/gpu.py "$@"
