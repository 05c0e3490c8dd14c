"""Hidden states where scores are read to one log-odds-of-correct logit a step.

In: hidden states of `backbone.py`. Out: logits. Next: `losses.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HeadKind = Literal["scalar", "classes", "token", "two_layers", "likelihood"]

LABELS = ("INCORRECT", "CORRECT")  # order of the rows of a head that has two
INIT_STD = 1e-3  # logits start near 0, whatever the scale of the hidden states
USUAL = -1.5  # log-probability of the least likely number of a usual step, in nats
DOUBTFUL = -3.6  # the same of steps at the threshold of the shipped model, on validation data
FASTER = 10.0  # times as far does the weight of the likelihood move at a learning rate
CHUNK = 2**25  # log-probabilities that are held at a time, 128 MiB


def _only(rows: Tensor) -> Tensor:
    return rows[:, 0]


def _difference(rows: Tensor) -> Tensor:
    return rows[:, 1] - rows[:, 0]


# How many rows the last layer of a head has, and how their values ``(N, rows)`` become ``(N,)``
# log-odds of correct. A new head is added here and to `HeadKind`.
HEADS: dict[HeadKind, tuple[int, Callable[[Tensor], Tensor]]] = {
    "scalar": (1, _only),
    "classes": (2, _difference),
    "token": (1, _only),
    "two_layers": (2, _difference),
    "likelihood": (1, _only),
}


class StepHead(nn.Module):
    """A linear layer, or two, in float32 whatever the backbone computes in.

    A fresh one has no bias, since heads of whole sequences, which others serve, have none. One that
    others trained may have: a hidden state after a norm has no constant part that could carry it.

    Args:
        kind: `scalar` has one row, the logit itself; `classes` has a row for each of `LABELS`,
            whose difference is the logit; `token` has one row that starts as the difference of
            the LM-head rows of two verdict tokens (`verdict_ids`); `two_layers` has H units with a
            ReLU below what `classes` has, as in Zhang et al. 2025 (Qwen2.5-Math-PRM),
            arXiv:2501.07301; `likelihood` is `scalar` with a bias and, times a trained weight, how
            likely the language model finds the step, see `Numbers.log_probs`.
        hidden_size: H, of the hidden states that it reads.
        biased: whether each row has a bias, which starts at 0.
    """

    def __init__(self, kind: HeadKind, hidden_size: int, *, biased: bool = False) -> None:
        super().__init__()
        self.kind: HeadKind = kind
        rows, self.logit = HEADS[kind]
        self.inner = nn.Linear(hidden_size, hidden_size) if kind == "two_layers" else None
        self.weight = nn.Parameter(torch.empty(rows, hidden_size))
        nn.init.normal_(self.weight, std=INIT_STD)
        reads_lm = kind == "likelihood"
        self.bias = nn.Parameter(torch.zeros(rows)) if biased or reads_lm else None
        self.likelihood = nn.Parameter(torch.zeros(1)) if reads_lm else None

    def drop_likelihood(self) -> float:
        """Become a head `scalar` without a bias; what all its log-odds have lost is returned.

        That is said of a step as unlikely as those about which the likelihood decides.
        """
        assert self.bias is not None and self.likelihood is not None
        lost = self.bias + FASTER * self.likelihood * (DOUBTFUL - USUAL)
        self.kind, self.likelihood, self.bias = "scalar", None, None
        return float(lost.detach())

    def forward(self, hidden: Tensor, log_probs: Tensor | None = None) -> Tensor:
        """``(N, H)`` hidden states to ``(N,)`` logits in float32, or float64 where both are.

        `log_probs` are ``(N,)``, of a head `likelihood` alone.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            values = at_least_float32(hidden)
            if self.inner is not None:
                values = F.relu(_affine(values, self.inner.weight, self.inner.bias))
            logits = self.logit(_affine(values, self.weight, self.bias))  # (N, rows) to (N,)
            if self.likelihood is not None:
                logits = logits + FASTER * self.likelihood * (cast(Tensor, log_probs) - USUAL)
            return logits


