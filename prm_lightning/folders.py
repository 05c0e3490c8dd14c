"""Folders and files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/prm_lightning``, or ``~/.cache/prm_lightning``: what can be made again."""
    root = os.environ.get("XDG_CACHE_HOME")
    return Path(root or Path.home() / ".cache") / "prm_lightning"


@contextmanager
def written_folder(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write into, which takes its name only when the block ends without an error.

    Args:
        folder: the name it gets.
        overwrite: replace what has that name.

    Raises:
        FileExistsError: the name is taken and `overwrite` is off.
    """
    if folder.exists() and not overwrite:
        raise FileExistsError(f"{folder} exists. Give another folder, or allow overwriting.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        _open_to_readers(beside)
        old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        if folder.exists():
            folder.rename(old)
        beside.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def written_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the name `path` only when the block ends without an error.

    What has that name is replaced; the folder is made if it is not there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _open_to_readers(folder: Path) -> None:
    """Give files the ordinary permissions: safetensors makes them readable by the owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~umask)
