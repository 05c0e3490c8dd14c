"""Files, folders, Hub data sets and rows in memory as raw rows; and a source made of them.

In: a path, a Hub id, or a list of dicts. Out: `Row`s, and `Dropped` for what is none; of a
`FileSource` the `Solution`s that they hold. Read next: `fields.py`, then `stepwise.py`.
"""

from __future__ import annotations

import ast
import bz2
import gzip
import json
import logging
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple, TypeVar

from prm_lightning.files import near_path, stay_off_the_hub_without_network
from prm_lightning.types import Dropped, Solution

COMPRESSED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
JSON_SUFFIXES, LINES_SUFFIXES, CSV_SUFFIXES = (
    (kind, *(kind + packed for packed in COMPRESSED)) for kind in (".json", ".jsonl", ".csv")
)
DATA_SUFFIXES = (*LINES_SUFFIXES, *JSON_SUFFIXES, *CSV_SUFFIXES, ".parquet")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
LONGEST_LINE = 64 * 2**20  # bytes, decompressed
CHUNK = 1024  # rows that are read at a time where a file is no text

T = TypeVar("T")
Rows = str | Iterable[Mapping[str, Any]]
Columns = tuple[str, ...]

log = logging.getLogger(__name__)


class Row(NamedTuple):
    """One raw row, and its place for a person, such as ``train.jsonl:12`` (lines count from 1)."""

    place: str
    values: dict[str, Any]

    @property
    def filled(self) -> dict[str, Any]:
        """Its columns that are not null: in a union of tables each row fills its own."""
        return {column: value for column, value in self.values.items() if value is not None}


def read_rows(
    path: Rows, split: str = "train", *, streaming: bool = False
) -> Iterator[Row | Dropped]:
    """Yield the rows of a data set in order; as `Dropped` a line that is no JSON object, and a row
    with half a character (a lone surrogate, which JSON can hold and UTF-8 cannot).

    Args:
        path: a JSON Lines, JSON (an array of objects), CSV or Parquet file, all but the last also
            compressed (``.gz``, ``.bz2``, ``.xz``); a folder of such files; else, if it looks
            like ``owner/name``, a data set of the Hugging Face Hub; or rows in memory. Lists in
            the cells of a CSV file are written as JSON, or as Python prints them.
        split: which split of a folder or Hub data set; a file is one split.
        streaming: read a Hub data set over the network as it is needed, instead of fetching it
            first. Local files are always read as they are needed, except for a JSON array.

    Raises:
        FileNotFoundError: there is no such file, and no such data set can be reached.
        ValueError: the data set is empty, broken as a whole, or has no such split.
    """
    rows: Iterable[Row | Dropped]
    if not isinstance(path, str):
        rows = (_checked(f"rows[{k}]", values) for k, values in enumerate(path))
    elif Path(path).is_file():
        rows = _read_file(Path(path))
    elif Path(path).is_dir():
        rows = (row for file in _files_of_split(path, split) for row in _read_file(Path(file)))
    elif HUB_ID.fullmatch(path) and not path.endswith(DATA_SUFFIXES):
        rows = _read_hub(path, split, streaming)
    else:
        raise FileNotFoundError(
            f"{path!r}: no such file or folder, and no Hub id of the form owner/name."
            f"{near_path(path)} Name a file ({', '.join(DATA_SUFFIXES)}), a folder of such files "
            "or a Hub id."
        )
    row = None
    for row in rows:
        yield row
    if row is None:
        raise ValueError(f"{path}: empty, expected at least one row; check that it is complete.")


def name_of(path: Rows) -> str:
    """What to call a data set: a file's name without suffixes, a folder's, or a Hub id's last."""
    if not isinstance(path, str):
        return "rows"
    name = Path(path).name
    suffix = max((s for s in DATA_SUFFIXES if name.endswith(s)), key=len, default="")
    return name.removesuffix(suffix) or name


def _read_file(file: Path) -> Iterator[Row | Dropped]:
    if file.suffix == ".parquet":
        return _read_parquet(file)
    if file.name.endswith(CSV_SUFFIXES):
        return _read_csv(file)
    with _opened(file) as stream:
        head = stream.read(4096)
    if not (encoding := json.detect_encoding(head)).startswith("utf-8"):
        raise ValueError(f"{file}: is not UTF-8, but perhaps {encoding}; save it as UTF-8.")
    is_array = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"["
    is_array = is_array and file.name.endswith(JSON_SUFFIXES)
    return _read_array(file) if is_array else _read_lines(file)


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    try:
        with COMPRESSED.get(file.suffix, open)(file, "rb") as stream:
            yield stream
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise _unreadable(file, file.suffix, error) from error


