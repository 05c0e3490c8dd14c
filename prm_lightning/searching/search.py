"""Search for the solution of a problem: many are written, a process reward model steers or chooses.

Pure functions of a problem, a `Generator`, a `Scorer` and settings. With a generator and a scorer
that repeat themselves, so do they: equal scores are decided by which came first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from prm_lightning.answers import answer_key, extract_answer, stated_answer
from prm_lightning.modeling.aggregate import aggregate
from prm_lightning.scoring.score import score_each
from prm_lightning.searching.beams import BudgetedWriter, Ended, StepwiseScorer, Tree, grow
from prm_lightning.searching.beams import Candidate as Candidate
from prm_lightning.text import split_steps
from prm_lightning.types import Aggregation, Generator, Sampling, Scorer

Method = Literal["best_of_n", "weighted_majority", "beam", "dvts"]

TIE = 1e-9  # weights that differ by less, relatively, are equal
_COMPLETE = ("end", "answer", "blank")  # the rest was cut: its last number is whatever came last


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

    def count_trees(self) -> int:
        """How many trees of `width` places hold `n`; a ValueError if `width` does not divide it."""
        if self.n % self.width:
            raise ValueError(
                f"search: n={self.n} is not divisible by width={self.width}, as beam and dvts need "
                "it; take a multiple."
            )
        return self.n // self.width


DEFAULTS = SearchSettings()


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found.

    Args:
        candidates: the final ones first, at most n, in the order in which they were finished; then
            those that were dropped.
        chosen: index of the candidate that is the result; None if no final one has a score.
        tokens: generated in all, each counted once.
    """

    candidates: tuple[Candidate, ...]
    chosen: int | None
    tokens: int

    @property
    def answer(self) -> str | None:
        """Of the chosen candidate; None without one."""
        return None if self.chosen is None else self.candidates[self.chosen].answer

    @property
    def finals(self) -> tuple[Candidate, ...]:
        """The candidates that may be chosen."""
        return tuple(candidate for candidate in self.candidates if candidate.is_final)


def best_of_n(
    problem: str, generator: Generator, scorer: Scorer, settings: SearchSettings = DEFAULTS
) -> SearchResult:
    """Write n solutions and choose the one with the highest score.

    One that gives an answer comes before any that gives none; of equal scores the first is taken.
    Solutions are divided by `split_steps`, and all are scored in one call. Of the settings `n`,
    sampling, token budget and aggregation count.

    Source: Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems", arXiv:2110.14168;
    with step scores Lightman et al. 2023, arXiv:2305.20050.

    Raises:
        ValueError: of the generator or the scorer, but `Unscorable` solutions get no score.
        OSError: of the generator or the scorer.
    """
    return _sampled(problem, generator, scorer, settings, choose_best)


def weighted_majority(
    problem: str, generator: Generator, scorer: Scorer, settings: SearchSettings = DEFAULTS
) -> SearchResult:
    """Write n solutions and choose the answer whose solutions have the highest sum of scores.

    The chosen candidate is the best of those with that answer. Arguments and errors are those of
    `best_of_n`.

    Source: Li et al. 2023, "DiVeRSe", arXiv:2206.02336.
    """
    return _sampled(problem, generator, scorer, settings, choose_weighted)


def beam_search(
    problem: str,
    generator: Generator,
    scorer: Scorer | StepwiseScorer,
    settings: SearchSettings = DEFAULTS,
) -> SearchResult:
    """Write n solutions step by step, and continue the best n / width of them each time.

    Each round fills n places: solutions that are finished keep theirs, the others are given to
    `width` continuations each of the best unfinished ones. Unfinished ones with the same steps are
    one, so that copies do not fill the beam; finished ones may be equal, as samples may. The search
    ends when all places are finished, or with the steps or the budget. The highest score is chosen,
    as by `best_of_n`.

    A step is what is written up to a separator. A solution is finished when the generator ends it
    or a step states the final answer (`stated_answer`). An `IncrementalScorer` reads each step
    once; any other scorer reads whole solutions again after every step, with the same result.

    Source: Snell et al. 2024, arXiv:2408.03314, section 5.1; Beeching et al. 2024, "Scaling
    test-time compute with open models", Hugging Face.

    Raises:
        ValueError: `width` does not divide `n`; otherwise as `best_of_n`.
        OSError: as `best_of_n`.
    """
    settings.count_trees()
    return _guided(problem, generator, scorer, settings, [settings.n])


