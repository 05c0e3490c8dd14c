"""Who says of each step whether it is correct: Claude, rollouts, both of them, or arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from prm_lightning.answers import extract_answer, same_answer, stated_answer
from prm_lightning.labelling.ask import Asker
from prm_lightning.labelling.batches import Mode, ask
from prm_lightning.labelling.prompts import JUDGED, Request, judge_request
from prm_lightning.labelling.solutions import UNANSWERABLE, answer_of, complete, sound
from prm_lightning.quantities import failed_equations
from prm_lightning.sources.rewards import first_error
from prm_lightning.types import (
    UNKNOWN,
    Generator,
    Judge,
    Judgement,
    JudgeRequest,
    Prompt,
    Sampling,
    Solution,
    Step,
    Verdict,
)

RolloutLabels = Literal["hard", "soft"]
RolloutSearch = Literal["every", "binary"]
NO_ANSWER = Judgement("no reference answer")


@dataclass(frozen=True, slots=True)
class ClaudeJudge:
    """Claude, one request a solution. What the journal knows is not asked again."""

    asker: Asker
    settings: str  # from `judge_settings`
    name: str  # the model's name in these
    mode: Mode

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[Judgement]:
        """One judgement a request, in order; all of them are asked before the first is yielded.

        Raises:
            UnfinishedError: before all was answered.
        """
        self.ask_all(requests)
        for request in self.requests(requests):
            answer = self.asker.outcome(request)
            if answer.outcome == JUDGED:
                reasons = tuple(map(sound, answer.value["reasons"]))
                yield Judgement(JUDGED, tuple(answer.value["verdicts"]), reasons)
            else:
                yield Judgement(answer.outcome)

    def ask_all(self, requests: Sequence[JudgeRequest]) -> None:
        """Get an answer for every request; `judge` of any of them then asks nothing."""
        ask(self.asker, lambda: self.requests(requests), self.mode)

    def requests(self, requests: Iterable[JudgeRequest]) -> Iterator[Request]:
        """What Claude is asked about some solutions."""
        return (judge_request(self.settings, request) for request in requests)


@dataclass(frozen=True, slots=True)
class EquationsJudge:
    """Arithmetic alone, as the data set gsm8k-gen-stepwise is labelled: free, and no model.

    Steps are correct up to the first with an equation that fails, which is incorrect; of those
    after it nothing is said. Where no equation fails and the final answer is right, all steps are
    correct. Where none fails and the final answer is wrong, the error is somewhere else, and the
    outcome is ``unexplained``; without a reference answer it is ``no reference answer``.
    """

    name: str = "equations"

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[Judgement]:
        """One judgement a request, in order."""
        return map(_by_equations, requests)


def _by_equations(request: JudgeRequest) -> Judgement:
    verdicts: list[Verdict | None] = ["correct"] * len(request.steps)
    reasons = [""] * len(request.steps)
    for i, step in enumerate(request.steps):
        if failed := failed_equations(step):
            verdicts[i:] = ["incorrect", *[None] * (len(request.steps) - i - 1)]
            reasons[i] = f"{failed[0]} is false"
            return Judgement(JUDGED, tuple(verdicts), tuple(reasons))
    is_right = request.is_correct
    if is_right is None and request.answer is None:
        return NO_ANSWER
    if is_right is None:
        is_right = same_answer(extract_answer("\n".join(request.steps)), request.answer)
    if not is_right:
        return Judgement("unexplained")
    return Judgement(JUDGED, tuple(verdicts), tuple(reasons))


@dataclass(frozen=True)
class AgreementJudge:
    """Two judges, of whom the first is believed where both name the same first error.

    "All steps are correct" counts as naming one. Such agreement of rollouts with a model that
    judges keeps some 40 % of solutions and makes better training data than either (Zhang et al.
    2025, arXiv:2501.07301). Outcomes: ``judged``, with what the first judge said; ``disagreement``;
    ``unsettled`` where a judge is unsure, or silent, of a step before naming a wrong one; else the
    outcome of the first of the two that could not judge.
    """

    first: Judge
    second: Judge

    @property
    def name(self) -> str:
        """Both names."""
        return f"agreement of {self.first.name} and {self.second.name}"

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[Judgement]:
        """One judgement a request, in order."""
        pairs = zip(self.first.judge(requests), self.second.judge(requests), strict=True)
        return (_agreed(first, second) for first, second in pairs)


def _agreed(first: Judgement, second: Judgement) -> Judgement:
    for judgement in (first, second):
        if judgement.outcome != JUDGED:
            return Judgement(judgement.outcome)
    errors = [
        first_error(Solution("", tuple(Step("", verdict=v) for v in said.verdicts), source=""))
        for said in (first, second)
    ]
    if UNKNOWN in errors:
        return Judgement("unsettled")
    return first if errors[0] == errors[1] else Judgement("disagreement")


@dataclass(frozen=True)
class RolloutJudge:
    """Monte Carlo rollouts: a step is right if the answer can be reached from after it.

    From each prefix of a solution the generator writes `k` endings; the share that states the
    reference answer estimates the prefix. Verdict: correct if any did. Label: ``hard`` 1 if any
    did, else 0; ``soft`` the share (Wang et al. 2024, "Math-Shepherd", arXiv:2312.08935). A whole
    solution that states an answer is not continued: its share is 1 or 0. This measures how
    promising a prefix is rather than whether it is right (Zhang et al. 2025, arXiv:2501.07301).

    The search ``every`` asks for all prefixes, ``k * steps`` endings. ``binary`` looks for the
    first step after which no ending succeeds by halving, with about ``k * log2(steps)`` endings
    (Luo et al. 2024, "OmegaPRM", arXiv:2406.06592); it takes for granted that what cannot be
    rescued stays so. Steps before that one are correct, with hard label 1 and a soft label where
    their share was measured; those after it get neither verdict nor label.

    A first step after which nothing succeeds is compared with the problem alone: where that is
    never solved either, the outcome is ``never solved`` and nothing is labelled. A request without
    a reference answer has the outcome ``no reference answer``, one of which the generator refuses a
    prefix, as too long, ``unanswerable``.
    """

    generator: Generator
    k: int = 8
    labels: RolloutLabels = "hard"
    search: RolloutSearch = "every"
    sampling: Sampling = Sampling()  # noqa: RUF009  (its `n` is replaced by `k`)

    @property
    def name(self) -> str:
        """Such as ``rollouts of qwen, k=8, hard, binary``."""
        return f"rollouts of {self.generator.name}, k={self.k}, {self.labels}, {self.search}"

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[Judgement]:
        """One judgement a request, in order; all of them are worked on together."""
        shares = [_stated_shares(request) for request in requests]
        refused: set[int] = set()
        while prefixes := [
            (i, length)
            for i, request in enumerate(requests)
            if request.answer is not None and i not in refused
            for length in _wanted(self.search, len(request.steps), shares[i])
        ]:
            measured = self._measure([(requests[i], length) for i, length in prefixes])
            for (i, length), share in zip(prefixes, measured, strict=True):
                if share is None:
                    refused.add(i)
                else:
                    shares[i][length] = share
        for i, request in enumerate(requests):
            yield Judgement(UNANSWERABLE) if i in refused else self._judgement(request, shares[i])

    def _measure(self, prefixes: list[tuple[JudgeRequest, int]]) -> list[float | None]:
        """The share of endings that reach the answer, from some prefixes; None of one refused."""
        prompts = [
            Prompt(request.problem, "".join(f"{step}\n" for step in request.steps[:length]))
            for request, length in prefixes
        ]
        endings = complete(self.generator, prompts, replace(self.sampling, n=self.k))
        shares: list[float | None] = []
        for (request, _), prompt, written in zip(prefixes, prompts, endings, strict=True):
            right = [same_answer(request.answer, answer_of(e, prompt.begun)) for e in written or ()]
            shares.append(sum(right) / self.k if written else None)
        return shares

    def _judgement(self, request: JudgeRequest, shares: Mapping[int, float]) -> Judgement:
        if request.answer is None:
            return NO_ANSWER
        if shares.get(0) == 0:
            return Judgement("never solved")
        count = len(request.steps)
        verdicts: list[Verdict | None] = [None] * count
        labels: list[float | None] = [None] * count
        reasons = [""] * count
        for i, share in enumerate(map(shares.get, range(1, count + 1))):
            verdicts[i] = "incorrect" if share == 0 else "correct"
            labels[i] = share if self.labels == "soft" else float(share != 0)
            reasons[i] = "" if share is None else f"{share:.0%} of the endings reach the answer"
            if self.search == "binary" and share == 0:
                break
        return Judgement(JUDGED, tuple(verdicts), tuple(reasons), tuple(labels))


def _stated_shares(request: JudgeRequest) -> dict[int, float]:
    """1 or 0 by the number of all steps if the whole solution states an answer, else nothing."""
    stated = stated_answer("\n".join(request.steps))
    if stated is None:
        return {}
    return {len(request.steps): float(same_answer(request.answer, stated))}


def _wanted(search: RolloutSearch, steps: int, shares: Mapping[int, float]) -> Sequence[int]:
    """From how many steps to continue next, 0 for the bare problem; none once all is known."""
    good = max((length for length, share in shares.items() if share), default=0)
    bad = min((n for n, share in shares.items() if n and not share), default=steps + 1)
    if search == "every":
        if unknown := [length for length in range(1, steps + 1) if length not in shares]:
            return unknown
        never = good == 0
    else:
        if steps not in shares:
            return (steps,)  # if the whole solution is right, nothing else is asked
        if bad - good > 1:
            return ((good + bad) // 2,)
        never = bad == 1
    return (0,) if never and 0 not in shares else ()


def load_judgement(value: dict[str, Any]) -> Judgement:
    """A judgement that was stored as a mapping."""
    lists = {name: value[name] and tuple(value[name]) for name in ("verdicts", "reasons", "labels")}
    return Judgement(value["outcome"], **lists)
