"""TensorBoard and CSV side by side in the run's folder; both survive a resume."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.loggers.csv_logs import _ExperimentWriter
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from prm_lightning.files import written_file

METRICS = "metrics.csv"


class _AppendingWriter(_ExperimentWriter):
    """Goes on writing an existing file, which Lightning's own writer would delete.

    Rows are appended; where a new column comes in, the file is replaced as a whole.
    """

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            self.metrics_keys, _ = read_rows(path)

    def save(self) -> None:
        path = Path(self.metrics_file_path)
        if not self.metrics:
            return
        if self._record_new_keys() or not path.is_file():
            old = read_rows(path)[1] if path.is_file() else []
            write_rows(path, self.metrics_keys, [*old, *self.metrics])
        else:
            with path.open("a", newline="") as file:
                csv.DictWriter(file, self.metrics_keys).writerows(self.metrics)
        self.metrics = []


class RunCSVLogger(CSVLogger):
    """metrics.csv in the run's folder itself.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="", version="")

    @property
    def experiment(self) -> Any:
        """The writer, made at the first use."""
        if self._experiment is None:
            Path(self.log_dir).mkdir(parents=True, exist_ok=True)
            self._experiment = _AppendingWriter(self.log_dir)
        return self._experiment

    def log_hyperparams(self, params: Any = None) -> None:
        """Nothing: config.yaml holds them."""

    def save(self) -> None:
        """Write the rows logged since the last time."""
        self.experiment.save()


class CutBackLogs(Callback):
    """Drops what a resumed run is going to log again: rows of metrics.csv and TensorBoard's events.

    Args:
        folder: the run's.
        records: of its files with a JSON object with a ``step`` a line, which are cut back too.
    """

    def __init__(self, folder: Path, records: Sequence[str] = ()) -> None:
        self.metrics = folder / METRICS
        self.records = [folder / name for name in records]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        if self.metrics.is_file():
            cut_back(self.metrics, trainer.global_step)
        for path in self.records:
            if path.is_file():
                cut_back_lines(path, trainer.global_step)
        for logger in trainer.loggers:
            if trainer.global_step and hasattr(logger, "experiment"):
                purge_events(logger.experiment, trainer.global_step)


def cut_back(path: Path, step: int) -> None:
    """Keep the rows of a CSV file whose ``step`` is below `step`; the file changes as a whole."""
    names, rows = read_rows(path)
    write_rows(path, names, [row for row in rows if int(row["step"]) < step])


def cut_back_lines(path: Path, step: int) -> None:
    """Keep the lines of a JSONL file whose ``step`` is below `step`."""
    lines = _whole_lines(path)
    kept = [line for line in lines if json.loads(line)["step"] < step]
    with written_file(path) as beside:
        beside.write_text("".join(kept), encoding="utf-8")


def purge_events(experiment: Any, step: int) -> None:
    """Tell readers of TensorBoard's files that everything from `step` on is logged again.

    Args:
        experiment: a logger's; nothing happens unless it is TensorBoard's.
        step: the first one that comes again.
    """
    writer = getattr(experiment, "file_writer", None)
    if writer is None:
        return
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    writer.add_event(Event(session_log=SessionLog(status=SessionLog.START)), step)


def flush(loggers: Sequence[Any]) -> None:
    """Let the system have everything that was logged, so that it outlives this process."""
    for logger in loggers:
        logger.save()
        if hasattr(logger, "experiment") and hasattr(logger.experiment, "flush"):
            logger.experiment.flush()


def read_rows(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows of a CSV file, without a last line that a killed process cut off."""
    reader = csv.DictReader(_whole_lines(path))
    return list(reader.fieldnames or []), list(reader)


def write_rows(path: Path, names: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Write a CSV file as a whole."""
    with written_file(path) as beside, beside.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def _whole_lines(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return [line for line in file if line.endswith("\n")]


def run_loggers(folder: Path) -> list[TensorBoardLogger | RunCSVLogger]:
    """The loggers of a run, both writing into its folder."""
    return [TensorBoardLogger(folder, name="", version=""), RunCSVLogger(folder)]
