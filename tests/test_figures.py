"""The numbers that the report's charts of step scores show."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from prm_lightning.evaluation.figures import precision_and_recall, reliability_bins


def test_each_bin_has_its_mean_its_share_of_right_steps_and_their_number():
    probabilities = np.array([0.0, 0.02, 0.5, 0.51, 0.52, 1.0])
    labels = np.array([0.0, 1.0, 1.0, 1.0, 0.4, 1.0])
    means, shares, counts = reliability_bins(probabilities, labels)
    assert len(counts) == 15
    assert {i: n for i, n in enumerate(counts) if n} == {0: 2, 7: 3, 14: 1}
    assert means[[0, 7, 14]] == pytest.approx([0.01, 0.51, 1.0])
    assert shares[[0, 7, 14]] == pytest.approx([0.5, 2 / 3, 1.0])
    assert np.isnan(means[counts == 0]).all()


@settings(max_examples=20)
@given(seed=st.integers(0, 2**16), digits=st.sampled_from([1, 9]))
def test_the_area_under_the_error_curve_is_the_average_precision(seed, digits):
    labels = np.array([0.0] * 5 + [1.0] * 15)
    probabilities = np.random.default_rng(seed).random(20).round(digits)
    recall, precision = precision_and_recall(probabilities, labels)
    area = precision[0] * recall[0] + sum(np.diff(recall) * precision[1:])
    assert area == pytest.approx(average_precision_score(labels < 0.5, 1 - probabilities))
