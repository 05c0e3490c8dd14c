"""Charts of the report: lines and where they go, which report.j2 draws as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

from prm_lightning.modeling.metrics import CALIBRATION_BINS
from prm_lightning.modeling.scored_steps import Floats, divide
from prm_lightning.terminal import visible

POINTS = 400  # of a curve that are drawn; more are averaged in groups
MARKED = 40  # with more points than this a line has no marks
HISTOGRAM_BINS = 25
SHARE = (0.0, 1.0)

# Charts over training: by title, the logged columns, each with its label and look.
PANELS = {
    "First errors: ProcessBench F1 and its halves": {
        "val/processbench_f1": ("F1, fitted threshold", "blue"),
        "val/processbench_wrong": ("errors found", "red dashed"),
        "val/processbench_right": ("right solutions passed", "green dashed"),
    },
    "Loss": {"train/loss": ("training", "grey"), "val/loss": ("validation", "blue")},
    "Ranking of steps and of solutions": {
        "val/auroc": ("AUROC", "blue"),
        "val/error_ap": ("average precision of errors", "red dashed"),
        "val/pair_accuracy": ("pairs of solutions in order", "green dashed"),
    },
    "Calibration: Brier score and ECE": {
        "val/brier": ("Brier score", "blue"),
        "val/ece": ("ECE", "red dashed"),
    },
    "Learning rate": {"lr/backbone": ("backbone", "blue"), "lr/head": ("head", "red dashed")},
}
SHARES = ("First errors: ProcessBench F1 and its halves", "Ranking of steps and of solutions")
FIXED = {"pass@1": "grey dotted", "majority": "grey dashed", "oracle": "grey"}
COLOURS = ("blue", "red", "green", "violet", "orange")


class Line(NamedTuple):
    """A line of a chart.

    Args:
        label: in the legend.
        x: ``(N,)``.
        y: ``(N,)``.
        look: classes of the page's style sheet: a colour, and ``dashed`` or ``dotted``.
        band: lower and upper end of an interval around each `y`, or nothing.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    look: str
    band: tuple[Sequence[float], Sequence[float]] = ((), ())


