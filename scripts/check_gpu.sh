#!/usr/bin/env bash
# Checks that training on this machine's GPU gives what the CPU gives, in under ten minutes.
#   bash scripts/check_gpu.sh                  --only equality memory   some of the checks
# NF4, bf16 and FlexAttention against float32 on the CPU; a short training; memory against the
# table of docs/memory.md; throughput against padded rows; DDP, if there are two GPUs. Needs what
# install.sh installs, with a CUDA build of torch, and then no network and no data. Without a GPU it
# says so and ends with an error.
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "$0")/.."

python=${PYTHON:-.venv/bin/python}
if ! [ -x "$python" ]; then
    bash scripts/install.sh
fi
export HF_HUB_OFFLINE=1 # the backbone is in an installed wheel
exec timeout 600 "$python" benchmarks/gpu.py "$@"
