"""Losses agree with plain loops and do not depend on how a step is cut."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from prm_lightning.modeling.losses import ranking_loss, reward_weighted_loss

ALL_KINDS = ["bce", "focal", "mse", "pqm"]


def loss_of(kind, logits, labels, weights, total):
    if kind == "pqm":
        return ranking_loss(logits, labels, weights, total)
    return reward_weighted_loss(logits, labels, weights, total, kind)


def random_steps(seed, rows=4, steps=5):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, steps, generator=random) * 3
    labels = torch.randint(0, 5, (rows, steps), generator=random) / 4
    weights = torch.randint(0, 3, (rows, steps), generator=random) / 2
    weights[0, 0] = 1.0
    return logits, labels, weights


def naive_cost(kind, z, y):
    p = 1 / (1 + math.exp(-z))
    bce = -(y * math.log(p) + (1 - y) * math.log(1 - p))
    return {"bce": bce, "focal": abs(y - p) ** 2 * bce, "mse": (2 * p - 1 - (2 * y - 1)) ** 2}[kind]


def naive_loss(kind, logits, labels, weights):
    if kind == "pqm":
        return naive_ranking(logits, labels, weights)
    total = trust = 0.0
    for row in zip(logits.tolist(), labels.tolist(), weights.tolist(), strict=True):
        for logit, label, weight in zip(*row, strict=True):
            total += weight * naive_cost(kind, logit, label)
            trust += weight
    return total / trust


def naive_ranking(logits, labels, weights):
    """Mean over solutions with a trusted step, written as the formula is."""
    costs = []
    for row in zip(logits.tolist(), labels.tolist(), weights.tolist(), strict=True):
        steps = [(z, y) for z, y, w in zip(*row, strict=True) if w > 0]
        if not steps:
            continue
        right = [0.0] + [z for z, y in steps if y >= 0.5]
        wrong = sum(math.exp(z + 4) for z, y in steps if y < 0.5)
        terms = [
            -math.log(math.exp(z) / (sum(math.exp(c) for c in right[: k + 1]) + wrong))
            for k, z in enumerate(right)
        ]
        terms = terms if wrong else terms[1:]
        costs.append(sum(terms) / len(terms))
    return sum(costs) / len(costs)


@pytest.mark.parametrize("kind", ALL_KINDS)
@given(seed=st.integers(0, 2**16), cut=st.integers(0, 4))
def test_losses_agree_with_a_plain_loop_however_a_step_is_cut_into_batches(kind, seed, cut):
    steps = random_steps(seed)
    total = steps[2].sum() if kind != "pqm" else (steps[2] > 0).any(1).sum()
    parts = ([x[:cut] for x in steps], [x[cut:] for x in steps])
    whole = loss_of(kind, *steps, total)
    assert whole.item() == pytest.approx(naive_loss(kind, *steps), rel=1e-4)
    assert_close(sum(loss_of(kind, *part, total) for part in parts), whole)


@pytest.mark.parametrize("kind", ALL_KINDS)
@given(seed=st.integers(0, 2**16), pad=st.integers(1, 5))
def test_padding_changes_neither_loss_nor_gradient(kind, seed, pad):
    logits, labels, weights = random_steps(seed)
    plain, three = logits.clone().requires_grad_(), torch.tensor(3.0)
    loss = loss_of(kind, plain, labels, weights, three)
    loss.backward()
    fills = (float("nan"), float("nan"), 0.0)
    padded = [
        torch.cat([x, torch.full((len(x), pad), fill)], 1)
        for x, fill in zip((logits, labels, weights), fills, strict=True)
    ]
    padded[0].requires_grad_()
    found = loss_of(kind, *padded, three)
    found.backward()
    assert_close(found, loss)
    assert_close(padded[0].grad[:, : logits.shape[1]], plain.grad)
    assert not padded[0].grad[:, logits.shape[1] :].any()


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_confident_right_verdict_costs_less_than_a_confident_wrong_one(kind):
    def loss(*logits):
        steps = torch.tensor([logits]), torch.tensor([[1.0, 0.0]]), torch.ones(1, 2)
        return loss_of(kind, *steps, torch.tensor(2.0))

    assert loss(5.0, -5.0) < loss(0.0, 0.0) < loss(-5.0, 5.0)


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("shape", [(0, 0), (2, 3)])
def test_nothing_trusted_is_zero_with_a_graph(shape, kind):
    logits, zeros = torch.randn(shape, requires_grad=True), torch.zeros(shape)
    loss = loss_of(kind, logits, zeros, zeros, torch.ones(()))
    assert loss.item() == 0
    loss.backward()
    assert not logits.grad.any()


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"\(1, 2\), \(1, 3\), \(1, 2\)"):
        reward_weighted_loss(torch.ones(1, 2), torch.ones(1, 3), torch.ones(1, 2), torch.ones(()))
