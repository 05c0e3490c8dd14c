"""Search for the solution of a problem: many are written, a process reward model steers or chooses.

Pure functions of a problem, a `Generator`, a `Scorer` and settings. With a generator and a scorer
that repeat themselves, so do they: equal scores are decided by which came first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from prm_lightning.answers import extract_answer, stated_answer
from prm_lightning.modeling.aggregate import aggregate
from prm_lightning.scoring.score import score_each
from prm_lightning.searching.growing import (
    Beam,
    BudgetedWriter,
    Continuation,
    StepwiseScorer,
    add_steps,
)
from prm_lightning.searching.results import (
    Candidate,
    Ended,
    SearchResult,
    choose_best,
    choose_weighted,
)
from prm_lightning.text import split_steps
from prm_lightning.types import Aggregation, Generator, Sampling, Scorer

Method = Literal["best_of_n", "weighted_majority", "beam", "dvts"]

_COMPLETE = ("end", "answer", "blank")  # the rest was cut: its last number is whatever came last
# A title such as "#### Step 2: the cost" is not GSM8K's "#### 18", which states an answer.
_TITLE = re.compile(r"#+ *[^\n]*(?<![\\a-zA-Z])[a-zA-Z]{3}[^\n]*")


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How to search.

    Args:
        n: solutions that are to be found, >= 1.
        width: M, continuations of each solution that is continued, >= 1; divides `n`. Only of
            `beam` and `dvts`, as are `steps` and `separator`.
        steps: most steps of a solution, >= 1.
        sampling: how to write; its `n` and `stop` are not read. `max_tokens` bounds what is written
            at once: a solution, or a step of `beam` and `dvts`.
        separator: ends a step.
        token_budget: tokens that may be generated for a problem, >= 1; None for any number.
        aggregation: makes one score of those of the steps; None takes the scorer's own, or `min` of
            one that has none.

    Raises:
        ValueError: a setting is out of range.
    """

    n: int = 16
    width: int = 4
    steps: int = 40
    sampling: Sampling = Sampling()  # noqa: RUF009
    separator: str = "\n\n"
    token_budget: int | None = None
    aggregation: Aggregation | None = None

    def __post_init__(self) -> None:
        budget = 1 if self.token_budget is None else self.token_budget
        if min(self.n, self.width, self.steps, budget) < 1 or not self.separator:
            raise ValueError(
                f"search: got n={self.n}, width={self.width}, steps={self.steps}, separator="
                f"{self.separator!r}, token_budget={self.token_budget}; expected 1 or more of each "
                "and a separator that is not empty."
            )


def best_of_n(
    problem: str,
    generator: Generator,
    scorer: Scorer,
    settings: SearchSettings = SearchSettings(),
) -> SearchResult:
    """Write n solutions and choose the one with the highest score.

    One that gives an answer comes before any that gives none; of equal scores the first is taken.
    Solutions are divided by `split_steps`.

    Source: Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems", arXiv:2110.14168;
    with step scores Lightman et al. 2023, arXiv:2305.20050.

    Args:
        problem: the question.
        generator: what writes solutions.
        scorer: any; all solutions are scored in one call.
        settings: n, sampling, token budget and aggregation count here.

    Raises:
        ValueError: of the generator or the scorer, except for `Unscorable` solutions, which get no
            score.
        OSError: of the generator or the scorer.
    """
    candidates, tokens = _sample(problem, generator, scorer, settings)
    return SearchResult(candidates, choose_best(candidates), tokens)


def weighted_majority(
    problem: str,
    generator: Generator,
    scorer: Scorer,
    settings: SearchSettings = SearchSettings(),
) -> SearchResult:
    """Write n solutions and choose the answer whose solutions have the highest sum of scores.

    The chosen candidate is the best of those with that answer. Arguments and errors are those of
    `best_of_n`.

    Source: Li et al. 2023, "DiVeRSe", arXiv:2206.02336.
    """
    candidates, tokens = _sample(problem, generator, scorer, settings)
    return SearchResult(candidates, choose_weighted(candidates), tokens)


