"""The closing account of a labelling run: outcomes, balance, dollars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prm_lightning.labelling.journal import Journal


def account(journal: Journal) -> dict[str, Any]:
    """What a journal's requests came to, over its whole life.

    Returns:
        `paid_usd`, and `unsettled_usd` that may still have been billed for requests without an
        answer; `stages`: by stage and model the answers by outcome, attempts without an answer by
        kind, USD, tokens and the share of prompt tokens that were read from the cache.
    """
    stages: dict[str, dict[str, Any]] = {}
    query = (
        "SELECT stage || ' ' || json_extract(json, '$.model'), {} FROM sends "
        "JOIN requests USING (key) JOIN settings ON settings.id = settings WHERE {} GROUP BY 1"
    )
    tokens = ", ".join(
        f"SUM(COALESCE(json_extract(usage, '$.{name}'), 0))"
        for name in (
            "input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens",
            "output_tokens",
        )
    )  # fmt: skip
    for name, count, usd, new, written, read, out in journal.table(
        query.format(f"COUNT(*), SUM(usd), {tokens}", "state = 'parsed'")
    ):
        stages[name] = {
            "answers": count,
            "usd": round(usd, 6),
            "prompt_tokens": new + written + read,
            "read_from_cache": round(read / max(1, new + written + read), 3),
            "answer_tokens": out,
            "outcomes": {},
            "without_answer": {},
        }
    for name, outcome, count in journal.table(
        query.format("outcome, COUNT(*)", "outcome IS NOT NULL") + ", 2"
    ):
        stages.setdefault(name, {"outcomes": {}, "without_answer": {}})["outcomes"][outcome] = count
    for name, kind, count in journal.table(
        query.format(
            "CASE WHEN state = 'lost' THEN 'lost, perhaps billed' "
            "WHEN instr(note, ':') THEN substr(note, 1, instr(note, ':') - 1) ELSE note END, "
            "COUNT(*)",
            "state IN ('void', 'lost')",
        )
        + ", 2"
    ):
        of = stages.setdefault(name, {"outcomes": {}, "without_answer": {}})
        of["without_answer"][kind.strip()] = count
    return {
        "paid_usd": round(journal.paid, 6),
        "unsettled_usd": round(max(0.0, journal.outstanding), 6),
        "stages": stages,
    }


def lines(record: Mapping[str, Any]) -> list[str]:
    """The account of `dataset.json`, for a terminal."""
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
    per_step = cost["paid_usd"] / steps["total"] if steps["total"] else 0.0
    said.append(
        f"total      ${cost['paid_usd']:.4f}, ${per_step:.6f} a labelled step; "
        f"${cost['unsettled_usd']:.4f} more may have been billed for lost answers"
    )
    return said


def _counted(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
