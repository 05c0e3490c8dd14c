"""What the verb `format` decides where no process holds all solutions.

A `Survey` says of each row of a piece what decides its fate; `decide` makes a `Decision` for each
piece out of all surveys; `Decision.apply` makes of a solution what is written.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from prm_lightning.folders import written_file
from prm_lightning.sources.fields import claim_id
from prm_lightning.sources.mixture import (
    FIRST_MESSAGES,
    SourceSpec,
    make_unique,
    name_source,
    nothing_supervised,
)
from prm_lightning.sources.rewards import supervise
from prm_lightning.sources.splits import (
    Balance,
    choose_sides,
    draw_surplus,
    factor_of_wrong,
    is_wrong,
    scale_wrong,
    silence,
    supervised,
)
from prm_lightning.text import normalise_problem
from prm_lightning.types import Dropped, Solution

T = TypeVar("T", bound="Survey | Decision")
Numbers = NDArray[np.int32]

NONE, TRAIN, VALIDATION = -1, 0, 1  # sides of a row


@dataclass(slots=True)
class Survey:
    """What decides the fate of the rows of a piece.

    Args:
        keys: split keys and normalised problems that occur, in the order of their first solution.
        names: of sources, likewise.
        reasons: to drop a row, likewise, and of each the first rows with what is said of them.
        key: ``(rows,)``, indices into `keys`; -1 for a row that is dropped.
        name: ``(rows,)``, likewise.
        reason: ``(rows,)``, -1 for a solution.
        steps: ``(rows,)``, of a solution.
        right: ``(rows,)``, supervised steps with a label of 0.5 or more.
        wrong: ``(rows,)``, other supervised steps.
        weights: of the right and of the wrong ones, by row; left out where all of them are 1.
        ids: of all rows, as the source gives them; empty where they are not wanted.
        carried: see `sources.rows.Part`.
    """

    keys: list[list[str]]
    names: list[str]
    reasons: dict[str, list[tuple[int, str]]]
    key: Numbers
    name: Numbers
    reason: Numbers
    steps: Numbers
    right: Numbers
    wrong: Numbers
    weights: dict[str, tuple[list[float], list[float]]]
    ids: list[str]
    carried: dict[str, Any]


@dataclass(slots=True)
class Decision:
    """What becomes of the rows of a piece.

    Args:
        carried: see `sources.rows.Part`.
        sides: one a row that is read; `NONE` for one that is not written.
        ids: of rows that do not keep theirs.
        from_wrong: whether it is wrong steps that are silenced.
        silent: steps that are silenced, counted among their class, by row.
        factor: that the weights of wrong steps are multiplied by in training.
    """

    carried: dict[str, Any]
    sides: list[int]
    ids: dict[str, str]
    from_wrong: bool
    silent: dict[str, list[int]]
    factor: float

    def apply(self, row: int, solution: Solution) -> Solution:
        """What is written of a solution, after `settle`."""
        solution = replace(solution, id=self.ids.get(str(row), solution.id))
        if self.sides[row] == VALIDATION:
            return solution
        if silenced := self.silent.get(str(row)):
            places = [k for k, step in supervised(solution) if is_wrong(step) == self.from_wrong]
            solution = silence(solution, {places[i] for i in silenced})
        return scale_wrong(solution, self.factor) if self.factor != 1 else solution


class Decided(NamedTuple):
    """What `decide` returns.

    Args:
        decisions: one a piece.
        shapes: of both sides after balancing, a part of what `mixture.describe` says.
        report: a part of what `mixture.ReadReport.to_json` says.
        moved: problems that changed sides, see `Split`.
    """

    decisions: list[Decision]
    shapes: dict[str, dict[str, Any]]
    report: dict[str, dict[str, Any]]
    moved: int


class Choices(NamedTuple):
    """See the options of `formatting.format_files`."""

    max_examples: int | None
    max_problems: int | None
    balance: Balance
    val_ratio: float
    seed: int


def settle(solution: Solution, name: str | None) -> Solution:
    """A solution as `read_mixture` makes it, but for its id."""
    return supervise(replace(solution, source=name or solution.source), "weight", "keep")


def survey(
    items: Iterable[Solution | Dropped], carried: dict[str, Any], *, with_ids: bool
) -> Survey:
    """Read a piece to its end and say what there is.

    Args:
        items: solutions settled.
        carried: what is in it at the end is a part of the survey.
        with_ids: whether ids are wanted.
    """
    keys: dict[tuple[str, str], int] = {}
    names: dict[str, int] = {}
    reasons: dict[str, list[tuple[int, str]]] = {}
    numbers: list[tuple[int, int, int, int, int, int]] = []
    weights: dict[str, tuple[list[float], list[float]]] = {}
    ids: list[str] = []
    normalised: dict[str, str] = {}
    for row, item in enumerate(items):
        if isinstance(item, Dropped):
            messages = reasons.setdefault(item.reason, [])
            if len(messages) < FIRST_MESSAGES:
                messages.append((row, item.message))
            numbers.append((NONE, NONE, list(reasons).index(item.reason), 0, 0, 0))
            ids += [""] * with_ids
            continue
        if item.problem not in normalised:
            normalised[item.problem] = normalise_problem(item.problem)
        problem = normalised[item.problem]
        trained = [step for _, step in supervised(item)]
        of_right = [step.weight for step in trained if not is_wrong(step)]
        of_wrong = [step.weight for step in trained if is_wrong(step)]
        if any(weight != 1 for weight in (*of_right, *of_wrong)):
            weights[str(row)] = (of_right, of_wrong)
        place = keys.setdefault((item.group or problem, problem), len(keys))
        source = names.setdefault(item.source, len(names))
        numbers.append((place, source, NONE, len(item.steps), len(of_right), len(of_wrong)))
        ids += [item.id] * with_ids
    key, name, reason, steps, right, wrong = np.array(numbers, np.int32).reshape(-1, 6).T
    return Survey(
        [list(pair) for pair in keys], list(names), reasons, key, name, reason, steps, right, wrong,
        weights, ids, carried,
    )  # fmt: skip


def decide(
    specs: Sequence[SourceSpec],
    owners: Sequence[int],
    surveys: Sequence[Survey],
    choices: Choices,
) -> Decided:
    """Choose, split and balance as `formatting.format_specs` does with solutions in memory.

    Args:
        specs: what is read.
        owners: of each piece the index of its spec, ascending.
        surveys: one a piece.
        choices: what the user asked for.

    Raises:
        ValueError: no step is supervised.
    """
    taken = _within_limits(specs, owners, surveys, choices.max_examples)
    surveys = [_cut(survey, count) for survey, count in zip(surveys, taken, strict=True)]
    report = _report(specs, owners, surveys)
    keys, places = _number_keys(surveys)
    if not any(survey.right.any() or survey.wrong.any() for survey in surveys):
        solutions = sum(int((survey.key != NONE).sum()) for survey in surveys)
        raise nothing_supervised(solutions, report, _by_reason(surveys))
    wanted = _of_first_problems(keys, choices.max_problems)
    chosen = choose_sides([keys[k] for k in wanted], choices.val_ratio, choices.seed)
    side_of_key = np.full(len(keys) + 1, NONE)  # the last for rows without a key
    for k in wanted:
        side_of_key[k] = VALIDATION if chosen.validates(keys[k][0]) else TRAIN
    sides = [side_of_key[place] for place in places]
    decisions = [
        Decision({}, side.tolist(), {}, from_wrong=False, silent={}, factor=1.0) for side in sides
    ]
    shapes = {
        "train": _shape(surveys, places, sides, keys, TRAIN),
        "validation": _shape(surveys, places, sides, keys, VALIDATION),
    }
    _balance(decisions, surveys, sides, shapes["train"], choices)
    _carry(decisions, owners, surveys)
    _rename(decisions, specs, owners, surveys)
    return Decided(decisions, shapes, report, len(chosen.moved))


def save(what: Survey | Decision, file: Path) -> None:
    """Write it as JSON; the file appears whole."""
    values = {
        column.name: value.tolist() if isinstance(value, np.ndarray) else value
        for column in fields(what)
        for value in [getattr(what, column.name)]
    }
    with written_file(file) as beside, beside.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(values))
        stream.flush()
        os.fsync(stream.fileno())


def load(kind: type[T], file: Path) -> T:
    """The reverse of `save`."""
    values = json.loads(file.read_text(encoding="utf-8"))
    for column in fields(kind):
        if column.type == "Numbers":
            values[column.name] = np.array(values[column.name], np.int32)
    return kind(**values)


def _within_limits(
    specs: Sequence[SourceSpec], owners: Sequence[int], surveys: Sequence[Survey], most: int | None
) -> list[int]:
    """How many rows of each piece are read."""
    taken = []
    left_of = [spec.limit for spec in specs]
    for owner, survey in zip(owners, surveys, strict=True):
        limits = [limit for limit in (left_of[owner], most) if limit is not None]
        count = min([len(survey.key), *limits])
        taken.append(count)
        if (left := left_of[owner]) is not None:
            left_of[owner] = left - count
        if most is not None:
            most -= count
    return taken


def _cut(survey: Survey, count: int) -> Survey:
    """The first rows alone."""
    if count == len(survey.key):
        return survey
    columns = ("key", "name", "reason", "steps", "right", "wrong", "ids")
    return replace(
        survey,
        keys=survey.keys[: survey.key[:count].max(initial=NONE) + 1],
        names=survey.names[: survey.name[:count].max(initial=NONE) + 1],
        reasons={
            reason: kept
            for reason, messages in survey.reasons.items()
            if (kept := [message for message in messages if message[0] < count])
        },
        weights={row: pair for row, pair in survey.weights.items() if int(row) < count},
        **{column: getattr(survey, column)[:count] for column in columns},
    )


def _report(
    specs: Sequence[SourceSpec], owners: Sequence[int], surveys: Sequence[Survey]
) -> dict[str, dict[str, Any]]:
    report: dict[str, dict[str, Any]] = {}

    def entry_of(name: str) -> dict[str, Any]:
        empty = {"read": 0, "kept": 0, "dropped": {}, "steps_per_solution": {}}
        return report.setdefault(name, empty)

    pieces: list[list[Survey]] = [[] for _ in specs]
    for owner, survey in zip(owners, surveys, strict=True):
        pieces[owner].append(survey)
    for spec, found in zip(specs, pieces, strict=True):
        first = next((survey.names[0] for survey in found if survey.names), None)
        entry = entry_of(name_source(spec, first))
        dropped = _by_reason(found)
        entry["read"] += sum(counted["count"] for counted in dropped.values())
        for reason, counted in dropped.items():
            total = entry["dropped"].setdefault(reason, {"count": 0, "first": []})
            total["count"] += counted["count"]
            total["first"] = (total["first"] + counted["first"])[:FIRST_MESSAGES]
    for survey in surveys:
        for number, name in enumerate(survey.names):
            entry = entry_of(name)
            steps = survey.steps[survey.name == number]
            lengths = entry["steps_per_solution"]
            lengths["min"] = min(int(steps.min()), lengths.get("min", np.inf))
            lengths["max"] = max(int(steps.max()), lengths.get("max", 0))
            entry["read"] += len(steps)
            entry["kept"] += len(steps)
    return report


def _by_reason(surveys: Iterable[Survey]) -> dict[str, dict[str, Any]]:
    """As `mixture.ReadReport.to_json` counts dropped rows."""
    found: dict[str, dict[str, Any]] = {}
    for survey in surveys:
        for number, (reason, messages) in enumerate(survey.reasons.items()):
            entry = found.setdefault(reason, {"count": 0, "first": []})
            entry["count"] += int((survey.reason == number).sum())
            first = entry["first"] + [message for _, message in messages]
            entry["first"] = first[:FIRST_MESSAGES]
    return found


def _number_keys(surveys: Sequence[Survey]) -> tuple[list[tuple[str, str]], list[Numbers]]:
    """All keys in the order of their first solution, and of each piece's rows the index of theirs.

    It is -1 for rows that are dropped.
    """
    numbers: dict[tuple[str, str], int] = {}
    places = []
    for survey in surveys:
        of_piece = [numbers.setdefault((key, of), len(numbers)) for key, of in survey.keys]
        places.append(np.array([*of_piece, NONE], np.int32)[survey.key])
    return list(numbers), places


def _of_first_problems(keys: Sequence[tuple[str, str]], count: int | None) -> list[int]:
    """Indices of the keys of so many problems."""
    first = set(list(dict.fromkeys(problem for _, problem in keys))[:count])
    return [k for k, (_, problem) in enumerate(keys) if problem in first]


def _shape(
    surveys: Sequence[Survey],
    places: Sequence[Numbers],
    sides: Sequence[NDArray[Any]],
    keys: Sequence[tuple[str, str]],
    side: int,
) -> dict[str, Any]:
    shape: Counter[str] = Counter()
    used = np.zeros(len(keys), bool)
    for survey, place, chosen in zip(surveys, places, sides, strict=True):
        mask = chosen == side
        used[place[mask]] = True
        shape["solutions"] += int(mask.sum())
        shape["correct_steps"] += int(survey.right[mask].sum())
        shape["wrong_steps"] += int(survey.wrong[mask].sum())
    problems = len({keys[k][1] for k in np.flatnonzero(used).tolist()})
    return _with_shares({"problems": problems, **shape})


def _with_shares(shape: dict[str, Any]) -> dict[str, Any]:
    total = shape["correct_steps"] + shape["wrong_steps"]
    share = shape["wrong_steps"] / total if total else None
    return {**shape, "supervised_steps": total, "wrong_share": share}


def _balance(
    decisions: Sequence[Decision],
    surveys: Sequence[Survey],
    sides: Sequence[NDArray[Any]],
    shape: dict[str, Any],
    choices: Choices,
) -> None:
    """Decide which training steps fall silent or weigh more, as `splits.balance` does."""
    correct, wrong = shape["correct_steps"], shape["wrong_steps"]
    if choices.balance == "none" or not correct or not wrong:
        return
    if choices.balance == "weights":
        factor = factor_of_wrong(*_count_weights(surveys, sides))
        for decision in decisions:
            decision.factor = factor
        return
    from_wrong = wrong > correct
    drawn = np.sort(np.array(draw_surplus(correct, wrong, choices.seed), np.int64))
    begin = 0
    for decision, survey, side in zip(decisions, surveys, sides, strict=True):
        decision.from_wrong = from_wrong
        counts = np.where(side == TRAIN, survey.wrong if from_wrong else survey.right, 0)
        ends = begin + counts.cumsum(dtype=np.int64)
        end = int(ends[-1]) if len(ends) else begin
        here = drawn[np.searchsorted(drawn, begin) : np.searchsorted(drawn, end)]
        rows = np.searchsorted(ends, here, side="right")
        ordinals = here - (ends - counts)[rows]
        for row, ordinal in zip(rows.tolist(), ordinals.tolist(), strict=True):
            decision.silent.setdefault(str(row), []).append(ordinal)
        begin = end
    shape.update(_with_shares({**shape, "correct_steps": min(correct, wrong),
                               "wrong_steps": min(correct, wrong)}))  # fmt: skip


def _count_weights(
    surveys: Sequence[Survey], sides: Sequence[NDArray[Any]]
) -> tuple[Counter[float], Counter[float]]:
    """How many right and how many wrong training steps have each weight."""
    right: Counter[float] = Counter()
    wrong: Counter[float] = Counter()
    for survey, side in zip(surveys, sides, strict=True):
        plain = side == TRAIN
        for row, (of_right, of_wrong) in survey.weights.items():
            if plain[int(row)]:
                right.update(of_right)
                wrong.update(of_wrong)
                plain[int(row)] = False
        right[1.0] += int(survey.right[plain].sum())
        wrong[1.0] += int(survey.wrong[plain].sum())
    return right, wrong


def _carry(decisions: Sequence[Decision], owners: Sequence[int], surveys: Sequence[Survey]) -> None:
    """Say what the rows in front of each piece left behind."""
    carried: dict[int, dict[str, Any]] = {}
    for decision, owner, survey in zip(decisions, owners, surveys, strict=True):
        decision.carried = carried.get(owner, {})
        carried[owner] = {**decision.carried, **survey.carried}


def _rename(
    decisions: Sequence[Decision],
    specs: Sequence[SourceSpec],
    owners: Sequence[int],
    surveys: Sequence[Survey],
) -> None:
    """Give ids that are taken their suffix, as sources and `read_mixture` do; see `RowSource`."""
    ids = [id for survey in surveys for id in survey.ids if id]
    rows = sum(int((survey.key != NONE).sum()) for survey in surveys if survey.ids)
    if len(set(ids)) == rows:
        return
    taken: Counter[tuple[str, str]] = Counter()
    claimed: list[Counter[str]] = [Counter() for _ in specs]
    solutions: Counter[int] = Counter()
    for decision, owner, survey in zip(decisions, owners, surveys, strict=True):
        for row, (id, number) in enumerate(zip(survey.ids, survey.name, strict=True)):
            if number == NONE:
                continue
            name = survey.names[number]
            own = claim_id(id, claimed[owner]) if id else f"{name}:{solutions[owner]}"
            solutions[owner] += 1
            final = make_unique(name, own, taken)
            if final != id:
                decision.ids[str(row)] = final
