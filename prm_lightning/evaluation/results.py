"""Measured figures: bootstrap intervals over problems, rows for machines, tables for people."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from prm_lightning.modeling.scored_steps import Draws, Floats, number_in_order

Kind = Literal["model", "untrained", "baseline"]

LEVEL = 0.95
UNDEFINED = "–"


class Estimate(NamedTuple):
    """A figure and its 95 % interval: NaN where the data leave it undefined."""

    value: float
    low: float  # 2.5 % quantile of the resamples
    high: float

    def to_json(self) -> dict[str, float | None]:
        """``value``, ``low`` and ``high``; null where undefined, since JSON knows no NaN."""
        return {name: None if math.isnan(x) else x for name, x in self._asdict().items()}

    def __str__(self) -> str:
        """Such as ``0.328 [0.291, 0.366]``; the value alone where there is no interval."""
        if math.isnan(self.low):
            return show(self.value)
        return f"{show(self.value)} [{show(self.low)}, {show(self.high)}]"


def show(value: float) -> str:
    """Three digits; a dash where undefined."""
    return UNDEFINED if math.isnan(value) else f"{value:.3f}"


def draw_problems(problems: Sequence[Hashable], resamples: int, seed: int) -> Draws:
    """Draw problems with replacement, as many as there are, again and again.

    Args:
        problems: the problem of each item, by any key.
        resamples: R >= 0.
        seed: the same seed and problems give the same draws, for every model that is measured.

    Source: the cluster bootstrap, Davison and Hinkley 1997, "Bootstrap Methods and their
    Application", section 3.8.
    """
    of_items = number_in_order(problems)
    count = int(of_items.max(initial=-1)) + 1
    drawn = np.ones((1, count))
    if count > 1 and resamples:  # of one problem there is nothing to draw
        rng = np.random.default_rng(seed)
        again = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
        drawn = np.concatenate([drawn, again.astype(np.float64)])
    return Draws(drawn, of_items)


def summarise(replicates: Floats) -> Estimate:
    """Value and percentile interval of a statistic.

    Args:
        replicates: ``(R + 1,)``, that of the data themselves first. A resample that leaves the
            statistic undefined (NaN) is left out.
    """
    value, resampled = float(replicates[0]), replicates[1:]
    resampled = resampled[~np.isnan(resampled)]
    if np.isnan(value) or not len(resampled):
        return Estimate(value, np.nan, np.nan)
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


@dataclass(frozen=True)
class Row:
    """Figures of one entry on one part of the data."""

    model: str  # name of the entry
    kind: Kind  # of the entry
    part: str  # such as a subset, source/x, position/1 or n/4
    metrics: Mapping[str, Estimate]
    about: Mapping[str, Any]  # what else tells this row from others, such as its threshold

    def to_json(self) -> dict[str, Any]:
        """With null for what is undefined."""
        metrics = {name: estimate.to_json() for name, estimate in self.metrics.items()}
        about = {"model": self.model, "kind": self.kind, "part": self.part, **self.about}
        return {**about, "metrics": metrics}


class Table(NamedTuple):
    """Cells of text."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


class Report(NamedTuple):
    """What an evaluation found."""

    rows: Sequence[Row]  # every figure
    tables: Sequence[Table]  # the figures that a person reads first
    notes: Sequence[str]  # what has to be known of them, one sentence each


def lines_by_threshold(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, Row]]:
    """Rows by model and threshold, which begin a line of a table, and then by part."""
    lines: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault((row.model, f"{row.about['threshold']:.3f}"), {})[row.part] = row
    return lines


def render(table: Table) -> str:
    """As Markdown whose columns are aligned in a terminal too; no cell can end its line."""
    lines = [
        [" ".join(cell.replace("|", "\\|").split()) for cell in row]
        for row in (table.header, *table.rows)
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width for width in widths]
    body = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in (lines[0], rule, *lines[1:])
    ]
    return "\n".join([f"**{table.title}**", "", *body])
