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


def dropped_among(source, good, bad) -> Dropped:
    """What becomes of a bad row between two good ones, which are kept; one line says why."""
    first, *found, last = source([good, bad, good]).read()
    (dropped,) = (row for row in found if isinstance(row, Dropped))
    assert isinstance(first, Solution) and isinstance(last, Solution)
    assert dropped.place == "rows[1]"
    assert dropped.message.startswith("rows[1]: ")
    assert len(dropped.message.splitlines()) == 1
    return dropped


def texts(solution) -> list[str]:
    return [step.text for step in solution.steps]


def labels(solution) -> list[float | None]:
    return [step.label for step in solution.steps]


def step_rows(problem, steps):
    """The rows of the layout `steps` of one solution."""
    names = [text for text, _ in steps]
    return [
        {
            "problem": problem,
            "step": text,
            "previous_steps": names[:k],
            "reasoning_path": names[: k + 1],
            "label": label,
            "step_index": k,
            "total_steps": len(steps),
        }
        for k, (text, label) in enumerate(steps)
    ]


def shepherd(question, steps, signs, marks=""):
    """A row as Math-Shepherd has it; `signs` take the place of the marks, one per step."""
    lines = [f"Step {k}: {step} ки" for k, step in enumerate(steps, start=1)]
    text = f"{question} " + "\n".join(lines)
    pieces = text.split("ки")
    label = "".join(p + s for p, s in zip(pieces, [*signs, marks], strict=True))
    return {"input": text, "label": label, "task": "GSM8K"}


def chat(*turns, keys=("role", "content"), roles=("user", "assistant")):
    return [dict(zip(keys, (roles[k % 2], text), strict=True)) for k, text in enumerate(turns)]


def prm800k_step(*completions, chosen=None, human=None):
    return {
        "completions": [{"text": text, "rating": rating} for text, rating in completions],
        "chosen_completion": chosen,
        "human_completion": human and {"text": human, "rating": None, "source": "human"},
    }


def prm800k_row(*steps, reason="solution", **changes):
    return {
        "labeler": "x",
        "is_quality_control_question": False,
        "is_initial_screening_question": False,
        "question": {"problem": "1 + 1?", "ground_truth_answer": "2"},
        "label": {"steps": list(steps), "finish_reason": reason},
        **changes,
    }
