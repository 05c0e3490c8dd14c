"""PRMBench: modified solutions whose wrong steps are known, by kind of error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prm_lightning.evaluation.baselines import constant_index, majority_class
from prm_lightning.evaluation.results import (
    Entry,
    Report,
    Row,
    Table,
    draw_problems,
    show,
    summarise,
)
from prm_lightning.evaluation.scored import gather_steps
from prm_lightning.modeling.metrics import judge_flags
from prm_lightning.modeling.scored_steps import Draws, Floats, StepScores
from prm_lightning.sources.rows import Row as RawRow
from prm_lightning.sources.rows import read_rows
from prm_lightning.text import fold_newlines, normalise_problem
from prm_lightning.types import Dropped, Solution, Step

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
COLUMNS = ("modified_question", "modified_process", "error_steps", "classification", "idx")


class PRMBench:
    """Modified solutions with the steps that were made wrong.

    The layout of the PRMBench preview: ``modified_question``, ``modified_process`` (the steps),
    ``error_steps`` (numbers of the wrong ones, counted from 1; all others are correct),
    ``classification`` (the kind of error, which the solutions are reported under) and ``idx``.
    Of rows that share classification and idx the first counts, as in the authors' evaluator.

    Args:
        path: a file, a folder of files, or a Hub id such as ``hitsmy/PRMBench_Preview``.
        split: of a folder or Hub data set.

    Source: Song et al. 2025, "PRMBench", arXiv:2501.03124; layout and rules as in its repository
    ssmisya/PRMBench, ``mr_eval/tasks/prmtest_classified``.
    """

    def __init__(self, path: str, split: str = "train") -> None:
        self.path = path
        self.split = split
        self.name = Path(path).stem

    def read(self) -> Iterator[Solution | Dropped]:
        """Yield a `Solution` a row, with id ``classification_idx``, or why there is none.

        Raises:
            FileNotFoundError: there is nothing at ``path``.
            ValueError: the data are empty.
        """
        seen: set[str] = set()
        for row in read_rows(self.path, self.split):
            solution = row if isinstance(row, Dropped) else _to_solution(row)
            if isinstance(solution, Solution):
                if solution.id in seen:
                    message = f"{solution.id!r} is there twice, the first one counts."
                    solution = Dropped(self.path, "repeated id", f"{self.path}: {message}")
                else:
                    seen.add(solution.id)
            yield solution


def prm_score(steps: StepScores, threshold: float, counts: Floats) -> dict[str, Floats]:
    """PRMScore: the mean of the F1 of correct steps and the F1 of wrong steps.

    Args:
        steps: supervised ones.
        threshold: a step counts as judged wrong if its score is below it.
        counts: ``(R + 1, P)`` as in `Draws`.

    Returns:
        ``(R + 1,)`` each: ``prm_score``, ``f1`` (correct steps are the positive class) and
        ``error_f1``; 0 where nothing is found, NaN where there is nothing to find.

    Source: Song et al. 2025, arXiv:2501.03124, with weights of one half as in the authors' code
    (https://github.com/ssmisya/PRMBench/issues/7).
    """
    draws = Draws(counts, steps.problems)
    passed, right = steps.probabilities >= threshold, steps.labels >= 0.5
    f1 = _f1(passed, right, draws)
    error_f1 = _f1(~passed, ~right, draws)
    return {"prm_score": (f1 + error_f1) / 2, "f1": f1, "error_f1": error_f1}


def _f1(predicted: NDArray[np.bool_], actual: NDArray[np.bool_], draws: Draws) -> Floats:
    f1 = judge_flags(predicted, actual, draws)["error_f1"]
    return np.where(draws.total(actual) == 0, np.nan, f1)


def report_prmbench(entries: Sequence[Entry], resamples: int = 1000, seed: int = 0) -> Report:
    """PRMScore of every entry and of baselines, overall and by kind of error.

    ``multi_solutions``, whose steps are all correct, is scored by their F1 alone. Overall pools
    the steps of all kinds.

    Args:
        entries: at least one, all with the same solutions in the same order.
        resamples: of problems, for the intervals.
        seed: of the resamples.
    """
    first = entries[0].scored
    problems = [normalise_problem(item.solution.problem) for item in first]
    counts = draw_problems(problems, resamples, seed).counts
    sizes = Counter(item.solution.source for item in first)
    present = [kind for kind in KINDS if kind in sizes] + sorted(set(sizes) - set(KINDS))
    rows = []
    for entry in (*entries, majority_class(first), constant_index(first)):
        scores, kinds = gather_steps(entry.scored)
        steps = scores.supervised
        for threshold in entry.thresholds:
            for part in ("all", *present):
                some = steps if part == "all" else steps.select(steps.sources == kinds.index(part))
                figures = prm_score(some, threshold.value, counts)
                if part == ALL_RIGHT:
                    figures["prm_score"] = figures["f1"]
                about = {
                    "threshold": threshold.value,
                    "threshold_from": threshold.fitted_on,
                    "solutions": len(first) if part == "all" else sizes[part],
                }
                estimates = {name: summarise(values) for name, values in figures.items()}
                rows.append(Row(entry.name, entry.kind, part, estimates, about))
    notes = [
        "PRMScore is the mean of the F1 of correct steps and the F1 of wrong steps, over the steps "
        "of all solutions; MS (multi_solutions) has no wrong steps and shows the F1 of correct "
        "ones. Published figures may rest on other thresholds.",
    ]
    return Report(rows, _tables(rows, present), notes)


def _tables(rows: Sequence[Row], present: Sequence[str]) -> list[Table]:
    lines: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault((row.model, f"{row.about['threshold']:.3f}"), {})[row.part] = row
    cells = [
        [
            *names,
            str(line["all"].metrics["prm_score"]),
            show(line["all"].metrics["f1"].value),
            show(line["all"].metrics["error_f1"].value),
            *(show(line[kind].metrics["prm_score"].value) for kind in present),
        ]
        for names, line in lines.items()
    ]
    heads = [KINDS.get(kind, kind) for kind in present]
    header = ["", "threshold", "overall [95 %]", "F1 of correct", "F1 of wrong", *heads]
    return [Table("PRMScore", header, cells)]


def _to_solution(row: RawRow) -> Solution | Dropped:
    values = row.values
    missing = [column for column in COLUMNS if values.get(column) is None]
    if missing:
        return _drop(row, "missing column", f"no {', '.join(missing)}; this is not PRMBench's row.")
    problem, texts, errors = (values[column] for column in COLUMNS[:3])
    if not isinstance(problem, str) or not problem.strip():
        return _drop(row, "no question", f"modified_question is {ascii(problem)[:60]}; fill it in.")
    if not isinstance(texts, list) or not texts or not all(map(_is_text, texts)):
        shown = ascii(texts)[:60]
        return _drop(row, "no steps", f"modified_process is {shown}, expected a list of texts.")
    if not isinstance(errors, list) or not all(
        isinstance(number, int) and 1 <= number <= len(texts) for number in errors
    ):
        shown = f"{ascii(errors)[:60]} for {len(texts)} steps"
        return _drop(row, "error steps out of range", f"error_steps is {shown}, they count from 1.")
    kind = str(values["classification"])
    steps = tuple(
        Step(fold_newlines(text), label=float(number not in errors))
        for number, text in enumerate(texts, 1)
    )
    return Solution(problem.strip(), steps, source=kind, id=f"{kind}_{values['idx']}")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _drop(row: RawRow, reason: str, message: str) -> Dropped:
    return Dropped(row.place, reason, f"{row.place}: {message}")
