"""Charts of the report as SVG whose colours are the page's own, in light and in dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

from prm_lightning.modeling.scored_steps import Floats
from prm_lightning.terminal import visible
from prm_lightning.training.figures import precision_and_recall, reliability_bins

HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 300, 58, 14, 12, 44
POINTS = 400  # of a curve that are drawn; more are averaged in groups
MARKED = 40  # with more points than this a line has no marks
HISTOGRAM_BINS = 25
COLOURS = ("blue", "red", "green", "violet", "orange")


class Series(NamedTuple):
    """A line of a chart.

    Args:
        label: in the legend.
        x: ``(N,)``.
        y: ``(N,)``; NaN is left out.
        look: classes of the page's style sheet: a colour, and ``dashed``, ``dotted`` or ``points``.
        low: ``(N,)`` lower end of an interval around `y`, or nothing.
        high: ``(N,)`` upper end.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    look: str
    low: Sequence[float] = ()
    high: Sequence[float] = ()


class Chart(NamedTuple):
    """A picture for the page.

    Args:
        title: above it.
        svg: an ``<svg>`` element, in which all text is escaped.
        legend: label and look of each line.
        wide: whether it takes the whole width.
    """

    title: str
    svg: Markup
    legend: Sequence[tuple[str, str]]
    wide: bool = False


class Panel(NamedTuple):
    """A chart of curves over training.

    Args:
        title: of the chart.
        names: columns of the log, with the label and look of each.
        share: whether the values lie in [0, 1].
        wide: whether it takes the whole width.
    """

    title: str
    names: Mapping[str, tuple[str, str]]
    share: bool = False
    wide: bool = False


