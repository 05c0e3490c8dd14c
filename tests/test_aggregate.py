"""Scores of solutions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prm_lightning.modeling.aggregate import AGGREGATIONS, aggregate

SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("how", "expected"),
    [("min", 0.2), ("prod", 0.08), ("last", 0.5), ("mean", 0.5), ("geomean", 0.08 ** (1 / 3))],
)
def test_a_worked_example(how, expected):
    assert aggregate([0.8, 0.2, 0.5], how) == pytest.approx(expected)


@given(SCORES, st.sampled_from(AGGREGATIONS))
def test_an_aggregate_is_a_probability_between_product_and_most(scores, how):
    value = aggregate(scores, how)
    assert aggregate(scores, "prod") - 1e-9 <= value <= max(scores) + 1e-9


def test_a_solution_without_steps_and_an_unknown_name_are_refused():
    with pytest.raises(ValueError, match="without steps"):
        aggregate([], "min")
    with pytest.raises(ValueError, match="median"):
        aggregate([0.5], "median")
