"""A JSON Lines file that is written row by row, and gone on with after a kill."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prm_lightning.folders import written_file


@dataclass(frozen=True, slots=True)
class ResumableRows:
    """Rows on their way to a file that appears when all of them are there.

    Until then they stand in ``.NAME.partial`` beside it, behind a line that says what job they
    are of. A row is on the disk when `append` returns.

    Args:
        output: the file in the end.
        job: whatever decides what the rows are; plain JSON. Only the same job is gone on with.
    """

    output: Path
    job: dict[str, Any]

    @property
    def partial(self) -> Path:
        """Where the rows stand until all are there."""
        return self.output.with_name(f".{self.output.name}.partial")

    def begin(self, *, overwrite: bool = False) -> Iterator[dict[str, Any]]:
        """Begin, or go on behind the last whole row.

        Args:
            overwrite: replace the output, or what another job has begun.

        Returns:
            The rows that are there.

        Raises:
            FileExistsError: the output is there already.
            ValueError: another job was begun here, or it is no file of ours.
        """
        self.require_new(overwrite=overwrite)
        self.output.parent.mkdir(parents=True, exist_ok=True)
        begun = _first_line(self.partial)
        if begun is not None and begun != self.job and not overwrite:
            before = begun if isinstance(begun, dict) else {}
            changed = [
                key for key in {**self.job, **before} if before.get(key) != self.job.get(key)
            ]
            raise ValueError(
                f"{self.partial} was begun by another job (its {', '.join(changed)} differ). Give "
                "the same options again, another --output, or --overwrite to begin anew."
            )
        if begun != self.job:
            _write_synced(self.partial, "wb", _line(self.job))
        _cut_behind_last_line(self.partial)
        return self._rows()

    def require_new(self, *, overwrite: bool = False) -> None:
        """Refuse an output that is there.

        Raises:
            FileExistsError: it is, and `overwrite` is off.
        """
        if self.output.exists() and not overwrite:
            raise FileExistsError(f"{self.output} exists. Give another --output, or --overwrite.")

    def append(self, *rows: dict[str, Any]) -> None:
        """Add rows, and wait until they are on the disk."""
        _write_synced(self.partial, "ab", b"".join(map(_line, rows)))

    def finish(self) -> None:
        """The rows become the output."""
        with (
            written_file(self.output) as beside,
            self.partial.open("rb") as source,
            beside.open("wb") as target,
        ):
            source.readline()  # the job
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())
        self.partial.unlink()

    def _rows(self) -> Iterator[dict[str, Any]]:
        with self.partial.open("rb") as file:
            file.readline()
            for line in file:
                yield json.loads(line)


def _first_line(file: Path) -> Any:
    """What it says; None where it was not written to its end."""
    if not file.exists():
        return None
    with file.open("rb") as stream:
        line = stream.readline()
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        raise ValueError(
            f"{file} begins with {ascii(line[:40])[2:-1]!r}, expected the JSON line of a job; "
            "remove it."
        ) from None


def _cut_behind_last_line(file: Path) -> None:
    """Drop what a kill left of a row."""
    whole = 0
    with file.open("r+b") as stream:
        for line in stream:
            whole += len(line) if line.endswith(b"\n") else 0
        stream.truncate(whole)


def _write_synced(file: Path, mode: str, content: bytes) -> None:
    with file.open(mode) as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _line(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode()
