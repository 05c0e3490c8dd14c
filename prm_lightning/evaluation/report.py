"""Verb `report`: runs and evaluations as one HTML page that needs nothing but a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prm_lightning.command import run_verb
from prm_lightning.files import written_file

if TYPE_CHECKING:
    from prm_lightning.evaluation.report_inputs import ScoredSet

HERE = Path(__file__).parent
PAGE = "report.html"
UNDEFINED = "–"


def main(args: Sequence[str]) -> None:
    """The command line behind ``python -m prm_lightning report``."""
    args = list(args)
    first_option = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    if first_option:  # folders need no option before them
        args = ["--folders", *args]
    print(f"report  {run_verb('report', write_report, args)}")


def write_report(
    folders: list[str], output: str | None = None, solutions: int = 5000, overwrite: bool = False
) -> Path:
    """Show runs and evaluations on one HTML page, which holds everything that it shows.

    Args:
        folders: outputs of `fit` and of `evaluate`; the option's name may be left out.
        output: the page; by default report.html in the folder, if it is one.
        solutions: that the page holds of each scored data set, at least 1; of more, those with
            the largest errors are kept.
        overwrite: replace the page.

    Returns:
        Path of the page.

    Raises:
        FileExistsError: the page exists.
        ValueError: a folder holds neither a run nor an evaluation, or a file in it is broken.
    """
    if solutions < 1:
        raise ValueError(f"report: --solutions is {solutions}, expected at least 1.")
    if output is None and len(folders) != 1:
        raise ValueError(
            f"report: got {len(folders)} folders, so that no one of them is the place of the page. "
            "Name it with --output report.html."
        )
    page = Path(output) if output is not None else Path(folders[0]) / PAGE
    if page.is_dir():
        page = page / PAGE
    if page.exists() and not overwrite:
        raise FileExistsError(f"report: {page} exists. Give another --output, or --overwrite.")
    from prm_lightning.evaluation.report_inputs import read_folder

    html = render_page([read_folder(Path(folder)) for folder in dict.fromkeys(folders)], solutions)
    with written_file(page) as beside:
        # Python prints a lone surrogate, which JSON can hold and UTF-8 cannot, as \udc80.
        beside.write_text(html, encoding="utf-8", errors="backslashreplace", newline="\n")
    return page


def render_page(inputs: Sequence[Any], solutions: int) -> str:
    """The page of some runs and evaluations.

    Args:
        inputs: what `read_folder` returns.
        solutions: that are kept of each scored set.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    from prm_lightning.evaluation.report_inputs import Run
    from prm_lightning.evaluation.report_sections import describe_evaluation, describe_run

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
    return environment.get_template("report.html.j2").render(
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
    """JSON that may stand inside ``<script type="application/json">``, in ASCII.

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


def largest_error(solution: Any) -> float:
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
