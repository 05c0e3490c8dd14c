"""Who says of each step whether it is correct: Claude, rollouts, both of them, or arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Literal

from prm_lightning.answers import extract_answer, same_answer, stated_answer
from prm_lightning.labelling.ask import Asker
from prm_lightning.labelling.batches import Mode, ask
from prm_lightning.labelling.journal import Stage
from prm_lightning.labelling.mining import answer_of
from prm_lightning.labelling.prompts import JUDGED, Request, judge_request
from prm_lightning.labelling.solutions import sound
from prm_lightning.quantities import failed_equations
from prm_lightning.sources.rewards import first_error
from prm_lightning.types import (
    UNKNOWN,
    Completion,
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
JUDGED_AT_ONCE = 16  # solutions judged before what was said of them is stored


@dataclass(frozen=True, slots=True)
class ClaudeJudge:
    """Claude, one request a solution. What the journal knows is not asked again.

    Args:
        asker: gets the answers, from the journal or from Claude.
        settings: from `judge_settings`.
        name: the model's name in these settings.
        mode: live requests or Message Batches.
    """

    asker: Asker
    settings: str
    name: str
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
    if is_right is None:
        if request.answer is None:
            return Judgement("no reference answer")
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

    Args:
        first: the judge whose verdicts, reasons and labels are passed on.
        second: the judge that has to agree.
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
    promising a prefix is rather than whether it is right (Zhang et al. 2025, arXiv:2501.07301), so
    take problems that the generator solves sometimes, or agreement with another judge.

    The search ``every`` asks for all prefixes, ``k * steps`` endings. ``binary`` looks for the
    first step after which no ending succeeds by halving, with about ``k * log2(steps)`` endings
    (Luo et al. 2024, "OmegaPRM", arXiv:2406.06592); it takes for granted that what cannot be
    rescued stays so. Steps before that one are correct, with hard label 1 and a soft label where
    their share was measured; those after it get neither verdict nor label.

    A first step after which nothing succeeds is compared with the problem alone: where that is
    never solved either, the outcome is ``never solved`` and nothing is labelled. A request without
    a reference answer has the outcome ``no reference answer``.

    Args:
        generator: what writes the endings.
        k: endings of each prefix, >= 1.
        labels: `hard` or `soft`.
        search: `every` or `binary`.
        sampling: how the generator samples; its `n` is replaced by `k`.
        separator: follows each step of a prefix.
        at_once: solutions judged together, whose prompts share a call to the generator.
    """

    generator: Generator
    k: int = 8
    labels: RolloutLabels = "hard"
    search: RolloutSearch = "every"
    sampling: Sampling = Sampling()  # noqa: RUF009
    separator: str = "\n"
    at_once: int = JUDGED_AT_ONCE

    @property
    def name(self) -> str:
        """Such as ``rollouts of qwen, k=8, hard, binary``."""
        return f"rollouts of {self.generator.name}, k={self.k}, {self.labels}, {self.search}"

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[Judgement]:
        """One judgement a request, in order; `at_once` of them are worked on together."""
        pending = iter(requests)
        while chunk := list(islice(pending, self.at_once)):
            yield from self._judge_together(chunk)

    def _judge_together(self, requests: list[JudgeRequest]) -> list[Judgement]:
        shares: list[dict[int, float]] = [{} for _ in requests]
        while prefixes := [
            (i, length)
            for i, request in enumerate(requests)
            if request.answer is not None
            for length in _wanted(self.search, len(request.steps), shares[i])
        ]:
            measured = self._measure([(requests[i], length) for i, length in prefixes])
            for (i, length), share in zip(prefixes, measured, strict=True):
                shares[i][length] = share
        return [self._judgement(*pair) for pair in zip(requests, shares, strict=True)]

    def _measure(self, prefixes: list[tuple[JudgeRequest, int]]) -> list[float]:
        """The share of endings that reach the answer, from some prefixes, in one call."""
        settled = [_settled(request, length) for request, length in prefixes]
        begun = [
            "".join(step + self.separator for step in request.steps[:length])
            for request, length in prefixes
        ]
        prompts = [
            Prompt(request.problem, text)
            for (request, _), text, share in zip(prefixes, begun, settled, strict=True)
            if share is None
        ]
        sampling = replace(self.sampling, n=self.k)
        endings = iter(self.generator.generate(prompts, sampling) if prompts else ())
        return [
            _share(request, text, next(endings)) if share is None else share
            for (request, _), text, share in zip(prefixes, begun, settled, strict=True)
        ]

    def _judgement(self, request: JudgeRequest, shares: dict[int, float]) -> Judgement:
        if request.answer is None:
            return Judgement("no reference answer")
        if shares.get(0) == 0:
            return Judgement("never solved")
        verdicts: list[Verdict | None] = []
        labels: list[float | None] = []
        reasons: list[str] = []
        is_over = False
        for length in range(1, len(request.steps) + 1):
            share = shares.get(length)
            verdicts.append(None if is_over else "incorrect" if share == 0 else "correct")
            labels.append(
                None if is_over else share if self.labels == "soft" else float(share != 0)
            )
            is_said = share is not None and not is_over
            reasons.append(f"{share:.0%} of the endings reach the answer" if is_said else "")
            is_over = is_over or (self.search == "binary" and share == 0)
        return Judgement(JUDGED, tuple(verdicts), tuple(reasons), tuple(labels))


def _wanted(search: RolloutSearch, steps: int, shares: dict[int, float]) -> Sequence[int]:
    """From how many steps to continue next, 0 for the bare problem; none once all is known.

    Args:
        search: `every` or `binary`.
        steps: of the solution.
        shares: what was measured, by how many steps were given.
    """
    good = max((length for length, share in shares.items() if share), default=0)
    bad = min(
        (length for length, share in shares.items() if length and not share), default=steps + 1
    )
    if search == "every":
        if not shares:
            return range(1, steps + 1)
        never = good == 0
    else:
        if not shares:
            return (steps,)  # if the whole solution is right, nothing else is asked
        if bad - good > 1:
            return ((good + bad) // 2,)
        never = bad == 1
    return (0,) if never and 0 not in shares else ()


def _settled(request: JudgeRequest, length: int) -> float | None:
    """The share of a whole solution that states an answer; None for what has to be continued."""
    if length < len(request.steps):
        return None
    answer = stated_answer("\n".join(request.steps))
    return None if answer is None else float(same_answer(request.answer, answer))


def _share(request: JudgeRequest, begun: str, endings: list[Completion]) -> float:
    return sum(same_answer(request.answer, answer_of(e, begun)) for e in endings) / len(endings)


def judge_and_store(
    judge: Judge, requests: Sequence[JudgeRequest], stage: Stage, progress: Callable[[int], None]
) -> Iterator[Judgement]:
    """What a judge says, kept on disk, so that a run cut off resumes where it stopped.

    Args:
        judge: whose judgements are wanted.
        requests: in order.
        stage: its length says how many are judged already.
        progress: called with how many more are.
    """
    rest = islice(requests, len(stage), None)
    while chunk := list(islice(rest, JUDGED_AT_ONCE)):
        stage.append(asdict(judgement) for judgement in judge.judge(chunk))
        progress(len(chunk))
    return map(_load_judgement, stage)


def _load_judgement(value: dict[str, Any]) -> Judgement:
    labels = value["labels"]
    return Judgement(
        value["outcome"],
        tuple(value["verdicts"]),
        tuple(value["reasons"]),
        None if labels is None else tuple(labels),
    )
