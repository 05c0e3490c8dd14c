"""What runs and evaluations left on disk; a file that is absent shows nothing."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from prm_lightning.modeling.metrics import LOWER_IS_BETTER
from prm_lightning.sources.fields import labels_in, texts_in
from prm_lightning.sources.rows import RowError, parse_rows, read_rows
from prm_lightning.types import UNKNOWN, Dropped

FILES = {
    "config": "config.yaml",
    "data": "data.json",
    "untrained": "untrained.json",
    "test": "test.json",
    "manifest": "best_model/prm.json",
    "results": "results.json",
}
RUN_FILES = ("config.yaml", "metrics.csv", "data.json")
EVALUATION_FILES = ("results.json", "scores.jsonl")


class ShownSolution(NamedTuple):
    """A solution with scores; the fields that `ScoredSolution` has mean the same here."""

    id: str  # within its source
    steps: list[str]
    scores: list[float]
    labels: list[float | None]
    first_error: int
    source: str
    problem: str


@dataclass(frozen=True)
class ScoredSet:
    """The solutions that one model scored, in file order."""

    name: str  # of the model
    kind: str  # model or untrained
    threshold: float  # a step is flagged if its score is below it
    threshold_from: str  # the data it was fitted on; empty where it is plainly 0.5
    solutions: Sequence[ShownSolution]


@dataclass(frozen=True)
class Folder:
    """What `fit` or `evaluate` wrote into a folder; what is not there is empty."""

    path: Path
    files: Mapping[str, Mapping[str, Any]]  # the content of each of `FILES`
    log: Sequence[Mapping[str, float]]  # rows of metrics.csv; only finite numbers
    sets: Sequence[ScoredSet]  # one per model
    left_out: Mapping[str, int]  # lines of scores that could not be used, by reason

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.path.resolve().name

    @property
    def is_evaluation(self) -> bool:
        """Whether `evaluate` wrote it."""
        return any((self.path / name).is_file() for name in EVALUATION_FILES)

    @property
    def monitor(self) -> str:
        """The metric that chose best_model."""
        return str(self.files["config"].get("monitor", "processbench_f1"))

    @property
    def config_text(self) -> str:
        """config.yaml as it is written."""
        return _text(self.path / FILES["config"])

    @property
    def validations(self) -> list[dict[str, float]]:
        """The rows of the log that have validation metrics, which are named without ``val/``."""
        rows = [row for row in self.log if any(name.startswith("val/") for name in row)]
        return [{name.removeprefix("val/"): x for name, x in row.items()} for row in rows]

    @property
    def best(self) -> Mapping[str, float]:
        """The validation that chose best_model; empty without one."""
        sign = -1.0 if self.monitor in LOWER_IS_BETTER else 1.0

        def rank(row: Mapping[str, float]) -> tuple[float, float]:
            tie = row.get("auroc", -math.inf)
            return sign * row[self.monitor] if self.monitor in row else tie, tie

        return max(self.validations, key=rank, default={})


def read_folder(path: Path) -> Folder:
    """Read what a run or an evaluation left.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is neither, or a file in it is broken.
    """
    if not path.is_dir():
        raise FileNotFoundError(
            f"report: {path} is no folder. Give the --output of a fit or of an evaluate."
        )
    if not any((path / name).is_file() for name in (*RUN_FILES, *EVALUATION_FILES)):
        raise ValueError(
            f"report: {path} holds neither a run ({', '.join(RUN_FILES)}) nor an evaluation "
            f"({', '.join(EVALUATION_FILES)}). Give the --output of a fit or of an evaluate."
        )
    files = {name: _read(path / file) for name, file in FILES.items()}
    models = {model["name"]: model for model in files["results"].get("models", ())}
    threshold, fitted_on = map(files["manifest"].get, ("threshold", "threshold_fitted_on"))
    models["best_model"] = {"threshold": threshold, "threshold_from": fitted_on}
    left_out: Counter[str] = Counter()
    scored: dict[str, list[ShownSolution]] = {}
    for file in (path / "val_scores.jsonl", path / "scores.jsonl"):
        if not file.is_file() or not file.stat().st_size:
            continue
        for item in parse_rows(read_rows(str(file)), _parse_scores, file.stem, (("steps",),)):
            if isinstance(item, Dropped):
                left_out[item.reason] += 1
            else:
                scored.setdefault(item[0], []).append(item[1])
    log = list(map(_numbers, csv.DictReader(_text(path / "metrics.csv").splitlines())))
    sets = []
    for name, solutions in scored.items():
        model = models.get(name, {})
        threshold, fitted_on = model.get("threshold"), model.get("threshold_from") or ""
        threshold = 0.5 if threshold is None else threshold
        sets.append(ScoredSet(name, model.get("kind", "model"), threshold, fitted_on, solutions))
    return Folder(path, files, log, sets, left_out)


def _parse_scores(row: dict[str, Any], id: str) -> Iterator[tuple[str, ShownSolution]]:
    """The name of the model, and the solution that it scored."""
    if "failure" in row:
        raise RowError("could not be scored", str(row["failure"]))
    steps, scores = texts_in(row["steps"], "steps"), row.get("scores")
    labels = labels_in(row.get("labels", [None] * len(steps)), "labels")
    if not isinstance(scores, list) or not steps or not len(steps) == len(scores) == len(labels):
        raise RowError("steps, labels and scores differ in number", "expected one of each a step")
    if not all(isinstance(score, (int, float)) and 0 <= score <= 1 for score in scores):
        raise RowError("scores outside [0, 1]", "expected probabilities")
    error = row.get("first_error", UNKNOWN)
    id, source, problem = (str(row.get(name, "")) for name in ("id", "source", "problem"))
    solution = ShownSolution(id, steps, scores, labels, error, source, problem)
    yield str(row.get("model", "best_model")), solution


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


def _read(path: Path) -> dict[str, Any]:
    """A YAML or JSON file as a mapping; empty where it is absent or something else."""
    parse = yaml.safe_load if path.suffix == ".yaml" else json.loads
    try:
        value = parse(_text(path) or "{}")
    except (ValueError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())[:200]
        raise ValueError(
            f"report: {path} cannot be read ({line}). Mend it, or move it away."
        ) from error
    return value if isinstance(value, dict) else {}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
