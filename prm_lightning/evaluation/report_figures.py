"""What the report draws: curves of training, step scores, accuracy against n."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prm_lightning.evaluation.report_svg import (
    GREEN,
    ORANGE,
    VIOLET,
    Chart,
    plain,
    styled,
    to_chart,
)
from prm_lightning.modeling.scored_steps import Floats
from prm_lightning.training.figures import (
    BLUE,
    GREY,
    RED,
    error_precision_recall,
    reliability_diagram,
)

POINTS = 400  # of a curve that are drawn; more are averaged in groups
PARTS = 30  # of the data that a chart shows
CYCLE = (BLUE, RED, GREEN, VIOLET, ORANGE)
FIXED = {"pass@1": (":", GREY), "majority": ("--", GREY), "oracle": ("-.", GREY)}
PRECISION = "Precision of flagged steps against the recall of wrong ones, over all thresholds."
RELIABILITY = "The share of correct steps in each of 15 bins of the score, beside the diagonal."


class Series(NamedTuple):
    """A line.

    Args:
        label: in the legend.
        x: ``(N,)`` increasing.
        y: ``(N,)``.
        colour: a key of `report_svg.COLOURS`.
        style: of the line, as matplotlib writes it.
        low: ``(N,)`` lower end of an interval around `y`, or nothing.
        high: ``(N,)`` upper end.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    style: str = "-"
    low: Sequence[float] = ()
    high: Sequence[float] = ()


class Panel(NamedTuple):
    """A chart of curves over training.

    Args:
        title: of the chart.
        names: columns of the log, with the label, colour and style of each.
        baselines: names in the untrained head's metrics that get a level line in their colour.
        share: whether the values lie in [0, 1].
    """

    title: str
    names: Mapping[str, tuple[str, str, str]]
    baselines: Mapping[str, str]
    share: bool


PANELS = (
    Panel(
        "Loss",
        {"train/loss": ("training", BLUE, "-"), "val/loss": ("validation", RED, "o-")},
        {"loss": RED},
        share=False,
    ),
    Panel(
        "First errors: ProcessBench F1 and its halves",
        {
            "val/processbench_f1": ("F1, fitted threshold", BLUE, "o-"),
            "val/processbench_wrong": ("errors found", RED, "^--"),
            "val/processbench_right": ("right solutions passed", GREEN, "s--"),
            "val/processbench_f1_at_0.5": ("F1 at 0.5", GREY, ".:"),
        },
        {"processbench_f1": BLUE},
        share=True,
    ),
    Panel(
        "Ranking of steps",
        {
            "val/auroc": ("AUROC", BLUE, "o-"),
            "val/error_ap": ("average precision of errors", RED, "^--"),
            "val/error_share": ("share of wrong steps", GREY, ":"),
        },
        {"auroc": BLUE},
        share=True,
    ),
    Panel(
        "Verdicts at 0.5",
        {
            "val/accuracy": ("accuracy", BLUE, "o-"),
            "val/majority_accuracy": ("accuracy of the majority class", GREY, ":"),
            "val/error_f1": ("F1 of the error class", RED, "^--"),
        },
        {"accuracy": BLUE},
        share=True,
    ),
    Panel(
        "Calibration: Brier score and ECE",
        {"val/brier": ("Brier score", BLUE, "o-"), "val/ece": ("ECE", RED, "^--")},
        {},
        share=False,
    ),
    Panel(
        "Learning rate",
        {"lr/backbone": ("backbone", BLUE, "-"), "lr/head": ("head", RED, "--")},
        {},
        share=False,
    ),
)


def draw_curves(
    log: Sequence[Mapping[str, float]], untrained: Mapping[str, float], best_step: float | None
) -> list[Chart]:
    """What was logged against the optimizer steps made, a chart a subject; none without rows.

    Args:
        log: rows with ``step``, which counts from 0, where checkpoints and people count from 1.
        untrained: metrics without the prefix ``val/``, drawn as level lines.
        best_step: of the validation that chose best_model, marked by a line.
    """
    charts = []
    for panel in PANELS:
        series = []
        for name, (label, colour, style) in panel.names.items():
            rows = [(row["step"] + 1, row[name]) for row in log if name in row and "step" in row]
            if rows:
                x, y = _thin(np.array(rows, float))
                series.append(Series(label, x, y, colour, style))
        if not series:
            continue
        levels = {c: untrained[n] for n, c in panel.baselines.items() if n in untrained}
        with styled():
            figure, axes = _new(5.6, 3.6)
            _draw_lines(axes, series)
            for colour, level in levels.items():
                axes.axhline(level, ls=(0, (1, 3)), color=colour, label="untrained head")
            if best_step is not None and panel.title != "Learning rate":
                axes.axvline(best_step + 1, color=GREY, lw=0.8, label="best model")
            if panel.share:
                axes.set_ylim(-0.02, 1.02)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set(xlabel="optimizer step")
            _legend(figure, axes)
            charts.append(to_chart(figure, panel.title, _tell(series, levels)))
    return charts


