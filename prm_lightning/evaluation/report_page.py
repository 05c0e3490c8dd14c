"""The report as HTML: everything that it shows is in the page, and no text of models is markup."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from prm_lightning.evaluation.report_data import Run, ScoredSet, ShownSolution, read_folder
from prm_lightning.evaluation.report_sections import describe_evaluation, describe_run
from prm_lightning.evaluation.results import UNDEFINED

HERE = Path(__file__).parent


def render_page(folders: Sequence[Path], solutions: int) -> str:
    """The page of some runs and evaluations.

    Args:
        folders: outputs of `fit` and of `evaluate`.
        solutions: that are kept of each scored set.
    """
    inputs = [read_folder(folder) for folder in folders]
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = show_number
    environment.tests["words"] = is_words
    script = (HERE / "report.js").read_text(encoding="utf-8")
    names = [item.folder.resolve().name for item in inputs]
    packed = [
        pack_solutions(f"{name}: {scored.name}", scored, solutions)
        for name, item in zip(names, inputs, strict=True)
        for scored in ([item.scored] if isinstance(item, Run) else item.scored)
        if scored is not None and scored.solutions
    ]
    return environment.get_template("report.j2").render(
        title=", ".join(names),
        sections=[
            describe_run(item) if isinstance(item, Run) else describe_evaluation(item)
            for item in inputs
        ],
        style=Markup((HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=hash_script(script),
        solutions=Markup(embed(packed)),
        has_solutions=bool(packed),
    )


def embed(value: Any) -> str:
    """JSON that may be inside ``<script type="application/json">``, in ASCII.

    Neither ``</script>`` nor ``<!--`` nor a line separator can occur in it.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def hash_script(script: str) -> str:
    """What a Content-Security-Policy calls a script that may run, and nothing else may."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def pack_solutions(name: str, scored: ScoredSet, most: int) -> dict[str, Any]:
    """A scored set as the page's script reads it; problems and sources are named once.

    Args:
        name: to choose it by.
        scored: with at least one solution.
        most: solutions that are kept, those with the largest ``abs(label - score)``.
    """
    chosen = range(len(scored.solutions))
    if len(scored.solutions) > most:
        by_error = sorted(chosen, key=lambda i: (-largest_error(scored.solutions[i]), i))
        chosen = sorted(by_error[:most])  # type: ignore[assignment]
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
        for solution in (scored.solutions[i] for i in chosen)
    ]
    return {
        "name": name,
        "threshold": scored.threshold,
        "total": len(scored.solutions),
        "sources": list(sources),
        "problems": list(problems),
        "solutions": rows,
    }


def largest_error(solution: ShownSolution) -> float:
    """Of its labelled steps, in [0, 1]; -1 where none is labelled."""
    pairs = zip(solution.labels, solution.scores, strict=True)
    return max((abs(y - p) for y, p in pairs if y is not None), default=-1.0)


def is_words(value: Any) -> bool:
    """Whether a cell is read as text rather than compared as a number."""
    return isinstance(value, str) and value[:1] not in "0123456789+-–[(."


def show_number(value: Any) -> str:
    """A cell: three digits of a float, all of an integer, a dash for what is undefined."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return UNDEFINED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if type(value) is int else str(value)
