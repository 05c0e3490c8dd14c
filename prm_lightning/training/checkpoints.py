"""Checkpoints that say themselves whether they are whole, and the newest one that is."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from prm_lightning.files import written_file

SEAL = b"sha256:"
SEAL_BYTES = len(SEAL) + 64  # with the digest in hex
SUMS = "sha256.json"  # of the files of a checkpoint that is a folder
CHUNK = 1 << 24  # bytes read at a time

log = logging.getLogger(__name__)


class SealedCheckpointIO(TorchCheckpointIO):
    """Checkpoints with a checksum, written beside and renamed, and read without pickled code.

    The SHA-256 of a file stands in its own end, as the comment that a ZIP archive may have, so
    that file and checksum cannot be parted, and `torch.load` reads the file as any other.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a whole checkpoint under its name, or leave what has that name as it is."""
        target = Path(path)
        try:
            with written_file(target) as beside:
                torch.save(checkpoint, beside)
                seal(beside)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            raise OSError(
                f"checkpoint: {target} cannot be written ({_first_line(error)}; "
                f"{_free_megabytes(target):.1f} MB are free). Earlier checkpoints are as they "
                "were; free some space or lower --keep."
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint that is whole; tensors and plain values only, never code.

        Raises:
            ValueError: it was cut off or changed after it was written.
            FileNotFoundError: there is none.
        """
        require_whole(Path(path))
        loaded: dict[str, Any] = torch.load(
            path, map_location=map_location or "cpu", weights_only=True
        )
        return loaded


def _free_megabytes(target: Path) -> float:
    """Of the disk that a file would lie on."""
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    return shutil.disk_usage(folder).free / 1e6


def require_whole(path: Path) -> None:
    """Refuse a damaged checkpoint.

    Raises:
        ValueError: it was cut off or changed after it was written.
        FileNotFoundError: there is none.
    """
    fault = find_fault(path)
    if fault:
        raise ValueError(
            f"checkpoint: {path} {fault}. Resume from an earlier one with --ckpt_path FILE, or "
            "from the newest whole one with --ckpt_path last."
        )


def seal(path: Path) -> None:
    """Write the checksum of a ZIP archive into its end, and the file to the disk."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = SEAL + b"0" * 64  # its length is part of what is hashed
    digest = _hash_all_but_seal(path)
    with path.open("r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(digest)
        file.flush()
        os.fsync(file.fileno())


def seal_folder(folder: Path) -> None:
    """Write the checksums of a folder's files beside them, and all of it to the disk."""
    sums = {file.name: _hash_file(file) for file in _sync_files(folder)}
    with (folder / SUMS).open("w", encoding="utf-8") as file:
        json.dump(sums, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())


def find_fault(path: Path) -> str | None:
    """What is wrong with a checkpoint, a file or a folder, for a message; None if it is whole.

    Raises:
        FileNotFoundError: there is none.
    """
    if path.is_dir():
        return _find_fault_of_folder(path)
    if path.stat().st_size <= SEAL_BYTES:
        return "is cut off"
    with path.open("rb") as file:
        file.seek(-SEAL_BYTES, os.SEEK_END)
        found = file.read()
    if not found.startswith(SEAL):
        return "has no checksum at its end: it is cut off, or was not written by this release"
    if found[len(SEAL) :] != _hash_all_but_seal(path):
        return "differs from its checksum: it was changed or damaged"
    return None


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint of a run that is whole; None where there is no checkpoint at all.

    Damaged ones are named in the log.

    Raises:
        ValueError: there are checkpoints, but none is whole.
    """
    found = sorted(folder.glob("*.ckpt"), key=lambda path: (path.stat().st_mtime_ns, path.name))
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


def _find_fault_of_folder(folder: Path) -> str | None:
    try:
        sums = json.loads((folder / SUMS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"has no {SUMS}: it is cut off, or was not written by this release"
    except ValueError:
        return f"has a {SUMS} that cannot be read: it was changed or damaged"
    for name, digest in sums.items():
        file = folder / name
        if not file.is_file() or _hash_file(file) != digest:
            return f"differs from its checksums in {name}: it was cut off, changed or damaged"
    return None


def _sync_files(folder: Path) -> list[Path]:
    files = sorted(folder.iterdir())
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return files


def _hash_all_but_seal(path: Path) -> bytes:
    return _hash_file(path, but_last=64).encode()


def _hash_file(path: Path, but_last: int = 0) -> str:
    digest = hashlib.sha256()
    left = path.stat().st_size - but_last
    with path.open("rb") as file:
        while left > 0:
            part = file.read(min(CHUNK, left))
            digest.update(part)
            left -= len(part)
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
