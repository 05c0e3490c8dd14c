"""Figures show the numbers they are given, and say so where there are none."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.patches import Rectangle

from prm_lightning.training.figures import (
    error_precision_recall,
    reliability_diagram,
    step_heat_map,
)

NAN = math.nan
NOTHING = np.zeros(0)
SOLUTIONS = [
    ("shop 1, attempt 2", [0.9, 0.2, 0.6], [1.0, 0.0, NAN]),
    ("ages 7, attempt 1", [0.8, 0.7], [1.0, 1.0]),
]


def render(figure) -> int:
    """Bytes of the PNG, drawn as TensorBoard's writer does."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return len(buffer.getvalue())


def texts(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_what_is_flagged_at_one_half_is_marked_where_anything_is():
    labels = np.array([1.0, 0.0, 1.0, 0.0])
    for scores, points in (([0.9, 0.2, 0.6, 0.7], [(0.5, 1.0)]), ([0.6, 0.7, 0.8, 0.9], [])):
        axes = error_precision_recall(np.array(scores), labels).axes[0]
        marked = [line for line in axes.lines if line.get_marker() == "o"]
        assert [tuple(line.get_xydata()[0]) for line in marked] == points
        assert max(axes.lines[0].get_ydata()) <= (1 if points else 0.5)


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        (lambda: reliability_diagram(NOTHING, NOTHING), "no supervised steps"),
        (lambda: error_precision_recall(NOTHING, NOTHING), "no wrong steps"),
        (lambda: error_precision_recall(np.linspace(0, 1, 9), np.ones(9)), "no wrong steps"),
        (lambda: step_heat_map([]), "no solutions"),
    ],
)
def test_a_figure_without_data_says_so(figure, message):
    drawn = figure()
    assert texts(drawn) == [message]
    assert render(drawn) > 1000


def test_a_reliability_diagram_shows_share_and_number_of_steps_in_each_bin():
    probabilities = np.array([0.0, 0.02, 0.5, 0.51, 0.52, 1.0])
    labels = np.array([0.0, 1.0, 1.0, 1.0, 0.4, 1.0])
    figure = reliability_diagram(probabilities, labels)
    upper, lower = figure.axes
    points = upper.lines[1].get_xydata().tolist()
    assert points == [
        pytest.approx([0.01, 0.5]),
        pytest.approx([0.51, 2 / 3]),
        pytest.approx([1.0, 1.0]),
    ]
    counts = [bar.get_height() for bar in lower.patches]
    assert len(counts) == 15
    assert {i: n for i, n in enumerate(counts) if n} == {0: 2, 7: 3, 14: 1}
    gap = (2 * 0.49 + 3 * (2 / 3 - 0.51)) / 6
    assert upper.get_title() == f"Reliability of 6 steps: ECE {gap:.3f}"
    assert render(figure) > 1000


@settings(max_examples=10)
@given(seed=st.integers(0, 2**16))
def test_the_area_under_the_error_curve_is_the_average_precision_in_its_title(seed):
    labels = np.array([0.0] * 5 + [1.0] * 15)
    probabilities = np.random.default_rng(seed).random(20)
    axes = error_precision_recall(probabilities, labels).axes[0]
    recall, precision = axes.lines[0].get_data()
    area = sum(np.diff(recall) * precision[1:])
    assert axes.get_title() == f"Finding 5 wrong of 20 steps: AP {area:.3f}"
    flagged = probabilities < 0.5
    hits = (flagged & (labels < 0.5)).sum()
    point = axes.lines[1].get_xydata()[0].tolist()
    assert point == pytest.approx([hits / 5, hits / flagged.sum() if flagged.any() else 1])
    assert axes.lines[2].get_ydata()[0] == 0.25  # the share of wrong steps


def test_a_heat_map_shows_scores_labels_and_the_first_error():
    figure = step_heat_map(SOLUTIONS)
    axes = figure.axes[0]
    grid = axes.images[0].get_array().filled(NAN)
    assert grid[0].tolist() == pytest.approx([0.9, 0.2, 0.6])
    assert grid[1].tolist() == pytest.approx([0.8, 0.7, NAN], nan_ok=True)
    assert texts(figure) == ["0.90\n✓", "0.20\n✗", "0.60\n", "0.80\n✓", "0.70\n✓"]
    [frame] = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    x, y = frame.get_center()
    assert (x, y) == pytest.approx((1, 0))  # second step of the first solution
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [row[0] for row in SOLUTIONS]
    assert render(figure) > 1000


def test_a_heat_map_takes_arrays_and_solutions_without_steps():
    arrays = [(title, np.array(p), np.array(y)) for title, p, y in SOLUTIONS]
    assert texts(step_heat_map(arrays)) == texts(step_heat_map(SOLUTIONS))
    assert render(step_heat_map([("empty", NOTHING, NOTHING)])) > 1000


def test_a_long_solution_keeps_its_marks_and_drops_its_numbers():
    figure = step_heat_map([("x" * 80, [0.5] * 60, [1.0] * 60)])
    assert set(texts(figure)) == {"✓"}
    width, _ = figure.get_size_inches()
    assert width <= 16
    [title] = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert len(title) < 30
