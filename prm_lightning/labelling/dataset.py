"""The labelled folder: one row a solution, and a file that says how it came about."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from prm_lightning.files import written_folder
from prm_lightning.labelling.journal import Journal
from prm_lightning.labelling.prompts import JUDGED
from prm_lightning.labelling.solutions import Candidate
from prm_lightning.sources.rewards import he_rewards, se_rewards
from prm_lightning.types import Judgement

SOLUTIONS, RECORD = "solutions.jsonl", "dataset.json"
FORMAT = 1
Reward = Literal["HE", "SE"]


def write_dataset(
    folder: Path,
    judged: Iterable[tuple[Candidate, Judgement]],
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
        overwrite: replace a labelled folder of that name.

    Returns:
        What `RECORD` holds.

    Raises:
        FileExistsError: the name is taken, and `overwrite` is off or something else is there.
    """
    outcomes: Counter[str] = Counter()
    steps: Counter[str] = Counter()
    solutions: Counter[str] = Counter()
    seen: set[str] = set()
    with written_folder(folder, overwrite=overwrite, ours=(SOLUTIONS, RECORD)) as partial:
        with (partial / SOLUTIONS).open("w", encoding="utf-8") as file:
            for candidate, judgement in judged:
                is_copy = judgement.outcome == JUDGED and candidate.key in seen
                outcomes["copy of another solution" if is_copy else judgement.outcome] += 1
                if judgement.outcome != JUDGED or is_copy:
                    continue
                seen.add(candidate.key)
                steps.update(verdict or "none" for verdict in judgement.verdicts)
                solutions[_answer_and_steps(candidate, judgement)] += 1
                row = _row(candidate, judgement, reward, judge)
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        counts = {
            "outcomes": dict(outcomes.most_common()),
            "steps": {"total": sum(steps.values()), **dict(sorted(steps.items()))},
            "solutions": dict(sorted(solutions.items())),
        }
        record = {"format": FORMAT, "reward": reward, "judge": judge, "counts": counts, **about()}
        text = json.dumps(record, indent=2, ensure_ascii=False)
        (partial / RECORD).write_text(text + "\n", encoding="utf-8")
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
        "reasons": list(judgement.reasons),
        "predicted_answer": candidate.predicted,
        "generator": candidate.generator,
        "judge": judge,
        "key": candidate.key,
    }
    return row | ({"labels": list(judgement.labels)} if judgement.labels is not None else {})


def _answer_and_steps(candidate: Candidate, judgement: Judgement) -> str:
    """How verdicts and final answer go together."""
    verdicts = set(judgement.verdicts)
    said = (
        "a wrong step" if "incorrect" in verdicts
        else "all steps correct" if verdicts == {"correct"}
        else "nothing wrong, not all settled"
    )  # fmt: skip
    return f"{'right' if candidate.is_correct else 'wrong'} answer, {said}"


# The account ---------------------------------------------------------------------------------


def account(journal: Journal) -> dict[str, Any]:
    """What a journal's requests came to, over its whole life.

    Returns:
        `paid_usd`, and `unsettled_usd` that may still have been billed for requests without an
        answer; `stages`: by stage and model the answers by outcome, attempts without an answer by
        kind, USD, tokens and the share of prompt tokens that were read from the cache.
    """
    stages: dict[str, dict[str, Any]] = {}
    sends = journal.table(
        "SELECT stage || ' ' || json_extract(json, '$.model'), state, outcome, note, "
        "COUNT(*), TOTAL(usd), "
        "TOTAL(json_extract(usage, '$.input_tokens')), "
        "TOTAL(json_extract(usage, '$.cache_creation_input_tokens')), "
        "TOTAL(json_extract(usage, '$.cache_read_input_tokens')), "
        "TOTAL(json_extract(usage, '$.output_tokens')) "
        "FROM sends JOIN requests USING (key) JOIN settings ON settings.id = settings "
        "GROUP BY 1, 2, 3, 4"
    )
    for name, state, outcome, note, count, usd, new, written, read, out in sends:
        of = stages.setdefault(name, {"outcomes": Counter(), "without_answer": Counter()})
        if outcome is not None:
            of["outcomes"][outcome] += count
        if state in ("void", "lost"):
            kind = "lost, perhaps billed" if state == "lost" else note.partition(":")[0].strip()
            of["without_answer"][kind] += count
        if state == "parsed":
            of["answers"] = of.get("answers", 0) + count
            of["usd"] = round(of.get("usd", 0.0) + usd, 6)
            of["prompt_tokens"] = of.get("prompt_tokens", 0) + int(new + written + read)
            of["read_from_cache"] = of.get("read_from_cache", 0) + int(read)
            of["answer_tokens"] = of.get("answer_tokens", 0) + int(out)
    for of in stages.values():
        if "usd" in of:
            of["read_from_cache"] = round(of["read_from_cache"] / max(1, of["prompt_tokens"]), 3)
    return {
        "paid_usd": round(journal.paid, 6),
        "unsettled_usd": round(max(0.0, journal.outstanding), 6),
        "stages": stages,
    }


def lines(record: Mapping[str, Any]) -> list[str]:
    """The account of `RECORD`, for a terminal."""
    counts, cost = record["counts"], record["cost"]
    steps = counts["steps"]
    said = [f"solutions  {_counted(counts['outcomes'])}"]
    if steps["total"]:
        shares = {k: f"{v} ({v / steps['total']:.1%})" for k, v in steps.items() if k != "total"}
        said.append(f"steps      {steps['total']}: {_counted(shares)}")
        said.append(f"answers    {_counted(counts['solutions'])}")
    for name, of in cost["stages"].items():
        if "usd" in of:
            said.append(
                f"paid       ${of['usd']:.4f} for {of['answers']} answers of {name}, "
                f"{of['read_from_cache']:.0%} of prompt tokens read from the cache"
            )
        if of["without_answer"]:
            said.append(f"repeated   {name}: {_counted(of['without_answer'])}")
    if not cost["stages"]:
        return said  # Claude was not asked
    per_step = cost["paid_usd"] / steps["total"] if steps["total"] else 0.0
    said.append(
        f"total      ${cost['paid_usd']:.4f}, ${per_step:.6f} a labelled step; "
        f"${cost['unsettled_usd']:.4f} more may have been billed for lost answers"
    )
    return said


def _counted(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