def beam_search(
    problem: str,
    generator: Generator,
    scorer: Scorer | StepwiseScorer,
    settings: SearchSettings = SearchSettings(),
) -> SearchResult:
    """Write n solutions step by step, and continue the best n / width of them each time.

    Each round fills n places: solutions that are finished keep theirs, the others are given to
    `width` continuations each of the best unfinished ones. Unfinished ones with the same steps are
    one, so that copies do not fill the beam; finished ones may be equal, as samples may. The search
    ends when all places are finished, or with the steps or the budget. The highest score is chosen,
    as by `best_of_n`.

    A step is what is written up to a separator. A solution is finished when the generator ends it
    or a step states the final answer (`stated_answer`).

    Source: Snell et al. 2024, arXiv:2408.03314, section 5.1; Beeching et al. 2024, "Scaling
    test-time compute with open models", Hugging Face.

    Args:
        problem: the question.
        generator: what writes solutions.
        scorer: an `IncrementalScorer` reads each step once; any other scorer reads whole solutions
            again after every step, with the same result.
        settings: all of them count here.

    Raises:
        ValueError: `width` does not divide `n`; otherwise as `best_of_n`.
        OSError: as `best_of_n`.
    """
    require_division(settings)
    return _guided(problem, generator, scorer, settings, [settings.n])


def diverse_beam_search(
    problem: str,
    generator: Generator,
    scorer: Scorer | StepwiseScorer,
    settings: SearchSettings = SearchSettings(),
) -> SearchResult:
    """Diverse verifier tree search: n / width separate beam searches of `width` places each.

    Each of them continues its best solution alone, so that no early favourite of the scorer
    takes all places. Arguments and errors are those of `beam_search`.

    Source: Beeching et al. 2024, "Scaling test-time compute with open models", Hugging Face: N / M
    independent subtrees of width M.
    """
    require_division(settings)
    trees = settings.n // settings.width
    return _guided(problem, generator, scorer, settings, [settings.width] * trees)


METHODS: dict[Method, Callable[[str, Generator, Any, SearchSettings], SearchResult]] = {
    "best_of_n": best_of_n,
    "weighted_majority": weighted_majority,
    "beam": beam_search,
    "dvts": diverse_beam_search,
}


def require_division(settings: SearchSettings) -> None:
    """Refuse settings that `beam_search` and `diverse_beam_search` cannot follow.

    Raises:
        ValueError: `width` does not divide `n`.
    """
    if settings.n % settings.width:
        raise ValueError(
            f"search: n={settings.n} is not divisible by width={settings.width}, as beam and dvts "
            "need it; take a multiple."
        )


def _sample(
    problem: str, generator: Generator, scorer: Scorer, settings: SearchSettings
) -> tuple[tuple[Candidate, ...], int]:
    """Up to n scored solutions, and the tokens they took."""
    writer = BudgetedWriter(generator, problem, settings.sampling, settings.token_budget)
    written = writer.write([""] * settings.n)
    divided = [tuple(split_steps(one.text)) for one in written]
    solutions = [steps for steps in divided if steps]
    found: list[list[float] | str] = score_each(lambda s: scorer.score(problem, s), solutions)
    scored = iter(found)
    how = _aggregation(settings, scorer)
    candidates = []
    for one, steps in zip(written, divided, strict=True):
        result = next(scored) if steps else []
        scores, refusal = (None, result) if isinstance(result, str) else (tuple(result), "")
        ended: Ended = "end" if steps else "blank"
        if one.ended in ("length", "budget"):
            ended = one.ended
        candidates.append(
            _candidate(Beam(one.text, steps, scores, one.tokens, ended, refusal), how)
        )
    return tuple(candidates), writer.tokens


