"""Charts of the report: what there is to draw, which report.j2 writes as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

from prm_lightning.modeling.metrics import CALIBRATION_BINS
from prm_lightning.modeling.scored_steps import Floats, reliability_bins
from prm_lightning.terminal import visible

POINTS = 400  # of a curve that are drawn; more are averaged in groups
MARKED = 40  # with more points than this a line has no marks
HISTOGRAM_BINS = 25
LEFT, TOP, BOTTOM = 58, 12, 256  # of the axes
Range = tuple[float, float]
SHARE: Range = (0.0, 1.0)

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
    """A line of a chart, of at least one point."""

    label: str  # in the legend
    x: Sequence[float]
    y: Sequence[float]
    look: str  # classes of the page's style sheet: a colour, and dashed or dotted
    band: tuple[Sequence[float], Sequence[float]] = ((), ())  # ends of an interval around each y


def draw(
    title: str,
    lines: Sequence[Line],
    ranges: tuple[Range, Range],
    labels: tuple[str, str],
    x_names: Mapping[float, str] | None = None,
    mark: tuple[float, str] | None = None,
    *,
    wide: bool = False,
) -> dict[str, Any]:
    """A chart for report.j2, with all places in units of the SVG.

    Args:
        title: above it.
        lines: at least one.
        ranges: of the x and of the y axis.
        labels: of the x and of the y axis.
        x_names: what to write at the x axis; None writes round numbers.
        mark: x of a vertical line, and what it means.
        wide: whether it takes the whole width.
    """
    right = 1106 if wide else 546
    (x0, x1), (y0, y1) = ranges

    def place_x(x: float) -> float:
        return round(LEFT + (x - x0) / (x1 - x0) * (right - LEFT), 1)

    def place_y(y: float) -> float:
        return round(BOTTOM - (y - y0) / (y1 - y0) * (BOTTOM - TOP), 1)

    def place(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
        return list(zip(map(place_x, x), map(place_y, y), strict=False))

    x_names = x_names or {x: f"{x:.4g}" for x in _round_numbers(x0, x1)}
    return {
        "title": title,
        "wide": wide,
        "box": (LEFT, TOP, right, BOTTOM),
        "labels": labels,
        "x_ticks": [(place_x(x), name) for x, name in x_names.items()],
        "y_ticks": [(place_y(y), f"{y:.4g}") for y in _round_numbers(y0, y1)],
        "mark": mark and (place_x(mark[0]), mark[1]),
        "lines": [
            {
                "label": line.label,
                "look": line.look,
                "points": place(line.x, line.y),
                "band": place(line.x, line.band[1]) + place(line.x, line.band[0])[::-1],
                "is_marked": len(line.x) <= MARKED and "dotted" not in line.look,
            }
            for line in lines
        ],
        "told": "; ".join(map(_tell, lines)),
    }


def _tell(line: Line) -> str:
    begin, end = (f"{line.y[i]:.3g} at {line.x[i]:.3g}" for i in (0, -1))
    return f"{line.label}: {begin}" + (f" to {end}" if len(line.x) > 1 else "")


def draw_curves(
    log: Sequence[Mapping[str, float]], untrained: Mapping[str, float], best_step: float | None
) -> list[dict[str, Any]]:
    """What was logged against the optimizer steps made, one chart per subject.

    Args:
        log: rows with ``step``, which counts from 0, where checkpoints and people count from 1.
        untrained: metrics without the prefix ``val/``, drawn as level lines.
        best_step: of the validation that chose best_model, marked by a vertical line.
    """
    mark = None if best_step is None else (best_step + 1, "best model")
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
        charts.append(
            draw(
                title,
                lines,
                (_around(steps), SHARE if title in SHARES else _around_lines(lines)),
                ("optimizer step", ""),
                mark=mark,
                wide=title == next(iter(PANELS)),
            )
        )
    return charts


def draw_steps(probabilities: Floats, labels: Floats, threshold: float) -> list[dict[str, Any]]:
    """Scores of right and of wrong steps, precision and recall of errors, reliability.

    Of ``(N,)`` steps, N > 0; labels below 0.5 count as wrong.
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
    title, axes = "Scores of right and of wrong steps", ("P(correct)", "share of those steps")
    ranges = (SHARE, _around_lines(lines))
    charts = [draw(title, lines, ranges, axes, mark=(threshold, "threshold"))]
    if wrong.any():
        recall, precision = precision_and_recall(probabilities, labels)
        lines = [
            Line("flagging up to each score", recall.tolist(), precision.tolist(), "blue"),
            Line("share of wrong steps", SHARE, [wrong.mean()] * 2, "grey dashed"),
        ]
        axes = ("recall of wrong steps", "precision")
        charts.append(draw("Finding wrong steps", lines, (SHARE, SHARE), axes))
    means, shares, counts = reliability_bins(probabilities, labels, CALIBRATION_BINS)
    filled = counts > 0
    lines = [
        Line("15 bins of P(correct)", means[filled].tolist(), shares[filled].tolist(), "blue"),
        Line("calibrated", SHARE, SHARE, "grey dashed"),
    ]
    axes = ("P(correct)", "share of correct steps")
    return [*charts, draw("Reliability", lines, (SHARE, SHARE), axes)]


def precision_and_recall(probabilities: Floats, labels: Floats) -> tuple[Floats, Floats]:
    """Recall and precision of flagging all steps up to each score, ascending.

    Labels below 0.5 count as wrong, which at least one of the ``(N,)`` steps is.
    """
    order = np.argsort(probabilities, kind="stable")
    scores, wrong = probabilities[order], labels[order] < 0.5
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # equal scores: one point
    found = np.cumsum(wrong)[last]
    return found / wrong.sum(), found / (last + 1)


def draw_best_of_n(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy against n in rows of results.json, one chart per source.

    Aggregations that were not chosen are passed over.
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
                band = ((), ()) if None in low else (low, high)
                lines.append(Line(visible(name), x, y, next(colours), band))
        sizes = {x: f"{2**x:.0f}" for line in lines for x in line.x}
        title = visible(f"{source}: accuracy of choosing among n samples")
        ranges = (_around(list(sizes)), _around_lines(lines))
        axes = ("n samples", "accuracy of the final answer")
        charts.append(draw(title, lines, ranges, axes, sizes, wide=True))
    return charts


def _around_lines(lines: Sequence[Line]) -> Range:
    return _around([y for line in lines for y in (*line.y, *line.band[0], *line.band[1])])


def _around(values: Sequence[float]) -> Range:
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
