"""Stepwise rows, and what `format` writes: what is read, and what is dropped and why."""

import json
import random

import pytest
from conftest import dev_data
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_rows import dropped_among, labels, solutions, step_rows, texts, write_lines

from prm_lightning.sources import Stepwise
from prm_lightning.sources.formatting import write_solutions
from prm_lightning.types import Solution, Source, Step

GOOD = {"prompt": "2 + 3?", "completions": ["2 + 3 = 5", "#### 5"], "labels": [True, False]}
WHOLE = {"problem": "2 + 3?", "steps": ["2 + 3 = 5", "So 6"], "labels": [1, 0.25]}
BAD_WHOLE = [
    ({"weights": [1]}, "steps and weights differ in number"),
    ({"weights": [1, -1]}, "weight below 0"),
    ({"weights": [1, float("inf")]}, "weight below 0"),
    ({"weights": 1}, "weights are not a list"),
    ({"problem": ""}, "no problem"),
]


@pytest.fixture
def write(tmp_path):
    """Writes rows (objects, or lines as they are) to a file and returns its path."""

    def write(*rows, name="rows.jsonl"):
        return write_lines(tmp_path / name, *rows)

    return write


def read(path, **options):
    return list(Stepwise(path, **options).read())


def test_a_row_becomes_a_solution(write):
    solution, second = read(write(GOOD, {**GOOD, "answer": 5}))
    assert isinstance(Stepwise(""), Source)
    assert (solution.problem, solution.source, solution.id) == ("2 + 3?", "rows", "rows:0")
    assert texts(solution) == ["2 + 3 = 5", "#### 5"]
    assert labels(solution) == [1.0, 0.0]
    assert (solution.answer, second.answer) == (None, "5")


def test_every_kind_of_label_survives(write):
    given = [True, 0.25, None, 1, False, "+", "-", "true", "False", " 0.5 "]
    row = {"prompt": "p", "completions": list("abcdefghij"), "labels": given}
    (solution,) = read(write(row))
    assert labels(solution) == [1.0, 0.25, None, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.5]


def test_the_question_is_cut_out_and_steps_are_cleaned(write):
    path = write(
        {
            "prompt": "<|user|>\n2 * 3?<|end|>\n<|assistant|>\n",
            "completions": [" 2*3=<<2*3=6>>6\r\n\r\nso", "", " \t", "<<6=6>>", "#### 6"],
            "labels": [True, False, 0.5, 0.75, False],
        }
    )
    (solution,) = read(path)
    assert solution.problem == "2 * 3?"
    assert texts(solution) == ["2*3=6\nso", "<<6=6>>", "#### 6"]  # only blank lines are no steps
    assert labels(solution) == [1.0, 0.75, 0.0]
    (kept,) = read(path, calculator_marks="keep")
    assert texts(kept)[0] == "2*3=<<2*3=6>>6\nso"


