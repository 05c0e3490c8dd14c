"""What every local scorer is made of: a backbone, a head and an encoding that give step scores.

In: `StepBatch`, or texts. Out: logits, or P(correct) of each step. Next: `prm.py`, our own kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress
from typing import Any, Protocol, TypeVar, cast, overload

import torch
from torch import Tensor, nn

from prm_lightning.batching.data import collate, encode_solutions, measure
from prm_lightning.batching.encode import Encoded, Encoder
from prm_lightning.batching.plan import Planner
from prm_lightning.modeling.aggregate import aggregate
from prm_lightning.modeling.backbone import TreeModel
from prm_lightning.modeling.heads import Numbers
from prm_lightning.types import ALL_CORRECT, Aggregation, Solution, Step, StepBatch
from prm_lightning.types import Unscorable as Unscorable  # raised here, so imported from here too

TOKENS_PER_BATCH = 4096
SOLUTIONS_AT_A_TIME = 128  # encoded together; longer jobs give back scores on the way
NO_LIMIT = 2**31  # scoring never cuts
PAD_ID = 0  # any valid id: what pads a row is seen by nothing

Items = Sequence[tuple[str, Sequence[Sequence[str]]]]
Pairs = Sequence[tuple[str, Sequence[str]]]  # a problem and the steps of one solution
Steps = TypeVar("Steps")


@dataclass(frozen=True, slots=True)
class Ranked:
    """The place of one solution among several."""

    index: int  # which of the given solutions, from 0
    score: float  # of the solution, by the model's aggregation
    first_flagged: int  # its first step below the model's threshold, from 0; -1 if there is none


class StepEncoder(Protocol):
    """What turns problems and steps into token ids; `Encoder` is one."""

    branch: tuple[int, ...]

    def encode_all(self, solutions: Sequence[tuple[str, Sequence[str]]]) -> list[Encoded]:
        """Token ids of many solutions, each up to its last step position at least."""
        ...


class StepModel(nn.Module):
    """A causal language model whose head reads P(correct) at the steps of a solution.

    Args:
        backbone: reads token trees.
        head: ``(N, H)`` hidden states to ``(N,)`` float32 log-odds of correct.
        encoder: makes the tokens.
        name: of the model, for records.
        aggregation: how to make one score of a solution out of those of its steps.
        threshold: a step whose P(correct) is below it is flagged.
    """

    def __init__(
        self,
        backbone: TreeModel,
        head: nn.Module,
        encoder: StepEncoder,
        name: str,
        aggregation: Aggregation = "min",
        threshold: float = 0.5,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.encoder = encoder
        self.name = name
        self.aggregation: Aggregation = aggregation
        self.threshold = threshold

    def __repr__(self) -> str:
        weights = sum(parameter.numel() for parameter in self.parameters())
        return (
            f"{type(self).__name__}({self.name!r},\n"
            f"    {weights / 1e6:.1f}M weights on {self.backbone.device},\n"
            f"    aggregation={self.aggregation!r}, threshold={self.threshold:.3f})"
        )

    def forward(self, batch: StepBatch) -> Tensor:
        """Log-odds that each step is correct.

        Returns:
            ``(B, S)`` float32; the values where a solution has no step mean nothing.
        """
        at_steps, _ = self._hidden(batch, batch.step_nodes.new_empty(0))
        return self.head(at_steps).view(batch.step_nodes.shape)  # type: ignore[no-any-return]

    def numbers_of(self, step_tokens: Tensor, input_ids: Tensor) -> Numbers:
        """The tokens that tell how likely the language model finds each step."""
        digits = torch.from_numpy(cast(Encoder, self.encoder).digits).to(input_ids.device)
        return Numbers.of(step_tokens, input_ids, digits)

    def _hidden(self, batch: StepBatch, others: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states at steps, ``(B*S, H)``, and at other nodes, ``(L,)`` to ``(L, H)``."""
        self._require_one_rope(batch)
        steps = batch.step_nodes.clamp(min=0).flatten()
        read = torch.cat([steps, others])
        hidden = self.backbone(batch.input_ids, batch.position_ids, batch.subtree_end, read=read)
        hidden = hidden.flatten(0, 1)  # (R*T, H)
        return hidden[steps], hidden[others]

    def _require_one_rope(self, batch: StepBatch) -> None:
        """Refuse a batch that a LongRoPE model would read with one set of factors for all."""
        switch, exist = self.backbone.rope_switch, batch.step_nodes >= 0
        if switch is None or not exist.any():
            return
        depths = batch.position_ids.flatten()[batch.step_nodes.clamp(min=0)]  # (B, S)
        # On branches each step ends a path, else the last one of a solution does.
        is_long = (depths[exist] if self.encoder.branch else depths.amax(1)) >= switch
        if is_long.any() and not is_long.all():
            raise ValueError(
                f"score: {self.name!r} encodes positions in another way beyond {switch} tokens "
                "(LongRoPE), and a batch holds texts of both kinds. Set data.max_tokens to "
                f"{switch} or less."
            )

    @overload
    def score(  # type: ignore[overload-overlap] # a text is a sequence of texts, too
        self, problem: str, solutions: Sequence[str], tokens_per_batch: int = ...
    ) -> list[float]: ...

    @overload
    def score(
        self, problem: str, solutions: Sequence[Sequence[str]], tokens_per_batch: int = ...
    ) -> list[list[float]]: ...

    def score(
        self,
        problem: str,
        solutions: Sequence[str] | Sequence[Sequence[str]],
        tokens_per_batch: int = TOKENS_PER_BATCH,
    ) -> list[float] | list[list[float]]:
        """P(correct) of every step of one solution, or of several solutions of one problem.

        Args:
            problem: the question.
            solutions: the steps of one solution, as texts, or a list of the steps of each of
                several; prefixes that they share are computed once.
            tokens_per_batch: bound on what is computed at a time.

        Returns:
            One probability in [0, 1] per step; of several solutions one such list each.

        Raises:
            Unscorable: a solution is longer than the model's context.
            ValueError: no steps, a blank step, a text in place of steps, or scores that are no
                numbers.
        """
        several, is_one = as_solutions(solutions)
        scores = next(self.score_all([(problem, several)], tokens_per_batch))
        return scores[0] if is_one else scores

    def rank(self, problem: str, solutions: Sequence[Sequence[str]]) -> list[Ranked]:
        """Several solutions of one problem, the best first; of equal scores the first given.

        Arguments and errors are those of `score`.
        """
        several, _ = as_solutions(solutions)
        ranked = []
        for i, scores in enumerate(next(self.score_all([(problem, several)]))):
            flagged = (n for n, score in enumerate(scores) if score < self.threshold)
            score = aggregate(scores, self.aggregation)
            ranked.append(Ranked(i, score, next(flagged, ALL_CORRECT)))
        return sorted(ranked, key=lambda one: -one.score)  # stable

    def score_all(
        self, items: Items, tokens_per_batch: int = TOKENS_PER_BATCH
    ) -> Iterator[list[list[float]]]:
        """What `score` says of each problem and its solutions, in order.

        Problems of similar length share a forward pass, which changes scores by rounding alone; the
        solutions of one problem are one tree, also where it comes several times.
        """
        pairs: list[tuple[str, Sequence[str]]] = []
        counts: list[int] = []  # solutions of each item that waits
        for number, (problem, solutions) in enumerate(items, 1):
            pairs += [(problem, require_steps(steps)) for steps in solutions]
            counts.append(len(solutions))
            if len(pairs) >= SOLUTIONS_AT_A_TIME or number == len(items):
                scores = iter(self._score_pairs(pairs, tokens_per_batch))
                yield from ([next(scores) for _ in range(count)] for count in counts)
                pairs, counts = [], []

    def _score_pairs(self, pairs: Pairs, tokens_per_batch: int) -> list[list[float]]:
        if not pairs:
            return []
        numbered = [
            Solution(problem, tuple(Step(text) for text in steps), source="score", id=str(i))
            for i, (problem, steps) in enumerate(pairs)
        ]
        # `encode_solutions` asks an encoder for what `StepEncoder` promises and nothing else.
        data = encode_solutions(numbered, cast(Encoder, self.encoder), max_tokens=NO_LIMIT)
        lengths = [len(data.solution(i)[0]) + len(data.branch) for i in range(len(data))]
        for (problem, steps), length in zip(pairs, lengths, strict=True):
            mixed = bool(data.branch) and len(steps) > 1
            require_fit(self, problem, len(steps), length, mixed=mixed)
        is_long = [length > (self.backbone.rope_switch or NO_LIMIT) for length in lengths]
        if len(set(is_long)) > 1:  # no pass may mix what LongRoPE encodes in two ways
            long, short = (
                iter(self._score_pairs(list(compress(pairs, chosen)), tokens_per_batch))
                for chosen in (is_long, [not x for x in is_long])
            )
            return [next(long if x else short) for x in is_long]
        scores: list[list[float]] = [[] for _ in pairs]
        with evaluating(self):
            for (planned,) in Planner(measure(data), tokens_per_batch).evaluation_steps():
                batch = collate(planned, data, pad_id=PAD_ID)
                batch = StepBatch(*(tensor.to(self.backbone.device) for tensor in batch))
                rows = torch.sigmoid(self(batch)).tolist()
                for row, i, count in zip(
                    rows, batch.solution_ids.tolist(), batch.step_counts.tolist(), strict=True
                ):
                    scores[i] = require_numbers(row[:count], self.name)
        return scores


