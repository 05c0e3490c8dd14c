"""What the scores of solutions are worth, step by step, as plain values for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from prm_lightning.evaluation.report_figures import draw_parts, draw_steps
from prm_lightning.evaluation.report_inputs import ScoredSet, Scores
from prm_lightning.evaluation.report_svg import Chart
from prm_lightning.modeling.metrics import judge_flags, majority_scores, measure
from prm_lightning.modeling.scored_steps import (
    Draws,
    Floats,
    ScoredSolution,
    StepScores,
    to_step_scores,
)

COUNT_METRICS = ("solutions", "problems", "steps", "supervised_steps")


class Table(NamedTuple):
    """Cells for the page, the first of each row its heading.

    Args:
        title: above it.
        header: one text a column.
        rows: text or numbers, as many each.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Confusion(NamedTuple):
    """Labelled steps by label and verdict at a threshold.

    Args:
        threshold: a step is flagged if its score lies below it.
        fitted_on: the data that the threshold comes from; empty where it is plainly 0.5.
        cells: counts of wrong flagged, wrong passed, right flagged and right passed steps.
        metrics: precision, recall, F1 of the error class and accuracy.
    """

    threshold: float
    fitted_on: str
    cells: tuple[int, int, int, int]
    metrics: Mapping[str, float]


class SetSection(NamedTuple):
    """One scored set.

    Args:
        name: of the model.
        notes: what has to be known of it, one sentence each.
        confusions: at the set's threshold and at 0.5; none without labelled steps.
        charts: of its steps.
        tables: by step position and by source.
        measured: every metric; empty without labelled steps.
    """

    name: str
    notes: Sequence[str]
    confusions: Sequence[Confusion]
    charts: Sequence[Chart]
    tables: Sequence[Table]
    measured: Mapping[str, float]


def describe_set(scored: ScoredSet) -> SetSection:
    """What the scores of a set are worth, if any of its steps is labelled."""
    notes = [f"{count:,} × left out: {why}." for why, count in scored.left_out.items()]
    scores, sources = gather(scored.solutions)
    trusted = scores.weights > 0
    if not trusted.any():
        notes.append("No step of these solutions is labelled: they can be read, not judged.")
        return SetSection(scored.name, notes, (), (), (), {})
    probabilities, labels = scores.probabilities[trusted], scores.labels[trusted]
    measured = measure(scores, sources, scored.threshold)
    by_position = _parts(measured, "position/")
    by_source = _parts(measured, "source/")
    for index, name in enumerate(sources):
        mine = trusted & (scores.sources == index)
        if mine.any():
            by_source[name]["error_share"] = float((scores.labels[mine] < 0.5).mean())
    for part in (*by_position.values(), *by_source.values()):
        part["majority_accuracy"] = max(part["error_share"], 1 - part["error_share"])
    charts = [
        *draw_steps(probabilities, labels, scored.threshold),
        *draw_parts("By step position", by_position),
        *draw_parts("By source", by_source),
    ]
    thresholds = {0.5: ""} | {scored.threshold: scored.threshold_from}
    return SetSection(
        scored.name,
        notes,
        [_confusion(probabilities, labels, at, thresholds[at]) for at in reversed(thresholds)],
        mark_up(charts),
        [
            _parts_table("By step position", "step", by_position),
            _parts_table("By source", "source", by_source),
        ],
        measured,
    )


def gather(solutions: Sequence[Scores]) -> tuple[StepScores, list[str]]:
    """The same as columns, and the names of sources."""
    return to_step_scores(
        [ScoredSolution(s.scores, s.labels, s.first_error, s.source, s.problem) for s in solutions]
    )


def majority(scored: ScoredSet) -> dict[str, float]:
    """Metrics of giving every step of a set the share of correct ones; empty without labels."""
    scores, _ = gather(scored.solutions)
    if not (scores.weights > 0).any():
        return {}
    measured = measure(majority_scores(scores))
    return {name: value for name, value in measured.items() if name != "threshold"}


def _parts(measured: Mapping[str, float], prefix: str) -> dict[str, dict[str, float]]:
    """Metrics by part, of the parts that have steps; what is undefined is left out."""
    parts: dict[str, dict[str, float]] = {}
    for key, value in measured.items():
        if key.startswith(prefix) and value == value:
            part, _, metric = key.removeprefix(prefix).rpartition("/")
            part = part.replace("_and_later", " and later")
            parts.setdefault(part, {})[metric] = whole(metric, value)
    return {name: part for name, part in parts.items() if part.get("steps")}


def whole(metric: str, value: Any) -> Any:
    """Counts as integers."""
    return int(value) if metric in COUNT_METRICS and value is not None else value


def _parts_table(title: str, heading: str, parts: Mapping[str, Mapping[str, float]]) -> Table:
    columns = list(dict.fromkeys(metric for part in parts.values() for metric in part))
    rows = [[name, *(part.get(c) for c in columns)] for name, part in parts.items()]
    return Table(title, [heading, *(c.replace("_", " ") for c in columns)], rows)


def _confusion(
    probabilities: Floats, labels: Floats, threshold: float, fitted_on: str
) -> Confusion:
    flagged, wrong = probabilities < threshold, labels < 0.5
    cells = tuple(
        int((f & w).sum())
        for w in (wrong, ~wrong)
        for f in (flagged, ~flagged)
    )  # fmt: skip
    judged = judge_flags(flagged, wrong, Draws.once(len(wrong)))
    metrics = {name: float(values[0]) for name, values in judged.items()}
    return Confusion(threshold, fitted_on, cells, metrics)  # type: ignore[arg-type]


def mark_up(charts: Sequence[Chart]) -> list[Chart]:
    """Charts whose picture, in which all text is escaped, goes into the page as it is."""
    return [chart._replace(svg=Markup(chart.svg)) for chart in charts]
