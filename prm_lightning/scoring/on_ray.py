"""Score a data set with several Ray actors that each hold the model; rows as `rows.score_file`.

The input is cut into pieces. An actor reads a piece, scores it and writes it as a part of the
output; the parts that are done are recorded, so that a second call resumes with the others.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from prm_lightning.files import ResumableRows, digest, require_replaceable, write_rows, written_file
from prm_lightning.scoring.rows import ROWS_AT_A_TIME, ScoreOptions, parse_row, score_rows
from prm_lightning.scoring.scorers import fingerprint, load_scorer
from prm_lightning.sources.rows import Row, files_of_split, parse_lines, read_file, read_row_groups
from prm_lightning.types import Dropped

PIECE_ROWS = 4 * ROWS_AT_A_TIME  # cut where the local engine cuts
MOST_BLOCKS = 10_000  # that Ray keeps track of; pieces beyond share one
RECORD = ".parts.jsonl"  # one line per part: its number and the outcomes of its rows


class Piece(NamedTuple):
    """Some rows of one file that follow each other.

    Args:
        file: path, seen by every machine.
        begin: of a JSON Lines file the byte where the first line begins, of a Parquet file the
            index of its row group.
        first: number of the first line or row.
        lines: how many; None is the whole file, or row group.
    """

    file: str
    begin: int = 0
    first: int = 0
    lines: int | None = None


def score_on_ray(
    model: str,
    input: str,
    output: Path,
    options: ScoreOptions,
    device: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> Iterator[tuple[Counter[str], int, int]]:
    """Score a data set in pieces.

    With ``RAY_ADDRESS`` set the cluster there is used, else a local one is started. Parts are in
    ``.NAME.partial`` until all are there. An actor that dies is replaced and its piece scored
    again.

    Args:
        model: as for `load_scorer`; a local model is in a folder that every machine sees.
        input: a JSON Lines, JSON or Parquet file, or a folder of them, seen by every machine.
        output: folder to write, in which ``part-000000.jsonl`` and so on hold the rows that the
            local engine writes, in the order of the input; parts of Parquet files are Parquet.
        options: how rows are read and what is made of their scores.
        device: for a local model; None takes a GPU where the cluster has any.
        workers: actors; None is one per GPU, or one per CPU without any.
        overwrite: replace the output, or what another job has begun.

    Yields:
        Counts of all outcomes so far, finished parts, and all parts.

    Raises:
        FileExistsError: `output` exists, or holds other files than parts.
        ValueError: Ray is not installed, another job began to write there, no row can be scored, or
            an actor fails.
    """
    require_replaceable(output, overwrite=overwrite, ours=["part-*", f"*{RECORD}*"])
    pieces = cut(input)
    _require_scorable(pieces, input, options)
    folder = output.with_name(f".{output.name}.partial").absolute()
    state = "".join(f"{file} {_state(file)}\n" for file in sorted({p.file for p in pieces}))
    job = {"model": fingerprint(model), "input": digest(state)[:32], "parts": len(pieces)}
    record = ResumableRows(folder / RECORD, job | asdict(options))
    counts: Counter[str] = Counter()
    missing = dict(enumerate(pieces))
    for done in record.begin(overwrite=overwrite):
        del missing[done["part"]]
        counts.update(done["rows"])
    if len(missing) == len(pieces):
        for stale in folder.glob("part-*"):  # of another job
            stale.unlink()
    yield counts, len(pieces) - len(missing), len(pieces)
    arguments = (model, device, options, folder, Path.cwd())
    for done in _run_actors(arguments, missing, workers, gpus=device in (None, "cuda")):
        record.append(done)
        del missing[done["part"]]
        counts.update(done["rows"])
        yield counts, len(pieces) - len(missing), len(pieces)
    if missing:
        raise ValueError(f"score: {len(missing)} of {len(pieces)} parts came back from no actor.")
    _take_name(folder, output)
    ResumableRows(output / RECORD, record.job).finish(len(pieces))


def cut(path: str, rows: int = PIECE_ROWS) -> list[Piece]:
    """Pieces of a file or folder, in order; together they are what `read_rows` reads.

    A JSON Lines file is cut after every so many lines, a Parquet file into its row groups; a JSON
    array, or a compressed file, is one piece.

    Raises:
        FileNotFoundError: there is none; a data set of the Hub has to be fetched first.
        ValueError: a folder without data files, or of several kinds.
    """
    if not Path(path).exists():
        raise FileNotFoundError(
            f"{path!r}: no such file or folder; to read it in pieces, fetch it to a folder that "
            "all machines share."
        )
    files = [path] if Path(path).is_file() else files_of_split(path)
    return [piece for file in files for piece in _cut_file(file, rows)]


def read_piece(piece: Piece) -> Iterator[Row | Dropped]:
    """Its rows, each with the place that `read_rows` names."""
    file = Path(piece.file)
    if file.suffix == ".parquet":
        yield from read_row_groups(file, [piece.begin], piece.first)
    elif piece.lines is None:
        yield from read_file(file)
    else:
        with file.open("rb") as opened:
            opened.seek(piece.begin)
            yield from parse_lines(file, islice(opened, piece.lines), piece.first)


class PieceScorer:
    """An actor: holds the model, reads pieces, writes parts.

    Args:
        model: as for `load_scorer`.
        device: for a local model.
        options: how rows are read and what is made of their scores.
        folder: to write to.
        here: folder that relative paths start from, which Ray may start its workers outside of.
    """

    def __init__(
        self, model: str, device: str | None, options: ScoreOptions, folder: Path, here: Path
    ) -> None:
        os.chdir(here)
        self.scorer = load_scorer(model, device)
        self.options = options
        self.folder = folder

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Work on the pieces of a batch of Ray Data; of an error Ray would lose the message."""
        done: list[dict[str, Any]] = []
        for task in batch["task"]:
            part, piece = json.loads(task)
            try:
                done.append({"part": part, "rows": self.score(part, Piece(*piece))})
            except (OSError, ValueError) as error:
                done.append({"failed": str(error)})
        return {"done": [json.dumps(what) for what in done]}

    def score(self, part: int, piece: Piece) -> Counter[str]:
        """Write the part of a piece, also again; returns its rows by outcome."""
        rows = [parse_row(row, self.options) for row in read_piece(piece)]
        records = [
            record
            for start in range(0, len(rows), ROWS_AT_A_TIME)
            for record in score_rows(
                self.scorer, rows[start : start + ROWS_AT_A_TIME], self.options
            )
        ]
        name = f"part-{part:06d}"
        if piece.file.endswith(".parquet"):
            _write_parquet(self.folder / f"{name}.parquet", records, piece)
        else:
            write_rows(self.folder / f"{name}.jsonl", records)
        return Counter(record["outcome"] for record in records)


