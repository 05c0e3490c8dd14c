"""A source whose rows are in files: a layout is a subclass that says what one row holds.

In: rows of `rows.py`. Out: `Solution`s with ids, and `Dropped` rows with reasons.
Read next: `stepwise.py` and `layouts.py`, the layouts that are known.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

from prm_lightning.sources.rows import Row, Rows, name_of, read_rows
from prm_lightning.text import find_chat_markup
from prm_lightning.types import Dropped, Solution

T = TypeVar("T")
Columns = tuple[str, ...]

# The columns that tell a layout, by the source that reads it; the first that fits counts.
LAYOUTS: dict[str, tuple[Columns, ...]] = {
    "Stepwise": (
        ("prompt", "completions", "labels"),
        ("problem", "steps", "labels"),
        ("problem", "previous_steps", "step", "label"),
    ),
    "ProcessBench": (("problem", "steps", "label"),),
    "MathShepherd": (("input", "label"),),
    "OpenRlhf": (("input", "value"),),
    "RlhFlow": (("conversations",), ("messages",)),
    "Prm800k": (("question", "label"),),
}

log = logging.getLogger(__name__)


class RowError(Exception):
    """A row that cannot become a solution.

    Args:
        reason: a short fixed phrase to count by.
        message: what was found, what was expected, what to change; without the place.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


@dataclass
class FileSource:
    """Solutions in the rows of a file, a folder, a Hub data set or a list.

    A subclass is a dataclass with `layouts`, the columns that it needs, in one way or several, with
    its options as fields, and with `parse`.

    Args:
        path: a JSON Lines, JSON or Parquet file, a folder of them, a Hub id, or rows in memory.
        split: which split of a folder or Hub data set; a file is one split.
        name: what to report the solutions under; empty means the file's stem, the folder's name
            or the last part of the Hub id.
    """

    layouts: ClassVar[tuple[Columns, ...]] = ()

    path: Rows
    split: str = "train"
    name: str = ""

    def __post_init__(self) -> None:
        self.name = self.name or name_of(self.path)

    def parse(self, row: dict[str, Any], id: str) -> Iterable[Solution]:
        """What a row holds.

        Args:
            row: its columns that are not null, those of one of the `layouts` among them.
            id: for its solution, ``name:row index``.

        Raises:
            RowError: the row cannot be used.
        """
        raise NotImplementedError

    def rows(self) -> Iterator[Row | Dropped]:
        """The raw rows."""
        return read_rows(self.path, self.split)

    def read(self) -> Iterator[Solution | Dropped]:
        """Yield the solutions of each row, or why there are none.

        An id that is taken gets a suffix such as ``#2``. Problems that still hold chat markup
        are counted in a warning.

        Raises:
            FileNotFoundError: there is nothing at ``path``, here or on the Hub.
            ValueError: the data are empty, broken as a whole, or lack needed columns altogether.
        """
        return finish(parse_rows(self.rows(), self.parse, self.name, self.needed()), self.name)

    def needed(self) -> Sequence[Columns]:
        """The columns needed, in one way or several."""
        return self.layouts


def parse_rows(
    rows: Iterable[Row | Dropped],
    parse: Callable[[dict[str, Any], str], Iterable[T]],
    name: str,
    layouts: Sequence[Columns],
) -> Iterator[T | Dropped]:
    """Yield what each row holds; a row that `parse` refuses with a `RowError` is `Dropped`.

    Args:
        rows: as `read_rows` gives them.
        parse: takes a row's columns that are not null, and its id, ``name:row index``.
        name: of the source.
        layouts: the columns needed, in one way or several.

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
        raise ValueError(
            f"{name}: the rows have the columns {', '.join(sorted(columns)) or '(none)'}, "
            f"expected {expected}; rename them, or use {_guess_source(columns)}."
        )


def finish(items: Iterable[Solution | Dropped], name: str) -> Iterator[Solution | Dropped]:
    """Make ids unique, and warn at the end of problems that still hold chat markup."""
    taken: Counter[str] = Counter()
    with_markup: Counter[str] = Counter()
    first = ""
    for item in items:
        if isinstance(item, Solution):
            if markup := find_chat_markup(item.problem):
                with_markup[markup] += 1
                first = first or item.id
            if not item.id.startswith(f"{name}:"):  # those of `parse_rows` are unique
                item = replace(item, id=claim_id(item.id, taken))
        yield item
    if with_markup:
        log.warning(
            "%s: %d problems still hold what looks like chat markup, such as %s in %s; cut it out "
            "of the prompts.",
            name, with_markup.total(), ", ".join(map(ascii, list(with_markup)[:3])), first,
        )  # fmt: skip


def claim_id(id: str, taken: Counter[str]) -> str:
    """The id, with a suffix such as ``#2`` where it is taken already."""
    taken[id] += 1
    return id if taken[id] == 1 else claim_id(f"{id}#{taken[id]}", taken)


def layout_of(columns: Iterable[str]) -> str | None:
    """The source that reads rows with these columns, if one of ours does."""
    found = set(columns)
    for name, layouts in LAYOUTS.items():
        if any(found.issuperset(layout) for layout in layouts):
            return name
    return None


def require_columns(row: dict[str, Any], layouts: Sequence[Columns]) -> None:
    """Raise a `RowError` that names the missing columns, unless one of the layouts is there."""
    missing = [[column for column in layout if column not in row] for layout in layouts]
    if missing and all(missing):
        found = ascii(", ".join(row))[1:-1][:200] or "(none)"
        fewest = sorted(missing, key=len)[0]
        raise RowError("missing column", f"no {', '.join(fewest)} among {found}; add it.")


def _guess_source(columns: set[str]) -> str:
    name = layout_of(columns)
    if name is None:
        return "the source that reads this layout"
    return f"prm_lightning.sources.{name}, which reads such columns"
