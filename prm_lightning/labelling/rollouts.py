"""Judge a step by what a generator makes of the solution up to it."""

from __future__ import annotations

from collections.abc import Generator as Coroutine
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from prm_lightning.answers import same_answer, stated_answer
from prm_lightning.labelling.problems import answer_of
from prm_lightning.types import (
    Completion,
    Generator,
    Judgement,
    JudgeRequest,
    Prompt,
    Sampling,
    Verdict,
)

RolloutLabels = Literal["hard", "soft"]
RolloutSearch = Literal["every", "binary"]

NO_ANSWER = "no reference answer"
NEVER_SOLVED = "never solved"

# Yields how many steps to continue from, any number of them at a time, 0 for the bare problem;
# receives the share of continuations that reached the answer for each; returns the judgement.
_Plan = Coroutine[Sequence[int], Sequence[float], Judgement]


@dataclass(frozen=True)
class RolloutJudge:
    """Monte Carlo rollouts: a step is right if the answer can be reached from behind it.

    From each prefix of a solution the generator writes `k` endings; the share that states the
    reference answer estimates the prefix. Verdict: correct if any did. Label: ``hard`` 1 if any
    did, else 0; ``soft`` the share (Wang et al. 2024, "Math-Shepherd", arXiv:2312.08935). A whole
    solution that states an answer is not gone on with: its share is 1 or 0. This measures how
    promising a prefix is rather than whether it is right (Zhang et al. 2025, arXiv:2501.07301), so
    take problems that the generator solves sometimes, or agreement with another judge.

    The search ``every`` asks for all prefixes, ``k * steps`` endings. ``binary`` looks for the
    first step behind which no ending succeeds by halving, with about ``k * log2(steps)`` endings
    (Luo et al. 2024, "OmegaPRM", arXiv:2406.06592); it takes for granted that what cannot be
    rescued stays so. Steps before that one are correct, with hard label 1 and a soft label where
    their share was measured; those behind it get neither verdict nor label.

    A first step behind which nothing succeeds is compared with the problem alone: where that is
    never solved either, the outcome is ``never solved`` and nothing is labelled. A request without
    a reference answer has the outcome ``no reference answer``.

    Args:
        generator: what writes the endings.
        k: endings of each prefix, >= 1.
        labels: `hard` or `soft`.
        search: `every` or `binary`.
        sampling: how the generator samples; its `n` is replaced by `k`.
        separator: stands behind each step of a prefix.
        at_once: solutions judged side by side, whose prompts share a call to the generator.

    Raises:
        ValueError: `k` or `at_once` is below 1.
    """

    generator: Generator
    k: int = 8
    labels: RolloutLabels = "hard"
    search: RolloutSearch = "every"
    sampling: Sampling = Sampling()  # noqa: RUF009
    separator: str = "\n"
    at_once: int = 16

    def __post_init__(self) -> None:
        if self.k < 1 or self.at_once < 1:
            raise ValueError(
                f"rollouts: got k={self.k} and at_once={self.at_once}, expected 1 or more of both."
            )

    @property
    def name(self) -> str:
        """Such as ``rollouts of qwen, k=8, hard, binary``."""
        return f"rollouts of {self.generator.name}, k={self.k}, {self.labels}, {self.search}"

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[Judgement]:
        """One judgement a request, in order; `at_once` of them are worked on side by side."""
        pending = iter(requests)
        while chunk := list(islice(pending, self.at_once)):
            yield from self._judge_together(chunk)

    def _judge_together(self, requests: list[JudgeRequest]) -> list[Judgement]:
        judged: dict[int, Judgement] = {}
        plans: dict[int, _Plan] = {}
        wanted: dict[int, Sequence[int]] = {}
        for i, request in enumerate(requests):
            if request.answer is None:
                judged[i] = Judgement(NO_ANSWER)
            else:
                search = _every if self.search == "every" else _halving
                plans[i] = search(len(request.steps), self.labels)
                wanted[i] = next(plans[i])
        while wanted:
            shares = self._shares([(requests[i], w) for i, w in wanted.items()])
            asked, wanted = list(wanted), {}
            for i, found in zip(asked, shares, strict=True):
                try:
                    wanted[i] = plans[i].send(found)
                except StopIteration as done:
                    judged[i] = done.value
        return [judged[i] for i in range(len(requests))]

    def _shares(self, asked: list[tuple[JudgeRequest, Sequence[int]]]) -> list[list[float]]:
        """For each request, the share of each of some prefixes; one call to the generator."""
        prefixes = [(request, length) for request, lengths in asked for length in lengths]
        settled = [_settled(request, length) for request, length in prefixes]
        prompts = [
            Prompt(request.problem, self._begun(request, length))
            for (request, length), share in zip(prefixes, settled, strict=True)
            if share is None
        ]
        sampling = replace(self.sampling, n=self.k)
        endings = iter(self.generator.generate(prompts, sampling) if prompts else ())
        shares = iter(
            [
                self._share(request, length, next(endings)) if share is None else share
                for (request, length), share in zip(prefixes, settled, strict=True)
            ]
        )
        return [[next(shares) for _ in lengths] for _, lengths in asked]

    def _share(self, request: JudgeRequest, length: int, endings: list[Completion]) -> float:
        begun = self._begun(request, length)
        right = sum(same_answer(request.answer, answer_of(ending, begun)) for ending in endings)
        return right / len(endings)

    def _begun(self, request: JudgeRequest, length: int) -> str:
        return "".join(step + self.separator for step in request.steps[:length])


def _settled(request: JudgeRequest, length: int) -> float | None:
    """The share of a whole solution that states an answer; None for what has to be gone on with."""
    if length < len(request.steps):
        return None
    answer = stated_answer("\n".join(request.steps))
    return None if answer is None else float(same_answer(request.answer, answer))


def _every(steps: int, labels: RolloutLabels) -> _Plan:
    shares = yield range(1, steps + 1)
    if not any(shares):
        (unaided,) = yield (0,)
        if not unaided:
            return Judgement(NEVER_SOLVED)
    return _judgement(dict(enumerate(shares, start=1)), steps, steps, labels)


def _halving(steps: int, labels: RolloutLabels) -> _Plan:
    measured: dict[int, float] = {}
    good, bad = 0, steps + 1  # the answer is reached from behind `good` steps, not behind `bad`
    ask = steps  # the whole solution first: if that is right, nothing else is asked
    while bad - good > 1:
        (measured[ask],) = yield (ask,)
        good, bad = (ask, bad) if measured[ask] else (good, ask)
        ask = (good + bad) // 2
    if bad == 1:
        (unaided,) = yield (0,)
        if not unaided:
            return Judgement(NEVER_SOLVED)
    return _judgement(measured, min(bad, steps), steps, labels)


def _judgement(
    measured: dict[int, float], known: int, steps: int, labels: RolloutLabels
) -> Judgement:
    """Verdicts and labels of the first `known` steps; those not measured among them are correct.

    Args:
        measured: the share behind each number of steps that was asked for.
        known: how many steps something can be said of.
        steps: of the solution.
        labels: `hard` or `soft`.
    """
    verdicts: list[Verdict | None] = [None] * steps
    values: list[float | None] = [None] * steps
    reasons = [""] * steps
    for i in range(known):
        share = measured.get(i + 1)
        verdicts[i] = "incorrect" if share == 0 else "correct"
        values[i] = share if labels == "soft" else float(share != 0)
        if share is not None:
            reasons[i] = f"{share:.0%} of the endings reach the answer"
    return Judgement("judged", tuple(verdicts), tuple(reasons), tuple(values))
