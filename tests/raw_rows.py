"""Rows of every layout, for tests: writing them to files, and reading them back with a source."""

import json
from dataclasses import dataclass
from pathlib import Path

from prm_lightning.types import Dropped, Solution


@dataclass
class Fixed:
    """A source of the rows it is given."""

    rows: list

    def read(self):
        yield from self.rows


def write_lines(path: Path, *rows) -> str:
    """Write rows to a JSON Lines file, objects or lines as they are; returns its path."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass"))
    return str(path)


def solutions(source) -> list[Solution]:
    """What a source reads, none of it dropped."""
    found = list(source.read())
    assert not [row.message for row in found if isinstance(row, Dropped)]
    return found


def texts(solution) -> list[str]:
    return [step.text for step in solution.steps]


def labels(solution) -> list[float | None]:
    return [step.label for step in solution.steps]
