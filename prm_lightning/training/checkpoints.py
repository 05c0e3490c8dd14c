"""Checkpoints of a run: when they are written, which of them are whole, and stopping.

What this file knows of Lightning's loops beyond its hooks (``trainer.fit_loop``, and the entry
``loops`` of a checkpoint) is needed because Lightning saves in the middle of a step's hooks: a
checkpoint written there would skip a validation that is due, or repeat a batch. benchmarks/chaos.py
and tests/test_resume.py hold that a resumed run ends with the bits of one that was left alone.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from prm_lightning.batching.datamodule import STOP_SIGNALS
from prm_lightning.files import written_file

LAST = "last.ckpt"
STEPS = "step-*.ckpt"
STOPPED = 75  # exit status EX_TEMPFAIL of sysexits.h: ask again later

log = logging.getLogger(__name__)


class WholeCheckpointIO(TorchCheckpointIO):
    """Checkpoint files that are written whole or not at all, and read without pickled code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a whole checkpoint under its name, or leave what has that name as it is."""
        target = Path(path)
        try:
            with written_file(target) as partial, partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            raise OSError(
                f"checkpoint: {target} cannot be written ({str(error).splitlines()[0]}; "
                f"{shutil.disk_usage(target.parent).free / 1e6:.1f} MB are free). Earlier "
                "checkpoints are as they were; free some space or lower --keep."
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint: tensors and plain values only, never code.

        Raises:
            ValueError: it was cut off or changed after it was written.
        """
        if fault := find_fault(Path(path)):
            raise ValueError(
                f"checkpoint: {path} {fault}. Resume from an earlier one with --ckpt_path FILE, or "
                "from the newest whole one with --ckpt_path last."
            )
        return dict(torch.load(path, map_location=map_location or "cpu", weights_only=True))


