"""Which problems a model fails sometimes: the ones that there is something to learn from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from prm_lightning.answers import extract_answer, same_answer, stated_answer
from prm_lightning.labelling.problems import Problem
from prm_lightning.types import Completion, Generator, Prompt, Sampling

MiningOutcome = Literal["kept", "too easy", "too hard"]


@dataclass(frozen=True, slots=True)
class Mined:
    """A problem that a model has tried.

    Args:
        problem: which one.
        fail_rate: share of its attempts without the reference answer, in [0, 1].
        outcome: ``kept`` if the fail rate lies in the wanted range.
        completions: the attempts; empty where the fail rate was known from an earlier run.
    """

    problem: Problem
    fail_rate: float
    outcome: MiningOutcome
    completions: tuple[Completion, ...] = ()


def mine(
    problems: Iterable[Problem],
    generator: Generator,
    samples: int = 8,
    min_fail: float = 0.3,
    max_fail: float = 0.8,
    limit: int | None = 1000,
    sampling: Sampling | None = None,
    known: Mapping[str, float] | None = None,
    at_once: int = 32,
) -> Iterator[Mined]:
    """Let a model try problems, and keep those that it fails sometimes, not always, not never.

    Every problem tried is yielded in order, so that a caller can record it and count outcomes.
    It ends with the problem that completes `limit`; what came after that one in the same call to
    the generator is not used.

    Args:
        problems: in the order to try them.
        generator: what tries.
        samples: attempts at each problem, >= 1.
        min_fail: lowest fail rate that is kept, in [0, 1].
        max_fail: highest fail rate that is kept, in [0, 1].
        limit: how many to keep; None keeps all.
        sampling: how the generator samples; its `n` is replaced by `samples`.
        known: fail rates of an earlier run by problem id; these are not tried again, and count
            towards `limit`.
        at_once: problems given to the generator in one call, >= 1.
    """
    known, kept, rest = known or {}, 0, iter(problems)
    sampling = replace(sampling or Sampling(), n=samples)
    while (limit is None or kept < limit) and (chunk := list(islice(rest, at_once))):
        new = [problem for problem in chunk if problem.id not in known]
        prompts = [Prompt(problem.question) for problem in new]
        tries = generator.generate(prompts, sampling) if prompts else []
        tried = {problem.id: tuple(c) for problem, c in zip(new, tries, strict=True)}
        for problem in chunk:
            completions = tried.get(problem.id, ())
            rate = fail_rate(problem, completions) if completions else known[problem.id]
            outcome: MiningOutcome = (
                "too easy" if rate < min_fail else "too hard" if rate > max_fail else "kept"
            )
            yield Mined(problem, rate, outcome, completions)
            kept += outcome == "kept"
            if limit is not None and kept >= limit:
                return


def fail_rate(problem: Problem, completions: Sequence[Completion]) -> float:
    """Share of completions, at least one, that do not state the problem's answer, in [0, 1]."""
    wrong = sum(not same_answer(problem.answer, answer_of(c)) for c in completions)
    return wrong / len(completions)


def answer_of(completion: Completion, begun: str = "") -> str | None:
    """The answer of a solution that a generator has written or continued.

    What the completion itself states counts before what was begun. One that was cut at its length
    has no answer but a stated one: its last number is whatever came last.
    """
    stated = stated_answer(completion.text)
    if stated is not None or completion.ended == "length":
        return stated
    return extract_answer(begun + completion.text)
