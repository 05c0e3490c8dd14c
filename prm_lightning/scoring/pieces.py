"""A data set in pieces that many processes can read, each without reading the others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from prm_lightning.sources.rows import (
    Row,
    files_of_split,
    parse_lines,
    read_file,
    read_row_groups,
)
from prm_lightning.types import Dropped


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of one file, side by side.

    Args:
        file: full path.
        count: lines or rows; None is the whole file, where its kind lets it be read only so.
        begin: of a JSON Lines file the byte where the first line begins, of a Parquet file the
            index of the row group.
        first: of a JSON Lines file the number of the first line, of a Parquet file the index of
            the row group's first row.
        skip: rows of the row group that belong to other pieces.
    """

    file: str
    count: int | None = None
    begin: int = 0
    first: int = 0
    skip: int = 0


def cut(path: str, rows: int, split: str = "train") -> list[Piece]:
    """Pieces of a file or a folder, in order; together they are what `read_rows` reads.

    JSON Lines files are read once to find where pieces begin, Parquet files are not read. A JSON
    array, or a compressed file, is one piece.

    Args:
        path: a file or a folder, as for `read_rows`.
        rows: most rows of a piece.
        split: of a folder.

    Raises:
        FileNotFoundError: there is none; a data set of the Hub has to be fetched first.
        ValueError: a folder without data files, or of several kinds.
    """
    if Path(path).is_file():
        files = [path]
    elif Path(path).is_dir():
        files = files_of_split(path, split)
    else:
        raise FileNotFoundError(
            f"{path!r}: no such file or folder; to read it in pieces, fetch it to a folder that "
            "all machines share."
        )
    return [piece for file in files for piece in _cut_file(Path(file), rows)]


def read_piece(piece: Piece) -> Iterator[Row | Dropped]:
    """Its rows, each with the place that `read_rows` says it stands at."""
    file = Path(piece.file)
    if piece.count is None:
        yield from read_file(file)
    elif file.suffix == ".parquet":
        rows = read_row_groups(file, [piece.begin], piece.first)
        yield from islice(rows, piece.skip, piece.skip + piece.count)
    else:
        with file.open("rb") as lines:
            lines.seek(piece.begin)
            yield from parse_lines(file, islice(lines, piece.count), piece.first)


def digest(pieces: Sequence[Piece]) -> str:
    """32 hexadecimal digits of the files: their names, sizes and times of change."""
    hashed = hashlib.sha256()
    for file in sorted({piece.file for piece in pieces}):
        stat = Path(file).stat()
        hashed.update(f"{file} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return hashed.hexdigest()[:32]


def _cut_file(file: Path, rows: int) -> Iterator[Piece]:
    if file.suffix == ".parquet":
        return _cut_row_groups(file, rows)
    if file.suffix == ".jsonl":
        return _cut_lines(file, rows)
    return iter([Piece(str(file))])


def _cut_lines(file: Path, rows: int) -> Iterator[Piece]:
    begin, first = 0, 1
    with file.open("rb") as lines:
        while taken := list(islice(lines, rows)):
            yield Piece(str(file), len(taken), begin, first)
            begin, first = begin + sum(map(len, taken)), first + len(taken)


def _cut_row_groups(file: Path, rows: int) -> Iterator[Piece]:
    import pyarrow.parquet

    metadata = pyarrow.parquet.read_metadata(file)
    first = 0
    for group in range(metadata.num_row_groups):
        held = metadata.row_group(group).num_rows
        for skip in range(0, held, rows):
            yield Piece(str(file), min(rows, held - skip), group, first, skip)
        first += held
