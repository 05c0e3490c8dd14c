"""How often a model fails problems: there is something to learn from those it fails sometimes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from prm_lightning.answers import extract_answer, same_answer, stated_answer
from prm_lightning.sources.problems import Problem
from prm_lightning.types import Completion, Generator, Prompt, Sampling


def fail_rates(
    problems: Iterable[Problem],
    generator: Generator,
    sampling: Sampling,
    known: Mapping[str, float],
    at_once: int = 32,
) -> Iterator[tuple[Problem, float]]:
    """Let a model try problems.

    Args:
        problems: in the order to try them.
        generator: what tries.
        sampling: how the generator samples; `n` is the number of attempts at each problem.
        known: fail rates of an earlier run by problem id; these are not tried again.
        at_once: problems given to the generator in one call, >= 1.

    Yields:
        Each problem with the share of its attempts, in [0, 1], that do not state its answer.
    """
    rest = iter(problems)
    while chunk := list(islice(rest, at_once)):
        new = [problem for problem in chunk if problem.id not in known]
        prompts = [Prompt(problem.question) for problem in new]
        tries = generator.generate(prompts, sampling) if prompts else []
        wrong = {
            problem.id: sum(not same_answer(problem.answer, answer_of(c)) for c in completions)
            for problem, completions in zip(new, tries, strict=True)
        }
        for problem in chunk:
            is_known = problem.id in known
            yield problem, known[problem.id] if is_known else wrong[problem.id] / sampling.n


def answer_of(completion: Completion, begun: str = "") -> str | None:
    """The answer of a solution that a generator has written or continued.

    What the completion itself states counts before what was begun. One that was cut at its length
    has no answer but a stated one: its last number is whatever came last.
    """
    stated = stated_answer(completion.text)
    if stated is not None or completion.ended == "length":
        return stated
    return extract_answer(begun + completion.text)