def draw_steps(probabilities: Floats, labels: Floats, threshold: float) -> list[Chart]:
    """Reliability, precision and recall of errors, and the scores of right and of wrong steps.

    Args:
        probabilities: ``(N,)`` float in [0, 1], N > 0.
        labels: ``(N,)`` float; below 0.5 counts as wrong.
        threshold: marked among the scores.
    """
    charts = []
    with styled():
        for figure, kind, text in (
            (reliability_diagram(probabilities, labels), "reliability diagram", RELIABILITY),
            (error_precision_recall(probabilities, labels), "precision-recall curve", PRECISION),
        ):
            title = figure.axes[0].get_title() or f"No {kind}"
            figure.axes[0].set_title("")
            figure.set_size_inches(5.6, 5.0 if len(figure.axes) > 1 else 3.9)
            legend = figure.axes[0].get_legend()
            if legend is not None:
                legend.remove()
                _legend(figure, figure.axes[0])
            charts.append(to_chart(figure, title, f"A {kind}. {title}. {text}"))
        charts.append(_histogram(probabilities, labels, threshold))
    return charts


def draw_parts(title: str, parts: Mapping[str, Mapping[str, float]]) -> list[Chart]:
    """AUROC and accuracy of parts of the data, beside the accuracy of naming the commoner class.

    Args:
        title: of the chart.
        parts: metrics by name of the part, with its number of ``steps``; at most 30 are drawn, of
            the most steps.

    Returns:
        A chart, or none if there are fewer than two parts.
    """
    largest = sorted(parts, key=lambda name: -parts[name].get("steps", 0))[:PARTS]
    shown = [name for name in parts if name in largest]
    if len(shown) < 2:
        return []
    with styled():
        figure, axes = _new(5.6, 1.6 + 0.34 * len(shown))
        rows = np.arange(len(shown))
        for metric, label, colour, marker in (
            ("majority_accuracy", "accuracy of the majority class", GREY, "|"),
            ("accuracy", "accuracy at 0.5", RED, "^"),
            ("auroc", "AUROC", BLUE, "o"),
        ):
            values = [parts[name].get(metric, np.nan) for name in shown]
            if np.isnan(values).all():
                continue
            size = 12 if marker == "|" else 7
            axes.plot(values, rows, marker, color=colour, label=label, ms=size, mew=1.5)
        names = [f"{plain(name)} ({parts[name].get('steps', 0):,.0f})" for name in shown]
        axes.set_yticks(rows, names)
        axes.set(xlim=(-0.02, 1.02), ylim=(len(shown) - 0.5, -0.5), xlabel="share")
        axes.axvline(0.5, color=GREY, lw=0.8, ls=":")
        _legend(figure, axes)
        told = "; ".join(
            f"{name}: AUROC {parts[name]['auroc']:.3f}" for name in shown if "auroc" in parts[name]
        )
        alt = f"{title}; the numbers in brackets count steps. {told}"
        return [to_chart(figure, f"{title} (labelled steps)", alt)]


