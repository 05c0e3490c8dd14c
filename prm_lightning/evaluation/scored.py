"""Solutions with the scores of their steps, by models and by their untrained twins."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urldefrag

from prm_lightning.evaluation import EvaluateOptions
from prm_lightning.evaluation.baselines import Surprisal, untrained_twin
from prm_lightning.evaluation.results import Kind
from prm_lightning.files import ResumableRows, digest
from prm_lightning.generation.prompts import is_url
from prm_lightning.modeling.metrics import fit_threshold
from prm_lightning.modeling.model_folder import MANIFEST, read_manifest
from prm_lightning.modeling.scored_steps import ScoredSolution, StepScores, to_step_scores
from prm_lightning.scoring.scorers import fingerprint, load_scorer, our_folder
from prm_lightning.sources.rewards import first_error
from prm_lightning.terminal import Bar
from prm_lightning.text import normalise_problem
from prm_lightning.types import ALL_CORRECT, Aggregation, ModelScorer, Scorer, Solution, Unscorable

TRAINING_PROBLEMS, HASH_DIGITS = "training_problems.json", 16
UNTRAINED, SURPRISAL = "untrained head", "surprisal"
BACKBONE = ("base_model", "revision", "quantize", "backbone", "template", "step_end")


@dataclass(frozen=True, slots=True)
class Scored:
    """A solution and what a model says of it."""

    solution: Solution  # with labels and weights settled, where it has any
    scores: tuple[float, ...]  # P(correct) of each step; none where the model cannot score it
    failure: str = ""  # why it cannot

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
            "steps": _texts(self.solution),
            "labels": self.labels,
            "scores": None if self.failure else list(self.scores),
            "first_error": self.first_error,
            **({"failure": self.failure} if self.failure else {}),
        }


class Threshold(NamedTuple):
    """Where steps are flagged: if P(correct) is below it."""

    threshold: float
    threshold_from: str  # names the data it was chosen on


class Choice(NamedTuple):
    """How one score of a solution is made."""

    aggregation: Aggregation
    aggregation_from: str  # who says so


@dataclass(frozen=True)
class Entry:
    """The scores of a model, of its untrained twin, or of a baseline."""

    name: str  # in tables
    kind: Kind
    scored: Sequence[Scored]  # the test data, in the order that every entry has
    threshold: Threshold | None = None  # that was fitted; 0.5 is always reported
    choice: Choice | None = None
    validation: Sequence[Scored] = ()

    @property
    def thresholds(self) -> list[Threshold]:
        """Those to report at."""
        return [Threshold(0.5, "fixed"), *([self.threshold] if self.threshold else [])]


def gather_steps(scored: Sequence[Scored]) -> StepScores:
    """Scored solutions as columns."""
    return to_step_scores(
        [
            ScoredSolution(s.scores, s.labels, s.first_error, s.solution.source, s.solution.problem)
            for s in scored
        ]
    )


def score_models(
    options: EvaluateOptions, test: Sequence[Solution], validation: Sequence[Solution]
) -> Iterator[Entry]:
    """Score the data with each model, with its untrained twin and its `Surprisal`.

    Models of one backbone share the latter two, which only models of ours have. What is scored is
    kept next to the output, in case the run is cut off.
    """
    folder, models = Path(options.output), options.models

    def score(scorer: ModelScorer, name: str, kind: Kind, mark: str) -> Entry:
        output = folder.with_name(f"{folder.name}.scores.{digest(mark)[:12]}")
        journal = ResumableRows(output, {"model": mark})
        scored = score_solutions(scorer, test, journal)
        choice = Choice(scorer.aggregation, "the default for this kind of model")
        return Entry(name, kind, scored, None, choice, score_solutions(scorer, validation, journal))

    marks = [fingerprint(model) for model in models]  # an unknown one is an error before the work
    known: set[str] = set()
    for model, mark in zip(models, marks, strict=True):
        scorer = load_scorer(model, trust_remote_code=options.trust_remote_code)
        entry = score(scorer, model, "model", mark)
        del scorer  # one backbone in memory is enough
        ours = folder_of_ours(model)
        if ours is None:
            yield entry
            continue
        manifest = read_manifest(ours)
        fitted_on = manifest.threshold_fitted_on
        yield replace(
            entry,
            threshold=None if fitted_on is None else Threshold(manifest.threshold, fitted_on),
            choice=Choice(manifest.aggregation, f"as {MANIFEST} of {model} says"),
        )
        if is_url(model) or options.baselines == "cheap":
            continue
        record = manifest.to_json()
        bare = [record[name] for name in BACKBONE]  # what decides how the bare backbone reads
        keys = {
            UNTRAINED: [UNTRAINED, options.seed, record["head"], *bare],
            SURPRISAL: [SURPRISAL, *bare],
        }
        wanted = {name: key for name in keys if (key := json.dumps(keys[name])) not in known}
        known.update(wanted.values())
        if wanted:
            twin = untrained_twin(ours, options.seed, trust_remote_code=options.trust_remote_code)
            twins: dict[str, ModelScorer] = {UNTRAINED: twin, SURPRISAL: Surprisal(twin)}
            for name, key in wanted.items():
                yield score(twins[name], f"{model}, {name}", "untrained", key)


def folder_of_ours(model: str) -> Path | None:
    """The folder of a model of ours, or the one that a server's URL names after ``#``."""
    return our_folder(urldefrag(model)[1] if is_url(model) else model)


