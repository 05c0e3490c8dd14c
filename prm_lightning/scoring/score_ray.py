"""Score a folder of solutions on a Ray cluster: the rows of `score_file`, from many machines."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prm_lightning.files import ResumableRows
from prm_lightning.on_ray import PartWorker, replace_folder, run_on_ray
from prm_lightning.scoring.pieces import Piece, cut, digest, read_piece
from prm_lightning.scoring.score_file import ROWS_AT_A_TIME, Reading, parse_row, score_rows
from prm_lightning.scoring.scorers import fingerprint, load_scorer
from prm_lightning.types import Aggregation

PIECE_ROWS = 4 * ROWS_AT_A_TIME  # cut as the local engine cuts, so that scores are equal bit by bit
RECORD = ".parts.jsonl"  # a line a part: its name and the outcomes of its rows


@dataclass(frozen=True, slots=True)
class RayJob:
    """What is scored, and how.

    Args:
        model: as for `load_scorer`; local models lie where every machine of the cluster sees them.
        input: a JSON Lines, JSON or Parquet file, or a folder of them, seen by every machine.
        output: folder to write, in which ``part-000000.jsonl`` and so on hold the rows that the
            local engine writes, in the order of the input; parts of Parquet files are Parquet.
        aggregation: makes one score of a solution; None takes the model's own way.
        threshold: a step whose P(correct) lies below it is flagged; None takes the model's own.
        device: for a local model; None takes a GPU where the cluster has any.
        workers: actors that each hold the model; None is one a GPU, or one a CPU without any.
    """

    model: str
    input: str
    output: Path
    aggregation: Aggregation | None = None
    threshold: float | None = None
    device: str | None = None
    workers: int | None = None


def score_on_ray(
    job: RayJob, *, overwrite: bool = False
) -> Iterator[tuple[Counter[str], int, int]]:
    """Score a data set in pieces, each by one of several Ray actors that hold the model.

    With ``RAY_ADDRESS`` set the cluster there is used, else a local one is started. Parts stand in
    ``.NAME.partial`` until all are there. An actor that dies is replaced and its piece scored
    again; after a kill of everything a second call goes on with the pieces that are missing.

    Yields:
        Counts of all outcomes so far, finished parts, and all parts.

    Raises:
        FileExistsError: `output` exists.
        ValueError: Ray is not installed, another job began to write there, no row can be scored, or
            an actor fails.
    """
    if job.output.exists() and not overwrite:
        raise FileExistsError(f"{job.output} exists. Give another --output, or --overwrite.")
    pieces = cut(job.input, PIECE_ROWS)
    _require_scorable(pieces, job.input)
    folder = job.output.with_name(f".{job.output.name}.partial").absolute()
    record = ResumableRows(folder / RECORD, _describe(job, pieces))
    counts: Counter[str] = Counter()
    missing = dict(enumerate(pieces))
    for done in record.begin(overwrite=overwrite):
        del missing[done["part"]]
        counts.update(done["rows"])
    if len(missing) == len(pieces):
        _remove(folder.glob("part-*"))  # of another job
    yield counts, len(pieces) - len(missing), len(pieces)
    tasks = [[part, asdict(piece)] for part, piece in missing.items()]
    gpus = job.device in (None, "cuda")
    for done in run_on_ray("score", PieceScorer, (job, folder), tasks, job.workers, gpus=gpus):
        record.append(done)
        del missing[done["part"]]
        counts.update(done["rows"])
        yield counts, len(pieces) - len(missing), len(pieces)
    _remove(folder.glob(".part-*"))  # that an actor did not finish
    replace_folder(folder, job.output)
    ResumableRows(job.output / RECORD, record.job).finish()


class PieceScorer(PartWorker):
    """Holds the model, reads pieces, writes parts.

    Args:
        job: what it works on.
        folder: to write to.
        here: see `PartWorker`.
    """

    def __init__(self, job: RayJob, folder: Path, here: Path) -> None:
        super().__init__(here)
        self.folder = folder
        self.scorer = load_scorer(job.model, job.device)
        limit = self.scorer.threshold if job.threshold is None else job.threshold
        self.reading = Reading(job.aggregation or self.scorer.aggregation, limit)

    def work(self, *task: Any) -> dict[str, Any]:
        """Score a piece; returns what the record says of it."""
        part, piece = task
        return {"part": part, "rows": self.score(part, Piece(**piece))}

    def score(self, part: int, piece: Piece) -> Counter[str]:
        """Write the part of a piece; its rows by outcome."""
        rows = [parse_row(row) for row in read_piece(piece)]
        records = [
            record
            for start in range(0, len(rows), ROWS_AT_A_TIME)
            for record in score_rows(
                self.scorer, rows[start : start + ROWS_AT_A_TIME], self.reading
            )
        ]
        suffix = ".parquet" if piece.file.endswith(".parquet") else ".jsonl"
        path = self.folder / f"part-{part:06d}{suffix}"
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        (_write_parquet if suffix == ".parquet" else _write_lines)(beside, records, piece)
        beside.replace(path)
        return Counter(record["outcome"] for record in records)


def _require_scorable(pieces: Sequence[Piece], path: str) -> None:
    parsed = (parse_row(row) for piece in pieces for row in read_piece(piece))
    first = next(parsed, None)
    if first is None:
        raise ValueError(f"{path}: empty, expected at least one row; check that it is complete.")
    if first.message and all(row.message for row in parsed):
        raise ValueError(f"score: no row of {path} can be scored. The first: {first.message}")


def _describe(job: RayJob, pieces: Sequence[Piece]) -> dict[str, Any]:
    """What a job is, so that only the same one is gone on with."""
    return {
        "model": fingerprint(job.model),
        "input": digest(pieces),
        "parts": len(pieces),
        "aggregation": job.aggregation,
        "threshold": job.threshold,
    }


def _write_lines(path: Path, records: Sequence[dict[str, Any]], piece: Piece) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


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
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(records), schema), path)


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
