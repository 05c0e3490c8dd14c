"""Verb `report`: runs and evaluations as one HTML page that needs nothing but a browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prm_lightning.command import UsageError, run_verb
from prm_lightning.files import written_file

PAGE = "report.html"


def main(args: Sequence[str]) -> None:
    """Run the verb; folders may be named without ``--folders``."""
    if args and not args[0].startswith("-"):
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
        raise UsageError(f"report: --solutions is {solutions}, expected at least 1.")
    if output is None and len(folders) != 1:
        raise UsageError(
            f"report: got {len(folders)} folders, so that no one of them is the place of the page. "
            "Name it with --output report.html."
        )
    page = Path(output or folders[0])
    if page.is_dir() or output is None:
        page = page / PAGE
    if page.exists() and not overwrite:
        raise FileExistsError(f"report: {page} exists. Give another --output, or --overwrite.")
    # It imports torch and matplotlib, which --help can do without.
    from prm_lightning.evaluation.report_page import render_page

    html = render_page([Path(folder) for folder in dict.fromkeys(folders)], solutions)
    with written_file(page) as beside:
        # Python prints a lone surrogate, which JSON can hold and UTF-8 cannot, as \udc80.
        beside.write_text(html, encoding="utf-8", errors="backslashreplace", newline="\n")
    return page
