"""Every step metric with its interval, over all data, by source and by step position.

The same figures as `modeling.metrics`, computed for all bootstrap resamples at once: a resample is
a count of each problem, and every metric a function of weighted sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prm_lightning.evaluation.baselines import constant_index, majority_class
from prm_lightning.evaluation.intervals import (
    Draws,
    Floats,
    Indices,
    divide,
    draw_problems,
    summarise,
)
from prm_lightning.evaluation.processbench import find_first_error, measure_halves
from prm_lightning.evaluation.scored import Scored
from prm_lightning.evaluation.tables import Entry, Report, Row, Table, show, show_interval
from prm_lightning.text import normalise_problem

BINS = 15
POSITIONS = 8  # reported one by one; all later ones are taken together
AT_ONCE = 4_000_000  # entries of one (resamples, steps) matrix

HEADLINE = ("accuracy", "balanced_accuracy", "error_f1", "auroc")


class Steps(NamedTuple):
    """N supervised steps.

    Args:
        probabilities: ``(N,)`` in [0, 1].
        labels: ``(N,)`` in [0, 1].
        positions: ``(N,)`` 0-based index in its solution.
        solutions: ``(N,)`` index of its solution.
    """

    probabilities: Floats
    labels: Floats
    positions: Indices
    solutions: Indices


def gather_steps(scored: Sequence[Scored]) -> Steps:
    """The steps with a label and a weight above 0."""
    found = [
        (score, step.label, position, number)
        for number, item in enumerate(scored)
        for position, (step, score) in enumerate(zip(item.solution.steps, item.scores, strict=True))
        if step.label is not None and step.weight > 0
    ]
    columns = np.array(found, np.float64).reshape(-1, 4).T
    return Steps(columns[0], columns[1], columns[2].astype(int), columns[3].astype(int))


def measure_flags(
    probabilities: Floats, labels: Floats, threshold: float, draws: Draws
) -> dict[str, Floats]:
    """Accuracy, and precision, recall and F1 of errors, ``(R + 1,)`` each; NaN where 0 / 0.

    Args:
        probabilities: ``(N,)`` in [0, 1].
        labels: ``(N,)``; >= 0.5 counts as correct.
        threshold: a step is flagged if its probability lies below it.
        draws: of the N steps.
    """
    flagged, wrong = probabilities < threshold, labels < 0.5
    hits, misses = draws.total(flagged & wrong), draws.total(~flagged & wrong)
    alarms, passes = draws.total(flagged & ~wrong), draws.total(~flagged & ~wrong)
    recall = divide(hits, hits + misses)
    return {
        "accuracy": divide(hits + passes, hits + misses + alarms + passes),
        "balanced_accuracy": (recall + divide(passes, passes + alarms)) / 2,
        "error_precision": divide(hits, hits + alarms),
        "error_recall": recall,
        "error_f1": divide(2 * hits, 2 * hits + misses + alarms),
    }


def measure_ranking(probabilities: Floats, labels: Floats, draws: Draws) -> dict[str, Floats]:
    """AUROC, and average precision of errors, ``(R + 1,)`` each; NaN where a class is missing.

    Equal probabilities count half in AUROC and stand together in average precision.
    """
    order = np.argsort(probabilities, kind="stable")
    wrong = labels[order] < 0.5
    values = probabilities[order]
    if not len(values):
        undefined = np.full(len(draws.counts), np.nan)
        return {"auroc": undefined, "error_ap": undefined}
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    auroc, precision = [], []
    at_once = max(1, AT_ONCE // len(values))
    for start in range(0, len(draws.counts), at_once):
        drawn = draws.counts[start : start + at_once][:, draws.problems[order]]  # (C, N)
        bad = np.add.reduceat(drawn * wrong, starts, axis=1)  # (C, distinct values), ascending
        good = np.add.reduceat(drawn * ~wrong, starts, axis=1)
        below = np.cumsum(bad, axis=1)
        all_bad, all_good = below[:, -1], good.sum(axis=1)
        pairs = (good * (below - bad / 2)).sum(axis=1)
        auroc.append(divide(pairs, all_bad * all_good))
        flagged = np.cumsum(bad + good, axis=1)
        found = (bad * np.nan_to_num(divide(below, flagged))).sum(axis=1)
        precision.append(divide(found, all_bad))
    return {"auroc": np.concatenate(auroc), "error_ap": np.concatenate(precision)}


def measure_calibration(probabilities: Floats, labels: Floats, draws: Draws) -> dict[str, Floats]:
    """Brier score against the label's value, and ECE of P(correct) in 15 equal bins."""
    edges = np.linspace(0, 1, BINS + 1)[1:-1]
    bins = np.searchsorted(edges, probabilities, side="right")
    gaps = probabilities - (labels >= 0.5)
    distance = sum(np.abs(draws.total(gaps * (bins == number))) for number in range(BINS))
    return {
        "brier": draws.mean(np.square(probabilities - labels)),
        "ece": divide(np.asarray(distance), draws.total(np.ones(len(labels)))),
    }


def measure_steps(steps: Steps, threshold: float | None, draws: Draws) -> dict[str, Floats]:
    """Every metric that takes steps one by one, ``(R + 1,)`` each.

    At 0.5, and ``error_f1_at_threshold`` where one is given.
    """
    p, labels = steps.probabilities, steps.labels
    share = draws.mean(labels < 0.5)
    metrics = {
        "error_share": share,
        "majority_accuracy": np.maximum(share, 1 - share),
        **measure_flags(p, labels, 0.5, draws),
        **measure_ranking(p, labels, draws),
        **measure_calibration(p, labels, draws),
    }
    if threshold is not None:
        metrics["error_f1_at_threshold"] = measure_flags(p, labels, threshold, draws)["error_f1"]
    return metrics


