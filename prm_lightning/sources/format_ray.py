"""Verb `format` on a Ray cluster: the rows of the local engine, from many machines.

Workers read every piece of the data twice. First they say of each solution what decides its fate:
its problem, and how many right and wrong steps it has. Near duplicates, the split and the balance
need all of the data, so that one process decides; it holds the text of each problem once, and some
numbers of each solution. Then workers write what was decided.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, TypeGuard

from prm_lightning.on_ray import PartWorker, replace_folder, run_on_ray
from prm_lightning.scoring.resumable import ResumableRows
from prm_lightning.sources.format_parts import (
    NONE,
    Choices,
    Decided,
    Decision,
    Survey,
    decide,
    load,
    save,
    settle,
    survey,
)
from prm_lightning.sources.formatted import PREFIX_COLUMNS
from prm_lightning.sources.formatting import Summary, progress, read_specs
from prm_lightning.sources.mixture import SourceSpec
from prm_lightning.sources.pieces import Piece, cut, digest, read_piece, size_of
from prm_lightning.sources.rows import Part, Row
from prm_lightning.sources.stepwise import Stepwise
from prm_lightning.sources.training_rows import LINES, Layout, StepRows
from prm_lightning.types import Dropped, RowSource, Solution, Source

PIECE_ROWS = 4096
FOLDERS = TRAIN, VALIDATION = "prm_train", "prm_val"  # of parts, in the output
WORK = ".work"  # in the output until it is complete
RECORD = "done.jsonl"  # a line a piece that was read or written


@dataclass(frozen=True, slots=True)
class FormatJob:
    """What is formatted, and how.

    Args:
        source: see `formatting.format_files`; files lie where every machine of the cluster sees
            them.
        output: folder to write, in which ``prm_train/part-000000.jsonl`` and so on, in the order
            of their names, hold what the local engine writes to ``prm_train.jsonl``; so prm_val.
        layout: of the rows.
        choices: what is kept, and on which side.
        workers: actors that read and write; None is one a CPU.
    """

    source: str
    output: Path
    layout: Layout
    choices: Choices
    workers: int | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker takes at a time.

    Args:
        spec: index of the source.
        piece: of its files; None is all of a source that cannot be divided.
        first: index of the piece's first row among all of the source.
    """

    spec: int
    piece: Piece | None
    first: int = 0


def format_on_ray(job: FormatJob, *, overwrite: bool = False) -> Summary:
    """Format sources in pieces, each by one of several Ray actors.

    A source that does not read files row by row is one piece, and so is one of the layout `steps`,
    whose rows are joined. With ``RAY_ADDRESS`` set the cluster there is used, else a local one is
    started. Everything stands in ``.NAME.partial`` until it is complete. An actor that dies is
    replaced and its piece done again; after a kill of everything a second call goes on with what
    is missing.

    Raises:
        FileExistsError: `output` exists.
        ValueError: Ray is not installed, another job began to write there, no step is supervised,
            or an actor fails.
    """
    if job.output.exists() and not overwrite:
        raise FileExistsError(f"{job.output} exists. Give another --output, or --overwrite.")
    specs = read_specs(job.source)
    tasks = [task for number, spec in enumerate(specs) for task in _divide(number, spec)]
    folder = job.output.with_name(f".{job.output.name}.partial").absolute()
    record = ResumableRows(folder / WORK / RECORD, _describe(job, tasks))
    done: dict[str, set[int]] = {"reading": set(), "writing": set()}
    for row in record.begin(overwrite=overwrite):
        done[row["stage"]].add(row["part"])
    if not done["reading"]:  # what is there may be of another job
        for name in FOLDERS:
            shutil.rmtree(folder / name, ignore_errors=True)
    _run("reading", job, tasks, folder, record, done["reading"])
    decided = _decide(job, specs, tasks, folder / WORK)
    for name in FOLDERS:
        (folder / name).mkdir(exist_ok=True)
    _run("writing", job, tasks, folder, record, done["writing"])
    for name in FOLDERS:
        for unfinished in (folder / name).glob(".part-*"):  # by an actor that died
            unfinished.unlink()
        if not any((folder / name).iterdir()):
            (folder / name / "part-000000.jsonl").touch()
    replace_folder(folder, job.output)
    shutil.rmtree(job.output / WORK)
    rows = _step_rows(job.output / TRAIN)
    return Summary(decided.shapes, decided.report, decided.moved, rows)


