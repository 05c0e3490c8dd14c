"""TensorBoard and CSV side by side in the run's folder; the CSV survives a resume."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.loggers.csv_logs import _ExperimentWriter
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger


class _AppendingWriter(_ExperimentWriter):
    """Goes on writing an existing file, which Lightning's own writer would delete."""

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="") as file:
                self.metrics_keys = list(csv.DictReader(file).fieldnames or [])


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


class CutBackMetrics(Callback):
    """Drops rows of metrics.csv that a resumed run is going to write again.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.csv"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self.path.is_file():
            cut_back(self.path, trainer.global_step)


def cut_back(path: Path, step: int) -> None:
    """Keep the rows of a CSV file whose ``step`` is below `step`; the file changes as a whole."""
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        names = list(reader.fieldnames or [])
        rows = [row for row in reader if int(row["step"]) < step]
    beside = path.with_suffix(".partial")
    with beside.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    beside.replace(path)


def run_loggers(folder: Path) -> list[TensorBoardLogger | RunCSVLogger]:
    """The loggers of a run, both writing into its folder."""
    return [TensorBoardLogger(folder, name="", version=""), RunCSVLogger(folder)]
