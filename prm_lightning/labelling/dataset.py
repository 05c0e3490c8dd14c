"""The labelled folder: one row a solution, and a file that says how it came about."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from prm_lightning.files import written_folder
from prm_lightning.labelling.candidates import Candidate, sound
from prm_lightning.sources.rewards import he_rewards, se_rewards
from prm_lightning.types import Judgement

SOLUTIONS, RECORD = "solutions.jsonl", "dataset.json"
FORMAT = 1
Reward = Literal["HE", "SE"]


class Judged(NamedTuple):
    """A candidate and what was said of it."""

    candidate: Candidate
    judgement: Judgement


def write_dataset(
    folder: Path,
    judged: Iterable[Judged],
    reward: Reward,
    judge: str,
    about: Callable[[], Mapping[str, Any]],
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a labelled folder, whole or not at all.

    Args:
        folder: gets `SOLUTIONS` and then `RECORD`.
        judged: in order; only those with the outcome ``judged`` become rows, each solution once.
        reward: HE or SE, computed from the verdicts.
        judge: its name.
        about: gives what else goes into `RECORD`; called at the end.
        overwrite: replace what has that name.

    Returns:
        What `RECORD` holds.

    Raises:
        FileExistsError: the name is taken and `overwrite` is off.
    """
    outcomes: Counter[str] = Counter()
    steps: Counter[str] = Counter()
    solutions: Counter[str] = Counter()
    seen: set[str] = set()
    with written_folder(folder, overwrite=overwrite) as beside:
        with (beside / SOLUTIONS).open("w", encoding="utf-8") as file:
            for candidate, judgement in judged:
                is_copy = judgement.outcome == "judged" and candidate.key in seen
                outcomes["copy of another solution" if is_copy else judgement.outcome] += 1
                if judgement.outcome != "judged" or is_copy:
                    continue
                seen.add(candidate.key)
                steps.update(verdict or "none" for verdict in judgement.verdicts)
                solutions[_agreement(candidate, judgement)] += 1
                row = _row(candidate, judgement, reward, judge)
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        counts = {
            "outcomes": dict(outcomes.most_common()),
            "steps": {"total": sum(steps.values()), **dict(sorted(steps.items()))},
            "solutions": dict(sorted(solutions.items())),
        }
        record = {"format": FORMAT, "reward": reward, "judge": judge, "counts": counts, **about()}
        text = json.dumps(record, indent=2, ensure_ascii=False)
        (beside / RECORD).write_text(text + "\n", encoding="utf-8")
    return record


def read_record(folder: Path) -> dict[str, Any]:
    """What a complete labelled folder says of itself.

    Raises:
        FileNotFoundError: the folder is absent or was not written to its end.
    """
    for name in (RECORD, SOLUTIONS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"label: {folder} holds no complete labelled data (no {name}). Run without "
                "--skip_generation, or name another folder with --output_dir."
            )
    record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return record


def _row(candidate: Candidate, judgement: Judgement, reward: Reward, judge: str) -> dict[str, Any]:
    verdicts = judgement.verdicts
    rewards = se_rewards(verdicts) if reward == "SE" else he_rewards(verdicts, candidate.is_correct)
    row = {
        "question": candidate.question,
        "solution": candidate.solution,
        "steps": list(candidate.steps),
        "step_rewards": rewards,
        "is_correct": candidate.is_correct,
        "ground_truth_answer": candidate.answer,
        "verdicts": list(verdicts),
        "reasons": [sound(reason) for reason in judgement.reasons],
        "predicted_answer": candidate.predicted,
        "generator": candidate.generator,
        "judge": judge,
        "key": candidate.key,
    }
    return row | ({"labels": list(judgement.labels)} if judgement.labels is not None else {})


def _agreement(candidate: Candidate, judgement: Judgement) -> str:
    """How verdicts and final answer go together."""
    verdicts = set(judgement.verdicts)
    said = (
        "a wrong step" if "incorrect" in verdicts
        else "all steps correct" if verdicts == {"correct"}
        else "nothing wrong, not all settled"
    )  # fmt: skip
    return f"{'right' if candidate.is_correct else 'wrong'} answer, {said}"
