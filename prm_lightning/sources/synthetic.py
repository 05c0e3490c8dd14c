"""Generated word problems with exact step labels; needs no download.

In: the templates of `word_problems.py`, the mistakes of `mistakes.py`. Out: `Solution`s.
Read next: `mixture.py`, which puts sources together.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Literal, get_args

from prm_lightning.sources.formulas import show
from prm_lightning.sources.mistakes import KINDS
from prm_lightning.sources.word_problems import (
    ANSWER,
    Plan,
    Problem,
    Split,
    Template,
    Wording,
    Worked,
    draw_wording,
    make_plan,
    pose,
    read_templates,
    work_out,
)
from prm_lightning.types import Dropped, Solution, Step

RIGHT = "right"  # the last part of the id of a right solution

# Chance that a line goes wrong if all before it are right. It is the same for each line, so that
# position tells nothing about the label. It is lower for the closing line because answers given
# too early look like it and are always wrong.
RISK, CLOSING_RISK = 0.25, 0.13

# How often a kind of mistake is tried first where several are possible; 1 if not listed.
WEIGHTS = {
    "arithmetic_slip": 3.0,
    "wrong_operation": 4.0,
    "percentage_base": 6.0,
    "unit_error": 6.0,
    "off_by_one": 6.0,
    "relation": 6.0,
}

Attempt = tuple[Worked, int, str]  # what is written, index of the mistaken line, kind


class Synthetic:
    """Word problems from hand-written templates, each with right and wrong solutions.

    A wrong solution makes one mistake of the kinds in `mistakes.KINDS`; what follows it is
    computed from the mistaken value. Steps before the mistake are labelled 1, the mistaken step
    0. Solutions of one problem share the wording of their beginnings.

    Args:
        problems: number of problems, >= 1; the first ones do not depend on how many follow.
        attempts: solutions of each problem, >= 1.
        split: which templates are used; no theme is in two splits, whatever the seed.
        seed: of all random choices.
        after_error: label of the steps after the mistake: none, or 0.
        name: the source's name in metrics.

    Raises:
        ValueError: no problems or attempts are asked for, or `split` or `after_error` is unknown.
    """

    license = "Apache-2.0"  # the templates' own

    def __init__(
        self,
        problems: int = 1000,
        attempts: int = 4,
        split: Split = "train",
        seed: int = 17,
        after_error: Literal["unlabelled", "wrong"] = "unlabelled",
        name: str = "synthetic",
    ) -> None:
        if problems < 1 or attempts < 1:
            raise ValueError(
                f"Synthetic: problems={problems} and attempts={attempts} must be 1 or more."
            )
        if split not in get_args(Split) or after_error not in ("unlabelled", "wrong"):
            raise ValueError(
                f"Synthetic: split={split!r} must be one of {get_args(Split)}, and "
                f"after_error={after_error!r} 'unlabelled' or 'wrong'."
            )
        self.problems, self.attempts, self.split, self.seed = problems, attempts, split, seed
        self.after_error, self.name = after_error, name
        self.templates = [template for template in read_templates() if template.split == split]
        Random(seed).shuffle(self.templates)

    def read(self) -> Iterator[Solution | Dropped]:
        """Yield all attempts at one problem, then those at the next; nothing is ever dropped.

        `Solution.id` is ``split-seed-problem-attempt-kind`` with the kind of mistake or ``right``,
        `Solution.group` the template.
        """
        later = 0.0 if self.after_error == "wrong" else None
        for number in range(self.problems):
            rng = Random(f"{self.seed} {self.split} {number}")
            problem = pose(self.templates[number % len(self.templates)], rng)
            answer = show(problem.values[ANSWER], problem.template.steps[-1].unit)
            for k, (worked, at, kind) in enumerate(solve(problem, self.attempts, rng)):
                labels = [1.0] * at + [0.0] + [later] * len(worked.texts)
                yield Solution(
                    problem=problem.text,
                    steps=tuple(map(Step, worked.texts, labels)),
                    source=self.name,
                    id=f"{self.split}-{self.seed}-{number}-{k}-{kind}",
                    group=problem.template.name,
                    answer=answer,
                )


def solve(problem: Problem, attempts: int, rng: Random) -> Iterator[Attempt]:
    """Different solutions, as far as there are so many; most start like the first."""
    template = problem.template
    first = draw_wording(template, rng)
    seen: set[tuple[str, ...]] = set()
    for _ in range(attempts):
        # Drawn once: were a repeated solution drawn anew, fewer short ones would be right.
        chances = [rng.random() for _ in range(len(template.steps) + 1)]
        for k in range(30):
            wording = vary(first, template, rng) if k < 8 else draw_wording(template, rng)
            attempt = try_once(make_plan(problem, wording), chances, rng)
            if attempt[0].texts not in seen:
                break
        seen.add(attempt[0].texts)
        yield attempt


def vary(wording: Wording, template: Template, rng: Random) -> Wording:
    """The same wording up to some step, seldom another one from the start."""
    other, steps = draw_wording(template, rng), len(template.steps)
    if rng.random() < 0.1:
        return other
    start = max(rng.randint(1, steps), rng.randint(1, steps))
    texts = wording.texts[:start] + other.texts[start:]
    return wording._replace(texts=texts, answer=other.answer, closes=other.closes)


def try_once(plan: Plan, chances: list[float], rng: Random) -> Attempt:
    """Walk through the plan; a line goes wrong where its chance is below the risk."""
    for at, line in enumerate(plan.lines):
        risk = CLOSING_RISK if line.name == ANSWER else RISK
        if chances[at] < risk and (wrong := go_wrong(plan, at, rng)):
            return wrong
    worked = work_out(plan)
    assert worked is not None, f"{plan.problem.template.name} has a right solution"
    return worked, len(worked.texts), RIGHT


def go_wrong(plan: Plan, at: int, rng: Random) -> Attempt | None:
    """Some mistake that makes the line at this index false, if there is one."""
    order = sorted(KINDS, key=lambda kind: rng.random() ** (1 / WEIGHTS.get(kind, 1.0)))
    for kind in reversed(order):
        proposals = list(KINDS[kind](plan, at))
        rng.shuffle(proposals)
        for proposal in proposals:
            if worked := work_out_wrongly(proposal):
                return worked, at, kind
    return None


def work_out_wrongly(plan: Plan) -> Worked | None:
    """The written solution; None unless the line with the mistake is false and all is sensible.

    A line that is true after all, by chance or as another right way, leads to the right answer;
    so does one whose error cancels later, which is left out as well.
    """
    truth, worked = plan.problem.values, work_out(plan)
    if worked is None or worked.values[-1] == truth[ANSWER]:
        return None
    right = truth[plan.lines[plan.mistake].name]
    # A larger error would be noticed.
    return worked if right / 12 <= worked.values[plan.mistake] <= right * 12 else None
