"""Verb `format`: any source as two files of training rows, one per step or one per solution."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from prm_lightning.command import run_verb
from prm_lightning.files import job_lock, require_replaceable, written_folder
from prm_lightning.sources.mixture import Mixture, SourceSpec, as_specs, describe, read_mixture
from prm_lightning.sources.rewards import supervised_steps
from prm_lightning.sources.splits import Balance, Split, balance, split_by_group
from prm_lightning.sources.stepwise import Stepwise
from prm_lightning.terminal import Bar, visible
from prm_lightning.text import normalise_problem
from prm_lightning.types import Solution

Layout = Literal["steps", "solutions"]

GSM8K_GEN_STEPWISE = "ebony59/gsm8k-gen-stepwise"
ALIASES = {"--dataset": "--source", "--no_balance": "--balance=none"}
TRAIN_FILE, VAL_FILE = "prm_train.jsonl", "prm_val.jsonl"
ROWS_A_PROBLEM = 100  # read at most to preview a problem
SHOWN = 400  # characters of a text in a sample


def main(args: Sequence[str]) -> None:
    """Run the verb with the command line after its name."""
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
        layout: `steps` writes one row per step, with all steps before it; `solutions` writes one
            row per solution.
        max_examples: number of rows to read at most, >= 1; all by default.
        max_problems: number of problems to keep, the first ones, with all their solutions; all by
            default.
        balance: what to do about more right steps than wrong ones, or fewer, on the training side:
            `subsample` draws as many of one as of the other, `weights` makes all wrong steps
            together weigh as much as all right ones (with `--layout solutions`), `none`, also
            `--no_balance`, leaves them as they are.
        val_ratio: share of the problems to validate on, in [0, 1).
        seed: seed of the split and of the draw.
        preview: number of problems to format and print without writing anything.
        overwrite: replace the folder, if it holds nothing but what `format` wrote.
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
    specs, folder, ours = read_specs(source), Path(output), (TRAIN_FILE, VAL_FILE)
    if preview is not None:
        max_problems = min(preview, max_problems or preview)
        max_examples = max_examples or preview * ROWS_A_PROBLEM
        _print_summary(*_format(specs, max_examples, max_problems, balance, val_ratio, seed))
        print("preview: nothing was written")
        return
    with job_lock(folder, "format"):
        require_replaceable(folder, overwrite=overwrite, ours=ours)
        mixture, split = _format(specs, max_examples, max_problems, balance, val_ratio, seed)
        with written_folder(folder, overwrite=overwrite, ours=ours) as partial:
            write_solutions(partial / TRAIN_FILE, split.train, layout)
            write_solutions(partial / VAL_FILE, split.validation, layout)
    _print_summary(mixture, split)
    print(f"wrote {output}/{TRAIN_FILE} and {VAL_FILE}")


def format_stepwise(
    source: str = GSM8K_GEN_STEPWISE,
    max_examples: int | None = None,
    max_problems: int | None = None,
    val_ratio: float = 0.1,
    seed: int = 17,
    *,
    balance: bool = True,
    balance_dataset: bool | None = None,
) -> tuple[StepRows, StepRows]:
    """The rows that the verb `format` writes with the layout `steps`, without writing them.

    Args:
        source: what to read; this and the next four are as for the verb.
        max_examples: number of rows to read at most; None reads all.
        max_problems: number of problems to keep, the first ones; None keeps all.
        val_ratio: share of the problems to validate on, in [0, 1).
        seed: seed of the split and of the draw.
        balance: draw as many right as wrong steps for training.
        balance_dataset: another name of `balance`, which the guide to gsm8k-gen-stepwise uses.

    Returns:
        Train and validation, whose rows are made when they are asked for.
    """
    is_balanced = balance if balance_dataset is None else balance_dataset
    how: Balance = "subsample" if is_balanced else "none"
    _, split = _format(read_specs(source), max_examples, max_problems, how, val_ratio, seed)
    return StepRows(split.train), StepRows(split.validation)


def read_specs(source: str) -> list[SourceSpec]:
    """The sources that the verb's option `source` names, see `as_specs`."""
    if source == GSM8K_GEN_STEPWISE.partition("/")[2]:
        return [SourceSpec(Stepwise(GSM8K_GEN_STEPWISE))]
    return as_specs(source)


