"""Pictures of step scores for TensorBoard and reports, drawn without pyplot's global state."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from prm_lightning.modeling.metrics import CALIBRATION_BINS, calibration_error, measure_ranking
from prm_lightning.modeling.scored_steps import Draws, Floats, divide

BLUE, RED, GREY = "#1f6fb2", "#c0392b", "#777777"
NUMBERED_STEPS = 20  # with more steps than this, cells are too narrow to hold a number


def reliability_bins(probabilities: Floats, labels: Floats) -> tuple[Floats, Floats, Floats]:
    """Of 15 equal bins of P(correct): its mean, the share of correct steps, and their number.

    The first two are NaN in a bin without steps.
    """
    bins = np.minimum((probabilities * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    totals, rights, counts = (
        np.bincount(bins, weights=each, minlength=CALIBRATION_BINS).astype(np.float64)
        for each in (probabilities, labels >= 0.5, np.ones(len(bins)))
    )
    return divide(totals, counts), divide(rights, counts), counts


def precision_and_recall(probabilities: Floats, labels: Floats) -> tuple[Floats, Floats, Floats]:
    """Recall and precision of flagging all steps up to each score, and the scores, ascending.

    Args:
        probabilities: ``(N,)`` in [0, 1], P(correct).
        labels: ``(N,)``; below 0.5 counts as wrong, which at least one step is.
    """
    order = np.argsort(probabilities, kind="stable")
    scores, wrong = probabilities[order], labels[order] < 0.5
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # equal scores: one point
    found = np.cumsum(wrong)[last]
    return found / wrong.sum(), found / (last + 1), scores[last]


def reliability_diagram(probabilities: Floats, labels: Floats) -> Figure:
    """Share of correct steps against P(correct) in 15 equal bins; below it the steps in each bin.

    Args:
        probabilities: ``(N,)`` float in [0, 1].
        labels: ``(N,)`` float; >= 0.5 counts as correct.

    Returns:
        A figure; if N = 0 one that says so.
    """
    figure = _new_figure(6, 5.5)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share of steps that are correct")
    lower.set(xlabel="P(correct)", ylabel="steps")
    if not len(probabilities):
        _say(upper, "no supervised steps")
        return figure
    means, shares, counts = reliability_bins(probabilities, labels)
    filled = counts > 0
    width = 1 / CALIBRATION_BINS
    left = np.arange(CALIBRATION_BINS) * width
    upper.bar(left[filled], shares[filled], width, align="edge", color=BLUE, alpha=0.35, ec="white")
    upper.plot([0, 1], [0, 1], "--", color=GREY, label="calibrated")
    upper.plot(
        means[filled], shares[filled], "o", color=BLUE, label="bin: mean P(correct), share correct"
    )
    upper.legend(loc="upper left", fontsize=9)
    error = calibration_error(probabilities, labels, Draws.once(len(labels)))[0]
    upper.set_title(f"Reliability of {len(labels):,} steps: ECE {error:.3f}")
    lower.bar(left, counts, width, align="edge", color=GREY, ec="white")
    return figure


def error_precision_recall(probabilities: Floats, labels: Floats) -> Figure:
    """Precision against recall of finding wrong steps, with the base rate and average precision.

    Args:
        probabilities: ``(N,)`` float in [0, 1], P(correct).
        labels: ``(N,)`` float; below 0.5 counts as wrong.

    Returns:
        A figure; if no step is wrong one that says so.
    """
    figure = _new_figure(6, 4.5)
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall of wrong steps", ylabel="precision")
    wrong = labels < 0.5
    if not wrong.any():
        _say(axes, "no wrong steps")
        return figure
    recall, precision, scores = precision_and_recall(probabilities, labels)
    # Going left, to fewer flags, the precision stays until the next point.
    axes.plot(
        np.append(0.0, recall), np.append(precision[0], precision),
        drawstyle="steps-pre", color=BLUE,
    )  # fmt: skip
    flagged = int((scores < 0.5).sum())
    if flagged:
        point = recall[flagged - 1], precision[flagged - 1]
        axes.plot(*point, "o", color=BLUE, label="flagged at P(correct) < 0.5")
    share = wrong.mean()
    axes.axhline(share, ls="--", color=GREY, label=f"share of wrong steps {share:.3f}")
    average = measure_ranking(probabilities, wrong, Draws.once(len(wrong)))["error_ap"][0]
    axes.set_title(f"Finding {int(wrong.sum()):,} wrong of {len(wrong):,} steps: AP {average:.3f}")
    axes.legend(loc="best", fontsize=9)
    return figure


def step_heat_map(solutions: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> Figure:
    """P(correct) of each step of a few solutions, one row each, with the true labels.

    Red cells are scored wrong, blue ones correct; below the score is the label, a tick
    (>= 0.5), a cross, or nothing where it is unknown. A frame marks the first wrong step.

    Args:
        solutions: title, P(correct) of each step in [0, 1], label of each step, NaN if unknown.

    Returns:
        A figure; if there are no solutions one that says so.
    """
    longest = max((len(scores) for _, scores, _ in solutions), default=0) or 1
    width = min(max(6.0, 2.6 + 0.55 * longest), 16.0)
    figure = _new_figure(width, 1.5 + 0.5 * max(len(solutions), 2))
    axes = figure.subplots()
    if not solutions:
        _say(axes, "no solutions")
        return figure
    grid = np.full((len(solutions), longest), math.nan)
    for row, (_, scores, labels) in enumerate(solutions):
        grid[row, : len(scores)] = scores
        _mark_row(axes, row, scores, labels, numbered=longest <= NUMBERED_STEPS)
    axes.set_facecolor("lightgrey")  # no step there, whereas white is a score of 0.5
    image = axes.imshow(grid, cmap="RdBu", vmin=0, vmax=1, aspect="auto")
    figure.colorbar(image, ax=axes, label="P(correct)", fraction=0.04, pad=0.02)
    axes.set_yticks(range(len(solutions)), [_shorten(title) for title, _, _ in solutions])
    stride = 1 if longest <= NUMBERED_STEPS else 5
    ticks = range(stride - 1, longest, stride)
    axes.set_xticks(ticks, [str(tick + 1) for tick in ticks])
    axes.set(xlabel="step")
    axes.set_title("✓ correct   ✗ wrong   ▢ first error", fontsize=10)
    return figure


def _mark_row(
    axes: Axes, row: int, scores: Sequence[float], labels: Sequence[float], *, numbered: bool
) -> None:
    for column, (score, label) in enumerate(zip(scores, labels, strict=True)):
        mark = "" if math.isnan(label) else "✓" if label >= 0.5 else "✗"
        text = f"{score:.2f}\n{mark}" if numbered else mark
        ink = "white" if abs(score - 0.5) > 0.3 else "black"
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=9)
    first = next((i for i, label in enumerate(labels) if label < 0.5), None)
    if first is not None:
        halo = withStroke(linewidth=4, foreground="white")  # black alone is lost on dark cells
        corner = (first - 0.46, row - 0.46)
        axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, lw=2, path_effects=[halo]))


def _new_figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def _say(axes: Axes, message: str) -> None:
    axes.text(0.5, 0.5, message, ha="center", va="center", color=RED, transform=axes.transAxes)


def _shorten(title: str, width: int = 24) -> str:
    return title if len(title) <= width else title[: width - 1] + "…"