@dataclass(frozen=True)
class Chart:
    """Lines, and what is around them; lengths are units of the SVG.

    Args:
        title: above it.
        lines: at least one, with at least one point.
        x_range: of the data that it shows, from left to right.
        y_range: from bottom to top.
        x_label: below it.
        y_label: at its left.
        x_names: places on the x axis and their texts; none takes round numbers.
        mark: x of a vertical line, and what it means.
        wide: whether it takes the whole width.
    """

    title: str
    lines: Sequence[Line]
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_label: str
    y_label: str = ""
    x_names: Sequence[tuple[float, str]] = ()
    mark: tuple[float, str] | None = None
    wide: bool = False
    left: int = 58
    top: int = 12
    bottom: int = 256
    height: int = 300

    @property
    def width(self) -> int:
        """Of the whole."""
        return 1120 if self.wide else 560

    @property
    def right(self) -> int:
        """Where the lines end."""
        return self.width - 14

    def place_x(self, x: float) -> float:
        """From the left edge."""
        low, high = self.x_range
        return round(self.left + (x - low) / (high - low) * (self.right - self.left), 1)

    def place_y(self, y: float) -> float:
        """From the upper edge."""
        low, high = self.y_range
        return round(self.bottom - (y - low) / (high - low) * (self.bottom - self.top), 1)

    def place(self, x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
        """Points of a line."""
        return [(self.place_x(a), self.place_y(b)) for a, b in zip(x, y, strict=True)]

    @property
    def x_ticks(self) -> list[tuple[float, str]]:
        """Place and text of each."""
        names = self.x_names or [(x, f"{x:.4g}") for x in _round_numbers(*self.x_range)]
        return [(self.place_x(x), name) for x, name in names]

    @property
    def y_ticks(self) -> list[tuple[float, str]]:
        """Place and text of each."""
        return [(self.place_y(y), f"{y:.4g}") for y in _round_numbers(*self.y_range)]

    @property
    def told(self) -> str:
        """The lines in words."""
        return "; ".join(
            f"{line.label}: {line.y[0]:.3g} at {line.x[0]:.3g}"
            + (f" to {line.y[-1]:.3g} at {line.x[-1]:.3g}" if len(line.x) > 1 else "")
            for line in self.lines
        )


def draw_curves(
    log: Sequence[Mapping[str, float]], untrained: Mapping[str, float], best_step: float | None
) -> list[Chart]:
    """What was logged against the optimizer steps made, one chart per subject.

    Args:
        log: rows with ``step``, which counts from 0, where checkpoints and people count from 1.
        untrained: metrics without the prefix ``val/``, drawn as level lines.
        best_step: of the validation that chose best_model, marked by a vertical line.
    """
    charts = []
    for title, columns in PANELS.items():
        lines = []
        for name, (label, look) in columns.items():
            rows = [(row["step"] + 1, row[name]) for row in log if name in row and "step" in row]
            if rows:
                lines.append(Line(label, *_thin(np.array(rows, float)), look))
        if not lines:
            continue
        steps = [x for line in lines for x in line.x]
        x_range = (min(steps), max(steps)) if min(steps) < max(steps) else _around(steps)
        for name, (label, look) in columns.items():
            level = untrained.get(name.removeprefix("val/"))
            if name.startswith("val/") and level is not None:
                look = f"{look.split()[0]} dotted"
                lines.append(Line(f"{label}, before training", x_range, [level] * 2, look))
        is_marked = best_step is not None and title != "Learning rate"
        charts.append(
            Chart(
                title,
                lines,
                _around(steps),
                SHARE if title in SHARES else _around([y for line in lines for y in line.y]),
                "optimizer step",
                mark=(best_step + 1, "best model") if is_marked else None,
                wide=title == next(iter(PANELS)),
            )
        )
    return charts


def draw_steps(probabilities: Floats, labels: Floats, threshold: float) -> list[Chart]:
    """Scores of right and of wrong steps, precision and recall of errors, reliability.

    Args:
        probabilities: ``(N,)`` in [0, 1], N > 0.
        labels: ``(N,)``; below 0.5 counts as wrong.
        threshold: marked among the scores.
    """
    wrong = labels < 0.5
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    x = np.repeat(edges, 2)[1:-1].tolist()
    lines = []
    for chosen, name, look in ((~wrong, "right steps", "blue"), (wrong, "wrong steps", "red")):
        if chosen.any():
            shares = np.histogram(probabilities[chosen], edges)[0] / chosen.sum()
            y = np.repeat(shares, 2).tolist()
            lines.append(Line(f"{name} ({int(chosen.sum()):,})", x, y, look))
    y_range = _around([y for line in lines for y in line.y])
    mark, y_label = (threshold, "threshold"), "share of those steps"
    title = "Scores of right and of wrong steps"
    charts = [Chart(title, lines, SHARE, y_range, "P(correct)", y_label, mark=mark)]
    if wrong.any():
        recall, precision = precision_and_recall(probabilities, labels)
        found = Line("flagging up to each score", recall.tolist(), precision.tolist(), "blue")
        base = Line("share of wrong steps", SHARE, [wrong.mean()] * 2, "grey dashed")
        axes = (SHARE, SHARE, "recall of wrong steps", "precision")
        charts.append(Chart("Finding wrong steps", [found, base], *axes))
    means, shares, counts = reliability_bins(probabilities, labels)
    filled = counts > 0
    bins = Line("15 bins of P(correct)", means[filled].tolist(), shares[filled].tolist(), "blue")
    calibrated = Line("calibrated", SHARE, SHARE, "grey dashed")
    axes = (SHARE, SHARE, "P(correct)", "share of correct steps")
    return [*charts, Chart("Reliability", [bins, calibrated], *axes)]


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


def precision_and_recall(probabilities: Floats, labels: Floats) -> tuple[Floats, Floats]:
    """Recall and precision of flagging all steps up to each score, ascending.

    Args:
        probabilities: ``(N,)`` in [0, 1], P(correct).
        labels: ``(N,)``; below 0.5 counts as wrong, which at least one step is.
    """
    order = np.argsort(probabilities, kind="stable")
    scores, wrong = probabilities[order], labels[order] < 0.5
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # equal scores: one point
    found = np.cumsum(wrong)[last]
    return found / wrong.sum(), found / (last + 1)


def draw_best_of_n(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Accuracy against n, one chart per ``source`` of the rows.

    Args:
        rows: of results.json; those without ``n`` and of aggregations not chosen are passed over.
    """
    sources: dict[str, dict[str, list[tuple[float, Mapping[str, float]]]]] = {}
    for row in rows:
        if row.get("n") and (row.get("chosen") or row["kind"] == "baseline"):
            how = f"{row['model']} ({row['method']}, {row['aggregation']})"
            curves = sources.setdefault(row["source"], {})
            curve = curves.setdefault(how if row.get("chosen") else row["method"], [])
            curve.append((math.log2(row["n"]), row["metrics"]["accuracy"]))
    charts = []
    for source, curves in sources.items():
        colours = cycle(COLOURS)
        lines = []
        for name, points in curves.items():
            x = [n for n, _ in points]
            y, low, high = ([p[end] for _, p in points] for end in ("value", "low", "high"))
            if name in FIXED:
                lines.append(Line(name, x, y, FIXED[name]))
            else:
                has_band = None not in low
                band = (low, high) if has_band else ((), ())
                lines.append(Line(visible(name), x, y, next(colours), band))
        sizes = sorted({x for line in lines for x in line.x})
        values = [y for line in lines for y in (*line.y, *line.band[0], *line.band[1])]
        charts.append(
            Chart(
                visible(f"{source}: accuracy of choosing among n samples"),
                lines,
                _around(sizes),
                _around(values),
                "n samples",
                "accuracy of the final answer",
                [(x, f"{2**x:.0f}") for x in sizes],
                wide=True,
            )
        )
    return charts


def _around(values: Sequence[float]) -> tuple[float, float]:
    """A range that holds some values, and is not so narrow that noise looks like a trend."""
    low, high = min(values), max(values)
    missing = max(0.2 * max(abs(low), abs(high)), 1e-9) - (high - low)
    pad = 0.04 * (high - low) + max(0.0, missing) / 2
    return low - pad, high + pad


def _round_numbers(low: float, high: float) -> list[float]:
    ticks = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in ticks if low <= tick <= high]


def _thin(rows: Floats) -> tuple[list[float], list[float]]:
    """At most `POINTS` means of neighbouring rows ``(N, 2)``, as x and y."""
    groups = np.array_split(rows, min(POINTS, len(rows)))
    means = np.array([group.mean(axis=0) for group in groups])
    return means[:, 0].tolist(), means[:, 1].tolist()
