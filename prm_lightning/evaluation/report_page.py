"""The report as HTML: everything that it shows is in the page, and no text of models is markup."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import ChainableUndefined, Environment, FileSystemLoader, Undefined
from markupsafe import Markup

from prm_lightning.evaluation.baselines import MAJORITY, constant_baselines
from prm_lightning.evaluation.figures import draw_best_of_n, draw_curves, draw_steps
from prm_lightning.evaluation.report_data import Folder, ScoredSet, read_folder
from prm_lightning.evaluation.results import UNDEFINED, draw_problems, summarise
from prm_lightning.modeling.metrics import (
    POSITION_METRICS,
    POSITION_NAMES,
    SOURCE_METRICS,
    judge_flags,
    measure,
    measure_part,
)
from prm_lightning.modeling.scored_steps import Draws, ScoredSolution, StepScores, to_step_scores

HERE = Path(__file__).parent
RESAMPLES = 200


class Tile(NamedTuple):
    """A figure of the first screen."""

    label: str
    value: float  # NaN where the data leave it undefined
    verdict: str  # how it compares with a baseline, in words
    change: str = ""  # its difference to that baseline, such as +0.120 to untrained head
    good: bool = False  # whether it is better


def render_page(paths: Sequence[Path], solutions: int) -> str:
    """The page of folders that `fit` and `evaluate` wrote, with some solutions of each set."""
    folders = [read_folder(path) for path in paths]
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=ChainableUndefined,  # of files of other versions, too
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = show_number
    environment.tests["words"] = is_words
    script = (HERE / "report.js").read_text(encoding="utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    packed = [
        pack_solutions(f"{folder.name}: {scored.name}", scored, solutions)
        for folder in folders
        for scored in folder.sets
    ]
    return environment.get_template("report.j2").render(
        title=", ".join(folder.name for folder in folders),
        sections=list(map(describe, folders)),
        style=Markup((HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=f"sha256-{base64.b64encode(digest).decode()}",
        solutions=packed,
    )


def pack_solutions(name: str, scored: ScoredSet, most: int) -> dict[str, Any]:
    """A scored set as the page's script reads it; problems and sources are named once.

    Of more than `most` solutions those with the largest ``abs(label - score)`` are kept.
    """
    errors = [
        max(
            (abs(y - p) for y, p in zip(s.labels, s.scores, strict=True) if y is not None),
            default=-1,
        )
        for s in scored.solutions
    ]
    kept = sorted(range(len(errors)), key=lambda i: -errors[i])[:most]
    problems: dict[str, int] = {}
    sources: dict[str, int] = {}
    rows = [
        {
            "id": solution.id,
            "source": sources.setdefault(solution.source, len(sources)),
            "problem": problems.setdefault(solution.problem, len(problems)),
            "steps": solution.steps,
            "labels": solution.labels,
            "scores": [round(score, 4) for score in solution.scores],
            "first": solution.first_error,
        }
        for solution in (scored.solutions[i] for i in sorted(kept))
    ]
    return {
        "name": name,
        "threshold": scored.threshold,
        "total": len(scored.solutions),
        "sources": list(sources),
        "problems": list(problems),
        "solutions": rows,
    }


def is_words(value: Any) -> bool:
    """Whether a cell is read as text rather than compared as a number."""
    return isinstance(value, str) and value[:1] not in "0123456789+-–[(."


def show_number(value: Any) -> str:
    """A cell: three digits of a float, all of an integer, a dash for what is undefined."""
    if value is None or isinstance(value, Undefined) or value != value:  # NaN is not itself
        return UNDEFINED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if type(value) is int else str(value)


def describe(folder: Folder) -> dict[str, Any]:
    """What the template shows of a folder besides what is in its files."""
    results, untrained = folder.files["results"], folder.files["untrained"]
    rows = results.get("rows", ())
    others = {"before training": untrained} if untrained else {}
    others |= {
        scored.name: measure(gather(scored), (), scored.threshold)
        for scored in folder.sets
        if scored.kind == "untrained"
    }
    sets = [
        {"name": scored.name, "tiles": make_pool_tiles(rows, scored.name)}
        if results.get("benchmark") == "best-of-n"
        else describe_set(scored, others)
        for scored in folder.sets
        if scored.kind == "model"
    ]
    curves = draw_curves(folder.log, untrained, folder.best.get("step"))
    return {"folder": folder, "sets": sets, "charts": [*curves, *draw_best_of_n(rows)]}


def gather(scored: ScoredSet) -> StepScores:
    """The solutions of a set as columns."""
    return to_step_scores([ScoredSolution(*solution[2:]) for solution in scored.solutions])


def describe_set(scored: ScoredSet, others: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """What the scores of a set are worth, if any of its steps is labelled.

    It is compared with `others`, metrics of untrained baselines, and with constant baselines.
    """
    scores = gather(scored)
    steps = scores.supervised
    if not len(steps.labels):
        return {"name": scored.name}
    sources = list(dict.fromkeys(solution.source for solution in scored.solutions))
    constants = {
        name: measure(same, threshold=0.5) for name, same in constant_baselines(scores).items()
    }
    thresholds = {scored.threshold: scored.threshold_from}
    thresholds.setdefault(0.5, "")
    return {
        "name": scored.name,
        "tiles": make_tiles(scored, {**others, **constants}),
        "confusions": [_confuse(steps, *threshold) for threshold in thresholds.items()],
        "charts": draw_steps(steps.probabilities, steps.labels, scored.threshold),
        "measured": measure(scores, sources, scored.threshold),
        "parts": {
            "position": (POSITION_NAMES, POSITION_METRICS),
            "source": (sources, SOURCE_METRICS),
        },
        "majority": constants[MAJORITY],
    }


def _confuse(steps: StepScores, threshold: float, fitted_on: str) -> dict[str, Any]:
    """Wrong flagged, wrong passed, right flagged and right passed steps, and what they make."""
    flagged, wrong = steps.probabilities < threshold, steps.labels < 0.5
    judged = judge_flags(flagged, wrong, Draws.once(len(wrong)))
    return {
        "threshold": threshold,
        "fitted_on": fitted_on,
        "cells": [int((f & w).sum()) for w in (wrong, ~wrong) for f in (flagged, ~flagged)],
        **{name: float(values[0]) for name, values in judged.items()},
    }


def make_tiles(scored: ScoredSet, baselines: Mapping[str, Mapping[str, float]]) -> list[Tile]:
    """ProcessBench F1, AUROC, errors found and right solutions passed, at the set's threshold."""
    problems = [solution.problem for solution in scored.solutions]
    counts = draw_problems(problems, RESAMPLES, seed=0).counts
    replicates = measure_part(gather(scored), scored.threshold, counts)

    def best_by(metric: str) -> str:
        known = {name: b[metric] for name, b in baselines.items() if b.get(metric) is not None}
        known = {name: value for name, value in known.items() if not math.isnan(value)}
        return max(known, key=lambda name: known[name], default="")

    # Finding all errors is easy for what passes nothing, and the reverse.
    best, best_ranking = best_by("processbench_f1"), best_by("auroc")
    return [
        _tile(
            label,
            *summarise(replicates[metric])[:2],
            name.rpartition(", ")[2],  # surprisal, without the model's name before it
            baselines.get(name, {}).get(metric),
        )
        for label, metric, name in (
            ("ProcessBench F1", "processbench_f1", best),
            ("AUROC of steps", "auroc", best_ranking),
            ("Errors found", "processbench_wrong", best),
            ("Right solutions passed", "processbench_right", best),
        )
    ]