def _unreadable(file: Path, kind: str, error: Exception) -> ValueError:
    return ValueError(
        f"{file}: not a readable {kind} file ({_first_line(error)}); fetch or write it again."
    )


def _read_lines(file: Path) -> Iterator[Row | Dropped]:
    # `datasets` refuses a whole file for one malformed line and cannot name the line, so JSON
    # Lines are read here. Bytes are split on \n alone: texts may hold U+2028 and the like.
    with _opened(file) as stream:  # a little of it can unpack into a line that fills the memory
        lines = iter(lambda: stream.readline(LONGEST_LINE + 1), b"")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place = f"{file}:{number}"
            if len(line) > LONGEST_LINE:
                limit = f"a line of more than {LONGEST_LINE // 2**20} MiB"
                raise ValueError(f"{place}: {limit}, expected one row per line, as in JSON Lines.")
            try:
                yield _checked(place, json.loads(line))
            except (ValueError, RecursionError) as error:
                if number == 1 and re.search(rb"\r[^\n]", line.strip()):
                    what = "its lines end in CR alone, expected LF or CRLF; save it with other ends"
                    raise ValueError(f"{file}: {what}.") from error
                text = line.decode(errors="backslashreplace").strip()
                yield _malformed(place, text, f"not JSON ({_first_line(error)})")


def _read_array(file: Path) -> Iterator[Row | Dropped]:
    try:
        with _opened(file) as stream:
            values = json.load(stream)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file}: not valid JSON ({_first_line(error)}), expected an array of objects; "
            "mend it, or write one object per line and call the file .jsonl."
        ) from error
    return (_checked(f"{file}[{k}]", value) for k, value in enumerate(values))


def _checked(place: str, value: Any) -> Row | Dropped:
    """The one check of every row that is read."""
    if not isinstance(value, Mapping):
        return _malformed(place, value, f"of type {type(value).__name__}")
    try:
        json.dumps(value, ensure_ascii=False, default=str, skipkeys=True).encode()
    except UnicodeEncodeError:
        message = f"{place}: {ascii(value)[:60]} holds half a character; mend or remove the row."
        return Dropped(place, "text with half a character", message)
    return Row(place, dict(value))


def _malformed(place: str, value: object, what: str) -> Dropped:
    shown = ascii(value)[:60]
    message = f"{place}: {shown} is {what}, expected a JSON object; mend or remove the line."
    return Dropped(place, "not a JSON object", message)


