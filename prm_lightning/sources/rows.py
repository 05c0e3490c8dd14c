"""Files, folders, Hub data sets and rows in memory as raw rows, each with its place.

In: a path, a Hub id, or a list of dicts. Out: `Row`s, and `Dropped` for what is none.
Read next: `file_source.py`, which makes solutions of rows.
"""

from __future__ import annotations

import bz2
import gzip
import json
import logging
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from prm_lightning.types import Dropped

COMPRESSED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
JSON_SUFFIXES = (".json", *(".json" + packed for packed in COMPRESSED))
LINES_SUFFIXES = (".jsonl", *(".jsonl" + packed for packed in COMPRESSED))
DATA_SUFFIXES = (*LINES_SUFFIXES, *JSON_SUFFIXES, ".parquet")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
LONGEST_LINE = 64 * 2**20  # bytes, decompressed
LARGEST_ARRAY = 2**30  # bytes that a compressed JSON array may have

_BYTE_ORDER = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"{\0": "UTF-16", b"\0{": "UTF-16"}
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # half of a character, or the first half of a pair

log = logging.getLogger(__name__)


class Row(NamedTuple):
    """One raw row.

    Args:
        place: for a person, such as ``train.jsonl:12`` (lines count from 1).
        values: its columns.
    """

    place: str
    values: dict[str, Any]

    @property
    def filled(self) -> dict[str, Any]:
        """Its columns that are not null: in a union of tables each row fills its own."""
        return {column: value for column, value in self.values.items() if value is not None}


Rows = str | Iterable[Mapping[str, Any]]


def read_rows(
    path: Rows, split: str = "train", *, streaming: bool = False
) -> Iterator[Row | Dropped]:
    """Yield the rows of a data set in order, and as `Dropped` what cannot be used or written again.

    That is a line which is no JSON object, and a row with half a character (a lone surrogate,
    which JSON can hold and UTF-8 cannot).

    Args:
        path: a JSON Lines, JSON (an array of objects) or Parquet file, the first two also
            compressed (``.gz``, ``.bz2``, ``.xz``); a folder of such files; else, if it looks
            like ``owner/name``, a data set of the Hugging Face Hub; or rows in memory.
        split: which split of a folder or Hub data set; a file is one split.
        streaming: read a Hub data set over the network as it is needed, instead of fetching it
            first. Local files are always read as they are needed, but for a JSON array.

    Raises:
        FileNotFoundError: there is no such file, and no such data set can be reached.
        ValueError: the data set is empty, broken as a whole, or has no such split.
    """
    empty = True
    for row in _read(path, split, "stream" if streaming else "fetch"):
        empty = False
        yield row
    if empty:
        raise ValueError(f"{path}: empty, expected at least one row; check that it is complete.")


def name_of(path: Rows) -> str:
    """What to call a data set: a file's name without suffixes, a folder's, or a Hub id's last."""
    if not isinstance(path, str):
        return "rows"
    name = Path(path).name
    suffix = max((s for s in DATA_SUFFIXES if name.endswith(s)), key=len, default="")
    return name.removesuffix(suffix) or name


def _read(path: Rows, split: str, how: str) -> Iterator[Row | Dropped]:
    if not isinstance(path, str):
        return (_checked(f"rows[{k}]", values) for k, values in enumerate(path))
    if Path(path).is_file():
        return read_file(Path(path))
    if Path(path).is_dir():
        return (row for file in files_of_split(path, split) for row in read_file(Path(file)))
    if HUB_ID.fullmatch(path) and not path.endswith(DATA_SUFFIXES):
        return _read_hub(path, split, streaming=how == "stream")
    raise FileNotFoundError(
        f"{path!r}: no such file or folder, and not a Hub id of the form owner/name; "
        f"name an existing file ({', '.join(DATA_SUFFIXES)}), a folder of such files or a Hub id."
    )


