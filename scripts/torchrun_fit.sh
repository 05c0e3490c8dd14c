#!/usr/bin/env bash
# Trains on all GPUs of one machine or of several, started by torchrun.
#   bash scripts/torchrun_fit.sh --config configs/qwen3_4b.yaml
#   NODES=2 RENDEZVOUS=host0:29400 bash scripts/torchrun_fit.sh --config ...   the same on each machine
# Options go to `fit`; --trainer.strategy fsdp2 spreads the weights over the GPUs. A call that was cut
# off is continued by the next one. torchrun ends all processes when one fails and starts them anew,
# up to RESTARTS times, from the newest whole checkpoint; the folder of the run has to be on a file
# system that all machines share.
#
# PROCESSES   a machine (default: its GPUs; without any, two CPU processes)
# NODES       machines (default: 1)
# RENDEZVOUS  host:port of one of them, the same for all (default: this one, a free port)
# RESTARTS    default: 3
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "$0")/.."

python=${PYTHON:-.venv/bin/python}
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l || true)
processes=${PROCESSES:-$((gpus > 0 ? gpus : 2))}
nodes=${NODES:-1}
accelerator=$([ "$gpus" -gt 0 ] && echo gpu || echo cpu)

# Else processes that are started anew find the addresses of those before them, and never meet.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec "$python" -m torch.distributed.run \
    --nnodes "$nodes" --nproc-per-node "$processes" --max-restarts "${RESTARTS:-3}" \
    --rdzv-backend c10d --rdzv-id prm_lightning --rdzv-endpoint "${RENDEZVOUS:-localhost:0}" \
    --module prm_lightning fit \
    --trainer.accelerator "$accelerator" --trainer.devices "$processes" \
    --trainer.num_nodes "$nodes" --trainer.strategy ddp --ckpt_path last "$@"
