"""Where is the first wrong step? F1 of exact match on wrong and on right solutions, by subset."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from prm_lightning.evaluation.baselines import constant_index, majority_class
from prm_lightning.evaluation.intervals import (
    Draws,
    Floats,
    divide,
    draw_problems,
    harmonic_mean,
    summarise,
)
from prm_lightning.evaluation.scored import Scored
from prm_lightning.evaluation.tables import Entry, Report, Row, Table, show, show_interval
from prm_lightning.text import normalise_problem
from prm_lightning.types import ALL_CORRECT, UNKNOWN

MEAN, WEIGHTED = "mean", "weighted mean"
COIN = "coin toss"
Halves = Mapping[str, Floats]


def find_first_error(scores: Sequence[float], threshold: float) -> int:
    """0-based index of the first step whose score lies below the threshold; -1 if none does."""
    return next((i for i, score in enumerate(scores) if score < threshold), ALL_CORRECT)


def measure_halves(scored: Sequence[Scored], threshold: float, draws: Draws) -> dict[str, Floats]:
    """Exact match of the first error on wrong solutions, on right ones, and their harmonic mean.

    A solution is right if every step is labelled correct, whatever its final answer is. One whose
    first error is unknown counts in neither half.

    Args:
        scored: N solutions.
        threshold: a step is flagged if its score lies below it.
        draws: of those N.

    Returns:
        ``(R + 1,)`` each: ``wrong``, ``right``, ``f1`` (NaN without solutions of either kind, 0
        if both halves are 0) and ``match``, over both kinds together.

    Source: Zheng et al. 2024, "ProcessBench", arXiv:2412.06559.
    """
    errors = np.array([item.first_error for item in scored], np.int64)
    found = np.array([find_first_error(item.scores, threshold) for item in scored], np.int64)
    halves = {}
    for name, half in (
        ("wrong", errors >= 0),
        ("right", errors == ALL_CORRECT),
        ("match", errors != UNKNOWN),
    ):
        halves[name] = divide(draws.total((found == errors) & half), draws.total(half))
    return {"f1": harmonic_mean(halves["wrong"], halves["right"]), **halves}


def toss_coin(always: Halves) -> dict[str, Floats]:
    """The best F1 without skill: by chance flag nothing, or the step that `constant_index` flags.

    Of a share q of the solutions it flags that step, and so finds ``q * a`` of the errors and
    passes ``1 - q * c`` of the right solutions, where always flagging it finds a and passes
    ``1 - c``. F1 is highest for ``q = 1 / (sqrt(a * c) + c)``, or for 1 where that is more; with
    c = 1 it is then ``2 a / (1 + sqrt(a)) ** 2``.

    Args:
        always: of `constant_index`.
    """
    a, c = always["wrong"], 1 - always["right"]
    q = np.minimum(1.0, np.nan_to_num(divide(np.ones_like(a), np.sqrt(a * c) + c), nan=1.0))
    wrong, right = q * a, 1 - q * c
    return {"f1": harmonic_mean(wrong, right), "wrong": wrong, "right": right}


def report_processbench(entries: Sequence[Entry], resamples: int = 1000, seed: int = 0) -> Report:
    """F1 and both halves of every entry and of baselines, by subset and averaged over subsets.

    A subset is what the solutions' `source` names. Averages are those of F1, plain and weighted by
    solutions; a subset without wrong or without right solutions has no F1 and is in no average.

    Args:
        entries: at least one, all with the same solutions in the same order.
        resamples: of the problems of each subset, for the intervals.
        seed: of the resamples.
    """
    subsets: dict[str, list[int]] = {}
    for place, item in enumerate(entries[0].scored):
        subsets.setdefault(item.solution.source, []).append(place)
    draws = {}
    for number, (name, places) in enumerate(subsets.items()):
        problems = [normalise_problem(entries[0].scored[i].solution.problem) for i in places]
        draws[name] = draw_problems(problems, resamples, seed + number)
    sizes = {name: len(places) for name, places in subsets.items()}

    def measure(entry: Entry, threshold: float) -> dict[str, dict[str, Floats]]:
        return {
            name: measure_halves([entry.scored[i] for i in places], threshold, draws[name])
            for name, places in subsets.items()
        }

    always = constant_index(entries[0].scored)
    rows = []
    for entry in (*entries, majority_class(entries[0].scored), always):
        for threshold in entry.thresholds:
            about = {"threshold": threshold.value, "threshold_from": threshold.fitted_on}
            rows += _rows(entry, about, measure(entry, threshold.value), sizes)
    coin = Entry(f"{COIN} between flagging nothing and {always.name}", "baseline", ())
    tossed = {name: toss_coin(halves) for name, halves in measure(always, 0.5).items()}
    rows += _rows(coin, {"threshold": None, "threshold_from": "none"}, tossed, sizes)
    counts = {name: _count(entries[0], places) for name, places in subsets.items()}
    return Report(rows, _tables(rows, counts), _notes(rows, counts))


def _rows(
    entry: Entry,
    about: Mapping[str, object],
    measured: Mapping[str, Halves],
    sizes: Mapping[str, int],
) -> list[Row]:
    parts = dict(measured)
    whole = [name for name in measured if not math.isnan(measured[name]["f1"][0])]
    if len(measured) > 1 and whole:
        f1 = np.stack([measured[name]["f1"] for name in whole])  # (subsets, R + 1)
        weights = np.array([sizes[name] for name in whole], np.float64)
        parts[MEAN] = {"f1": f1.mean(axis=0)}
        parts[WEIGHTED] = {"f1": weights @ f1 / weights.sum()}
    return [
        Row(
            entry.name,
            entry.kind,
            part,
            {name: summarise(replicates) for name, replicates in halves.items()},
            {**about, "solutions": sizes.get(part, sum(sizes.values()))},
        )
        for part, halves in parts.items()
    ]


def _count(entry: Entry, places: Sequence[int]) -> tuple[int, int]:
    """Wrong and right solutions of a subset."""
    errors = [entry.scored[i].first_error for i in places]
    return sum(error >= 0 for error in errors), errors.count(ALL_CORRECT)


def _tables(rows: Sequence[Row], counts: Mapping[str, tuple[int, int]]) -> list[Table]:
    by_line: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        at = row.about["threshold"]
        by_line.setdefault((row.model, "" if at is None else f"{at:.3f}"), {})[row.part] = row
    parts = list(dict.fromkeys(row.part for row in rows))
    halves, intervals = [], []
    for (model, threshold), line in by_line.items():
        cells = [_halves_cell(line[part]) if part in line else "–" for part in parts]
        halves.append([model, threshold, *cells])
        cells = [show_interval(line[part].metrics["f1"]) if part in line else "–" for part in parts]
        intervals.append([model, threshold, *cells])
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


def _notes(rows: Sequence[Row], counts: Mapping[str, tuple[int, int]]) -> list[str]:
    notes = [
        "F1 is the harmonic mean of two shares: of wrong solutions whose first flagged step is "
        "their first error, and of right solutions without a flagged step. Subsets show how many "
        "are wrong/right.",
        "Baselines know the labels of these data: the commonest class, the commonest first error. "
        f"An F1 that is not above the {COIN} shows no skill.",
    ]
    for name, (wrong, right) in counts.items():
        if not wrong or not right:
            kind = "wrong" if not wrong else "right"
            notes.append(f"{name} has no {kind} solutions, so it has no F1 and is in no average.")
    return notes
