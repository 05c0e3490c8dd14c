"""Checkpoints that say themselves whether they are whole, and the newest one that is."""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

SEAL = b"sha256:"
SEAL_BYTES = len(SEAL) + 64  # with the digest in hex
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
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.partial")
        try:
            torch.save(checkpoint, beside)
            seal(beside)
            beside.replace(target)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            raise OSError(
                f"checkpoint: {target} cannot be written ({_first_line(error)}). Earlier "
                "checkpoints are as they were; free some space or lower --keep."
            ) from error
        finally:
            beside.unlink(missing_ok=True)

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
    digest = _hash_all_but_seal(path)
    with path.open("r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(digest)
        file.flush()
        os.fsync(file.fileno())


def find_fault(path: Path) -> str | None:
    """What is wrong with a checkpoint file, for a message; None if it is whole.

    Raises:
        FileNotFoundError: there is no such file.
    """
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


def _hash_all_but_seal(path: Path) -> bytes:
    digest = hashlib.sha256()
    left = path.stat().st_size - 64
    with path.open("rb") as file:
        while left > 0:
            part = file.read(min(CHUNK, left))
            digest.update(part)
            left -= len(part)
    return digest.hexdigest().encode()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
