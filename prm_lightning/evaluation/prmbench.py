"""PRMBench: modified solutions whose wrong steps are known, by kind of error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prm_lightning.evaluation.results import (
    Report,
    Table,
    draw_problems,
    lines_by_threshold,
    show,
)
from prm_lightning.evaluation.scored import Entry, measure_at_thresholds
from prm_lightning.modeling.metrics import judge_flags
from prm_lightning.modeling.scored_steps import Draws, Floats, StepScores
from prm_lightning.sources.fields import list_in, make_steps, problem_in, texts_in
from prm_lightning.sources.fields import show as show_value
from prm_lightning.sources.rows import FileSource, RowError
from prm_lightning.text import fold_newlines, normalise_problem
from prm_lightning.types import Dropped, Solution

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


# {"modified_question": "2 + 3?", "modified_process": ["2 + 3 = 6", "So 6."], "error_steps": [1],
#  "classification": "confidence", "idx": "prm_test_p1_0"}
@dataclass
class PRMBench(FileSource):
    """Modified solutions with the steps that were made wrong, as the PRMBench preview has them.

    ``modified_process`` are the steps, ``error_steps`` the numbers of the wrong ones, counted from
    1; all others are correct. ``classification`` is the kind of error, which the solutions are
    reported under. Of rows that share classification and ``idx`` the first counts, as in the
    authors' evaluator.

    Source: Song et al. 2025, "PRMBench", arXiv:2501.03124; layout and rules as in its repository
    ssmisya/PRMBench, ``mr_eval/tasks/prmtest_classified``.
    """

    layouts = (COLUMNS,)

    def read(self) -> Iterator[Solution | Dropped]:
        """As every `FileSource`."""
        self._seen: set[str] = set()
        return super().read()

    def parse(self, row: dict[str, Any], id: str) -> Iterator[Solution]:
        """A row as one solution, with id ``classification_idx``."""
        problem = problem_in(row["modified_question"], "modified_question")
        texts = texts_in(row["modified_process"], "modified_process")
        errors = list_in(row["error_steps"], "error_steps")
        if not all(isinstance(number, int) and 1 <= number <= len(texts) for number in errors):
            raise RowError(
                "error steps out of range",
                f"error_steps is {show_value(errors)} for {len(texts)} steps, they count from 1.",
            )
        labels = [float(number not in errors) for number in range(1, len(texts) + 1)]
        steps = make_steps(texts, labels, fold_newlines, "modified_process")
        kind = str(row["classification"])
        own_id = f"{kind}_{row['idx']}"
        if own_id in self._seen:
            raise RowError("repeated id", f"{own_id!r} is there twice, the first one counts.")
        self._seen.add(own_id)
        yield Solution(problem, steps, kind, own_id)


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
    problems = [normalise_problem(item.solution.problem) for item in first]
    counts = draw_problems(problems, resamples, seed).counts
    sizes = Counter(item.solution.source for item in first)
    kinds = list(sizes)
    present = [kind for kind in KINDS if kind in sizes] + sorted(set(sizes) - set(KINDS))

    def measure(scores: StepScores, threshold: float) -> dict[str, dict[str, Floats]]:
        steps = scores.supervised
        figures = {}
        for part in ("all", *present):
            some = steps if part == "all" else steps.select(steps.sources == kinds.index(part))
            draws = Draws(counts, some.problems)
            passed, right = some.probabilities >= threshold, some.labels >= 0.5
            f1, error_f1 = _f1(passed, right, draws), _f1(~passed, ~right, draws)
            score = f1 if part == ALL_RIGHT else (f1 + error_f1) / 2
            figures[part] = {"prm_score": score, "f1": f1, "error_f1": error_f1}
        return figures

    rows = measure_at_thresholds(entries, measure, {"all": len(first), **sizes})
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