def _read_csv(file: Path) -> Iterator[Row | Dropped]:
    import pandas

    try:
        with pandas.read_csv(file, chunksize=CHUNK, dtype_backend="numpy_nullable") as chunks:
            for chunk in chunks:
                filled = chunk.astype(object).where(chunk.notna(), None)
                for index, values in zip(chunk.index, filled.to_dict("records"), strict=True):
                    row = {column: _cell(value) for column, value in values.items()}
                    yield _checked(f"{file}[{index}]", row)
    except (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise _unreadable(file, "CSV", error) from error


def _cell(value: Any) -> Any:
    """A cell of a CSV file; a list or an object where it is one in JSON, or as Python prints it."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        for parse in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                return parse(value)
    return value


def _files_of_split(folder: str, split: str) -> list[str]:
    """Full paths of the data files of a folder, in the order in which they are read.

    `datasets` knows how folders name their splits. It takes the files of one kind and passes over
    the others in silence.
    """
    from datasets import load_dataset_builder

    here = Path(folder).resolve()  # `datasets` takes a relative "json" or "csv" for a format
    try:
        found = load_dataset_builder(str(here)).config.data_files or {}
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
    read = {file for files in splits.values() for file in files}
    for file in sorted(read):
        if not file.endswith(DATA_SUFFIXES):
            raise ValueError(f"{file}: cannot be read, expected {', '.join(DATA_SUFFIXES)}.")
    visible = [p for p in sorted(here.rglob("*")) if p.name[0] not in "._"]
    left_out = [p.name for p in visible if p.name.endswith(DATA_SUFFIXES) and str(p) not in read]
    kinds = ((*JSON_SUFFIXES, *LINES_SUFFIXES), CSV_SUFFIXES, (".parquet",))
    same = next(kind for kind in kinds if splits[split][0].endswith(kind))
    others = [name for name in left_out if not name.endswith((*same, ".json"))]
    if others and not (here / "README.md").exists():  # a data set card may choose files
        raise ValueError(
            f"{folder}: holds files of several kinds, of which only one would be read, without "
            f"{others[0]}; name one file, or move the others."
        )
    if left_out:
        log.warning("%s: not read, of no split: %s", folder, ", ".join(left_out))
    return splits[split]


def _read_parquet(file: Path) -> Iterator[Row | Dropped]:
    import pyarrow
    import pyarrow.parquet

    try:
        batches = pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=CHUNK)
        for index, values in enumerate(row for batch in batches for row in _rows_of(batch)):
            yield _checked(f"{file}[{index}]", values)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise _unreadable(file, "Parquet", error) from error


def _rows_of(batch: Any) -> list[Any]:
    """The rows of a part of a Parquet file; one whose text is not UTF-8 is no row but that text."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError as error:
        half = len(batch) // 2
        return _rows_of(batch[:half]) + _rows_of(batch[half:]) if half else [error.object]


def _read_hub(path: str, split: str, streaming: bool) -> Iterator[Row | Dropped]:
    stay_off_the_hub_without_network()
    from datasets import load_dataset

    place = path
    try:
        for index, values in enumerate(load_dataset(path, split=split, streaming=streaming)):
            place = f"{path}[{index}]"
            yield _checked(place, values)
    except Exception as error:  # of datasets, the Hub client, httpx, arrow: no common class
        raise FileNotFoundError(
            f"{path!r}: no local file or folder, so taken for a Hub id; split {split!r} not loaded "
            f"({place}: {_first_line(error)}). Check spelling and network; if gated, set HF_TOKEN."
        ) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


class RowError(Exception):
    """A row that cannot become a solution.

    Args:
        reason: a short fixed phrase to count by.
        message: what was found, what was expected, what to change; without the place.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason, self.message = reason, message


@dataclass
class FileSource:
    """Solutions in the rows of a file, a folder, a Hub data set or a list.

    A subclass is a dataclass with `layouts`, the columns that it needs, in one way or several, with
    its options as fields, and with `parse`.

    Args:
        path: this and `split` are as for `read_rows`.
        split: which split of a folder or Hub data set.
        name: what to report the solutions under; empty means what `name_of` calls the data.
    """

    layouts: ClassVar[tuple[Columns, ...]] = ()

    path: Rows
    split: str = "train"
    name: str = ""

    def __post_init__(self) -> None:
        self.name = self.name or name_of(self.path)

    def parse(self, row: dict[str, Any], id: str) -> Iterable[Solution]:
        """What a row holds; a `RowError` where it cannot be used.

        Args:
            row: its columns that are not null, those of one of the `layouts` among them.
            id: for its solution, ``name:row index``.
        """
        raise NotImplementedError

    def read(self) -> Iterator[Solution | Dropped]:
        """Yield the solutions of each row, or why there are none.

        Raises:
            FileNotFoundError: there is nothing at ``path``, here or on the Hub.
            ValueError: the data are empty, broken as a whole, or lack needed columns altogether.
        """
        return parse_rows(read_rows(self.path, self.split), self.parse, self.name, self.layouts)


def parse_rows(
    rows: Iterable[Row | Dropped],
    parse: Callable[[dict[str, Any], str], Iterable[T]],
    name: str,
    layouts: Sequence[Columns],
) -> Iterator[T | Dropped]:
    """Yield what each row holds by `FileSource.parse`, `Dropped` where that raises a `RowError`.

    Raises:
        ValueError: no row has the columns of any of the layouts.
    """
    columns: set[str] = set()
    for index, row in enumerate(rows):
        if isinstance(row, Dropped):
            yield row
            continue
        filled = row.filled
        columns.update(filled)
        try:
            require_columns(filled, layouts)
            found = list(parse(filled, f"{name}:{index}"))
        except RowError as error:
            yield Dropped(row.place, error.reason, f"{row.place}: {error.message}")
        else:
            yield from found
    if not any(columns.issuperset(layout) for layout in layouts):
        expected = " or ".join(", ".join(layout) for layout in layouts)
        names = " ".join(", ".join(sorted(columns)).split())  # in one line
        raise ValueError(
            f"{name}: the rows have the columns {names or '(none)'}, "
            f"expected {expected}; rename them, or name the source that reads these."
        )


def require_columns(row: dict[str, Any], layouts: Sequence[Columns]) -> None:
    """Raise a `RowError` that names the missing columns, unless one of the layouts is there."""
    missing = [[column for column in layout if column not in row] for layout in layouts]
    if missing and all(missing):
        found = ascii(", ".join(row))[1:-1][:200] or "(none)"
        raise RowError(
            "missing column", f"no {', '.join(sorted(missing, key=len)[0])} among {found}."
        )