def diverse_beam_search(
    problem: str,
    generator: Generator,
    scorer: Scorer | StepwiseScorer,
    settings: SearchSettings = DEFAULTS,
) -> SearchResult:
    """Diverse verifier tree search: n / width separate beam searches of `width` places each.

    Each of them continues its best solution alone, so that no early favourite of the scorer
    takes all places. Arguments and errors are those of `beam_search`.

    Source: Beeching et al. 2024, "Scaling test-time compute with open models", Hugging Face: N / M
    independent subtrees of width M.
    """
    return _guided(problem, generator, scorer, settings, [settings.width] * settings.count_trees())


METHODS: dict[Method, Callable[[str, Generator, Any, SearchSettings], SearchResult]] = {
    "best_of_n": best_of_n,
    "weighted_majority": weighted_majority,
    "beam": beam_search,
    "dvts": diverse_beam_search,
}


def _sampled(
    problem: str,
    generator: Generator,
    scorer: Scorer,
    settings: SearchSettings,
    choose: Callable[[Sequence[Candidate]], int | None],
) -> SearchResult:
    """Up to n scored solutions, one of them chosen."""
    how = _aggregation(settings, scorer)
    writer = BudgetedWriter(generator, problem, settings.sampling, settings.token_budget)
    written = writer.write([""] * settings.n)
    divided = [tuple(split_steps(one.text)) for one in written]
    solutions = [steps for steps in divided if steps]
    scored = iter(score_each(lambda some: scorer.score(problem, some), solutions))
    candidates = []
    for one, steps in zip(written, divided, strict=True):
        result = next(scored) if steps else []
        scores, note = ((), result) if isinstance(result, str) else (tuple(result), "")
        total = aggregate(scores, how) if scores else None
        ended: Ended = "end" if steps else "blank"
        if one.ended in ("length", "budget"):
            ended = one.ended
        whole = Candidate(one.text, steps, scores, total, None, one.tokens, ended, note)
        candidates.append(_finished(whole))
    return SearchResult(tuple(candidates), choose(candidates), writer.tokens)


def _guided(
    problem: str,
    generator: Generator,
    scorer: Scorer | StepwiseScorer,
    settings: SearchSettings,
    places: Sequence[int],
) -> SearchResult:
    """Beam search in separate trees of so many places at once."""
    how = _aggregation(settings, scorer)
    writer = BudgetedWriter(generator, problem, settings.sampling, settings.token_budget)
    root = Candidate(state=scorer.start(problem) if isinstance(scorer, StepwiseScorer) else None)
    trees = [Tree(number, [root]) for number in places]
    for _ in range(settings.steps):
        if writer.left <= 0:  # nothing is pruned for continuations that will not come
            break
        plans = [tree.plan(settings.width) for tree in trees]
        parents = [one for plan in plans for one in plan]
        if not parents:
            break
        begun = [one.state for one in parents if one.steps]
        if begun and isinstance(scorer, StepwiseScorer):
            scorer.keep(begun)
        written = writer.write([one.text for one in parents], (settings.separator,))
        pairs = list(zip(parents, written, strict=False))
        children = grow(pairs, scorer, problem, settings.separator, how)
        for tree, plan in zip(trees, plans, strict=True):
            tree.take(plan, children[: len(plan)])
            children = children[len(plan) :]
    why: Ended = "steps" if writer.left > 0 else "budget"
    finals: list[Candidate] = []
    for tree in trees:
        cut = [replace(one, ended=why) for one in tree.open if one.tokens]  # not the root
        finals += tree.finished + cut
    found = finals + [one for tree in trees for one in tree.dropped]
    candidates = tuple(map(_finished, found))
    return SearchResult(candidates, choose_best(candidates), writer.tokens)


