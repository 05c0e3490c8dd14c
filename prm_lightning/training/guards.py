"""What keeps a run from starting, or stops it.

A GPU that is not free, settings that do not suit a run, and gradients that are not finite.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.utilities import rank_zero_warn

from prm_lightning.training.run_folder import NONFINITE
from prm_lightning.types import StepBatch

MOST_SKIPS = 20  # of a whole run: more is no accident but a learning rate or data gone wrong
SWAPS = "it swaps weights around validation, so that best_model would not hold what was measured"
UNSUITED: dict[type[Callback], str] = {
    WeightAveraging: SWAPS,
    StochasticWeightAveraging: SWAPS,
    GradientAccumulationScheduler: "the plan decides what an optimizer step holds: give "
    "data.solutions_per_step or trainer.accumulate_grad_batches",
    LearningRateFinder: "it looks for one rate, and there are two, model.lr and model.head_lr",
    BaseFinetuning: "model.backbone.lora decides what is trained, from the first step to the last",
    ModelPruning: "a saved model would not hold what it prunes",
}


class Load(NamedTuple):
    """What one GPU is busy with: free memory in bytes, and the share of time it computes, in %."""

    free: int
    utilization: int


class WaitForGPU(Callback):
    """Starts a run only when the GPU that each process is going to use is free.

    In a configuration: ``trainer.callbacks: [{class_path: prm_lightning.training.WaitForGPU}]``.

    Args:
        free_memory: GB (1e9 bytes) that must be free.
        utilization: per cent that it may be busy at most.
        poll_seconds: between two looks, > 0.
        timeout_hours: how long to wait; None waits for ever.
        read: index of a GPU to its load; NVML if not given.
        sleep: waits some seconds.
    """

    def __init__(
        self,
        free_memory: float = 20.0,
        utilization: int = 10,
        poll_seconds: float = 30.0,
        timeout_hours: float | None = None,
        read: Callable[[int], Load] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if poll_seconds <= 0:
            raise ValueError(f"WaitForGPU: poll_seconds={poll_seconds}, expected more than 0.")
        self.free_memory = free_memory
        self.utilization = utilization
        self.poll_seconds = poll_seconds
        self.timeout_hours = timeout_hours
        self.read = read or read_load
        self.sleep = sleep

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Wait for this process's GPU.

        Raises:
            TimeoutError: it was not free in time.
        """
        device = trainer.strategy.root_device
        waited = 0.0
        while device.type == "cuda" and (busy := self._busy(device.index or 0)):
            if self.timeout_hours is not None and waited >= 3600 * self.timeout_hours:
                raise TimeoutError(
                    f"WaitForGPU: {busy} after {waited / 3600:.1f} hours. Free it, choose another "
                    "with --trainer.devices, or raise timeout_hours."
                )
            print(f"\rwaiting for {waited / 60:.0f} min: {busy}".ljust(79), end="", file=sys.stderr)
            self.sleep(self.poll_seconds)
            waited += self.poll_seconds

    def _busy(self, gpu: int) -> str:
        """What keeps the run from starting, for a person; empty if nothing does."""
        load = self.read(gpu)
        if load.free < self.free_memory * 1e9:
            return f"GPU {gpu} has {load.free / 1e9:.1f} of {self.free_memory:g} GB free"
        if load.utilization > self.utilization:
            return f"GPU {gpu} is {load.utilization} % busy, at most {self.utilization} % asked"
        return ""


def read_load(gpu: int) -> Load:
    """Load of a GPU, by its index among the visible ones, from NVML."""
    total = torch.cuda.get_device_properties(gpu).total_memory
    return Load(total - torch.cuda.device_memory_used(gpu), torch.cuda.utilization(gpu))


class Guards(Callback):
    """Refuses what would train or save something else than it says."""

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            for kind, reason in UNSUITED.items():
                if isinstance(callback, kind):
                    raise ValueError(
                        f"fit: trainer.callbacks has {type(callback).__name__}, but {reason}. "
                        "Take it out."
                    )
        for name in ("val_check_interval", "check_val_every_n_epoch"):
            if getattr(trainer, name) == 0:
                raise ValueError(
                    f"fit: trainer.{name} is 0, expected more. To train without validation, set "
                    "data.val_ratio to 0."
                )
        if trainer.overfit_batches:  # type: ignore[attr-defined]
            raise ValueError(
                f"fit: trainer.overfit_batches is {trainer.overfit_batches}, but batches are "  # type: ignore[attr-defined]
                "planned. To overfit a few rows, give the source a limit and the same source as "
                "data.val_sources."
            )


class FiniteSteps(Callback):
    """Stops at, or skips, an optimizer step whose gradient is NaN or infinite.

    The step's solutions and learning rates go to ``nonfinite.jsonl`` of the run, one line per rank.
    A skipped step changes no weight and no state of the optimizer; the schedule continues. What
    to do is `PRMModule.on_nan`; a run that skips more than `MOST_SKIPS` steps stops.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NONFINITE
        self.skipped = 0
        self.solutions: list[int] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: StepBatch, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.solutions = []
        self.solutions += batch.solution_ids.tolist()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: Any, optimizer: torch.optim.Optimizer
    ) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        # After DDP's reduction, so that all ranks find the same.
        norm = float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0
        if math.isfinite(norm):
            return
        names = pl_module.datamodule.sides["train"].data.solution_names
        row = {
            "step": trainer.global_step,
            "rank": trainer.global_rank,
            "gradient_norm": str(norm),  # JSON has no NaN
            "loss": str(float(pl_module.step_loss[0])),
            "lr": {group["name"]: group["lr"] for group in optimizer.param_groups},
            "solutions": [names[i] for i in self.solutions],
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.skipped += 1
        where = f"optimizer step {trainer.global_step}"
        if pl_module.on_nan == "stop" or self.skipped > MOST_SKIPS:
            raise ValueError(
                f"fit: the gradient of {where} is {norm} (skipped before: {self.skipped - 1}, at "
                f"most {MOST_SKIPS}); its solutions and learning rates are in {self.path}. "
                "Lower model.lr, look at these solutions, or set model.on_nan to skip."
            )
        rank_zero_warn(f"{where} is skipped: its gradient is {norm} (see {self.path}).")
        optimizer.zero_grad(set_to_none=True)  # AdamW leaves weights without a gradient alone

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]
