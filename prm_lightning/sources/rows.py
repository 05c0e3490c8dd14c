"""Local files, folders and Hub data sets as raw rows, each with the place it stands at."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from prm_lightning.types import Dropped

DATA_SUFFIXES = (".jsonl", ".json", ".parquet")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Row(NamedTuple):
    """One raw row.

    Args:
        place: for a person, such as ``train.jsonl:12`` (lines count from 1).
        values: its columns.
    """

    place: str
    values: dict[str, Any]


def read_rows(path: str, split: str = "train") -> Iterator[Row | Dropped]:
    """Yield the rows of a data set in file order; a line that is no JSON object is `Dropped`.

    Args:
        path: a JSON Lines, JSON (an array of objects) or Parquet file; a folder of such files;
            else, if it looks like ``owner/name``, a data set of the Hugging Face Hub.
        split: which split of a folder or Hub data set; a file is one split.

    Raises:
        FileNotFoundError: there is no such file, and no such data set can be reached.
        ValueError: the data set is empty, broken as a whole, or has no such split.
    """
    empty = True
    for row in _read(path, split):
        empty = False
        yield row
    if empty:
        raise ValueError(f"{path}: empty, expected at least one row; check that it is complete.")


def _read(path: str, split: str) -> Iterator[Row | Dropped]:
    if Path(path).is_file():
        return _read_file(Path(path))
    if Path(path).is_dir():
        return (row for file in _files_of_split(path, split) for row in _read_file(Path(file)))
    if _HUB_ID.fullmatch(path) and not path.endswith(DATA_SUFFIXES):
        return _read_hub(path, split)
    raise FileNotFoundError(
        f"{path!r}: no such file or folder, and not a Hub id of the form owner/name; "
        f"name an existing file ({', '.join(DATA_SUFFIXES)}), a folder of such files or a Hub id."
    )


def _read_file(file: Path) -> Iterator[Row | Dropped]:
    if file.suffix == ".parquet":
        return _read_parquet(file)
    with file.open("rb") as stream:
        is_array = (
            file.suffix == ".json" and stream.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"["
        )
    return _read_array(file) if is_array else _read_lines(file)


def _read_lines(file: Path) -> Iterator[Row | Dropped]:
    # `datasets` refuses a whole file for one malformed line and cannot name the line, so JSON
    # Lines are read here. Bytes are split on \n alone: texts may hold U+2028 and the like.
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place = f"{file}:{number}"
            try:
                value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                text = line.decode(errors="backslashreplace").strip()
                yield _malformed(place, text, f"not JSON ({error})")
                continue
            yield from _as_rows([(place, value)])


def _read_array(file: Path) -> Iterator[Row | Dropped]:
    try:
        values = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file}: not valid JSON ({error}), expected an array of objects; "
            "mend it, or write one object a line and call the file .jsonl."
        ) from error
    return _as_rows((f"{file}[{index}]", value) for index, value in enumerate(values))


def _as_rows(values: Iterable[tuple[str, Any]]) -> Iterator[Row | Dropped]:
    for place, value in values:
        if isinstance(value, dict):
            yield Row(place, value)
        else:
            yield _malformed(place, value, f"of type {type(value).__name__}")


def _malformed(place: str, value: object, what: str) -> Dropped:
    shown = ascii(value)[:60]
    message = f"{place}: {shown} is {what}, expected a JSON object; mend or remove the line."
    return Dropped(place, "not a JSON object", message)


def _files_of_split(folder: str, split: str) -> list[str]:
    # `datasets` knows how folders name their splits and reads the YAML of a data set card.
    from datasets import load_dataset_builder

    try:
        found = load_dataset_builder(folder).config.data_files or {}
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
    for file in splits[split]:
        if not file.endswith(DATA_SUFFIXES):
            raise ValueError(
                f"{file}: cannot be read, expected {', '.join(DATA_SUFFIXES)} in this folder; "
                "convert it."
            )
    return splits[split]


def _read_parquet(file: Path) -> Iterator[Row | Dropped]:
    from datasets import load_dataset

    try:  # streamed, since otherwise a copy is written to the cache
        rows = load_dataset("parquet", data_files=str(file), split="train", streaming=True)
        for index, values in enumerate(rows):
            yield Row(f"{file}[{index}]", values)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{file}: not a readable Parquet file ({_first_line(error)}); fetch or write it again."
        ) from error


def _read_hub(path: str, split: str) -> Iterator[Row | Dropped]:
    from datasets import load_dataset

    try:
        rows = load_dataset(path, split=split)
    except Exception as error:  # of datasets, the Hub client, httpx, arrow: no common class
        raise FileNotFoundError(
            f"{path!r}: no local file or folder has this path, so it was taken for a Hub id, and "
            f"its split {split!r} could not be loaded ({_first_line(error)}). Check the spelling "
            "and the network; a gated or private data set needs HF_TOKEN."
        ) from error
    return (Row(f"{path}[{index}]", values) for index, values in enumerate(rows))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
