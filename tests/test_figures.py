"""Pictures of step scores show the numbers that they are given, in TensorBoard and the report."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from prm_lightning.evaluation.figures import precision_and_recall
from prm_lightning.modeling.scored_steps import StepScores, reliability_bins
from prm_lightning.training.pictures import reliability_diagram, step_heat_map


def test_each_bin_has_its_mean_its_share_of_right_steps_and_their_number():
    probabilities = np.array([0.0, 0.02, 0.5, 0.51, 0.52, 1.0])
    labels = np.array([0.0, 1.0, 1.0, 1.0, 0.4, 1.0])
    means, shares, counts = reliability_bins(probabilities, labels, 15)
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


def drawn(figure):
    """The texts of a figure that can be drawn as TensorBoard's writer does."""
    figure.savefig(buffer := io.BytesIO(), format="png")
    assert len(buffer.getvalue()) > 1000
    return [text.get_text() for text in figure.axes[0].texts]


def scored(*rows):
    """Steps of solutions, each row the solution, its scores and its labels, None where unknown."""
    steps = [
        (score, 0.0 if y is None else y, float(y is not None), k, -1, 0, i, 0)
        for i, scores, labels in rows
        for k, (score, y) in enumerate(zip(scores, labels, strict=True))
    ]
    return StepScores.from_table(np.array(steps, float).reshape(-1, 8))


def test_a_heat_map_shows_scores_and_labels_of_the_first_solutions():
    scores = scored((1, [0.8, 0.7], [1, 1]), (0, [0.9, 0.2, 0.6], [1, 0, None]), (2, [0.5], [None]))
    figure = step_heat_map(scores, ["shop 1", "ages 7"])
    axes = figure.axes[0]
    grid = axes.images[0].get_array().filled(np.nan)
    assert grid[0].tolist() == pytest.approx([0.9, 0.2, 0.6])
    assert grid[1].tolist() == pytest.approx([0.8, 0.7, np.nan], nan_ok=True)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["shop 1", "ages 7"]
    assert drawn(figure) == ["0.90\n✓", "0.20\n✗", "0.60\n", "0.80\n✓", "0.70\n✓"]


def test_pictures_are_drawn_of_long_solutions_and_of_none():
    long = step_heat_map(scored((0, [0.5] * 60, [1] * 60)), ["x" * 80])
    assert set(drawn(long)) == {"✓"}
    assert long.get_size_inches()[0] <= 16
    assert drawn(step_heat_map(scored(), [])) == []
    points = np.array([0.1, 0.9, 0.95]), np.array([0.0, 1.0, 1.0])
    figure = reliability_diagram(*points)
    assert drawn(figure) == []
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == 3
    drawn(reliability_diagram(np.zeros(0), np.zeros(0)))