def find_fault(path: Path) -> str | None:
    """What is wrong with a checkpoint that exists, for a message; None if it is whole.

    A file is a ZIP archive, in which torch writes the CRC-32 of every part. A folder, which FSDP2
    writes, is whole if it has the file that Lightning writes last.
    """
    if path.is_dir():
        return None if (path / "meta.pt").is_file() else "is cut off"
    try:
        with zipfile.ZipFile(path) as archive:
            return None if archive.testzip() is None else "is damaged"
    except OSError:
        raise
    except Exception:  # every kind of damage has an error of its own
        return "is cut off or damaged"


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint of a run that is whole; None where there is no checkpoint at all.

    Damaged ones are named in the log. A ValueError says that none is whole.
    """
    found = sorted(folder.glob("*.ckpt"), key=_age)
    for path in reversed(found):
        if (fault := find_fault(path)) is None:
            return path
        log.warning("checkpoint: %s %s; taking the one before it.", path, fault)
    if found:
        raise ValueError(
            f"checkpoint: none of the {len(found)} checkpoints in {folder} is whole. Start again "
            "with --overwrite."
        )
    return None


class StepCheckpoints(Checkpoint):
    """Writes step-000500.ckpt and so on, and last.ckpt, which is the newest of them.

    A checkpoint is written *between* two steps: when the step's metrics, and those of a validation
    that is due after it, are on disk. Lightning's `ModelCheckpoint` writes earlier, so that a run
    resumed from it may skip that validation, and miss what it logs.

    A run that is asked to stop does so after the next such checkpoint, on all ranks at once. One
    more is written when training ends. A run that ends by ``max_steps`` validates first.

    Args:
        folder: where the checkpoints are written.
        every: optimizer steps between two checkpoints.
        keep: how many step checkpoints stay; 0 leaves last.ckpt alone, -1 keeps all.
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
        self.stopped_by = ""  # the signal that this process has got
        self.step = 0  # the last one that was finished
        self.saved = 0  # of the newest checkpoint
        self.is_due = self.is_stopping = False

    def on_sanity_check_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._listen()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._listen()
        self.step = self.saved = trainer.global_step
        loop = trainer.fit_loop
        if loop.epoch_progress.current.completed == loop.epoch_progress.current.ready:
            # between two epochs; with max_steps Lightning would resume the one that is over
            loop.epoch_loop.restarting = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:  # gradients are still added up
            return
        self.step = trainer.global_step
        self.is_stopping = trainer.strategy.reduce_boolean_decision(
            bool(self.stopped_by), all=False
        )
        self.is_due = self.is_stopping or self.step % self.every == 0
        if self.step == trainer.max_steps:
            trainer.should_stop = True  # Lightning then validates before it stops

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
        """Make a state of the loops that is between two batches, or between two epochs."""
        batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for count in (batches["total"], batches["current"]):
            if count["ready"] > count["started"]:  # the next batch is fetched but not trained on
                count["ready"] = count["started"]
                batches["is_last_batch"] = False
        epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        for count in (epochs["total"], epochs["current"]):
            count["completed"] = count["processed"]
        # EarlyStopping forgets that it said so; of max_steps a resumed run knows itself
        checkpoint["should_stop"] = trainer.should_stop and self.step != trainer.max_steps

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Take over the wish to stop, and count batches as this run's plan has them."""
        trainer.should_stop = checkpoint.get("should_stop", False)
        done = trainer.datamodule.batches_done()  # type: ignore[attr-defined]
        batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
        if done is not None and batches["processed"]:
            batches.update(dict.fromkeys(("ready", "started", "processed", "completed"), done))

    def _listen(self) -> None:
        """Take the signals from now on: Lightning's handlers raise without a checkpoint, or write
        one in the middle of a step. Lightning puts back what was there before the run."""
        if threading.current_thread() is threading.main_thread():  # no other can
            for number in STOP_SIGNALS:
                signal.signal(number, self._remember)

    def _remember(self, number: int, frame: object) -> None:
        self.stopped_by = signal.Signals(number).name

    def _save_if_due(self, trainer: Trainer) -> None:
        if not self.is_due:
            return
        self.is_due = False
        path = self._save(trainer)
        if self.is_stopping:
            if not trainer.is_global_zero:  # a launcher that sees one fail kills the first
                raise SystemExit(0)
            print(
                f"fit: stopped by {self.stopped_by or 'a signal'} after optimizer step "
                f"{self.step}; {path} is written. The same command with --ckpt_path last resumes.",
                file=sys.stderr,
            )
            raise SystemExit(STOPPED)

    def _save(self, trainer: Trainer) -> Path:
        path = self.folder / f"step-{self.step:06d}.ckpt"
        if trainer.is_global_zero:
            for logger in trainer.loggers:  # what was logged must outlive this process
                logger.save()
                if hasattr(logger, "experiment") and hasattr(logger.experiment, "flush"):
                    logger.experiment.flush()
        trainer.save_checkpoint(path, weights_only=False)  # by all ranks; optimizer and all
        if trainer.is_global_zero:
            name_last(path)
            kept = sorted(self.folder.glob(STEPS), key=_age)
            for old in kept[: max(0, len(kept) - self.keep)] if self.keep >= 0 else ():
                trainer.strategy.remove_checkpoint(old)
        self.saved = self.step
        return path if self.keep else self.folder / LAST


def name_last(path: Path) -> None:
    """Let last.ckpt be this checkpoint: the same file, or a link to the folder."""
    last = path.with_name(LAST)
    partial = path.with_name(f".{LAST}.partial")
    partial.unlink(missing_ok=True)
    if path.is_dir():  # FSDP2
        partial.symlink_to(path.name, target_is_directory=True)
    else:
        try:
            os.link(path, partial)
        except OSError:  # a disk without links
            shutil.copyfile(path, partial)
    partial.replace(last)


def _age(path: Path) -> tuple[int, str]:
    return path.stat().st_mtime_ns, path.name
