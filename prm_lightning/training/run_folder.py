"""The folder of a run: which run may write there, and its logs, which survive a resume."""

from __future__ import annotations

import csv
import json
import logging
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import yaml
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from prm_lightning.files import job_lock, written_file

CONFIG = "config.yaml"
METRICS = "metrics.csv"
NONFINITE = "nonfinite.jsonl"
VALIDATION_SCORES = "val_scores.jsonl"
LIGHTNING_LOG = "lightning.log"
LIGHTNING_LOGGERS = ("lightning.pytorch", "lightning.fabric")
LOGS = (METRICS, "events.*", "hparams.yaml", NONFINITE)
MODELS = ("checkpoints", "best_model", "final_model", "checkpoint-*")
WRITTEN = (
    *MODELS, *LOGS, "data.json", "untrained.json", "report.html", "test.json", "metrics.json",
    "predictions.jsonl", VALIDATION_SCORES, CONFIG,
)  # fmt: skip  # removed in this order: config.yaml, which says whose folder it is, is the last
UNFINISHED = (".*.partial", ".*.old", "checkpoints/.*.partial")  # a killed process leaves these
PER_CALL = ("config", "ckpt_path", "overwrite", "weights_only", "verbose")  # no part of a run


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one run at a time write a folder; an OSError says that another does, or none can."""
    with ExitStack() as held:
        try:
            held.enter_context(job_lock(folder, "fit"))
            folder.mkdir(exist_ok=True)
        except BlockingIOError:
            raise
        except OSError as error:
            raise OSError(
                f"fit: nothing can be written to {folder} ({error.strerror}). Give another folder "
                "with --output."
            ) from error
        yield


def check_folder(folder: Path, record: str, *, overwrite: bool, resume: bool) -> list[Path]:
    """What another run left in this run's folder and this one is to replace.

    A FileExistsError says that something is there that would be mixed with this run or lost.
    """
    unfinished = set(find(folder, (*UNFINISHED, LIGHTNING_LOG)))
    if unfinished.issuperset(folder.iterdir()):
        return []
    config = folder / CONFIG
    if not config.is_file():
        raise FileExistsError(
            f"fit: {folder} exists and is no folder of a run (it holds no {CONFIG}). "
            "Give another folder with --output."
        )
    is_same = settled(config.read_text(encoding="utf-8")) == settled(record)
    if overwrite and not (resume and is_same):
        return find(folder, WRITTEN)
    if not find(folder, MODELS):  # a run that failed before it had trained
        return [] if is_same else find(folder, WRITTEN)
    if resume and is_same:
        return []
    what = "a run with another configuration" if resume else "a run already"
    raise FileExistsError(
        f"fit: {folder} holds {what}. Continue it with its own configuration ({config}) and "
        "--ckpt_path last, replace it with --overwrite, or give another folder with --output."
    )


def prepare_folder(folder: Path, record: str, *, resumed: bool) -> None:
    """Write config.yaml, and remove what a killed process of this run left unfinished.

    If training does not resume from a checkpoint, there may be logs of a run that was killed
    before its first one.
    """
    for old in folder.glob(".*.old"):
        name = folder / old.name[1:].rsplit(".", 2)[0]
        if not name.exists():  # killed between two renames, see `written_folder`
            old.rename(name)
    remove(find(folder, UNFINISHED if resumed else (*UNFINISHED, *LOGS)))
    with written_file(folder / CONFIG) as partial:
        partial.write_text(record, encoding="utf-8")


def find(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """What a folder holds under some names, in the order of the names."""
    return [path for pattern in patterns for path in folder.glob(pattern)]


def remove(paths: Iterable[Path]) -> None:
    """Remove files and whole folders; of a link to a folder, the checkpoints that are in it."""
    for path in paths:
        if path.is_symlink() and path.is_dir():
            remove(path.glob("*.ckpt"))
        else:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def run_record(dump: str) -> str:
    """The configuration of a run as config.yaml, without what only this call is about."""
    config = yaml.safe_load(dump)
    kept = {name: value for name, value in config.items() if name not in PER_CALL}
    return str(yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))


def settled(record: str) -> dict[str, Any]:
    """What a run must keep from its first process to its last: all but how batches are built."""
    config: dict[str, Any] = yaml.safe_load(record)
    data = config.get("data", {})
    return {**config, "data": {k: v for k, v in data.items() if k != "num_workers"}}


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep off the terminal what Lightning says about every run; see `log_lightning`."""
    loggers = [logging.getLogger(name) for name in LIGHTNING_LOGGERS]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    shown = warnings.formatwarning
    warnings.formatwarning = _plain_warning
    for logger in loggers:
        logger.handlers, logger.propagate = [logging.NullHandler()], False
    try:
        yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
        warnings.formatwarning = shown