def as_solutions(given: Sequence[str] | Sequence[Sequence[str]]) -> tuple[Any, bool]:
    """Some solutions, and whether it was one, given as its steps alone."""
    require_steps(given)
    if given and all(isinstance(step, str) for step in given):
        return [given], True
    return [require_steps(steps) for steps in given], False


def require_steps(steps: Steps) -> Steps:
    """The same steps, or a ValueError for one text, whose letters would be taken for steps."""
    if isinstance(steps, str):
        raise ValueError(
            f"score: got the text {steps[:60]!r} where the steps of a solution are expected. Give "
            "a list of texts, one per step; prm_lightning.text.split_steps makes one of a text."
        )
    return steps


def require_fit(model: StepModel, problem: str, steps: int, tokens: int, *, mixed: bool) -> None:
    """Raise `Unscorable` for a solution of so many steps, and tokens with its problem.

    `mixed` says whether its beginnings are read in the same pass, which LongRoPE bounds.
    """
    switch = model.backbone.rope_switch if mixed else None
    limit = min(model.backbone.context, switch or NO_LIMIT)
    if tokens > limit:
        why = ", where LongRoPE begins to encode positions in another way" if switch else ""
        raise Unscorable(
            f"score: a solution of {steps} steps is {tokens} tokens, longer than the context of "
            f"{limit} tokens of {model.name!r}{why} (problem {problem[:60]!r}). "
            "Scoring never cuts: leave the solution out, or take a model with a longer context."
        )


def require_numbers(scores: list[float], name: str) -> list[float]:
    """The same scores, or a ValueError if one is NaN."""
    if any(score != score for score in scores):
        raise ValueError(
            f"score: {name!r} gives NaN for a step. Its weights are broken or overflow in their "
            "dtype; load it in float32 or bfloat16, or train it again."
        )
    return scores


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """In eval mode and without gradients; the module's mode comes back also after an error."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was_training)
