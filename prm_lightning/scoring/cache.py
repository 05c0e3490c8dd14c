"""Scores on disk, so that no solution is scored twice by the same model."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from prm_lightning.scoring.scorers import ModelScorer
from prm_lightning.types import Aggregation

SOLUTIONS_AT_A_TIME = 128  # looked up and stored together
SECONDS_TO_WAIT = 60  # for another process that writes
APPLICATION = 0x50524D53  # "PRMS", which marks the file as a cache of ours


class CachedScorer:
    """A scorer that looks first into an SQLite file.

    Several processes may share the file. It grows by about 100 bytes a solution and may be deleted
    at any time.

    Args:
        scorer: asked for what the file does not hold.
        file: made if it is not there.
        model: identifies the model, such as `scorers.fingerprint`; scores of another model in the
            same file are left alone.

    Raises:
        ValueError: the file is something else.
    """

    def __init__(self, scorer: ModelScorer, file: Path, model: str) -> None:
        self.scorer = scorer
        self.model = model
        file.parent.mkdir(parents=True, exist_ok=True)
        self._database = _open(file)

    @property
    def name(self) -> str:
        return self.scorer.name

    @property
    def aggregation(self) -> Aggregation:
        return self.scorer.aggregation

    @property
    def threshold(self) -> float:
        return self.scorer.threshold

    def score(self, problem: str, solutions: Sequence[Sequence[str]]) -> list[list[float]]:
        """See `Scorer`."""
        return next(self.score_all([(problem, solutions)]))

    def score_all(
        self, items: Sequence[tuple[str, Sequence[Sequence[str]]]]
    ) -> Iterator[list[list[float]]]:
        """See `Scorer`."""
        start = 0
        while start < len(items):
            end, solutions = start, 0
            while end < len(items) and solutions < SOLUTIONS_AT_A_TIME:
                solutions += len(items[end][1])
                end += 1
            yield from self._score_window(items[start:end])
            start = end

    def _score_window(
        self, items: Sequence[tuple[str, Sequence[Sequence[str]]]]
    ) -> list[list[list[float]]]:
        keys = [[self._key(problem, s) for s in solutions] for problem, solutions in items]
        known = self._look_up({key for row in keys for key in row})
        missing: list[tuple[str, list[Sequence[str]]]] = []
        missing_keys: list[list[bytes]] = []
        asked: set[bytes] = set()
        for (problem, solutions), row in zip(items, keys, strict=True):
            pairs = zip(row, solutions, strict=True)
            new = {k: s for k, s in pairs if k not in known and k not in asked}
            if new:
                missing.append((problem, list(new.values())))
                missing_keys.append(list(new))
                asked |= new.keys()
        try:
            for row, scores in zip(missing_keys, self.scorer.score_all(missing), strict=True):
                for key, values in zip(row, scores, strict=True):
                    known[key] = values
                    self._database.execute(
                        "INSERT OR REPLACE INTO scores VALUES (?, ?)", (key, json.dumps(values))
                    )
        finally:
            self._database.commit()  # also what was scored before an error
        return [[list(known[key]) for key in row] for row in keys]

    def _look_up(self, keys: set[bytes]) -> dict[bytes, list[float]]:
        found = {}
        for key in keys:
            row = self._database.execute("SELECT scores FROM scores WHERE key = ?", (key,))
            for (text,) in row:
                found[key] = json.loads(text)
        return found

    def _key(self, problem: str, steps: Sequence[str]) -> bytes:
        text = json.dumps([self.model, problem, list(steps)])
        return hashlib.sha256(text.encode()).digest()


def _open(file: Path) -> sqlite3.Connection:
    try:
        database = sqlite3.connect(file, timeout=SECONDS_TO_WAIT)
        (mark,) = database.execute("PRAGMA application_id").fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if mark != APPLICATION and tables:
            raise sqlite3.DatabaseError("another program's database")
        with database:
            database.execute(f"PRAGMA application_id = {APPLICATION}")
            database.execute(
                "CREATE TABLE IF NOT EXISTS scores (key BLOB PRIMARY KEY, scores TEXT NOT NULL) "
                "WITHOUT ROWID"
            )
    except sqlite3.Error as error:
        raise ValueError(
            f"cache: {file} cannot be used as a score cache ({error}). Give another file."
        ) from error
    return database
