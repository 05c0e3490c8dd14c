"""Verb `format`: any source as two files of training rows, one a step or one a solution."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prm_lightning.command import run_verb
from prm_lightning.files import written_folder
from prm_lightning.sources.mixture import Mixture, ReadReport, SourceSpec, describe, read_mixture
from prm_lightning.sources.splits import Balance, balance, split_by_group
from prm_lightning.sources.stepwise import Stepwise
from prm_lightning.sources.training_rows import LINES, Layout, StepRows
from prm_lightning.text import normalise_problem
from prm_lightning.types import Dropped, Solution, Source

if TYPE_CHECKING:
    from rich.console import Console

GSM8K_GEN_STEPWISE = "ebony59/gsm8k-gen-stepwise"
SHORT_NAMES = {"gsm8k-gen-stepwise": GSM8K_GEN_STEPWISE}
ALIASES = {"--dataset": "--source", "--no_balance": "--balance=none"}
TRAIN_FILE, VAL_FILE = "prm_train.jsonl", "prm_val.jsonl"
ROWS_A_PROBLEM = 100  # read at most to preview a problem
SHOWN = 400  # characters of a text in a sample


class Formatted(NamedTuple):
    """Solutions ready to be written.

    Args:
        train: balanced as asked.
        validation: as they are, since a balanced validation set would flatter a model.
        report: of the rows read.
        split: see `Split.report`.
    """

    train: list[Solution]
    validation: list[Solution]
    report: ReadReport
    split: dict[str, Any]


def main(args: Sequence[str]) -> None:
    """Run the verb with the command line behind it."""
    run_verb("format", format_files, [_unalias(arg) for arg in args])


def format_files(
    source: str = GSM8K_GEN_STEPWISE,
    output: str = "data/prm_formatted",
    layout: Layout = "steps",
    max_examples: int | None = None,
    max_problems: int | None = None,
    balance: Balance = "subsample",
    val_ratio: float = 0.1,
    seed: int = 17,
    preview: int | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write the training rows of any source to prm_train.jsonl and prm_val.jsonl.

    Args:
        source: what to read (also `--dataset`): `gsm8k-gen-stepwise`, the id of a Hub data set, a
            file or folder of step-labelled rows, or a YAML file with a list of sources as in the
            configurations of `fit`.
        output: folder to write, also `--output_dir`.
        layout: `steps` writes a row a step with all steps before it, `solutions` a row a solution.
        max_examples: read this many rows at most, >= 1; all by default.
        max_problems: keep the solutions of the first problems only, this many; all by default.
        balance: of right and wrong steps on the training side: `subsample` draws as many of the
            one as of the other, `weights` makes wrong steps weigh as much as right ones (needs
            the layout `solutions`), `none`, also `--no_balance`, leaves them as they are.
        val_ratio: share of problems to validate on, in [0, 1).
        seed: of the split and of the draw.
        preview: format this many problems only, print them, and write nothing.
        overwrite: replace the folder if it exists.
    """
    if balance == "weights" and layout == "steps":
        raise ValueError(
            "format: the layout steps has no weights; give --balance subsample or none, or "
            "--layout solutions."
        )
    counts = {"max_examples": max_examples, "max_problems": max_problems, "preview": preview}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"format: --{name} is {value}, expected 1 or more.")
    if Path(output).exists() and not overwrite and preview is None:
        raise FileExistsError(f"format: {output} exists. Give another --output, or --overwrite.")
    if preview is not None:
        max_problems = min(preview, max_problems or preview)
        max_examples = max_examples or preview * ROWS_A_PROBLEM
    formatted = format_specs(
        read_specs(source), max_examples, max_problems, balance, val_ratio, seed
    )
    if preview is None:
        with written_folder(Path(output), overwrite=overwrite) as folder:
            write_solutions(folder / TRAIN_FILE, formatted.train, layout)
            write_solutions(folder / VAL_FILE, formatted.validation, layout)
    print_summary(formatted)
    written = f"wrote {output}/{TRAIN_FILE} and {VAL_FILE}"
    print("preview: nothing was written" if preview else written)


def format_stepwise(
    source: str = GSM8K_GEN_STEPWISE,
    max_examples: int | None = None,
    max_problems: int | None = None,
    val_ratio: float = 0.1,
    seed: int = 17,
    *,
    balance: bool = True,
) -> tuple[StepRows, StepRows]:
    """The rows that the verb `format` writes with the layout `steps`, without writing them.

    Args:
        source: as for the verb.
        max_examples: rows to read at most.
        max_problems: keep the solutions of the first problems only.
        val_ratio: share of problems to validate on, in [0, 1).
        seed: of the split and of the draw.
        balance: draw as many right as wrong steps for training.

    Returns:
        Train and validation. Rows are made when they are asked for: memory holds the solutions,
        never a copy of each beginning. `list(train)` makes them all.
    """
    how: Balance = "subsample" if balance else "none"
    formatted = format_specs(read_specs(source), max_examples, max_problems, how, val_ratio, seed)
    return StepRows(formatted.train), StepRows(formatted.validation)


