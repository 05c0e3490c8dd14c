"""Benchmarks of step labels: ProcessBench F1, every step metric by part, and PRMScore.

The figures are those of `modeling.metrics`, for all bootstrap resamples at once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from prm_lightning.evaluation.baselines import constant_baselines
from prm_lightning.evaluation.results import (
    UNDEFINED,
    Report,
    Row,
    Table,
    draw_problems,
    lines_by_threshold,
    show,
    summarise,
)
from prm_lightning.evaluation.scored import Entry, gather_steps
from prm_lightning.modeling.metrics import (
    POSITION_NAMES,
    POSITIONS,
    first_error_windows,
    judge_flags,
    measure_first_errors,
    measure_part,
    measure_steps,
    split_by_position,
)
from prm_lightning.modeling.scored_steps import Draws, Floats, StepScores, number_in_order
from prm_lightning.types import ALL_CORRECT

HEADLINE = ("accuracy", "balanced_accuracy", "error_f1", "auroc")
# Their own spelling; the short names are those of the leaderboard.
KINDS = {
    "redundency": "NR",
    "circular": "NCL",
    "counterfactual": "ES",
    "step_contradiction": "SC",
    "domain_inconsistency": "DC",
    "confidence": "CI",
    "missing_condition": "PS",
    "deception": "DR",
    "multi_solutions": "MS",
}
ALL_RIGHT = "multi_solutions"  # its solutions have no wrong step, so it is scored by F1 alone
COUNTS = ("steps", "solutions", "cut_before_error")  # of the data, not of a model
Part = tuple[str, Mapping[str, Floats], dict[str, object]]  # name, metrics, what else a row says


def _measure(
    entries: Sequence[Entry], parts: Callable[[Entry, StepScores], Iterator[Part]]
) -> list[Row]:
    """The rows of all parts of every entry, then of constant baselines on the same solutions."""
    scored = [(entry, gather_steps(entry.scored)) for entry in entries]
    for name, scores in constant_baselines(scored[0][1]).items():
        scored.append((Entry(name, "baseline", ()), scores))
    rows = []
    for entry, scores in scored:
        for part, metrics, about in parts(entry, scores):
            found = {name: summarise(v) for name, v in metrics.items() if name not in COUNTS}
            rows.append(Row(entry.name, entry.kind, part, found, about))
    return rows


def report_processbench(entries: Sequence[Entry], resamples: int = 1000, seed: int = 0) -> Report:
    """F1 and both halves of every entry and of baselines, by subset and averaged over subsets.

    A subset is what the solutions' `source` names. Averages are those of F1, plain and weighted by
    solutions; a subset without wrong or without right solutions has no F1 and is in no average.

    Args:
        entries: at least one, all with the same solutions in the same order.
        resamples: of the problems of each subset, for the intervals.
        seed: of the resamples.
    """
    names = list(dict.fromkeys(item.solution.source for item in entries[0].scored))
    subsets = _split_by_source(gather_steps(entries[0].scored), names)
    counts = {
        name: _draw(scores, resamples, seed + number)
        for number, (name, scores) in enumerate(subsets.items())
    }
    sizes = {name: len(scores.starts) for name, scores in subsets.items()}

    def parts(entry: Entry, scores: StepScores) -> Iterator[Part]:
        of_sources = _split_by_source(scores, names)
        for at in entry.thresholds:
            measured: dict[str, Mapping[str, Floats]] = {}
            for name, part in of_sources.items():
                found = measure_first_errors(part, at.threshold, counts[name])
                measured[name] = {half: found[half] for half in ("f1", "wrong", "right")}
            measured |= _averages(measured, sizes)
            for name, metrics in measured.items():
                about = {**at._asdict(), "solutions": sizes.get(name, sum(sizes.values()))}
                yield name, metrics, about

    rows = _measure(entries, parts)
    errors = {name: part.first_errors[part.starts] for name, part in subsets.items()}
    wrong_right = {
        name: (int((of_part >= 0).sum()), int((of_part == ALL_CORRECT).sum()))
        for name, of_part in errors.items()
    }
    return Report(rows, _processbench_tables(rows, wrong_right), _processbench_notes(wrong_right))


def _split_by_source(scores: StepScores, names: Sequence[str]) -> dict[str, StepScores]:
    """The steps of each source, whose problems are numbered from 0."""
    parts = {name: scores.select(scores.sources == index) for index, name in enumerate(names)}
    return {
        name: part._replace(problems=number_in_order(part.problems.tolist()))
        for name, part in parts.items()
    }


def _averages(
    measured: Mapping[str, Mapping[str, Floats]], sizes: Mapping[str, int]
) -> dict[str, dict[str, Floats]]:
    """F1 averaged over the subsets that have one; nothing with a single subset."""
    whole = [name for name in measured if not math.isnan(measured[name]["f1"][0])]
    if len(measured) < 2 or not whole:
        return {}
    f1 = np.stack([measured[name]["f1"] for name in whole])  # (subsets, R + 1)
    weights = np.array([sizes[name] for name in whole], np.float64)
    return {"mean": {"f1": f1.mean(axis=0)}, "weighted mean": {"f1": weights @ f1 / weights.sum()}}


def _processbench_tables(rows: Sequence[Row], counts: Mapping[str, tuple[int, int]]) -> list[Table]:
    parts = list(dict.fromkeys(row.part for row in rows))
    halves, intervals = [], []
    for names, line in lines_by_threshold(rows).items():
        found = [line.get(part) for part in parts]
        halves.append([*names, *map(_halves_cell, found)])
        intervals.append([*names, *(str(row.metrics["f1"]) if row else UNDEFINED for row in found)])
    heads = [f"{p} ({counts[p][0]}/{counts[p][1]})" if p in counts else p for p in parts]
    title = "ProcessBench F1 (errors found / right solutions passed)"
    return [
        Table(title, ["", "threshold", *heads], halves),
        Table("ProcessBench F1 [95 % interval]", ["", "threshold", *parts], intervals),
    ]


def _halves_cell(row: Row | None) -> str:
    if row is None:
        return UNDEFINED
    shown = [show(estimate.value) for estimate in row.metrics.values()]
    return shown[0] if len(shown) == 1 else "{} ({} / {})".format(*shown)


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
    names = list(enumerate(dict.fromkeys(item.solution.source for item in entries[0].scored)))
    counts = _draw(gather_steps(entries[0].scored), resamples, seed)

    def parts(entry: Entry, scores: StepScores) -> Iterator[Part]:
        threshold, fitted_on = entry.threshold or (None, None)
        about = {"threshold": threshold, "threshold_from": fitted_on}
        aggregation = entry.choice.aggregation if entry.choice else "min"
        some = {f"source/{name}": scores.select(scores.sources == i) for i, name in names}
        for part, mine in {"all": scores, **some}.items():
            metrics = measure_part(mine, threshold, counts, aggregation)
            sizes = {name: int(metrics[name][0]) for name in ("steps", "solutions")}
            yield part, metrics, {**about, **sizes}
        found = _first_errors_found(scores, counts)
        for part, steps in split_by_position(scores.supervised).items():
            if len(steps.labels):
                share, solutions = found[part]
                metrics = measure_steps(steps, threshold, counts) | {"first_errors_found": share}
                sizes = {"steps": len(steps.labels), "solutions": solutions}
                yield f"position/{part}", metrics, {**about, **sizes}

    rows = _measure(entries, parts)
    notes = [
        "Wrong steps are the positive class of every error_ metric. Steps are flagged below 0.5 "
        "unless a name says otherwise. Baselines know the labels of these data.",
    ]
    return Report(rows, _step_tables(rows), notes)


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


def report_prmbench(entries: Sequence[Entry], resamples: int = 1000, seed: int = 0) -> Report:
    """PRMScore of every entry and of baselines, overall and by kind of error.

    PRMScore is the mean of the F1 of correct steps and the F1 of wrong steps; ``multi_solutions``,
    whose steps are all correct, is scored by the first alone. Overall pools the steps of all kinds.
    F1 is 0 where nothing is found, and undefined where there is nothing to find.

    Args:
        entries: at least one, all with the same solutions in the same order.
        resamples: of problems, for the intervals.
        seed: of the resamples.

    Source: Song et al. 2025, arXiv:2501.03124, with weights of one half as in the authors' code
    (https://github.com/ssmisya/PRMBench/issues/7).
    """
    first = entries[0].scored
    counts = _draw(gather_steps(first), resamples, seed)
    sizes = Counter(item.solution.source for item in first)
    kinds = list(sizes)
    present = [kind for kind in KINDS if kind in sizes] + sorted(set(sizes) - set(KINDS))

    def parts(entry: Entry, scores: StepScores) -> Iterator[Part]:
        steps = scores.supervised
        for at in entry.thresholds:
            for part in ("all", *present):
                some = steps if part == "all" else steps.select(steps.sources == kinds.index(part))
                draws = Draws(counts, some.problems)
                passed, right = some.probabilities >= at.threshold, some.labels >= 0.5
                f1, error_f1 = _f1(passed, right, draws), _f1(~passed, ~right, draws)
                score = f1 if part == ALL_RIGHT else (f1 + error_f1) / 2
                metrics = {"prm_score": score, "f1": f1, "error_f1": error_f1}
                yield part, metrics, {**at._asdict(), "solutions": sizes.get(part, len(first))}

    rows = _measure(entries, parts)
    cells = []
    for names, line in lines_by_threshold(rows).items():
        whole = line["all"].metrics
        by_kind = [show(line[kind].metrics["prm_score"].value) for kind in present]
        halves = [show(whole[name].value) for name in ("f1", "error_f1")]
        cells.append([*names, str(whole["prm_score"]), *halves, *by_kind])
    heads = [KINDS.get(kind, kind) for kind in present]
    header = ["", "threshold", "overall [95 %]", "F1 of correct", "F1 of wrong", *heads]
    notes = [
        "PRMScore is the mean of the F1 of correct steps and the F1 of wrong steps, over the steps "
        "of all solutions; MS (multi_solutions) has no wrong steps and shows the F1 of correct "
        "ones. Published figures may rest on other thresholds.",
    ]
    return Report(rows, [Table("PRMScore", header, cells)], notes)


def _f1(predicted: NDArray[np.bool_], actual: NDArray[np.bool_], draws: Draws) -> Floats:
    f1 = judge_flags(predicted, actual, draws)["error_f1"]
    return np.where(draws.total(actual) == 0, np.nan, f1)


def _draw(scores: StepScores, resamples: int, seed: int) -> Floats:
    return draw_problems(scores.problems[scores.starts].tolist(), resamples, seed).counts
