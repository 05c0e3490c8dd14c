"""`scripts/slurm_fit.sh`, with stand-ins for srun and scontrol."""

import os
import subprocess
from pathlib import Path

import pytest

from prm_lightning.training.checkpoints import STOPPED

SCRIPT = Path(__file__).parents[1] / "scripts" / "slurm_fit.sh"


@pytest.mark.parametrize(("status", "queued"), [(0, ""), (1, ""), (STOPPED, "requeue 7\n")])
def test_a_job_that_was_asked_to_stop_is_queued_again(tmp_path, status, queued):
    for name, text in (
        ("srun", f'echo "$@" >{tmp_path}/asked; exit {status}'),
        ("scontrol", f'echo "$@" >>{tmp_path}/queued'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "3"}
    done = subprocess.run(
        ["bash", SCRIPT, "--output", "outputs/a"],
        env={**os.environ, **slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=False,
    )
    assert done.returncode == status
    asked = (tmp_path / "asked").read_text()
    assert "--trainer.devices 2 --trainer.num_nodes 3" in asked
    assert asked.endswith("--ckpt_path last --output outputs/a\n")
    file = tmp_path / "queued"
    assert (file.read_text() if file.exists() else "") == queued