def _cut_file(file: str, rows: int) -> Iterator[Piece]:
    if file.endswith(".parquet"):
        import pyarrow.parquet

        metadata = pyarrow.parquet.read_metadata(file)
        first = 0
        for group in range(metadata.num_row_groups):
            yield Piece(file, group, first)
            first += metadata.row_group(group).num_rows
    elif file.endswith(".jsonl"):
        begin, first = 0, 1
        with Path(file).open("rb") as lines:
            while taken := list(islice(lines, rows)):
                yield Piece(file, begin, first, len(taken))
                begin, first = begin + sum(map(len, taken)), first + len(taken)
    else:
        yield Piece(file)


def _take_name(folder: Path, output: Path) -> None:
    """The finished folder becomes the output, in place of an older one of ours."""
    for stale in folder.glob(".part-*"):  # that an actor did not finish
        stale.unlink()
    if output.exists():
        for old in output.iterdir():  # parts alone, since it may be replaced
            old.unlink()
        output.rmdir()
    folder.rename(output)


def _require_scorable(pieces: Sequence[Piece], path: str, options: ScoreOptions) -> None:
    parsed = (parse_row(row, options) for piece in pieces for row in read_piece(piece))
    first = next(parsed, None)
    if first is None:
        raise ValueError(f"{path}: empty, expected at least one row; check that it is complete.")
    if first.message and all(row.message for row in parsed):
        raise ValueError(f"score: no row of {path} can be scored. The first: {first.message}")


def _state(file: str) -> str:
    stat = Path(file).stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _write_parquet(path: Path, records: Sequence[dict[str, Any]], piece: Piece) -> None:
    """The columns of the input with their types, then those of the result."""
    import pyarrow
    import pyarrow.parquet

    result = {
        "scores": pyarrow.list_(pyarrow.float64()),
        "score": pyarrow.float64(),
        "first_error": pyarrow.int64(),
        "outcome": pyarrow.string(),
        "message": pyarrow.string(),
    }
    given = [field for field in pyarrow.parquet.read_schema(piece.file) if field.name not in result]
    schema = pyarrow.schema([*given, *result.items()])
    with written_file(path) as partial:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(records), schema), partial)


def _run_actors(
    arguments: Sequence[Any], missing: dict[int, Piece], workers: int | None, *, gpus: bool
) -> Iterator[dict[str, Any]]:
    """What actors say of pieces, as they finish."""
    if not missing:
        return
    ray = _start_ray(workers)
    resources = ray.cluster_resources()
    gpu_count = int(resources.get("GPU", 0)) if gpus else 0
    actors = workers or gpu_count or int(resources.get("CPU", 1))
    items = [{"task": json.dumps([part, piece])} for part, piece in missing.items()]
    blocks = min(len(items), MOST_BLOCKS)
    try:
        found = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
            PieceScorer,
            fn_constructor_args=tuple(arguments),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(len(items), actors)),
            num_cpus=1,
            num_gpus=1 if gpu_count else 0,
        )
        for row in found.iter_rows():
            done = json.loads(row["done"])
            if "failed" in done:
                raise ValueError(f"score: {done['failed'].removeprefix('score: ')}")
            yield done
    except ray.exceptions.RayError as error:
        inner: BaseException = error
        while deeper := getattr(inner, "cause", None) or inner.__cause__:
            inner = deeper
        first_line = (str(inner).strip() or type(inner).__name__).splitlines()[0]
        raise ValueError(f"score: an actor failed: {first_line}") from error


def _start_ray(workers: int | None) -> Any:
    """Ray, connected to a cluster or with one of its own that has room for the workers."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError(
            "score: --engine ray needs Ray, which is not installed. Install the extra: "
            "pip install 'prm_lightning[ray]'."
        ) from error
    if not ray.is_initialized():
        alone: dict[str, Any] = {
            "address": "local",
            "include_dashboard": False,
            "num_cpus": max(workers or 1, os.cpu_count() or 1),
        }
        if os.environ.get("RAY_ADDRESS"):
            alone = {}
        ray.init(logging_level=logging.WARNING, log_to_driver=False, **alone)
    ray.data.DataContext.get_current().enable_progress_bars = False
    for handler in logging.getLogger("ray.data").handlers:
        if handler.name == "console":  # news of each step; what fails is raised
            handler.setLevel(logging.CRITICAL)
    return ray