def _affine(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = values @ at_least_float32(weight).T
    return rows if bias is None else rows + at_least_float32(bias)


def at_least_float32(values: Tensor) -> Tensor:
    """The same values, not rounded if they are in float64."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class Numbers(NamedTuple):
    """The tokens that say how likely the language model finds some steps.

    They are a step's tokens that hold a digit, or all of a step without any; not its step end.
    What several solutions share is there once.
    """

    before: Tensor  # (L,) int64, flat index of the node before each token
    ids: Tensor  # (L,) int64, token ids
    places: Tensor  # (K,) int64, which of the L tokens each step reads
    steps: Tensor  # (K,) int64, of which step that is
    of_number: Tensor  # (K,) bool, whether that token holds a digit

    @classmethod
    def of(cls, step_tokens: Tensor, input_ids: Tensor, digits: Tensor) -> Numbers:
        """Those of a batch.

        Args:
            step_tokens: ``(3, N)`` int64, see `StepBatch`.
            input_ids: ``(R, T)`` int64.
            digits: ``(V,)`` bool, which ids hold a digit, see `Encoder.digits`.
        """
        ids = input_ids.flatten()
        before, nodes, steps = step_tokens
        of_number = digits[ids[nodes]]
        numbered = torch.zeros(int(steps.amax()) + 1 if len(steps) else 0, dtype=torch.bool)
        numbered = numbered.to(ids.device).index_fill(0, steps[of_number], value=True)
        read = of_number | ~numbered[steps]
        unique, places = nodes[read].unique(return_inverse=True)
        parents = torch.empty_like(unique).index_copy(0, places, before[read])
        return cls(parents, ids[unique], places, steps[read], of_number[read])

    @torch.no_grad()
    def log_probs(self, hidden: Tensor, lm_head: Tensor, count: int) -> Tensor:
        """Of each step the log-probability of its least likely token that holds a digit, in nats.

        Each token is given everything before it. Of a step without a digit it is the mean of its
        tokens. No gradient goes through it.

        Args:
            hidden: ``(L, H)``, hidden states at `before`.
            lm_head: ``(V, H)``, the language model's output embeddings.
            count: of steps.

        Returns:
            ``(count,)`` float32, at most 0; `USUAL` for a step without tokens.
        """
        found = [hidden.new_zeros(0, dtype=torch.float32)]
        matrix, rows = lm_head.to(hidden.dtype), max(1, CHUNK // len(lm_head))
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), rows):
                part = slice(start, start + rows)
                logits = (hidden[part] @ matrix.T).float()  # (rows, V)
                found.append(-F.cross_entropy(logits, self.ids[part], reduction="none"))
        values = torch.cat(found)[self.places]
        usual = torch.full((count,), USUAL, device=hidden.device)
        means = usual.scatter_reduce(0, self.steps, values, "mean", include_self=False)
        at, values = self.steps[self.of_number], values[self.of_number]
        lowest = usual.scatter_reduce(0, at, values, "amin", include_self=False)
        return means.index_copy(0, at, lowest[at])


def verdict_ids(tokenizer: Any, template: str) -> tuple[int, int]:
    """The first ids of ``INCORRECT`` and ``CORRECT`` for the template `guide`, else of - and +.

    Raises:
        ValueError: both words begin with the same id.
    """
    words = LABELS if template == "guide" else ("-", "+")
    wrong, right = (tokenizer.encode(word, add_special_tokens=False)[0] for word in words)
    if wrong == right:
        raise ValueError(
            f"heads: {words[0]!r} and {words[1]!r} begin with the same token ({wrong}) of "
            f"{tokenizer.name_or_path!r}, so a token head cannot start from their difference. "
            "Set model.head to scalar or classes."
        )
    return wrong, right