def format_specs(
    specs: Sequence[SourceSpec],
    max_examples: int | None,
    max_problems: int | None,
    how: Balance,
    val_ratio: float,
    seed: int,
) -> Formatted:
    """Read, choose, split by problem and balance; every label is kept, also behind an error."""
    with progress("reading") as advance:
        mixture = read_mixture(
            [SourceSpec(_Watched(s.source, advance), s.repeat, s.limit, s.name) for s in specs],
            max_rows=max_examples,
        )
    solutions = _of_first_problems(mixture, max_problems)
    split = split_by_group(solutions, val_ratio, seed)
    train = balance(split.train, how, seed)
    return Formatted(train, split.validation, mixture.report, split.report)


def read_specs(source: str) -> list[SourceSpec]:
    """The sources that a name means: see the verb's option `source`.

    Raises:
        ValueError: a YAML file holds no list of sources.
    """
    if Path(source).suffix not in (".yaml", ".yml"):
        return [SourceSpec(Stepwise(SHORT_NAMES.get(source, source)))]
    import yaml
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--sources", type=list[SourceSpec])
    try:
        content = yaml.safe_load(Path(source).read_text(encoding="utf-8"))
        if isinstance(content, dict):
            content = content.get("data", content)
        listed = content.get("sources") if isinstance(content, dict) else content
        if not isinstance(listed, list) or not listed:
            raise ValueError("no list of sources at its top, under sources or under data.sources")
        parsed = parser.parse_object({"sources": listed})
        specs: list[SourceSpec] = parser.instantiate_classes(parsed).sources
    except (ArgumentError, TypeError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"format: {source} is no list of sources ({reason}).") from error
    return specs


def write_solutions(path: Path, solutions: Sequence[Solution], layout: Layout) -> None:
    """Write a file of the layout, row by row, so that memory does not grow with the rows."""
    with (
        path.open("w", encoding="utf-8", newline="\n") as file,
        progress(f"writing {path.name}", len(solutions)) as advance,
    ):
        for solution in solutions:
            file.writelines(LINES[layout](solution))
            advance()


def print_summary(formatted: Formatted) -> None:
    """Print counts of both sides, what was dropped, and a right and a wrong step."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    table = Table("", "problems", "solutions", "steps", "correct", "wrong", "% wrong")
    for name, side in (("train", formatted.train), ("validation", formatted.validation)):
        shape = describe(side)
        share = shape["wrong_share"]
        keys = ("problems", "solutions", "supervised_steps", "correct_steps", "wrong_steps")
        percent = "" if share is None else f"{100 * share:.1f}"
        table.add_row(name, *(f"{shape[key]:,}" for key in keys), percent)
    console.print(table)
    for name, entry in formatted.report.to_json().items():
        lengths = entry["steps_per_solution"]
        steps = f", {lengths['min']} to {lengths['max']} steps each" if lengths else ""
        console.print(f"{name}: {entry['read']:,} rows read, {entry['kept']:,} kept{steps}")
        for reason, dropped in entry["dropped"].items():
            console.print(f"  dropped {dropped['count']:,}: {reason}", markup=False)
            console.print(f"    {dropped['first'][0]}", markup=False)
    if moved := formatted.split["moved"]["keys"]:
        console.print(f"{moved:,} problems changed sides to stay with near duplicates")
    _print_samples(console, StepRows(formatted.train))


class _Watched:
    """A source that reports each row it yields."""

    def __init__(self, source: Source, advance: Callable[[], None]) -> None:
        self.source = source
        self.advance = advance
        self.name = getattr(source, "name", type(source).__name__)

    def read(self) -> Iterator[Solution | Dropped]:
        for row in self.source.read():
            self.advance()
            yield row


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """A function to call for each thing done; a bar on stderr, if somebody watches it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def _print_samples(console: Console, rows: Iterable[dict[str, Any]]) -> None:
    """The first right step and the first wrong one, each with what leads to it."""
    first: dict[int, dict[str, Any]] = {}
    for row in rows:
        first.setdefault(row["label"], row)
        if len(first) == 2:
            break
    for label, name in ((1, "correct"), (0, "wrong")):
        if label not in first:
            continue
        row = first[label]
        console.print(
            f"\n{name}, step {row['step_index'] + 1} of {row['total_steps']}", style="bold"
        )
        console.print(row["problem"][:SHOWN], markup=False)
        for text in row["previous_steps"]:
            console.print(f"    {text[:SHOWN]}", markup=False, style="dim")
        console.print(f"  > {row['step'][:SHOWN]}", markup=False)
    console.print()


def _unalias(arg: str) -> str:
    option, equals, value = arg.partition("=")
    name = ALIASES.get(option.replace("-", "_").replace("__", "--", 1), option)
    return name + equals + value


def _of_first_problems(mixture: Mixture, count: int | None) -> list[Solution]:
    if count is None:
        return mixture.solutions
    keys = {p: normalise_problem(p) for p in dict.fromkeys(s.problem for s in mixture.solutions)}
    first = set(list(dict.fromkeys(keys.values()))[:count])
    return [solution for solution in mixture.solutions if keys[solution.problem] in first]