def read_file(file: Path) -> Iterator[Row | Dropped]:
    """The rows of one file, see `read_rows`."""
    if _is_parquet(file):
        return read_row_groups(file)
    with _opened(file) as stream:
        head = stream.read(4096)
    if encoding := _BYTE_ORDER.get(head[:2]):
        raise ValueError(
            f"{file}: line 1 is not UTF-8, perhaps {encoding} (it begins with {head[:4]!r}); save "
            "it as UTF-8."
        )
    is_array = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"["
    return (
        _read_array(file) if is_array and file.name.endswith(JSON_SUFFIXES) else _read_lines(file)
    )


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    opener = COMPRESSED.get(file.suffix)
    if opener is None:
        with file.open("rb") as stream:
            yield stream
        return
    try:
        with opener(file, "rb") as stream:
            yield stream
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(
            f"{file}: not a readable {file.suffix} file ({_first_line(error)}); fetch or compress "
            "it again."
        ) from error


def _read_lines(file: Path) -> Iterator[Row | Dropped]:
    with _opened(file) as stream:
        yield from parse_lines(file, iter(lambda: stream.readline(LONGEST_LINE + 1), b""))


def parse_lines(file: Path, lines: Iterable[bytes], first: int = 1) -> Iterator[Row | Dropped]:
    """The rows of some lines of a JSON Lines file, of which `first` is the number of the first."""
    # `datasets` refuses a whole file for one malformed line and cannot name the line, so JSON
    # Lines are read here. Bytes are split on \n alone: texts may hold U+2028 and the like.
    for number, line in enumerate(lines, start=first):
        if not line.strip():
            continue
        place = f"{file}:{number}"
        if len(line) > LONGEST_LINE:
            raise ValueError(
                f"{place}: a line of more than {LONGEST_LINE // 2**20} MiB, expected one row per "
                "line; check that the file is JSON Lines."
            )
        try:
            value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except (ValueError, RecursionError) as error:
            if number == 1 and re.search(rb"\r[^\n]", line.strip()):
                raise ValueError(
                    f"{file}: its lines end in CR alone, expected LF or CRLF; save it with other "
                    "line ends."
                ) from error
            text = line.decode(errors="backslashreplace").strip()
            yield _malformed(place, text, f"not JSON ({_first_line(error)})")
            continue
        yield _checked(place, value, can_be_half=_SURROGATE.search(line) is not None)


def _read_array(file: Path) -> Iterator[Row | Dropped]:
    most = LARGEST_ARRAY if file.suffix in COMPRESSED else -1
    with _opened(file) as stream:
        content = stream.read(most)
        if most > 0 and stream.read(1):
            raise ValueError(
                f"{file}: a JSON array of more than {most // 2**20} MiB; decompress it, or write "
                "one object per line and call the file .jsonl."
            )
    try:
        values = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file}: not valid JSON ({_first_line(error)}), expected an array of objects; "
            "mend it, or write one object per line and call the file .jsonl."
        ) from error
    can_be_half = _SURROGATE.search(content) is not None
    return (_checked(f"{file}[{k}]", v, can_be_half=can_be_half) for k, v in enumerate(values))


def _checked(place: str, value: Any, *, can_be_half: bool = True) -> Row | Dropped:
    """The one check of every row that is read."""
    if not isinstance(value, Mapping):
        return _malformed(place, value, f"of type {type(value).__name__}")
    if can_be_half and not _is_utf8(value):
        message = f"{place}: {ascii(value)[:60]} holds half a character; mend or remove the row."
        return Dropped(place, "text with half a character", message)
    return Row(place, dict(value))


def _is_utf8(value: Any) -> bool:
    """Whether every text in a value can be written as UTF-8."""
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)
    if isinstance(value, Mapping):
        return all(_is_utf8(key) and _is_utf8(inner) for key, inner in value.items())
    return not isinstance(value, (list, tuple)) or all(map(_is_utf8, value))


