"""Both layouts that `format` writes come back as the solutions that they were made from."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_rows import labels, solutions, texts, write_lines

from prm_lightning.sources import Stepwise
from prm_lightning.sources.formatting import write_solutions
from prm_lightning.types import Dropped, Solution, Step

WORDS = st.text("ab \u2028é", min_size=1, max_size=4).filter(str.strip)
STEPS = st.lists(st.tuples(WORDS, st.sampled_from([0, 1, 0.25])), min_size=1, max_size=5)


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


@given(st.lists(st.tuples(WORDS, STEPS), min_size=1, max_size=4))
@settings(max_examples=40)
def test_consecutive_rows_are_joined(tmp_path_factory, attempts):
    rows = [row for problem, steps in attempts for row in step_rows(problem, steps)]
    path = write_lines(tmp_path_factory.getbasetemp() / "prm_train.jsonl", *rows)
    found = solutions(Stepwise(path))
    assert [(s.problem, texts(s), labels(s)) for s in found] == [
        (problem.strip(), [text.strip() for text, _ in steps], [float(y) for _, y in steps])
        for problem, steps in attempts
    ]
    assert len({s.id for s in found}) == len(found)


@given(st.lists(st.tuples(WORDS, STEPS), min_size=1, max_size=4), st.integers(0, 99))
@settings(max_examples=40)
def test_rows_left_out_or_shuffled_never_move_a_label(tmp_path_factory, attempts, seed):
    rows = [row for problem, steps in attempts for row in step_rows(problem, steps)]
    rng = random.Random(seed)
    kept = rng.sample(rows, rng.randint(1, len(rows)))
    if seed % 2:
        kept.sort(key=rows.index)
    path = write_lines(tmp_path_factory.getbasetemp() / "prm_train.jsonl", *kept)

    def key(problem, path, label):
        return (problem.strip(), tuple(text.strip() for text in path), float(label))

    found = [
        key(s.problem, texts(s)[: k + 1], step.label)
        for s in solutions(Stepwise(path))
        for k, step in enumerate(s.steps)
        if step.label is not None
    ]
    written = [key(row["problem"], row["reasoning_path"], row["label"]) for row in kept]
    assert sorted(found) == sorted(written)


@given(st.lists(st.tuples(WORDS, STEPS), min_size=1, max_size=4))
@settings(max_examples=40)
def test_what_format_writes_comes_back(tmp_path_factory, attempts):
    made = [
        Solution(
            problem.strip(),
            tuple(Step(text.strip(), float(label), 0.5) for text, label in steps),
            "made",
            f"made:{number}",
        )
        for number, (problem, steps) in enumerate(attempts)
    ]
    path = tmp_path_factory.getbasetemp() / "prm_train.jsonl"
    write_solutions(path, made, "solutions")
    assert solutions(Stepwise(str(path))) == made
    write_solutions(path, made, "steps")
    found = solutions(Stepwise(str(path)))
    assert [(s.problem, texts(s)) for s in found] == [(s.problem, texts(s)) for s in made]
    assert [labels(s) for s in found] == [[float(y >= 0.5) for y in labels(s)] for s in made]


def test_a_bad_row_between_others_does_not_part_a_solution(tmp_path):
    first, second, third = step_rows("p", [("a", 1), ("b", 1), ("c", 0)])
    path = write_lines(tmp_path / "f.jsonl", first, {**second, "label": 7}, third)
    dropped, solution = Stepwise(path).read()
    assert (dropped.place, dropped.reason) == (f"{path}:2", "label outside [0, 1]")
    assert (texts(solution), labels(solution)) == (["a", "b", "c"], [1.0, None, 0.0])


@pytest.mark.parametrize(
    "changed",
    [
        {"previous_steps": []},
        {"reasoning_path": ["a", "c"]},
        {"step_index": 0},
        {"total_steps": 1},
        {"total_steps": "2"},
    ],
)
def test_columns_that_contradict_each_other_are_dropped(tmp_path, changed):
    good, row = step_rows("p", [("a", 1), ("b", 0)])
    kept, dropped = sorted(
        Stepwise(write_lines(tmp_path / "f.jsonl", good, {**row, **changed})).read(),
        key=lambda item: isinstance(item, Dropped),
    )
    assert (texts(kept), labels(kept)) == (["a"], [1.0])
    assert dropped.reason == "columns contradict each other"


WHOLE = {
    "problem": "2 + 3?",
    "steps": ["2 + 3 = 5", "So 6"],
    "labels": [1, 0.25],
    "weights": [1.0, 0],
    "source": "mine",
    "id": "mine:7",
}


def test_whole_solutions_keep_weights_name_and_id(tmp_path):
    path = write_lines(tmp_path / "f.jsonl", WHOLE, {**WHOLE, "weights": None}, WHOLE)
    first, second, third = solutions(Stepwise(path))
    assert (first.source, first.id, second.id, third.id) == (
        "mine",
        *["mine:7", "mine:7#2"],
        "mine:7#3",
    )
    assert (labels(first), [s.weight for s in first.steps]) == ([1.0, 0.25], [1.0, 0.0])
    assert [s.weight for s in second.steps] == [1.0, 1.0]
    assert {s.source for s in Stepwise(path, name="other").read()} == {"other"}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"weights": [1]}, "steps and weights differ in number"),
        ({"weights": [1, -1]}, "weight below 0"),
        ({"weights": [1, float("inf")]}, "weight below 0"),
        ({"weights": 1}, "weights are not a list"),
        ({"labels": [1]}, "steps and labels differ in number"),
        ({"problem": ""}, "no problem"),
    ],
)
def test_a_bad_whole_solution_is_dropped(tmp_path, changed, reason):
    good, dropped = Stepwise(write_lines(tmp_path / "f.jsonl", WHOLE, {**WHOLE, **changed})).read()
    assert isinstance(good, Solution)
    assert dropped.reason == reason