@given(
    rows=st.lists(
        st.lists(
            st.tuples(st.text(max_size=8), st.none() | st.booleans() | st.floats(0, 1)),
            max_size=4,
        ),
        min_size=1,
        max_size=5,
    )
)
def test_steps_and_labels_stay_together(rows, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "r.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            columns = {"completions": [t for t, _ in row], "labels": [y for _, y in row]}
            file.write(json.dumps({"prompt": "p", **columns}, ensure_ascii=False) + "\n")
    for row, solution in zip(rows, read(str(path), calculator_marks="keep"), strict=True):
        expected = [None if y is None else float(y) for t, y in row if t.strip()]
        if expected:
            assert labels(solution) == expected
        else:
            assert solution.reason == "no steps"


@pytest.mark.parametrize(
    ("row", "reason", "words"),
    [
        ({**GOOD, "labels": [True]}, "steps and labels differ in number", "2 completions but 1"),
        ({**GOOD, "completions": ["a", 3]}, "step is not text", "completions[1] is 3"),
        ({**GOOD, "labels": ["\udcff"]}, "text with half a character", "mend or remove"),
        ({**GOOD, "labels": [True, "yes"]}, "label outside [0, 1]", "labels[1] is 'yes'"),
        ({**GOOD, "completions": "abc"}, "completions are not a list", "'abc'"),
        ({**GOOD, "prompt": " \n"}, "no prompt", "prompt is ' \\n'"),
        ({**GOOD, "prompt": "<|user|>\n<|end|>\n"}, "no prompt", "<|user|>"),
        ({**GOOD, "completions": [], "labels": []}, "no steps", "completions is []"),
        ({**GOOD, "completions": ["", " "]}, "no steps", "not blank"),
        *[({**WHOLE, **changed}, reason, "") for changed, reason in BAD_WHOLE],
    ],
)
def test_a_bad_row_is_dropped_with_its_value(row, reason, words):
    dropped = dropped_among(Stepwise, GOOD, row)
    assert dropped.reason == reason
    assert words in dropped.message


@pytest.mark.parametrize(
    ("file", "solutions", "steps", "wrong", "all_right"),
    [
        ("trl_stepwise_train.jsonl", 993, 3680, 564, 429),
        ("trl_stepwise_test.jsonl", 231, 905, 139, 92),
        ("trl_zen_stepwise.jsonl", 19, 32, 16, 6),
        ("gsm8k_gen_stepwise_format.jsonl", 979, 4547, 532, 861),
    ],
)
def test_development_files_are_read_whole(file, solutions, steps, wrong, all_right):
    rows = read(str(dev_data(file)))
    assert len(rows) == solutions
    assert all(isinstance(row, Solution) for row in rows)
    found = [step for row in rows for step in row.steps]
    assert (len(found), sum(step.label == 0 for step in found)) == (steps, wrong)
    assert sum(all(step.label == 1 for step in row.steps) for row in rows) == all_right
    assert not any("<|" in row.problem for row in rows)
    assert not any("<<" in step.text for step in found)


def test_attempts_become_solutions_whose_lines_are_steps(write):
    row = {
        "prompt": "2 + 3?",
        "completions": [" 2+3=<<2+3=5>>5\r\n\n#### 5", "2+3=6\n#### 6", "one\ntwo", " \n", "x\ny"],
        "labels": [True, False, 0.75, True, None],
    }
    found = read(write(row), completions="attempts")
    assert [texts(s) for s in found] == [
        *[["2+3=5", "#### 5"], ["2+3=6", "#### 6"]],
        *[["one", "two"], ["x", "y"]],
    ]
    assert [labels(s) for s in found] == [[1.0, 1.0], [None, 0.0], [None, 0.75], [None, None]]
    assert [s.id for s in found] == ["rows:0.0", "rows:0.1", "rows:0.2", "rows:0.4"]
    assert {s.problem for s in found} == {"2 + 3?"}


# ---- what `format` writes ------------------------------------------------------------------------


def test_an_attempt_that_is_right_to_the_end_gives_the_answer_of_its_problem(write):
    def row(prompt, last, *labels):
        return {"prompt": prompt, "completions": ["so", last], "labels": labels}

    path = write(
        row("p", "#### 1,200", True, True),
        row("p", "#### 7", True, False),
        row("q", "#### 7", True, False),
        row("q", "#### 8", True, True),
        {**row("q", "#### 9", False, False), "answer": "9"},
    )
    assert [s.answer for s in read(path)] == ["1,200", "1,200", None, "8", "9"]


WORDS = st.text("ab \u2028é", min_size=1, max_size=4).filter(str.strip)
STEPS = st.lists(st.tuples(WORDS, st.sampled_from([0, 1, 0.25])), min_size=1, max_size=5)


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
    assert {s.source for s in Stepwise(str(path), name="other").read()} == {"other"}
    write_solutions(path, made, "steps")
    found = solutions(Stepwise(str(path)))
    assert [(s.problem, texts(s)) for s in found] == [(s.problem, texts(s)) for s in made]
    assert [labels(s) for s in found] == [[float(y >= 0.5) for y in labels(s)] for s in made]
    assert len({s.id for s in found}) == len(found)


def test_a_bad_row_between_others_does_not_part_a_solution(tmp_path):
    first, second, third = step_rows("p", [("a", 1), ("b", 1), ("c", 0)])
    path = write_lines(tmp_path / "f.jsonl", first, {**second, "label": 7}, third)
    dropped, solution = Stepwise(path).read()
    assert (dropped.place, dropped.reason) == (f"{path}:2", "label outside [0, 1]")
    assert (texts(solution), labels(solution)) == (["a", "b", "c"], [1.0, None, 0.0])
    for changed in ({"previous_steps": []}, {"reasoning_path": ["a", "c"]}, {"step_index": 0}):
        dropped, kept = Stepwise([first, {**second, **changed}]).read()
        assert (texts(kept), dropped.reason) == (["a"], "columns contradict each other")
