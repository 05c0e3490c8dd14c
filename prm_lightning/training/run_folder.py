"""The folder of a run: what may be written there, and by which run."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from safetensors import SafetensorError

from prm_lightning.files import written_file
from prm_lightning.training.finite import RECORD
from prm_lightning.training.loggers import METRICS
from prm_lightning.training.validation import VALIDATION_SCORES

CONFIG = "config.yaml"
LOGS = (METRICS, "events.*", "hparams.yaml", RECORD)
WRITTEN = (
    "checkpoints", *LOGS, "data.json", "untrained.json", "best_model", "final_model",
    "report.html", "test.json", VALIDATION_SCORES, CONFIG,
)  # fmt: skip  # removed in this order: a folder without its config.yaml is nobody's
UNFINISHED = (".*.partial", ".*.old", "checkpoints/.*.partial")  # a killed process leaves these
DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
PER_CALL = (
    "config",
    "ckpt_path",
    "overwrite",
    "weights_only",
    "verbose",
)  # no part of what a run is


def check_folder(folder: Path, record: str, *, overwrite: bool, resume: bool) -> list[Path]:
    """Make sure that a run may write into its folder.

    Returns:
        What another run left there and this one is asked to replace.

    Raises:
        FileExistsError: something is there that would be mixed with this run or lost.
    """
    require_writable(folder)
    unfinished = set(find(folder, UNFINISHED))
    if not folder.exists() or unfinished.issuperset(folder.iterdir()):
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
    if not resume:
        raise FileExistsError(
            f"fit: {folder} holds a run already. Continue it with --ckpt_path last, replace it "
            "with --overwrite, or give another folder with --output."
        )
    if not is_same:
        raise FileExistsError(
            f"fit: {folder} holds a run with another configuration (compare {config}). "
            "Continue it with its own, replace it with --overwrite, or give another --output."
        )
    return []


def prepare_folder(folder: Path, record: str, *, resumed: bool) -> None:
    """Write config.yaml, and remove what a killed process of this run left unfinished.

    Args:
        folder: the run's.
        record: see `run_record`.
        resumed: training goes on from a checkpoint; if not, there may be logs of a run that was
            killed before its first one.
    """
    for old in folder.glob(".*.old"):
        name = folder / old.name[1:].rsplit(".", 2)[0]
        if not name.exists():  # killed between two renames, see `written_folder`
            old.rename(name)
    remove(find(folder, UNFINISHED if resumed else (*UNFINISHED, *LOGS)))
    with written_file(folder / CONFIG) as beside:
        beside.write_text(record, encoding="utf-8")


def require_writable(folder: Path) -> None:
    """Find out before the work that a folder can be written, or made.

    Raises:
        OSError: it cannot.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    try:
        with TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(
            f"fit: nothing can be written to {folder} ({there}: {error.strerror}). Give another "
            "folder with --output."
        ) from error


def find(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """What a folder holds under some names, in the order of the names."""
    return [path for pattern in patterns for path in folder.glob(pattern)]


def remove(paths: Iterable[Path]) -> None:
    """Remove files and whole folders."""
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def one_line_for_disk_faults(folder: Path) -> Iterator[None]:
    """Say which folder cannot be written, whatever part of a run finds it out.

    Raises:
        OSError: the disk is full, over a quota, broken or not to be written any more.
    """
    print_traceback = threading.excepthook

    def print_others(args: threading.ExceptHookArgs) -> None:
        if not _is_of_the_disk(args.exc_value):
            print_traceback(args)

    threading.excepthook = print_others  # TensorBoard's thread hands its error to the main one too
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not _is_of_the_disk(error):
            raise
        raise OSError(
            f"fit: {folder} cannot be written ({str(error).splitlines()[0]}). Checkpoints that are "
            "complete are as they were: free some space, then go on with --ckpt_path last."
        ) from error
    finally:
        threading.excepthook = print_traceback


def _is_of_the_disk(error: BaseException | None) -> bool:
    return getattr(error, "errno", None) in DISK_FAULTS or isinstance(error, SafetensorError)


def run_record(dump: str) -> str:
    """The configuration of a run as config.yaml, without what only this call is about."""
    import yaml

    config = yaml.safe_load(dump)
    kept = {name: value for name, value in config.items() if name not in PER_CALL}
    return str(yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))


def settled(record: str) -> dict[str, Any]:
    """What a run must keep from its first process to its last: all but how batches are built."""
    import yaml

    config: dict[str, Any] = yaml.safe_load(record)
    data = config.get("data", {})
    return {**config, "data": {k: v for k, v in data.items() if k != "num_workers"}}