PANELS = (
    Panel(
        "First errors: ProcessBench F1 and its halves",
        {
            "val/processbench_f1": ("F1, fitted threshold", "blue"),
            "val/processbench_wrong": ("errors found", "red dashed"),
            "val/processbench_right": ("right solutions passed", "green dashed"),
        },
        share=True,
        wide=True,
    ),
    Panel("Loss", {"train/loss": ("training", "grey"), "val/loss": ("validation", "blue")}),
    Panel(
        "Ranking of steps and of solutions",
        {
            "val/auroc": ("AUROC", "blue"),
            "val/error_ap": ("average precision of errors", "red dashed"),
            "val/pair_accuracy": ("pairs of solutions in order", "green dashed"),
        },
        share=True,
    ),
    Panel(
        "Calibration: Brier score and ECE",
        {"val/brier": ("Brier score", "blue"), "val/ece": ("ECE", "red dashed")},
    ),
    Panel(
        "Learning rate", {"lr/backbone": ("backbone", "blue"), "lr/head": ("head", "red dashed")}
    ),
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
    for panel in PANELS:
        series = []
        for name, (label, look) in panel.names.items():
            rows = [(row["step"] + 1, row[name]) for row in log if name in row and "step" in row]
            if rows:
                series.append(Series(label, *_thin(np.array(rows, float)), look))
        if not series:
            continue
        steps = [x for line in series for x in line.x]
        span = [min(steps), max(steps)] if min(steps) < max(steps) else [*_around(steps)]
        levels = [
            Series(
                f"{label}, before training", span,
                [untrained[name.removeprefix("val/")]] * 2, look.split()[0] + " dotted",
            )
            for name, (label, look) in panel.names.items()
            if name.startswith("val/") and name.removeprefix("val/") in untrained
        ]  # fmt: skip
        marked = None if best_step is None or panel.title == "Learning rate" else best_step + 1
        y_range = (0.0, 1.0) if panel.share else None
        axes = Axes("optimizer step", "", y_range=y_range, marked=marked, mark="best model")
        charts.append(draw(panel.title, [*series, *levels], axes, wide=panel.wide))
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
    series = []
    for chosen, name, look in ((~wrong, "right steps", "blue"), (wrong, "wrong steps", "red")):
        if chosen.any():
            counts = np.histogram(probabilities[chosen], edges)[0] / chosen.sum()
            x, y = np.repeat(edges, 2)[1:-1].tolist(), np.repeat(counts, 2).tolist()
            series.append(Series(f"{name} ({int(chosen.sum()):,})", x, y, look))
    axes = Axes("P(correct)", "share of those steps", (0, 1), marked=threshold, mark="threshold")
    charts = [draw("Scores of right and of wrong steps", series, axes)]
    if wrong.any():
        recall, precision, _ = precision_and_recall(probabilities, labels)
        series = [
            Series("flagging up to each score", recall.tolist(), precision.tolist(), "blue"),
            Series("share of wrong steps", [0, 1], [wrong.mean()] * 2, "grey dashed"),
        ]
        axes = Axes("recall of wrong steps", "precision", (0, 1), (0, 1))
        charts.append(draw("Finding wrong steps", series, axes))
    means, shares, counts = reliability_bins(probabilities, labels)
    filled = counts > 0
    series = [
        Series("15 bins of P(correct)", means[filled].tolist(), shares[filled].tolist(), "blue"),
        Series("calibrated", [0, 1], [0, 1], "grey dashed"),
    ]
    axes = Axes("P(correct)", "share of correct steps", (0, 1), (0, 1))
    return [*charts, draw("Reliability", series, axes)]


def draw_best_of_n(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Accuracy against n, one chart per ``source`` of the rows.

    Args:
        rows: of results.json; those without ``n`` and of aggregations not chosen are passed over.
    """
    charts = []
    for source in dict.fromkeys(str(row.get("source", "")) for row in rows):
        curves: dict[str, dict[int, Mapping[str, float]]] = {}
        for row in rows:
            estimate = (row.get("metrics") or {}).get("accuracy") or {}
            is_shown = row.get("chosen") or row.get("kind") == "baseline"
            if (
                str(row.get("source", "")) == source
                and is_shown
                and type(row.get("n")) is int
                and estimate.get("value") is not None
            ):
                method = str(row.get("method"))
                how = f"{row.get('model')} ({method}, {row.get('aggregation')})"
                curves.setdefault(how if row.get("chosen") else method, {})[row["n"]] = estimate
        if not curves:
            continue
        colours = cycle(COLOURS)
        series = []
        for name, points in curves.items():
            is_model = "(" in name
            x = sorted(points)
            ends = [[_number(points[n].get(k)) for n in x] for k in ("value", "low", "high")]
            look = next(colours) if is_model else FIXED.get(name, "grey")
            band = ends[1:] if is_model else [(), ()]
            series.append(Series(name, [math.log2(n) for n in x], ends[0], look, *band))
        sizes = sorted({n for points in curves.values() for n in points})
        ticks = [(math.log2(n), str(n)) for n in sizes]
        axes = Axes("n samples", "accuracy of the final answer", x_ticks=ticks)
        title = f"{source}: accuracy of choosing among n samples".removeprefix(": ")
        charts.append(draw(title, series, axes, wide=True))
    return charts


FIXED = {"pass@1": "grey dotted", "majority": "grey dashed", "oracle": "grey"}


class Axes(NamedTuple):
    """What is around the lines.

    Args:
        x_label: below.
        y_label: at the left.
        x_range: None takes that of the data.
        y_range: None takes that of the data.
        x_ticks: places and their texts; none takes round numbers.
        marked: x of a vertical line.
        mark: what that line means.
    """

    x_label: str
    y_label: str
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    x_ticks: Sequence[tuple[float, str]] = ()
    marked: float | None = None
    mark: str = ""


def draw(title: str, series: Sequence[Series], axes: Axes, *, wide: bool = False) -> Chart:
    """A chart of some lines, at least one of them with a number."""
    width = 1120 if wide else 560
    x0, x1 = axes.x_range or _around([x for line in series for x in line.x])
    y0, y1 = axes.y_range or _around(
        [y for line in series for y in (*line.y, *line.low, *line.high) if not math.isnan(y)]
    )

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            round(LEFT + (x - x0) / (x1 - x0) * (width - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM), 1),
        )

    left, bottom = place(x0, y0)
    right, top = place(x1, y1)
    parts = []
    for value in _round_numbers(y0, y1):
        y = place(x0, value)[1]
        parts.append(f'<path class="grid" d="M{left} {y}H{right}"/>')
        parts.append(f'<text class="end" x="{left - 6}" y="{y + 4}">{_short(value)}</text>')
    for value, text in axes.x_ticks or [(v, _short(v)) for v in _round_numbers(x0, x1)]:
        x = place(value, y0)[0]
        parts.append(f'<text class="middle" x="{x}" y="{bottom + 16}">{escape(text)}</text>')
    parts.append(f'<path class="axis" d="M{left} {top}V{bottom}H{right}"/>')
    if axes.marked is not None and x0 <= axes.marked <= x1:
        parts.append(f'<path class="upright" d="M{place(axes.marked, y0)[0]} {top}V{bottom}"/>')
    for line in series:
        parts += _draw_line(line, place)
    middle = (left + right) / 2
    parts.append(f'<text class="middle" x="{middle}" y="{HEIGHT - 8}">{axes.x_label}</text>')
    if axes.y_label:
        turned = f"translate(14 {(top + bottom) / 2}) rotate(-90)"
        parts.append(f'<text class="middle" transform="{turned}">{axes.y_label}</text>')
    svg = (
        f'<svg viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{escape(_tell(series))}">'
        + "".join(parts)
        + "</svg>"
    )
    legend = [(visible(line.label), line.look) for line in series]
    if axes.mark:
        legend.append((axes.mark, "upright"))
    return Chart(visible(title), Markup(svg), legend, wide)


def _draw_line(line: Series, place: Any) -> list[str]:
    points = [place(x, y) for x, y in zip(line.x, line.y, strict=True) if not math.isnan(y)]
    parts = []
    if len(line.low):
        upper = [place(x, y) for x, y in zip(line.x, line.high, strict=True) if not math.isnan(y)]
        lower = [place(x, y) for x, y in zip(line.x, line.low, strict=True) if not math.isnan(y)]
        around = " ".join(f"{x},{y}" for x, y in upper + lower[::-1])
        parts.append(f'<polygon class="band {line.look}" points="{around}"/>')
    if len(points) > 1:
        path = " ".join(f"{x},{y}" for x, y in points)
        parts.append(f'<polyline class="{line.look}" points="{path}"/>')
    if len(points) <= MARKED and "dotted" not in line.look:
        parts += [f'<circle class="{line.look}" cx="{x}" cy="{y}" r="3.5"/>' for x, y in points]
    return parts


def _around(values: Sequence[float]) -> tuple[float, float]:
    """A range that holds some values, and is not so narrow that noise looks like a trend."""
    low, high = min(values), max(values)
    missing = max(0.2 * max(abs(low), abs(high)), 1e-9) - (high - low)
    pad = 0.04 * (high - low) + max(0.0, missing) / 2
    return low - pad, high + pad


def _round_numbers(low: float, high: float) -> list[float]:
    ticks = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in ticks if low <= tick <= high]


def _short(value: float) -> str:
    return f"{value:.4g}"


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _thin(rows: Floats) -> tuple[list[float], list[float]]:
    """At most `POINTS` means of neighbouring rows ``(N, 2)``, as x and y."""
    groups = np.array_split(rows, min(POINTS, len(rows)))
    means = np.array([group.mean(axis=0) for group in groups])
    return means[:, 0].tolist(), means[:, 1].tolist()


def _tell(series: Sequence[Series]) -> str:
    """The lines in words."""
    parts = []
    for line in series:
        ends = f"{line.y[0]:.3g} at {line.x[0]:.3g}"
        if len(line.x) > 1:
            ends += f" to {line.y[-1]:.3g} at {line.x[-1]:.3g}"
        parts.append(f"{visible(line.label)}: {ends}")
    return "; ".join(parts)