@dataclass
class _Tree:
    """Beams that compete for some places."""

    places: int
    open: list[Beam]
    finished: list[Beam] = field(default_factory=list)
    dropped: list[Beam] = field(default_factory=list)

    def plan(self, width: int, score: Callable[[Beam], float | None]) -> list[Beam]:
        """The beams to continue, each as often as it gets a continuation; drops the others."""
        left = self.places - len(self.finished)
        if left <= 0 or not self.open:
            return []
        distinct: dict[tuple[str, ...], Beam] = {}
        for beam in self.open:
            if distinct.setdefault(beam.steps, beam) is not beam:
                self.dropped.append(replace(beam, ended="duplicate"))
        ranked = sorted(distinct.values(), key=lambda beam: -(score(beam) or 0.0))  # stable
        kept = ranked[: -(-left // width)]
        self.dropped += [replace(beam, ended="pruned") for beam in ranked[len(kept) :]]
        self.open = kept
        more, rest = divmod(left, len(kept))
        return [beam for i, beam in enumerate(kept) for _ in range(more + (i < rest))]

    def take(self, parents: Sequence[Beam], children: Sequence[Beam]) -> None:
        """Put children in the places of their parents; a parent without any stays."""
        with_children = {id(parent) for parent in parents[: len(children)]}
        childless = [beam for beam in self.open if id(beam) not in with_children]
        self.finished += [child for child in children if child.ended]
        self.open = [child for child in children if not child.ended] + childless


def _guided(
    problem: str,
    generator: Generator,
    scorer: Scorer | StepwiseScorer,
    settings: SearchSettings,
    places: Sequence[int],
) -> SearchResult:
    """Beam search in some separate trees at once."""
    how = _aggregation(settings, scorer)
    writer = BudgetedWriter(generator, problem, settings.sampling, settings.token_budget)
    root = Beam(state=scorer.start(problem) if isinstance(scorer, StepwiseScorer) else None)
    trees = [_Tree(number, [root]) for number in places]
    for _ in range(settings.steps):
        if writer.spent:  # nothing is pruned for continuations that will not come
            break
        plans = [tree.plan(settings.width, lambda beam: _score(beam, how)) for tree in trees]
        parents = [beam for plan in plans for beam in plan]
        if not parents:
            break
        begun = [beam.state for beam in parents if beam.steps]
        if begun and isinstance(scorer, StepwiseScorer):
            scorer.keep(begun)
        written = writer.write([beam.text for beam in parents], (settings.separator,))
        pairs = list(zip(parents, written, strict=False))
        children = _grow(pairs, scorer, problem, settings.separator)
        start = 0
        for tree, plan in zip(trees, plans, strict=True):
            tree.take(plan, children[start : start + len(plan)])
            start += len(plan)
    return _result(trees, writer, how)


def _grow(
    written: Sequence[tuple[Beam, Continuation]],
    scorer: Scorer | StepwiseScorer,
    problem: str,
    separator: str,
) -> list[Beam]:
    """The beams with what was written after them, scored."""
    steps = [one.text.strip() for _, one in written]
    new = [(beam, step) for (beam, _), step in zip(written, steps, strict=True) if step]
    scored = iter(add_steps(scorer, problem, new))
    grown = []
    for (beam, one), step in zip(written, steps, strict=True):
        longer = next(scored) if step else beam
        ended = _why_ended(one, step, has_steps=bool(beam.steps))
        if ended is None and longer.scores is None:
            ended = "unscorable"
        text = beam.text + one.text + ("" if ended else separator)
        grown.append(replace(longer, text=text, tokens=beam.tokens + one.tokens, ended=ended))
    return grown


def _why_ended(one: Continuation, step: str, *, has_steps: bool) -> Ended | None:
    """Why a solution ends with this step; None if it can be continued."""
    if one.ended in ("length", "budget"):
        return one.ended
    if not step:
        return "end" if has_steps and one.ended == "end" else "blank"
    if one.ended == "end":
        return "end"
    title = _TITLE.fullmatch(step)
    return None if stated_answer(step.lstrip("#") if title else step) is None else "answer"


def _result(trees: Sequence[_Tree], writer: BudgetedWriter, how: Aggregation) -> SearchResult:
    why: Ended = "budget" if writer.spent else "steps"
    finals: list[Beam] = []
    dropped: list[Beam] = []
    for tree in trees:
        cut = [replace(beam, ended=why) for beam in tree.open if beam.tokens]  # not the root
        finals += tree.finished + cut
        dropped += tree.dropped
    candidates = tuple(_candidate(beam, how) for beam in (*finals, *dropped))
    return SearchResult(candidates, choose_best(candidates), writer.tokens)


def _candidate(beam: Beam, how: Aggregation) -> Candidate:
    assert beam.ended is not None
    answer = stated_answer(beam.text)
    if answer is None and beam.ended in _COMPLETE:
        answer = extract_answer(beam.text)
    return Candidate(
        beam.text,
        beam.steps,
        beam.scores or (),
        _score(beam, how),
        answer,
        beam.tokens,
        beam.ended,
        beam.refusal,
    )


def _score(beam: Beam, how: Aggregation) -> float | None:
    return aggregate(beam.scores, how) if beam.scores else None


def _aggregation(settings: SearchSettings, scorer: Any) -> Aggregation:
    own: Aggregation = getattr(scorer, "aggregation", "min")
    return settings.aggregation or own
