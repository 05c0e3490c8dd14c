"""A callback that writes down what a run does, and can kill its process group at a chosen moment.

`chaos.py` and the tests hand it to ``fit`` as ``--trainer.callbacks``. Two environment variables
steer it:

- ``CHAOS_TRACE``: file that it appends to, a JSON object a line;
- ``CHAOS_KILL``: ``PHASE:COUNT:MS`` sends `CHAOS_SIGNAL` (SIGKILL if not given) to the group MS
  milliseconds after the phase has begun for the COUNT-th time.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from lightning import Callback


class Trace(Callback):
    """Records phases, and the solutions of every batch that is trained on."""

    def __init__(self) -> None:
        self.path = Path(os.environ["CHAOS_TRACE"])
        self.phase = ""
        self.begun: Counter[str] = Counter()
        phase, count, delay = os.environ.get("CHAOS_KILL", "never:0:0").split(":")
        self.kill_at = phase, int(count)
        self.delay = float(delay) / 1000

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._begin(trainer, "loading")

    def on_sanity_check_start(self, trainer: Any, pl_module: Any) -> None:
        self._begin(trainer, "sanity validation")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._write(trainer, start=trainer.global_step)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._begin(trainer, "between epochs")

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self._begin(trainer, "step" if trainer.global_step or batch_idx else "first batch")

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.phase = "step"  # a checkpoint may have been written behind `on_train_batch_start`

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        per_step = trainer.accumulate_grad_batches
        step = trainer.global_step - (batch_idx % per_step == per_step - 1)  # this batch's own
        self._write(
            trainer,
            step=step,
            batch=[trainer.current_epoch, batch_idx],
            solutions=batch.solution_ids.tolist(),
        )

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._begin(trainer, "checkpoint")

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self._begin(trainer, "validation")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self._begin(trainer, "after validation")

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._begin(trainer, "end")

    def _begin(self, trainer: Any, phase: str) -> None:
        if phase != self.phase:
            self._write(trainer, phase=phase)
        self.phase = phase
        self.begun[phase] += 1
        if trainer.is_global_zero and self.kill_at == (phase, self.begun[phase]):
            threading.Thread(target=self._kill, daemon=True).start() if self.delay else self._kill()

    def _kill(self) -> None:
        time.sleep(self.delay)
        number = signal.Signals[os.environ.get("CHAOS_SIGNAL", "SIGKILL")]
        target = os.kill if os.environ.get("CHAOS_ALONE") else os.killpg
        target(os.getpid() if target is os.kill else os.getpgrp(), number)

    def _write(self, trainer: Any, **row: Any) -> None:
        line = json.dumps({"rank": trainer.global_rank, **row}) + "\n"
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)