def count_known_problems(model: str, solutions: Sequence[Solution]) -> int | None:
    """How many problems of the solutions a model was trained on; None if it does not say.

    A model folder says so in ``training_problems.json``, as hashes of normalised problems.
    """
    folder = folder_of_ours(model)
    file = folder and folder / TRAINING_PROBLEMS
    if not file or not file.is_file():
        return None
    known = set(json.loads(file.read_text(encoding="utf-8"))["problems"])
    problems = {normalise_problem(solution.problem) for solution in solutions}
    return sum(digest(problem)[:HASH_DIGITS] in known for problem in problems)


def fit_on(scored: Sequence[Scored], name: str) -> Threshold:
    """The threshold with the highest ProcessBench F1 on validation data of some name.

    Raises:
        ValueError: right or wrong solutions are missing, so that none is better than another.
    """
    scored = [item for item in scored if not item.failure]
    errors = [item.first_error for item in scored]
    if ALL_CORRECT not in errors or max(errors) < 0:
        kind = "wrong" if ALL_CORRECT in errors else "right"
        raise ValueError(
            f"evaluate: no threshold can be fitted on {name}, which has no {kind} solutions; "
            "give --fit_on data with right and wrong ones."
        )
    return Threshold(fit_threshold(gather_steps(scored)), name)


def score_solutions(
    scorer: Scorer, solutions: Sequence[Solution], journal: ResumableRows
) -> list[Scored]:
    """Score every solution once, those of one problem together; in the order given.

    Args:
        scorer: any process reward model. For a solution that it cannot score, such as one beyond
            its context, it raises `Unscorable`; the others are scored anyway.
        solutions: each with at least one step.
        journal: keeps scores as they come; what it holds is not scored again.

    Raises:
        ValueError: the scorer gives another number of scores than there are steps, or one that is
            no probability. A failure is never taken for a score.
    """
    known = {row["key"]: tuple(row["scores"]) for row in journal.begin()}
    done: dict[int, Scored] = {}
    groups: dict[str, list[int]] = {}
    for i, solution in enumerate(solutions):
        if (key := _key(solution)) in known:
            done[i] = Scored(solution, known[key])
        else:
            groups.setdefault(solution.problem, []).append(i)
    todo = [[solutions[i] for i in group] for group in groups.values()]
    with Bar(f"scoring by {scorer.name}", len(solutions)) as bar:
        bar.show(len(done))
        for group, scored in zip(groups.values(), _score_groups(scorer, todo), strict=True):
            done.update(zip(group, scored, strict=True))
            kept = [item for item in scored if not item.failure]
            journal.append(*({"key": _key(s.solution), "scores": s.scores} for s in kept))
            bar.advance(len(group))
    return [done[i] for i in range(len(solutions))]


def _score_groups(scorer: Scorer, groups: Sequence[list[Solution]]) -> Iterator[list[Scored]]:
    """The solutions of each problem, scored; one by one around a solution that cannot be."""
    start = 0
    while start < len(groups):
        items = [(group[0].problem, [_texts(s) for s in group]) for group in groups[start:]]
        try:
            for rows in scorer.score_all(items):
                yield _checked(scorer.name, groups[start], rows)
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
    return _checked(scorer.name, [solution], rows)[0]


def _checked(
    name: str, solutions: Sequence[Solution], rows: Sequence[Sequence[float]]
) -> list[Scored]:
    """Solutions with their scores, of which there must be one per step, each a probability."""
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
            if not 0 <= score <= 1:  # true of NaN, too
                raise ValueError(
                    f"evaluate: {name} gave step {number} of solution {solution.id!r} the score "
                    f"{score}, expected a probability in [0, 1]; a broken head or precision."
                )
    return [Scored(s, tuple(map(float, row))) for s, row in zip(solutions, rows, strict=True)]


def _texts(solution: Solution) -> list[str]:
    return [step.text for step in solution.steps]


def _key(solution: Solution) -> str:
    return digest(json.dumps([solution.problem, *_texts(solution)]))
