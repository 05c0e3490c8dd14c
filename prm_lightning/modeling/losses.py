"""Losses: of step verdicts, on log-odds-of-correct logits, and of the language model.

In: logits, labels and weights of a batch. Out: its share of the loss of its optimizer step. Next:
`training/module.py`, which adds the shares up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from prm_lightning.modeling.heads import at_least_float32

StepCost = Literal["bce", "focal", "mse"]  # a new one is added here and to `COSTS`
LossKind = Literal[StepCost, "pqm"]

FOCAL_GAMMA = 2.0
PQM_MARGIN = 4.0
LM_CHUNK = 2**25  # logits that the language model's loss holds at a time: 128 MiB in float32


def reward_weighted_loss(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    total_weight: Tensor,
    kind: StepCost = "bce",
) -> Tensor:
    """This batch's share of the weighted mean loss of step verdicts.

    With ``p = sigmoid(z)`` and label ``y``, a step costs its weight times

    - `bce`: ``-y log p - (1 - y) log(1 - p)``, in nats;
    - `focal`: that times ``|y - p| ** 2``, which for hard labels is Lin et al. 2017,
      "Focal Loss for Dense Object Detection", arXiv:1708.02002, with gamma 2;
    - `mse`: ``(tanh(z / 2) - (2 y - 1)) ** 2``, in [0, 4], as ``tanh(z / 2) = 2 p - 1``.

    A reward ``r`` in [-1, 1] enters as ``y = 1 if r > 0 else 0`` and weight ``|r|``.
    Summed over the batches of one optimizer step it is their weighted mean, however they were cut.

    Args:
        logits: ``(B, S)`` float, log-odds that each step is correct.
        labels: ``(B, S)`` float in [0, 1]; read only where ``weights > 0``.
        weights: ``(B, S)`` float >= 0, trust in each label; 0 for padding and unlabelled steps.
        total_weight: scalar > 0, sum of weights over the whole optimizer step, all ranks.
        kind: which of `COSTS`.

    Returns:
        Scalar float32, or float64 if the logits are. Zero, with a graph, if no step is trusted.

    Raises:
        ValueError: the three shapes differ.

    Source: hard and soft step labels as in Wang et al. 2024, "Math-Shepherd", arXiv:2312.08935.
    """
    trusted, logits = _trusted(logits, labels, weights)
    labels = torch.where(trusted, labels.to(logits.dtype), 0.0)  # padding may hold NaN
    weights = torch.where(trusted, weights.to(logits.dtype), 0.0)
    return (weights * COSTS[kind](logits, labels)).sum() / total_weight


def ranking_loss(
    logits: Tensor, labels: Tensor, weights: Tensor, total_solutions: Tensor
) -> Tensor:
    """This batch's share of the mean ranking loss of solutions (PQM).

    Right steps should rise along a solution, from the problem itself, which is at logit 0,
    and its wrong steps lie a margin below all of them. Let C be the problem and the trusted right
    steps in order, W the trusted wrong ones and ``m = 4`` the margin. A solution costs the mean
    over ``c`` in C (without the problem, where W is empty and it costs nothing) of

        ``-log( exp(z_c) / (sum_{c' in C, c' <= c} exp(z_c') + sum_{w in W} exp(z_w + m)) )``

    Labels are cut at 0.5; weights only say which steps take part.

    Args:
        logits: see `reward_weighted_loss`, as `labels`, `weights`, what is returned, in nats, and
            what is refused.
        total_solutions: scalar > 0, solutions with a trusted step in the whole optimizer step.

    Source: Li and Li 2024, "Process Reward Model with Q-Value Rankings", arXiv:2410.11287, eq. 10.
    """
    trusted, logits = _trusted(logits, labels, weights)
    right, wrong = trusted & (labels >= 0.5), trusted & ~(labels >= 0.5)
    has_wrong = wrong.any(1, keepdim=True)
    logits = F.pad(logits, (1, 0))  # (B, 1 + S): the problem
    takes_part = torch.cat([torch.ones_like(has_wrong), right], 1)
    lowest = torch.finfo(logits.dtype).min
    rising = torch.logcumsumexp(logits.masked_fill(~takes_part, lowest), 1)
    shifted = (logits[:, 1:] + PQM_MARGIN).masked_fill(~wrong, lowest)
    shifted = F.pad(shifted, (1, 0), value=lowest)  # of no steps there is no sum
    costs = torch.logaddexp(rising, shifted.logsumexp(1, keepdim=True)) - logits
    counted = torch.cat([has_wrong, right], 1)
    means = torch.where(counted, costs, 0.0).sum(1) / counted.sum(1).clamp(min=1)
    return means.sum() / total_solutions


def lm_loss(
    hidden: Tensor, targets: Tensor, weights: Tensor, total_lm: Tensor, head: Tensor
) -> Tensor:
    """This batch's share of the language model's cross-entropy on the tokens of right steps.

    Summed over the batches of one optimizer step it is the mean over these tokens, where one that
    k solutions share counts k times. Logits exist for at most `LM_CHUNK` / V tokens at a time, V
    being the vocabulary, with their gradient, which is taken in the forward pass: 256 MiB.

    Args:
        hidden: ``(L, H)`` float, hidden states of the tokens before the targets.
        targets: ``(L,)`` int64, token ids.
        weights: ``(L,)`` float32, how many solutions count each target.
        total_lm: scalar > 0, sum of weights over the whole optimizer step, all ranks.
        head: ``(V, H)`` float, the language model's output embeddings; cast to the dtype of
            `hidden`.

    Returns:
        Scalar float32, nats. Zero, with a graph, if L is 0.

    Source: Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems", arXiv:2110.14168.
    """
    weights = weights / total_lm
    return _ChunkedCrossEntropy.apply(hidden, targets, weights, head)  # type: ignore[no-any-return,no-untyped-call]


class _ChunkedCrossEntropy(torch.autograd.Function):
    """``sum(weights * cross_entropy(hidden @ head.T, targets))``, a few rows at a time."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, weights: Tensor, head: Tensor) -> Tensor:
        for_hidden, for_head = torch.zeros_like(hidden), None
        if ctx.needs_input_grad[3]:
            for_head = torch.zeros_like(head, dtype=at_least_float32(head).dtype)
        matrix = head.to(hidden.dtype)
        rows = max(1, LM_CHUNK // len(head))
        loss = at_least_float32(hidden.new_zeros(()))
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), rows):
                part = slice(start, start + rows)
                logits = at_least_float32(hidden[part] @ matrix.T)  # (rows, V)
                at, weight = targets[part, None], weights[part, None].to(logits.dtype)
                log_sum = logits.logsumexp(1, keepdim=True)
                loss = loss + (weight * (log_sum - logits.gather(1, at))).sum()
                # d/dlogits of a row's cost: softmax, less 1 at the target
                grad = logits.sub_(log_sum).exp_().scatter_add_(1, at, -torch.ones_like(log_sum))
                grad = grad.mul_(weight).to(hidden.dtype)
                for_hidden[part] = grad @ matrix
                if for_head is not None:
                    for_head += grad.T @ hidden[part]
        ctx.save_for_backward(for_hidden, for_head)
        ctx.head_dtype = head.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        for_hidden, for_head = ctx.saved_tensors
        if for_head is not None:
            for_head = (for_head * grad).to(ctx.head_dtype)
        return (for_hidden * grad).to(for_hidden.dtype), None, None, for_head


def _bce(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none")


def _focal(logits: Tensor, labels: Tensor) -> Tensor:
    return (labels - torch.sigmoid(logits)).abs() ** FOCAL_GAMMA * _bce(logits, labels)


def _mse(logits: Tensor, labels: Tensor) -> Tensor:
    return (torch.tanh(logits / 2) - (2 * labels - 1)) ** 2


# Logits and labels, ``(B, S)`` each and finite, to what each step costs before its weight.
COSTS: dict[StepCost, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": _bce,
    "focal": _focal,
    "mse": _mse,
}


def _trusted(logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Which steps are trusted, and the logits, 0 elsewhere."""
    if not logits.shape == labels.shape == weights.shape:
        raise ValueError(
            "losses: logits, labels and weights must share one (batch, steps) shape, got "
            f"{tuple(logits.shape)}, {tuple(labels.shape)}, {tuple(weights.shape)}."
        )
    trusted = weights > 0
    return trusted, torch.where(trusted, at_least_float32(logits), 0.0)  # bf16 loses small losses
