"""What runs and evaluations left on disk; a file that is absent shows nothing."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from prm_lightning.modeling.metrics import LOWER_IS_BETTER
from prm_lightning.sources.rows import Row, read_rows
from prm_lightning.types import ALL_CORRECT, UNKNOWN, Dropped

RUN_FILES = ("config.yaml", "metrics.csv", "data.json")
EVALUATION_FILES = ("results.json", "scores.jsonl")


SETTINGS = {
    "backbone": "model.backbone.name",
    "quantization": "model.backbone.quantize",
    "LoRA rank": "model.backbone.lora.r",
    "head": "model.head",
    "loss": "model.loss",
    "learning rate": "model.lr",
    "of the head": "model.head_lr",
    "started from": "model.init_from",
    "template": "data.template",
    "longest solution, tokens": "data.max_tokens",
    "solutions a step": "data.solutions_per_step",
    "tokens a batch": "data.tokens_per_batch",
    "class balance": "data.balance",
    "after the first error": "data.after_first_error",
    "epochs": "trainer.max_epochs",
    "seed": "seed_everything",
}
COUNTS = ("read", "kept", "solutions", "problems", "steps", "supervised_steps", "wrong_share")


class Cells(NamedTuple):
    """A table of the page, the first cell of each row its heading.

    Args:
        title: above it.
        header: one text per column.
        rows: text or numbers, as many each.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


class ShownSolution(NamedTuple):
    """A solution with scores; the fields that `ScoredSolution` has mean the same here.

    Args:
        id: names it within its source.
        steps: as many texts as there are scores, at least one.
    """

    id: str
    steps: tuple[str, ...]
    scores: tuple[float, ...]
    labels: tuple[float | None, ...]
    first_error: int
    source: str
    problem: str


@dataclass(frozen=True)
class ScoredSet:
    """The solutions that one model scored.

    Args:
        name: of the model.
        kind: ``model`` or ``untrained``.
        threshold: in [0, 1]; a step is flagged if its score lies below it.
        threshold_from: the data it was fitted on; empty where it is plainly 0.5.
        solutions: in file order.
        left_out: lines that could not be used, by reason.
    """

    name: str
    kind: str
    threshold: float
    threshold_from: str
    solutions: Sequence[ShownSolution]
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
        monitor = str(self.config.get("monitor", "processbench_f1"))
        sign = -1.0 if monitor in LOWER_IS_BETTER else 1.0

        def rank(row: Mapping[str, float]) -> tuple[float, float]:
            tie = row.get("val/auroc", -math.inf)
            return sign * row[f"val/{monitor}"] if f"val/{monitor}" in row else tie, tie

        return max(rows, key=rank, default={})


@dataclass(frozen=True)
class Evaluation:
    """A folder that `evaluate` wrote.

    Args:
        folder: its path.
        results: of results.json.
        scored: one set a model.
    """

    folder: Path
    results: Mapping[str, Any]
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
            "best_model",
            "model",
            *((float(threshold), from_) if from_ and threshold else (0.5, "")),
            *found,
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
        kind = str(model.get("kind", "model"))
        sets.append(ScoredSet(name, kind, float(known[0]), known[1], *found))
    return Evaluation(folder, results, sets)


def _read_scores(path: Path) -> dict[str, tuple[list[ShownSolution], dict[str, int]]]:
    """By model: its solutions, and how many lines were left out for what reason."""
    sets: dict[str, tuple[list[ShownSolution], dict[str, int]]] = {}
    if not path.is_file() or not path.stat().st_size:
        return sets
    for row in read_rows(str(path)):
        model = "" if isinstance(row, Dropped) else str(row.values.get("model", ""))
        solutions, left_out = sets.setdefault(model, ([], {}))
        scored = row.reason if isinstance(row, Dropped) else _to_solution(row)
        if isinstance(scored, str):
            left_out[scored] = left_out.get(scored, 0) + 1
        else:
            solutions.append(scored)
    return sets


def _to_solution(row: Row) -> ShownSolution | str:
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
    return ShownSolution(
        str(values.get("id", "")),
        tuple(steps),
        tuple(map(float, scores)),
        tuple(None if y is None else float(y) for y in labels),
        error if type(error) is int else _first_error(labels),
        str(values.get("source", "")),
        str(values.get("problem", "")),
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


def look_up(config: Mapping[str, Any], dotted: str) -> Any:
    """What a nested configuration says under a dotted name; None where it says nothing."""
    value: Any = config
    for name in dotted.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def settings_of(run: Run) -> list[tuple[str, str]]:
    found = ((label, look_up(run.config, dotted)) for label, dotted in SETTINGS.items())
    settings = [(label, str(value)) for label, value in found if value is not None]
    step_end = run.manifest.get("step_end")
    if step_end is not None:
        settings.append(("step end", repr(step_end)))
    if run.manifest.get("aggregation"):
        settings.append(("aggregation of step scores", str(run.manifest["aggregation"])))
    return settings


def evaluation_settings(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """On what, with which threshold and aggregation, and where those come from."""
    settings = []
    for key, label in (("data", "data"), ("fit_on", "fitted on")):
        about = results.get(key) or {}
        told = [", ".join(map(str, about.get("names") or ()))]
        told += [f"{v} {k.replace('_', ' ')}" for k, v in about.items() if type(v) is int]
        if any(told):
            settings.append((label, "; ".join(filter(None, told))))
    for model in results.get("models") or ():
        told = [
            f"{name} {show(model[name])}, {model.get(f'{name}_from')}"
            for name in ("threshold", "aggregation")
            if model.get(name) is not None
        ]
        settings.append((str(model.get("name", "")), "; ".join(told) or "threshold 0.5"))
    return settings


def data_tables(data: Mapping[str, Any]) -> list[Cells]:
    groups = [
        (f"{name} ({key.removesuffix('_sources')})" if key != "sources" else name, counts)
        for key in ("sources", "val_sources", "test_sources")
        for name, counts in (data.get(key) or {}).items()
    ]
    sides = [(name, data[name]) for name in ("train", "validation") if name in data]
    tables = []
    for title, heading, lines in (("What was read", "source", groups), ("Sides", "side", sides)):
        if lines:
            columns = [c for c in COUNTS if any(c in counts for _, counts in lines)]
            rows = [[name, *(counts.get(c) for c in columns)] for name, counts in lines]
            header = [heading, *(c.replace("_", " ") for c in columns)]
            tables.append(Cells(title, header, rows))
    for key, title, heading in (
        ("encoded", "Tokens", "side"),
        ("leaks", "Training problems that are in evaluation data too", "set"),
    ):
        found = data.get(key) or {}
        if found:
            columns = list(dict.fromkeys(c for v in found.values() for c in v if c != "first"))
            rows = [[name, *(counts.get(c, 0) for c in columns)] for name, counts in found.items()]
            header = [heading, *(c.replace("_", " ") for c in columns)]
            tables.append(Cells(title, header, rows))
    return tables


def dropped_rows(data: Mapping[str, Any]) -> list[tuple[str, str, int, list[str]]]:
    """Source, reason, number of rows, and the first messages."""
    return [
        (name, reason, int(entry.get("count", 0)), [str(m) for m in entry.get("first", ())])
        for key in ("sources", "val_sources", "test_sources")
        for name, counts in (data.get(key) or {}).items()
        for reason, entry in (counts.get("dropped") or {}).items()
    ]


def show(value: Any) -> str:
    """A setting in a line of text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
