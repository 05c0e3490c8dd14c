"""Hidden states where scores are read to one log-odds-of-correct logit a step."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

HeadKind = Literal["scalar", "classes", "token"]

LABELS = ("INCORRECT", "CORRECT")  # order of the rows of a `classes` head
ROWS: dict[HeadKind, int] = {"scalar": 1, "classes": 2, "token": 1}
INIT_STD = 1e-3  # logits start near 0, whatever the scale of the hidden states


class StepHead(nn.Module):
    """A linear layer, in float32 whatever the backbone computes in.

    A fresh one has no bias, since heads of whole sequences, which others serve, have none. One that
    others trained may have: a hidden state behind a norm has no constant part that could carry it.

    Args:
        kind: `scalar` has one row, the logit itself; `classes` has a row for each of `LABELS`,
            whose difference is the logit; `token` has one row that starts as the difference of
            the LM-head rows of two verdict tokens (`verdict_ids`).
        hidden_size: H.
        biased: whether each row has a bias, which starts at 0.
    """

    def __init__(self, kind: HeadKind, hidden_size: int, *, biased: bool = False) -> None:
        super().__init__()
        self.kind: HeadKind = kind
        self.weight = nn.Parameter(torch.empty(ROWS[kind], hidden_size))
        nn.init.normal_(self.weight, std=INIT_STD)
        self.bias = nn.Parameter(torch.zeros(ROWS[kind])) if biased else None

    def forward(self, hidden: Tensor) -> Tensor:
        """``(N, H)`` hidden states to ``(N,)`` logits in float32, or float64 where both are."""
        with torch.autocast(hidden.device.type, enabled=False):
            rows = at_least_float32(hidden) @ at_least_float32(self.weight).T  # (N, rows)
            if self.bias is not None:
                rows = rows + at_least_float32(self.bias)
        return rows[:, 1] - rows[:, 0] if self.kind == "classes" else rows[:, 0]


def at_least_float32(values: Tensor) -> Tensor:
    """The same values, not rounded if they are in float64."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def verdict_ids(tokenizer: Any, template: str) -> tuple[int, int]:
    """Ids of the tokens that say wrong and right.

    The first ids of ``INCORRECT`` and ``CORRECT`` for the template `guide`, of ``-`` and ``+``
    for the others.

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
