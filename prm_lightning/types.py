"""The vocabulary that every part shares: steps, solutions, sources, generators, batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

Verdict = Literal["correct", "incorrect", "unsure"]
Aggregation = Literal["min", "prod", "last", "mean", "geomean"]

ALL_CORRECT = -1  # `first_error` of a solution whose every step is correct, as in ProcessBench
UNKNOWN = -2  # `first_error` of a solution that its labels do not settle


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a solution, with what is known of it.

    Args:
        text: what the step says.
        label: P(the step is correct) in [0, 1]; 1 CORRECT, 0 INCORRECT, None unlabelled.
        weight: trust in the label, >= 0; at 0 the step is context only.
        verdict: what a judge said, where there was one.
        reward: HE or SE reward in [-1, 1] that `label` and `weight` are computed from by
            `rewards.supervise`; None where the source gives labels itself.
    """

    text: str
    label: float | None = None
    weight: float = 1.0
    verdict: Verdict | None = None
    reward: float | None = None


@dataclass(frozen=True, slots=True)
class Solution:
    """A problem with one worked solution.

    Args:
        problem: the question as plain text, without chat markup.
        steps: at least one step.
        source: the name that metrics of this solution are reported under.
        id: names the row it came from, unique within its source.
        group: solutions of one group are never on both sides of a split; empty means
            the normalised problem.
        answer: the reference answer, where the source gives one.
    """

    problem: str
    steps: tuple[Step, ...]
    source: str
    id: str = ""
    group: str = ""
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that could not become a `Solution`.

    Args:
        place: where it is, such as ``train.jsonl:12``.
        reason: a short fixed phrase to count by, such as ``steps and labels differ in number``.
        message: one line for a person: place, value, what was expected, what to change.
    """

    place: str
    reason: str
    message: str


class Unscorable(ValueError):  # noqa: N818  (an outcome, counted by its callers)
    """One solution cannot be scored, for a reason that says nothing of the others."""


class Unanswerable(ValueError):  # noqa: N818  (an outcome, as above)
    """A generator refuses one prompt, for a reason that says nothing of the others."""


@runtime_checkable
class Source(Protocol):
    """Where solutions come from. A new source is a class with this one method."""

    def read(self) -> Iterator[Solution | Dropped]:
        """Yield every row in a fixed order, unusable ones as `Dropped`."""


class Prompt(NamedTuple):
    """What a generator continues.

    Args:
        problem: the question.
        begun: the solution so far, whose text the generator continues; empty starts one.
    """

    problem: str
    begun: str = ""


class Completion(NamedTuple):
    """One sampled continuation.

    Args:
        text: what was generated, without what it continues and without the stop string.
        tokens: how many tokens were generated.
        ended: ``end`` of the text by the model's own choice, at a ``stop`` string, or at the
            ``length`` limit.
    """

    text: str
    tokens: int
    ended: Literal["end", "stop", "length"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample.

    Args:
        n: completions of each prompt, >= 1.
        max_tokens: bound on a completion's tokens, >= 1.
        temperature: >= 0; 0 takes the likeliest token.
        top_p: in (0, 1], share of the probability that is sampled from.
        stop: strings at which a completion ends.
        seed: the same seed, prompts and settings give the same completions where the generator
            can promise it.
    """

    n: int = 1
    max_tokens: int = 512
    temperature: float = 0.8
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0


class Generator(Protocol):
    """What writes solutions: a local model or a server."""

    @property
    def name(self) -> str:
        """Of the model, for records."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` completions of each prompt, in the order of the prompts."""