def make_pool_tiles(rows: Sequence[Mapping[str, Any]], model: str) -> list[Tile]:
    """Best of N and weighted vote next to the majority, and pairs next to chance.

    They are those of the aggregation chosen for the model, among the rows of results.json.
    """
    largest = max((row["n"] for row in rows if row["n"]), default=0)
    tiles = []
    for row in rows:
        if row["model"] != model or not row["chosen"] or row["n"] not in (None, largest):
            continue
        if row["method"] == "pairs":
            pairs = row["metrics"]["pair_accuracy"]
            tiles.append(_tile("Pairs in order", pairs["value"], pairs["low"], "chance", 0.5))
        else:
            label = {"best": f"Best of {largest}", "weighted": "Weighted vote"}[row["method"]]
            accuracy, gain = row["metrics"]["accuracy"], row["metrics"]["minus_majority"]
            other = accuracy["value"] - gain["value"]
            tiles.append(_tile(label, accuracy["value"], accuracy["low"], "majority", other))
    return tiles


def _tile(
    label: str, value: float | None, low: float | None, name: str, other: float | None
) -> Tile:
    """A figure with the lower end of its interval, compared with that of a baseline."""
    value, low, other = (math.nan if x is None else x for x in (value, low, other))
    if math.isnan(value):
        return Tile(label, value, "undefined: one kind of solution is missing")
    if math.isnan(other):
        return Tile(label, value, "no baseline to compare with")
    change = f"{value - other:+.3f}".replace("-", "−") + f" to {name}"
    if value <= other:
        return Tile(label, value, f"no better than {name}", change)
    if low > other:
        return Tile(label, value, f"better than {name}", change, True)
    begins = "" if math.isnan(low) else f": the 95 % interval begins at {low:.3f}"
    return Tile(label, value, f"perhaps better than {name}{begins}", change)
