"""Pictures of validation for TensorBoard: reliability, and the step scores of a few solutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
from lightning import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure

from prm_lightning.modeling.metrics import CALIBRATION_BINS
from prm_lightning.modeling.scored_steps import Floats, StepScores, reliability_bins

SOLUTIONS = 8  # of the heat map, the same ones every time
NUMBERED_STEPS = 20  # with more steps than this, cells are too narrow to hold a number


class Pictures(Callback):
    """Draws every validation into TensorBoard."""

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        scores = pl_module.evaluated.compute()  # every rank takes part
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        names = pl_module.datamodule.sides["validate"].data.solution_names
        steps = scores.supervised
        figures = {
            "val/reliability": reliability_diagram(steps.probabilities, steps.labels),
            "val/step_heat_map": step_heat_map(scores, list(islice(names, SOLUTIONS))),
        }
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for name, figure in figures.items():  # steps are counted from 0, as of metrics
                    logger.experiment.add_figure(name, figure, global_step=trainer.global_step - 1)


def reliability_diagram(probabilities: Floats, labels: Floats) -> Figure:
    """Share of correct steps against P(correct) in 15 equal bins; below it the steps in each bin.

    Takes ``(N,)`` probabilities and labels in [0, 1]; a label >= 0.5 counts as correct.
    """
    means, shares, counts = reliability_bins(probabilities, labels, CALIBRATION_BINS)
    figure = Figure(figsize=(6, 5.5), dpi=110, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], "--", color="grey", label="calibrated")
    upper.plot(means, shares, "o-", label="steps in a bin")
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share of steps that are correct")
    upper.set_title(f"Reliability of {len(labels):,} steps")
    upper.legend(loc="upper left")
    left = np.arange(CALIBRATION_BINS) / CALIBRATION_BINS
    lower.bar(left, counts, 1 / CALIBRATION_BINS, align="edge", color="grey", ec="white")
    lower.set(xlabel="P(correct)", ylabel="steps")
    return figure


def step_heat_map(scores: StepScores, names: Sequence[str]) -> Figure:
    """P(correct) of each step of the first solutions, one row each; red is wrong, blue correct.

    Below a score is the step's label: a tick, a cross, or nothing where it is unknown. The names
    are those of solutions 0, 1 and so on that are shown.
    """
    shown = [scores.select(scores.solutions == row) for row in range(len(names))]
    longest = max((len(steps.positions) for steps in shown), default=1)
    grid = np.full((max(len(shown), 1), max(longest, 1)), math.nan)
    size = (min(2.6 + 0.55 * max(longest, 6), 16.0), 1.5 + 0.5 * len(grid))
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    axes = figure.subplots()
    for row, steps in enumerate(shown):
        grid[row, : len(steps.positions)] = steps.probabilities
        columns = zip(steps.probabilities, steps.labels, steps.weights, strict=True)
        for column, (score, label, weight) in enumerate(columns):
            mark = "" if weight == 0 else "✓" if label >= 0.5 else "✗"
            text = f"{score:.2f}\n{mark}" if longest <= NUMBERED_STEPS else mark
            ink = "white" if abs(score - 0.5) > 0.3 else "black"
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=9)
    axes.set_facecolor("lightgrey")  # no step there, whereas white is a score of 0.5
    image = axes.imshow(grid, cmap="RdBu", vmin=0, vmax=1, aspect="auto")
    figure.colorbar(image, ax=axes, label="P(correct)", fraction=0.04, pad=0.02)
    axes.set_yticks(range(len(names)), [name[-24:] for name in names])
    every = 1 if longest <= NUMBERED_STEPS else 5
    axes.set_xticks(range(0, longest, every), [str(k + 1) for k in range(0, longest, every)])
    axes.set(xlabel="step", title="✓ correct   ✗ wrong")
    return figure