def draw_best_of_n(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Accuracy against n of each model's chosen aggregation, beside pass@1, majority and oracle.

    Args:
        rows: of results.json; those without ``n`` are passed over.

    Returns:
        A chart for each ``source`` of the rows.
    """
    charts = []
    for source in dict.fromkeys(str(row.get("source", "")) for row in rows):
        curves = _curves_by_n([row for row in rows if str(row.get("source", "")) == source])
        if not curves:
            continue
        with styled():
            figure, axes = _new(5.6, 4.4)
            _draw_lines(axes, curves)
            sizes = sorted({n for curve in curves for n in curve.x})
            axes.set_xscale("log", base=2)
            axes.set_xticks(sizes, [str(n) for n in sizes])
            axes.minorticks_off()
            axes.set(xlabel="n samples", ylabel="accuracy of the final answer")
            _legend(figure, axes)
            title = f"{plain(source)}: accuracy of choosing among n samples".removeprefix(": ")
            charts.append(to_chart(figure, title, _tell(curves, {})))
    return charts


def _curves_by_n(rows: Sequence[Mapping[str, Any]]) -> list[Series]:
    """What `draw_best_of_n` draws of one source."""
    curves: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    with_band: set[str] = set()
    for row in rows:
        estimate = (row.get("metrics") or {}).get("accuracy") or {}
        is_shown = row.get("chosen") or row.get("kind") == "baseline"
        if is_shown and type(row.get("n")) is int and estimate.get("value") is not None:
            method, model = str(row.get("method", "")), plain(str(row.get("model", "")))
            name = f"{model} ({method}, {row.get('aggregation')})" if row.get("chosen") else method
            curves.setdefault((method, name), {})[row["n"]] = estimate
            if row.get("kind") == "model":  # the bands of more would hide each other
                with_band.add(name)
    models = zip(cycle(("o-", "^--", "s-.", "D:")), cycle(CYCLE))  # 20 looks that differ
    series = []
    for (method, name), points in curves.items():
        style, colour = FIXED[method] if method in FIXED else next(models)
        x = sorted(points)
        y, low, high = (
            [float("nan") if points[n].get(key) is None else points[n][key] for n in x]
            for key in ("value", "low", "high")
        )
        interval = (low, high) if name in with_band else ()
        series.append(Series(name, x, y, colour, style, *interval))
    return series


def _histogram(scores: Any, labels: Any, threshold: float) -> Chart:
    figure, axes = _new(5.6, 3.6)
    bins = np.linspace(0, 1, 26).tolist()
    wrong = labels < 0.5
    for chosen, label, colour in ((~wrong, "right steps", BLUE), (wrong, "wrong steps", RED)):
        if chosen.any():
            weights = np.full(int(chosen.sum()), 1 / chosen.sum())
            named = f"{label} ({int(chosen.sum()):,})"
            axes.hist(scores[chosen], bins, weights=weights, color=colour, alpha=0.3)
            axes.hist(
                scores[chosen], bins, weights=weights, color=colour, histtype="step", label=named
            )
    axes.axvline(threshold, color=GREY, ls="--", label=f"threshold {threshold:.3f}")
    axes.set(xlim=(0, 1), xlabel="P(correct)", ylabel="share of those steps")
    _legend(figure, axes)
    means = [
        f"{n} {scores[c].mean():.3f}" for c, n in ((~wrong, "right"), (wrong, "wrong")) if c.any()
    ]
    told = f"Histograms of the scores of right and of wrong steps; mean scores: {', '.join(means)}."
    return to_chart(figure, "Scores of right and of wrong steps", told)


def _draw_lines(axes: Axes, series: Sequence[Series]) -> None:
    for line in series:
        few = len(line.x) <= 40
        style = line.style if few else line.style.strip("o^sD.")
        axes.plot(line.x, line.y, style, color=line.colour, label=line.label, ms=5)
        if len(line.low):
            axes.fill_between(line.x, line.low, line.high, color=line.colour, alpha=0.12, lw=0)


def _legend(figure: Figure, axes: Axes) -> None:
    """Below the axes, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    longest = max(map(len, unique), default=0)
    columns = 1 if longest > 34 else 2
    figure.legend(
        unique.values(), unique.keys(), loc="outside lower left", ncols=columns, fontsize=9
    )


def _thin(rows: Any) -> tuple[list[float], list[float]]:
    """At most `POINTS` means of neighbouring rows ``(N, 2)``, as x and y."""
    groups = np.array_split(rows, min(POINTS, len(rows)))
    means = np.array([group.mean(axis=0) for group in groups])
    return means[:, 0].tolist(), means[:, 1].tolist()


def _tell(series: Sequence[Series], levels: Mapping[str, float]) -> str:
    """The curves in words."""
    parts = []
    for line in series:
        ends = f"{line.y[0]:.3g} at {line.x[0]:.0f}"
        if len(line.x) > 1:
            ends += f" to {line.y[-1]:.3g} at {line.x[-1]:.0f}"
        level = f", untrained {levels[line.colour]:.3g}" if line.colour in levels else ""
        parts.append(f"{line.label}: {ends}{level}")
    return "; ".join(parts)


def _new(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=72, layout="constrained")
    return figure, figure.subplots()