def _plain_warning(message: Warning | str, *_: Any, **__: Any) -> str:
    return f"warning: {message}\n"


def log_lightning(folder: Path, held: ExitStack) -> None:
    """Write to lightning.log of a run's folder what Lightning says until `held` ends."""
    file = logging.FileHandler(folder / LIGHTNING_LOG, encoding="utf-8", delay=True)
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    held.enter_context(closing(file))
    for name in LIGHTNING_LOGGERS:
        logging.getLogger(name).addHandler(file)


class RunTensorBoard(TensorBoardLogger):
    """TensorBoard without `epoch`, which would be the first thing that it shows."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the others."""
        super().log_metrics({k: v for k, v in metrics.items() if k != "epoch"}, step)


class RunCSVLogger(Logger):
    """metrics.csv in the run's folder; an existing file is continued, by the first process alone.

    Rows are appended; where a new column comes in, the file is replaced as a whole.
    """

    name = version = ""  # no subfolder

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = Path(folder) / METRICS
        self.names: list[str] = []
        self.rows: list[dict[str, Any]] = []

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keep a row; Lightning calls `save` next."""
        self.rows.append({**metrics, "step": step})

    @rank_zero_only
    def save(self) -> None:
        """Write the rows logged since the last time."""
        if not self.rows:
            return
        exists = self.path.is_file()
        if exists and not self.names:
            self.names = read_csv(self.path)[0]
        names = sorted({name for row in self.rows for name in row}.union(self.names))
        if not exists or names != self.names:
            write_csv(self.path, names, [*(read_csv(self.path)[1] if exists else ()), *self.rows])
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, names).writerows(self.rows)
        self.names, self.rows = names, []

    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()


class CutBackLogs(Callback):
    """Drops what a resumed run is going to log again, from all logs of its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = trainer.global_step
        if not step or not trainer.is_global_zero:
            return
        cut_back(self.folder / METRICS, step)
        cut_back(self.folder / NONFINITE, step)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                from tensorboard.compat.proto.event_pb2 import Event, SessionLog

                # Its readers then drop everything from this step on.
                start = Event(session_log=SessionLog(status=SessionLog.START))
                logger.experiment.file_writer.add_event(start, step)


def cut_back(path: Path, step: int) -> None:
    """Keep what a CSV or JSONL file, if there is one, has of the steps below `step`."""
    if not path.is_file():
        return
    if path.suffix == ".csv":
        names, rows = read_csv(path)
        write_csv(path, names, [row for row in rows if int(row["step"]) < step])
        return
    kept = [line for line in _whole_lines(path) if json.loads(line)["step"] < step]
    with written_file(path) as partial:
        partial.write_text("".join(kept), encoding="utf-8")


def read_csv(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows of a CSV file, without a last line that a killed process cut off."""
    reader = csv.DictReader(_whole_lines(path))
    return list(reader.fieldnames or []), list(reader)


def write_csv(path: Path, names: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Write a CSV file as a whole."""
    with written_file(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def _whole_lines(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return [line for line in file if line.endswith("\n")]
