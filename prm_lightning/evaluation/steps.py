"""Benchmarks of step labels: ProcessBench F1 by subset, and every step metric by part.

The figures are those of `modeling.metrics`, for all bootstrap resamples at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from prm_lightning.evaluation.baselines import constant_index, majority_class
from prm_lightning.evaluation.results import (
    UNDEFINED,
    Entry,
    Report,
    Row,
    Table,
    draw_problems,
    show,
    summarise,
)
from prm_lightning.evaluation.scored import Scored, gather_steps
from prm_lightning.modeling.metrics import (
    POSITION_NAMES,
    POSITIONS,
    first_error_windows,
    measure_first_errors,
    measure_part,
    measure_steps,
    split_by_position,
)
from prm_lightning.modeling.scored_steps import Draws, Floats, StepScores
from prm_lightning.text import normalise_problem
from prm_lightning.types import ALL_CORRECT

MEAN, WEIGHTED = "mean", "weighted mean"
HEADLINE = ("accuracy", "balanced_accuracy", "error_f1", "auroc")
HALVES = ("f1", "wrong", "right")
COUNTS = ("steps", "solutions", "cut_before_error")  # of the data, not of a model


def report_processbench(entries: Sequence[Entry], resamples: int = 1000, seed: int = 0) -> Report:
    """F1 and both halves of every entry and of baselines, by subset and averaged over subsets.

    A subset is what the solutions' `source` names. Averages are those of F1, plain and weighted by
    solutions; a subset without wrong or without right solutions has no F1 and is in no average.

    Args:
        entries: at least one, all with the same solutions in the same order.
        resamples: of the problems of each subset, for the intervals.
        seed: of the resamples.
    """
    first = entries[0].scored
    subsets: dict[str, list[int]] = {}
    for place, item in enumerate(first):
        subsets.setdefault(item.solution.source, []).append(place)
    counts = {
        name: _draw([first[i] for i in places], resamples, seed + number)
        for number, (name, places) in enumerate(subsets.items())
    }
    sizes = {name: len(places) for name, places in subsets.items()}
    rows = []
    for entry in (*entries, majority_class(first), constant_index(first)):
        parts = {
            name: gather_steps([entry.scored[i] for i in places])[0]
            for name, places in subsets.items()
        }
        for threshold in entry.thresholds:
            measured: dict[str, Mapping[str, Floats]] = {}
            for name, scores in parts.items():
                found = measure_first_errors(scores, threshold.value, counts[name])
                measured[name] = {half: found[half] for half in HALVES}
            about = {"threshold": threshold.value, "threshold_from": threshold.fitted_on}
            for part, figures in {**measured, **_averages(measured, sizes)}.items():
                size = {"solutions": sizes.get(part, len(first))}
                rows.append(_row(entry, part, figures, {**about, **size}))
    wrong_right = {name: _count(entries[0], places) for name, places in subsets.items()}
    return Report(rows, _processbench_tables(rows, wrong_right), _processbench_notes(wrong_right))


def _averages(
    measured: Mapping[str, Mapping[str, Floats]], sizes: Mapping[str, int]
) -> dict[str, dict[str, Floats]]:
    """F1 averaged over the subsets that have one; nothing with a single subset."""
    whole = [name for name in measured if not math.isnan(measured[name]["f1"][0])]
    if len(measured) < 2 or not whole:
        return {}
    f1 = np.stack([measured[name]["f1"] for name in whole])  # (subsets, R + 1)
    weights = np.array([sizes[name] for name in whole], np.float64)
    return {MEAN: {"f1": f1.mean(axis=0)}, WEIGHTED: {"f1": weights @ f1 / weights.sum()}}


def _count(entry: Entry, places: Sequence[int]) -> tuple[int, int]:
    """Wrong and right solutions of a subset."""
    errors = [entry.scored[i].first_error for i in places]
    return sum(error >= 0 for error in errors), errors.count(ALL_CORRECT)


def _processbench_tables(rows: Sequence[Row], counts: Mapping[str, tuple[int, int]]) -> list[Table]:
    lines: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault((row.model, f"{row.about['threshold']:.3f}"), {})[row.part] = row
    parts = list(dict.fromkeys(row.part for row in rows))
    halves, intervals = [], []
    for names, line in lines.items():
        cells = [_halves_cell(line[part]) if part in line else UNDEFINED for part in parts]
        halves.append([*names, *cells])
        cells = [str(line[part].metrics["f1"]) if part in line else UNDEFINED for part in parts]
        intervals.append([*names, *cells])
    heads = [f"{p} ({counts[p][0]}/{counts[p][1]})" if p in counts else p for p in parts]
    return [
        Table(
            "ProcessBench F1 (errors found / right solutions passed)",
            ["", "threshold", *heads],
            halves,
        ),
        Table("ProcessBench F1 [95 % interval]", ["", "threshold", *parts], intervals),
    ]


def _halves_cell(row: Row) -> str:
    f1 = show(row.metrics["f1"].value)
    if "wrong" not in row.metrics:
        return f1
    return f"{f1} ({show(row.metrics['wrong'].value)} / {show(row.metrics['right'].value)})"


def _processbench_notes(counts: Mapping[str, tuple[int, int]]) -> list[str]:
    notes = [
        "F1 is the harmonic mean of two shares: of wrong solutions whose first flagged step is "
        "their first error, and of right solutions without a flagged step. Subsets show how many "
        "are wrong/right.",
        "Baselines know the labels of these data: the commonest class, the commonest first error.",
    ]
    for name, (wrong, right) in counts.items():
        if not wrong or not right:
            kind = "wrong" if not wrong else "right"
            notes.append(f"{name} has no {kind} solutions, so it has no F1 and is in no average.")
    return notes


def report_steps(entries: Sequence[Entry], resamples: int = 1000, seed: int = 0) -> Report:
    """Every metric of every entry and of baselines: ``all``, ``source/<name>``, ``position/<k>``.

    Args:
        entries: at least one, all with the same solutions in the same order.
        resamples: of problems, for the intervals.
        seed: of the resamples.
    """
    first = entries[0].scored
    counts = _draw(first, resamples, seed)
    everyone = (*entries, majority_class(first), constant_index(first))
    rows = [row for entry in everyone for row in _step_rows(entry, counts)]
    notes = [
        "Wrong steps are the positive class of every error_ metric. Steps are flagged below 0.5 "
        "unless a name says otherwise. Baselines know the labels of these data.",
    ]
    if not any(entry.threshold for entry in entries):
        notes.append("No threshold was fitted: every figure is at 0.5.")
    return Report(rows, _step_tables(rows), notes)


def _step_rows(entry: Entry, counts: Floats) -> list[Row]:
    fitted = entry.threshold if entry.kind != "baseline" else None
    threshold = fitted.value if fitted else None
    about = {"threshold": threshold, "threshold_from": fitted.fitted_on if fitted else None}
    aggregation = entry.choice.how if entry.choice else "min"
    scores, sources = gather_steps(entry.scored)
    parts = {"all": scores} | {
        f"source/{name}": scores.select(scores.sources == index)
        for index, name in enumerate(sources)
    }
    rows = []
    for part, some in parts.items():
        metrics = measure_part(some, threshold, counts, aggregation)
        sizes = {name: int(metrics[name][0]) for name in ("steps", "solutions")}
        rows.append(_row(entry, part, metrics, {**about, **sizes}))
    found = _first_errors_found(scores, counts)
    for part, steps in split_by_position(scores.supervised).items():
        if not len(steps.labels):
            continue
        metrics = measure_steps(steps, threshold, counts)
        metrics["first_errors_found"], solutions = found[part]
        sizes = {"steps": len(steps.labels), "solutions": solutions}
        rows.append(_row(entry, f"position/{part}", metrics, {**about, **sizes}))
    return rows


def _first_errors_found(scores: StepScores, counts: Floats) -> dict[str, tuple[Floats, int]]:
    """By the position of the first error: which share is found at 0.5, and of how many."""
    wrong = scores.select(scores.first_errors >= 0)
    places = np.minimum(wrong.first_errors[wrong.starts], POSITIONS)
    low, high, _, problems = first_error_windows(wrong)
    found = (low < 0.5) & (high >= 0.5)
    return {
        name: (
            Draws(counts, problems[places == place]).mean(found[places == place]),
            int((places == place).sum()),
        )
        for place, name in enumerate(POSITION_NAMES)
    }


def _row(
    entry: Entry, part: str, metrics: Mapping[str, Floats], about: Mapping[str, object]
) -> Row:
    figures = {name: summarise(values) for name, values in metrics.items() if name not in COUNTS}
    return Row(entry.name, entry.kind, part, figures, about)


def _step_tables(rows: Sequence[Row]) -> list[Table]:
    whole = [row for row in rows if row.part == "all"]
    names = list(dict.fromkeys(name for row in whole for name in row.metrics))
    counts = whole[0].about
    tables = [
        Table(
            f"{counts['steps']} steps of {counts['solutions']} solutions [95 % interval]",
            ["", *(row.model for row in whole)],
            [[name, *(str(row.metrics.get(name, UNDEFINED)) for row in whole)] for name in names],
        )
    ]
    for kind, columns in (
        ("source", (*HEADLINE, "processbench_f1_at_0.5")),
        ("position", ("error_share", *HEADLINE, "first_errors_found")),
    ):
        some = [row for row in rows if row.part.startswith(f"{kind}/") and row.kind != "baseline"]
        lines = [
            [row.part.partition("/")[2], row.model, str(row.about["steps"])]
            + [show(row.metrics[name].value) for name in columns]
            for row in sorted(some, key=lambda row: row.part)
        ]
        tables.append(Table(f"By {kind}, flagged below 0.5", [kind, "", "steps", *columns], lines))
    return tables


def _draw(scored: Sequence[Scored], resamples: int, seed: int) -> Floats:
    problems = [normalise_problem(item.solution.problem) for item in scored]
    return draw_problems(problems, resamples, seed).counts
