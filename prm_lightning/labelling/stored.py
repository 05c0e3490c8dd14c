"""Lists of JSON values on disk: what the stages of a run have come to so far."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

PAGE = 500  # rows read at once

SCHEMA = """
CREATE TABLE IF NOT EXISTS items (
    stage TEXT NOT NULL, seq INTEGER NOT NULL, value TEXT NOT NULL, PRIMARY KEY (stage, seq));
CREATE TABLE IF NOT EXISTS finished (stage TEXT PRIMARY KEY, about TEXT NOT NULL);
"""


class Stored(Sequence[Any]):
    """A stage's results on disk: an append-only list of JSON values, read a page at a time."""

    def __init__(self, connection: sqlite3.Connection, stage: str) -> None:
        self._sql, self.stage = connection, stage

    def append(self, values: Iterable[Any]) -> None:
        """Add values. When this returns they are on disk."""
        start = len(self)
        with self._sql:
            self._sql.executemany(
                "INSERT INTO items VALUES (?, ?, ?)",
                [(self.stage, start + i, canonical(value)) for i, value in enumerate(values)],
            )

    def finish(self, about: Any = None) -> None:
        """Nothing will be added; `about` is what else there is to say."""
        with self._sql:
            self._sql.execute(
                "INSERT OR IGNORE INTO finished VALUES (?, ?)", (self.stage, canonical(about))
            )

    @property
    def about(self) -> Any:
        """What `finish` was told; None before that."""
        query = "SELECT about FROM finished WHERE stage = ?"
        row = self._sql.execute(query, (self.stage,)).fetchone()
        return row and json.loads(row[0])

    @property
    def is_finished(self) -> bool:
        """Whether the stage is complete."""
        found = self._sql.execute("SELECT 1 FROM finished WHERE stage = ?", (self.stage,))
        return found.fetchone() is not None

    def __len__(self) -> int:
        query = "SELECT COALESCE(MAX(seq), -1) + 1 FROM items WHERE stage = ?"
        return int(self._sql.execute(query, (self.stage,)).fetchone()[0])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        query = "SELECT value FROM items WHERE stage = ? AND seq = ?"
        at = index if index >= 0 else len(self) + index
        row = self._sql.execute(query, (self.stage, at)).fetchone()
        if row is None:
            raise IndexError(f"{self.stage}: no item {index} of {len(self)}")
        return json.loads(row[0])

    def __iter__(self) -> Iterator[Any]:
        last = -1
        while True:
            rows = self._sql.execute(
                "SELECT seq, value FROM items WHERE stage = ? AND seq > ? ORDER BY seq "
                f"LIMIT {PAGE}",
                (self.stage, last),
            ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            for _, value in rows:
                yield json.loads(value)


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, all Unicode escaped."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