def measure_solutions(
    scored: Sequence[Scored], threshold: float | None, draws: Draws
) -> dict[str, Floats]:
    """Every metric that takes solutions whole, ``(R + 1,)`` each.

    ``first_error_match`` at 0.5, ProcessBench F1 with its halves at 0.5 and at the threshold, and
    ``lowest_at_last``, the share of solutions whose (earliest) lowest score is their last.
    """
    last = np.array([np.argmin(item.scores) == len(item.scores) - 1 for item in scored], bool)
    metrics = {"lowest_at_last": draws.mean(last)}
    for suffix, at in (("_at_0.5", 0.5), ("", threshold)):
        if at is None:
            continue
        halves = measure_halves(scored, at, draws)
        metrics |= {f"processbench_{k}{suffix}": halves[k] for k in ("f1", "wrong", "right")}
        if at == 0.5:
            metrics["first_error_match"] = halves["match"]
    return metrics


def report_steps(entries: Sequence[Entry], resamples: int = 1000, seed: int = 0) -> Report:
    """Every metric of every entry and of baselines: ``all``, ``source/<name>``, ``position/<k>``.

    Args:
        entries: at least one, all with the same solutions in the same order.
        resamples: of problems, for the intervals.
        seed: of the resamples.
    """
    first = entries[0].scored
    draws = draw_problems(
        [normalise_problem(item.solution.problem) for item in first], resamples, seed
    )
    everyone = (*entries, majority_class(first), constant_index(first))
    rows = [row for entry in everyone for row in _rows(entry, draws)]
    return Report(rows, _tables(rows), _notes(entries))


def _rows(entry: Entry, draws: Draws) -> list[Row]:
    threshold = entry.threshold.value if entry.threshold and entry.kind != "baseline" else None
    about = {
        "threshold": threshold,
        "threshold_from": entry.threshold.fitted_on if entry.threshold else None,
    }
    steps = gather_steps(entry.scored)
    by_step = Draws(draws.counts, draws.problems[steps.solutions])
    sources = np.array([item.solution.source for item in entry.scored])
    rows = []
    for name in (None, *dict.fromkeys(sources.tolist())):
        inside = np.ones(len(sources), bool) if name is None else sources == name
        chosen = inside[steps.solutions]
        scored = [item for item, is_in in zip(entry.scored, inside, strict=True) if is_in]
        metrics = {
            **measure_steps(_select(steps, chosen), threshold, by_step.select(chosen)),
            **measure_solutions(scored, threshold, draws.select(inside)),
        }
        counts = {"steps": int(chosen.sum()), "solutions": len(scored)}
        rows.append(
            _row(entry, "all" if name is None else f"source/{name}", metrics, {**about, **counts})
        )
    errors = np.array([item.first_error for item in entry.scored])
    found = np.array([find_first_error(item.scores, 0.5) for item in entry.scored]) == errors
    for position in range(POSITIONS + 1):
        chosen = np.minimum(steps.positions, POSITIONS) == position
        if not chosen.any():
            continue
        here = (errors >= 0) & (np.minimum(errors, POSITIONS) == position)
        metrics = measure_steps(_select(steps, chosen), threshold, by_step.select(chosen))
        metrics["first_errors_found"] = divide(draws.total(found & here), draws.total(here))
        name = str(position + 1) if position < POSITIONS else f"{POSITIONS + 1}_and_later"
        counts = {"steps": int(chosen.sum()), "solutions": int(here.sum())}
        rows.append(_row(entry, f"position/{name}", metrics, {**about, **counts}))
    return rows


def _row(
    entry: Entry, part: str, metrics: Mapping[str, Floats], about: Mapping[str, object]
) -> Row:
    figures = {name: summarise(replicates) for name, replicates in metrics.items()}
    return Row(entry.name, entry.kind, part, figures, about)


def _select(steps: Steps, chosen: NDArray[np.bool_]) -> Steps:
    p, labels, positions, solutions = steps
    return Steps(p[chosen], labels[chosen], positions[chosen], solutions[chosen])


def _tables(rows: Sequence[Row]) -> list[Table]:
    whole = [row for row in rows if row.part == "all"]
    names = list(dict.fromkeys(name for row in whole for name in row.metrics))
    counts = whole[0].about
    tables = [
        Table(
            f"{counts['steps']} steps of {counts['solutions']} solutions [95 % interval]",
            ["", *(row.model for row in whole)],
            [
                [n, *(show_interval(r.metrics[n]) if n in r.metrics else "–" for r in whole)]
                for n in names
            ],
        )
    ]
    for kind, columns in (
        ("source", (*HEADLINE, "processbench_f1_at_0.5")),
        ("position", ("error_share", *HEADLINE, "first_errors_found")),
    ):
        lines = [
            [row.part.partition("/")[2], row.model, str(row.about["steps"])]
            + [show(row.metrics[name].value) for name in columns]
            for row in sorted(
                (row for row in rows if row.part.startswith(f"{kind}/") and row.kind != "baseline"),
                key=lambda row: row.part,
            )
        ]
        tables.append(Table(f"By {kind}, flagged below 0.5", [kind, "", "steps", *columns], lines))
    return tables


def _notes(entries: Sequence[Entry]) -> list[str]:
    notes = [
        "Wrong steps are the positive class of every error_ metric. Steps are flagged below 0.5 "
        "unless a name says otherwise. Baselines know the labels of these data.",
    ]
    if not any(entry.threshold for entry in entries):
        notes.append("No threshold was fitted: every figure is at 0.5.")
    return notes
