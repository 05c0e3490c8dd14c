#!/usr/bin/env bash
# Trains on several machines of a SLURM cluster, and goes on by itself when the job is preempted or
# its time is up.
#   sbatch --nodes 2 --gpus-per-node 8 --ntasks-per-node 8 scripts/slurm_fit.sh --config configs/qwen3_4b.yaml
# Run it from the project's folder, which all machines see with its .venv. Options go to `fit`;
# --trainer.strategy fsdp2 spreads the weights over the GPUs. Change the lines below to your cluster.
#SBATCH --job-name=prm_lightning
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=SIGUSR1@90
# SIGUSR1 comes to every task 90 seconds before the end: the run is saved and ends with status 75, and
# the job is queued again with the same number. --ckpt_path last takes the newest whole checkpoint, or
# starts where none was written yet. `sbatch --signal=B:...` would send it to this shell alone: do not.
set -euo pipefail

python=${PYTHON:-.venv/bin/python}
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"

status=0
srun --kill-on-bad-exit=1 "$python" -m prm_lightning fit \
    --trainer.accelerator gpu --trainer.devices "${SLURM_NTASKS_PER_NODE:?start it with sbatch}" \
    --trainer.num_nodes "${SLURM_NNODES:?start it with sbatch}" \
    --trainer.strategy ddp --ckpt_path last "$@" || status=$?
if [ "$status" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
