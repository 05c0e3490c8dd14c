"""Solutions with the scores of their steps: made once, kept when a run is cut off, written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prm_lightning.files import digest
from prm_lightning.modeling.scored_steps import ScoredSolution, StepScores, to_step_scores
from prm_lightning.modeling.step_model import Unscorable
from prm_lightning.sources.rewards import first_error
from prm_lightning.terminal import Bar
from prm_lightning.types import Scorer, Solution

SCORES_FILE = "scores.jsonl"


@dataclass(frozen=True, slots=True)
class Scored:
    """A solution and what a model says of it.

    Args:
        solution: with labels and weights settled, where it has any.
        scores: P(correct) of each of its steps, in [0, 1]; none where the model cannot score it.
        failure: why it cannot; empty where it can.
    """

    solution: Solution
    scores: tuple[float, ...]
    failure: str = ""

    @property
    def first_error(self) -> int:
        """Of the labels: 0-based, `ALL_CORRECT` or `UNKNOWN`."""
        return first_error(self.solution)

    @property
    def labels(self) -> list[float | None]:
        """Those that are trusted."""
        return [step.label if step.weight > 0 else None for step in self.solution.steps]

    def to_json(self, model: str) -> dict[str, Any]:
        """A line of ``scores.jsonl``, which names the model since several may share the file."""
        return {
            "model": model,
            "id": self.solution.id,
            "source": self.solution.source,
            "problem": self.solution.problem,
            "steps": [step.text for step in self.solution.steps],
            "labels": self.labels,
            "scores": None if self.failure else list(self.scores),
            "first_error": self.first_error,
            **({"failure": self.failure} if self.failure else {}),
        }


class Journal:
    """Scores that are kept on disk as they come, so that a run that is cut off resumes.

    Args:
        path: of a JSON Lines file, which need not exist. A last line that was cut off is left out.
        model: the fingerprint of the model whose scores these are; those of another are not used.
    """

    def __init__(self, path: Path, model: str) -> None:
        self.path = path
        self.model = model
        self._known: dict[str, tuple[float, ...]] = {}
        if path.exists():
            for line in path.read_bytes().split(b"\n")[:-1]:
                record = json.loads(line)
                self._known[record["key"]] = tuple(record["scores"])
            whole = path.read_bytes().rpartition(b"\n")
            path.write_bytes(whole[0] + whole[1])

    def find(self, solution: Solution) -> tuple[float, ...] | None:
        """The scores of a solution, if it was scored before."""
        return self._known.get(self._key(solution))

    @contextmanager
    def opened(self) -> Iterator[Journal]:
        """For `keep`."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as self._stream:
            yield self

    def keep(self, scored: Sequence[Scored]) -> None:
        """Write down some scores."""
        for item in scored:
            if not item.failure:
                record = {"key": self._key(item.solution), "scores": item.scores}
                self._stream.write(json.dumps(record) + "\n")
        self._stream.flush()

    def _key(self, solution: Solution) -> str:
        content = [self.model, solution.problem, *_texts(solution)]
        return digest(json.dumps(content))


def score_solutions(
    scorer: Scorer, solutions: Sequence[Solution], journal: Journal
) -> list[Scored]:
    """Score every solution once, those of one problem together.

    Args:
        scorer: any process reward model. For a solution that it cannot score, such as one beyond
            its context, it raises `Unscorable`; the others are scored anyway.
        solutions: each with at least one step.
        journal: what it knows is not scored again.

    Returns:
        In the order of the solutions.

    Raises:
        ValueError: the scorer gives another number of scores than there are steps, or one that is
            no probability. A failure is never taken for a score.
    """
    done = {i: Scored(s, known) for i, s in enumerate(solutions) if (known := journal.find(s))}
    groups: dict[str, list[int]] = {}
    for i, solution in enumerate(solutions):
        if i not in done:
            groups.setdefault(solution.problem, []).append(i)
    todo = [[solutions[i] for i in group] for group in groups.values()]
    with journal.opened(), Bar(f"scoring by {scorer.name}", len(solutions)) as bar:
        bar.show(len(done))
        for group, scored in zip(groups.values(), _score_groups(scorer, todo), strict=True):
            done.update(zip(group, scored, strict=True))
            journal.keep(scored)
            bar.advance(len(group))
    return [done[i] for i in range(len(solutions))]


def _score_groups(scorer: Scorer, groups: Sequence[list[Solution]]) -> Iterator[list[Scored]]:
    """The solutions of each problem, scored; one by one around a solution that cannot be."""
    start = 0
    while start < len(groups):
        items = [(group[0].problem, [_texts(s) for s in group]) for group in groups[start:]]
        try:
            for rows in scorer.score_all(items):
                _check(scorer.name, groups[start], rows)
                pairs = zip(groups[start], rows, strict=True)
                yield [Scored(solution, tuple(map(float, row))) for solution, row in pairs]
                start += 1
            break
        except Unscorable:
            yield [_score_one(scorer, solution) for solution in groups[start]]
            start += 1


def _score_one(scorer: Scorer, solution: Solution) -> Scored:
    try:
        rows = scorer.score(solution.problem, [_texts(solution)])
    except Unscorable as error:
        return Scored(solution, (), str(error))
    _check(scorer.name, [solution], rows)
    return Scored(solution, tuple(map(float, rows[0])))


def _texts(solution: Solution) -> list[str]:
    return [step.text for step in solution.steps]


def _check(name: str, solutions: Sequence[Solution], rows: Sequence[Sequence[float]]) -> None:
    if len(rows) != len(solutions):
        raise ValueError(
            f"evaluate: {name} scored {len(rows)} of {len(solutions)} solutions of the problem "
            f"{solutions[0].problem[:60]!r}, expected all of them; see what its server logs."
        )
    for solution, row in zip(solutions, rows, strict=True):
        if len(row) != len(solution.steps):
            raise ValueError(
                f"evaluate: {name} gave {len(row)} scores for the {len(solution.steps)} steps of "
                f"solution {solution.id!r}, expected one per step; check how it finds step ends."
            )
        for number, score in enumerate(row, 1):
            if not (math.isfinite(score) and 0 <= score <= 1):
                raise ValueError(
                    f"evaluate: {name} gave step {number} of solution {solution.id!r} the score "
                    f"{score}, expected a probability in [0, 1]; a broken head or precision."
                )


def write_scores(path: Path, rows: Sequence[tuple[str, Sequence[Scored]]]) -> None:
    """Write ``scores.jsonl``: the scores of each model, one line per solution."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for model, scored in rows:
            for item in scored:
                stream.write(json.dumps(item.to_json(model), ensure_ascii=False) + "\n")


def gather_steps(scored: Sequence[Scored]) -> tuple[StepScores, list[str]]:
    """What `to_step_scores` makes of scored solutions."""
    return to_step_scores(
        [
            ScoredSolution(
                item.scores, item.labels, item.first_error,
                item.solution.source, item.solution.problem,
            )
            for item in scored
        ]
    )  # fmt: skip