def _finished(candidate: Candidate) -> Candidate:
    """With its answer, and without what only continuing it needs."""
    answer = stated_answer(candidate.text)
    if answer is None and candidate.ended in _COMPLETE:
        answer = extract_answer(candidate.text)
    return replace(candidate, answer=answer, state=None)


def _aggregation(settings: SearchSettings, scorer: Any) -> Aggregation:
    own: Aggregation = getattr(scorer, "aggregation", "min")
    return settings.aggregation or own


def choose_best(candidates: Sequence[Candidate]) -> int | None:
    """The index of the final candidate with the highest score; None if none has a score.

    Those with an answer come before those without. Of equal scores the first is taken.
    """
    finals = [i for i, candidate in enumerate(candidates) if candidate.is_final]
    best = _best(candidates, (i for i in finals if candidates[i].answer is not None))
    return _best(candidates, finals) if best is None else best


def choose_weighted(candidates: Sequence[Candidate]) -> int | None:
    """The index of the best candidate of the answer with the highest sum of scores.

    Of equal sums the answer that was given first is taken; without any answer the best candidate.
    None if no final candidate has a score.
    """
    voters = _voters(candidates, [candidate.score for candidate in candidates])
    return _best(candidates, voters) if voters else choose_best(candidates)


def choose_majority(candidates: Sequence[Candidate]) -> int | None:
    """The index of the first candidate of the answer that most of the final ones give.

    Scores do not count. Of equally frequent answers the one that was given first is taken. None if
    there is no answer.
    """
    return next(iter(_voters(candidates, [1.0] * len(candidates))), None)


def group_answers(answers: Sequence[str | None]) -> list[int]:
    """Number answers so that those of one `answers.answer_key` have one number, from 0 in order.

    None and a blank answer have the number -1.

    Examples:
        >>> group_answers(["18", "20", "$18.00", None])
        [0, 1, 0, -1]
    """
    keys = [answer_key(answer) for answer in answers]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(filter(None, keys)))}
    return [-1 if key is None else numbers[key] for key in keys]


def vote(groups: Sequence[int], weights: Sequence[float | None]) -> int | None:
    """The group with the greatest sum of weights; of equal ones the one that comes first.

    Weights of 1 are a majority vote (Wang et al. 2023, "Self-consistency", arXiv:2203.11171), the
    scores of a reward model a weighted one (Li et al. 2023, "DiVeRSe", arXiv:2206.02336).

    Args:
        groups: of each sample, as from `group_answers`; -1 has no vote.
        weights: of each sample, >= 0; None has no vote.

    Returns:
        A group, or None if there is no vote.

    Examples:
        >>> vote([0, 1, 0, -1], [0.5, 0.75, 0.5, 1.0])
        0
    """
    votes: dict[int, list[float]] = {}
    for group, weight in zip(groups, weights, strict=True):
        if group >= 0 and weight is not None:
            votes.setdefault(group, []).append(weight)
    sums = {group: math.fsum(given) for group, given in votes.items()}
    most = max(sums.values(), default=0.0)
    return next((group for group, total in sums.items() if total >= most * (1 - TIE)), None)


def _voters(candidates: Sequence[Candidate], weights: Sequence[float | None]) -> list[int]:
    """Who votes for the answer that wins; empty without any vote."""
    groups = group_answers([c.answer if c.is_final else None for c in candidates])
    won = vote(groups, weights)
    return [i for i, group in enumerate(groups) if won is not None and group == won]


def _best(candidates: Sequence[Candidate], among: Iterable[int]) -> int | None:
    """The first index with the highest score; None if none has one."""
    scored = {i: score for i in among if (score := candidates[i].score) is not None}
    return max(scored, key=lambda i: scored[i]) if scored else None  # `max` takes the first
