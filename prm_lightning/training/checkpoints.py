"""Checkpoints of a run: files that say whether they are whole, when they are written, stopping.

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

from prm_lightning.batching.loading import STOP_SIGNALS
from prm_lightning.files import file_digest, written_file

SEAL = b"sha256:"
SEAL_BYTES = len(SEAL) + 64  # with the digest in hex
LAST = "last.ckpt"
STEPS = "step-*.ckpt"
STOPPED = 75  # exit status EX_TEMPFAIL of sysexits.h: ask again later

log = logging.getLogger(__name__)


class SealedCheckpointIO(TorchCheckpointIO):
    """Checkpoint files with a checksum, written whole or not at all, read without pickled code.

    The SHA-256 of a file is in its own end, as the comment that a ZIP archive may have, so that
    file and checksum cannot be parted, and `torch.load` reads the file as any other.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a whole checkpoint under its name, or leave what has that name as it is."""
        target = Path(path)
        try:
            with written_file(target) as partial:
                torch.save(checkpoint, partial)
                seal(partial)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            raise OSError(
                f"checkpoint: {target} cannot be written ({_first_line(error)}; "
                f"{shutil.disk_usage(target.parent).free / 1e6:.1f} MB are free). Earlier "
                "checkpoints are as they were; free some space or lower --keep."
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint that is whole; tensors and plain values only, never code.

        Raises:
            ValueError: it was cut off or changed after it was written.
            FileNotFoundError: there is none.
        """
        fault = find_fault(Path(path))
        if fault:
            raise ValueError(
                f"checkpoint: {path} {fault}. Resume from an earlier one with --ckpt_path FILE, or "
                "from the newest whole one with --ckpt_path last."
            )
        loaded: dict[str, Any] = torch.load(
            path, map_location=map_location or "cpu", weights_only=True
        )
        return loaded


def seal(path: Path) -> None:
    """Write the checksum of a ZIP archive into its end, and the file to the disk."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = SEAL + b"0" * 64  # its length is part of what is hashed
    digest = file_digest(path, without_last=64).encode()
    with path.open("r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(digest)
        file.flush()
        os.fsync(file.fileno())


def find_fault(path: Path) -> str | None:
    """What is wrong with a checkpoint, for a message; None if it is whole.

    A file is compared with its checksum. A folder, which FSDP2 writes, is whole if it has the file
    that Lightning writes last.

    Raises:
        FileNotFoundError: there is none.
    """
    if path.is_dir():
        if (path / "sha256.json").exists():
            return "is a sharded checkpoint of an earlier release, which this one does not read"
        return None if (path / "meta.pt").is_file() else "is cut off"
    if path.stat().st_size <= SEAL_BYTES:
        return "is cut off"
    with path.open("rb") as file:
        file.seek(-SEAL_BYTES, os.SEEK_END)
        found = file.read()
    if not found.startswith(SEAL):
        return "has no checksum at its end: it is cut off, or was not written by this release"
    if found[len(SEAL) :] != file_digest(path, without_last=64).encode():
        return "differs from its checksum: it was changed or damaged"
    return None


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint of a run that is whole; None where there is no checkpoint at all.

    Damaged ones are named in the log.

    Raises:
        ValueError: there are checkpoints, but none is whole.
    """
    found = sorted(folder.glob("*.ckpt"), key=_age)
    for path in reversed(found):
        fault = find_fault(path)
        if fault is None:
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
            # between two epochs; with max_steps Lightning would resume the one that is over
            loop.epoch_loop.restarting = False

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

    def _save_if_due(self, trainer: Trainer) -> None:
        if not self.is_due:
            return
        self.is_due = False
        path = self._save(trainer)
        if self.is_stopping:
            raise Stopped(
                f"fit: stopped by {self.signals.received or 'a signal'} after optimizer step "
                f"{self.step}; {path} is written. The same command with --ckpt_path last resumes.",
                is_first=trainer.is_global_zero,
            )

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


class StopSignals:
    """Remembers that this process was asked to stop, by SIGTERM or SIGUSR1.

    Lightning has handlers of its own for these signals, which raise without a checkpoint, write
    one in the middle of a step, or start a collective that the other ranks do not expect. They are
    replaced while training runs; Lightning puts back what was there before.
    """

    def __init__(self) -> None:
        self.received = ""

    def listen(self) -> None:
        """Take the signals from now on; only the main thread of a process can."""
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                signal.signal(number, self._remember)

    def _remember(self, number: int, frame: object) -> None:
        self.received = signal.Signals(number).name


class Stopped(SystemExit):
    """Ends a run that was asked to stop, after it wrote its checkpoint.

    The first process says so in one line and exits with `STOPPED`. The others exit with 0: a
    launcher that sees one of them fail kills the first before it has finished.

    Args:
        message: the line.
        is_first: whether this is the process that speaks.
    """

    def __init__(self, message: str, *, is_first: bool) -> None:
        super().__init__(STOPPED if is_first else 0)
        if is_first:
            print(message, file=sys.stderr)


def _age(path: Path) -> tuple[int, str]:
    return path.stat().st_mtime_ns, path.name


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
