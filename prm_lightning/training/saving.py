"""When checkpoints of a run are written, and which are kept."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import Checkpoint

from prm_lightning.training.loggers import flush
from prm_lightning.training.stopping import Stopped, StopSignals

LAST = "last.ckpt"
STEPS = "step-*.ckpt"


class StepCheckpoints(Checkpoint):
    """Writes step-000500.ckpt and so on, and last.ckpt, which is the newest of them.

    A checkpoint is written *between* two steps: when the step's metrics, and those of a validation
    that is due behind it, are on disk. Lightning's `ModelCheckpoint` writes earlier, so that a run
    resumed from it may skip that validation, and miss what it logs.

    A run that is asked to stop does so behind the next such checkpoint, on all ranks at once. One
    more is written when training ends.

    Args:
        folder: of the checkpoints.
        every: optimizer steps between two.
        keep: how many step checkpoints stay; 0 writes last.ckpt alone, -1 keeps all.
    """

    def __init__(self, folder: Path, every: int, keep: int) -> None:
        if every < 1 or keep < -1:
            raise ValueError(
                f"fit: checkpoint_every={every} and keep={keep}, expected at least 1 and at least "
                "-1 (which keeps all)."
            )
        self.folder = folder
        self.every = every
        self.keep = keep
        self.signals = StopSignals()
        self.step = 0  # the last one that was finished
        self.saved = 0  # of the newest checkpoint
        self.is_due = self.is_stopping = False

    def on_sanity_check_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.signals.listen()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.signals.listen()
        self.step = self.saved = trainer.global_step
        loop = trainer.fit_loop
        if loop.epoch_progress.current.completed == loop.epoch_progress.current.ready:
            loop.epoch_loop.restarting = (
                False  # with max_steps Lightning would go on in a past epoch
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:  # gradients are still added up
            return
        self.step = trainer.global_step
        self.is_stopping = trainer.strategy.reduce_boolean_decision(
            bool(self.signals.received), all=False
        )
        self.is_due = self.is_stopping or self.step % self.every == 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self._save_if_due(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._save_if_due(trainer)  # else EarlyStopping has not looked at it yet

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._save_if_due(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self.step != self.saved:
            self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        launcher = trainer.strategy.launcher
        if isinstance(exception, OSError) and launcher is not None:
            launcher.kill(signal.SIGKILL)  # the other ranks would wait for this one

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Make a state of the loops that lies between two batches, or between two epochs."""
        batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for count in (batches["total"], batches["current"]):
            if count["ready"] > count["started"]:  # the next batch is fetched but not trained on
                count["ready"] = count["started"]
                batches["is_last_batch"] = False
        epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        for count in (epochs["total"], epochs["current"]):
            count["completed"] = count["processed"]
        checkpoint["should_stop"] = trainer.should_stop  # EarlyStopping forgets that it said so

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        trainer.should_stop = checkpoint.get("should_stop", False)

    def _save_if_due(self, trainer: Trainer) -> None:
        if not self.is_due:
            return
        self.is_due = False
        path = self._save(trainer)
        if self.is_stopping:
            raise Stopped(
                f"fit: stopped by {self.signals.received or 'a signal'} behind optimizer step "
                f"{self.step}; {path} is written. The same command with --ckpt_path last goes on.",
                is_first=trainer.is_global_zero,
            )

    def _save(self, trainer: Trainer) -> Path:
        path = self.folder / (f"step-{self.step:06d}.ckpt" if self.keep else LAST)
        if trainer.is_global_zero:
            flush(trainer.loggers)
        trainer.save_checkpoint(path, weights_only=False)  # by all ranks; optimizer and all
        if trainer.is_global_zero and self.keep:
            self._name_last(path)
            kept = sorted(self.folder.glob(STEPS), key=lambda p: (p.stat().st_mtime_ns, p.name))
            for old in kept[: -self.keep] if self.keep > 0 else ():
                trainer.strategy.remove_checkpoint(old)
        self.saved = self.step
        return path

    def _name_last(self, path: Path) -> None:
        """Let last.ckpt be this checkpoint."""
        beside = self.folder / f".{LAST}.partial"
        beside.unlink(missing_ok=True)
        if path.is_dir():  # of a sharded run
            beside.symlink_to(path.name, target_is_directory=True)
            beside.replace(self.folder / LAST)
            return
        try:
            os.link(path, beside)
        except OSError:  # a disk without links
            shutil.copyfile(path, beside)
        beside.replace(self.folder / LAST)