def _malformed(place: str, value: object, what: str) -> Dropped:
    shown = ascii(value)[:60]
    message = f"{place}: {shown} is {what}, expected a JSON object; mend or remove the line."
    return Dropped(place, "not a JSON object", message)


def files_of_split(folder: str, split: str = "train") -> list[str]:
    """Full paths of the data files of a folder, in the order in which they are read."""
    # `datasets` knows how folders name their splits and reads the YAML of a data set card. It
    # takes a relative folder called "json" or "csv" for a format of its own: hence the full path.
    from datasets import load_dataset_builder

    try:
        found = load_dataset_builder(str(Path(folder).resolve())).config.data_files or {}
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder}: no data files found in this folder ({_first_line(error)}), expected "
            f"{', '.join(DATA_SUFFIXES)}; name another folder or a file."
        ) from error
    splits = {str(name): [str(file) for file in files] for name, files in found.items()}
    if split not in splits:
        raise ValueError(
            f"{folder}: has no split {split!r}, only {', '.join(splits)}; set split to one of them."
        )
    _require_all_read(Path(folder), {Path(file) for files in splits.values() for file in files})
    return splits[split]


def _require_all_read(folder: Path, read: set[Path]) -> None:
    """`datasets` reads the files of one kind in a folder and passes over the others in silence."""
    for file in sorted(read):
        if not file.name.endswith(DATA_SUFFIXES):
            raise ValueError(
                f"{file}: cannot be read, expected {', '.join(DATA_SUFFIXES)} in this folder; "
                "convert it."
            )
    files = [p for p in sorted(folder.resolve().rglob("*")) if p.name.endswith(DATA_SUFFIXES)]
    left_out = [p for p in files if p not in read and p.name[0] not in "._"]
    is_parquet = any(map(_is_parquet, read))
    other_kind = [p for p in left_out if p.suffix != ".json" and is_parquet != _is_parquet(p)]
    if other_kind and not (folder / "README.md").exists():  # a data set card may choose files
        raise ValueError(
            f"{folder}: holds Parquet and JSON Lines files, of which only one kind would be read, "
            f"without {other_kind[0].name}; name one file, or move the others."
        )
    if left_out:
        log.warning("%s: not read, of no split: %s", folder, ", ".join(p.name for p in left_out))


def _is_parquet(file: Path) -> bool:
    return file.suffix == ".parquet"


def read_row_groups(
    file: Path, groups: list[int] | None = None, first: int = 0
) -> Iterator[Row | Dropped]:
    """The rows of some row groups of a Parquet file, or of all.

    Args:
        file: to read.
        groups: their indices; None is all.
        first: index of their first row in the file.
    """
    import pyarrow
    import pyarrow.parquet

    index = first
    try:
        content = pyarrow.parquet.ParquetFile(file)
        for batch in content.iter_batches(batch_size=1024, row_groups=groups):
            for values in batch.to_pylist():
                yield Row(f"{file}[{index}]", values)
                index += 1
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise ValueError(
            f"{file}: not a readable Parquet file ({_first_line(error)}); fetch or write it again."
        ) from error


def _read_hub(path: str, split: str, *, streaming: bool) -> Iterator[Row | Dropped]:
    from datasets import load_dataset

    place = path
    try:
        for index, values in enumerate(load_dataset(path, split=split, streaming=streaming)):
            place = f"{path}[{index}]"
            yield Row(place, values)
    except Exception as error:  # of datasets, the Hub client, httpx, arrow: no common class
        raise FileNotFoundError(
            f"{path!r}: no local file or folder has this path, so it was taken for a Hub id, and "
            f"its split {split!r} could not be loaded after {place} ({_first_line(error)}). Check "
            "the spelling and the network; a gated or private data set needs HF_TOKEN."
        ) from error


def _first_line(error: Exception) -> str:
    lines = f"{type(error).__name__}: {error}".splitlines()
    return lines[0][:300]
