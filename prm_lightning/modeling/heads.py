"""Hidden states where scores are read to one log-odds-of-correct logit a step.

In: hidden states of `backbone.py`. Out: logits. Next: `losses.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HeadKind = Literal["scalar", "classes", "token", "two_layers"]

LABELS = ("INCORRECT", "CORRECT")  # order of the rows of a head that has two
INIT_STD = 1e-3  # logits start near 0, whatever the scale of the hidden states


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
            arXiv:2501.07301.
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
        self.bias = nn.Parameter(torch.zeros(rows)) if biased else None

    def forward(self, hidden: Tensor) -> Tensor:
        """``(N, H)`` hidden states to ``(N,)`` logits in float32, or float64 where both are."""
        with torch.autocast(hidden.device.type, enabled=False):
            values = at_least_float32(hidden)
            if self.inner is not None:
                values = F.relu(_affine(values, self.inner.weight, self.inner.bias))
            return self.logit(_affine(values, self.weight, self.bias))  # (N, rows) to (N,)


def _affine(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = values @ at_least_float32(weight).T
    return rows if bias is None else rows + at_least_float32(bias)


def at_least_float32(values: Tensor) -> Tensor:
    """The same values, not rounded if they are in float64."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


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
