"""What runs and evaluations left on disk, read leniently: a file that is absent shows nothing."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from prm_lightning.sources.rows import Row, read_rows
from prm_lightning.types import ALL_CORRECT, UNKNOWN, Dropped

RUN_FILES = ("config.yaml", "metrics.csv", "data.json")
EVALUATION_FILES = ("results.json", "scores.jsonl")
LOWER_IS_BETTER = ("loss", "brier", "ece")
_CELL = re.compile(r"(?<!\\)\|")


class Scores(NamedTuple):
    """A solution with scores.

    Args:
        id: names it within its source.
        source: that it came from.
        problem: the question.
        steps: S texts, at least one.
        labels: S of them in [0, 1]; None where unknown or not trusted.
        scores: S of them in [0, 1], P(correct).
        first_error: 0-based, `ALL_CORRECT` or `UNKNOWN`; may lie behind the steps of a solution
            that was cut.
    """

    id: str
    source: str
    problem: str
    steps: tuple[str, ...]
    labels: tuple[float | None, ...]
    scores: tuple[float, ...]
    first_error: int


@dataclass(frozen=True)
class ScoredSet:
    """The solutions that one model scored.

    Args:
        name: of the model, and of the folder where it is not the only one.
        threshold: in [0, 1]; a step is flagged if its score lies below it.
        threshold_from: the data it was fitted on; empty where it is plainly 0.5.
        solutions: in file order.
        left_out: lines that could not be used, by reason.
    """

    name: str
    threshold: float
    threshold_from: str
    solutions: Sequence[Scores]
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A folder that `fit` wrote.

    Args:
        folder: its path.
        config: of config.yaml.
        config_text: the same as written.
        data: of data.json.
        log: rows of metrics.csv, in order of steps; only finite numbers.
        untrained: validation metrics of the untrained head.
        test: of test.json.
        manifest: of best_model/prm.json.
        scored: validation data as the best model scores it.
    """

    folder: Path
    config: Mapping[str, Any]
    config_text: str
    data: Mapping[str, Any]
    log: Sequence[Mapping[str, float]]
    untrained: Mapping[str, float]
    test: Mapping[str, float]
    manifest: Mapping[str, Any]
    scored: ScoredSet | None

    def best_row(self) -> Mapping[str, float]:
        """The validation in `log` that chose best_model; empty without one."""
        rows = [row for row in self.log if any(name.startswith("val/") for name in row)]
        name = str(self.config.get("monitor", "processbench_f1"))
        sign = -1.0 if name in LOWER_IS_BETTER else 1.0

        def rank(row: Mapping[str, float]) -> tuple[float, float]:
            tie = row.get("val/auroc", -math.inf)
            return sign * row[f"val/{name}"] if f"val/{name}" in row else tie, tie

        return max(rows, key=rank, default={})


@dataclass(frozen=True)
class MarkdownTable:
    """A table of table.md.

    Args:
        title: above it.
        header: one text a column.
        rows: as many texts each.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Evaluation:
    """A folder that `evaluate` wrote.

    Args:
        folder: its path.
        results: of results.json.
        tables: of table.md.
        scored: one set a model.
    """

    folder: Path
    results: Mapping[str, Any]
    tables: Sequence[MarkdownTable]
    scored: Sequence[ScoredSet]


def read_folder(folder: Path) -> Run | Evaluation:
    """Read a run or an evaluation, whichever it is.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is neither, or a file in it is broken.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"report: {folder} is no folder. Give the --output of a fit or of an evaluate."
        )
    if any((folder / name).is_file() for name in EVALUATION_FILES):
        return _read_evaluation(folder)
    if any((folder / name).is_file() for name in RUN_FILES):
        return _read_run(folder)
    raise ValueError(
        f"report: {folder} holds neither a run ({', '.join(RUN_FILES)}) nor an evaluation "
        f"({', '.join(EVALUATION_FILES)}). Give the --output of a fit or of an evaluate."
    )