class PieceFormatter(PartWorker):
    """Reads pieces, and writes of them what was decided.

    Args:
        job: what it works on.
        folder: to write to.
        here: see `PartWorker`.
    """

    def __init__(self, job: FormatJob, folder: Path, here: Path) -> None:
        super().__init__(here)
        self.job = job
        self.folder = folder
        self.specs = read_specs(job.source)

    def work(self, *task: Any) -> dict[str, Any]:
        """Read or write a piece; returns what the record says of it."""
        stage, part, values = task
        piece = values["piece"] and Piece(**values["piece"])
        do = self.read if stage == "reading" else self.write
        do(part, Task(values["spec"], piece, values["first"]))
        return {"stage": stage, "part": part}

    def read(self, part: int, task: Task) -> None:
        """Write the survey of a piece."""
        place = Part(task.first)
        rows = self._rows(task, place)
        found = survey(rows, place.carried, with_ids=self.job.layout == "solutions")
        save(found, _survey_file(self.folder / WORK, part))

    def write(self, part: int, task: Task) -> None:
        """Write the rows of a piece on both sides; a side without any gets no file."""
        decision = load(Decision, _decision_file(self.folder / WORK, part))
        paths = [self.folder / name / f"part-{part:06d}.jsonl" for name in FOLDERS]
        beside = [path.with_name(f".{path.name}.{os.getpid()}") for path in paths]
        rows = self._rows(task, Part(task.first, decision.carried))
        count = 0
        with (
            beside[0].open("w", encoding="utf-8", newline="\n") as train,
            beside[1].open("w", encoding="utf-8", newline="\n") as validation,
        ):
            for row in islice(rows, len(decision.sides)):
                if isinstance(row, Solution) and decision.sides[count] != NONE:
                    file = (train, validation)[decision.sides[count]]
                    file.writelines(LINES[self.job.layout](decision.apply(count, row)))
                count += 1
            for file in (train, validation):
                file.flush()
                os.fsync(file.fileno())
        if count != len(decision.sides):
            where = task.piece.file if task.piece else self.job.source
            raise ValueError(f"{where} changed while it was read. Begin anew: --overwrite.")
        for path, written in zip(paths, beside, strict=True):
            if written.stat().st_size:
                written.replace(path)
            else:
                written.unlink()

    def _rows(self, task: Task, part: Part) -> Iterator[Solution | Dropped]:
        """The rows of a piece, solutions settled."""
        spec = self.specs[task.spec]
        if task.piece is not None and _reads_row_by_row(spec.source):
            rows = spec.source.parse(read_piece(task.piece), part)
        else:
            rows = spec.source.read()
        for row in rows:
            yield settle(row, spec.name) if isinstance(row, Solution) else row


def _divide(number: int, spec: SourceSpec) -> Iterator[Task]:
    source = spec.source
    pieces = []
    if _reads_row_by_row(source) and Path(source.path).exists():
        pieces = cut(source.path, PIECE_ROWS, source.split)
    rows = (row for piece in pieces for row in read_piece(piece))
    first = next((row for row in rows if isinstance(row, Row)), None)
    if first is None or first.values.keys() >= {*PREFIX_COLUMNS}:
        yield Task(number, None)  # which says so if there is nothing to read
    else:
        sizes = [size_of(piece) for piece in pieces]
        for piece, first_row in zip(pieces, accumulate(sizes, initial=0), strict=False):
            yield Task(number, piece, first_row)


def _reads_row_by_row(source: Source) -> TypeGuard[RowSource]:
    """Whether `parse` of parts gives what `read` gives, also in a class made from one of ours."""
    if not isinstance(source, RowSource):
        return False
    owners = (
        next(kind for kind in type(source).__mro__ if name in vars(kind))
        for name in ("read", "parse")
    )
    return len(set(owners)) == 1


def _describe(job: FormatJob, tasks: Sequence[Task]) -> dict[str, Any]:
    """What a job is, so that only the same one is gone on with."""
    file = Path(job.source)
    is_text = file.suffix in (".yaml", ".yml")
    return {
        "source": file.read_text(encoding="utf-8") if is_text else job.source,
        "files": digest([task.piece for task in tasks if task.piece]),
        "parts": len(tasks),
        "layout": job.layout,
        **job.choices._asdict(),
    }


def _run(
    stage: str,
    job: FormatJob,
    tasks: Sequence[Task],
    folder: Path,
    record: ResumableRows,
    done: set[int],
) -> None:
    """Have the pieces that are not done read, or written."""
    missing = [(stage, part, asdict(task)) for part, task in enumerate(tasks) if part not in done]
    with progress(stage, len(tasks)) as advance:
        for _ in done:
            advance()
        for row in run_on_ray("format", PieceFormatter, (job, folder), missing, job.workers):
            record.append(row)
            advance()


def _decide(
    job: FormatJob, specs: Sequence[SourceSpec], tasks: Sequence[Task], folder: Path
) -> Decided:
    surveys = [load(Survey, _survey_file(folder, part)) for part in range(len(tasks))]
    owners = [task.spec for task in tasks]
    decided = decide(specs, owners, surveys, job.choices)
    for part, decision in enumerate(decided.decisions):
        save(decision, _decision_file(folder, part))
    return decided


def _step_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """What was written, as rows of the layout `steps`."""
    for file in sorted(folder.iterdir()):
        for row in Stepwise(str(file)).read() if file.stat().st_size else ():
            if isinstance(row, Solution):
                yield from StepRows([row])


def _survey_file(folder: Path, part: int) -> Path:
    return folder / f"survey-{part:06d}.json"


def _decision_file(folder: Path, part: int) -> Path:
    return folder / f"decision-{part:06d}.json"
