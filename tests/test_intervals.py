"""Bootstrap intervals: what is drawn together, and how wide they come out."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prm_lightning.evaluation.results import draw_problems, summarise


def test_the_first_draw_is_the_data_and_one_seed_draws_the_same_for_every_model():
    draws, again, other = (draw_problems(["a", "b", "a", "c"], 50, seed) for seed in (3, 3, 4))
    assert draws.counts.shape == (51, 3)
    assert draws.counts[0].tolist() == [1, 1, 1]
    assert set(draws.counts.sum(axis=1)) == {3}
    assert draws.problems.tolist() == [0, 1, 0, 2]
    assert np.array_equal(draws.counts, again.counts)
    assert not np.array_equal(draws.counts, other.counts)


@given(seed=st.integers(0, 2**16))
def test_a_resample_weighs_items_like_copies_of_them(seed):
    rng = random.Random(seed)
    problems = [rng.randrange(5) for _ in range(rng.randint(1, 12))]
    values = [rng.random() for _ in problems]
    draws = draw_problems(problems, resamples=4, seed=seed)
    totals, means = draws.total(np.array(values)), draws.mean(np.array(values))
    for row, total, mean in zip(draws.counts, totals, means, strict=True):
        copies = np.repeat(values, row[draws.problems].astype(int))
        assert total == pytest.approx(copies.sum())
        assert mean == pytest.approx(copies.mean()) if len(copies) else math.isnan(mean)


def test_the_interval_of_a_share_is_that_of_its_standard_error():
    values = np.array([1.0] * 120 + [0.0] * 280)
    value, low, high = summarise(draw_problems(list(range(400)), 4000, 0).mean(values))
    error = 1.96 * math.sqrt(0.3 * 0.7 / 400)
    assert value == pytest.approx(0.3)
    assert low == pytest.approx(0.3 - error, abs=0.006)
    assert high == pytest.approx(0.3 + error, abs=0.006)


def test_copies_of_a_problem_do_not_make_an_interval_narrower():
    values = np.array([1.0] * 12 + [0.0] * 28)
    once = summarise(draw_problems(list(range(40)), 2000, 0).mean(values))
    nine_times = summarise(
        draw_problems([i for i in range(40) for _ in range(9)], 2000, 0).mean(np.repeat(values, 9))
    )
    assert nine_times == pytest.approx(once)


def test_what_is_undefined_has_no_interval():
    nan = math.nan
    assert summarise(draw_problems(["a", "a"], 100, 0).mean(np.array([0.0, 1.0]))) == pytest.approx(
        (0.5, nan, nan), nan_ok=True
    )  # one problem
    assert summarise(np.array([0.5, nan, 0.5, 0.5, nan])) == (0.5, 0.5, 0.5)
    assert all(map(math.isnan, summarise(np.array([nan, 0.5, 0.5]))))
