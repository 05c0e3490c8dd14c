"""What the report says of a run and of an evaluation, as plain values for its template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from prm_lightning.evaluation.figures import Chart, draw_best_of_n, draw_curves, draw_steps
from prm_lightning.evaluation.report_data import (
    Cells,
    Evaluation,
    Run,
    ScoredSet,
    data_tables,
    dropped_rows,
    evaluation_settings,
    look_up,
    settings_of,
    show,
)
from prm_lightning.evaluation.report_tiles import (
    MAJORITY,
    Tile,
    baseline_metrics,
    gather,
    make_tiles,
    pool_tiles,
)
from prm_lightning.modeling.metrics import judge_flags, measure
from prm_lightning.modeling.scored_steps import Draws, Floats

HEADLINE = {
    "processbench_f1": "ProcessBench F1, fitted threshold",
    "processbench_wrong": "· errors found",
    "processbench_right": "· right solutions passed",
    "processbench_f1_at_0.5": "ProcessBench F1 at 0.5",
    "first_error_match": "first error exactly right, at 0.5",
    "auroc": "AUROC of steps",
    "error_f1": "F1 of the error class, at 0.5",
    "error_ap": "average precision of errors",
    "accuracy": "accuracy of steps, at 0.5",
    "balanced_accuracy": "balanced accuracy, at 0.5",
    "brier": "Brier score (lower is better)",
    "ece": "calibration error, ECE (lower is better)",
    "lowest_at_last": "solutions whose lowest score is at the last step",
    "pair_accuracy": "pairs of a right and a wrong solution in order",
    "loss": "loss",
    "steps": "labelled steps",
    "solutions": "solutions",
    "threshold": "threshold",
}
COUNT_METRICS = ("solutions", "problems", "steps", "supervised_steps")


class Confusion(NamedTuple):
    """Labelled steps by label and verdict at a threshold.

    Args:
        threshold: a step is flagged if its score is below it.
        fitted_on: the data that the threshold comes from; empty where it is plainly 0.5.
        cells: counts of wrong flagged, wrong passed, right flagged and right passed steps.
        metrics: precision, recall, F1 of the error class and accuracy.
    """

    threshold: float
    fitted_on: str
    cells: Sequence[int]
    metrics: Mapping[str, float]


class SetSection(NamedTuple):
    """What the page says of one scored set.

    Args:
        name: of the model.
        tiles: of the first screen.
        notes: what has to be known of it, one sentence each.
        confusions: at the set's threshold and at 0.5; none without labelled steps.
        charts: of its steps.
        tables: by step position and by source.
        measured: every metric; empty without labelled steps.
    """

    name: str
    tiles: Sequence[Tile]
    notes: Sequence[str]
    confusions: Sequence[Confusion] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Cells] = ()
    measured: Mapping[str, float] = {}


@dataclass(frozen=True)
class Section:
    """What the page says of one folder.

    Args:
        kind: of the folder.
        name: of the folder.
        folder: its path.
        intro: sentences at its head.
        tables: of metrics.
        notes: what has to be known of them, one sentence each.
        charts: of a run's curves, or of an evaluation.
        sets: scored solutions, one per model.
        data_tables: what was read.
        dropped: source, reason, number of rows, and the first messages.
        settings: names and values.
        config: the configuration as written.
        all_rows: every figure of an evaluation.
    """

    kind: str
    name: str
    folder: str
    intro: Sequence[str] = ()
    tables: Sequence[Cells] = ()
    notes: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    sets: Sequence[SetSection] = ()
    data_tables: Sequence[Cells] = ()
    dropped: Sequence[tuple[str, str, int, Sequence[str]]] = ()
    settings: Sequence[tuple[str, str]] = ()
    config: str = ""
    all_rows: Cells | None = None


def describe_run(run: Run) -> Section:
    """The section of a run."""
    untrained = {"before training": run.untrained} if run.untrained else {}
    scored = describe_set(run.scored, untrained) if run.scored else None
    best = run.best_row()
    logged = [row for row in run.log if any(name.startswith("val/") for name in row)]
    labelled = scored is not None and bool(scored.measured)
    columns: dict[str, Mapping[str, float]] = {
        "best model": (scored and scored.measured) or _validation(best),
        "last step": _validation(logged[-1]) if logged else {},
        "before training": run.untrained,
        MAJORITY: baseline_metrics(run.scored)[MAJORITY] if run.scored and labelled else {},
    }
    if columns["best model"] and "val/loss" in best:
        columns["best model"] = {"loss": best["val/loss"], **columns["best model"]}
    columns[MAJORITY] = {k: v for k, v in columns[MAJORITY].items() if k != "threshold"}
    if run.test:
        columns["test data"] = run.test
    return Section(
        kind="Training run",
        name=run.folder.resolve().name,
        folder=str(run.folder),
        intro=_introduce(run),
        tables=[_metrics_table(columns)] if any(columns.values()) else [],
        charts=draw_curves(run.log, run.untrained, best.get("step")),
        sets=[scored] if scored else [],
        data_tables=data_tables(run.data),
        dropped=dropped_rows(run.data),
        settings=settings_of(run),
        config=run.config_text,
    )


def describe_evaluation(evaluation: Evaluation) -> Section:
    """The section of an evaluation."""
    results = evaluation.results
    rows = [row for row in results.get("rows", ()) if isinstance(row, dict)]
    dropped = ((results.get("data") or {}).get("dropped") or {}).items()
    with_solutions = [scored for scored in evaluation.scored if scored.solutions]
    untrained: dict[str, Mapping[str, float]] = {}
    for scored in with_solutions:
        if scored.kind == "untrained":
            untrained[scored.name] = measure(gather(scored.solutions)[0], (), scored.threshold)
    is_pool = results.get("benchmark") == "best-of-n"
    return Section(
        kind=f"Evaluation: {results.get('benchmark', 'scores')}",
        name=evaluation.folder.resolve().name,
        folder=str(evaluation.folder),
        tables=_pool_tables(rows)
        if is_pool
        else [
            Cells(table["title"], table["header"], table["rows"])
            for table in results.get("tables", ())
        ],
        notes=[str(note) for note in results.get("notes", ())],
        charts=draw_best_of_n(rows),
        sets=[
            SetSection(scored.name, pool_tiles(rows, scored.name), _left_out(scored))
            if is_pool
            else describe_set(scored, untrained)
            for scored in with_solutions
            if scored.kind == "model"
        ],
        dropped=[("data", str(reason), count, ()) for reason, count in dropped],
        settings=evaluation_settings(results),
        all_rows=_all_rows(rows),
    )


def _pool_tables(rows: Sequence[Mapping[str, Any]]) -> list[Cells]:
    """Accuracy against n, one table per source: what needs no model, and the aggregations chosen.

    All the other aggregations are among the figures of `_all_rows`.
    """
    tables: dict[str, dict[tuple[str, str], dict[int, Any]]] = {}
    for row in rows:
        if type(row.get("n")) is int and (row.get("kind") == "baseline" or row.get("chosen")):
            method = f"{row.get('method')}, {row['aggregation']}" if row.get("aggregation") else ""
            lines = tables.setdefault(str(row.get("source", "")), {})
            accuracy = (row.get("metrics") or {}).get("accuracy") or {}
            line = lines.setdefault((str(row.get("model", "")), method), {})
            line[row["n"]] = accuracy.get("value")
    found = []
    for source, lines in tables.items():
        sizes = sorted({n for line in lines.values() for n in line})
        cells = [[*names, *(line.get(n) for n in sizes)] for names, line in lines.items()]
        title = f"{source}: accuracy of choosing among n samples".removeprefix(": ")
        found.append(Cells(title, ["", "", *(f"n = {n}" for n in sizes)], cells))
    return found


def describe_set(scored: ScoredSet, untrained: Mapping[str, Mapping[str, float]]) -> SetSection:
    """What the scores of a set are worth, if any of its steps is labelled.

    Args:
        scored: solutions of one model.
        untrained: metrics of untrained baselines, by name.
    """
    notes = _left_out(scored)
    scores, sources = gather(scored.solutions)
    steps = scores.supervised
    if not len(steps.labels):
        notes.append("No step of these solutions is labelled: they can be read, not judged.")
        return SetSection(scored.name, (), notes)
    measured = measure(scores, sources, scored.threshold)
    by_position, by_source = _parts(measured, "position/"), _parts(measured, "source/")
    thresholds = {scored.threshold: scored.threshold_from} | (
        {} if scored.threshold == 0.5 else {0.5: ""}
    )
    p, labels = steps.probabilities, steps.labels
    return SetSection(
        scored.name,
        make_tiles(scored, {**untrained, **baseline_metrics(scored)}),
        notes,
        [_confusion(p, labels, at, fitted_on) for at, fitted_on in thresholds.items()],
        draw_steps(p, labels, scored.threshold),
        [
            _parts_table("By step position", "step", by_position),
            _parts_table("By source", "source", by_source),
        ],
        measured,
    )


def _left_out(scored: ScoredSet) -> list[str]:
    return [f"{count:,} × left out: {why}." for why, count in scored.left_out.items()]


def _parts(measured: Mapping[str, float], prefix: str) -> dict[str, dict[str, float]]:
    """Metrics by part, of the parts that have steps; what is undefined is left out."""
    parts: dict[str, dict[str, float]] = {}
    for key, value in measured.items():
        if key.startswith(prefix) and value == value:
            part, _, metric = key.removeprefix(prefix).rpartition("/")
            part = part.replace("_and_later", " and later")
            parts.setdefault(part, {})[metric] = _whole(metric, value)
    return {name: part for name, part in parts.items() if part.get("steps")}


def _whole(metric: str, value: Any) -> Any:
    """Counts as integers."""
    return int(value) if metric in COUNT_METRICS and value is not None else value


def _parts_table(title: str, heading: str, parts: Mapping[str, Mapping[str, float]]) -> Cells:
    columns = list(dict.fromkeys(metric for part in parts.values() for metric in part))
    rows = [[name, *(part.get(c) for c in columns)] for name, part in parts.items()]
    return Cells(title, [heading, *(c.replace("_", " ") for c in columns)], rows)


def _confusion(p: Floats, labels: Floats, threshold: float, fitted_on: str) -> Confusion:
    flagged, wrong = p < threshold, labels < 0.5
    cells = [int((f & w).sum()) for w in (wrong, ~wrong) for f in (flagged, ~flagged)]
    judged = judge_flags(flagged, wrong, Draws.once(len(wrong)))
    metrics = {name: float(values[0]) for name, values in judged.items()}
    return Confusion(threshold, fitted_on, cells, metrics)


def _validation(row: Mapping[str, float]) -> dict[str, float]:
    return {k.removeprefix("val/"): v for k, v in row.items() if k.startswith("val/")}


def _metrics_table(columns: Mapping[str, Mapping[str, float]]) -> Cells:
    shown = {title: values for title, values in columns.items() if values}
    rows = [
        [label, *(_whole(name, values.get(name)) for values in shown.values())]
        for name, label in HEADLINE.items()
        if any(name in values for values in shown.values())
    ]
    title = "Validation" + (" and test" if "test data" in shown else "")
    return Cells(title, ["", *shown], rows)


def _introduce(run: Run) -> list[str]:
    """One sentence each."""
    sentences = []
    name = look_up(run.config, "model.backbone.name")
    steps = max((row["step"] for row in run.log if "step" in row), default=None)
    if name is not None and steps is not None:
        sentences.append(f"{name}, logged up to optimizer step {steps + 1:,.0f}.")
    best = run.best_row()
    if best:
        sentences.append(
            f"best_model was chosen by val/{run.config.get('monitor', 'processbench_f1')} "
            f"at step {best.get('step', 0) + 1:,.0f}."
        )
    if not run.scored:
        sentences.append(
            "The run left no scored validation solutions (val_scores.jsonl), so there is nothing "
            "to browse."
        )
    return sentences


def _all_rows(rows: Sequence[Mapping[str, Any]]) -> Cells | None:
    """Every figure of results.json, one per line."""
    lines = []
    for row in rows:
        about = {k: v for k, v in row.items() if k not in ("model", "kind", "part", "metrics")}
        told = ", ".join(
            f"{name} {show(value)}" for name, value in about.items() if value not in (None, "")
        )
        for name, estimate in (row.get("metrics") or {}).items():
            ends = [estimate.get(end) for end in ("value", "low", "high")]
            lines.append([str(row.get("model", "")), str(row.get("part", "")), told, name, *ends])
    if not lines:
        return None
    return Cells(
        "Every figure", ["model", "part", "about", "metric", "value", "low", "high"], lines
    )