class StepRows(Sequence[dict[str, Any]]):
    """The supervised steps of solutions as a list of rows, each made when it is asked for.

    A row holds `problem`, `step`, `previous_steps`, `reasoning_path` (these and the step), `label`
    (0 or 1; a soft label counts as 1 from 0.5 on), `step_index` (from 0) and `total_steps`. Memory
    holds the solutions, never a copy of each beginning; `list(rows)` makes them all.

    Args:
        solutions: labels and weights settled.
    """

    def __init__(self, solutions: Sequence[Solution]) -> None:
        self.solutions = solutions
        self._places = [(s, k) for s in solutions for k, _ in supervised_steps(s)]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [_step_row(*place) for place in self._places[index]]
        return _step_row(*self._places[index])


def write_solutions(path: Path, solutions: Sequence[Solution], layout: Layout) -> None:
    """Write a file of the layout, row by row, so that memory does not grow with the rows."""
    with (
        path.open("w", encoding="utf-8", newline="\n") as file,
        Bar(f"writing {path.name}", len(solutions)) as bar,
    ):
        for solution in solutions:
            rows = [_solution_row(solution)] if layout == "solutions" else StepRows([solution])
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            bar.advance()


def _format(
    specs: Sequence[SourceSpec],
    max_examples: int | None,
    max_problems: int | None,
    how: Balance,
    val_ratio: float,
    seed: int,
) -> tuple[Mixture, Split]:
    """Read, choose, split by problem and balance; every label is kept, also after an error.

    Validation stays as it is, since a balanced validation set would flatter a model.
    """
    with Bar("reading") as bar:
        mixture = read_mixture(specs, max_rows=max_examples, each_row=bar.advance)
    problems = [normalise_problem(solution.problem) for solution in mixture.solutions]
    chosen = set(list(dict.fromkeys(problems))[:max_problems])
    read = zip(mixture.solutions, problems, strict=True)
    split = split_by_group([s for s, problem in read if problem in chosen], val_ratio, seed)
    return mixture, split._replace(train=balance(split.train, how, seed))


def _step_row(solution: Solution, k: int) -> dict[str, Any]:
    texts = [step.text for step in solution.steps[: k + 1]]
    label = solution.steps[k].label
    return {
        "problem": solution.problem,
        "step": texts[-1],
        "previous_steps": texts[:-1],
        "reasoning_path": texts,
        "label": int(label is not None and label >= 0.5),
        "step_index": k,
        "total_steps": len(solution.steps),
    }


def _solution_row(solution: Solution) -> dict[str, Any]:
    return {
        "problem": solution.problem,
        "steps": [step.text for step in solution.steps],
        "labels": [step.label for step in solution.steps],
        "weights": [step.weight for step in solution.steps],
        "source": solution.source,
        "id": solution.id,
        **({} if solution.answer is None else {"answer": solution.answer}),
        **({"group": solution.group} if solution.group else {}),
    }


def _print_summary(mixture: Mixture, split: Split) -> None:
    """Print counts of both sides, what was dropped, and a right and a wrong step."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True, markup=False)
    table = Table("", "problems", "solutions", "steps", "correct", "wrong", "% wrong")
    for name, side in (("train", split.train), ("validation", split.validation)):
        shape = describe(side)
        share = shape["wrong_share"]
        keys = ("problems", "solutions", "supervised_steps", "correct_steps", "wrong_steps")
        percent = "" if share is None else f"{100 * share:.1f}"
        table.add_row(name, *(f"{shape[key]:,}" for key in keys), percent)
    console.print(table)
    for name, part in mixture.report().items():
        lengths = part["steps_per_solution"]
        steps = f", {lengths['min']} to {lengths['max']} steps each" if lengths else ""
        console.print(f"{visible(name)}: {part['read']:,} rows read, {part['kept']:,} kept{steps}")
        for reason, dropped in part["dropped"].items():
            console.print(f"  dropped {dropped['count']:,}: {reason}\n    {dropped['first'][0]}")
    if moved := split.report["moved"]["keys"]:
        console.print(f"{moved:,} problems changed sides to stay with near duplicates")
    rows = StepRows(split.train)
    for label, name in ((1, "correct"), (0, "wrong")):
        row = next((row for row in rows if row["label"] == label), None)
        if row is None:
            continue
        console.print(
            f"\n{name}, step {row['step_index'] + 1} of {row['total_steps']}", style="bold"
        )
        console.print(visible(row["problem"][:SHOWN]))
        for text in row["previous_steps"]:
            console.print(f"    {visible(text[:SHOWN])}", style="dim")
        console.print(f"  > {visible(row['step'][:SHOWN])}")
    console.print()


def _unalias(arg: str) -> str:
    option, equals, value = arg.partition("=")
    name = ALIASES.get(option.replace("-", "_").replace("__", "--", 1), option)
    return name + equals + value