def _read_run(folder: Path) -> Run:
    import yaml

    text = _text(folder / "config.yaml")
    try:
        config = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise _broken(folder / "config.yaml", error) from error
    manifest = _json(folder / "best_model" / "prm.json")
    threshold = manifest.get("threshold")
    from_ = str(manifest.get("threshold_fitted_on") or "")
    sets = _read_scores(folder / "val_scores.jsonl")
    scored = [
        ScoredSet(
            "best_model", *((float(threshold), from_) if from_ and threshold else (0.5, "")), *found
        )
        for found in sets.values()
    ]
    return Run(
        folder,
        config if isinstance(config, dict) else {},
        text,
        _json(folder / "data.json"),
        _read_log(folder / "metrics.csv"),
        _numbers(_json(folder / "untrained.json")),
        _numbers(_json(folder / "test.json")),
        manifest,
        scored[0] if scored else None,
    )


def _read_evaluation(folder: Path) -> Evaluation:
    results = _json(folder / "results.json")
    models = {str(m.get("name")): m for m in results.get("models", ()) if isinstance(m, dict)}
    sets = []
    for name, found in _read_scores(folder / "scores.jsonl").items():
        model = models.get(name, {})
        threshold = model.get("threshold")
        known = (0.5, "") if threshold is None else (threshold, str(model.get("threshold_from")))
        sets.append(ScoredSet(name, float(known[0]), known[1], *found))
    return Evaluation(folder, results, _read_tables(folder / "table.md"), sets)


def _read_scores(path: Path) -> dict[str, tuple[list[Scores], dict[str, int]]]:
    """By model: its solutions, and how many lines were left out for what reason."""
    sets: dict[str, tuple[list[Scores], dict[str, int]]] = {}
    if not path.is_file() or not path.stat().st_size:
        return sets
    for row in read_rows(str(path)):
        model = "" if isinstance(row, Dropped) else str(row.values.get("model", ""))
        solutions, left_out = sets.setdefault(model, ([], {}))
        scored = row.reason if isinstance(row, Dropped) else _to_scores(row)
        if isinstance(scored, str):
            left_out[scored] = left_out.get(scored, 0) + 1
        else:
            solutions.append(scored)
    return sets


def _to_scores(row: Row) -> Scores | str:
    """The solution, or why there is none."""
    values = row.values
    steps, scores = values.get("steps"), values.get("scores")
    if values.get("failure"):
        return "could not be scored"
    if not isinstance(steps, list) or not steps or not all(isinstance(s, str) for s in steps):
        return "steps are no list of texts"
    labels = values.get("labels") or [None] * len(steps)
    if not isinstance(scores, list) or not isinstance(labels, list):
        return "scores or labels are no list"
    if not len(steps) == len(scores) == len(labels):
        return "steps, labels and scores differ in number"
    if not all(map(_is_share, scores)) or not all(y is None or _is_share(y) for y in labels):
        return "scores or labels outside [0, 1]"
    error = values.get("first_error")
    return Scores(
        str(values.get("id", "")),
        str(values.get("source", "")),
        str(values.get("problem", "")),
        tuple(steps),
        tuple(None if y is None else float(y) for y in labels),
        tuple(map(float, scores)),
        error if type(error) is int else _first_error(labels),
    )


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= 1  # false for NaN


def _first_error(labels: Sequence[float | None]) -> int:
    for index, label in enumerate(labels):
        if label is None:
            return UNKNOWN
        if label < 0.5:
            return index
    return ALL_CORRECT


def _read_log(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [_numbers(row) for row in csv.DictReader(file)]


def _numbers(values: Mapping[Any, Any]) -> dict[str, float]:
    """What of it are finite numbers."""
    found = {}
    for name, value in values.items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        if math.isfinite(number):
            found[str(name)] = number
    return found


def _read_tables(path: Path) -> list[MarkdownTable]:
    tables: list[MarkdownTable] = []
    title, lines = "", [*_text(path).split("\n"), ""]
    cells: list[list[str]] = []
    for line in lines:
        if line.startswith("|"):
            cells.append([c.strip().replace("\\|", "|") for c in _CELL.split(line)[1:-1]])
        elif cells:
            tables.append(MarkdownTable(title, cells[0], cells[2:]))
            title, cells = "", []
        elif line.startswith("**"):
            title = line.strip().strip("*")
    return tables


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _broken(path, error) from error
    return value if isinstance(value, dict) else {}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _broken(path: Path, error: Exception) -> ValueError:
    line = " ".join(str(error).split())[:200]
    return ValueError(f"report: {path} cannot be read ({line}). Mend it, or move it away.")
