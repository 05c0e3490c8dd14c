"""Choosing among n of N samples: what to expect over all subsets of that size, not of one draw."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from prm_lightning.modeling.scored_steps import Floats, Indices

ALL_UP_TO = 20_000  # subsets of a problem that are gone through one by one
DRAWN = 2_000  # subsets that are drawn where there are more
TIE = 1e-9  # weights of two answers that differ by less, relatively, are equal


def takes_all(total: int, n: int) -> bool:
    """Whether `make_subsets` gives all subsets of n of `total` samples."""
    return comb(total, n) <= ALL_UP_TO


def make_subsets(total: int, n: int, seed: int) -> Floats:
    """All subsets of n of `total` samples, or 2,000 drawn ones where there are over 20,000.

    Args:
        total: N >= 1.
        n: in 1 … N.
        seed: of those drawn.

    Returns:
        ``(M, N)`` float64, 1 where a sample belongs to a subset, else 0.
    """
    if takes_all(total, n):
        chosen = np.array(list(combinations(range(total), n)), np.int64)  # (M, n)
    else:
        rng = np.random.default_rng([seed, total, n])
        chosen = rng.permuted(np.tile(np.arange(total), (DRAWN, 1)), axis=1)[:, :n]
    members = np.zeros((len(chosen), total))
    np.put_along_axis(members, chosen, 1.0, axis=1)
    return members


def sizes_up_to(total: int) -> list[int]:
    """1, 2, 4 … and `total` itself."""
    powers = [2**k for k in range(total.bit_length()) if 2**k <= total]
    return powers if not powers or powers[-1] == total else [*powers, total]


def expect_any(correct: Sequence[bool], n: int) -> float:
    """pass@n: the probability that one of n samples is correct, over all subsets of n.

    ``1 - C(N - c, n) / C(N, n)`` with c correct ones of N >= n.

    Source: Chen et al. 2021, arXiv:2107.03374, equation 1.
    """
    return 1 - comb(len(correct) - sum(correct), n) / comb(len(correct), n)


def expect_best(scores: Sequence[float | None], correct: Sequence[bool], n: int) -> float:
    """The probability that the best scored of n samples is correct, over all subsets of n.

    Among equal scores each sample is as likely to be taken. A sample without a score is taken only
    where no sample of the subset has one.

    Args:
        scores: of N >= n samples, higher is better; None where there is none.
        correct: of each.
        n: >= 1.
    """
    order: dict[float, list[bool]] = {}
    for score, right in zip(scores, correct, strict=True):
        order.setdefault(-np.inf if score is None else score, []).append(right)
    expected, left = 0.0, len(scores)  # `left` samples are no better than the group looked at
    for _, group in sorted(order.items(), reverse=True):
        chance = comb(left, n) - comb(left - len(group), n)
        expected += chance / comb(len(scores), n) * sum(group) / len(group)
        left -= len(group)
    return expected


def expect_vote(
    answers: Indices, weights: Floats, correct: NDArray[np.bool_], subsets: Floats
) -> Floats:
    """The probability that the answer with the greatest weight is correct, over subsets.

    Among answers of equal weight each is as likely to be taken. A sample without an answer has no
    vote; a subset without any vote gives no answer, which is not correct. An answer is correct to
    the extent that the samples which give it are.

    Args:
        answers: ``(N,)`` int64, equal where two samples give the same answer; -1 without one.
        weights: ``(K, N)`` >= 0, K ways of weighing the samples; ones are a plain majority.
        correct: ``(N,)`` bool.
        subsets: ``(M, N)``, as from `make_subsets`.

    Returns:
        ``(K,)`` in [0, 1].
    """
    groups = np.unique(answers[answers >= 0])
    if not len(groups):
        return np.zeros(len(weights))
    gives = (answers[:, None] == groups).astype(np.float64)  # (N, G)
    right = correct @ gives / gives.sum(axis=0)  # (G,)
    present = subsets @ gives > 0  # (M, G)
    expected = []
    for row in weights:
        votes = np.where(present, subsets @ (row[:, None] * gives), -1.0)  # (M, G)
        best = votes.max(axis=1, keepdims=True)
        ties = present & (votes >= best * (1 - TIE))
        taken = ties @ right / np.maximum(ties.sum(axis=1), 1)  # (M,)
        expected.append(taken.mean())
    return np.array(expected)