class JudgeRequest(NamedTuple):
    """A solution whose steps are to be judged.

    Args:
        problem: the question.
        steps: of the solution, at least one.
        answer: the reference answer; None where there is none.
        is_correct: whether the solution's final answer is that; None where it was not compared.
    """

    problem: str
    steps: tuple[str, ...]
    answer: str | None = None
    is_correct: bool | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge said of one solution.

    Args:
        outcome: ``judged``, or in a word why there are no verdicts, such as ``refusal``.
        verdicts: one a step, None where the judge said nothing; empty unless judged.
        reasons: one a step, each may be empty; empty unless judged.
        labels: P(correct) of each step, from a judge that measures shares; else None.
    """

    outcome: str
    verdicts: tuple[Verdict | None, ...] = ()
    reasons: tuple[str, ...] = ()
    labels: tuple[float | None, ...] | None = None


class Judge(Protocol):
    """What says of each step whether it is correct: Claude, rollouts, or two of them."""

    @property
    def name(self) -> str:
        """For records."""

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[Judgement]:
        """One judgement a request, in order."""


class Scorer(Protocol):
    """What scores steps: any process reward model, here or on a server."""

    @property
    def name(self) -> str:
        """Of the model, for records."""

    def score(self, problem: str, solutions: Sequence[Sequence[str]]) -> list[list[float]]:
        """P(correct) in [0, 1] of every step of some solutions of one problem."""

    def score_all(
        self, items: Sequence[tuple[str, Sequence[Sequence[str]]]]
    ) -> Iterator[list[list[float]]]:
        """What `score` says of each problem and its solutions, in order, batched over problems."""


class ModelScorer(Scorer, Protocol):
    """A `Scorer` that also says how its scores are meant to be read."""

    @property
    def aggregation(self) -> Aggregation:
        """How to make one score of a solution out of those of its steps."""

    @property
    def threshold(self) -> float:
        """A step whose P(correct) is below it is flagged."""


class StepBatch(NamedTuple):
    """Rows of token trees, and where in them the scores of B solutions are read.

    Query q sees key k of its row iff ``k <= q`` and ``q < subtree_end[k]``.

    Args:
        input_ids: ``(R, T)`` int64; trees in depth-first order, then padding.
        position_ids: ``(R, T)`` int64, depth in the tree.
        subtree_end: ``(R, T)`` int64, index one past the last descendant; ``i + 1`` for padding.
        step_nodes: ``(B, S)`` int64, flat index into R*T where a step's score is read; -1 pads.
        labels: ``(B, S)`` float32 in [0, 1]; read only where ``weights > 0``.
        weights: ``(B, S)`` float32 >= 0.
        step_counts: ``(B,)`` int64, real steps of each solution.
        first_errors: ``(B,)`` int64, 0-based first wrong step, `ALL_CORRECT` or `UNKNOWN`;
            from the whole solution, so that one cut before its error is never taken for right.
        sources: ``(B,)`` int64, index into the names of the data's sources.
        solution_ids: ``(B,)`` int64, index into the data.
        total_weight: ``()`` float32, trusted weight of the whole optimizer step, over all its
            batches and ranks; 1 if there is none.
        total_solutions: ``()`` float32, solutions with a trusted step in that optimizer step;
            at least 1.
        lm_nodes: ``(2, L)`` int64, flat indices into R*T of each token that the LM loss counts
            (second row) and of the token before it in its tree (first row), which predicts it.
        lm_weights: ``(L,)`` float32, how many solutions count that token, each at least once.
        total_lm: ``()`` float32, sum of `lm_weights` over the whole optimizer step; 1 if there
            are none.
        step_tokens: ``(3, K)`` int64, of every token of every step, without step ends: flat index
            into R*T of the token before it, of itself, and flat index into B*S of its step.
    """

    input_ids: Tensor
    position_ids: Tensor
    subtree_end: Tensor
    step_nodes: Tensor
    labels: Tensor
    weights: Tensor
    step_counts: Tensor
    first_errors: Tensor
    sources: Tensor
    solution_ids: Tensor
    total_weight: Tensor
    total_solutions: Tensor
    lm_nodes: Tensor
    lm_weights: Tensor
    total_lm: Tensor
    step_tokens: Tensor
